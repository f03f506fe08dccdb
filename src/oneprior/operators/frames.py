"""An operator of pictures on every frame of a clip: y_f = A(x_f), (B, F, C, H, W) -> (B, F, *)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from oneprior.operators.base import Operator


@dataclass(frozen=True, eq=False)
class EachFrame(Operator):
    """`operator`, one of pictures that is the same for every sample, frame by frame.

    Example:
        >>> out = restore(den, Measurement(y, EachFrame(Pool(2)), 0.05))  # y (B, F, C, H / 2, W / 2)
    """

    operator: Operator

    @property
    def linear(self) -> bool:  # type: ignore[override]
        return self.operator.linear

    @property
    def span(self) -> tuple[float, float] | None:  # type: ignore[override]
        return self.operator.span

    def forward(self, x: Tensor) -> Tensor:
        return _framed(self.operator.forward, x)

    def domain(self, y: tuple[int, ...]) -> tuple[int, ...]:
        return (*y[:2], *self.operator.domain((y[0] * y[1], *y[2:]))[1:])

    def adjoint(self, y: Tensor) -> Tensor:
        return _framed(self.operator.adjoint, y)

    def pinv(self, y: Tensor, iterations: int = 200) -> Tensor:
        return _framed(self.operator.pinv, y)

    def prox(self, z: Tensor, y: Tensor, gamma: float, iterations: int = 200) -> Tensor:
        return self.operator.prox(z.flatten(0, 1), y.flatten(0, 1), gamma).unflatten(0, z.shape[:2])


def _framed(f: Callable[[Tensor], Any], x: Tensor) -> Tensor:
    if x.ndim < 3:
        raise ValueError(f"frames of clips (B, F, ...) were expected; got {tuple(x.shape)}")
    return f(x.flatten(0, 1)).unflatten(0, x.shape[:2])
