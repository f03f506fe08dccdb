"""Classifier-free guidance: D = D_u + w (D_c - D_u), w = 1 plain (Ho and Salimans 2022).

Limited to an interval of sigma/alpha (Kynkaanniemi et al. 2024), outside of which only one call is paid; rescaled so
that its spread stays that of D_c: D <- phi D std(D_c)/std(D) + (1 - phi) D per sample (Lin et al. 2023).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from oneprior.denoiser import Denoiser
from oneprior.guidance.contrast import Conditional, Interval, Values, _like
from oneprior.guidance.scale import Scale, check_scale
from oneprior.posterior import Posterior
from oneprior.times import align

Guidance = float | Callable[[Denoiser], Denoiser]


def guided(den: Denoiser, guidance: Guidance) -> Denoiser:
    """`den` under a scale of classifier-free guidance (1: itself), or what a function makes of it."""
    if callable(guidance):
        return guidance(den)
    return CFG(den, check_scale(guidance, "guidance")) if guidance != 1.0 else den


class CFG(Conditional):
    """Guidance of `inner` at `scale`; conditions are dropped to `null` (the denoiser's `facts.null` by default).

    scale: a float, or (B,) for a scale a sample. negative: condition values to steer away from instead of null.
    interval: `sigma(lo, hi)` or `time(lo, hi)`, where guidance applies; elsewhere D = D_c. rescale: phi in [0, 1].

    Example:
        >>> x = sample(CFG(den, 3.0, interval=sigma(0.3, 5.0)), (8, 1, 28, 28), label=label)

    Raises:
        ValueError: when the denoiser was trained without conditions, or called without one; for a scale NaN or inf.
    """

    def __init__(
        self,
        inner: Denoiser,
        scale: Scale = 2.0,
        *,
        negative: Values = None,
        interval: Interval = None,
        rescale: float = 0.0,
    ) -> None:
        super().__init__(inner, scale, negative=negative, interval=interval)
        self.rescale = rescale
        self._ask: Callable[..., Posterior] | None = None
        self._kept: tuple[dict[str, Any], dict[str, Any] | None] | None = None

    def posterior(self, x: Tensor, t: Any, **cond: Any) -> Posterior:
        kept, double = self._kept, None
        if kept is not None:  # along one trajectory the doubled conditions are made once
            double = kept[1] if len(cond) == len(kept[0]) else None
            for k, v in cond.items():
                if kept[0].get(k, self) is not v:
                    double = None
        if double is None:
            double = self._conditions(x.shape[0], cond)
        on = True if self.interval is None else self.interval.holds(self, t)
        if self.plain or on is False or (on is not True and not bool(on.any())):
            return self.inner(x, t, **cond)
        tt = t
        if type(t) is not float and isinstance(t, Tensor) and t.ndim:
            tt = torch.cat([t.expand(len(x), *t.shape[1:])] * 2)
        post = (self._ask or self.inner.posterior)(torch.cat((x, x)), tt, **double)  # the time is checked already
        c, u = post.mean.chunk(2)
        scale = self.scale
        if type(scale) is not float:
            scale = align(scale, x)
        # without a graph the unguided half of the doubled call is nobody else's: mix in its memory (a constant mean
        # comes expanded, and has none)
        mean = torch.lerp(u, c, scale) if torch.is_grad_enabled() or not u.is_contiguous() else u.lerp_(c, scale)
        if self.rescale:
            dims = tuple(range(1, x.ndim))
            ratio = c.std(dims, keepdim=True) / mean.std(dims, keepdim=True)
            mean = mean * (1 + self.rescale * (ratio - 1))
        if on is not True:
            mean = torch.where(align(on, x), mean, c)
        # the posterior of the doubled call is ours alone: it becomes the answer
        post.mean, post.x_t, post._t = mean, x, t
        if post.y is not None:
            post.y = cond.get("y")
        if post.var is not None:
            post.var = post.var.chunk(2)[0]
        return post

    def begin(self, path: Any = None) -> Denoiser:
        twin = self.around(self.inner.begin(path))
        assert isinstance(twin, CFG)
        twin._kept, twin._ask = ({}, None), twin.inner.posterior
        return twin

    def _conditions(self, batch: int, cond: dict[str, Any]) -> dict[str, Any]:
        """Conditions of the doubled batch, guided half first; along one trajectory they are made once."""
        self.told(cond)
        double = {k: self._twice(k, v, batch) for k, v in cond.items()}
        if self._kept is not None:
            self._kept = (cond, double)
        return double

    def _twice(self, name: str, v: Any, batch: int) -> Any:
        if not isinstance(v, Tensor):
            return v
        if name in self.other:
            return torch.cat([v, _like(self.other[name], v)])
        return torch.cat([v, v]) if v.ndim and v.shape[0] == batch else v
