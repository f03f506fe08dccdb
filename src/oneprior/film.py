"""The walk that led to samples: x_t and its posterior mean E[x_0 | x_t], as numbers and as a film.

A frame shows all samples, x_t beside its mean; .gif plays the frames and holds the last, .png is a strip of a few of
them, x_t above its mean, time running to the right.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from oneprior.results import Result, arranged, grid, png
from oneprior.sampling import Step
from oneprior.training.files import explained, write_bytes

FRAME, LAST = 90, 1800  # milliseconds
GAP = 12  # pixels between x_t and its mean, and between the frames of a strip
STRIP = 8  # frames of a strip
SUFFIXES = (".gif", ".png")


@dataclass(frozen=True)
class Sampled(Result):
    """trajectory: x_t along the walk, (K, B, *) in the user's units, unclipped; means: E[x_0 | x_t] of the same
    frames; times: their K times, the last 0, where both are x. None and () where no trajectory was asked for."""

    trajectory: Tensor | None = None
    means: Tensor | None = None
    times: tuple[float, ...] = ()
    large = "trajectory", "means"

    def film(self, path: str | Path) -> Path:
        """Write the trajectory of pictures as .gif or .png; what is there is replaced."""
        if self.trajectory is None or self.means is None:
            raise ValueError("no trajectory was kept: ask for one, prior.sample(..., trajectory=24)")
        return write(path, self.trajectory, self.means)


class Frames(NamedTuple):
    """times (K,), falling to 0; x_t and means E[x_0 | x_t], (K, B, *) in model range."""

    times: tuple[float, ...]
    x: Tensor
    mean: Tensor


class Trace:
    """Keeps x_t and E[x_0 | x_t] at `frames` evenly chosen times of a walk; memory for twice as many at most.

    Of several calls at one time (Heun's) the last one counts: it starts from the x that was accepted.

    Example:
        >>> trace = Trace(24)
        >>> x = sample(den, (8, 1, 28, 28), watch=trace)
        >>> times, x_t, means = trace.end(x)
    """

    def __init__(self, frames: int) -> None:
        if frames < 2:
            raise ValueError(f"trajectory = {frames}: at least 2 frames were expected, the noise and the sample")
        self.frames, self.index, self.stride, self.now = frames, -1, 1, -1.0
        self.kept: dict[int, tuple[float, Tensor, Tensor]] = {}
        self._seen: Any = None

    def __call__(self, step: Step) -> None:
        post, self._seen, before = step.posterior, step.posterior, self._seen
        if post is before:  # a rise with fresh noise asks nothing
            return
        now = float(step.t.max()) if isinstance(step.t, Tensor) else step.t
        if now != self.now:
            self.now, self.index = now, self.index + 1
        if self.index % self.stride == 0:
            self.kept[self.index] = (now, post.x_t.detach().clone(), post.mean.detach().clone())
            if len(self.kept) > 2 * self.frames:
                self.stride *= 2
                self.kept = {i: v for i, v in self.kept.items() if i % self.stride == 0}

    def end(self, x: Tensor) -> Frames:
        """The frames, with the finished sample x as the last: its own mean at time 0."""
        every = [self.kept[i] for i in sorted(self.kept)]
        count = min(self.frames - 1, len(every))
        step = (len(every) - 1) / max(count - 1, 1)
        times, xs, means = zip(*(every[round(i * step)] for i in range(count)), (0.0, x, x), strict=True)
        return Frames(times, torch.stack(xs), torch.stack(means))


def checked(path: str | Path, shape: Sequence[int]) -> Path:
    """A path that a film of samples of `shape` can be written to; its folder is made.

    Raises:
        ValueError: for another suffix, a folder, or samples that are no pictures.
        OSError: where it cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"a trajectory is written as {' or '.join(SUFFIXES)}; {path} ends in '{path.suffix}'")
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ValueError(
            f"only pictures (1 or 3 channels) make a film; these samples have shape {tuple(shape)}: take the numbers, "
            "prior.sample(..., trajectory=24).trajectory"
        )
    if path.is_dir():
        raise ValueError(f"{path} is a folder; the name of a file was expected")
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    return path


def write(path: str | Path, x: Tensor, means: Tensor) -> Path:
    """Write x_t and its means, (K, B, C, H, W), K frames, as the suffix says."""
    path = checked(path, x.shape[2:])
    if path.suffix.lower() == ".png":
        pick = [round(i * (len(x) - 1) / (STRIP - 1)) for i in range(STRIP)] if len(x) > STRIP else range(len(x))
        frames = [arranged([grid(x[i]), grid(means[i])], 1, GAP) for i in pick]
        write_bytes(path, png(arranged(frames, len(frames), GAP)))
        return path
    pairs = [arranged([grid(a), grid(b)], 2, GAP) for a, b in zip(x, means, strict=True)]
    frames = [pair.convert("L" if x.shape[2] == 1 else "RGB") for pair in pairs]
    buffer, held = io.BytesIO(), [FRAME] * (len(frames) - 1) + [LAST]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=held, loop=0)
    write_bytes(path, buffer.getvalue())
    return path
