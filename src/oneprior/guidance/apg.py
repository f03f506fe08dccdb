"""Adaptive projected guidance, APG (Sadat et al. 2024): the part of the update along D_c over-saturates, so leave it.

    d = D_c - D_u + m d_before,    d <- d min(1, r / |d|),    d = par + orth (along D_c, and the rest),
    D = D_c + (w - 1) (orth + eta par),
all a sample. It is defined on D: on eps or velocity it is another method. eta = 1, r = inf, m = 0 is plain guidance.
"""

from __future__ import annotations

from math import inf
from typing import Any

import torch
from torch import Tensor

from oneprior.denoiser import Denoiser
from oneprior.guidance.contrast import Conditional, Interval, Values
from oneprior.guidance.scale import Scale, check_scale
from oneprior.times import align


class APG(Conditional):
    """Guidance of `inner` by APG. scale, negative, interval: as for `CFG`.

    eta: how much of the parallel part is kept. norm: r, the longest update a sample, in model range (it grows with the
    root of the number of elements; the paper takes 2.5 to 15 for latents of 4 x 64 x 64). momentum: m, negative in the
    paper (-0.5, -0.75): what was already done is done less. The momentum of a trajectory lives in what `begin` returns
    and moves with every guided call (so gradient checkpointing, which asks twice, is not for it); asked outside a
    trajectory there is none.

    Example:
        >>> x = sample(APG(den, 8.0, norm=5.0, momentum=-0.5), (8, 3, 32, 32), label=label)

    Raises:
        ValueError: for scale, eta or momentum not finite, norm not positive, and as `CFG` does.
    """

    def __init__(
        self,
        inner: Denoiser,
        scale: Scale = 4.0,
        *,
        eta: float = 0.0,
        norm: float = inf,
        momentum: float = 0.0,
        negative: Values = None,
        interval: Interval = None,
    ) -> None:
        super().__init__(inner, scale, negative=negative, interval=interval)
        if not norm > 0:
            raise ValueError(f"norm = {norm}: a positive length was expected (inf for none)")
        self.eta, self.momentum = check_scale(eta, "eta"), check_scale(momentum, "momentum")
        self.norm, self._run = float(norm), None

    def state(self, path: Any) -> dict[str, Any]:
        return {"_run": [] if self.momentum else None}

    def combine(self, means: tuple[Tensor, ...], x: Tensor, t: Any, cond: dict[str, Any]) -> Tensor:
        c, u = means
        d = c - u
        if self._run is not None:
            if self._run:
                d = d + self.momentum * self._run.pop()
            self._run.append(d)
        dims = tuple(range(1, x.ndim))
        if self.norm < inf:
            length = d.square().sum(dims, keepdim=True).sqrt()
            d = d * (self.norm / length).clamp(max=1.0)
        size = c.square().sum(dims, keepdim=True).clamp(min=torch.finfo(c.dtype).tiny)
        along = (d * c).sum(dims, keepdim=True) / size
        return c + (align(self.scale, x) - 1) * (d + (self.eta - 1) * along * c)
