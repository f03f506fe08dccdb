"""Radon transform, parallel beam: y[angle, bin] = sum of the pixels that project there.

A pixel of unit side at (row i, column j) goes to the detector at j' cos(angle) + i' sin(angle) (i', j' from the centre,
i' upward) and is shared linearly by the two bins around it. So y is a line integral in pixels, every view sums to the
sum of the picture, and the adjoint reads back by the same numbers: exact by construction.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, cos, hypot, pi, sin

import torch
from torch import Tensor

from oneprior.operators.base import Operator


@dataclass(frozen=True)
class Radon(Operator):
    """x (B, *, H, W) -> y (B, *, angles, bins), bins = ceil(diagonal) + 2. size: (H, W); angles even over [0, 180)."""

    size: tuple[int, int]
    angles: int = 60

    @property
    def bins(self) -> int:
        return ceil(hypot(*self.size)) + 2

    def _view(self, k: int, like: Tensor) -> tuple[Tensor, Tensor]:
        # for every pixel the bin at its left and the share of the one at its right
        H, W = self.size
        i, j = (torch.arange(n, dtype=torch.float64, device=like.device) - (n - 1) / 2 for n in (H, W))
        at = j * cos(pi * k / self.angles) - i[:, None] * sin(pi * k / self.angles) + (self.bins - 1) / 2
        left = at.floor()
        return left.long().flatten(), (at - left).flatten().to(like.dtype)

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[-2:]) != self.size:
            raise ValueError(f"x has shape {tuple(x.shape)}; pictures of {self.size} were expected")
        flat, views = x.flatten(-2), []
        for k in range(self.angles):
            left, share = self._view(k, x)
            view = x.new_zeros(*flat.shape[:-1], self.bins)
            views.append(view.index_add(-1, left, flat * (1 - share)).index_add(-1, left + 1, flat * share))
        return torch.stack(views, -2)

    def adjoint(self, y: Tensor) -> Tensor:
        x = y.new_zeros(*y.shape[:-2], self.size[0] * self.size[1])
        for k in range(self.angles):
            left, share = self._view(k, y)
            x = x + y[..., k, left] * (1 - share) + y[..., k, left + 1] * share
        return x.unflatten(-1, self.size)

    def domain(self, y: tuple[int, ...]) -> tuple[int, ...]:
        return (*y[:-2], *self.size)
