"""Separable blur: y = x * (k_1 x k_2 ...), the same taps along each of some axes, y of the size of x.

All kernels have gain 1 (a constant stays as it is) and every tap that they name. Published "deblur" figures of the
DDRM family are for others: its 9-tap box drops the last tap, gain 8/9 an axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, exp
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from oneprior.operators.base import Operator
from oneprior.operators.separable import Separable

BOUNDARIES = {"reflect": "reflect", "circular": "circular", "replicate": "replicate", "zero": "constant"}


@dataclass(frozen=True)
class Blur(Separable):
    """taps: the kernel, centred (of an even number, the later of the two middle taps is the centre).

    axes: along which, from the end; boundary: what lies outside the picture, reflect, circular, replicate or zero.
    """

    taps: tuple[float, ...]
    axes: tuple[int, ...] = (-2, -1)
    boundary: str = "reflect"

    def __post_init__(self) -> None:
        if self.boundary not in BOUNDARIES:
            raise ValueError(f"boundary '{self.boundary}' is not known; one of {sorted(BOUNDARIES)} was expected")
        if not self.taps or any(axis >= 0 for axis in self.axes):
            raise ValueError(f"a blur needs taps, and axes counted from the end; got {self.taps} along {self.axes}")

    @classmethod
    def gaussian(cls, std: float, taps: int | None = None, boundary: str = "reflect") -> Self:
        """Standard deviation in pixels; taps out to 3 std unless said."""
        n = 2 * ceil(3 * std) + 1 if taps is None else taps
        return cls(_normal([exp(-0.5 * ((i - n // 2) / std) ** 2) for i in range(n)]), boundary=boundary)

    @classmethod
    def box(cls, width: int, boundary: str = "reflect") -> Self:
        """The mean over width x width pixels."""
        return cls(_normal([1.0] * width), boundary=boundary)

    @classmethod
    def motion(cls, length: int, axis: int = -1, boundary: str = "reflect") -> Self:
        """The mean over `length` pixels along one axis: an even motion along the rows (-1) or columns (-2)."""
        return cls(_normal([1.0] * length), (axis,), boundary)

    @property
    def along_axes(self) -> tuple[int, ...]:
        return self.axes

    def matrix(self, n: int) -> Tensor:
        return replace(self, axes=(-1,)).forward(torch.eye(n, dtype=torch.float64)[:, None]).squeeze(1).T

    adjoint = Operator.adjoint  # few taps, where the matrix is full
    pinv = Operator.pinv  # conjugate gradients stop before noise is divided by small s; exact: svd(x).pinv(y)

    def forward(self, x: Tensor) -> Tensor:
        n = len(self.taps)
        # conv1d correlates: with the kernel turned round, tap i moves a point by i - n // 2
        kernel = torch.tensor(self.taps[::-1], dtype=x.dtype, device=x.device).reshape(1, 1, n)
        for axis in self.axes:
            rows = x.movedim(axis, -1)
            if self.boundary == "reflect" and n // 2 >= rows.shape[-1]:
                raise ValueError(f"{n} taps reflect beyond an axis of {rows.shape[-1]}: use fewer, or another boundary")
            flat = F.pad(rows.reshape(-1, 1, rows.shape[-1]), ((n - 1) // 2, n // 2), BOUNDARIES[self.boundary])
            x = F.conv1d(flat, kernel).reshape(rows.shape).movedim(-1, axis)
        return x


def _normal(taps: Sequence[float]) -> tuple[float, ...]:
    return tuple(tap / sum(taps) for tap in taps)
