"""Downsampling by a whole factor r, gain 1.

Pool: the mean over blocks of r elements along each of the last axes; A A^T = I / r^dims.
Bicubic: an antialiased filter of 4 r taps an axis, with Pillow's convention: Keys' cubic (1981) with a = -1/2, taps
outside the picture left out and the rest normalised. MATLAB's imresize mirrors the picture there; inside they agree.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from oneprior.operators.separable import Separable


@dataclass(frozen=True)
class Pool(Separable):
    """r: block size; dims: how many of the last axes are pooled (2 for pictures and the frames of clips).

    Raises ValueError when an axis is not a multiple of r.
    """

    r: int
    dims: int = 2

    @property
    def along_axes(self) -> tuple[int, ...]:
        return tuple(range(-self.dims, 0))

    def matrix(self, n: int) -> Tensor:
        return torch.eye(n // self.r, dtype=torch.float64).repeat_interleave(self.r, 1) / self.r

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim <= self.dims or any(n % self.r for n in x.shape[-self.dims :]):
            raise ValueError(f"x has shape {tuple(x.shape)}: its last {self.dims} axes must be multiples of {self.r}")
        for axis in range(x.ndim - self.dims, x.ndim):
            x = x.unflatten(axis, (-1, self.r)).mean(axis + 1)
        return x

    def domain(self, y: tuple[int, ...]) -> tuple[int, ...]:
        return (*y[: -self.dims], *(n * self.r for n in y[-self.dims :]))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.pinv(y) / self.r**self.dims

    def pinv(self, y: Tensor, iterations: int = 0) -> Tensor:
        for axis in range(y.ndim - self.dims, y.ndim):
            y = y.repeat_interleave(self.r, axis)
        return y

    def prox(self, z: Tensor, y: Tensor, gamma: float, iterations: int = 0) -> Tensor:
        # A A^T is a multiple of the identity: z + A^T (A A^T + 1/gamma)^-1 (y - A z)
        return z + self.adjoint(y - self(z)) / (self.r**-self.dims + 1 / gamma)


@dataclass(frozen=True)
class Bicubic(Separable):
    """r: the factor; x (B, *, r H, r W) -> y (B, *, H, W). Raises ValueError when an axis is not a multiple of r."""

    r: int

    def matrix(self, n: int) -> Tensor:
        if n % self.r:
            raise ValueError(f"an axis of {n} elements does not shrink by {self.r}: it must be a multiple of that")
        at, to = (torch.arange(k, dtype=torch.float64) + 0.5 for k in (n, n // self.r))
        t = (at / self.r - to[:, None]).abs()
        near, far = (1.5 * t - 2.5) * t * t + 1, ((-0.5 * t + 2.5) * t - 4) * t + 2
        M = torch.where(t < 1, near, torch.where(t < 2, far, 0.0))
        return M / M.sum(1, keepdim=True)

    def domain(self, y: tuple[int, ...]) -> tuple[int, ...]:
        return (*y[:-2], y[-2] * self.r, y[-1] * self.r)
