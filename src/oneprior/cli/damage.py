"""Which operator a flag names, and what a guess without a prior makes of its measurement."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from oneprior import operators
from oneprior.cli.inputs import _pictures
from oneprior.data import Recipe, scans
from oneprior.data.folder import _Look, _look
from oneprior.data.resolve import holds_scans
from oneprior.operators import Mask, Measurement, Operator, Poisson
from oneprior.prior import Prior

KNOWN = (
    "mask:random,0.5  mask:half,bottom  mask:box,4,4  mask:strokes,3  pool:2  bicubic:4  blur:1.0  blur:box,3  "
    "blur:motion,5  blur:motion,9,45  blur:shake,9  blur:gamma,1.0  grey  mosaic  jpeg:10  clip:2  lowlight:2,0.5  "
    "haze:0.5,0.8  identity"
)
ALSO = {"inpaint": "mask", "sr": "bicubic"}  # what a kind is called as well
TONES = {"clip": operators.Clip, "lowlight": operators.LowLight, "haze": operators.Haze}


def noise_of(text: str, most: float = 1.0) -> float | Poisson:
    """A standard deviation, "0.05" or "12/255", or counted light, "poisson:PEAK".

    Raises:
        ValueError: for anything else, with 12/255 suggested for 12.
    """
    law, _, peak = text.partition(":")
    top, slash, bottom = text.partition("/")
    try:
        if law == "poisson":
            return Poisson(float(peak))
        value = float(top) / (float(bottom) if slash else 1.0)
    except (ValueError, ZeroDivisionError):
        raise ValueError(
            f"--noise {text}: a number such as 0.05 or 12/255, or poisson:PEAK with counts above 0, was expected"
        ) from None
    if not 0 <= value <= most:
        hint = f"; of levels 0..255 it is {top}/255" if value > 1 else ""
        raise ValueError(f"--noise {text}: a standard deviation in [0, 1], where white is 1, was expected{hint}")
    return value


def operator_of(spec: str | None, mask: Path | None, shape: tuple[int, ...], seed: int = 0) -> Operator:
    """The operator that a flag names, for samples of a shape.

    Raises:
        ValueError: for none or two of them, and for a name or a number that is not known.
    """
    if (spec is None) == (mask is None):
        raise ValueError(f"say what was done to the pictures: --mask FILE, or --operator with one of  {KNOWN}")
    if mask is not None:
        return _mask(mask, shape)
    kind, _, rest = str(spec).partition(":")
    kind = ALSO.get(kind, kind)
    words = [w.strip() for w in rest.split(",") if w.strip()]
    numbers = [float(w) for w in words if w.replace(".", "", 1).isdecimal()]
    names = [w for w in words if not w.replace(".", "", 1).isdecimal()]
    try:
        match kind, *names, numbers:
            case "identity", []:
                return Mask(torch.ones(1, 1, 1, 1, dtype=torch.bool))
            case "mask", "random", ([] | [_]) as v:
                return Mask.random(shape, *(v or [0.5]), seed=seed)
            case "mask", "half", []:
                return Mask.half(shape)
            case "mask", "half", str(side), []:
                return Mask.half(shape, side)
            case "mask", str(file), [] if Path(file).suffix:
                return _mask(Path(file), shape)
            case "mask", "box", [h, w]:
                return Mask.box(shape, (int(h), int(w)))
            case "mask", "strokes", ([] | [_] | [_, _]) as v:
                return Mask.strokes(shape, *(int(n) for n in v[:1]), *v[1:], seed=seed)
            case ("pool" | "bicubic") as name, [r] if r >= 1:
                return operators.Pool(int(r)) if name == "pool" else operators.Bicubic(int(r))
            case ("blur", [std]) | ("blur", "gaussian", [std]) if std > 0:
                return operators.Blur.gaussian(std)
            case "blur", ("box" | "motion") as name, [n] if n >= 1:
                return operators.Blur.box(int(n)) if name == "box" else operators.Blur.motion(int(n))
            case "blur", "motion", [n, angle] if n >= 1:
                return operators.Convolve.motion(n, angle)
            case "blur", "shake", [n] if n >= 2:
                return operators.Convolve.shake(int(n), seed)
            case "blur", "gamma", [std] if std > 0:
                return operators.GammaBlur(operators.Blur.gaussian(std))
            case ("grey" | "mosaic") as name, []:
                return operators.Colourise() if name == "grey" else operators.Demosaic()
            case "jpeg", [quality]:
                return operators.JPEG(int(quality))
            case ("clip" | "lowlight" | "haze") as name, ([] | [_] | [_, _]) as v:
                return TONES[name](*v)
    except ValueError as e:
        raise ValueError(f"--operator {spec}: {e}") from None
    raise ValueError(f"--operator {spec} is not known; one such as these was expected: {KNOWN}")


def recipe_of(prior: Prior) -> Recipe:
    """How a prior's pairs were made. Raises ValueError where they were not made but given."""
    if "degrade" not in prior.facts:
        raise ValueError("--simulate: this prior learned from given pairs, and knows no recipe that makes them")
    return Recipe.of(prior.facts["degrade"])


def scene(
    spec: str | None,
    mask: Path | None,
    files: Sequence[str],
    shape: tuple[int, ...],
    *,
    seed: int = 0,
    whole: bool = False,
    most: int | None = None,
) -> tuple[Operator, tuple[int, ...]]:
    """The operator, and the shape of what is to be restored: that of the samples of a prior, or a larger one where the
    pictures are larger. whole: they were not measured yet, and are brought to `shape` unless all have one size."""
    if whole or mask or str(spec).startswith(("mask", "inpaint")):
        at = shape[:1] + size_of(files, shape[1:], most, one=whole)
        return operator_of(spec, mask, at, seed), at
    operator = operator_of(spec, mask, shape, seed)
    y = tuple(operator(torch.zeros(1, *shape)).shape)
    return operator, operator.domain((*y[:2], *size_of(files, y[2:], most)))[1:]


def size_of(
    files: Sequence[str], least: tuple[int, ...], most: int | None = None, one: bool = False
) -> tuple[int, ...]:
    """(h, w) of the first picture among files and folders, or `least` where that does not fit into it, or, with `one`,
    where there are others."""
    paths = [f for s in map(Path, files) for f in (_pictures(s) if s.is_dir() else [s])][:most]
    looks = (k.size for k in map(_look, paths) if isinstance(k, _Look))  # what cannot be read is refused later
    sizes = chain((k.shape[1:] for s in map(Path, files) if holds_scans(s) for k in scans(s)), looks)
    first = next(sizes, least)
    fits = all(n >= m for n, m in zip(first, least, strict=True))
    return first if fits and not (one and any(size != first for size in sizes)) else least


def _mask(path: Path, shape: tuple[int, ...]) -> Mask:
    try:
        with Image.open(path) as image:
            seen = torch.from_numpy(np.asarray(image.convert("L")) >= 128)
    except (UnidentifiedImageError, OSError) as e:
        raise ValueError(f"--mask {path} cannot be read as a picture ({e})") from e
    if tuple(seen.shape) != shape[1:]:
        raise ValueError(
            f"--mask {path} is {seen.shape[0]} x {seen.shape[1]}; pictures here are {shape[1]} x {shape[2]}"
        )
    return Mask(seen[None, None])


def measurement(y: Tensor, operator: Operator, noise: float | Poisson) -> Measurement:
    return (
        Measurement.poisson(y, operator, noise.peak) if isinstance(noise, Poisson) else Measurement(y, operator, noise)
    )


def baseline(operator: Operator, y: Tensor, noise: float | Poisson) -> Tensor:
    """The best linear guess that knows of no structure: independent pixels of the mean that was seen, spread 0.3.

    Of what is not linear, the operator's own first guess.
    """
    if not operator.linear:
        return operator.pinv(y).clamp(0, 1)
    noise = float(noise.std(y).square().mean().sqrt()) if isinstance(noise, Poisson) else noise
    ones = torch.ones(operator.domain(tuple(y.shape)))
    middle = (y.sum() / operator(ones).sum().clamp(min=1e-6)).clamp(0, 1)
    return operator.prox(middle * ones, y, (0.3 / max(noise, 1e-3)) ** 2).clamp(0, 1)
