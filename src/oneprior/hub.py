"""Priors on the Hugging Face Hub: user/name or user/name@revision. Nothing is asked of it but by such a name.

ONEPRIOR_OFFLINE=1, or the Hub's HF_HUB_OFFLINE=1, leaves what was downloaded before; HF_ENDPOINT is another host.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?")
WANTED = ("*.json", "*.safetensors", "*.txt", "*.model")  # weights, settings, vocabularies: never code or pickles
FLAT = ("model_index.json", "config.json", "scheduler_config.json", "diffusion_pytorch_model*.safetensors")
LICENCES = ("apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "openrail")
WAY_OUT = (
    "Pickles are never read (.pt, .bin, .ckpt, .pkl run whatever code their author put into them): take the "
    "safetensors version of the checkpoint, or convert it once, where nothing can be lost, by "
    "safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'model.safetensors')"
)


def offline() -> bool:
    """Whether the network must not be asked."""
    asked = (os.environ.get(name, "") for name in ("ONEPRIOR_OFFLINE", "HF_HUB_OFFLINE"))
    return any(v.upper() in ("1", "ON", "YES", "TRUE") for v in asked)


def named(name: str) -> bool:
    """Whether this is a name on the Hub: user/name[@revision], and not a path into a folder that is here."""
    return NAME.fullmatch(name) is not None and not Path(name.split("/")[0]).exists()


def fetch(name: str) -> Path:
    """The folder of a name on the Hub, downloaded where it is not at hand.

    Raises:
        FileNotFoundError: when there is no such name or revision, it may not be read, or the Hub cannot be asked.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    repo, _, revision = name.partition("@")

    def get(*patterns: str) -> Path:
        found = snapshot_download(
            repo,
            revision=revision or None,
            endpoint=os.environ.get("HF_ENDPOINT"),
            local_files_only=offline(),
            allow_patterns=list(patterns),
        )
        return Path(found)

    try:
        folder = get("model_index.json")
        if not (index := folder / "model_index.json").is_file():
            return get(*WANTED)
        parts = [k for k, v in json.loads(index.read_text(encoding="utf-8")).items() if isinstance(v, list) and v[0]]
        return get(*FLAT, *(f"{part}/{kind}" for part in parts for kind in WANTED))
    except LocalEntryNotFoundError as e:
        why = "the network is switched off" if offline() else "it cannot be asked"
        raise FileNotFoundError(f"no folder '{name}', and on the Hub {why}; it was not downloaded before") from e
    except (HfHubHTTPError, OSError) as e:
        said = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise FileNotFoundError(f"no folder '{name}', and the Hub does not give one of that name: {said}") from e


@contextmanager
def aside() -> Iterator[Path]:
    """A folder for what is on its way."""
    with tempfile.TemporaryDirectory(prefix="oneprior-") as folder:
        yield Path(folder) / "prior"


def push(folder: Path, name: str, *, private: bool = False) -> str:
    """Upload the folder of a prior as user/name, making the repository where there is none; returns its address.

    Raises:
        ValueError: for a name that is not user/name.
        ConnectionError: offline.
        OSError: when the Hub refuses (an HTTP error); `hf auth login` stores the token it asks for.
    """
    from huggingface_hub import HfApi

    if NAME.fullmatch(name) is None or "@" in name:
        raise ValueError(f"'{name}': user/name was expected, of letters, digits and -_.")
    if offline():
        raise ConnectionError(f"{name} was not pushed: the network is switched off (ONEPRIOR_OFFLINE, HF_HUB_OFFLINE)")
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    url = api.create_repo(name, private=private, exist_ok=True)
    api.upload_folder(repo_id=name, folder_path=folder, commit_message="A prior, by oneprior")
    return str(url)


def head(facts: Mapping[str, Any]) -> str:
    """Lines of a card's head that the Hub understands."""
    licence = str((facts.get("data") or {}).get("licence", "")).lower()
    lines = [f"license: {licence}"] if licence in LICENCES else []
    if len(facts["shape"]) == 3:
        lines.append("pipeline_tag: unconditional-image-generation")
    return "".join(f"{line}\n" for line in lines)
