"""From a gradient in x_t to a shift of the mean: grad log p(x_t) -> + grad log f(x_t) is D -> D + (s^2 / a) grad log f.

Tweedie's formula (Robbins 1956; Efron 2011), x_t + s^2 grad log p(x_t) = a D (+ b y), read as a rule for guidance. At
alpha = 0, where f cannot depend on x_t and the factor is infinite, the gradient is taken at a slightly earlier time.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log
from typing import Any

import torch
from torch import Tensor

from oneprior.denoiser import Denoiser
from oneprior.noise import White
from oneprior.posterior import Posterior
from oneprior.schedules import Schedule
from oneprior.times import Time

ALPHA_MIN = 0.01


def white(schedule: Schedule) -> None:
    """Refuse a schedule of coloured noise, whose covariance would have to stand before every gradient."""
    if not isinstance(schedule.color, White):
        raise ValueError(f"guidance by gradients takes the noise to be white; this schedule has {schedule.color}")


def informed(schedule: Schedule, t: Time) -> Any:
    """t, but no later than the time at which alpha is ALPHA_MIN."""
    white(schedule)
    late = schedule.time(log(ALPHA_MIN / schedule.at(1.0)[2])) if schedule.at(1.0)[0] < ALPHA_MIN else 1.0
    return t.clamp(max=late) if isinstance(t, Tensor) else min(t, late)  # type: ignore[type-var]


def each(value: Any, x: Tensor, what: str) -> Tensor:
    """`value` as it came, after refusing anything but one number a sample, (B,)."""
    if not isinstance(value, Tensor) or tuple(value.shape) != (len(x),):
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"{what} gave {got} for a batch of {len(x)}: one number a sample, ({len(x)},), was expected")
    return value


def gradient(f: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """f(x) (B,) and its gradient in x; f may not mix samples. The gradient is 0 where f does not depend on x."""
    with torch.enable_grad():
        at = x.detach().requires_grad_()
        value = f(at)
        if not value.requires_grad:
            return value, torch.zeros_like(x)
        (grad,) = torch.autograd.grad(value.sum(), at, allow_unused=True)
    return value.detach(), torch.zeros_like(x) if grad is None else grad


def through(
    den: Denoiser, f: Callable[[Posterior], Tensor], x: Tensor, t: Time, cond: dict[str, Any]
) -> tuple[Posterior, Tensor, Tensor]:
    """The posterior of `den` at (x, t), f of it (B,), and the gradient of f in x through the denoiser; all detached."""
    kept: list[Posterior] = []

    def call(at: Tensor) -> Tensor:
        kept.append(den(at, t, **cond))
        return f(kept[0])

    value, grad = gradient(call, x)
    post = kept[0]
    var = None if post.var is None else post.var.detach()
    return Posterior(post.mean.detach(), x, den.schedule, t, var, post.y), value, grad
