"""Conjugate gradients, one system a sample: M_i u_i = b_i (Hestenes and Stiefel 1952), guarded for matrices that only
ought to be symmetric positive definite, such as A V A^T + R with V from a trained network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def cg(apply: Callable[[Tensor], Tensor], b: Tensor, iterations: int, tol: float = 1e-6) -> Tensor:
    """u (B, *) with M u = b, for `apply` that maps (B, *) to M u sample by sample.

    A sample stops by itself: when its residual is below tol |b|, when a direction has no positive curvature
    (p^T M p <= 0, impossible for the matrices meant) or when a number is not finite. What it keeps is the iterate with
    its smallest residual, at worst 0. So no sample depends on the others, and none becomes NaN.
    """
    u, r, p = torch.zeros_like(b), b, b
    rr = _dot(b, b)
    best, least, goal = u, rr, rr * tol**2
    live = (rr > goal) & rr.isfinite()
    for _ in range(iterations):
        if not bool(live.any()):
            break
        q = apply(p)
        curve = _dot(p, q)
        live = live & (curve > 0) & curve.isfinite()
        step = rr / curve
        u, r_next = torch.where(live, u + step * p, u), torch.where(live, r - step * q, r)
        rr_next = _dot(r_next, r_next)
        better = live & (rr_next < least) & u.isfinite().flatten(1).all(1).reshape(rr.shape)
        best, least = torch.where(better, u, best), torch.where(better, rr_next, least)
        live = live & rr_next.isfinite() & (rr_next > goal)
        p = torch.where(live, r_next + rr_next / rr * p, 0.0)
        r, rr = r_next, rr_next
    return best


def _dot(u: Tensor, v: Tensor) -> Tensor:
    return (u * v).flatten(1).sum(1).reshape(-1, *(1,) * (u.ndim - 1))
