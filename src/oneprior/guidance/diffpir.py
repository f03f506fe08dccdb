"""DiffPIR (Zhu et al. 2023): a denoiser whose mean takes a proximal step to the data, never differentiated:
D_y = argmin_x |y - A x|^2 / (2 R) + lam (a / s)^2 |x - D|^2 / 2."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from oneprior.denoiser import Denoiser, Wrapper
from oneprior.guidance.mmps import like
from oneprior.guidance.tweedie import informed
from oneprior.operators import Measurement
from oneprior.posterior import Posterior
from oneprior.times import Time, align

MOST = 1e6  # gamma of a measurement without noise


class DiffPIR(Wrapper):
    """`inner` given a linear measurement in model range, for a batch of the size of x.

    lam: trust in the denoiser. The published sampler renews a share of the noise at each step: `DDIM(Renewed(zeta))`.

    Example:
        >>> x = sample(DiffPIR(den, Measurement(y, Pool(2), 0.1)), shape, sampler=DDIM(Renewed(0.3)), steps=100)
    """

    def __init__(self, inner: Denoiser, measurement: Measurement, lam: float = 7.0) -> None:
        if not lam > 0:
            raise ValueError(f"lam = {lam}: a number above 0 was expected")
        super().__init__(inner, density=False)
        self.measurement, self.lam = measurement, lam

    def posterior(self, x: Tensor, t: Time, **cond: Any) -> Posterior:
        post = self.inner(x, t, **cond)
        y, R = like(self.measurement, x)
        a, _, s = self.schedule.at(informed(self.schedule, t))
        R = torch.as_tensor(R).to(x).clamp(min=1e-12)
        gamma: Any = (align(s * s / (a * a), x) / (self.lam * R)).clamp(max=MOST)
        return post.replace(self.measurement.operator.prox(post.mean, y, gamma))


class Renewed(NamedTuple):
    """Stochasticity of DiffPIR: x_s = a_s D + s_s (sqrt(1 - zeta) eps + sqrt(zeta) n); 1 forgets x_t."""

    zeta: float

    def share(self, e: Tensor, s_t: Tensor, s_s: Tensor) -> Tensor:
        return torch.full_like(e, (1 - self.zeta) ** 0.5)
