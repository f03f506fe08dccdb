"""The rule of `sampler="auto"`: solver and grid from what the denoiser is and how many steps there are.

A model of the data's density (`facts.density`), n steps:
    n = 6 .. 10   solver   Conditional(), x_s given every call, SIX for 6;   grid   FEW[n], a table of levels
    else          solver   Adams(k, corrector) in ANGLE = Angle(c = 0.25, p = 1, q = 0.5), k = 1 + n // 5, at most 4
                  grid     FLOW: sbar = 0.6 (1 - v)^1.4 / v^0.9, v uniform; for n = 15 .. 30 the table SOME
    the grid searched for n, where `facts.grids` has it; Adams on FLOW where a table leaves the levels of the network
A guided or restored denoiser, whose mean may be steep (the angle diverges at 8 steps from scale 8 on, the data form
does not):
    solver   UniPC-2: order 2 in the data form with the free corrector;   grid   STEEP: sbar = (1 - v)^1.4 / v
What more than the solver changes on its way (known values put back): 2M, which has no corrector; grid STEEP.
Schedules with an anchor: 2M, uniform in cosine time. A path of one's own: 2M.

Why: the angle's polynomial wastes no step on the ends, and with p = 1 the linear part taken out, D ~ x c / (c + sbar),
changes over a decade of levels, as in data with features of many sizes. Of few calls it reads less than a law of the
way does. Most error left is in starts that end in another component: SIX and SOME are dense where components part (3
to 0.5), for fewer of these (0.65 at 6 calls, 0.4 at 20), and pay in the median (1.25, 1.5). Levels are matched: all
schedules give the same but for where they begin. Found on mixtures of Gaussians of a law of which
`benchmarks/nfe_quality.py` holds other draws against peers, the tables for 7 to 10 on these and the digits at once.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from oneprior.denoiser import Denoiser
from oneprior.sampling.grids import FLOW, STEEP, Grid, Levels, check_steps, cosine_time
from oneprior.sampling.solvers import Adams, Angle, Conditional, Multistep, Solver, bh2
from oneprior.schedules import Schedule

ANGLE = Angle(c=0.25, p=1.0, q=0.5)
SIX = Conditional(low=0.026, high=1.78, normal=-2.5, turn=-1.0, share=4.5, mean=0.82, noise=0.03)
FEW = {
    6: Levels((4.7, 2.94, 1.3, 0.673, 0.253, 0.074, 0.03)),
    7: Levels((4.8, 3.2, 1.25, 0.75, 0.323, 0.115, 0.0362, 0.018)),
    8: Levels((5.3, 3.55, 1.55, 1.076, 0.59, 0.252, 0.0888, 0.0288, 0.014)),
    9: Levels((5.9, 3.96, 1.84, 1.083, 0.782, 0.4, 0.172, 0.0631, 0.0201, 0.01)),
    10: Levels((6.0, 3.98, 1.85, 1.324, 0.831, 0.589, 0.283, 0.118, 0.043, 0.0167, 0.008)),
}
SOME = Levels((
    31.0, 12.7, 5.06, 3.08, 2.43, 1.86, 1.5, 1.22, 1.025, 0.867, 0.704, 0.581, 0.47, 0.388, 0.292, 0.205, 0.143, 0.095,
    0.048, 0.017, 0.007,
))  # fmt: skip


def auto(den: Denoiser, steps: int, alone: bool = True) -> tuple[Solver, Grid]:
    """The solver and the grid of the rule above.

    alone: does nothing but the solver change the sample on its way?

    Raises:
        ValueError: for steps < 1.
    """
    check_steps(steps)
    if any(s.at(0.5)[1] is not None for s in _schedules(den)):
        return Multistep(), cosine_time
    if not alone:
        return Multistep(), STEEP
    if not den.facts.density:
        return Adams(2, corrector=True, rule=bh2), STEEP
    solver, grid = plain(den, steps)
    searched = den.facts.grids.get(steps)
    return solver, grid if searched is None else Levels(searched)


def plain(den: Denoiser, steps: int) -> tuple[Solver, Grid]:
    """The rule for a model of the density, whatever grids were searched for it."""
    table = _table(steps, _schedules(den), den.facts.t_range[1])
    if table is not None and steps in FEW:
        return SIX if steps == 6 else Conditional(), table
    return Adams(min(1 + steps // 5, 4), ANGLE, corrector=True), table or FLOW


@lru_cache(maxsize=256)
def _table(steps: int, schedules: tuple[Schedule, ...], high: float) -> Levels | None:
    table = FEW.get(steps, SOME if 15 <= steps <= 30 else None)
    return table if table is not None and all(table.within(s, steps, high) for s in schedules) else None


def _schedules(den: Denoiser) -> tuple[Schedule, ...]:
    own: Any = den.schedule  # of parts, those of tokens have a corruption and take any grid
    return tuple(s for s in own.values() if isinstance(s, Schedule)) if isinstance(own, dict) else (own,)
