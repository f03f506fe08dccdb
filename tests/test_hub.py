"""Names on the Hub: pushed to and loaded from a stand-in on loopback, and never asked for where they must not be."""

import base64
import hashlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlparse

import huggingface_hub.constants
import pytest
import torch
import yaml

import oneprior
from oneprior import hub, storage
from oneprior.codecs import Pixels
from oneprior.conditions import Conditions, Label
from oneprior.denoiser import NetworkDenoiser
from oneprior.nets import MLPConfig, build
from oneprior.prior import Prior
from oneprior.schedules import Cosine


class Hub:
    """Repositories: name -> [(commit, {path: bytes})], the last first in line; `asked` is every request."""

    def __init__(self) -> None:
        self.repos: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.asked: list[str] = []

    def commit(self, repo: str, files: dict[str, bytes]) -> str:
        sha = hashlib.sha1(f"{repo} {len(self.repos.get(repo, []))}".encode()).hexdigest()
        self.repos.setdefault(repo, []).insert(0, (sha, files))
        return sha

    def at(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        found = self.repos.get(repo, [])
        return found[0] if revision == "main" and found else next((c for c in found if c[0] == revision), None)


def handler(state: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None: ...

        def send(self, value: Any, status: int = 200, **headers: str) -> None:
            body = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            for key, v in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(key.replace("_", "-"), v)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_POST(self) -> None:
            path = unquote(urlparse(self.path).path)
            state.asked.append(f"POST {path}")
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            if path == "/api/validate-yaml":
                return self.send({"errors": [], "warnings": []})
            if path == "/api/repos/create":
                said = json.loads(body)
                repo = "/".join(v for v in (said.get("organization"), said["name"]) if v)
                state.repos.setdefault(repo, [])
                return self.send({"url": f"http://{self.headers['Host']}/{repo}"})
            repo, verb = "/".join(path.split("/")[3:5]), path.split("/")[5]
            if verb == "preupload":
                files = json.loads(body)["files"]
                each = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
                return self.send({"files": each})
            assert verb == "commit"
            lines = [json.loads(line) for line in body.splitlines()]
            files = {v["value"]["path"]: base64.b64decode(v["value"]["content"]) for v in lines if v["key"] == "file"}
            sha = state.commit(repo, files)
            return self.send(
                {"success": True, "commitOid": sha, "commitUrl": f"http://{self.headers['Host']}/{repo}/commit/{sha}"}
            )

        def do_GET(self) -> None:
            path = unquote(urlparse(self.path).path)
            state.asked.append(f"GET {path}")
            parts = path.strip("/").split("/")
            if parts[0] == "api":
                repo, revision = "/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main"
                missing = "RepoNotFound" if repo not in state.repos else "RevisionNotFound"
                if (found := state.at(repo, revision)) is None:
                    return self.send({"error": missing}, 404, X_Error_Code=missing)
                sha, files = found
                if parts[4:5] == ["tree"]:
                    each = [{"type": "file", "path": k, "size": len(v), "oid": oid(v)} for k, v in files.items()]
                    return self.send(each)
                return self.send({"id": repo, "sha": sha, "siblings": [{"rfilename": k} for k in files]})
            found = state.at("/".join(parts[:2]), parts[3])
            data = found[1].get("/".join(parts[4:])) if found else None
            if data is None or found is None:
                return self.send({}, 404, X_Error_Code="EntryNotFound")
            return self.send(data, ETag=f'"{oid(data)}"', X_Repo_Commit=found[0])

        do_HEAD = do_GET

    return Handler


def oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    state = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(state))
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_stand_in")
    for name in ("ONEPRIOR_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.chdir(tmp_path)
    yield state
    server.shutdown()
    server.server_close()


def tiny() -> Prior:
    conditions = Conditions({"label": Label(("a", "b"))})
    net = build(MLPConfig((1, 4, 4), width=8, depth=1, **conditions.fields), seed=0)
    data = {"name": "squares", "licence": "CC-BY-4.0", "count": 3}
    den = NetworkDenoiser(net, Cosine(), "v")
    return Prior(den, Pixels(256), conditions, {"shape": [1, 4, 4], "data": data})


def test_push_and_load(stand_in: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    prior = tiny()
    prior.push("ann/squares")
    ((sha, files),) = stand_in.repos["ann/squares"]
    assert set(files) == {"README.md", "config.json", "model.safetensors", "samples.png"}
    card = files["README.md"].decode()
    _, head, text = card.split("---", 2)
    assert yaml.safe_load(head) == {
        "library_name": "oneprior",
        "license": "cc-by-4.0",
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["diffusion", "prior", "oneprior"],
    }
    assert 'oneprior.load("ann/squares")' in text
    with torch.no_grad():
        next(prior.den.parameters()).add_(1)
    prior.push("ann/squares")

    new, old = oneprior.load("ann/squares"), oneprior.load(f"ann/squares@{sha}")
    x = torch.rand(2, 1, 4, 4)
    torch.testing.assert_close(new.den(x, 0.5).mean, prior.den(x, 0.5).mean)
    torch.testing.assert_close(old.den(x, 0.5).mean, tiny().den(x, 0.5).mean)
    for name in ("ONEPRIOR_OFFLINE", "HF_HUB_OFFLINE"):  # what is at hand needs nobody, what is not is not asked for
        before = len(stand_in.asked)
        monkeypatch.setenv(name, "1")
        assert oneprior.load("ann/squares").shape == (1, 4, 4)
        with pytest.raises(FileNotFoundError, match="switched off"):
            oneprior.load("ann/others")
        with pytest.raises(ConnectionError, match="not pushed"):
            prior.push("ann/squares")
        assert len(stand_in.asked) == before
        monkeypatch.delenv(name)


def test_folders_and_shipped_names_come_first(stand_in: Hub, tmp_path: Path) -> None:
    tiny().save(tmp_path / "ann" / "squares")
    assert oneprior.load("ann/squares").shape == (1, 4, 4)
    assert oneprior.load("digits").shape == (1, 8, 8)
    for name in ("digitz", "ann/others", "./ann", "/x/y", "a/b/c", Path("bob/squares")):
        with pytest.raises(FileNotFoundError):  # a bare word, paths, and a folder that is here are no names on the Hub
            oneprior.load(name)
    assert not stand_in.asked


def test_what_the_hub_does_not_have(stand_in: Hub) -> None:
    for name in ("ann/nothing", "ann/nothing@v2"):
        with pytest.raises(FileNotFoundError, match="the Hub does not give one"):
            oneprior.load(name)
    stand_in.commit("ann/pickled", {"config.json": b'{"format": "dit"}', "model.pt": b"code", "run.py": b"code"})
    with pytest.raises(FileNotFoundError, match="are missing"):
        oneprior.load("ann/pickled")
    assert not any("model.pt" in line or "run.py" in line for line in stand_in.asked)
    for name in ("squares", "ann/squares@main", "a b/c"):
        with pytest.raises(ValueError, match="user/name was expected"):
            tiny().push(name)


def test_of_a_pipeline_only_the_parts_are_fetched(stand_in: Hub) -> None:
    index = {"_class_name": "X", "unet": ["diffusers", "Y"], "safety_checker": [None, None]}
    files = {
        "model_index.json": json.dumps(index).encode(),
        "unet/config.json": b"{}",
        "all-in-one.safetensors": b"large",
    }
    stand_in.commit("ann/pipe", {**files, "safety_checker/config.json": b"{}"})
    folder = hub.fetch("ann/pipe")
    found = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert found == {"model_index.json", "unet/config.json"}
    assert storage.find("ann/pipe") == folder


def test_a_hub_that_does_not_answer(stand_in: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens
    with pytest.raises(FileNotFoundError, match="it cannot be asked"):
        oneprior.load("ann/squares")
