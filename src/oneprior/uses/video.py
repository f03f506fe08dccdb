"""Uses of one model of clips (B, F, ...) whose frames each have a time: all of them are `sample` with another hold.

    animate, interpolate   known frames rest at t = 0, the others fall from 1 (Liu et al. 2024, FVDM)
    extend                 windows whose first frames are the last of the window before, slightly noised if asked
    hierarchy              key frames in one call, then the gaps between, given the key frames at both ends
    stream                 a ladder of times that rolls over the clip (Ruhe et al. 2024, Rolling Diffusion)
    rollout                frame after frame with the keys and values of the past kept, for causal networks

What may be long is a generator of its frames: memory is that of one window.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count as naturals
from typing import Any

import torch
from torch import Tensor

from oneprior import paths
from oneprior.denoiser import Denoiser
from oneprior.noise import Seeded, derived
from oneprior.paths import Hold
from oneprior.sampling import DDIM, Solver, device_of, sample, walk
from oneprior.sampling.grids import Grid, cosine_time
from oneprior.times import aligned


def given(frames: Mapping[int, Tensor], count: int, time: float = 0.0) -> Hold:
    """A hold of some frames of clips of `count` frames. frames: number -> (B, *) in model range; negative numbers count
    from the end. time: how noisy the network sees them.

    Raises:
        ValueError: for no frame, or one that a clip of `count` frames has not.
    """
    if not frames or not all(-count <= f < count for f in frames):
        raise ValueError(f"frames {sorted(frames)} of a clip of {count} frames: one or more of them was expected")
    first = next(iter(frames.values()))
    value, mask = first.new_zeros(len(first), count, *first.shape[1:]), torch.zeros(1, count, dtype=torch.bool)
    for f, frame in frames.items():
        value[:, f], mask[:, f] = frame, True
    return Hold(value, mask.to(first.device), time)


def animate(den: Denoiser, picture: Tensor, count: int, **how: Any) -> Tensor:
    """Clips (B, count, *) that begin with `picture` (B, *), bit-identical. how: as for `sample`."""
    return sample(den, (len(picture), count, *picture.shape[1:]), hold=given({0: picture}, count), **how)


def interpolate(den: Denoiser, first: Tensor, last: Tensor, count: int, **how: Any) -> Tensor:
    """Clips (B, count, *) from `first` to `last` (B, *), both bit-identical. how: as for `sample`."""
    return sample(den, (len(first), count, *first.shape[1:]), hold=given({0: first, -1: last}, count), **how)


def extend(
    den: Denoiser,
    clip: Tensor,
    length: int,
    *,
    window: int,
    context: int | None = None,
    time: float = 0.0,
    seeds: Sequence[int] | None = None,
    **how: Any,
) -> Iterator[Tensor]:
    """The frames that follow `clip` (B, n, *), `length` of them, a window at a time: (B, <= window - context, *).

    window: frames of a call. context: how many of them are the last known ones (half of the window without). time: how
    noisy the network sees them; a small one forgives errors in what was drawn before, which otherwise add up
    (Chen et al. 2024). how: as for `sample`.

    Example:
        >>> long = torch.cat([clip, *extend(den, clip, 112, window=16, context=8)], 1)

    Raises:
        ValueError: for a clip shorter than the context, or a context that leaves no frame free.
    """
    context = window // 2 if context is None else context
    if not 0 < context < window or clip.shape[1] < context or length < 1:
        raise ValueError(
            f"context = {context} of windows of {window}: at least one frame of both kinds was expected, and a clip no "
            f"shorter than the context; the clip has {clip.shape[1]} frames, {length} more were asked for"
        )
    known, seeds = clip[:, -context:], Seeded.of(seeds, len(clip)).seeds
    for i in naturals():
        hold = given(dict(enumerate(known.unbind(1))), window, time)
        x = sample(den, (len(clip), window, *clip.shape[2:]), hold=hold, seeds=derived(seeds, "window", i), **how)
        new = x[:, context:][:, : length - i * (window - context)]
        yield new
        if (i + 1) * (window - context) >= length:
            return
        known = torch.cat([known, new], 1)[:, -context:]


def hierarchy(
    den: Denoiser, shape: Sequence[int], *, stride: int, keys: int = 1, seeds: Sequence[int] | None = None, **how: Any
) -> Tensor:
    """Clips of `shape` (B, F, *): the first `keys` frames of every `stride` in one call, then each gap given the key
    frames at both ends, so that errors do not add up along time.

    F = keys + n stride. The denoiser is told the numbers of its frames as `places` (1, frames), and must have learned
    from clips with frames left out. how: as for `sample`.

    Raises:
        ValueError: for a length that no whole number of strides reaches.
    """
    B, F = shape[:2]
    if not 0 < keys < stride or keys >= F or (F - keys) % stride:
        raise ValueError(f"{F} frames are not {keys} key frames and a number of strides of {stride}")
    at = torch.tensor([f for f in range(F) if f % stride < keys])
    seeds = Seeded.of(seeds, B).seeds
    drawn = sample(den, (B, len(at), *shape[2:]), seeds=derived(seeds, "keys"), places=at[None], **how)
    out = drawn.new_zeros(tuple(shape))
    out[:, at] = drawn
    ends = [*range(keys), *range(stride, stride + keys)]
    for i, first in enumerate(range(0, F - keys, stride)):
        gap = torch.arange(first, first + stride + keys)
        hold = given({k: out[:, first + k] for k in ends}, len(gap))
        new = sample(den, (B, len(gap), *shape[2:]), hold=hold, seeds=derived(seeds, "gap", i), places=gap[None], **how)
        out[:, gap] = new
    return out


def stream(
    den: Denoiser,
    shape: Sequence[int],
    *,
    context: int = 1,
    steps: int | None = None,
    grid: Grid = cosine_time,
    solver: Solver = DDIM(),  # noqa: B008 (a frozen value)
    seeds: Sequence[int] | None = None,
    **cond: Any,
) -> Iterator[Tensor]:
    """Frames (B, *) without end from a window of `shape` (B, F, *): frame f of it has the time of rung (f + 1) / F, and
    each time all came one rung down, frame 0 is done and leaves, and noise enters at the other end.

    context: how many frames that have left the network still sees. steps: network calls from noise to a frame, a
    multiple of F (2 F without); a frame costs steps / F of them.
    """
    B, F = shape[:2]
    times = grid(den.schedule, 2 * F if steps is None else steps, den.facts.t_range[1])
    begin, down = paths.rolling(F, times)
    down, seeds = [down.behind(n) for n in range(context + 1)], Seeded.of(seeds, B).seeds
    sigma, like = den.schedule.at(times[0])[2], torch.empty(tuple(shape), device=device_of(den))
    x, known = like, like[:, :0]
    for i in naturals(-1):
        noise, n = Seeded(derived(seeds, "rung", i)), known.shape[1]
        fresh = den.schedule.color(noise(0, like)) * sigma
        x = fresh if i < 0 else torch.cat([known, x[:, 1:], fresh[:, :1]], 1)
        for out in walk(den, x, begin if i < 0 else down[n], solver, noise, reuse=True, **cond):
            x = out.x
        if i < 0:
            continue
        yield x[:, n].clone()
        known, x = x[:, n + 1 - min(context, n + 1) : n + 1], x[:, n:]


def rollout(
    den: Denoiser,
    clip: Tensor,
    length: int,
    *,
    window: int,
    time: float = 0.0,
    seeds: Sequence[int] | None = None,
    **how: Any,
) -> Iterator[Tensor]:
    """The `length` frames (B, *) that follow `clip` (B, n, *), one after another, from a causal network of clips
    (`ClipConfig(causal=True)`): the keys and values of the last `window` - 1 frames are kept, so that a step asks
    about one frame. time: how noisy the past is shown. how: as for `sample`, without guidance.
    """
    net: Any = den.net
    past = net.past(window - 1)
    seeds = Seeded.of(seeds, len(clip)).seeds
    alpha, _, sigma = aligned(den.schedule.at(time), clip)

    def see(frames: Tensor, i: int) -> None:
        noise = Seeded(derived(seeds, "seen", i))(0, frames) if time else 0.0
        at = torch.full(frames.shape[:2], time, device=frames.device)
        with torch.no_grad():
            den(alpha * frames + sigma * noise, at, past=past, keep=True)

    see(clip[:, -(window - 1) :], -1)
    for i in range(length):
        x = sample(den, (len(clip), 1, *clip.shape[2:]), seeds=derived(seeds, "frame", i), past=past, **how)
        yield x[:, 0]
        see(x, i)
