"""Degradation recipes: y = d_K(... d_1(x)), each step drawn anew for each sample as a pure function of (seed, index).

    Recipe.of("blur:1-2,noise:10,jpeg:30-60")       y = jpeg(blur(x) + noise), noise in levels of 255
    Recipe.of("real")                               blur, resize, noise, JPEG, twice (Wang et al. 2021, Real-ESRGAN)

A number of a step is uniform in its range LO-HI. resize: by that factor, where the range lies on both sides of 1 up
with probability .2, down with .7, else not at all; what comes out has the size that went in, and values in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from oneprior.data.source import Batch, Over, checked

if TYPE_CHECKING:
    from torch import Tensor

REAL = "blur:0.2-3,resize:0.15-1.5,noise:1-30,jpeg:30-95,blur:0.2-1.5,resize:0.3-1.2,noise:1-25,jpeg:30-95"


@dataclass(frozen=True)
class Recipe:
    """steps: (name, lo, hi). blur: standard deviation in pixels; resize: factor; noise: standard deviation in levels of
    255; jpeg: quality.

    Raises:
        ValueError: for a step that is not known or a range that is none.
    """

    steps: tuple[tuple[str, float, float], ...]

    def __post_init__(self) -> None:
        for name, lo, hi in self.steps:
            if name not in STEPS:
                raise ValueError(f"a step '{name}' is not known; one of {', '.join(STEPS)}, or 'real', was expected")
            least, most = STEPS[name][1:]
            if not least <= lo <= hi <= most:
                raise ValueError(f"{name}:{lo:g}-{hi:g}: a range within {least:g} to {most:g} was expected")

    @classmethod
    def of(cls, text: str) -> Self:
        """From NAME:LO-HI or NAME:VALUE, separated by commas; `real` stands for the published recipe."""
        steps = []
        for word in text.replace("real", REAL).split(","):
            name, _, numbers = word.strip().partition(":")
            lo, _, hi = numbers.partition("-")
            try:
                steps.append((name, float(lo), float(hi or lo)))
            except ValueError:
                raise ValueError(f"--degrade {text}: '{word}' is no NAME:LO-HI, such as blur:1-2 or jpeg:30") from None
        return cls(tuple(steps))

    def __call__(self, x: Tensor, seed: int, index: Sequence[int]) -> Tensor:
        """x (B, C, H, W) in [0, 1] -> y alike; sample i depends on x[i], seed and index[i] alone."""
        import torch

        return torch.cat([self._one(v[None], seed, int(i)) for v, i in zip(x, index, strict=True)])

    def _one(self, x: Tensor, seed: int, index: int) -> Tensor:
        from oneprior.noise import normal, uniform

        size, draws = tuple(x.shape[2:]), uniform(seed, "degrade", index, (len(self.steps), 2))
        for k, ((name, lo, hi), u) in enumerate(zip(self.steps, draws.tolist(), strict=True)):
            if name == "noise":
                n = normal(seed, f"degrade {k}", index, tuple(x.shape))
                x = x + (lo + u[0] * (hi - lo)) / 255 * x.new_tensor(n)
            else:
                x = STEPS[name][0](x, lo, hi, u, size)
        return _sized(x, size).clamp(0, 1)


def _blur(x: Tensor, lo: float, hi: float, u: list[float], size: tuple[int, ...]) -> Tensor:
    from oneprior.operators import Blur

    return Blur.gaussian(lo + u[0] * (hi - lo), boundary="replicate")(x)


def _resize(x: Tensor, lo: float, hi: float, u: list[float], size: tuple[int, ...]) -> Tensor:
    if lo < 1 < hi:
        lo, hi = (1.0, hi) if u[1] < 0.2 else (lo, 1.0) if u[1] < 0.9 else (1.0, 1.0)
    factor = lo + u[0] * (hi - lo)
    return _sized(x, tuple(max(1, round(n * factor)) for n in size))


def _sized(x: Tensor, size: tuple[int, ...]) -> Tensor:
    from torch.nn.functional import interpolate

    if tuple(x.shape[2:]) == size:
        return x
    return interpolate(x, size=size, mode="bicubic", align_corners=False, antialias=True)


def _jpeg(x: Tensor, lo: float, hi: float, u: list[float], size: tuple[int, ...]) -> Tensor:
    from oneprior.operators import JPEG

    return JPEG(round(lo + u[0] * (hi - lo))).encoded(x)


STEPS: dict[str, tuple[Any, float, float]] = {
    "blur": (_blur, 0.05, 100.0),
    "resize": (_resize, 0.01, 8.0),
    "noise": (None, 0.0, 255.0),
    "jpeg": (_jpeg, 1.0, 95.0),
}


@dataclass(frozen=True, eq=False)
class Degraded(Over):
    """A source of pairs {"x": clean, "y": degraded, ...} from clean pictures. Each picture stands in it `copies` times,
    degraded anew: sample i is picture i mod N with the draw of (seed, i)."""

    recipe: Recipe
    seed: int = 0
    copies: int = 1

    def __post_init__(self) -> None:
        if len(self.source.facts.shape) != 3:
            raise ValueError(f"pictures are degraded; samples here have shape {self.source.facts.shape}")

    def __len__(self) -> int:
        return self.copies * len(self.source)

    def batch(self, indices: Sequence[int]) -> Batch:
        """See `Source.batch`."""
        index = checked(indices, len(self), self.facts.name)
        out = self.source.batch((index % len(self.source)).tolist())
        return {**out, "y": self.recipe(out["x"], self.seed, index.tolist())}
