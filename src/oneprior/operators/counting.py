"""Counted light: y = k / peak with k ~ Poisson(peak A(x_0)), so that the variance of y is A(x_0) / peak.

peak: counts where A(x_0) = 1. y is in the units of A(x_0), as with Gaussian noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from oneprior.noise import uniform


@dataclass(frozen=True, eq=False)
class Poisson:
    """A law of y given A(x_0). unit, zero: of the y at hand, counts are peak (unit y + zero); they follow a change of
    units, and are 1 and 0 for pictures.

    Raises ValueError for a peak that is not above 0.
    """

    peak: float
    unit: float = 1.0
    zero: float | Tensor = 0.0

    def __post_init__(self) -> None:
        if not self.peak > 0:
            raise ValueError(f"peak = {self.peak}: the counts at A(x_0) = 1, a number above 0, were expected")

    def _counts(self, y: Tensor) -> Tensor:
        zero = self.zero.to(y) if isinstance(self.zero, Tensor) else self.zero
        return self.peak * (self.unit * y + zero)

    def draw(self, clean: Tensor, seed: int, index: Sequence[int]) -> Tensor:
        """y given clean = A(x_0) >= 0, (B, *); row i is a pure function of (seed, index[i]) and its rates."""
        if bool((clean < 0).any()):
            raise ValueError(f"light is not negative; got {float(clean.min()):.3g}")
        rows = []
        for i, row in zip(index, clean, strict=True):
            key = int(float(uniform(seed, "poisson", i)) * 2**53)
            rows.append(np.random.default_rng(key).poisson((self.peak * row).double().cpu().numpy()))
        return torch.from_numpy(np.stack(rows)).to(clean) / self.peak

    def std(self, y: Tensor) -> Tensor:
        """The standard deviation that y itself suggests, sqrt(max(k, 1)) / (peak unit), like y."""
        return self._counts(y).clamp(min=1).sqrt() / (self.peak * self.unit)

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        """log P(counts) (B,), given clean = A(x_0) in the units of y; -inf where light was counted and none is due."""
        k, rate = self._counts(y).round(), self._counts(clean).clamp(min=0)
        return (torch.xlogy(k, rate) - rate - torch.lgamma(k + 1)).flatten(1).sum(1)

    def moved(self, unit: float, zero: float | Tensor) -> Self:
        """The law of v, where y = unit v + zero."""
        return replace(self, unit=self.unit * unit, zero=self.unit * zero + self.zero)

    def repeat(self, n: int) -> Self:
        return replace(self, zero=each(self.zero, n))


def each(v: float | Tensor, n: int) -> float | Tensor:
    """Every sample of v n times in a row, where v has one a sample."""
    return v.repeat_interleave(n, 0) if isinstance(v, Tensor) and v.ndim and len(v) > 1 else v
