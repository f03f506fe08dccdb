"""Settings that commands share. Frozen dataclasses; every field is a flag and a key of --config FILE. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional


@dataclass(frozen=True, kw_only=True)
class Common:
    """What every command takes."""

    config: Path | None = None
    """settings in YAML, under the names of the flags; flags come on top"""
    json: bool = False
    """print the result as JSON, and nothing else, on the standard output"""
    debug: bool = False
    """show the traceback of an error"""


@dataclass(frozen=True, kw_only=True)
class Using(Common):
    """What every command takes that uses a prior."""

    prior: Positional[str]
    """a prior's folder, a run's folder, or the name of a shipped one"""
    seed: int = 0
    """of all noise; picture i takes seed + i"""
    batch: int = 64
    """samples at a time"""
    device: str = "auto"
    """auto, cpu, cuda, mps ..."""


@dataclass(frozen=True, kw_only=True)
class OnPictures(Using):
    """What every command takes that works on pictures."""

    files: Positional[tuple[str, ...]] = ()
    """pictures, folders of them, or a data set"""
    n: int | None = None
    """at most this many of them"""
    split: Literal["train", "test", "all"] = "all"
    """part of a data set"""
    skip_bad: bool = False
    """leave out pictures that cannot be read"""


@dataclass(frozen=True, kw_only=True)
class Writing:
    """What every command takes that writes files."""

    out: Path | None = None
    """folder to write to (default: runs/COMMAND, or the next free name)"""
    force: bool = False
    """write over what is there"""
