"""LOCO Edit (Chen et al. 2024): change one region of a sample along a direction that the denoiser itself names.

At x_t (the ODE inverted to t in [0.5, 0.7]) D is nearly linear and J of low rank. The top right singular vectors V of
the rows of J inside the region move it most; those of the rows outside, V', say what would move the rest, and
    v = (I - V' V'^T) V, normalised,     x_t' = x_t + strength v,     then the ODE back to 0.
Sign and size of the strength steer; v carries over to other samples.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from oneprior.denoiser import Denoiser
from oneprior.times import Time
from oneprior.uses.edit import decode, encode
from oneprior.uses.geometry.jacobian import Jacobian, top_svd


def directions(
    den: Denoiser, x: Tensor, t: Time, mask: Tensor, *, k: int = 1, keep: int = 5, seed: int = 0, **cond: Any
) -> Tensor:
    """Unit directions (B, k, *) at x_t = x (B, *) that change what the mask (broadcast to x) covers and, to first
    order, nothing that the `keep` strongest directions outside move. keep = 0: the plain singular vectors.

    Raises:
        ValueError: for a mask that covers all or nothing.
    """
    inside = mask.to(x.device) > 0
    if bool(inside.all()) or not bool(inside.any()):
        raise ValueError("the mask covers all or nothing: a region to change, and a rest to keep, were expected")
    V = top_svd(Jacobian(den, x, t, rows=inside, **cond), k, seed=seed).V.flatten(2)
    if keep:
        W = top_svd(Jacobian(den, x, t, rows=~inside, **cond), keep, seed=seed).V.flatten(2)
        V = V - (V @ W.mT) @ W
    return torch.nn.functional.normalize(V, dim=2).reshape(len(x), k, *x.shape[1:])


def loco(
    den: Denoiser,
    x0: Tensor,
    mask: Tensor,
    *,
    t: float = 0.6,
    strength: float = 8.0,
    keep: int = 5,
    steps: int = 50,
    index: int = 0,
    seed: int = 0,
    **cond: Any,
) -> Tensor:
    """x0 (B, *), in model range, changed within the mask along direction `index`; strength may be negative."""
    code = encode(x0, den, steps=steps, eta=0.0, start=t, **cond)
    v = directions(den, code.start, t, mask, k=index + 1, keep=keep, seed=seed, **cond)[:, index]
    return decode(replace(code, start=code.start + strength * v), den, **cond)
