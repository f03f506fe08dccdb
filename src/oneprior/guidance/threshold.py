"""Thresholding of D where data have a known range, such as pixels in [-1, 1].

Dynamic (Saharia et al. 2022, Imagen): with r the q-quantile of |D| over a sample, at least the limit L,
    D <- clip(D, -r, r) L / r;
static: D <- clip(D, -L, L). High guidance scales push D out of range, and step by step x with it.
"""

from __future__ import annotations

from math import floor
from typing import Any

import torch
from torch import Tensor

from oneprior.denoiser import Denoiser, Wrapper
from oneprior.posterior import Posterior


class Threshold(Wrapper):
    """`inner` with its mean held in [-limit, limit] (model range), sample by sample; goes outside guidance.

    quantile: q in (0, 1), or None for the static clip. Not for latent codes, which have no range.

    Example:
        >>> x = sample(Threshold(CFG(den, 8.0)), (8, 3, 32, 32), label=label)

    Raises:
        ValueError: for a quantile outside (0, 1), or a limit that is not positive.
    """

    def __init__(self, inner: Denoiser, quantile: float | None = 0.995, *, limit: float = 1.0) -> None:
        if not (quantile is None or 0 < quantile < 1) or not 0 < limit < float("inf"):
            raise ValueError(f"quantile = {quantile}, limit = {limit}: a share in (0, 1) and a limit > 0 were expected")
        super().__init__(inner, density=False)
        self.quantile, self.limit = quantile, float(limit)

    def posterior(self, x: Tensor, t: Any, **cond: Any) -> Posterior:
        post = self.inner(x, t, **cond)
        if self.quantile is None:
            mean = post.mean.clamp(-self.limit, self.limit)
        else:
            size = _quantile(post.mean.abs().flatten(1), self.quantile).reshape(-1, *(1,) * (x.ndim - 1))
            r = size.clamp(min=self.limit)
            mean = torch.minimum(torch.maximum(post.mean, -r), r) * (self.limit / r)
        return post.replace(mean, post.var)


def _quantile(v: Tensor, q: float) -> Tensor:
    """(B,) of (B, d), linear between order statistics; torch.quantile takes no more than 2^24 numbers."""
    place = q * (v.shape[1] - 1)
    top = v.topk(v.shape[1] - floor(place), sorted=True).values  # from the largest down to the one below the place
    return torch.lerp(top[:, -1], top[:, max(-2, -top.shape[1])], place - floor(place))
