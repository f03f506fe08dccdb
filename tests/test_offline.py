"""demo, train, restore and compare ask no other machine for anything: every socket but loopback is closed."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from oneprior import demo
from oneprior.cli import main

LOCAL = ("127.0.0.1", "::1", "localhost")


class Outside(AssertionError):
    """Something wanted to leave this machine."""


@pytest.fixture(autouse=True)
def _closed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    asked: list[str] = []

    def refuse(what: str) -> Any:
        true = getattr(socket, what, None) or getattr(socket.socket, what)

        def call(*args: Any, **how: Any) -> Any:
            address = next((a for a in args if isinstance(a, str | tuple | bytes)), "")
            host = address[0] if isinstance(address, tuple) else address
            if (host.decode() if isinstance(host, bytes) else host) in LOCAL or str(host).startswith("/"):
                return true(*args, **how)
            asked.append(f"{what} {host}")  # also where the caller swallows the error
            raise Outside(asked[-1])

        return call

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse(name))
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, refuse(name))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    yield asked
    assert not asked, f"asked for another machine: {asked}"


def test_the_fixture_closes(_closed: list[str]) -> None:
    with pytest.raises(Outside), socket.socket() as s:
        s.connect(("192.0.2.1", 80))
    with pytest.raises(Outside):
        socket.getaddrinfo("example.org", 80)
    assert _closed == ["connect 192.0.2.1", "getaddrinfo example.org"]
    _closed.clear()
    server = socket.create_server(("127.0.0.1", 0))
    socket.create_connection(server.getsockname()).close()
    server.close()


def test_train_restore_compare() -> None:
    Image.fromarray((np.arange(64).reshape(8, 8) * 4).astype(np.uint8)).save("a.png")
    tiny = ["--net", "mlp", "--net-size", "tiny", "--batch", "32", "--samples", "64"]
    assert main(["train", "digits", "--name", "t", *tiny]) == 0
    assert main(["restore", "runs/t", "a.png", "--operator", "mask:half", "--steps", "2", "--draws", "1"]) == 0
    job = ["--operator", "mask:half", "--methods", "ddrm", "--n", "1", "--draws", "1", "--calls", "2"]
    assert main(["compare", "digits", "digits", *job]) == 0
    assert main(["info"]) == 0 and main(["sample", "digits", "--n", "1", "--steps", "2"]) == 0


def test_demo() -> None:
    assert demo.run(demo.DemoJob(out="demo", quick=True, device="cpu")) == 0 and Path("demo/report.html").is_file()
