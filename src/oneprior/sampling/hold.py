"""Known values in a sample: on a track that rests (exact), or put back after every step (RePaint's replacement)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from oneprior.denoiser import Denoiser, schedule_of
from oneprior.noise import Noise
from oneprior.paths import Hold, Path
from oneprior.schedules import Schedule
from oneprior.times import align


def check(hold: Hold, x: Any) -> None:
    """Refuse a mask that is not bool or does not align with x, and a value that does not fill it; parts by name."""
    if isinstance(x, Mapping):
        for k, v in hold.value.items():
            if k not in x:
                raise ValueError(f"hold names the part '{k}'; the sample has {sorted(x)}")
            mask = hold.mask.get(k, True) if isinstance(hold.mask, Mapping) else hold.mask
            check(Hold(v, mask), x[k])
        return
    mask, shape = hold.mask, tuple(x.shape)
    if isinstance(mask, Tensor):
        if mask.dtype is not torch.bool:
            raise TypeError(f"a mask of a hold is bool, True where the value is kept; got {mask.dtype}")
        if mask.ndim > x.ndim or any(a not in (1, b) for a, b in zip(mask.shape, shape, strict=False)):
            raise ValueError(
                f"the mask of a hold has shape {tuple(mask.shape)}; it must align with the first axes of x, {shape}"
            )
    size = tuple(torch.as_tensor(hold.value).shape)
    if len(size) > len(shape) or any(a not in (1, b) for a, b in zip(size[::-1], shape[::-1], strict=False)):
        raise ValueError(f"the value of a hold has shape {size}, which does not broadcast to x, {shape}")


def begin(den: Denoiser, hold: Hold, path: Path, x: Any, noise: Noise) -> tuple[Path, Any]:
    """The path with the known elements at rest, and the start with their values in it."""
    if isinstance(x, Mapping):
        values = hold.value
        masks = hold.mask if isinstance(hold.mask, Mapping) else dict.fromkeys(values, True)
        made = Path(path.matrix, {k: path.track(k) for k in x}, path.kind)
        for time in {hold.at(k) for k in values}:  # a track for each time that something is held at
            made = made.hold({k: masks.get(k) for k in values if hold.at(k) == time}, time)
        return made, {
            k: _place(den, hold, v, values[k], masks[k], noise, k) if k in values else v for k, v in x.items()
        }
    mask = hold.mask
    if mask is True:
        raise ValueError("everything is held: give a mask of the elements to keep (bool, aligned with x's first axes)")
    return path.hold(mask, hold.at("")), _place(den, hold, x, hold.value, mask, noise, "")


def _place(den: Denoiser, hold: Hold, x: Tensor, value: Tensor, mask: Any, noise: Noise, key: str) -> Tensor:
    schedule: Any = schedule_of(den, key)
    value, time = torch.as_tensor(value, device=x.device).to(x.dtype).expand_as(x), hold.at(key)
    if not isinstance(schedule, Schedule):
        known = schedule.noised(value, time, noise, key)
    else:
        a, _, s = schedule.at(time)
        known = value if time == 0 else a * value + s * schedule.color(noise(-1, x, key))
    return known.clone() if mask is True else torch.where(align(mask, x), known, x)


class Clamp:
    """Overwrites known elements with their re-noised value after every step (Lugmayr et al. 2022, RePaint)."""

    def __init__(self, hold: Hold, schedule: Schedule, noise: Noise) -> None:
        self.hold, self.schedule, self.noise = hold, schedule, noise

    def __call__(self, x: Tensor, s: Any, stage: int) -> Tensor:
        a, _, b = self.schedule.at(float(s or 0.0))
        value = torch.as_tensor(self.hold.value, device=x.device).to(x.dtype)
        known = a * value if b == 0 else a * value + b * self.schedule.color(self.noise(stage, x, "clamp"))
        return torch.where(align(self.hold.mask, x), known, x)
