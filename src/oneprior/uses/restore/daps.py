"""Decoupled annealing, DAPS (Zhang et al. 2024, arXiv 2407.01521): at each level of noise draw x_0 given x_t and y,
then noise it anew to the next, x_s = a_s x_0 + sigma_s n. A p(x_0 | x_t, y) that is exact makes the whole exact. Three
stand for it:
    moments     N(D_y, C_y), the covariance of x_0 given x_t and y (`MMPS` with noise): exact on Gaussians
    isotropic   N(e, r^2 I) given y, e the end of a short ODE from x_t, r^2 = s^2 / (a^2 + s^2): too wide
    langevin    the same by Langevin steps, for operators that are not linear."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from oneprior import paths
from oneprior.denoiser import Denoiser
from oneprior.guidance.diffpir import Renewed
from oneprior.guidance.mmps import MMPS
from oneprior.noise import Noise, Seeded
from oneprior.operators import Measurement
from oneprior.sampling import DDIM, Sampler, sample, sampler
from oneprior.sampling.sampler import shown
from oneprior.times import align
from oneprior.uses.restore.settings import DAPSSettings


def daps(
    den: Denoiser, seen: Measurement, s: DAPSSettings, *, seeds: Sequence[int], progress: bool = False, **cond: Any
) -> Tensor:
    shape, noise = seen.operator.domain(tuple(seen.y.shape)), Seeded(seeds)
    if s.inner == "moments":
        given, by = MMPS(den, seen, noise=noise, rank=s.rank), Sampler(DDIM(Renewed(1.0)))
        return sample(given, shape, steps=s.steps, sampler=by, seeds=seeds, progress=progress, **cond)
    draw = {"isotropic": _gaussian, "langevin": _langevin}[s.inner]
    levels = sampler("ddim").path(den, max(s.steps // s.ode, 1)).matrix[:, 0].tolist()
    a, _, sigma = den.schedule.at(levels[0])
    x = x0 = sigma * noise(0, seen.y.new_empty(shape))
    for i, t in enumerate(shown(levels[:-1], len(levels) - 1, "restoring") if progress else levels[:-1]):
        low, high = den.schedule.lam(levels[-2]), den.schedule.lam(max(min(t, levels[1]), levels[-2]))
        # evenly in lam from this level to the last but one, then to 0
        inside = (
            [den.schedule.time(high + (low - high) * k / (s.ode - 1)) for k in range(1, s.ode)] if s.ode > 1 else []
        )
        way = paths.sync([t, *(v for v in inside if v < t), 0.0])
        end = sample(den, shape, path=way, sampler="ddim", seeds=seeds, start=x, **cond)
        a, _, sigma = den.schedule.at(t)
        x0 = draw(end, sigma**2 / (a * a + sigma**2), seen, s, noise, i)
        a, _, sigma = den.schedule.at(levels[i + 1])
        x = a * x0 + sigma * noise(i + 1, x0)
    return x0


def _gaussian(end: Tensor, r2: float, seen: Measurement, s: DAPSSettings, noise: Noise, i: int) -> Tensor:
    """Perturb, then solve: exact for linear operators."""
    R = torch.as_tensor(seen.variance).to(end)
    z = end + r2**0.5 * noise(i, end, "inner")
    y = seen.y + R.sqrt() * noise(i, seen.y, "measured")
    gamma: Any = r2 / R.clamp(min=1e-6 * r2)
    return seen.operator.prox(z, y, gamma)


def _langevin(end: Tensor, r2: float, seen: Measurement, s: DAPSSettings, noise: Noise, i: int) -> Tensor:
    R = torch.as_tensor(seen.variance).to(end).clamp(min=s.tau**2)
    x, least = end, float(1 / R.max())
    for k in range(s.langevin):
        A = seen.operator.at(x)
        slope = (x - end) / r2 + A.adjoint((A.value - seen.y.to(x)) / R)
        bend = (A.adjoint(A.forward(slope) / R) * slope).flatten(1).sum(1) / slope.square().flatten(1).sum(1)
        step = align(s.lr / (1 / r2 + bend.clamp(min=least)), x)
        x = x - step * slope + (2 * step).sqrt() * noise(i, x, f"langevin {k}")
    return x
