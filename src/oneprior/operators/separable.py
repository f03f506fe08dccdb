"""Separable operators: one matrix M (m, n) along each of some axes, y = (M x M x ...) x.

The singular values of a Kronecker product are the products of those of its factors: a small decomposition an axis.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from functools import lru_cache, partial

import torch
from torch import Tensor

from oneprior.operators.base import Operator
from oneprior.operators.svd import Svd, along


class Separable(Operator):
    """Abstract: declares `matrix`, and `along_axes` unless they are those of pictures. Instances are hashable."""

    @property
    def along_axes(self) -> tuple[int, ...]:
        """Counted from the end."""
        return -2, -1

    @abstractmethod
    def matrix(self, n: int) -> Tensor:
        """(m, n), float64, m <= n: what is done along an axis of n elements."""

    def forward(self, x: Tensor) -> Tensor:
        return _product([_matrix(self, x.shape[axis]) for axis in self.along_axes], self.along_axes, x)

    def adjoint(self, y: Tensor) -> Tensor:
        shape = self.domain(tuple(y.shape))
        return _product([_matrix(self, shape[axis]).T for axis in self.along_axes], self.along_axes, y)

    def pinv(self, y: Tensor, iterations: int = 0) -> Tensor:
        return self.svd(y.new_empty(self.domain(tuple(y.shape)))).pinv(y)

    def svd(self, x: Tensor) -> Svd:
        axes = self.along_axes
        U, values, Vt = zip(*(_svd(self, x.shape[axis]) for axis in axes), strict=True)
        s = torch.ones((), dtype=torch.float64)
        for axis, v in zip(axes, values, strict=True):
            s = s * v.reshape(-1, *(1,) * (-axis - 1))
        Ms = (Vt, [M.T for M in Vt], [M.T for M in U], U)
        return Svd(s.to(x), *(partial(_product, M, axes) for M in Ms))


def _product(matrices: Iterable[Tensor], axes: tuple[int, ...], x: Tensor) -> Tensor:
    for M, axis in zip(matrices, axes, strict=True):
        x = along(M, x, axis)
    return x


@lru_cache(maxsize=64)
def _matrix(op: Separable, n: int) -> Tensor:
    return op.matrix(n)


@lru_cache(maxsize=64)
def _svd(op: Separable, n: int) -> tuple[Tensor, Tensor, Tensor]:
    # U (m, n) and s (n,) end in zeros for what is not seen; V^T (n, n)
    U, s, Vt = torch.linalg.svd(_matrix(op, n))
    more = n - len(s)
    s = torch.where(s > 1e-12 * s[0], s, 0.0)
    return torch.cat([U, U.new_zeros(len(U), more)], 1), torch.cat([s, s.new_zeros(more)]), Vt
