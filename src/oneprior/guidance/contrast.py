"""Guidance as a contrast of two opinions of x_0: D = D_u + w (D_c - D_u), w = 1 plain.

What the methods of this folder share: where the two opinions come from (`views`, here the same network with and without
its condition, in one call of twice the batch) and how they are joined (`combine`). A method overrides one of the two.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from oneprior.denoiser import Denoiser, Wrapper
from oneprior.guidance.scale import Scale, check_scale
from oneprior.posterior import Posterior
from oneprior.times import align


class sigma(NamedTuple):
    """An interval of sbar = sigma/alpha, (lo, hi]: `interval=sigma(0.28, 2.9)`."""

    lo: float
    hi: float

    def holds(self, den: Denoiser, t: Any) -> Any:
        a, _, s = den.schedule.at(t)
        return (self.lo * a < s) & (s <= self.hi * a)


class time(NamedTuple):
    """An interval of t, (lo, hi]."""

    lo: float
    hi: float

    def holds(self, den: Denoiser, t: Any) -> Any:
        return (self.lo < t) & (t <= self.hi)


Interval = sigma | time | None  # where guidance applies; everywhere without
Values = Mapping[str, Any] | None  # of conditions, by port


def stacked(
    den: Denoiser, x: Tensor, t: Any, conds: Sequence[Mapping[str, Any]]
) -> tuple[Posterior, tuple[Tensor, ...]]:
    """One call of `den` at (x, t) under each of k sets of conditions, the batch k times over.

    Returns the posterior under the first and the mean under each, (B, *). What is no tensor (B, ...) is shared.
    """
    k, batch = len(conds), len(x)
    many = {
        name: torch.cat([c[name] for c in conds]) if isinstance(v, Tensor) and v.ndim and len(v) == batch else v
        for name, v in conds[0].items()
    }
    if isinstance(t, Tensor) and t.ndim:
        t = torch.cat([t.expand(batch, *t.shape[1:])] * k)
    post = den(torch.cat([x] * k), t, **many)
    means = post.mean.chunk(k)
    var = None if post.var is None else post.var.chunk(k)[0]
    return post.replace(means[0], var), means


def without(cond: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """`cond` with what `other` names replaced by its value there (the null, or what to steer away from)."""
    return {k: _like(other[k], v) if k in other and isinstance(v, Tensor) else v for k, v in cond.items()}


def _like(null: Any, value: Tensor) -> Tensor:
    if null is None:
        return torch.zeros_like(value)
    null = torch.as_tensor(null, device=value.device).to(value.dtype)
    return null.expand_as(value) if null.ndim <= value.ndim else null


class Contrast(Wrapper):
    """Abstract: a guided `inner`. scale: a float, or (B,) for one a sample. interval: where guidance applies
    (`sigma(lo, hi)` or `time(lo, hi)`); elsewhere `inner` alone is asked, one call, as it is where scale = 1."""

    def __init__(self, inner: Denoiser, scale: Scale, *, interval: Interval = None, name: str = "scale") -> None:
        super().__init__(inner, density=False)
        self.scale, self.interval = check_scale(scale, name), interval
        self.plain = isinstance(self.scale, float) and self.scale == 1.0

    @abstractmethod
    def views(self, x: Tensor, t: Any, cond: dict[str, Any]) -> tuple[Posterior, tuple[Tensor, ...]]:
        """The posterior of `inner`, and the means to join, its own first."""

    def combine(self, means: tuple[Tensor, ...], x: Tensor, t: Any, cond: dict[str, Any]) -> Tensor:
        c, u = means
        return torch.lerp(u, c, align(self.scale, x))

    def posterior(self, x: Tensor, t: Any, **cond: Any) -> Posterior:
        on = True if self.interval is None else self.interval.holds(self, t)
        if self.plain or on is False or (isinstance(on, Tensor) and not bool(on.any())):
            return self.inner(x, t, **cond)
        post, means = self.views(x, t, cond)
        mean = self.combine(means, x, t, cond)
        if isinstance(on, Tensor):
            mean = torch.where(align(on, x), mean, means[0])
        return Posterior(mean, x, self.schedule, t, post.var, cond.get("y"))


class Conditional(Contrast):
    """Abstract: a contrast with `inner` without its conditions, which are dropped to its `facts.null`.

    negative: condition values to steer away from, instead of null.

    Raises:
        ValueError: when the denoiser was trained without conditions, or called without one.
    """

    def __init__(
        self, inner: Denoiser, scale: Scale, *, negative: Values = None, interval: Interval = None, name: str = "scale"
    ) -> None:
        super().__init__(inner, scale, interval=interval, name=name)
        self.other = dict(negative or inner.facts.null)
        if not self.other:
            raise ValueError(
                "guidance needs a conditional prior: this denoiser knows no null condition (facts.null is empty)"
            )

    def told(self, cond: Mapping[str, Any]) -> None:
        """Refuse a call without a condition."""
        if not any(cond.get(k) is not None for k in self.other):
            raise ValueError(f"guidance needs one of the conditions {sorted(self.other)}; none was given")

    def views(self, x: Tensor, t: Any, cond: dict[str, Any]) -> tuple[Posterior, tuple[Tensor, ...]]:
        self.told(cond)
        return stacked(self.inner, x, t, (cond, without(cond, self.other)))
