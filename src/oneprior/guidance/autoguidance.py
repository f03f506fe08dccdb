"""Autoguidance (Karras et al. 2024): a model guided by a bad version of itself, D = D_bad + w (D - D_bad).

The bad one is smaller, or trained for less: it errs where the good one errs, only more, and the line from it through
the good one leads to the data. No condition is dropped, so unconditional models are guided too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from oneprior.denoiser import Denoiser, with_schedule
from oneprior.guidance.contrast import Contrast, Interval
from oneprior.guidance.scale import Scale
from oneprior.posterior import Posterior


class AutoGuidance(Contrast):
    """`inner` guided by `bad`, a denoiser of the same data; both are given all conditions. Two calls a step.

    bad: its schedule may be another one. Its flaws must be of the same kind as those of `inner` (capacity, training
    time, width of the average of weights): flaws of another kind guide elsewhere. scale, interval: as for `CFG`.

    Example:
        >>> x = sample(AutoGuidance(den, early, 2.0), (8, 1, 28, 28), seeds=range(8))
    """

    def __init__(self, inner: Denoiser, bad: Denoiser, scale: Scale = 2.0, *, interval: Interval = None) -> None:
        super().__init__(inner, scale, interval=interval)
        self.bad = bad if bad.schedule == inner.schedule else with_schedule(bad, inner.schedule)
        (lo, hi), (low, high) = inner.facts.t_range, bad.facts.t_range
        axes = min(inner.facts.time_axes, bad.facts.time_axes)
        self.facts = replace(self.facts, time_axes=axes, t_range=(max(lo, low), min(hi, high)))

    def state(self, path: Any) -> dict[str, Any]:
        return {"bad": self.bad.begin(path)}

    def views(self, x: Tensor, t: Any, cond: dict[str, Any]) -> tuple[Posterior, tuple[Tensor, ...]]:
        post = self.inner(x, t, **cond)
        return post, (post.mean, self.bad(x, t, **cond).mean)
