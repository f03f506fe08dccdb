"""History guidance (Song et al. 2025, "History-Guided Video Diffusion"): D = D_h + w (D - D_h), w = 1 plain.

D sees the frames that are given as clean as they are; D_h sees them noised up to a time `drop`. At drop = 1 they say
nothing, and this is classifier-free guidance from the time vector alone: no condition was ever dropped in training. At
drop < 1 only their fine parts are dropped ("fractional"), which guides motion less.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from oneprior.denoiser import Denoiser
from oneprior.guidance.contrast import Contrast, Interval
from oneprior.guidance.scale import Scale
from oneprior.noise import Seeded
from oneprior.posterior import Posterior
from oneprior.times import align


class History(Contrast):
    """`inner`, of clips (B, F, ...) with a time a frame, guided by what `frames` (their numbers) say. Two calls a step.

    scale: how much, a float or (B,). drop: the time that the weaker view sees these frames at. seed: of the noise that
    takes them there, the same for every sample and step.

    Example:
        >>> x = sample(History(den, [0], 1.5), shape, hold=Hold(value, mask))  # the mask holds frame 0

    Raises:
        ValueError: for a drop outside (0, 1], or a frame that the clip has not.
    """

    def __init__(
        self,
        inner: Denoiser,
        frames: Sequence[int],
        scale: Scale = 1.5,
        *,
        drop: float = 1.0,
        seed: int = 0,
        interval: Interval = None,
    ) -> None:
        super().__init__(inner, scale, interval=interval)
        if not 0 < drop <= 1 or not frames:
            raise ValueError(
                f"frames = {list(frames)}, drop = {drop}: a frame or more and a time in (0, 1] were expected"
            )
        self.frames, self.drop, self.seed = tuple(frames), drop, seed

    def views(self, x: Tensor, t: Any, cond: dict[str, Any]) -> tuple[Posterior, tuple[Tensor, ...]]:
        F = x.shape[1]
        if not all(0 <= f < F for f in self.frames):
            raise ValueError(f"history of frames {list(self.frames)}, but the clip has frames 0 to {F - 1}")
        t = t if isinstance(t, Tensor) else torch.full((1, F), float(t), dtype=torch.float64, device=x.device)
        t = (t if t.ndim > 1 else t[:, None]).expand(-1, F)
        known = torch.zeros(F, dtype=torch.bool, device=x.device)
        known[list(self.frames)] = True
        up = torch.where(known & (t < self.drop), self.drop, t)
        rho, std = (align(v, x) for v in self.schedule.transition(t, up))
        noise = self.schedule.color(Seeded([self.seed])(0, x[:1], "history"))
        post = self.inner(x, t, **cond)
        return post, (post.mean, self.inner(rho * x + std * noise, up, **cond).mean)
