"""CFG++ (Chung et al. 2024): D_l = D_u + l (D_c - D_u) is the image of a step, but its noise is the unconditional one:

    x_s = a_s D_l + s_s eps_u,      eps_u = (x_t - a_t D_u) / s_t,      l in [0, 1].

A DDIM step of it is exactly one of classifier-free guidance at the scale of that step,
    w = l / (1 - e^-h),      h = lam_s - lam_t,
so it is written as that, and any sampler takes it. w = l where h is infinite: from alpha = 0, and on the last step. As
steps shrink w grows like l / h: the strength rises with the number of steps without bound, so l means something only
together with the number of steps.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from oneprior.denoiser import Denoiser
from oneprior.guidance.contrast import Conditional, Interval, Values
from oneprior.guidance.scale import Scale
from oneprior.paths import RENOISE, Path
from oneprior.schedules import Schedule
from oneprior.times import align


class _Steps(NamedTuple):
    """1 / (1 - e^-h) at each time of a path, times rising."""

    t: Tensor
    gain: Tensor
    at: dict[float, float]


class CFGpp(Conditional):
    """Guidance of `inner` by CFG++ at strength l: a float, or (B,) for one a sample. Elsewhere as `CFG`.

    Each step's scale comes from the path that `begin` is told, so it is for sampling and cannot be asked at a time
    that is no time of a path. A second-order sampler asks at the same times, each with the scale of the step from it.

    Example:
        >>> x = sample(CFGpp(den, 0.6), (8, 1, 28, 28), steps=20, sampler="ddim", label=label)

    Raises:
        ValueError: outside a trajectory, at a time that is not on its path, or for a path with steps of two lengths
            from one time.
    """

    def __init__(
        self, inner: Denoiser, strength: Scale = 0.6, *, negative: Values = None, interval: Interval = None
    ) -> None:
        super().__init__(inner, strength, negative=negative, interval=interval, name="strength")
        self.plain, self._steps = False, None

    def state(self, path: Path | None) -> dict[str, Any]:
        return {"_steps": None if path is None else _steps(self.schedule, path)}

    def combine(self, means: tuple[Tensor, ...], x: Tensor, t: Any, cond: dict[str, Any]) -> Tensor:
        c, u = means
        return u + align(self.scale, x) * align(self._gain(t), x) * (c - u)

    def _gain(self, t: Any) -> Any:
        if self._steps is None:
            raise ValueError("CFG++ belongs to the steps of a path: use it in sample or walk, or begin(path)")
        steps = self._steps
        if isinstance(t, float) and t in steps.at:
            return steps.at[t]
        asked = torch.as_tensor(t, dtype=torch.float64, device="cpu")
        j = torch.searchsorted(steps.t, asked).clamp(max=len(steps.t) - 1)
        i = (j - 1).clamp(min=0)
        i = torch.where(asked - steps.t[i] < steps.t[j] - asked, i, j)  # the nearest: t may have come in float32
        if bool(((steps.t[i] - asked).abs() > 1e-6 * asked).any()):
            raise ValueError(
                f"t = {t} is no time of the path that CFG++ was told of: put wrappers that change the time inside it"
            )
        return steps.gain[i].to(t) if isinstance(t, Tensor) else float(steps.gain[i])


@lru_cache(maxsize=64)
def _steps(schedule: Schedule, path: Path) -> _Steps:
    m = path.matrix
    a, _, s = schedule.coefs(m)
    ratio = (s[1:] * a[:-1]) / (a[1:] * s[:-1])  # e^-h: 0 from alpha = 0, and to sigma = 0
    gain = (1 / (1 - ratio)).nan_to_num(1.0, posinf=1.0)
    table: dict[float, float] = {}
    legs = [
        leg
        for i, kind in enumerate(path.kinds)
        for leg in zip(m[i].tolist(), m[i + 1].tolist(), gain[i].tolist(), strict=True)
        if kind != RENOISE and leg[0] != leg[1]
    ]
    for t, _, g in legs:
        if abs(table.setdefault(t, g) - g) > 1e-9 * abs(g):
            raise ValueError(f"CFG++ has one scale a time, but this path takes steps of two lengths from t = {t:g}")
    for _, t, g in legs:  # a corrector's call where a path ends belongs to the step that ends there
        table.setdefault(t, g)
    for t in m.flatten().tolist():  # elements that rest
        table.setdefault(t, 1.0)
    times = torch.tensor(sorted(table), dtype=torch.float64)
    return _Steps(times, torch.tensor([table[t] for t in times.tolist()], dtype=torch.float64), table)
