"""Searching a grid with its solver: GITS's dynamic programme (Chen et al. 2024), then descent on the end point.

A teacher of many steps leaves its states at nodes 0 .. N on a batch of warm-up samples. A jump from i to j costs the
error c_ij of the solver's step from the teacher's state at i to that at j, and k steps to j cost
    V_k(j) = min over i < j of  growth V_{k-1}(i) + c_ij.
A multistep solver's jump depends on the nodes before i: those of the best way to i, at the teacher's states. Errors of
single steps say little of a method of high order, whose errors cancel: `search` goes on from the better of that grid
and the rule's by moving one level at a time while the error at the end falls, so that it never loses to the rule on
the warm-up samples. What is best for one solver is worse for another: a grid belongs to its solver.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, inf
from typing import Any

import torch
from torch import Tensor

from oneprior import paths
from oneprior.denoiser import Denoiser
from oneprior.noise import Seeded
from oneprior.paths import Path
from oneprior.sampling.auto import ANGLE, plain
from oneprior.sampling.grids import FLOW, Grid, Levels, check_steps
from oneprior.sampling.sampler import Sampler, _start, device_of, sample
from oneprior.sampling.solvers import Adams, Solver
from oneprior.sampling.walk import step, walk
from oneprior.schedules import Schedule

TEACHER = Adams(3, ANGLE, corrector=True)


@torch.no_grad()
def gits(
    den: Denoiser,
    n: int,
    shape: Sequence[int],
    *,
    solver: Solver | None = None,
    teacher: int = 60,
    warm: int = 256,
    grid: Grid = FLOW,
    growth: float = 1.15,
    sd: float = 0.1,
    seeds: Sequence[int] | None = None,
    **cond: Any,
) -> Levels:
    """The grid of n steps for a deterministic one-call solver (that of `auto` without) by the dynamic programme.

    shape: of one sample; teacher: its steps, on `grid`; warm: samples, or as many as `seeds`; growth: how much an error
    grows a step; sd: the detail's standard deviation: errors at a level count by 1/sqrt(sd^2 + sbar^2), what is left
    of them at the end. cond: as for `sample`, one a warm-up sample. Memory: teacher x warm samples, twice.

    Example:
        >>> grid = gits(den, 8, (1, 28, 28))
        >>> x = sample(den, (16, 1, 28, 28), steps=8, sampler=Sampler(solver, grid))

    Raises:
        ValueError: for n < 1, fewer teacher steps than n, or a solver with noise or several calls a step.
    """
    check_steps(n)
    if teacher < n:
        raise ValueError(f"a teacher of {teacher} steps has no {n} steps to choose: at least as many were expected")
    chosen, schedule = plain(den, n)[0] if solver is None else solver, den.schedule
    times = grid(schedule, teacher, den.facts.t_range[1])
    path, noise = paths.sync(times), Seeded(range(warm) if seeds is None else seeds)
    x = _start(schedule, torch.empty((len(noise.seeds), *shape), device=device_of(den)), path, noise, "", cond.get("y"))
    states, views = [x], []
    for out in walk(den, x, path, TEACHER, noise, **cond):
        views.append(chosen.view(out.posterior))
        states.append(out.x)
    costs = _Costs(chosen, schedule, times, states, views, sd)
    best: list[tuple[float, tuple[int, ...]]] = [(inf, ())] * (teacher + 1)
    best[0] = (0.0, (0,))
    for k in range(1, n + 1):
        found: list[tuple[float, tuple[int, ...]]] = [(inf, ())] * (teacher + 1)
        for i, (value, way) in enumerate(best):
            # the last step ends at 0; the ones before leave a node for each step to come
            ends = [teacher] if k == n else list(range(i + 1, teacher - (n - k) + 1))
            if not way or i == teacher or not ends:
                continue
            for j, cost in zip(ends, costs(way, ends), strict=True):
                if (total := growth * value + cost) < found[j][0]:
                    found[j] = (total, (*way, j))
        best = found
    return _levels(schedule, times, [times[i] for i in best[teacher][1][1:-1]])


def search(
    den: Denoiser,
    n: int,
    shape: Sequence[int],
    *,
    solver: Solver | None = None,
    teacher: int = 60,
    warm: int = 256,
    seeds: Sequence[int] | None = None,
    **cond: Any,
) -> Levels:
    """The better of `gits` and the rule's grid (FLOW for another solver), then moved level by level: about 20 n^2
    calls. Arguments as `gits`.

    Example:
        >>> facts = dataclasses.replace(den.facts, grids={8: search(den, 8, (1, 28, 28)).sbar})
    """
    (chosen, rule), schedule = plain(den, n) if solver is None else (solver, FLOW), den.schedule
    seeds, high = range(warm) if seeds is None else seeds, den.facts.t_range[1]

    def draw(by: Solver, grid: Grid, steps: int) -> Tensor:
        return sample(den, (len(seeds), *shape), steps=steps, sampler=Sampler(by, grid), seeds=seeds, **cond)

    end = draw(TEACHER, FLOW, 2 * teacher)

    def error(grid: Grid) -> float:
        return float((draw(chosen, grid, n) - end).double().square().mean())

    times = rule(schedule, n, high)
    found = gits(den, n, shape, solver=chosen, teacher=teacher, warm=warm, seeds=seeds, **cond)
    least, best = min(((error(g), g) for g in (_levels(schedule, times, list(times[1:-1])), found)), key=lambda v: v[0])
    for stride in (0.3, 0.15, 0.07):
        for i in range(1, n):
            for way in (stride, -stride):
                moved = best.sbar[i] * exp(way)
                if not best.sbar[i - 1] > moved > best.sbar[i + 1]:
                    continue
                other = Levels((*best.sbar[:i], moved, *best.sbar[i + 1 :]))
                if (now := error(other)) < least:
                    least, best = now, other
                    break
    return best


def _levels(schedule: Schedule, fine: Sequence[float], inner: Sequence[float]) -> Levels:
    # the first time is the schedule's own and the last a step to 0: these two levels only bound and guide the others
    sbar = [exp(-schedule.lam(t)) for t in inner]
    top = schedule.lam(fine[0])
    first = 1.5 * max([exp(-schedule.lam(fine[1])), *sbar]) if top == -inf else exp(-top)
    return Levels((first, *sbar, min([exp(-schedule.lam(fine[-2])), *sbar]) / 2))


class _Costs:
    """Errors of one jump to many nodes at once: a track of the plan for each."""

    def __init__(
        self,
        solver: Solver,
        schedule: Schedule,
        times: tuple[float, ...],
        states: list[Tensor],
        views: list[Tensor],
        sd: float,
    ) -> None:
        self.solver, self.schedule, self.states, self.views = solver, schedule, states, views
        self.times = torch.tensor(times, dtype=torch.float64)
        a, _, s = schedule.coefs(self.times)
        self.scale = (sd * sd * a * a + s * s).sqrt().tolist()

    def __call__(self, way: tuple[int, ...], ends: list[int]) -> list[float]:
        """rms errors of the step from the last node of `way` to each of `ends`, counted as at the end."""
        before = self.times[list(way)][:, None].expand(-1, len(ends))
        matrix = torch.cat([before, self.times[ends][None]])
        plan = self.solver.plan(self.schedule, Path(matrix, 0))
        if len(plan) != len(way) or any(bool(torch.as_tensor(r.std).any()) for r in plan[-1].rows):
            raise ValueError(f"{self.solver}: a deterministic solver of one call a step was expected")
        row, depth = plan[-1].rows[-1], self.solver.depth
        history = [self.views[i] for i in reversed(way[-depth:])]
        out = []
        for track, j in enumerate(ends):
            one = row._replace(keep=_of(row.keep, track), w=tuple(_of(w, track) for w in row.w), anchor=0.0)
            error = step(self.states[way[-1]], history, one) - self.states[j]
            out.append(float(error.double().square().mean().sqrt()) / self.scale[j])
        return out


def _of(v: Any, track: int) -> float:
    return float(v[track]) if isinstance(v, Tensor) else float(v)
