"""A measurement made of a known x: y = A x + noise n, or counted light; what a mask hides is left 0."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from oneprior.noise import normal
from oneprior.operators.base import Operator
from oneprior.operators.counting import Poisson
from oneprior.operators.jpeg import JPEG
from oneprior.operators.masks import Mask


def simulate(operator: Operator, x: Tensor, noise: float | Poisson, seed: int, index: Sequence[int]) -> Tensor:
    """y of x (B, *shape); the noise of sample i is a function of (seed, index[i]) alone."""
    y = operator.encoded(x) if isinstance(operator, JPEG) else operator(x)
    if isinstance(noise, Poisson):
        return noise.draw(y.clamp(min=0), seed, index)
    n = torch.from_numpy(normal(seed, "measurement", list(index), tuple(y.shape[1:]))).to(y)
    return y + noise * (operator(n) if isinstance(operator, Mask) else n)
