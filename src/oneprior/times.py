"""Time is a tensor: t in [0, 1], 0 is data and 1 is noise.

A float is one time for all. A tensor's axes align with the first axes of x: (B,) a time a sample, (B, F) a time a
frame of a clip (B, F, C, H, W), (B, 1, H, W) a time a pixel, (B, L) a time a token. A sample of several parts is a
dict and its time a dict with the same keys. `align` is the one function that checks and expands; laws say from which
distribution training draws t.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Time = float | Tensor | dict[str, "Time"]


def align(t: Any, x: Any) -> Any:
    """Give `t` trailing axes of size one and the type of `x`, so that it multiplies `x`; a float stays a float.

    Example:
        >>> align(torch.rand(4), torch.zeros(4, 3, 8, 8)).shape
        torch.Size([4, 1, 1, 1])

    Raises:
        ValueError: when the axes of t do not align with the first axes of x, with both shapes.
    """
    if isinstance(t, dict) or isinstance(x, dict):
        if not (isinstance(t, dict) and isinstance(x, dict) and t.keys() == x.keys()):
            raise ValueError(f"t has parts {_parts(t)}, x has parts {_parts(x)}: a dict sample needs the same keys")
        return {k: align(t[k], x[k]) for k in x}
    if not isinstance(t, Tensor):
        return float(t)
    if t.ndim == 0:
        return t
    if t.ndim > x.ndim or any(a not in (1, b) for a, b in zip(t.shape, x.shape, strict=False)):
        raise ValueError(
            f"t has shape {tuple(t.shape)}; it must align with the first axes of x, {tuple(x.shape)} "
            "(each axis of t equal to that of x, or 1)"
        )
    if t.dtype is not x.dtype and t.is_floating_point() and x.is_floating_point():
        t = t.to(x.dtype)  # a float64 coefficient must not turn a float32 sample into a float64 one
    return t.reshape(t.shape + (1,) * (x.ndim - t.ndim))


def aligned(coefs: Iterable[Any], x: Tensor) -> tuple[Any, ...]:
    """`align` of each coefficient of a schedule; None (no anchor) stays None."""
    return tuple(None if c is None else align(c, x) for c in coefs)


def _parts(v: Any) -> str:
    return str(sorted(v)) if isinstance(v, dict) else f"none (a {type(v).__name__})"


def axes_of(t: Time) -> int:
    """How many axes beyond the batch a time varies over: 0 for a float or (B,), 1 for (B, F), 3 for (B, 1, H, W)."""
    if not isinstance(t, Tensor):
        return 0
    used = [i for i, size in enumerate(t.shape) if size > 1]
    return max(used) if used else 0


def check_axes(t: Tensor, x: Tensor, axes: int) -> Tensor:
    """`t` as it came, after refusing a time finer than a network was trained for (`facts.time_axes`).

    Raises:
        ValueError: when t does not align with x, or varies over more axes than `axes`.
    """
    align(t, x)
    if axes_of(t) > axes:
        raise ValueError(
            f"t has shape {tuple(t.shape)}: a time over {axes_of(t)} axes beyond the batch, but this denoiser was "
            f"trained with time_axes={axes}. Use one time a sample (a float or shape ({x.shape[0]},)), hold known "
            "elements with clamp=True, or train with a time law over those axes"
        )
    return t


class TimeLaw(ABC):
    """A distribution of times, written as a map from uniform numbers, so that a draw is a pure function of a sample.

    `law(u)` takes u of shape (B, *law.shape(sample_shape)) and returns t of shape (B,) or (B, ...). The first number
    of each sample is the low-discrepancy one: it should decide the overall level.
    """

    def shape(self, sample: tuple[int, ...]) -> tuple[int, ...]:
        return (1,)

    @abstractmethod
    def __call__(self, u: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Uniform(TimeLaw):
    """t uniform in [lo, hi]."""

    lo: float = 0.0
    hi: float = 1.0

    def __call__(self, u: Tensor) -> Tensor:
        return self.lo + (self.hi - self.lo) * u[:, 0]


@dataclass(frozen=True)
class LogitNormal(TimeLaw):
    """t = sigmoid(mean + std z) (Esser et al. 2024, SD3)."""

    mean: float = 0.0
    std: float = 1.0

    def __call__(self, u: Tensor) -> Tensor:
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(u[:, 0].clamp(1e-12, 1 - 1e-12)))


@dataclass(frozen=True)
class LogNormal(TimeLaw):
    """log(sigma / alpha) ~ N(mean, std^2) (Karras et al. 2022), turned into a time of `schedule`."""

    schedule: Any
    mean: float = -1.2
    std: float = 1.2

    def __call__(self, u: Tensor) -> Tensor:
        z = torch.special.ndtri(u[:, 0].clamp(1e-12, 1 - 1e-12))
        return self.schedule.time(-(self.mean + self.std * z))


@dataclass(frozen=True)
class PerElement(TimeLaw):
    """With probability p every element has its own draw of `law`, else one draw serves all (PTSS: Liu et al. 2024).

    `axes` names the axes of a sample (without the batch) that carry time: (0,) for frames of (F, C, H, W), (1, 2) for
    the pixels of (C, H, W); the others become size one. p = 1 is Diffusion Forcing's independent law.
    """

    law: TimeLaw
    axes: tuple[int, ...] = (0,)
    p: float = 0.2

    def shape(self, sample: tuple[int, ...]) -> tuple[int, ...]:
        if max(self.axes) >= len(sample):
            raise ValueError(f"time over axes {self.axes} of a sample of shape {sample}: it has only {len(sample)}")
        grid = tuple(n if i in self.axes else 1 for i, n in enumerate(sample[: max(self.axes) + 1]))
        return (3, *grid)  # one plane each for the shared draw, the coin and the draws of the elements

    def __call__(self, u: Tensor) -> Tensor:
        first = u.flatten(2)[:, :, 0]
        own = self.law(u[:, 2].reshape(-1, 1)).reshape(u[:, 2].shape)
        ones = (1,) * (own.ndim - 1)
        shared = self.law(first[:, :1]).reshape(-1, *ones)
        return torch.where((first[:, 1] < self.p).reshape(-1, *ones), own, shared.expand_as(own))


@dataclass(frozen=True)
class Clock:
    """What a network of others is told of t: scale t + shift.

    Clock(1000, -1) is the index k of a chain of 1000 steps, whose time is (k + 1) / 1000; whole rounds it for a network
    that looks it up in a table. Clock(999) is what score networks are fed, Clock(-1, 1) a flow whose time 1 is data.
    """

    scale: float = 1.0
    shift: float = 0.0
    whole: bool = False

    def __call__(self, schedule: Any, t: Tensor) -> Tensor:
        clock = self.scale * t + self.shift
        return clock.round().clamp(min=0).long() if self.whole else clock


@dataclass(frozen=True)
class NoiseClock:
    """A network told its noise: sbar = sigma / alpha, or with a factor, factor log sbar (1/4: c_noise of EDM)."""

    factor: float | None = None

    def __call__(self, schedule: Any, t: Tensor) -> Tensor:
        lam = schedule.lam(t)
        return torch.exp(-lam) if self.factor is None else self.factor * -lam.clamp(-50, 50)
