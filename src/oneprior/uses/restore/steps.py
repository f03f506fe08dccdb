"""What methods that own their step share: a start, a path, a walk whose body is theirs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from oneprior.denoiser import Denoiser
from oneprior.noise import Seeded
from oneprior.operators import Measurement
from oneprior.sampling import Sampler, Solver, Step, sampler, walk
from oneprior.sampling.sampler import _start, shown


class Run(NamedTuple):
    x: Tensor
    noise: Seeded
    steps: Iterator[Step]


def begin(
    den: Denoiser,
    seen: Measurement,
    by: str | Sampler | Solver,
    steps: int,
    seeds: Sequence[int],
    cond: dict[str, Any],
    progress: bool,
    grad: int = 0,
) -> Run:
    """The start and a walk from it; grad: of the last calls that keep a graph, from an x that asks for one."""
    by, noise = sampler(by), Seeded(seeds)
    path = by.path(den, steps)
    like = seen.y.new_empty(seen.operator.domain(tuple(seen.y.shape)))
    x = _start(den.schedule, like, path, noise, "", cond.get("y"))
    if grad:
        x.requires_grad_()
    way = walk(den, x, path, by.solver, noise, grad=grad, **cond)
    return Run(x, noise, shown(way, path.steps, "restoring") if progress else way)


def first(den: Denoiser, seen: Measurement, cond: dict[str, Any]) -> tuple[Tensor, Any]:
    """A blank sample (1, *shape) that asks for a gradient, and its posterior halfway: what can be had of a denoiser."""
    one = {k: v[:1] if isinstance(v, Tensor) and v.ndim and len(v) == len(seen.y) else v for k, v in cond.items()}
    x = seen.y.new_zeros((1, *seen.operator.domain(tuple(seen.y.shape))[1:])).requires_grad_()
    return x, den(x, 0.5 * sum(den.facts.t_range), **one)
