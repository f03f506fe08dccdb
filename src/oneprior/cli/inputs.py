"""What the commands take in and leave behind: a prior on a device, pictures, conditions, folders. Imports torch."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from oneprior import storage
from oneprior.cli.screen import Screen
from oneprior.codecs import Pixels
from oneprior.conditions import Label
from oneprior.data import DataFacts, Source, UnreadableImages, open_source
from oneprior.data.folder import SUFFIXES, ImageFolder, _images, _look
from oneprior.data.resolve import NAMES
from oneprior.prior import Prior
from oneprior.results import grid, png
from oneprior.training.engine import pick_device
from oneprior.training.files import write_bytes


def open_prior(name: str, device: str) -> Prior:
    """A prior on a device.

    Raises:
        ValueError: for a device that is not there, and what `storage.load` raises.
    """
    prior = storage.load(name)
    where = pick_device(device)
    try:
        return prior.to(where)
    except (RuntimeError, AssertionError, NotImplementedError) as e:
        raise ValueError(f"--device {device} cannot be used here: {str(e).splitlines()[0]}") from e


@dataclass(frozen=True)
class Inputs:
    """Samples by index, a name each, and where the data has classes that the prior knows, `labels` (N,)."""

    source: Source
    names: list[str]
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.names)

    def parts(self, size: int) -> list[range]:
        return [range(i, min(i + size, len(self))) for i in range(0, len(self), size)]

    def x(self, index: Sequence[int] | None = None) -> Tensor:
        return self.source.batch(range(len(self)) if index is None else index)["x"]


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
    shape = exact or prior.shape
    paths = [Path(s) for s in specs]
    if len(specs) == 1 and (specs[0] in NAMES or paths[0].suffix.lower() not in SUFFIXES) and exact is None:
        source = open_data(prior, specs[0], screen, split, skip_bad)
        names = [str(f) for f in source.files] if isinstance(source, ImageFolder) else _numbered(source)
        return _inputs(prior, source, names, most)
    files = [f for p in paths for f in (_images(p) if p.is_dir() else [p])]
    if not files:
        raise FileNotFoundError(f"no pictures in {', '.join(specs)}; expected {', '.join(sorted(SUFFIXES))}")
    bad, good = {}, []
    for file in files[:most]:
        look = _look(file) if file.is_file() else "no such file"
        if isinstance(look, str):
            bad[file] = look
        elif exact is not None and look.size != shape[1:]:
            (h, w), (H, W) = look.size, shape[1:]
            raise ValueError(
                f"{file} is {h} x {w}; a measurement of this prior by this operator is {H} x {W}: give it at that size"
            )
        else:
            good.append((file, look))
    if bad and not (skip_bad and good):
        listed = "".join(f"\n  {path}: {why}" for path, why in list(bad.items())[:10])
        raise ValueError(f"{len(bad)} of {len(files)} pictures cannot be read (--skip-bad leaves them out):{listed}")
    if bad:
        screen.note(f"{len(bad)} of {len(files)} pictures left out, unreadable: {', '.join(map(str, list(bad)[:5]))}")
    if len(shape) != 3:
        raise ValueError(f"this prior's samples have shape {shape}: give an array file (.npy), not pictures")
    if resized := sum(look.size != shape[1:] for _, look in good):
        screen.note(f"{resized} of {len(good)} pictures cut to the middle and resized to {shape[1]} x {shape[2]}")
    levels = 256 if all(look.bits == 8 for _, look in good) else None
    facts = DataFacts(shape, None, levels, "files", "unknown", len(good))
    return Inputs(ImageFolder(facts, tuple(f for f, _ in good), None), [str(f) for f, _ in good])


def open_data(prior: Prior, spec: str, screen: Screen, split: str, skip_bad: bool) -> Source:
    """A data set in the prior's shape."""
    as_pictures = Path(spec).is_dir() and len(prior.shape) == 3 and spec not in NAMES
    how: dict[str, Any] = {"size": prior.shape[1:], "channels": prior.shape[0]} if as_pictures else {}
    source = open_skipping(spec, screen, skip_bad, split=split, **how)
    if source.facts.shape != prior.shape:
        raise ValueError(f"{spec} has samples of shape {source.facts.shape}; this prior's have {prior.shape}")
    return source


def open_skipping(spec: str, screen: Screen, skip_bad: bool, **how: Any) -> Source:
    """`open_source` that says what it left out."""
    try:
        return open_source(spec, **how)
    except UnreadableImages as e:
        if not skip_bad or len(e.files) == e.count:
            raise
        named = ", ".join(str(f) for f in list(e.files)[:5])
        screen.note(f"{len(e.files)} of {e.count} pictures left out, unreadable: {named}")
        return open_source(spec, skip_bad=True, **how)


def _numbered(source: Source) -> list[str]:
    return [f"{source.facts.name}-{i:06d}" for i in range(len(source))]


def _inputs(prior: Prior, source: Source, names: list[str], most: int | None) -> Inputs:
    names = names[:most]
    known = label_of(prior)
    classes = source.facts.classes
    if known is None or classes is None or not set(classes) <= set(known.names):
        return Inputs(source, names)
    place = torch.tensor([known.names.index(c) for c in classes])
    labels = [source.batch(part)["label"] for part in Inputs(source, names).parts(512)]
    return Inputs(source, names, place[torch.cat(labels)])


def on_levels(prior: Prior, x: Tensor) -> Tensor:
    """Pictures on the levels that the prior's data had: files have 256, the digits 17."""
    levels = prior.codec.levels if isinstance(prior.codec, Pixels) else None
    return x if levels is None else (x * (levels - 1)).round() / (levels - 1)


def label_of(prior: Prior) -> Label | None:
    return next((c for c in prior.conditions.values() if isinstance(c, Label)), None)


def condition(prior: Prior, name: str, text: str | None) -> Any:
    """The value of a condition from a flag: a class name or number, numbers for a vector, "none" for the null."""
    if text is None or text.lower() == "none":
        return None
    kind = prior.conditions.get(name)
    if isinstance(kind, Label):
        return int(text) if text not in kind.names and text.isdecimal() else text
    try:
        numbers = [float(v) for v in text.split(",")]
    except ValueError:
        raise ValueError(f"--cond {name}={text}: numbers, separated by commas, were expected") from None
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


def target(prior: Prior, text: str | None) -> Any:
    """The value for `Prior.edit`: "7", or "label=7,other=..." as a dict."""
    if text is None:
        return None
    name, equals, value = text.partition("=")
    if equals:
        return {name: condition(prior, name, value)}
    if len(prior.conditions) != 1:
        raise ValueError(
            f"which condition is '{text}'? NAME=VALUE was expected, NAME one of {list(prior.conditions) or 'none'}"
        )
    return condition(prior, next(iter(prior.conditions)), text)


def part(cond: dict[str, Any], index: range) -> dict[str, Any]:
    """The share of a batch in conditions given one a sample."""
    return {k: [v[i] for i in index] if isinstance(v, list) and len(v) > 1 else v for k, v in cond.items()}


def fresh(out: Path | None, kind: str) -> Path:
    """The folder to write to: as given, or the first of runs/KIND, runs/KIND-2, ... that is not there."""
    if out is not None:
        if out.is_file():
            raise NotADirectoryError(f"--out {out} is a file; a folder was expected")
        return out
    names = (Path("runs") / (kind if i == 1 else f"{kind}-{i}") for i in range(1, 10**6))
    return next(p for p in names if not p.exists())


def free(paths: Sequence[Path], force: bool) -> None:
    """Refuse to write over files."""
    if not force and (there := [p for p in paths if p.exists()]):
        raise FileExistsError(
            f"{there[0]}{f' and {len(there) - 1} more' if len(there) > 1 else ''} would be written over: "
            "give another --out, or --force"
        )


def stems(names: Sequence[str]) -> list[str]:
    """File names without folder and ending; where two agree, with their number."""
    plain = [Path(n).stem for n in names]
    return [s if plain.count(s) == 1 else f"{s}-{i:04d}" for i, s in enumerate(plain)]


def write_picture(path: Path, image: Image.Image) -> None:
    write_bytes(path, png(image))


def read_picture(path: Path, channels: int) -> Tensor:
    """A PNG of ours as (C, H, W) in [0, 1]."""
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        a = torch.tensor(list(image.convert("L" if channels == 1 else "RGB").tobytes()), dtype=torch.float32) / 255
        return a.reshape(image.height, image.width, channels).movedim(2, 0)


def sheet(rows: Sequence[Tensor], side: int = 64) -> Image.Image:
    """Rows of pictures under one another, column i about picture i; each (N, C, H, W), all enlarged to one size."""
    size = max(max(r.shape[-2:]) for r in rows)
    full = [torch.nn.functional.interpolate(r.float().cpu(), size=_scaled(r, size), mode="nearest") for r in rows]
    return grid(torch.cat(full), len(rows[0]), side)


def _scaled(x: Tensor, size: int) -> tuple[int, int]:
    k = size / max(x.shape[-2:])
    return round(x.shape[-2] * k), round(x.shape[-1] * k)


def batches(count: int, size: int) -> Iterator[range]:
    yield from (range(i, min(i + size, count)) for i in range(0, count, size))
