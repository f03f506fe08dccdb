"""Measured frequencies. Complex pictures are pairs of real channels, (B, *, 2, H, W) = (real, imaginary).

MRI             y = mask F x,  F orthonormal, the zero frequency at (H // 2, W // 2)
PhaseRetrieval  y = |F x|,     x padded by zeros to `oversample` times its size
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Self

import torch
from torch import Tensor

from oneprior.noise import uniform
from oneprior.operators.base import Operator
from oneprior.operators.masks import Mask
from oneprior.operators.svd import Svd


def paired(x: Tensor) -> Tensor:
    """(B, *, 2, H, W) -> complex (B, *, H, W). Raises ValueError for another number of channels."""
    if x.ndim < 4 or x.shape[-3] != 2:
        raise ValueError(f"x has shape {tuple(x.shape)}: two channels, (B, 2, H, W) = (real, imaginary), were expected")
    return torch.complex(x.select(-3, 0), x.select(-3, 1))


def fourier(x: Tensor, inverse: bool = False) -> Tensor:
    """Centred, orthonormal, from two channels to two channels."""
    axes, turn = (-2, -1), torch.fft.ifft2 if inverse else torch.fft.fft2
    f = torch.fft.fftshift(turn(torch.fft.ifftshift(paired(x), axes), norm="ortho"), axes)
    return torch.stack([f.real, f.imag], -3)


@dataclass(frozen=True, eq=False)
class MRI(Mask):
    """One coil. mask: 1 where a frequency was measured, (1, 1, H, W) or one a sample; the constructors of Mask serve.

    Example:
        >>> y = MRI.lines((2, 64, 64), acceleration=4)(x)
    """

    @classmethod
    def lines(cls, shape: tuple[int, ...], acceleration: float = 4, centre: float = 0.08, seed: int = 0) -> Self:
        """Whole columns: of W / acceleration, the share `centre` of W about the zero frequency, the rest by chance."""
        W = shape[-1]
        if not (acceleration >= 1 and 0 <= centre <= 1):
            raise ValueError(f"acceleration = {acceleration}, centre = {centre}: >= 1, and a share, were expected")
        middle = round(centre * W)
        rank = torch.from_numpy(uniform(seed, "lines", 0, (W,)))
        rank[W // 2 - middle // 2 : W // 2 - middle // 2 + middle] -= 1
        seen = rank.argsort().argsort() < max(middle, round(W / acceleration))
        return cls(seen.expand(1, 1, shape[-2], W))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(fourier(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return fourier(super().forward(y), inverse=True)

    def svd(self, x: Tensor) -> Svd:
        seen = super().forward
        return Svd(self.mask.to(x), fourier, lambda z: fourier(z, True), seen, seen)


@dataclass(frozen=True)
class PhaseRetrieval(Operator):
    """size: (H, W) of x. pairs: x is complex, two channels; otherwise real, and every channel is measured."""

    size: tuple[int, int]
    oversample: float = 2.0
    pairs: bool = False
    linear = False

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[-2:]) != self.size:
            raise ValueError(f"x has shape {tuple(x.shape)}; pictures of {self.size} were expected")
        full = [ceil(self.oversample * n) for n in self.size]
        f = torch.fft.fft2(paired(x).unsqueeze(-3) if self.pairs else x, s=full, norm="ortho")
        # the least positive number keeps the slope at 0 finite
        return (f.real.square() + f.imag.square() + torch.finfo(x.dtype).tiny).sqrt()

    def domain(self, y: tuple[int, ...]) -> tuple[int, ...]:
        return (*y[:-3], 2 if self.pairs else y[-3], *self.size)
