"""Saves that are whole or absent: cut short at every system call, on a full disk, and in folders that refuse."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from oneprior.training import files


def put(path: Path, text: str) -> None:
    with files.atomic_folder(path) as aside:
        files.write_text(aside / "a.txt", text)
        files.save_tensors(aside / "b.safetensors", {"x": torch.ones(3)})


class Killed(BaseException):
    """Stands for a kill: nothing may catch it and go on."""


def dying(calls: int, error: BaseException) -> Callable[..., Any]:
    """os.replace that dies at its n-th call."""
    real, seen = os.replace, [0]

    def replace(*args: Any) -> None:
        seen[0] += 1
        if seen[0] == calls:
            raise error
        real(*args)

    return replace


@pytest.mark.parametrize("at", [1, 2, 3, 4])
@pytest.mark.parametrize("error", [Killed(), OSError(errno.ENOSPC, "No space left on device")])
def test_a_folder_is_old_or_new_whenever_a_save_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, error: BaseException
) -> None:
    path = tmp_path / "prior"
    put(path, "old")
    with monkeypatch.context() as m:
        m.setattr(os, "replace", dying(at, error))
        with pytest.raises((Killed, OSError)):
            put(path, "new")
    assert (files.settle(path) / "a.txt").read_text() == "old"
    put(path, "new")
    assert (path / "a.txt").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["prior"]


def test_a_kill_between_the_two_renames_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "prior"
    put(path, "old")
    path.rename(tmp_path / "prior.old")
    assert (files.settle(path) / "a.txt").read_text() == "old"


def test_a_full_disk_says_so_and_leaves_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.json"
    files.write_json(path, {"n": 1})

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"state\.json was not written, the disk is full; .* unchanged"):
        files.write_json(path, {"n": 2})
    assert path.read_text() == '{\n "n": 1\n}\n'
    assert [p.name for p in tmp_path.iterdir()] == ["state.json"]


def test_a_pickle_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00}\x94.")
    with pytest.raises(ValueError, match="never read"):
        files.load_tensors(path)
    with pytest.raises(FileNotFoundError):
        files.load_tensors(tmp_path / "none.safetensors")


def test_tensors_come_back_exactly(tmp_path: Path) -> None:
    base = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    tensors = {"a": base, "view": base[:2], "turned": base.T, "half": base.bfloat16(), "n": torch.tensor(3)}
    files.save_tensors(tmp_path / "t.safetensors", tensors, {"n": "7"})
    loaded, meta = files.load_tensors(tmp_path / "t.safetensors")
    assert meta == {"n": "7"}
    assert all(torch.equal(loaded[k], v) and loaded[k].dtype == v.dtype for k, v in tensors.items())
