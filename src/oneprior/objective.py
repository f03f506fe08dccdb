"""Objectives: loss = w(t) |F - target|^2, with t from a law. Only w_x(lam) p(lam) matters.

In terms of D the error of a prediction is gain |D - x_0|^2, gain = 1/q^2 (eps: SNR; v under VP: SNR + 1; rectified
flow: 1/t^2). A weighting says w_x, the weight on |D - x_0|^2; the loss is computed in the network's own view with
w_x / gain, which is well conditioned at both ends (Kingma and Gao 2023; Hang et al. 2023; Karras et al. 2022).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from oneprior.denoiser import NetworkDenoiser
from oneprior.times import Time, TimeLaw, Uniform, align, aligned


class Weight(ABC):
    """w_x as a function of SNR and of the prediction's gain; returns the factor on the prediction's own error."""

    @abstractmethod
    def __call__(self, snr: Tensor, gain: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Plain(Weight):
    """Plain mean squared error of whatever the network predicts."""

    def __call__(self, snr: Tensor, gain: Tensor) -> Tensor:
        return torch.ones_like(gain)


@dataclass(frozen=True)
class MinSNR(Weight):
    """w_x = min(SNR, gamma) (Hang et al. 2023)."""

    gamma: float = 5.0

    def __call__(self, snr: Tensor, gain: Tensor) -> Tensor:
        return snr.clamp(max=self.gamma) / gain


@dataclass(frozen=True)
class TruncatedSNR(Weight):
    """w_x = max(SNR, 1) (Salimans and Ho 2022)."""

    def __call__(self, snr: Tensor, gain: Tensor) -> Tensor:
        return snr.clamp(min=1.0) / gain


@dataclass(frozen=True)
class EDMWeight(Weight):
    """w_x = (sbar^2 + sd^2)/(sbar sd)^2 = SNR + 1/sd^2: unit loss at every level at the start (Karras et al. 2022)."""

    sd: float = 0.5

    def __call__(self, snr: Tensor, gain: Tensor) -> Tensor:
        return (snr + 1 / self.sd**2) / gain


@dataclass(frozen=True)
class SigmoidWeight(Weight):
    """w on eps error S(b - 2 lam), so w_x = SNR S(b - log SNR) (Kingma and Gao 2023; Hoogeboom et al. 2024)."""

    bias: float = 0.0

    def __call__(self, snr: Tensor, gain: Tensor) -> Tensor:
        return snr * torch.sigmoid(self.bias - snr.log()) / gain


class Objective(nn.Module):
    """objective(den, x0, t, noise, **cond) -> (B,) loss, the mean over elements of a sample.

    law: from which training draws t. With a denoiser that predicts a variance, `nll` adds the Gaussian log-likelihood
    of x_0 with the mean detached, so the head learns Var[x_0 | x_t] and the mean does not see it (they share the trunk:
    on digits nll = 0.1 costs the mean nothing that can be measured, 1 costs it 5 % of its loss).
    """

    def __init__(self, weight: Weight | None = None, law: TimeLaw | None = None, nll: float = 0.1) -> None:
        super().__init__()
        self.weight, self.law, self.nll = weight or Plain(), law or Uniform(1e-4, 1.0), nll

    def forward(self, den: NetworkDenoiser, x0: Tensor, t: Time, noise: Tensor, **cond: Any) -> Tensor:
        schedule, y = den.schedule, cond.get("y")
        a, b, s = aligned(schedule.at(t), x0)
        x = a * x0 + s * schedule.color(noise)
        row = den.prediction.row(schedule, t)
        target = align(row.u, x0) * x0 + align(row.w, x0) * schedule.color(noise)
        if b is not None:
            x = x + b * y
            if den.prediction.name == "velocity":
                target = target + align(schedule.slope(t)[1], x0) * y
        F = den.raw(x, t, **cond)
        h = None
        if den.variance:
            F, h = den.halves(F)
        snr, gain = (_tensor(v, x0) for v in ((a / s) ** 2, align(row.q, x0) ** -2.0))
        weight = torch.where(snr.isinf(), 0.0, self.weight(snr, gain))  # what is given (t = 0) has no loss
        loss = weight * (F - target).square()
        if h is not None:
            var = _tensor(s * s / (a * a + s * s), x0) * h.exp()
            error = (F.detach() - target).square() / gain
            loss = loss + self.nll * 0.5 * (var.log() + error / var)
        return loss.flatten(1).mean(1)


def _tensor(v: Any, like: Tensor) -> Tensor:
    return v if isinstance(v, Tensor) else like.new_tensor(v)
