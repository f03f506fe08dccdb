"""Reward guidance: a differentiable log f(x_0) steers a denoiser that was never trained for it.

    D' = D + rho_t u_t grad_{x_t} F(D(x_t))  +  v_t (D_N - D),    D_0 = D,  D_{i+1} = D_i + mu_t grad F(D_i),
    F(D) = log mean_j f(D + s sigma_t e_j),  e_1..e_J ~ N(0, I):
through the net (rho: p(y | x_t) is taken as p(y | x_0 = D)), and in mean space (mu: the net is not differentiated),
both smoothed over J copies. The units (u, v) are those of a score, (s_t^2 / a_t, 1), whose result settles as steps are
added; or those of a step, in which DDIM arrives at x_s + rho_t (a_s / a_t) grad F + a_s (D_N - D), as published:
    DPS      (Chung et al. 2023)   rho alone, f = exp -|y - A x|, PerStep(1.0), ancestral
    MPGD     (He et al. 2024)      rho=0, mu, PerStep()
    FreeDoM  (Yu et al. 2023)      rho alone, PerStep(1.0), ancestral, on paths.recur
    UGD      (Bansal et al. 2024)  rho, mu, iterations, PerStep(), on paths.recur
    TFG      (Ye et al. 2024)      rho, mu, iterations, copies, smooth, "increase" shapes, PerStep(), on paths.recur
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import expm1, isfinite, log
from typing import Any, Protocol

import torch
from torch import Tensor

from oneprior.denoiser import Denoiser, Wrapper
from oneprior.guidance.tweedie import each, gradient, informed, through
from oneprior.noise import Noise
from oneprior.paths import SOLVE, Path
from oneprior.posterior import Posterior
from oneprior.schedules import Schedule
from oneprior.times import Time, align

Shape = Callable[[Tensor], Tensor]


def flat(keep: Tensor) -> Tensor:
    """The same at every step."""
    return torch.ones_like(keep)


def increase(keep: Tensor) -> Tensor:
    """Proportional to keep = abar_t / abar_s, the share of the signal's power that a step of the noising keeps."""
    return keep


def decrease(keep: Tensor) -> Tensor:
    """Proportional to beta_t = 1 - abar_t / abar_s: strong where there is noise, weak at the end."""
    return 1 - keep


SHAPES: dict[str, Shape] = {"flat": flat, "increase": increase, "decrease": decrease}


class Unit(Protocol):
    """In which units rho and mu are: gains (u, v) of the step from t to s."""

    @property
    def stepwise(self) -> bool:
        """Whether the gains depend on s."""
        ...

    def gains(self, schedule: Schedule, t: Any, s: float) -> tuple[Any, Any]: ...


@dataclass(frozen=True)
class AsScore:
    """rho F is a log-likelihood of x_t, and adds to the score: rho = 1 is Bayes' rule for f = p(y | x_0)."""

    stepwise = False

    def gains(self, schedule: Schedule, t: Any, s: float) -> tuple[Any, Any]:
        a, _, sd = schedule.at(informed(schedule, t))
        return sd * sd / a, 1.0


@dataclass(frozen=True)
class PerStep:
    """Shifts of x a step, however small it is: divided by what a DDIM(kappa) step makes of D, 1 - e^(-(1+kappa)h)."""

    kappa: float = 0.0
    stepwise = True

    def gains(self, schedule: Schedule, t: Any, s: float) -> tuple[Any, Any]:
        share = -expm1(-(1 + self.kappa) * (schedule.lam(s) - schedule.lam(t)))
        return 1 / (schedule.at(informed(schedule, t))[0] * share), 1 / share


class RewardGuidance(Wrapper):
    """`inner` guided by a reward; one call of `inner`, and its backward pass only where rho is not 0.

    reward: x_0 (B, *) -> log f (B,), differentiable, each sample by itself: a log-likelihood, minus a loss, a score of
    a classifier of clean samples. rho, mu, unit: as above. iterations: N. copies: J; smooth: s, in standard deviations
    of the noise of the variance-preserving process at the same log-SNR; noise: whose, keyed by the number of the call
    in its trajectory: `Seeded(seeds)` with the seeds of the samples. rho_shape, mu_shape: "flat", "increase",
    "decrease" or a function of abar_t / abar_s, scaled to mean 1 over the path. The result is detached.

    Example:
        >>> seen = lambda x: -(y - A(x)).square().flatten(1).sum(1) / (2 * 0.1**2)
        >>> x = sample(RewardGuidance(den, seen, copies=8, smooth=0.5, noise=Seeded(seeds)), shape, seeds=seeds)

    Raises:
        ValueError: for settings out of range, smoothing without noise, a reward that is not (B,), and, for shapes and
            PerStep, a denoiser asked outside of a walk along a path of one track.
    """

    def __init__(
        self,
        inner: Denoiser,
        reward: Callable[[Tensor], Tensor],
        *,
        rho: float = 1.0,
        mu: float = 0.0,
        iterations: int = 1,
        copies: int = 1,
        smooth: float = 0.0,
        noise: Noise | None = None,
        rho_shape: str | Shape = "flat",
        mu_shape: str | Shape = "flat",
        unit: Unit = AsScore(),
    ) -> None:
        super().__init__(inner, density=False)
        for name, value, low in (("iterations", iterations, 1), ("copies", copies, 1), ("smooth", smooth, 0)):
            if not value >= low:
                raise ValueError(f"{name} = {value}: at least {low} was expected")
        if not (isfinite(rho) and isfinite(mu)):
            raise ValueError(f"rho = {rho}, mu = {mu}: finite numbers were expected")
        if smooth and noise is None:
            raise ValueError("smooth > 0 needs noise: give noise=Seeded(seeds) with the seeds of the samples")
        if copies > 1 and not smooth:
            raise ValueError(f"{copies} copies of one and the same point: give smooth > 0, or copies=1")
        self.reward, self.rho, self.mu, self.iterations, self.unit = reward, rho, mu, iterations, unit
        self.copies, self.smooth, self.noise = copies, smooth, noise
        self.shapes = tuple(_shape(v) for v in (rho_shape, mu_shape))
        self._table: dict[float, tuple[float, float, float]] = {}  # of a trajectory: t -> (rho_t, mu_t, s)
        self._calls: int | None = None  # of a trajectory; a denoiser asked by itself counts none

    def state(self, path: Path | None) -> dict[str, Any]:
        return {"_calls": 0, "_table": {} if path is None or not self._along else self._strengths(path)}

    @property
    def _along(self) -> bool:
        return self.unit.stepwise or any(f is not flat for f in self.shapes)

    def _strengths(self, path: Path) -> dict[float, tuple[float, float, float]]:
        m = path.matrix
        if m.shape[1] > 1:
            raise ValueError(f"shapes and PerStep need one time a sample; this path has {m.shape[1]} tracks")
        down = torch.tensor([k == SOLVE for k in path.kinds]) & (m[1:, 0] < m[:-1, 0])
        t, s = m[:-1, 0][down], m[1:, 0][down]
        keep = torch.sigmoid(2 * self.schedule.lam(t)) / torch.sigmoid(2 * self.schedule.lam(s))
        rho, mu = (v * g / g.mean() for v, g in zip((self.rho, self.mu), (f(keep) for f in self.shapes), strict=True))
        return {a: rest for a, *rest in zip(*(v.tolist() for v in (t, rho, mu, s)), strict=True)}  # type: ignore

    def _strength(self, t: Time) -> tuple[float, float, float]:
        if not self._along:
            return self.rho, self.mu, 0.0
        if not self._table or not isinstance(t, float):
            raise ValueError(
                "shapes and PerStep depend on the path: use this denoiser in sample or walk, or begin(path)"
            )
        near = t if t in self._table else min(self._table, key=lambda known: abs(known - t))  # inside of a step
        return self._table[near]

    def posterior(self, x: Tensor, t: Time, **cond: Any) -> Posterior:
        (rho, mu, s), stage = self._strength(t), self._calls or 0
        if self._calls is not None:
            self._calls += 1
        u, v = self.unit.gains(self.schedule, t, s)
        a, _, sd = self.schedule.at(t)
        copies = self._copies(x, align(self.smooth * sd / (a * a + sd * sd) ** 0.5, x), stage)
        if rho:
            post, _, grad = through(
                self.inner, lambda p: self._log_f(p.mean, copies), x, informed(self.schedule, t), cond
            )
            shift = rho * align(u, x) * grad
        else:
            with torch.no_grad():
                post = self.inner(x, t, **cond)
            shift = torch.zeros_like(x)
        if mu:
            D = post.mean
            for _ in range(self.iterations):
                D = D + mu * gradient(lambda D: self._log_f(D, copies), D)[1]
            shift = shift + align(v, x) * (D - post.mean)
        return Posterior(post.mean + shift, x, self.schedule, t, None, post.y)

    def _copies(self, x: Tensor, scale: Any, stage: int) -> Tensor | None:
        """s sigma_t e_j for the J copies, (B, J, *); None where there is no smoothing."""
        if self.noise is None or not self.smooth:
            return None
        e = self.noise(stage, x[:, None].expand(len(x), self.copies, *x.shape[1:]), "smooth")
        return (scale[:, None] if isinstance(scale, Tensor) and scale.ndim else scale) * e

    def _log_f(self, D: Tensor, copies: Tensor | None) -> Tensor:
        points = [D] if copies is None else [D + c for c in copies.unbind(1)]
        logs = torch.stack([each(self.reward(p), D, "the reward") for p in points])
        return logs[0] if len(points) == 1 else logs.logsumexp(0) - log(len(points))


def _shape(value: str | Shape) -> Shape:
    if not isinstance(value, str):
        return value
    if value not in SHAPES:
        raise ValueError(f"shape '{value}' is not known; one of {sorted(SHAPES)} or a function was expected")
    return SHAPES[value]
