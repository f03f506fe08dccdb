"""Diffusion posterior sampling, DPS (Chung et al. 2023, arXiv 2209.14687): an ancestral step from D, then
    x_s <- x_s - zeta grad_{x_t} |y - A(D(x_t))|,
with a norm a sample. Any differentiable operator; the noise of y is not used; its spread is not calibrated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from oneprior.denoiser import Denoiser
from oneprior.operators import Measurement
from oneprior.uses.restore.settings import DPSSettings
from oneprior.uses.restore.steps import begin


def dps(
    den: Denoiser, seen: Measurement, s: DPSSettings, *, seeds: Sequence[int], progress: bool = False, **cond: Any
) -> Tensor:
    with torch.enable_grad():
        run = begin(den, seen, "ancestral", s.steps, seeds, cond, progress, grad=s.steps)
        x = run.x
        for out in run.steps:
            D, at = out.posterior.mean, out.posterior.x_t
            far = torch.linalg.vector_norm((seen.y.to(D) - seen.operator(D)).flatten(1), dim=1)
            (grad,) = torch.autograd.grad(far.sum(), at, allow_unused=True)
            x = out.x.detach() - (0 if grad is None else s.zeta * grad)
            out.x = x.requires_grad_()
    return x.detach()
