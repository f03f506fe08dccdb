"""deepinv's physics as operators, and operators as such physics, by what they can do: nothing of deepinv is imported.

A physics has A, A_adjoint, A_dagger and prox_l2(z, y, gamma), whose objective is that of `Operator.prox`. Its noise
stays with it: give Measurement the standard deviation.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from oneprior.operators.base import Operator


@dataclass(frozen=True, eq=False)
class _Physics(Operator):
    physics: Any
    shape: tuple[int, ...]
    linear: bool = True

    def forward(self, x: Tensor) -> Tensor:
        return self.physics.A(x)

    def domain(self, y: tuple[int, ...]) -> tuple[int, ...]:
        return (y[0], *self.shape)

    def adjoint(self, y: Tensor) -> Tensor:
        self._must_be_linear("an adjoint")
        return self.physics.A_adjoint(y)

    def pinv(self, y: Tensor, iterations: int = 0) -> Tensor:
        return self.physics.A_dagger(y)

    def prox(self, z: Tensor, y: Tensor, gamma: float, iterations: int = 0) -> Tensor:
        self._must_be_linear("a proximal step in closed form")
        return self.physics.prox_l2(z, y, gamma)


def from_deepinv(physics: Any, shape: tuple[int, ...]) -> Operator:
    """A physics as an operator. shape: of a sample x, without its batch. One without A_adjoint is not linear.

    Raises:
        TypeError: for an object without A or A_dagger.
    """
    missing = [name for name in ("A", "A_dagger") if not callable(getattr(physics, name, None))]
    if missing:
        raise TypeError(f"a physics with A and A_dagger was expected; a {type(physics).__name__} has no {missing}")
    return _Physics(physics, shape, linear=callable(getattr(physics, "A_adjoint", None)))


def to_deepinv(operator: Operator, noise: float = 0.0) -> SimpleNamespace:
    """An operator with the methods that deepinv's algorithms ask of a physics (of a linear one also A_adjoint).

    noise: becomes noise_model.sigma, which some of them read; none is added. prox_l2 takes their solvers' options, and
    needs none.
    """
    physics = SimpleNamespace(
        A=operator.__call__,
        A_dagger=operator.pinv,
        A_vjp=lambda x, v: operator.at(x).adjoint(v),
        prox_l2=lambda z, y, gamma, **options: operator.prox(z, y, gamma),
        noise_model=SimpleNamespace(sigma=noise),
    )
    if operator.linear:
        physics.A_adjoint = operator.adjoint
    return physics
