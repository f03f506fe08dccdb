"""Solvers are data: a schedule and a path become, once, a plan of network calls and linear rows.

With h = lam_s - lam_t > 0 and stochasticity kappa, for a mean D that is constant in the step,
    x_s = a_s D + b_s y + rho (x_t - a_t D - b_t y) + std n
is exact; what a solver chooses is which D (or combination of the last few) stands there:
    DDIM            D_i                                        order 1; kappa = 1 is DDPM's ancestral step
    Multistep (2M)  D_i + (D_i - D_{i-1}) h / (2 h_prev)       order 2, one call a step (Lu et al. 2022)
    Heun            trapezoid in sigma/alpha                   order 2, two calls a step (Karras et al. 2022)
All numbers are float64 and computed for every step and track at once. Limits come by construction: the last step
(h infinite), alpha = 0 at the start and a history that a track cannot use all fall back to D_i.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from oneprior.paths import INVERT, RENOISE, Path
from oneprior.posterior import Posterior
from oneprior.schedules import Kappa, Schedule, Stochasticity

Number = float | Tensor  # a float on a path of one track, else float64 [tracks]


class Row(NamedTuple):
    """x_s = keep x + sum_j w_j m_j + anchor y + std n, with m_0 the newest mean. back: from the x before this step.
    last: nothing later starts from the x this row starts from, so its memory may be used again.
    lag: whose noise n is: 0 this stage's own, 1 that of the stage before (a corrector repeats its predictor's)."""

    keep: Any
    w: tuple[Any, ...]
    anchor: Any
    std: Any
    back: bool = False
    last: bool = False
    lag: int = 0


class Stage(NamedTuple):
    """One network call at t (none if not `call`), then rows in turn. moved: which tracks move, None for all.
    leg: the step of the path it belongs to."""

    t: Any
    s: Any
    rows: tuple[Row, ...]
    moved: Tensor | None
    call: bool = True
    leg: int = 0


def mean(post: Posterior) -> Tensor:
    return post.mean


class Solver(ABC):
    """Abstract. depth: how many means a row may use; view: what of the posterior is interpolated;
    variance: whether the posterior's variance is added to the step's noise."""

    depth: int = 1
    variance: bool = False

    @property
    def view(self) -> Callable[[Posterior], Tensor]:
        return mean

    @abstractmethod
    def rows(self, legs: Legs) -> list[list[list[Row]]]:
        """Per step, per network call of the step, the rows to apply; numbers are float64 [steps, tracks] slices."""

    def plan(self, schedule: Schedule, path: Path) -> tuple[Stage, ...]:
        """The stages of a path; cached, since solvers, schedules and paths are immutable."""
        return _plan(self, schedule, path)


class Legs(NamedTuple):
    """Everything about the steps of a path: float64 [steps, tracks] unless said."""

    a_t: Tensor
    s_t: Tensor
    a_s: Tensor
    s_s: Tensor
    rho: Tensor
    std: Tensor
    c: Tensor  # weight of the mean, a_s - rho a_t
    anchor: Tensor | None  # b_s - rho b_t
    b_t: Tensor | None
    b_s: Tensor | None
    h: Tensor  # step in lam; 0 where a track rests
    h_prev: Tensor  # nan where there is no usable history
    kinds: tuple[str, ...]

    def row(self, i: int, w: tuple[Tensor, ...]) -> Row:
        return Row(self.rho[i], w, None if self.anchor is None else self.anchor[i], self.std[i])


def legs(schedule: Schedule, path: Path, kappa: Stochasticity) -> Legs:
    m = path.matrix
    a, b, s = schedule.coefs(m)
    t0, t1 = m[:-1], m[1:]
    rho, std = schedule.transition(t0, t1, kappa)
    ode = torch.tensor([k == INVERT for k in path.kinds])[:, None]
    if ode.any():
        # inversion follows the ODE upwards: the same rho as falling with kappa = 0
        rho = torch.where(ode & (s[:-1] > 0) & (t0 != t1), s[1:] / s[:-1], torch.where(ode & (t0 != t1), 0.0, rho))
        std = torch.where(ode, 0.0, std)
    lam = schedule._lam(m)
    h = torch.where(t0 == t1, 0.0, lam[1:] - lam[:-1])
    fresh = torch.full_like(h[:1], torch.nan)
    jumped = torch.tensor([k == RENOISE for k in path.kinds[:-1]], dtype=torch.bool)[:, None]
    h_prev = torch.cat([fresh, torch.where(jumped, torch.nan, h[:-1])])
    anchor = None if b is None else b[1:] - rho * b[:-1]
    ends = (None, None) if b is None else (b[:-1], b[1:])
    return Legs(a[:-1], s[:-1], a[1:], s[1:], rho, std, a[1:] - rho * a[:-1], anchor, *ends, h, h_prev, path.kinds)


@lru_cache(maxsize=256)
def _plan(solver: Solver, schedule: Schedule, path: Path) -> tuple[Stage, ...]:
    kappa = getattr(solver, "kappa", Kappa(0.0))
    lg = legs(schedule, path, kappa)
    rows, stages = solver.rows(lg), []
    one = path.matrix.shape[1] == 1
    for i, calls in enumerate(rows):
        t, s = path.matrix[i], path.matrix[i + 1]
        moved = None if one or bool((t != s).all()) else t != s
        if one and t.item() == s.item():
            continue
        if lg.kinds[i] == RENOISE:
            calls = [[lg.row(i, (torch.zeros_like(t),))]]
        for j, step in enumerate(calls):
            at = t if j == 0 else s
            plain = tuple(_lower(r, one) for r in step)
            ends = (at.item(), s.item()) if one else (at, s)
            stages.append(Stage(*ends, plain, moved, lg.kinds[i] != RENOISE, i))
    after = [*[row.back for stage in stages for row in stage.rows][1:], False]
    again = iter(after)
    return tuple(st._replace(rows=tuple(r._replace(last=not next(again)) for r in st.rows)) for st in stages)


def together(plans: list[tuple[Stage, ...]]) -> list[tuple[Stage, ...]]:
    """Plans of the parts of one sample, of equal length: where a step takes one part fewer calls than another (Heun
    from alpha = 0), that part has arrived and rests at s."""
    most: Counter[int] = Counter()
    for plan in plans:
        most |= Counter(stage.leg for stage in plan)
    out = []
    for plan in plans:
        legs = {i: [stage for stage in plan if stage.leg == i] for i in most}
        for i, stages in legs.items():
            stages += [stages[-1]._replace(t=stages[-1].s, rows=())] * (most[i] - len(stages))
        out.append(tuple(stage for i in sorted(most) for stage in legs[i]))
    return out


def _lower(row: Row, one: bool) -> Row:
    # numbers that are zero on every track become 0.0, so that the loop can leave them out
    def number(v: Tensor | None) -> Any:
        return 0.0 if v is None or not v.any() else v.item() if one else v

    w = tuple(number(v) for v in row.w)
    while len(w) > 1 and isinstance(w[-1], float) and w[-1] == 0.0:
        w = w[:-1]
    return Row(row.keep.item() if one else row.keep, w, number(row.anchor), number(row.std), row.back, False, row.lag)


@dataclass(frozen=True)
class DDIM(Solver):
    """First order: D of this step alone (Song et al. 2021). kappa 0 is the ODE, 1 ancestral DDPM, `Eta(x)` DDIM's eta.

    variance: add (a_s - rho a_t)^2 Var[x_0 | x_t] to the noise where the denoiser gives it; on Gaussian data the chain
    is then exact at any number of steps (Bao et al. 2022, Analytic-DPM).
    """

    kappa: Stochasticity = 0.0
    variance: bool = False

    def rows(self, legs: Legs) -> list[list[list[Row]]]:
        return [[[legs.row(i, (legs.c[i],))]] for i in range(len(legs.kinds))]


@dataclass(frozen=True)
class Multistep(Solver):
    """2M: second order from the last two means, one call a step; kappa > 0 is SDE-2M (Lu et al. 2022, DPM-Solver++).

    History is per track: an element that rested, rose or has not been seen before takes a first-order step.
    """

    kappa: Stochasticity = 0.0
    depth: int = 2

    def rows(self, legs: Legs) -> list[list[list[Row]]]:
        r = legs.h / (2 * legs.h_prev)
        r = torch.where(torch.isfinite(r), r, 0.0)
        return [[[legs.row(i, (legs.c[i] * (1 + r[i]), -legs.c[i] * r[i]))]] for i in range(len(legs.kinds))]


@dataclass(frozen=True)
class Heun(Solver):
    """Trapezoid in sbar = sigma/alpha, Euler where a step starts at alpha = 0 or ends at sigma = 0 (EDM).

    With r = sbar_s / sbar_t: x_s / a_s = r x_t / a_t + (1 - r)(2r - 1)/(2r) D_t + (1 - r)/(2r) D_s.
    """

    depth: int = 2

    def rows(self, legs: Legs) -> list[list[list[Row]]]:
        r = (legs.s_s / legs.a_s) / (legs.s_t / legs.a_t)
        good = torch.isfinite(r) & (r > 0) & torch.isfinite(legs.h)
        g = torch.where(good, (1 - r) / (2 * r), 0.0) * legs.a_s
        out = []
        for i in range(len(legs.kinds)):
            euler = legs.row(i, (legs.c[i],))
            corrected = legs.row(i, (g[i], legs.c[i] - g[i]))._replace(back=True)
            out.append([[euler], [corrected]] if good[i].any() else [[euler]])
        return out
