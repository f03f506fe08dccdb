"""What the commands take in: a prior on a device, pictures and data, values of conditions. Imports torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from oneprior import storage
from oneprior.cli.screen import Screen
from oneprior.codecs import Bytes, Characters, Pieces, Text
from oneprior.conditions import Label
from oneprior.data import DataFacts, Scan, Source, Stored, UnreadableImages, open_source, scans
from oneprior.data.folder import SUFFIXES, ImageFolder, _images, _look
from oneprior.data.metadata import TABLES
from oneprior.data.resolve import NAMES, holds_scans, is_pictures
from oneprior.data.scans import Slices, scan_source
from oneprior.data.text import SUFFIXES as TEXTS
from oneprior.joint_prior import JointPrior
from oneprior.loading import load
from oneprior.prior import Prior
from oneprior.results import visible
from oneprior.token_prior import TokenPrior
from oneprior.training.engine import pick_device


def open_prior(name: str, device: str, tokens: bool = False) -> Prior:
    """A prior on a device; one of tokens for those who take it. Raises what `oneprior.load` and `usable` raise."""
    prior = load(name)
    if isinstance(prior, TokenPrior) and not tokens:
        kind = "text" if isinstance(prior.codec, Text) else "codes of pictures"
        able = "sample, likelihood, edit and info" if isinstance(prior.codec, Text) else "sample and info"
        raise ValueError(f"{name} is a prior of {kind}, which this command does not take; oneprior {able} do")
    return prior.to(usable(device))


def of_text(name: str) -> bool:
    """Whether a prior is one of text, without loading it."""
    config = storage._config(storage.find(name), ())
    return config.get("codec", {}).get("type") in (Characters.type, Bytes.type, Pieces.type)


def texts(specs: Sequence[str], apart: bool = False) -> list[str]:
    """Names of texts; apart: the files of a folder one by one."""
    if not specs:
        raise ValueError("which text? give files, a folder, or kjv")
    inside = {p: sorted(f for f in Path(p).rglob("*") if f.name.endswith(TEXTS)) for p in specs if Path(p).is_dir()}
    return [str(f) for p in specs for f in (inside.get(p, [p]) if apart else [p])]


def usable(device: str) -> torch.device:
    """The device of a name. Raises ValueError where it is not there."""
    try:
        found = pick_device(device)
        torch.empty(1, device=found)
        return found
    except (RuntimeError, AssertionError, NotImplementedError) as e:
        raise ValueError(f"--device {device} cannot be used here: {str(e).splitlines()[0]}") from e


@dataclass(frozen=True)
class Inputs:
    """Samples by index, a name each, and where the data has classes that the prior knows, `labels` (N,).

    files: of each, the file it is in and its number there, None for data that lies in no file of pictures. window:
    of scans, the values that x = 0 and x = 1 stand for.
    """

    source: Source
    names: list[str]
    labels: Tensor | None = None
    files: list[tuple[Scan | Stored, int] | None] = field(default_factory=list)
    window: tuple[float, float] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def parts(self, size: int) -> list[range]:
        return [range(i, min(i + size, len(self))) for i in range(0, len(self), size)]

    def x(self, index: Sequence[int] | None = None) -> Tensor:
        x = self.source.batch(range(len(self)) if index is None else index)["x"]
        return visible(x, self.window)


def read(
    prior: Prior,
    specs: Sequence[str],
    screen: Screen,
    *,
    split: str = "all",
    most: int | None = None,
    skip_bad: bool = False,
    exact: tuple[int, ...] | None = None,
) -> Inputs:
    """Pictures from files and folders, or the data that a single name, array file or folder with classes stands for.

    They are brought to the prior's size and channels as data/folder.py says. exact: the shape each must have as stored.
    """
    if not specs:
        raise ValueError("which pictures? give files, a folder, or a data set")
    if most is not None and most < 1:
        raise ValueError(f"--n {most}: at least one was expected")
    if any(holds_scans(Path(s)) for s in specs):
        return _scans(prior, [Path(s) for s in specs], exact or prior.shape, most)
    if unit := getattr(prior.codec, "unit", ""):
        raise ValueError(f"this prior is of scans in {unit}; pictures in [0, 1] are none: give NIfTI or DICOM files")
    single = len(specs) == 1 and Path(specs[0]).suffix.lower() not in SUFFIXES
    if exact is None and single and not (Path(specs[0]) / "result.json").exists():
        return _data(prior, specs[0], screen, split, most, skip_bad)
    files = [f for s in specs for f in (_pictures(Path(s)) if Path(s).is_dir() else [Path(s)])][:most]
    if not files:
        raise FileNotFoundError(f"no pictures in {', '.join(specs)}; expected {', '.join(sorted(SUFFIXES))}")
    shape = exact or prior.shape[-3:]  # of a prior of clips, the pictures that are to be animated
    if len(shape) != 3:
        raise ValueError(f"this prior's samples have shape {shape}: give an array file (.npy), not pictures")
    looks = {file: _look(file) if file.is_file() else "no such file" for file in files}
    bad = {file: look for file, look in looks.items() if isinstance(look, str)}
    good = {file: look for file, look in looks.items() if not isinstance(look, str)}
    if bad and not (skip_bad and good):
        listed = "".join(f"\n  {path}: {why}" for path, why in list(bad.items())[:10])
        raise ValueError(f"{len(bad)} of {len(files)} pictures cannot be read (--skip-bad leaves them out):{listed}")
    if bad:
        screen.note(f"{len(bad)} of {len(files)} pictures left out, unreadable: {', '.join(map(str, list(bad)[:5]))}")
    if other := [file for file, look in good.items() if look.size != shape[1:]]:
        h, w = good[other[0]].size
        if exact is not None:
            raise ValueError(
                f"{other[0]} is {h} x {w}; what this operator leaves of a picture is {shape[1]} x {shape[2]} "
                "(without an operator: the size of the first)"
            )
        screen.note(f"{len(other)} of {len(good)} pictures cut to the middle and resized to {shape[1]} x {shape[2]}")
    levels = 256 if all(look.bits == 8 for look in good.values()) else None
    facts = DataFacts(shape, None, levels, "files", "unknown", len(good))
    stored: list[Any] = [(Stored(f), 0) for f in good]
    return Inputs(ImageFolder(facts, tuple(good), None), [str(f) for f in good], files=stored)


def _scans(prior: Prior, paths: list[Path], shape: tuple[int, ...], most: int | None) -> Inputs:
    """The slices of scans, as they are: a prior of scans takes them at their own size, or larger by windows."""
    if not getattr(prior.codec, "unit", ""):
        raise ValueError(f"{paths[0]} is a scan in its own units, and this prior is of pictures in [0, 1]")
    every = [s for path in paths for s in scans(path)][:most]
    if other := [s for s in every if s.shape[1:] != shape[1:]]:
        h, w = other[0].shape[1:]
        raise ValueError(f"slices of {other[0].path} are {h} x {w}; {shape[1]} x {shape[2]} was expected")
    source = scan_source(paths[0], found=every)
    assert isinstance(source, Slices)
    files: list[Any] = [source.place(i) for i in range(len(source))]
    return Inputs(source, [f"{scan.path}[{k}]" for scan, k in files], files=files)


def _pictures(folder: Path) -> list[Path]:
    """Pictures in a folder; of one that a command wrote, the results without contact sheets, spreads and draws."""
    ours = (folder / "result.json").exists()
    return [f for f in _images(folder) if not (ours and re.search(r"^(grid|sheet)$|-std$|-draw-\d+$", f.stem))]


def _data(prior: Prior, spec: str, screen: Screen, split: str, most: int | None, skip_bad: bool) -> Inputs:
    as_pictures = (
        spec not in NAMES and len(prior.shape) in (3, 4) and (is_pictures(Path(spec)) or spec.endswith(".zip"))
    )
    *_, channels, height, width = (1, 1, *prior.shape)
    how: dict[str, Any] = {"size": (height, width), "channels": channels, "mixed": True} if as_pictures else {}
    if as_pictures and any((Path(spec) / name).is_file() for name in TABLES):
        how |= (prior.facts.get("data") or {}).get("columns", {})  # as it was trained: the same split
    source = open_skipping(spec, screen, skip_bad, split=split, **how)
    facts = source.facts
    if facts.shape not in (prior.shape, prior.shape[-3:]):
        raise ValueError(f"{spec} has samples of shape {facts.shape}; this prior's have {prior.shape}")
    files = source.files if isinstance(source, ImageFolder) else [f"{facts.name}-{i:06d}" for i in range(len(source))]
    stored: list[Any] = [(Stored(f), 0) if isinstance(f, Path) else None for f in files[:most]]
    given = Inputs(source, [str(f) for f in files[:most]], files=stored)
    known = label_of(prior)
    if known is None or facts.classes is None or not set(facts.classes) <= set(known.names):
        return given
    place = torch.tensor([known.names.index(c) for c in facts.classes])
    return replace(given, labels=place[torch.cat([source.batch(p)["label"] for p in given.parts(512)])])


def open_skipping(spec: str, screen: Screen, skip_bad: bool, **how: Any) -> Source:
    """`open_source` that says what it left out."""
    try:
        return open_source(spec, **how)
    except UnreadableImages as e:
        if not skip_bad or len(e.files) == e.count:
            raise
        screen.note(
            f"{len(e.files)} of {e.count} pictures left out, unreadable: {', '.join(map(str, list(e.files)[:5]))}"
        )
        return open_source(spec, skip_bad=True, **how)


def label_of(prior: Prior) -> Label | None:
    return next((c for c in prior.conditions.values() if isinstance(c, Label)), None)


def condition(prior: Prior, name: str, text: str) -> Any:
    """The value of a condition from a flag: a class name or number, numbers for a vector, "none" for the null."""
    kind = prior.conditions.get(name)
    if text.lower() == "none":
        return None
    if isinstance(kind, Label):
        return int(text) if text not in kind.names and text.isdecimal() else text
    try:
        numbers = [float(v) for v in text.split(",")]
    except ValueError:
        return text  # refused by the condition, in its own words
    return numbers if len(numbers) > 1 else numbers[0]


def conditions(prior: Prior, label: str | None, cond: Sequence[str], seeds: Sequence[int]) -> dict[str, Any]:
    """From --label and --cond NAME=VALUE. Several labels, "0,1,2" or "all", are dealt out by seed."""
    out: dict[str, Any] = {}
    for item in (*([f"label={label}"] if label is not None else []), *cond):
        name, equals, text = item.partition("=")
        if not equals:
            raise ValueError(f"--cond {item}: NAME=VALUE was expected, such as --cond label=7")
        kind = prior.conditions.get(name)
        if isinstance(kind, Label) and (text == "all" or "," in text) and text not in kind.names:
            dealt = kind.names if text == "all" else [condition(prior, name, t.strip()) for t in text.split(",")]
            out[name] = [dealt[s % len(dealt)] for s in seeds]
        else:
            out[name] = condition(prior, name, text)
    prior.conditions.encode(len(seeds), **out)  # says what is wrong before any work is done
    return out


def given(prior: Prior, items: Sequence[str], seeds: Sequence[int], film: bool, screen: Screen) -> dict[str, Any]:
    """From --given PART=VALUE of a prior of several parts: labels as conditions are, pictures from their file."""
    if not isinstance(prior, JointPrior):
        if items:
            raise ValueError("--given is for a prior of several parts (train --modalities); this one takes --cond")
        return {}
    if film:
        raise ValueError("--trajectory is for a prior of one part")
    labels = [v for v in items if v.partition("=")[0] in prior.conditions]
    out = conditions(prior, None, labels, seeds)
    for name, equals, file in (v.partition("=") for v in items if v not in labels):
        if not equals or name not in prior.joint.shapes:
            parts = ", ".join(prior.joint.parts)
            raise ValueError(f"--given {name}{equals}{file}: PART=VALUE was expected, of the parts {parts}")
        out[name] = read(prior, [file], screen).x()
    return out


def part_of(cond: dict[str, Any], index: Sequence[int], count: int) -> dict[str, Any]:
    """The share of a batch in conditions of `count` samples, where they are given one a sample."""
    return {k: [v[i] for i in index] if isinstance(v, list) and len(v) == count else v for k, v in cond.items()}


def target(prior: Prior, text: str | None) -> dict[str, Any]:
    """What `Prior.edit` takes, from "7" or "label=7"."""
    if text is None:
        return {}
    name, equals, value = text.partition("=")
    if not equals and len(prior.conditions) != 1:
        known = ", ".join(prior.conditions) or "none: it was trained unconditionally"
        raise ValueError(f"'{text}' of which condition? NAME=VALUE was expected; this prior has {known}")
    name, value = (name, value) if equals else (next(iter(prior.conditions)), text)
    said = {name: condition(prior, name, value)}
    prior.conditions.encode(1, **said)
    return said
