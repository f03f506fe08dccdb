"""CFG-zero* (Fan et al. 2025), for flow models: guidance on the velocity v, with D_u's velocity scaled to fit.

    v = s v_u + w (v_c - s v_u),      s = <v_c, v_u> / |v_u|^2 a sample,      and v = 0 in the first k steps,
where an undertrained velocity is worse than none. s is the multiple of v_u that is nearest to v_c. The weights do not
sum to 1, so that it is another method on D or eps: v is the schedule's own velocity, alpha' x_0 + sigma' eps.
"""

from __future__ import annotations

from math import inf
from typing import Any

import torch
from torch import Tensor

from oneprior.denoiser import Denoiser
from oneprior.guidance.contrast import Conditional, Interval, Values
from oneprior.guidance.scale import Scale
from oneprior.paths import Path
from oneprior.posterior import Posterior
from oneprior.times import align, aligned


class CFGZero(Conditional):
    """Guidance of `inner` by CFG-zero*. scale, negative, interval: as for `CFG`.

    zero: k, the number of steps of the path (its k noisiest times) with velocity 0: no network call, and under
    rectified flow x stays where it is. Asked outside a trajectory there are no such steps.

    Example:
        >>> x = sample(CFGZero(den, 4.0), (8, 3, 32, 32), steps=28, label=label)

    Raises:
        ValueError: for zero < 0, and as `CFG` does.
    """

    def __init__(
        self, inner: Denoiser, scale: Scale = 4.0, *, zero: int = 1, negative: Values = None, interval: Interval = None
    ) -> None:
        super().__init__(inner, scale, negative=negative, interval=interval)
        if not isinstance(zero, int) or zero < 0:
            raise ValueError(f"zero = {zero!r}: a number of steps >= 0 was expected")
        self.zero, self._until = zero, inf  # velocity is 0 at t > until

    def state(self, path: Path | None) -> dict[str, Any]:
        if path is None:
            return {}
        times = path.matrix.unique().flip(0).tolist()
        return {"_until": times[min(self.zero, len(times) - 1)] * (1 + 1e-6)}

    def combine(self, means: tuple[Tensor, ...], x: Tensor, t: Any, cond: dict[str, Any]) -> Tensor:
        q, k = self._line(x, t, cond)
        c, u = (q * m + k for m in means)
        dims = tuple(range(1, x.ndim))
        tiny = torch.finfo(u.dtype).tiny
        u = u * ((c * u).sum(dims, keepdim=True) / u.square().sum(dims, keepdim=True).clamp(min=tiny))
        mean = (torch.lerp(u, c, align(self.scale, x)) - k) / q
        return torch.where(q == 0, means[0], mean) if isinstance(q, Tensor) else mean

    def posterior(self, x: Tensor, t: Any, **cond: Any) -> Posterior:
        still = t > self._until
        if still is False or (isinstance(still, Tensor) and not bool(still.any())):
            return super().posterior(x, t, **cond)
        q, k = self._line(x, t, cond)
        mean = -k / q
        if still is True or bool(still.all()):
            return Posterior(mean, x, self.schedule, t, None, cond.get("y"))
        post = super().posterior(x, t, **cond)
        return post.replace(torch.where(align(still, x), mean, post.mean), post.var)

    def _line(self, x: Tensor, t: Any, cond: dict[str, Any]) -> tuple[Any, Tensor]:
        """(q, k) of v = q D + k; both 0 for what is known (sigma = 0), which then has no part in s."""
        a, b, s = aligned(self.schedule.at(t), x)
        da, db, ds = aligned(self.schedule.slope(t), x)
        if isinstance(s, Tensor):
            da, ds, s = torch.where(s > 0, da, 0), torch.where(s > 0, ds, 0), torch.where(s > 0, s, 1)
        q, k, y = da - ds * a / s, ds / s * x, cond.get("y")
        return q, k if b is None or y is None else k + (db - ds * b / s) * y
