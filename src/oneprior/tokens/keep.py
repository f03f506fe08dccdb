"""Keep probabilities: alpha(t), the chance that a token is still itself, from alpha(0) = 1 down.

For tokens alpha is a probability, not an amplitude, and one number a time says all: an absorbing corruption masks a
token at the moment its own uniform clock 1 - alpha passes (Zheng et al. 2024; Shi et al. 2024, MD4).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor

from oneprior.schedules import Schedule


@dataclass(frozen=True)
class Keep(ABC):
    """Abstract: declares alpha of a float64 tensor of times; `time` is its inverse."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor: ...

    def time(self, alpha: Tensor) -> Tensor:
        """The time at which a share `alpha` of tokens is kept, in [0, 1]."""
        lo, hi = torch.zeros_like(alpha), torch.ones_like(alpha)
        for _ in range(54):  # bisection to the last bit: alpha falls with t
            mid = (lo + hi) / 2
            above = self.alpha(mid) > alpha
            lo, hi = torch.where(above, mid, lo), torch.where(above, hi, mid)
        return (lo + hi) / 2


@dataclass(frozen=True)
class Linear(Keep):
    """alpha = 1 - (1 - floor) t; floor 1e-3 is MDLM's log-linear schedule (Sahoo et al. 2024)."""

    floor: float = 0.0

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - (1 - self.floor) * t

    def time(self, alpha: Tensor) -> Tensor:
        return ((1 - alpha) / (1 - self.floor)).clamp(0, 1)


@dataclass(frozen=True)
class Power(Keep):
    """alpha = 1 - t^w."""

    w: float = 2.0

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t**self.w

    def time(self, alpha: Tensor) -> Tensor:
        return (1 - alpha) ** (1 / self.w)


@dataclass(frozen=True)
class Cosine(Keep):
    """alpha = 1 - cos(pi (1 - t) / 2): few tokens go at once where few are left (MaskGIT, Chang et al. 2022; MD4)."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - torch.sin(pi / 2 * t)

    def time(self, alpha: Tensor) -> Tensor:
        return 2 / pi * torch.asin((1 - alpha).clamp(0, 1))


@dataclass(frozen=True)
class Amplitude(Keep):
    """alpha of a schedule for tensors: `Amplitude(schedules.Cosine())` is multinomial diffusion's cos(pi t / 2)."""

    schedule: Schedule

    def alpha(self, t: Tensor) -> Tensor:
        return self.schedule.coefs(t)[0]
