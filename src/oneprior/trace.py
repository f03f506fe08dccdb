"""Looking on without changing anything: the walk that leads to a sample."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from oneprior.sampling import Step


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
