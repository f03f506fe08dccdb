"""Schedules with an anchor: x_t = alpha x_0 + anchor y + sigma eps, for paired restoration and translation.

One scalar rho a family carries x_t to x_s (`Schedule.transition`), whatever the family: the ODE has rho = sigma_s /
sigma_t, the Markov posterior (alpha_t / alpha_s) sigma_s^2 / sigma_t^2 (kappa = 1: IR-SDE, I2SB, GOUB), ResShift
sigma_s^2 / sigma_t^2. Adding (alpha_s - rho alpha_t)^2 Var[x_0 | x_t, y] makes the chain exact on Gaussians at any
number of steps. Sources: IR-SDE (Luo et al. 2023), ResShift (Yue et al. 2023), I2SB (Liu et al. 2023), GOUB (Yue et
al. 2024), RDDM (Liu et al. 2024), InDI (Delbracio and Milanfar 2023).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import log, pi

import torch
from torch import Tensor

from oneprior.schedules import Schedule, Share


def _theta(t: Tensor, end: float) -> Tensor:
    # integral of theta_t proportional to 1 - cos^2(pi t / 2), normalised so that exp(-theta(1)) = end
    x = pi * t
    series = x**3 / 6 * (1 - x**2 / 20 * (1 - x**2 / 42))  # the difference below loses all its digits near 0
    return -log(end) / pi * torch.where(t < 0.01, series, x - torch.sin(x))


@dataclass(frozen=True)
class MeanReverting(Schedule):
    """IR-SDE: alpha = e^-th, anchor = 1 - e^-th, sigma = lam sqrt(1 - e^-2th); ends at y + lam n."""

    lam_inf: float = 0.2
    end: float = 0.005

    def coefs(self, t: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        th = _theta(t, self.end)
        return torch.exp(-th), -torch.expm1(-th), self.lam_inf * (-torch.expm1(-2 * th)).sqrt()


class _ResShiftShare:
    def share(self, e: Tensor, s_t: Tensor, s_s: Tensor) -> Tensor:
        return torch.where(s_t > 0, s_s / s_t, 0.0)


@dataclass(frozen=True)
class ResShift(Schedule):
    """alpha = 1 - eta, anchor = eta, sigma = kappa sqrt(eta); sqrt(eta_k) = c (last / c)^((k / (T - 1))^power).

    Between the T published indices the same formula runs on; before the first it falls linearly to 0 at t = 0.
    """

    kappa: float = 2.0
    min_noise: float = 0.04
    power: float = 0.3
    last: float = 0.99
    T: int = 15

    @property
    def own(self) -> Share:
        return _ResShiftShare()

    def coefs(self, t: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        c = min(self.min_noise / self.kappa, self.min_noise)
        k = ((t * self.T - 1) / (self.T - 1)).clamp(min=1e-200)
        root = torch.where(t * self.T >= 1, c * (self.last / c) ** (k**self.power), c * t * self.T)
        return 1 - root**2, root**2, self.kappa * root


@dataclass(frozen=True)
class BrownianBridge(Schedule):
    """I2SB: f = int_0^t beta, g = int_t^1 beta; alpha = g/(f+g), anchor = f/(f+g), sigma^2 = f g/(f+g). Ends at y.

    beta is quadratic and mirrored at t = 1/2, from beta_min to (halfway up to) beta_max: total variance .141.
    """

    beta_min: float = 0.1
    beta_max: float = 0.3

    def _f(self, t: Tensor) -> Tensor:
        p, q = self.beta_min**0.5, self.beta_max**0.5 - self.beta_min**0.5
        half = ((p + q / 2) ** 3 - p**3) / (3 * q)
        low = ((p + q * t) ** 3 - p**3) / (3 * q)
        high = 2 * half - ((p + q * (1 - t)) ** 3 - p**3) / (3 * q)
        return torch.where(t <= 0.5, low, high)

    def coefs(self, t: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        f, g = self._f(t), self._f(1 - t)
        return g / (f + g), f / (f + g), (f * g / (f + g)).sqrt()


@dataclass(frozen=True)
class OUBridge(Schedule):
    """GOUB: the mean-reverting SDE conditioned on ending at y. S(u, v) = lam^2 (1 - e^(-2 (th_v - th_u)))."""

    lam_inf: float = 0.2
    end: float = 0.005

    def coefs(self, t: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        th, last = _theta(t, self.end), -log(self.end)
        before, after, whole = -torch.expm1(-2 * th), -torch.expm1(-2 * (last - th)), 1 - self.end**2
        alpha = torch.exp(-th) * after / whole
        anchor = (-torch.expm1(-th) * after + torch.exp(-2 * (last - th)) * before) / whole
        return alpha, anchor, self.lam_inf * (before * after / whole).clamp(min=0).sqrt()


@dataclass(frozen=True)
class Residual(Schedule):
    """RDDM: anchor = 1 - (1 - t)^2, alpha the rest, sigma = noise t: rates that fall and rise linearly."""

    noise: float = 1.0

    def coefs(self, t: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        return (1 - t) ** 2, t * (2 - t), self.noise * t


@dataclass(frozen=True)
class Straight(Schedule):
    """InDI: alpha = 1 - t, anchor = t, sigma = noise t."""

    noise: float = 0.01
    t_min: float = field(default=1e-3, kw_only=True)

    def coefs(self, t: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        return 1 - t, t + 0.0, self.noise * t
