"""Restoration learned from pairs: draws of p(x_0 | y) by a denoiser that was trained with y beside x_0.

On an anchored schedule the chain is the published one, x_s = a_s D + b_s y + rho (x_t - a_t D - b_t y) + std n with
the schedule's own rho (`Schedule.transition`), and with a denoiser that tells its variance, exact on Gaussians at any
number of steps. Else y is a condition of ordinary sampling (SR3, Palette: Saharia et al. 2022).
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import torch
from torch import Tensor

from oneprior.denoiser import Denoiser, Wrapper
from oneprior.operators import Measurement
from oneprior.sampling import DDIM, Sampler, grids, sample
from oneprior.schedules import Own
from oneprior.uses.restore.run import Restored

STEPS = 15


def asked(given: Measurement | Tensor, known: Container[str]) -> tuple[Tensor, tuple[int, ...], dict[str, Any]]:
    """y, the shape of what is to be restored, and the condition that y is where it comes without an operator.

    Raises:
        ValueError: for y alone, asked of a prior that was not trained on pairs, or an operator of one that needs y.
    """
    if isinstance(given, Measurement):
        return given.y, given.operator.domain(tuple(given.y.shape)), {}
    if "y" not in known:
        raise ValueError("this prior was not trained on pairs: say what was done, Measurement(y, operator, noise)")
    return given, tuple(given.shape), {"y": given}


def paired(
    den: Denoiser,
    shape: tuple[int, ...],
    *,
    method: Any = "auto",
    draws: int = 1,
    steps: int | None = None,
    seeds: Sequence[int],
    progress: bool = False,
    **cond: Any,
) -> Restored:
    """Draws for a batch of `shape`; cond: ports over the batch, y of an anchored schedule among them.

    method: `auto`, or any sampler. seeds: B * draws of them, the draws of sample 0 first. Defaults to 15 steps.

    Raises:
        ValueError: for draws or steps below 1, a sampler that is not known, no y on an anchored schedule.
    """
    if draws < 1:
        raise ValueError(f"draws = {draws}: at least one was expected")
    if method == "auto" and den.schedule.at(0.5)[1] is not None:
        net: Any = den
        while isinstance(net, Wrapper):
            net = net.inner
        method = Sampler(DDIM(Own(), variance=getattr(net, "variance", False)), grids.uniform_time)
    ports, steps = {k: v.repeat_interleave(draws, 0) for k, v in cond.items()}, STEPS if steps is None else steps
    many = (shape[0] * draws, *shape[1:])
    x = sample(den, many, steps=steps, sampler=method, seeds=seeds, progress=progress, **ports)
    every = x.unflatten(0, (shape[0], draws))
    std = every.std(1) if draws > 1 else torch.zeros_like(every[:, 0])
    return Restored(every[:, 0], every.mean(1), std, steps, every)
