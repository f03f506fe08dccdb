"""Paths: which time each element of a sample has at each step.

A path is a matrix of times [step, track] and a map from element to track. One track is ordinary sampling; a track a
frame gives autoregressive and pyramid video sampling (Chen et al. 2024, Diffusion Forcing; Liu et al. 2024, FVDM); a
track that stays at 0 holds a known frame, pixel, token or modality. With an exact denoiser every falling path gives
one and the same law. Only named constructors make paths that rise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import pairwise
from math import exp, log1p
from typing import Any

import torch
from torch import Tensor

SOLVE, RENOISE, INVERT = "solve", "renoise", "invert"
Which = int | Tensor | Mapping[str, "int | Tensor"]


@dataclass(frozen=True, eq=False)
class Path:
    """matrix: float64 [steps + 1, tracks], times from first to last. which: the track of each element: an int, an
    integer tensor aligned with the first axes of x (like a time), or a dict with the keys of x.
    kind: per step, how it is taken; `solve` falls, `renoise` rises with fresh noise, `invert` rises along the ODE.

    Raises:
        ValueError: for times outside [0, 1], a rising step that was not asked for, or a track that does not exist.
    """

    matrix: Tensor
    which: Which = 0
    kind: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        m = self.matrix
        if m.ndim != 2 or m.shape[0] < 2 or m.shape[1] < 1:
            raise ValueError(
                f"a path is a matrix [steps + 1, tracks] with at least one step; got shape {tuple(m.shape)}"
            )
        if not bool(((m >= 0) & (m <= 1)).all()):
            raise ValueError(f"times run from 0 to 1; this path has {m.min().item():.4g} to {m.max().item():.4g}")
        if self.kind is not None and len(self.kind) != len(m) - 1:
            raise ValueError(f"{len(m) - 1} steps but {len(self.kind)} kinds")
        rises = (m[1:] > m[:-1]).any(1).tolist()
        for i, up in enumerate(rises):
            if up and self.kinds[i] == SOLVE:
                raise ValueError(
                    f"step {i} rises from {m[i].tolist()} to {m[i + 1].tolist()}: use paths.restart, repaint or invert"
                )

    @property
    def kinds(self) -> tuple[str, ...]:
        return self.kind or (SOLVE,) * (len(self.matrix) - 1)

    @cached_property
    def begins(self) -> list[float]:
        """The first time of each track."""
        return self.matrix[0].tolist()

    @property
    def steps(self) -> int:
        return len(self.matrix) - 1

    def track(self, key: str) -> int | Tensor:
        """The map of one part of a dict sample; every part shares an undivided map."""
        if isinstance(self.which, Mapping):
            if key not in self.which:
                raise ValueError(f"the path knows the parts {sorted(self.which)}, the sample has '{key}'")
            return self.which[key]
        return self.which

    def hold(self, mask: Any, time: float = 0.0) -> Path:
        """This path with the elements of `mask` kept at `time` on a track of their own.

        mask: a bool tensor aligned with the first axes of x ((B, F), (B, 1, H, W), ...), or a dict of such tensors or
        of True for a whole part.
        """
        matrix = torch.cat([self.matrix, torch.full_like(self.matrix[:, :1], time)], 1)
        last = matrix.shape[1] - 1
        if isinstance(mask, Mapping):
            known = self.which if isinstance(self.which, Mapping) else dict.fromkeys(mask, self.which)
            which: Any = {k: _held(known[k], mask[k], last) if k in mask else known[k] for k in known}
        else:
            which = _held(self.track(""), mask, last)
        return replace(self, matrix=matrix, which=which)

    def behind(self, count: int, time: float = 0.0) -> Path:
        """This path of F frames as that of count + F, of which the first `count` rest at `time`."""
        matrix = torch.cat([self.matrix, torch.full_like(self.matrix[:, :1], time)], 1)
        which = torch.as_tensor(self.which)  # type: ignore[arg-type]
        return replace(
            self, matrix=matrix, which=torch.cat([which.new_full((1, count), matrix.shape[1] - 1), which], 1)
        )


def _held(which: int | Tensor, mask: Any, track: int) -> int | Tensor:
    if mask is True:
        return track
    if mask is False or mask is None:
        return which
    base = which if isinstance(which, Tensor) else torch.full((), which, dtype=torch.long)
    while base.ndim < mask.ndim:
        base = base[..., None]
    mask = mask.reshape(mask.shape + (1,) * (base.ndim - mask.ndim))
    return torch.where(mask, torch.tensor(track, device=mask.device), base.to(mask.device))


def sync(times: Sequence[float]) -> Path:
    """All elements together along `times`, from first to last (equal calls give the very same object)."""
    return _sync(tuple(times))


@lru_cache(maxsize=256)
def _sync(times: tuple[float, ...]) -> Path:
    return Path(torch.tensor([float(t) for t in times], dtype=torch.float64)[:, None])


def frames(level: Tensor, grid: Sequence[float]) -> Path:
    """A track a frame from levels: level [step, F] counts from 0 (the end of `grid`) to K (its start)."""
    table = torch.tensor(list(reversed([float(t) for t in grid])), dtype=torch.float64)
    return Path(table[level], torch.arange(level.shape[1])[None])


def ranked(rank: Sequence[int], grid: Sequence[float], gap: int | None = None) -> Path:
    """Frames in turn: level[m, f] = clip(K + gap rank_f - m, 0, K) with K steps a frame; gap = K without, so that
    those of one rank are done before the next begins.

    Example:
        >>> ranked([0, 1, 1, 1, 0], times)  # both ends first, then what lies between

    Raises:
        ValueError: for no frame, a negative rank or a negative gap.
    """
    K = len(grid) - 1
    gap = K if gap is None else gap
    if not rank or min(rank) < 0 or gap < 0:
        raise ValueError(f"at least one frame, ranks and a gap >= 0 were expected; got ranks {list(rank)}, gap {gap}")
    late = gap * torch.tensor(rank)[None]
    m = torch.arange(K + int(late.max()) + 1)[:, None]
    return frames((K + late - m).clamp(0, K), grid)


def pyramid(count: int, grid: Sequence[float], gap: int) -> Path:
    """Frame f starts gap * f steps late (Chen et al. 2024): gap = 0 is synchronous, gap = K autoregressive;
    K + (count - 1) gap calls."""
    return ranked(range(count), grid, gap)


def keyframes(count: int, grid: Sequence[float], stride: int, keys: int = 1) -> Path:
    """Every stride-th frame (`keys` in a row), and the last, together; then those between, given them."""
    return ranked([0 if f % stride < keys or f == count - 1 else 1 for f in range(count)], grid)


def rolling(count: int, grid: Sequence[float]) -> tuple[Path, Path]:
    """A stream through a window of `count` frames, as two paths: from noise to the ladder v_f = (f + 1) / count, and
    one rung down, after which frame 0 is done: take it out, put noise in at the end, walk down again (Ruhe 2024).

    grid: K steps a frame, K a multiple of count. Both are pieces of the pyramid of gap K / count.
    """
    K = len(grid) - 1
    if count < 2 or K % count:
        raise ValueError(f"a window of 2 frames or more, and steps a multiple of them: got {count} frames, {K} steps")
    whole, first = pyramid(count, grid, K // count), K - K // count
    return replace(whole, matrix=whole.matrix[: first + 1]), replace(whole, matrix=whole.matrix[first : K + 1])


def autoregressive(count: int, grid: Sequence[float]) -> Path:
    """One frame after another, each given those before it."""
    return pyramid(count, grid, len(grid) - 1)


def invert(times: Sequence[float]) -> Path:
    """From data to noise along the probability-flow ODE; `times` rise (Song et al. 2021, DDIM inversion)."""
    up = sorted(float(t) for t in times)
    return Path(torch.tensor(up, dtype=torch.float64)[:, None], 0, (INVERT,) * (len(up) - 1))


def restart(times: Sequence[float], low: float, high: float, repeats: int) -> Path:
    """Fall to `low`, rise to `high` with fresh noise and fall again, `repeats` times (Xu et al. 2023)."""
    fall = [float(t) for t in times]
    below = next((i for i, t in enumerate(fall) if t <= low), None)
    above = next((i for i, t in enumerate(fall) if t <= high), None)
    if below is None or above is None or not fall[above] > fall[below] or repeats < 0:
        raise ValueError(f"restart between {low} and {high} needs times of the path in that interval, and repeats >= 0")
    return _again(fall, {below: above}, repeats)


def repaint(times: Sequence[float], jump_length: int = 10, resample: int = 10) -> Path:
    """Each block of `jump_length` steps is taken `resample` times, with a rise by fresh noise between (Lugmayr et al.
    2022): beside `Hold(clamp=True)` the free elements get to know the held ones. The noisiest block is taken once.

    Example:
        >>> x = sample(den, shape, path=repaint(times, 5, 10), sampler="ancestral", hold=Hold(y, mask, clamp=True))

    Raises:
        ValueError: for a jump or a count below 1.
    """
    fall = [float(t) for t in times]
    if jump_length < 1 or resample < 1:
        raise ValueError(f"jump_length = {jump_length}, resample = {resample}: at least 1 of each was expected")
    last = len(fall) - 1
    return _again(fall, {i: i - jump_length for i in range(last, jump_length, -jump_length)}, resample - 1)


def recur(times: Sequence[float], repeats: int) -> Path:
    """Each step is taken `repeats` times, with a rise by fresh noise between: the recurrence of guided sampling
    (FreeDoM, Yu et al. 2023; TFG, Ye et al. 2024).

    Raises:
        ValueError: for a count below 1.
    """
    fall = [float(t) for t in times]
    if repeats < 1:
        raise ValueError(f"repeats = {repeats}: each step is taken at least once")
    return _again(fall, {i: i - 1 for i in range(1, len(fall))}, repeats - 1)


def churn(times: Sequence[float], schedule: Any, amount: float, low: float = 0.05, high: float = 50.0) -> Path:
    """Before each step that starts at low <= sigma/alpha <= high, raise sigma/alpha by the factor 1 + gamma with fresh
    noise, gamma = min(amount / steps, sqrt(2) - 1) (Karras et al. 2022: S_churn, S_min, S_max; S_noise is
    `Heun(swell=)`). Nothing rises above t = 1.

    Example:
        >>> x = sample(den, shape, path=churn(times, den.schedule, 40), sampler=Heun(swell=1.003))

    Raises:
        ValueError: for a negative amount, or an empty interval.
    """
    fall = [float(t) for t in times]
    if not (amount >= 0 and 0 <= low < high):
        raise ValueError(f"churn takes an amount >= 0 and 0 <= low < high; got {amount} between {low} and {high}")
    gamma = min(amount / (len(fall) - 1), 2**0.5 - 1)
    out, kinds = fall[:1], []
    for t, s in pairwise(fall):
        lam = schedule.lam(t)
        up = schedule.time(lam - log1p(gamma)) if gamma and low <= exp(min(-lam, 700.0)) <= high else t
        if up > t:
            out.append(up)
            kinds.append(RENOISE)
        out.append(s)
        kinds.append(SOLVE)
    return Path(torch.tensor(out, dtype=torch.float64)[:, None], 0, tuple(kinds))


def _again(fall: list[float], back: Mapping[int, int], times: int) -> Path:
    # where the fall arrives at step i it rises to step back[i] and falls again, so many times
    out, kinds = fall[:1], []
    for i, t in enumerate(fall[1:], 1):
        out.append(t)
        kinds.append(SOLVE)
        for _ in range(times if i in back else 0):
            out += fall[back[i] : i + 1]
            kinds += [RENOISE] + [SOLVE] * (i - back[i])
    return Path(torch.tensor(out, dtype=torch.float64)[:, None], 0, tuple(kinds))


@dataclass(frozen=True, eq=False)
class Hold:
    """What a sample is to keep: `value` where `mask` is true (all of it without a mask; dicts for parts).

    known: Hold(value, mask) keeps it at time 0, bit-identical to the end. given: time > 0 shows it to the network as
    that noisy (a forgiving context); a dict for parts (0 where it has no entry). clamp: for a network with one time a
    sample, the value is re-noised and pasted in at every step (RePaint's replacement): plausible at the seam, not
    exact.
    """

    value: Any
    mask: Any = True
    time: float | Mapping[str, float] = 0.0
    clamp: bool = False

    def at(self, key: str) -> float:
        """The time at which a part is held."""
        return self.time.get(key, 0.0) if isinstance(self.time, Mapping) else self.time

    def part(self, s: slice) -> Hold:
        """The share `s` of a batch in what is held; values and masks of one row serve every sample."""

        def cut(v: Any) -> Any:
            return v[s] if isinstance(v, Tensor) and v.ndim and v.shape[0] > 1 else v

        return replace(self, value=cut(self.value), mask=cut(self.mask))
