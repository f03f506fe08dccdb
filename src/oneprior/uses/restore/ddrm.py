"""DDRM (Kawar et al. 2022, arXiv 2201.11793) and DDNM+ (Wang et al. 2023, arXiv 2212.00490): each singular direction of
A by itself. With z = A^+ y, whose noise in direction i is r_i = noise / s_i, and l = sigma_s / a_s the level to reach,
x_s / a_s is
    not measured     D + l (sqrt(1 - eta^2) eps + eta n)
    r_i <= l         D + eta_b (z - D) + sqrt(l^2 - eta_b^2 r_i^2) n
    r_i > l          D + l (sqrt(1 - eta_c^2) (z - D) / r_i + eta_c n),            eta_c = 0: DDNM+."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from oneprior.denoiser import Denoiser
from oneprior.operators import Measurement
from oneprior.times import align
from oneprior.uses.restore.settings import DDRMSettings
from oneprior.uses.restore.steps import begin


def ddrm(
    den: Denoiser, seen: Measurement, s: DDRMSettings, *, seeds: Sequence[int], progress: bool = False, **cond: Any
) -> Tensor:
    """Raises ValueError for an operator that gives no singular vectors, or a noise that differs within a sample."""
    run = begin(den, seen, "ddim", s.steps, seeds, cond, progress)
    x, parts = run.x, seen.operator.svd(run.x)
    if parts is None:
        raise ValueError(f"{type(seen.operator).__name__} gives no singular vectors (svd): use mmps or diffpir")
    if isinstance(seen.noise, Tensor) and seen.noise.numel() > len(seen.noise):
        raise ValueError("ddrm and ddnm take one noise a sample, a number or (B,): use mmps or diffpir")
    seen_by = parts.s > 1e-6 * parts.s.max()
    v = torch.where(seen_by, parts.s, 1.0)
    z = torch.where(seen_by, parts.Ut(seen.y.to(x)) / v, 0.0)
    r = align(torch.as_tensor(seen.noise).to(x), x) / v
    for out in run.steps:
        a, _, sigma = den.schedule.at(out.s)
        level, D, n = sigma / a, parts.Vt(out.mean), run.noise(out.index + 1, x, "ddrm")
        eps = parts.Vt(out.posterior.eps)
        near = s.eta_b * (z - D) + (level**2 - (s.eta_b * r) ** 2).clamp(min=0).sqrt() * n
        far = level * ((1 - s.eta_c**2) ** 0.5 * (z - D) / r + s.eta_c * n)
        free = level * ((1 - s.eta**2) ** 0.5 * eps + s.eta * n)
        out.x = x = a * parts.V(D + torch.where(seen_by, torch.where(r <= level, near, far), free))
    return x
