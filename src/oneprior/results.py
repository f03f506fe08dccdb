"""What a verb returns: the answer first (`.x`), then how it came about, and pictures where people would rather look.

A verb takes a result wherever it takes a tensor: `prior.classify(prior.sample(16))`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from math import ceil, sqrt
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image, ImageColor, ImageDraw
from torch import Tensor

from oneprior.codecs import Codec
from oneprior.data.clips import animation
from oneprior.operators import Measurement
from oneprior.operators.base import real
from oneprior.training.files import write_bytes, write_json
from oneprior.uses.features import pca_maps


@dataclass(frozen=True)
class Result:
    """x: pictures (B, C, H, W) or clips (B, F, C, H, W) in [0, 1], or data in its own units. seeds: one a sample.
    settings: all of the call's. nfe: network calls, each on the whole batch. seconds: wall clock."""

    x: Tensor
    seeds: tuple[int, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    nfe: int = 0
    seconds: float = 0.0
    window: tuple[float, float] | None = field(default=None, kw_only=True)
    """of scans, the values to show black and white; none for pictures"""
    large: ClassVar[tuple[str, ...]] = ()
    """fields that the record leaves out, as it does x"""

    def __len__(self) -> int:
        return len(self.x)

    def __iter__(self) -> Any:
        return iter(self.x)

    @property
    def clips(self) -> bool:
        """Whether x is clips (B, F, C, H, W) in grey or colour."""
        return self.x.ndim == 5 and self.x.shape[2] in (1, 3)

    def pil(self) -> list[Image.Image]:
        """One picture a sample, at its own size."""
        return [picture(x) for x in visible(self.x, self.window)]

    def grid(self, columns: int | None = None, side: int = 64) -> Image.Image:
        """All samples in one picture; small ones are enlarged, pixel by pixel, to about `side`. Of clips a row each."""
        x = visible(self.x, self.window)
        return contact(x, side) if self.clips else grid(x, columns, side)

    def save(self, folder: str | Path) -> Path:
        """Write every sample (PNG or GIF named by seed, samples.npy of what is neither), grid.png and result.json;
        files there stay whole."""
        folder = Path(folder)
        names = self.seeds if len(self.seeds) == len(self.x) else range(len(self.x))
        if self.window is None and (self.x.ndim == 4 or self.clips):
            for name, x in zip(names, self.x, strict=True):
                if self.clips:
                    write_bytes(folder / f"{name:06d}.gif", animation(x))
                else:
                    write_bytes(folder / f"{name:06d}.png", png(picture(x)))
            write_bytes(folder / "grid.png", png(self.grid()))
        else:
            buffer = io.BytesIO()
            np.save(buffer, self.x.detach().cpu().numpy(), allow_pickle=False)
            write_bytes(folder / "samples.npy", buffer.getvalue())
        write_json(folder / "result.json", self.record())
        return folder

    def record(self) -> dict[str, Any]:
        """Everything but the samples and what else is large, as JSON holds it."""
        return {f.name: plain(getattr(self, f.name)) for f in fields(self) if f.name not in ("x", *self.large)}

    def _repr_png_(self) -> bytes | None:
        return png(self.grid()) if self.x.ndim == 4 or self.clips else None


@dataclass(frozen=True)
class Restored(Result):
    """x: the mean over draws, (B, C, H, W). draws: (B, draws, C, H, W); std over them; y: what was measured. Of a
    measurement, settings hold its noise in the user's units and, as noise_model, in those of the model."""

    draws: Tensor | None = None
    std: Tensor | None = None
    y: Tensor | None = None
    large = "draws", "std", "y"


@dataclass(frozen=True)
class Classified(Result):
    """x: index of the best condition, (B,). nats: (B, conditions) log-likelihoods up to a constant per sample;
    probabilities: their softmax with equal priors; names: of the conditions. each: network calls per sample and
    condition. errors: (evaluations, B, conditions) at half log-SNR lam, NaN where a condition was out already."""

    nats: Tensor = field(default_factory=lambda: torch.empty(0))
    names: tuple[str, ...] = ()
    each: float = 0.0
    errors: Tensor = field(default_factory=lambda: torch.empty(0))
    lam: Tensor = field(default_factory=lambda: torch.empty(0))
    large = "errors", "lam"

    @property
    def probabilities(self) -> Tensor:
        return self.nats.softmax(-1)

    @property
    def labels(self) -> list[str]:
        return [self.names[i] for i in self.x.tolist()]

    def curves(self, i: int = 0, most: int = 4) -> tuple[list[float], dict[str, list[float]]]:
        """lam, rising, and for the likeliest conditions of sample i how far each one's error lies above the best
        one's there: what is lost in nats per unit of lam, and at which level of noise."""
        order, best = self.lam.argsort(), self.nats[i].topk(min(most, len(self.names))).indices.tolist()
        e = self.errors[order, i].double().cpu()
        lines = {self.names[c]: (e[:, c] - e[:, best[0]]).tolist() for c in best if self.nats[i, c] > -torch.inf}
        return self.lam[order].tolist(), lines


@dataclass(frozen=True)
class Features(Result):
    """x: (B, d). settings: the layer, the time, and how it was pooled. shapes: of every block's output for one sample.
    maps: (B, C, h, w), where they were asked for; as a picture their three principal components are colours."""

    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    maps: Tensor | None = None
    large = ("maps",)

    def grid(self, columns: int | None = None, side: int = 64) -> Image.Image:
        if self.maps is None or self.maps.ndim != 4:
            raise ValueError("there is no grid to show: features(x, maps=True) of a layer that has one")
        return grid(pca_maps(self.maps), columns, side)


@dataclass(frozen=True)
class Likelihood(Result):
    """x: nats, log p of each sample as a density in the user's units, (B,). bpd: bits per dimension of the stored
    levels (bytes, for pictures from files), None for continuous data."""

    bpd: Tensor | None = None


@dataclass(frozen=True)
class Matched(Result):
    """x: (B, P, 2), where in the second pictures the points of the first are, (x, y) in pixels; score: cosine, (B, P);
    mutual: whether they lead back, (B, P); points: (B, P, 2) of the first; pair: (2, B, C, H, W), the pictures."""

    points: Tensor = field(default_factory=lambda: torch.empty(0))
    score: Tensor = field(default_factory=lambda: torch.empty(0))
    mutual: Tensor = field(default_factory=lambda: torch.empty(0))
    pair: Tensor = field(default_factory=lambda: torch.empty(0))
    large = ("pair",)

    def pil(self) -> list[Image.Image]:
        """A pair side by side, with a line for each point that leads back."""
        return [lines(*row) for row in zip(*self.pair, self.points, self.x, self.mutual, strict=True)]

    def record(self) -> dict[str, Any]:
        return {**super().record(), "x": plain(self.x)}


@dataclass(frozen=True)
class Dimensions(Result):
    """x: local intrinsic dimension of each sample, (B,); curve: (T, B), at the times t."""

    curve: Tensor = field(default_factory=lambda: torch.empty(0))
    t: tuple[float, ...] = ()


def noises(given: Measurement | Tensor, codec: Codec) -> dict[str, Any]:
    """The noise of a measurement in two units, for settings; where it varies within a sample, its root mean square.

    That of an operator that is not linear stays in the units of y in both.
    """
    if not isinstance(given, Measurement):
        return {}
    kinds = {"noise": given.noise, "noise_model": given.to_model(codec).noise}
    return {k: _size(v) if isinstance(v, Tensor) and v.ndim > 1 else v for k, v in kinds.items()}


def _size(v: Tensor) -> float:
    return float(v.square().mean().sqrt())


def unwrap(x: Any) -> Any:
    """The tensor of a result, or the thing itself. Raises TypeError for complex tensors."""
    x = x.x if isinstance(x, Result) else x
    if isinstance(x, Tensor):
        real(x)
    return x


def picture(x: Tensor) -> Image.Image:
    """A PIL picture of (C, H, W) in [0, 1]: one channel grey, three colour."""
    if x.ndim != 3 or x.shape[0] not in (1, 3):
        raise ValueError(f"a picture has shape (1, H, W) or (3, H, W); got {tuple(x.shape)}")
    a = (x.detach().float().cpu().clamp(0, 1) * 255).round().byte().numpy()
    return Image.fromarray(a[0] if a.shape[0] == 1 else a.transpose(1, 2, 0))


def window_of(codec: Any) -> tuple[float, float] | None:
    """Of data in units (scans), what to show black and white: three standard deviations from the mean; else None."""
    if not getattr(codec, "unit", ""):
        return None
    mean, std = (float(v[0] if isinstance(v, tuple) else v) for v in (codec.mean, codec.std))
    return mean - 3 * std, mean + 3 * std


def visible(x: Tensor, window: tuple[float, float] | None) -> Tensor:
    """x for the eye: pictures as they are, what has a window brought from there to [0, 1]."""
    return x if window is None else (x - window[0]) / (window[1] - window[0])


def grid(x: Tensor, columns: int | None = None, side: int = 64, gap: int = 2) -> Image.Image:
    """Pictures (B, C, H, W) side by side on white, row by row."""
    images = [picture(v) for v in x]
    if not images:
        raise ValueError("there are no pictures to show: the batch is empty")
    w, h = images[0].size
    k = max(1, side // max(w, h))
    large = [image.resize((w * k, h * k), Image.Resampling.NEAREST) for image in images]
    return arranged(large, columns or min(len(images), max(1, ceil(sqrt(len(images))))), gap)


def arranged(images: Sequence[Image.Image], columns: int, gap: int) -> Image.Image:
    """Pictures of one size and mode in rows of so many, on white."""
    w, h = (n + gap for n in images[0].size)
    sheet = Image.new(images[0].mode, (columns * w - gap, ceil(len(images) / columns) * h - gap), "white")
    for i, image in enumerate(images):
        sheet.paste(image, (i % columns * w, i // columns * h))
    return sheet


def lines(a: Tensor, b: Tensor, points: Tensor, found: Tensor, shown: Tensor, side: int = 320) -> Image.Image:
    """Two pictures (C, H, W) side by side and lines from points (P, 2) of a to `found` in b, where `shown`."""
    k, w = max(1, side // max(a.shape[1:])), a.shape[2]
    sheet = grid(torch.stack([a, b]), 2, side).convert("RGB")
    pen = ImageDraw.Draw(sheet)
    for i, (p, q) in enumerate(zip(points.tolist(), found.tolist(), strict=True)):
        if bool(shown[i]):
            colour = ImageColor.getrgb(f"hsl({i * 360 // len(points)}, 90%, 50%)")
            ends = [(p[0] * k, p[1] * k), ((q[0] + w) * k + 2, q[1] * k)]
            pen.line(ends, fill=colour)
            for x, y in ends:
                pen.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)
    return sheet


def contact(x: Tensor, side: int = 64) -> Image.Image:
    """Clips (B, F, C, H, W) as a contact sheet: a row a clip, time running to the right."""
    return grid(x.flatten(0, 1), x.shape[1], side)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def plain(value: Any) -> Any:
    """As JSON holds it: tensors and tuples become lists, objects their representation."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, str | int | float | bool | None):
        return value
    if isinstance(value, Sequence | range):
        return [plain(v) for v in value]
    return repr(value)
