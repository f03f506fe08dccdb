"""Circular convolution with any kernel k (h, w): y = k * x, the same for every channel. F y = F k . F x.

The kernel has gain 1 unless the caller's has another; its centre is tap (h // 2, w // 2). Singular vectors are real:
with P the phases of F k and H the Hartley transform (H x = Re F x - Im F x, H H = I), A = P H |F k| H.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, cos, pi, sin
from typing import Self

import torch
from torch import Tensor

from oneprior.noise import normal
from oneprior.operators.base import Operator
from oneprior.operators.svd import Svd


@dataclass(frozen=True, eq=False)
class Convolve(Operator):
    """kernel (h, w), no larger than the picture.

    Example:
        >>> y = Convolve.motion(9, 30)(x)
    """

    kernel: Tensor

    def __post_init__(self) -> None:
        if self.kernel.ndim != 2:
            raise ValueError(f"a kernel (h, w) was expected; got shape {tuple(self.kernel.shape)}")

    @classmethod
    def motion(cls, length: float, angle: float) -> Self:
        """A straight even motion over `length` pixels, `angle` degrees anticlockwise from the rows."""
        along = torch.linspace(-1, 1, 16 * ceil(length) + 1, dtype=torch.float64) * max(length - 1, 0) / 2
        return cls(_drawn(-sin(pi * angle / 180) * along, cos(pi * angle / 180) * along))

    @classmethod
    def shake(cls, size: int, seed: int = 0) -> Self:
        """A shaking hand: a smooth random path, a pure function of the seed, that fills `size` pixels at its widest."""
        path = torch.from_numpy(normal(seed, "shake", 0, (2, 16 * size))).double().cumsum(1).cumsum(1)
        low, high = path.amin(1, keepdim=True), path.amax(1, keepdim=True)
        y, x = (path - (low + high) / 2) / (high - low).max() * (size - 1)
        return cls(_drawn(y, x))

    def forward(self, x: Tensor) -> Tensor:
        return _filtered(x, self._transfer(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return _filtered(y, self._transfer(y).conj())

    def svd(self, x: Tensor) -> Svd:
        k = self._transfer(x)
        s = k.abs()
        s = torch.where(s > 16 * torch.finfo(x.dtype).eps * s.max(), s, 0.0)
        phase = torch.where(s > 0, k / torch.where(s > 0, s, 1.0), 1.0)
        Ut, U = lambda y: _hartley(_filtered(y, phase.conj())), lambda z: _filtered(_hartley(z), phase)
        return Svd(s, _hartley, _hartley, Ut, U)

    def _transfer(self, x: Tensor) -> Tensor:
        (h, w), (H, W) = self.kernel.shape, x.shape[-2:]
        if h > H or w > W:
            raise ValueError(f"a kernel of {h} x {w} is larger than a picture of {H} x {W}")
        k = torch.nn.functional.pad(self.kernel.to(x), (0, W - w, 0, H - h)).roll((-(h // 2), -(w // 2)), (0, 1))
        return torch.fft.fft2(k)


def _filtered(x: Tensor, k: Tensor) -> Tensor:
    return torch.fft.ifft2(torch.fft.fft2(x) * k).real


def _hartley(x: Tensor) -> Tensor:
    f = torch.fft.fft2(x, norm="ortho")
    return f.real - f.imag


def _drawn(y: Tensor, x: Tensor) -> Tensor:
    # points spread over the four pixels around each, in the smallest odd square about 0, gain 1
    r = ceil(float(torch.stack([y, x]).abs().max()) - 1e-9)
    at = torch.arange(-r, r + 1, dtype=torch.float64)
    rows, cols = ((1 - (at[:, None] - v).abs()).clamp(min=0) for v in (y, x))
    return rows @ cols.T / len(y)
