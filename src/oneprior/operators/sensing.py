"""Compressed sensing: random projections, pure functions of a seed. Two families of rows.

Projections  entries N(0, 1/m), so that |A x|^2 is |x|^2 on average; of whole samples, (B, *shape) -> (B, m)
Hadamard     rows of H diag(signs), H Walsh-Hadamard and orthonormal, of every channel, (B, *, H, W) -> (B, *, m)
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod, sqrt

import torch
from torch import Tensor

from oneprior.noise import normal, uniform
from oneprior.operators.base import Operator
from oneprior.operators.separable import Separable
from oneprior.operators.svd import Svd


@dataclass(frozen=True)
class Projections(Separable):
    """m <= N rows for samples of `shape`, of N numbers. The rows and their singular vectors are kept: N up to 10^4."""

    shape: tuple[int, ...]
    m: int
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.m <= prod(self.shape):
            raise ValueError(f"m = {self.m}: from 1 to {prod(self.shape)} projections of {self.shape} were expected")

    @property
    def along_axes(self) -> tuple[int, ...]:
        return (-1,)

    def matrix(self, n: int) -> Tensor:
        if n != prod(self.shape):
            raise ValueError(f"x has samples of {n} numbers; {self.shape} was expected")
        return torch.from_numpy(normal(self.seed, "projections", 0, (self.m, n))).double() / sqrt(self.m)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1))

    def adjoint(self, y: Tensor) -> Tensor:
        parts = self.svd(y)
        return parts.V(parts.s * parts.Ut(y))

    def domain(self, y: tuple[int, ...]) -> tuple[int, ...]:
        return (y[0], *self.shape)

    def svd(self, x: Tensor) -> Svd:
        flat = super().svd(x.new_empty(1, prod(self.shape)))
        return flat._replace(Vt=lambda x: flat.Vt(x.flatten(1)), V=lambda z: flat.V(z).reshape(len(z), *self.shape))


@dataclass(frozen=True)
class Hadamard(Operator):
    """A A^T = I. size: (H, W). Raises ValueError unless H W is a power of 2 and 1 <= m <= H W."""

    size: tuple[int, int]
    m: int
    seed: int = 0

    def __post_init__(self) -> None:
        n = prod(self.size)
        if n & (n - 1) or not 1 <= self.m <= n:
            raise ValueError(f"size {self.size}, m = {self.m}: H W a power of 2 and 1 <= m <= H W were expected")

    def forward(self, x: Tensor) -> Tensor:
        parts = self.svd(x)
        return parts.U(parts.Vt(x))

    def adjoint(self, y: Tensor) -> Tensor:
        parts = self.svd(y)
        return parts.V(parts.Ut(y))

    def pinv(self, y: Tensor, iterations: int = 0) -> Tensor:
        return self.adjoint(y)

    def domain(self, y: tuple[int, ...]) -> tuple[int, ...]:
        return (*y[:-1], *self.size)

    def svd(self, x: Tensor) -> Svd:
        n = prod(self.size)
        u = torch.from_numpy(uniform(self.seed, "hadamard", 0, (2, n))).to(x.device)
        signs, rows = torch.where(u[0] < 0.5, 1, -1).to(x.dtype), u[1].argsort()[: self.m]
        return Svd(
            x.new_zeros(n).index_fill(0, rows, 1.0),
            lambda x: _walsh(signs * x.flatten(-2)),
            lambda z: (signs * _walsh(z)).unflatten(-1, self.size),
            lambda y: y.new_zeros(*y.shape[:-1], n).index_copy(-1, rows, y),
            lambda z: z[..., rows],
        )


def _walsh(x: Tensor) -> Tensor:
    n, width = x.shape[-1], 1
    while width < n:
        a, b = x.unflatten(-1, (-1, 2, width)).unbind(-2)
        x, width = torch.stack([a + b, a - b], -2).flatten(-3), 2 * width
    return x / sqrt(n)
