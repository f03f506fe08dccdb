"""Files that are whole or absent: everything is written aside, synced, and renamed over its name.

A reader never sees half a file, a kill at any moment leaves the previous state, and a full disk is an error that says
so while what was there stays. Tensors go to safetensors, the rest to JSON; nothing is ever pickled.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk (folders: where the system allows it)."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file atomically; its folder is made."""
    aside = path.with_name(path.name + ".tmp")
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(aside, "wb") as f:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
            os.replace(aside, path)
            sync(path.parent)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str) -> None:
    """Replace a text file (UTF-8) atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file atomically."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Replace a safetensors file atomically; tensors that share memory are written once each."""
    from safetensors.torch import save

    seen: set[int] = set()
    plain: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        t = tensor.detach().cpu().contiguous()
        plain[name] = t.clone() if t.untyped_storage().data_ptr() in seen else t
        seen.add(t.untyped_storage().data_ptr())
    write_bytes(path, save(plain, dict(metadata or {})))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors (on the CPU) and metadata of a safetensors file.

    Raises:
        FileNotFoundError: when it is not there.
        ValueError: when it is truncated, altered in its structure, or no safetensors file (a pickle, for instance).
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
    try:
        with safe_open(path, framework="pt") as f:
            return {k: f.get_tensor(k) for k in f.keys()}, dict(f.metadata() or {})  # noqa: SIM118 (no mapping)
    except SafetensorError as e:
        raise ValueError(f"{path} is not a whole safetensors file ({e}); pickles (.pt, .ckpt) are never read") from e


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A folder to fill; on success it takes the place of `path` in one rename, on failure nothing has changed.

    Where `path` exists it is first renamed aside to `NAME.old`, and removed last; `settle` mends a kill in between.

    Example:
        >>> with atomic_folder(Path("prior")) as aside:
        ...     write_json(aside / "config.json", config)
    """
    aside, old = path.with_name(path.name + ".tmp"), path.with_name(path.name + ".old")
    with explained(path):
        settle(path)
        shutil.rmtree(aside, ignore_errors=True)
        try:
            aside.mkdir(parents=True)
            yield aside
            for folder, _, names in os.walk(aside):
                for name in names:
                    sync(Path(folder) / name)
                sync(Path(folder))
            if path.exists():
                os.replace(path, old)
            os.replace(aside, path)
            sync(path.parent)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            settle(path)
            raise
        shutil.rmtree(old, ignore_errors=True)


def settle(path: Path) -> Path:
    """Finish or undo a replacement of a folder that was cut short: call it before reading one that gets replaced."""
    old = path.with_name(path.name + ".old")
    if old.exists():
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(old, path)
    return path


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Say what could not be written and why, where the system's message is terse; earlier files are untouched."""
    try:
        yield
    except OSError as e:
        reasons = {
            errno.ENOSPC: "the disk is full",
            errno.EDQUOT: "the disk quota is used up",
            errno.EROFS: "the file system is read-only",
            errno.EACCES: "the folder is not writable",
            errno.EPERM: "the folder is not writable",
        }
        if e.errno not in reasons or getattr(e, "explained", False):
            raise
        said = type(e)(e.errno, f"{path} was not written, {reasons[e.errno]}; what was there before is unchanged")
        said.explained = True  # type: ignore[union-attr]
        raise said from e
