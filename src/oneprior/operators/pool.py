"""Average pooling: y is the mean of x over blocks of r elements along each of the last axes. A A^T = I / r^dims."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from oneprior.operators.base import Operator


@dataclass(frozen=True)
class Pool(Operator):
    """r: block size; dims: how many of the last axes are pooled (2 for pictures and the frames of clips).

    Raises ValueError when an axis is not a multiple of r.
    """

    r: int
    dims: int = 2

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
