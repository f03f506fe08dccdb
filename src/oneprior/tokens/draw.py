"""The one categorical draw: x = min {k : sum_{i <= k} p_i > u sum_i p_i}, inverse CDF in float64.

Argmax of log p + Gumbel with float32 uniforms never sees an exponential below 2^-24: a class of probability e beside a
likely one is drawn with e x / (exp(x) - 1), x = 2^-24 / e, instead of e, which lowers the temperature without a word
(Zheng et al. 2024). Uniforms here come from the seed of a sample and an address, so sample i depends on its seed alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from oneprior import noise


@dataclass(frozen=True)
class Coins:
    """Uniform float64 numbers in [0, 1) of a batch whose sample i has seed `seeds[i]`.

    Example:
        >>> u = Coins(range(8))(0, "value", (64,))  # (8, 64)
    """

    seeds: tuple[int, ...]

    def __init__(self, seeds: Iterable[int]) -> None:
        object.__setattr__(self, "seeds", tuple(int(s) for s in seeds))

    def __call__(self, stage: int, name: str, shape: tuple[int, ...]) -> Tensor:
        rows = noise.uniforms(self.seeds, stage, name, shape)
        return torch.from_numpy(rows)


def categorical(p: Tensor, u: Tensor) -> Tensor:
    """Symbols (...) of laws p (..., V), which need not be normalised, at uniform numbers u (...) in [0, 1).

    p (V,) is one law for all of u. A class of probability 0 is never drawn. p of any floating type is taken to float64
    first.

    Raises:
        ValueError: for a law without mass, or with one that is not finite.
    """
    cdf = p.double().cumsum(-1)
    total = cdf[..., -1]
    if p.is_cpu and not bool((total > 0).all() & total.isfinite().all()):
        raise ValueError("a law without mass, or with one that is not finite, cannot be drawn from")
    # u total may round up to total itself, which no class answers to
    target = torch.minimum(u.to(cdf) * total, torch.nextafter(total, torch.zeros_like(total)))
    if p.ndim == 1:
        return torch.searchsorted(cdf, target.contiguous(), right=True)
    return torch.searchsorted(cdf, target[..., None].contiguous(), right=True)[..., 0]
