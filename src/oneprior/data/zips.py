"""Pictures in a zip archive, with `dataset.json` of labels as EDM's and StyleGAN's tools write: paths lead through it.

Path("cifar10.zip/00000/img00000000.png")     is a file in the archive cifar10.zip
dataset.json: {"labels": [["00000/img00000000.png", 6], ...]}, or null
"""

import json
from functools import lru_cache
from pathlib import Path
from typing import IO
from zipfile import BadZipFile, ZipFile

LABELS = "dataset.json"


@lru_cache(maxsize=4)
def _archive(path: Path, changed: int) -> ZipFile:
    return ZipFile(path)


def archive(path: Path) -> ZipFile:
    """The archive, opened once. Raises ValueError for a damaged one."""
    try:
        return _archive(path, path.stat().st_mtime_ns)
    except BadZipFile as e:
        raise ValueError(f"{path} is no whole zip archive ({e}): a partial copy?") from e


def stream(path: Path) -> IO[bytes]:
    """A file opened for reading, a member of an archive where the path leads through one.

    Pictures are opened from streams throughout: by name, pillow 12.3 maps uncompressed TIFF into memory with the sides
    of a turned one exchanged.
    """
    for parent in path.parents:
        if parent.suffix.lower() == ".zip" and parent.is_file():
            return archive(parent).open(path.relative_to(parent).as_posix())
    return path.open("rb")


def members(path: Path, suffixes: frozenset[str]) -> list[Path]:
    """Paths of the files in an archive with one of these endings."""
    return [path / name for name in sorted(archive(path).namelist()) if Path(name).suffix.lower() in suffixes]


def labels(path: Path) -> dict[Path, str] | None:
    """Class numbers by path, None without labels.

    Raises:
        ValueError: labels that are no class numbers.
    """
    if LABELS not in archive(path).namelist():
        return None
    listed = json.loads(archive(path).read(LABELS)).get("labels")
    if listed is None:
        return None
    if not all(isinstance(label, int) for _, label in listed):
        raise ValueError(f"{LABELS} in {path} holds labels that are no class numbers: labels=False leaves them out")
    return {path / name: str(label) for name, label in listed}
