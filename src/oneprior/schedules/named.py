"""Continuous schedules: VP, sub-VP and VE SDEs, EDM, cosine, rectified flow, sigmoid, Laplace."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from math import inf, log, pi

import torch
from torch import Tensor

from oneprior.schedules.base import Schedule


@dataclass(frozen=True)
class RectifiedFlow(Schedule):
    """alpha = 1 - t, sigma = t (Liu et al. 2022; Lipman et al. 2022): velocity = eps - x_0."""

    def coefs(self, t: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        return 1 - t, None, t + 0.0

    def _time(self, lam: Tensor) -> Tensor:
        return torch.sigmoid(-lam)


@dataclass(frozen=True)
class Cosine(Schedule):
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2): lam = -log tan(pi t / 2)."""

    scale: float = 1.0  # TrigFlow: sigma is multiplied by the standard deviation of the data

    def coefs(self, t: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        return torch.sin(pi / 2 * (1 - t)), None, self.scale * torch.sin(pi / 2 * t)

    def _time(self, lam: Tensor) -> Tensor:
        return 2 / pi * torch.atan(torch.exp(-lam) / self.scale)


@dataclass(frozen=True)
class VP(Schedule):
    """Variance-preserving SDE (Song et al. 2021): log alpha = -t^2 (bmax - bmin)/4 - t bmin/2."""

    bmin: float = 0.1
    bmax: float = 20.0

    def _log_alpha(self, t: Tensor) -> Tensor:
        return -t * t * (self.bmax - self.bmin) / 4 - t * self.bmin / 2

    def coefs(self, t: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        g = self._log_alpha(t)
        return g.exp(), None, (-torch.expm1(2 * g)).sqrt()

    def _time(self, lam: Tensor) -> Tensor:
        c = torch.nn.functional.softplus(-2 * lam) / 2  # -log alpha
        d = self.bmax - self.bmin
        t = 2 * c / (self.bmin / 2 + (self.bmin**2 / 4 + d * c).sqrt())
        return torch.where(lam == -inf, 1.0, t).clamp(0, 1)


@dataclass(frozen=True)
class SubVP(VP):
    """Sub-VP SDE: the alpha of VP with sigma = 1 - alpha^2, no square root (Song et al. 2021)."""

    def coefs(self, t: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        g = self._log_alpha(t)
        return g.exp(), None, -torch.expm1(2 * g)

    def _time(self, lam: Tensor) -> Tensor:
        return Schedule._time(self, lam)


@dataclass(frozen=True)
class VE(Schedule):
    """Variance-exploding SDE: sigma^2 = smin^2 ((smax/smin)^(2t) - 1), the exact marginal of dx = g dW from the data.

    Papers write sigma = smin (smax/smin)^t, the same beyond a few smin but not 0 at t = 0 (Song et al. 2021).
    """

    smin: float = 0.01
    smax: float = 50.0

    def coefs(self, t: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        return torch.ones_like(t), None, self.smin * torch.expm1(2 * log(self.smax / self.smin) * t).sqrt()

    def _time(self, lam: Tensor) -> Tensor:
        s2 = torch.exp(-2 * lam) / self.smin**2
        return (torch.log1p(s2) / (2 * log(self.smax / self.smin))).clamp(0, 1)


@dataclass(frozen=True)
class EDM(Schedule):
    """alpha = 1, sigma = smax t (Karras et al. 2022, whose time is sigma itself)."""

    smax: float = 80.0
    t_min: float = field(default=0.002 / 80.0, kw_only=True)

    def coefs(self, t: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        return torch.ones_like(t), None, self.smax * t

    def _time(self, lam: Tensor) -> Tensor:
        return (torch.exp(-lam) / self.smax).clamp(0, 1)


@dataclass(frozen=True)
class _LogSNR(Schedule):
    """Abstract: variance preserving, given by the full log-SNR 2 lam(t)."""

    @abstractmethod
    def logsnr(self, t: Tensor) -> Tensor: ...

    def coefs(self, t: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        g = self.logsnr(t)
        return torch.sigmoid(g).sqrt(), None, torch.sigmoid(-g).sqrt()

    def _lam(self, t: Tensor) -> Tensor:
        return self.logsnr(t) / 2


@dataclass(frozen=True)
class Laplace(_LogSNR):
    """2 lam = mu - b sgn(1/2 - t) log(1 - 2 |t - 1/2|): times concentrated on lam = mu / 2 (Hang et al. 2024)."""

    mu: float = 0.0
    b: float = 0.5

    def logsnr(self, t: Tensor) -> Tensor:
        low = -torch.log(2 * torch.where(t < 0.5, t, 0.5))
        high = torch.log(2 * torch.where(t < 0.5, 0.5, 1 - t))
        return self.mu + self.b * (low + high)


@dataclass(frozen=True)
class Sigmoid(Schedule):
    """abar = [S(e/tau) - S((t (e - s) + s)/tau)] / [S(e/tau) - S(s/tau)], S the sigmoid (Jabri et al. 2022)."""

    start: float = -3.0
    end: float = 3.0
    tau: float = 1.0

    def coefs(self, t: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        s, e = torch.sigmoid(torch.tensor([self.start / self.tau, self.end / self.tau], dtype=torch.float64))
        v = torch.sigmoid((t * (self.end - self.start) + self.start) / self.tau)
        return ((e - v) / (e - s)).clamp(min=0).sqrt(), None, ((v - s) / (e - s)).clamp(min=0).sqrt()
