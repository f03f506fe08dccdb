"""Optimal reverse variance without a head for it: one number a time, measured on data (Bao et al. 2022, Analytic-DPM).

Of all Gaussians with the mean of a step, x_s = c D + rho x_t + std n is nearest to q(x_s | x_t) with the variance
    std^2 + c^2 v(t),    v(t) = E|x_0 - D(x_t, t)|^2 / d = (sigma/alpha)^2 E|eps - eps(x_t, t)|^2 / d,
over data and noise; an error of the mean counts as variance, as it should (Bao et al. 2022, imperfect mean). It matters
where steps are few: `DDIM(1.0, variance=True)`, by name "ancestral-optimal". A network with a head for its variance
(`NetworkDenoiser(variance=True)`) tells more: a number an element and x_t.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import atan2, pi
from typing import Any

import numpy as np
import torch
from torch import Tensor

from oneprior.denoiser import Denoiser, Wrapper
from oneprior.noise import normal
from oneprior.posterior import Posterior
from oneprior.sampling.grids import cosine_time
from oneprior.times import align

CHUNK = 512  # samples a network call


class Calibrated(Wrapper):
    """`inner` with Var[x_0 | x_t] = h s^2/(a^2 + s^2), h interpolated in tau = (2/pi) atan(s/a).

    tau: rising numbers in [0, 1]; h: as many, positive. Beyond their ends h stays what it is there.
    """

    def __init__(self, inner: Denoiser, tau: Sequence[float], h: Sequence[float]) -> None:
        super().__init__(inner)
        self.tau, self.h = tuple(tau), tuple(h)
        self.variance = True

    def posterior(self, x: Tensor, t: Any, **cond: Any) -> Posterior:
        post = self.inner(x, t, **cond)
        return post.replace(post.mean, align(self._var(t), x).to(x).expand_as(x))

    def _var(self, t: Any) -> Tensor:
        a, _, s = (None if v is None else np.asarray(torch.as_tensor(v).cpu(), float) for v in self.schedule.at(t))
        assert a is not None and s is not None
        h = np.interp(np.arctan2(s, a) * 2 / pi, self.tau, self.h)
        return torch.from_numpy(np.asarray(h * s * s / (a * a + s * s)))


def with_variance(
    den: Denoiser, x0: Tensor, times: Sequence[float] | None = None, *, seed: int = 0, **cond: Any
) -> Calibrated:
    """`den` that also tells its variance, one number a time, measured on x0 (N, *) in model range; one call a time.

    times: where it is measured, above 0 (24 levels of cosine time without). cond: of x0, each (N, ...). Data that `den`
    was not trained on gives the variance of new samples; a few hundred are enough.

    Example:
        >>> den = with_variance(prior.den, prior.codec.encode(x))
        >>> x = sample(den, (8, 1, 28, 28), steps=5, sampler="ancestral-optimal")

    Raises:
        ValueError: for no data, or times that are not above 0.
    """
    times = cosine_time(den.schedule, 24, den.facts.t_range[1])[:-1] if times is None else times
    if not len(x0) or not len(times) or min(times) <= 0:
        raise ValueError(f"data and times above 0 were expected; got {len(x0)} samples and times {tuple(times)}")
    table = {}
    for t in times:
        a, _, s = den.schedule.at(float(t))
        total = 0.0
        for i in range(0, len(x0), CHUNK):
            x = x0[i : i + CHUNK]
            eps = torch.from_numpy(normal(seed, f"variance {t}", range(i, i + len(x)), tuple(x.shape[1:]))).to(x)
            with torch.no_grad():
                mean = den(
                    a * x + s * den.schedule.color(eps), t, **{k: v[i : i + CHUNK] for k, v in cond.items()}
                ).mean
            total += float((x - mean).double().square().sum())
        table[atan2(s, a) * 2 / pi] = total / x0.numel() * (a * a + s * s) / (s * s)
    return Calibrated(den, *zip(*sorted(table.items()), strict=True))
