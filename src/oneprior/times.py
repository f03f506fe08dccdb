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


def repeated(v: Any, batch: int, n: int) -> Any:
    """Of a tensor of `batch` rows every row n times in a row; anything else as it is."""
    return v.repeat_interleave(n, 0) if isinstance(v, Tensor) and v.ndim and len(v) == batch else v


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
class Known(TimeLaw):
    """One draw of `law` for all frames but those that are known (t = 0), which have no loss.

    frames: which ones, the law of one use alone: (0,) image to video, (0, -1) interpolation, the first c frames
    extension by windows. None: the law of all these uses, with probability p each frame is known with a probability of
    the clip's own, uniform, but one at least is not (after Voleti et al. 2022, masked conditional video diffusion).

    Raises:
        ValueError: for clips that have not these frames, or no others.
    """

    frames: tuple[int, ...] | None = None
    law: TimeLaw = Uniform(1e-4, 1.0)
    p: float = 0.5

    def shape(self, sample: tuple[int, ...]) -> tuple[int, ...]:
        F, known = sample[0], self.frames or ()
        if F < 2 or not all(-F <= f < F for f in known) or len({f % F for f in known}) == F:
            raise ValueError(f"known frames {known} of clips of {F} frames: some of them were expected, not all")
        return (3, F)

    def __call__(self, u: Tensor) -> Tensor:
        t, (coin, share), own = self.law(u[:, 0, :1])[:, None], u[:, 1, :2].split(1, 1), u[:, 2]
        known = (coin < self.p) & (own < share) & (own < own.amax(1, keepdim=True))
        if self.frames is not None:
            known = torch.zeros_like(known).index_fill(1, torch.tensor(self.frames, device=u.device) % u.shape[2], True)
        return t.masked_fill(known, 0.0)


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


@dataclass(frozen=True)
class PerFrame(TimeLaw, ABC):
    """Abstract: a level v in [0, 1] a frame, and t = law(v); a sample's first axis is its frames. Declares `levels`."""

    law: TimeLaw = Uniform()

    def shape(self, sample: tuple[int, ...]) -> tuple[int, ...]:
        return (4, sample[0])

    @abstractmethod
    def levels(self, shared: Tensor, own: Tensor) -> Tensor:
        """shared: three uniform numbers a clip (B, 3, 1), the first the low-discrepancy one; own: (B, F). -> (B, F)."""

    def __call__(self, u: Tensor) -> Tensor:
        v = self.levels(u[:, :3, :1], u[:, 3])
        return self.law(v.reshape(-1, 1)).reshape(v.shape)


@dataclass(frozen=True)
class NonDecreasing(PerFrame):
    """Levels that never fall along the clip (FoPP: Sun et al. 2025, AR-Diffusion): a frame and its level are uniform,
    the frames before and after are uniform among all that do not fall.

    count: how many levels there are (0 .. count - 1 over count - 1), None for a continuum. n values that do not fall in
    {a .. b} are a subset of n of b - a + n, sorted, less 0 .. n - 1, plus a; in the continuum, n sorted numbers.
    """

    count: int | None = None

    def shape(self, sample: tuple[int, ...]) -> tuple[int, ...]:
        return (4, sample[0] if self.count is None else 2 * (self.count + sample[0]))

    def levels(self, shared: Tensor, own: Tensor) -> Tensor:
        K = self.count
        F = own.shape[1] if K is None else own.shape[1] // 2 - K
        frame, k = (shared[:, 1] * F).long(), torch.arange(F, device=own.device)
        if K is None:
            at = shared[:, 0]
            v = torch.where(k < frame, at * own, torch.where(k > frame, at + (1 - at) * own, at))
            return v.sort(1).values
        at = (shared[:, 0] * K).long()
        before = _rising(own[:, : F + K], frame, at)
        after = at + _rising(own[:, F + K :], F - 1 - frame, K - 1 - at).gather(1, (k - frame - 1).clamp(min=0))
        return torch.where(k < frame, before[:, :F], torch.where(k > frame, after, at)) / (K - 1)


def _rising(u: Tensor, n: Tensor, top: Tensor) -> Tensor:
    """Rows whose first n (B, 1) entries are uniform among the n values in 0 .. top (B, 1) that do not fall."""
    place = torch.arange(u.shape[1], device=u.device)
    rank = torch.where(place < top + n, u, torch.inf).argsort(1).argsort(1)
    # top + 1 values, n of them with repetition: a subset of n of top + n places
    return torch.where(rank < n, place, u.shape[1]).sort(1).values - place


@dataclass(frozen=True)
class Rolling(PerFrame):
    """The ladder of a stream, v_f = (floor(f/c) + s) / (F/c) with s uniform (Ruhe et al. 2024, Rolling Diffusion), or
    with probability `start` that of its beginning, v_f = clip(floor(f/c) / (F/c) + s).

    chunks: sizes c of groups of frames that share a level, one drawn a clip (StreamDiT, Kodaira et al. 2025); c = F is
    one level for all.
    """

    chunks: tuple[int, ...] = (1,)
    start: float = 0.1

    def levels(self, shared: Tensor, own: Tensor) -> Tensor:
        F = own.shape[1]
        if bad := [c for c in self.chunks if c < 1 or F % c]:
            raise ValueError(f"chunks of {bad} frames do not divide clips of {F} frames")
        size = torch.tensor(self.chunks, device=own.device)[(shared[:, 2] * len(self.chunks)).long()]
        rung, rungs, s = torch.arange(F, device=own.device) // size, F / size, shared[:, 0]
        return torch.where(shared[:, 1] < self.start, rung / rungs + s, (rung + s) / rungs).clamp(max=1.0)


@dataclass(frozen=True)
class Ladder(PerFrame):
    """The ladder that sampling walks, v_f = (f + 1) / F, shifted as a whole by a normal number of `jitter` rungs."""

    jitter: float = 0.4

    def levels(self, shared: Tensor, own: Tensor) -> Tensor:
        F, z = own.shape[1], torch.special.ndtri(shared[:, 0].clamp(1e-12, 1 - 1e-12))
        return ((torch.arange(F, device=own.device) + 1 + self.jitter * z) / F).clamp(0.0, 1.0)
