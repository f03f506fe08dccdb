"""Colour lost: grey y = w . (r, g, b), and the Bayer mosaic, of which every pixel saw one colour."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from oneprior.operators.base import Operator
from oneprior.operators.separable import Separable
from oneprior.operators.svd import Svd


@dataclass(frozen=True)
class Colourise(Separable):
    """x (B, *, 3, H, W) -> grey (B, *, 1, H, W), whose inverse problem is to colourise.

    weights: the mean of the channels, as in the DDRM family; (0.299, 0.587, 0.114) is the luma of ITU-R BT.601.
    """

    weights: tuple[float, ...] = (1 / 3, 1 / 3, 1 / 3)

    @property
    def along_axes(self) -> tuple[int, ...]:
        return (-3,)

    def matrix(self, n: int) -> Tensor:
        if n != len(self.weights):
            raise ValueError(f"x has {n} channels and {len(self.weights)} weights stand for them")
        return torch.tensor([self.weights], dtype=torch.float64)

    def domain(self, y: tuple[int, ...]) -> tuple[int, ...]:
        return (*y[:-3], len(self.weights), *y[-2:])


@dataclass(frozen=True)
class Demosaic(Operator):
    """x (B, *, 3, H, W) -> mosaic (B, *, 1, H, W). pattern: colours of a 2 x 2 block, row by row."""

    pattern: str = "rggb"

    def __post_init__(self) -> None:
        if sorted(self.pattern) != sorted("rggb"):
            raise ValueError(f"pattern '{self.pattern}': one r, one b and two g were expected, as 'rggb'")

    def _seen(self, x: Tensor, H: int, W: int) -> Tensor:
        colour = torch.tensor(["rgb".index(c) for c in self.pattern], device=x.device).reshape(2, 2)
        rows, cols = (torch.arange(n, device=x.device) % 2 for n in (H, W))
        return torch.stack([colour[rows][:, cols] == c for c in range(3)]).to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim < 4 or x.shape[-3] != 3:
            raise ValueError(f"x has shape {tuple(x.shape)}: pictures of 3 channels, (B, 3, H, W), were expected")
        return (x * self._seen(x, *x.shape[-2:])).sum(-3, keepdim=True)

    def adjoint(self, y: Tensor) -> Tensor:
        return y * self._seen(y, *y.shape[-2:])

    def domain(self, y: tuple[int, ...]) -> tuple[int, ...]:
        return (*y[:-3], 3, *y[-2:])

    def svd(self, x: Tensor) -> Svd:
        return Svd(self._seen(x, *x.shape[-2:]), lambda x: x, lambda z: z, self.adjoint, self.forward)
