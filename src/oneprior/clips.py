"""The verbs of a prior of clips (F, C, H, W), in the user's units; see `uses.video` for what they do.

prior.animate(picture)                  clips that begin with it
prior.interpolate(first, last)          clips from one to the other
prior.extend(clip, 112)                 what follows, a window at a time
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from oneprior.film import Sampled
from oneprior.guidance.cfg import Guidance, guided
from oneprior.results import unwrap
from oneprior.uses import video


class Clips:
    """What `Prior` has for clips."""

    def animate(self: Any, picture: Any, frames: int | None = None, **how: Any) -> Sampled:
        """Clips of `frames` frames (those of training without) that begin with `picture`, (B, C, H, W) or (C, H, W).

        how: as for `sample`; with seeds for several clips a picture, the pictures are repeated in turn.

        Raises:
            ValueError: for a prior that is not of clips, whose frames have no time each, or pictures of another shape.
        """
        return _held(self, {0: picture}, frames, how)

    def interpolate(self: Any, first: Any, last: Any, frames: int | None = None, **how: Any) -> Sampled:
        """Clips of `frames` frames from `first` to `last`; both, and how, as for `animate`."""
        return _held(self, {0: first, -1: last}, frames, how)

    def extend(
        self: Any,
        clip: Any,
        frames: int,
        *,
        window: int | None = None,
        context: int | None = None,
        time: float = 0.0,
        guidance: Guidance = 1.0,
        seeds: Sequence[int] | None = None,
        **how: Any,
    ) -> Sampled:
        """`clip` (B, n, C, H, W) and `frames` more behind it. window (that of training without), context, time: as in
        `uses.video.extend`. how: steps, sampler, and the prior's conditions."""
        x = _of(self, clip, 5)
        if self._inside()[0] != self.shape[0]:
            raise ValueError(
                "codes of this prior hold several frames: extend them by uses.video.extend, and codec.stream"
            )
        own: dict[str, Any] = {k: how.pop(k) for k in ("steps", "sampler") if k in how}
        chosen: tuple[int, ...] = self._seeds(len(x), seeds)
        with self._timed() as run:
            parts = video.extend(
                guided(run, guidance), self.codec.encode(x), frames, window=window or self.shape[0], context=context,
                time=time, seeds=chosen, **own, **self._ports(len(x), how),
            )  # fmt: skip
            more = self._decode(torch.cat([*parts], 1), True)
        settings = {"frames": frames, "window": window, "context": context, "time": time, **own, **how}
        return Sampled(torch.cat([x, more], 1), chosen, settings, run.calls, run.seconds)


def _held(prior: Any, known: dict[int, Any], frames: int | None, how: dict[str, Any]) -> Sampled:
    pictures = {f: prior.codec.encode(_of(prior, v, 4)) for f, v in known.items()}
    most = max(map(len, pictures.values()))
    seeds = prior._seeds(None if how.get("seeds") is not None else most, how.pop("seeds", None))
    pictures = {f: v[torch.arange(len(seeds)) % len(v)] for f, v in pictures.items()}
    count = frames or prior.shape[0]
    inside = prior._inside((count, *prior.shape[1:]))[0]
    if inside != count and set(known) != {0}:
        raise ValueError("codes of this prior hold several frames but for the first, which alone can be known")
    return prior.sample(seeds=seeds, hold=video.given(pictures, inside), frames=count, **how)


def _of(prior: Any, x: Any, ndim: int) -> Tensor:
    """Pictures (B, C, H, W), or clips of any length, of the prior's own size."""
    x = unwrap(x)
    x = x[None] if isinstance(x, Tensor) and x.ndim == ndim - 1 else x
    if len(prior.shape) != 4:
        raise ValueError(f"this prior is of samples {prior.shape}; clips (F, C, H, W) were expected")
    if not isinstance(x, Tensor) or x.ndim != ndim or tuple(x.shape[-3:]) != prior.shape[1:]:
        wanted = ", ".join(map(str, ("B", "n")[: ndim - 3] + tuple(prior.shape[1:])))
        raise ValueError(f"a tensor of shape ({wanted}) was expected; got {tuple(getattr(x, 'shape', ())) or type(x)}")
    return x.to(prior.device)
