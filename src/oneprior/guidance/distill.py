"""Guidance distillation (Meng et al. 2023): a student that is told the scale, D_s(x, t, w), fits the guided D_w.

    min E over w of |D_s(x_t, t, w) - D_w(x_t, t)|^2,      w log-uniform in [lo, hi],
so that one call of the network answers for the two of guidance, at any scale chosen when sampling.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log, pi
from typing import Any

import torch
from torch import Tensor, nn

from oneprior.denoiser import Denoiser, NetworkDenoiser, Wrapper
from oneprior.guidance.cfg import CFG
from oneprior.guidance.scale import Scale, check_scale
from oneprior.noise import White
from oneprior.objective import Objective
from oneprior.posterior import Posterior
from oneprior.times import Time, align


@dataclass(frozen=True)
class Scales:
    """The scales a student knows, lo <= w <= hi, and how it is told: (B, 2 waves) numbers for the port `port`,
    cos and sin of pi k u with u in [0, 1] the place of log w, k = 1 .. waves (build it with vector=scales.width)."""

    lo: float = 1.0
    hi: float = 8.0
    waves: int = 4
    port: str = "vector"

    def __post_init__(self) -> None:
        if not 0 < self.lo < self.hi < float("inf") or self.waves < 1:
            raise ValueError(f"0 < lo < hi and waves >= 1 were expected; got {self}")

    @property
    def width(self) -> int:
        return 2 * self.waves

    def embed(self, w: Tensor) -> Tensor:
        """(B,) -> (B, width)."""
        u = (w / self.lo).log() / log(self.hi / self.lo)
        angle = pi * u[:, None] * torch.arange(1, self.waves + 1, dtype=w.dtype, device=w.device)
        return torch.cat([angle.cos(), angle.sin()], 1)

    def draw(self, noise: Tensor) -> Tensor:
        """(B,) scales from the far digits of a sample's own noise: as good as independent of it, and a pure function of
        the sample, whatever its batch."""
        first = noise.flatten(1)[:, :2].double()
        u = (first @ first.new_tensor([1e4, 7.3e3])[: first.shape[1]]).remainder(1.0)
        return (self.lo * (u * log(self.hi / self.lo)).exp()).to(noise)


class Distill(nn.Module):
    """objective(student, x0, t, noise, **cond) -> (B,), for training like any `Objective`.

    teacher: a conditional denoiser, put in eval mode and not trained (nor saved with the objective). base: weight and
    law of times. guide: (teacher, scales (B,)) -> the guided denoiser to fit, plain guidance by default.

    Example:
        >>> student = wrap(build(MLPConfig((2,), classes=3, vector=Scales().width)), den.schedule, "v")
        >>> Trainer(student, Distill(den), source)

    Raises:
        ValueError: when the schedules of teacher and student differ, or their noise is coloured.
    """

    teacher: Denoiser

    def __init__(
        self,
        teacher: Denoiser,
        scales: Scales | None = None,
        base: Objective | None = None,
        guide: Callable[[Denoiser, Tensor], Denoiser] = CFG,
    ) -> None:
        super().__init__()
        if not isinstance(teacher.schedule.color, White):
            raise ValueError(f"distillation is for white noise; the teacher's is {teacher.schedule.color}")
        self.__dict__["teacher"] = teacher.eval()  # no submodule: its weights are nobody's to train or save here
        self.scales, self.base, self.guide = scales or Scales(), base or Objective(), guide
        self.law = self.base.law

    def forward(self, den: NetworkDenoiser, x0: Tensor, t: Time, noise: Tensor, **cond: Any) -> Tensor:
        if den.schedule != self.teacher.schedule:
            raise ValueError(f"the student runs on {den.schedule}, its teacher on {self.teacher.schedule}")
        w = self.scales.draw(noise)
        start = Posterior(x0, x0, den.schedule, t, None, cond.get("y"))
        a, b, s = start.coefs
        x = a * x0 + s * noise + (0.0 if b is None else b * cond["y"])
        with torch.no_grad():
            post = self.guide(self.teacher, w)(x, t, **cond)
        # the pair (D, eps) of the teacher instead of (x_0, eps) of the data: the same x_t, the guided target
        return self.base(den, post.mean, t, post.eps, **cond, **{self.scales.port: self.scales.embed(w)})


class Distilled(Wrapper):
    """A student at `scale`, a float or (B,) for one a sample, within `scales`: one call a step.

    Example:
        >>> x = sample(Distilled(student, 4.0), (8, 2), label=label)
    """

    def __init__(self, inner: Denoiser, scale: Scale = 2.0, scales: Scales | None = None) -> None:
        super().__init__(inner, density=False)
        self.scale, self.scales = check_scale(scale), scales or Scales()
        lo, hi = (float(v) for v in torch.as_tensor(self.scale).aminmax())
        if lo < self.scales.lo or hi > self.scales.hi:
            raise ValueError(f"scale = {scale}: this student was trained from {self.scales.lo} to {self.scales.hi}")

    def posterior(self, x: Tensor, t: Time, **cond: Any) -> Posterior:
        w = align(torch.as_tensor(self.scale, dtype=x.dtype, device=x.device), x).reshape(-1).expand(len(x))
        return self.inner(x, t, **cond, **{self.scales.port: self.scales.embed(w)})
