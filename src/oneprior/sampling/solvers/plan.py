"""A plan: a schedule and a path become, once, a list of network calls and linear rows.

With h = lam_s - lam_t > 0 and stochasticity kappa, for a mean D that is constant in the step,
    x_s = a_s D + b_s y + rho (x_t - a_t D - b_t y) + std n
is exact; what a solver chooses is which D (or combination of the last few) stands there. All numbers are float64 and
computed for every step and track at once. Limits come by construction: the last step (h infinite), alpha = 0 at the
start and a history that a track cannot use all fall back to D_i.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from oneprior.paths import INVERT, RENOISE, Path
from oneprior.posterior import Posterior
from oneprior.schedules import Kappa, Schedule, Stochasticity

Stochastic = Stochasticity | Callable[[Tensor], Tensor]  # a function gives kappa from sigma/alpha at t


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
    leg: the step of the path it belongs to. Numbers are floats on a path of one track, else float64 [tracks]."""

    t: Any
    s: Any
    rows: tuple[Row, ...]
    moved: Tensor | None
    call: bool = True
    leg: int = 0


def mean(post: Posterior) -> Tensor:
    return post.mean


class Solver(ABC):
    """Abstract. depth: how many views a row may use; view: what of the posterior is interpolated; variance: whether
    the posterior's variance is added to the step's noise; swell: factor on the noise of a renoising step."""

    variance: bool = False
    swell: float = 1.0

    @property
    def depth(self) -> int:
        return 1

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
    lam_t: Tensor
    lam_s: Tensor
    rho: Tensor
    std: Tensor
    c: Tensor  # weight of the mean, a_s - rho a_t
    b_t: Tensor | None
    b_s: Tensor | None
    h: Tensor  # step in lam; 0 where a track rests
    moves: Tensor  # bool
    follows: Tensor  # bool: the step before belongs to the same trajectory (it moved, and no noise came between)
    kinds: tuple[str, ...]

    def row(self, i: int, w: tuple[Tensor, ...], keep: Tensor | None = None) -> Row:
        keep = self.rho[i] if keep is None else keep
        anchor = None if self.b_t is None or self.b_s is None else self.b_s[i] - keep * self.b_t[i]
        return Row(keep, w, anchor, self.std[i])


def shift(v: Tensor, by: int, fill: float | bool) -> Tensor:
    """v of `by` steps before (after, if negative), `fill` where there is none."""
    pad = torch.full_like(v[: abs(by)], fill)
    return v if by == 0 else torch.cat([pad, v[:-by]] if by > 0 else [v[-by:], pad])


def legs(schedule: Schedule, path: Path, kappa: Stochastic) -> Legs:
    m = path.matrix
    a, b, s = schedule.coefs(m)
    t0, t1 = m[:-1], m[1:]
    rho, std = schedule.transition(t0, t1, Kappa(kappa(s[:-1] / a[:-1])) if _function(kappa) else kappa)  # type: ignore[arg-type, operator]
    ode = torch.tensor([k == INVERT for k in path.kinds])[:, None]
    if ode.any():
        # inversion follows the ODE upwards: the same rho as falling with kappa = 0
        rho = torch.where(ode & (s[:-1] > 0) & (t0 != t1), s[1:] / s[:-1], torch.where(ode & (t0 != t1), 0.0, rho))
        std = torch.where(ode, 0.0, std)
    lam, moves = schedule._lam(m), t0 != t1
    same = torch.tensor([p == k != RENOISE for p, k in zip(("", *path.kinds), path.kinds, strict=False)])[:, None]
    ends = (None, None) if b is None else (b[:-1], b[1:])
    return Legs(
        a[:-1], s[:-1], a[1:], s[1:], lam[:-1], lam[1:], rho, std, a[1:] - rho * a[:-1], *ends,
        torch.where(moves, lam[1:] - lam[:-1], 0.0), moves, shift(moves, 1, False) & same, path.kinds,
    )  # fmt: skip


def _function(kappa: Any) -> bool:
    return callable(kappa) and not hasattr(kappa, "share")


@lru_cache(maxsize=256)
def _plan(solver: Solver, schedule: Schedule, path: Path) -> tuple[Stage, ...]:
    lg = legs(schedule, path, getattr(solver, "kappa", 0.0))
    rows, stages = solver.rows(lg), []
    one = path.matrix.shape[1] == 1
    for i, calls in enumerate(rows):
        t, s = path.matrix[i], path.matrix[i + 1]
        if one and t.item() == s.item():
            continue
        if lg.kinds[i] == RENOISE:
            calls = [[lg.row(i, (torch.zeros_like(t),))._replace(std=solver.swell * lg.std[i])]]
        for j, step in enumerate(calls):
            at, moved = (t, lg.moves[i]) if j == 0 else (s, lg.moves[i] & (s > 0))  # at 0 no further call counts
            moved = None if one or bool(moved.all()) else moved
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
