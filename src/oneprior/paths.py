"""Paths: which time each element of a sample has at each step.

A path is a matrix of times [step, track] and a map from element to track. One track is ordinary sampling; a track a
frame gives autoregressive and pyramid video sampling (Chen et al. 2024, Diffusion Forcing; Liu et al. 2024, FVDM); a
track that stays at 0 holds a known frame, pixel, token or modality. With an exact denoiser every falling path gives
one and the same law. Only named constructors make paths that rise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
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
    return _sync(tuple(float(t) for t in times))


@lru_cache(maxsize=256)
def _sync(times: tuple[float, ...]) -> Path:
    return Path(torch.tensor(times, dtype=torch.float64)[:, None])


def frames(level: Tensor, grid: Sequence[float]) -> Path:
    """A track a frame from levels: level [step, F] counts from 0 (the end of `grid`) to K (its start)."""
    table = torch.tensor(list(reversed([float(t) for t in grid])), dtype=torch.float64)
    return Path(table[level], torch.arange(level.shape[1])[None])


def pyramid(count: int, grid: Sequence[float], gap: int) -> Path:
    """Frame f starts gap * f steps late: level[m, f] = clip(K + gap f - m, 0, K) with K steps a frame.

    gap = 0 is synchronous, gap = K autoregressive; K + (count - 1) gap calls.
    """
    if count < 1 or gap < 0:
        raise ValueError(f"a pyramid needs at least one frame and a gap >= 0; got {count} frames, gap {gap}")
    K = len(grid) - 1
    m = torch.arange(K + (count - 1) * gap + 1)[:, None]
    return frames((K + gap * torch.arange(count)[None] - m).clamp(0, K), grid)


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
    out, kinds = fall[: below + 1], [SOLVE] * below
    for _ in range(repeats):
        out += fall[above : below + 1]
        kinds += [RENOISE] + [SOLVE] * (below - above)
    out += fall[below + 1 :]
    kinds += [SOLVE] * (len(fall) - 1 - below)
    return Path(torch.tensor(out, dtype=torch.float64)[:, None], 0, tuple(kinds))


@dataclass(frozen=True, eq=False)
class Hold:
    """What a sample is to keep: `value` where `mask` is true (all of it without a mask; dicts for parts).

    known: Hold(value, mask) keeps it at time 0, bit-identical to the end. given: time > 0 shows it to the network as
    that noisy (a forgiving context). clamp: for a network with one time a sample, the value is re-noised and pasted in
    at every step (RePaint's replacement): plausible at the seam, not exact.
    """

    value: Any
    mask: Any = True
    time: float = 0.0
    clamp: bool = False
