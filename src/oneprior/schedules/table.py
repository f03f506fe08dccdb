"""Discrete chains: abar_k = prod (1 - beta_i) for k = 0 .. T - 1, as published checkpoints were trained with."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from functools import lru_cache
from math import pi

import torch
from torch import Tensor

from oneprior.schedules.base import Schedule


@dataclass(frozen=True)
class Table(Schedule):
    """Abstract: a discrete chain of T steps, abar_k = prod (1 - beta_i); index k is the time (k + 1) / T.

    Between the indices log abar is linear, that is beta(t) constant over a step: exact at every index, 1 at t = 0.
    """

    T: int = 1000
    zero_snr: bool = field(default=False, kw_only=True)

    @abstractmethod
    def betas(self) -> Tensor: ...

    def log_abar(self) -> Tensor:
        """(T + 1,) float64, starting with log abar = 0 at t = 0; -inf at the end with zero terminal SNR."""
        return _table(self)

    def coefs(self, t: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        g = self.log_abar().to(t.device)
        k = (t.detach() * self.T).floor().clamp(max=self.T - 1).long()
        w = t * self.T - k
        lo, hi = g[k], g[k + 1]
        half = torch.where(w >= 1, hi, lo + w * torch.where(hi.isinf(), -50.0, hi - lo)) / 2
        return half.exp(), None, (-torch.expm1(2 * half)).clamp(min=0).sqrt()


@lru_cache(maxsize=64)
def _table(schedule: Table) -> Tensor:
    g = torch.log1p(-schedule.betas()).cumsum(0)
    if schedule.zero_snr:
        a = (g / 2).exp()
        a = (a - a[-1]) * a[0] / (a[0] - a[-1])  # Lin et al. 2023: the last alpha is 0, the first is kept
        g = 2 * a.log()
    return torch.cat([torch.zeros(1, dtype=torch.float64), g])


@dataclass(frozen=True)
class LinearBetas(Table):
    """DDPM: beta linear from 1e-4 to 0.02 at T = 1000, scaled by 1000 / T otherwise (Ho et al. 2020)."""

    first: float = 1e-4
    last: float = 0.02

    def betas(self) -> Tensor:
        return torch.linspace(self.first, self.last, self.T, dtype=torch.float64) * (1000 / self.T)


@dataclass(frozen=True)
class ScaledLinearBetas(Table):
    """Latent diffusion: sqrt(beta) linear from sqrt(0.00085) to sqrt(0.012) (Rombach et al. 2022)."""

    first: float = 0.00085
    last: float = 0.012

    def betas(self) -> Tensor:
        return torch.linspace(self.first**0.5, self.last**0.5, self.T, dtype=torch.float64) ** 2


@dataclass(frozen=True)
class CosineBetas(Table):
    """abar = cos^2(pi/2 (t + 0.008)/1.008), normalised, beta clipped at 0.999 (Nichol and Dhariwal 2021)."""

    offset: float = 0.008

    def betas(self) -> Tensor:
        t = torch.linspace(0, 1, self.T + 1, dtype=torch.float64)
        f = torch.cos(pi / 2 * (t + self.offset) / (1 + self.offset)) ** 2
        return (1 - f[1:] / f[:-1]).clamp(max=0.999)


@dataclass(frozen=True)
class Betas(Table):
    """Any list of betas; T is their number.

    Example:
        >>> Betas(values=tuple(betas.tolist()))
    """

    T: int = 0
    values: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(map(float, self.values)))
        object.__setattr__(self, "T", len(self.values))
        if not self.values or not all(0 < b <= 1 for b in self.values):
            raise ValueError(f"betas in (0, 1] were expected, one or more; got {self.values[:5]} ...")

    def betas(self) -> Tensor:
        return torch.tensor(self.values, dtype=torch.float64)
