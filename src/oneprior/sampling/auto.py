"""The rule of `sampler="auto"`: solver and grid from what the denoiser is and how many steps there are.

A model of the data's density (`facts.density`), n steps:
    n = 6 .. 10   solver   Conditional(), x_s given every call;   grid   FEW[n], a table of levels
    else          solver   Adams(k, corrector) in ANGLE = Angle(c = 0.3, p = 1, q = 0.45), k = 1 + n // 5, at most 4
                  grid     FLOW: sbar = 0.6 (1 - v)^1.4 / v^0.9, v uniform
    the grid searched for n, where `facts.grids` has it; Adams where the table leaves the levels of the network
A guided or restored denoiser, whose mean may be steep (the angle diverges at 8 steps from scale 8 on, the data form
does not):
    solver   UniPC-2: order 2 in the data form with the free corrector;   grid   STEEP: sbar = (1 - v)^1.4 / v
What more than the solver changes on its way (known values put back): 2M, which has no corrector; grid STEEP.
Schedules with an anchor: 2M, uniform in cosine time. A path of one's own: 2M.

Why: the angle's polynomial is finite at both ends, so that no step is wasted on them, and with p = 1 the linear part
taken out, D ~ x c / (c + sbar), changes over a decade of levels, as in data with features of many sizes. Of six to ten
calls a polynomial reads less than a law of the way does, and needs to look twice where components part (near 1.2).
Levels are matched, so every schedule gets the same samples but for where it begins. The constants were found on
mixtures of Gaussians in 16 dimensions, drawn from a law of which `benchmarks/nfe_quality.py` holds other draws against
peers, the tables on these and the shipped digits at once.
"""

from __future__ import annotations

from typing import Any

from oneprior.denoiser import Denoiser
from oneprior.sampling.grids import FLOW, STEEP, Grid, Levels, check_steps, cosine_time
from oneprior.sampling.solvers import Adams, Angle, Conditional, Multistep, Solver, bh2
from oneprior.schedules import Schedule

ANGLE = Angle(c=0.3, p=1.0, q=0.45)
FEW = {
    6: Levels((4.4, 2.95, 1.036, 0.483, 0.175, 0.05, 0.025)),
    7: Levels((4.8, 3.2, 1.25, 0.75, 0.323, 0.115, 0.0362, 0.018)),
    8: Levels((5.3, 3.55, 1.55, 1.076, 0.59, 0.252, 0.0888, 0.0288, 0.014)),
    9: Levels((5.9, 3.96, 1.84, 1.083, 0.782, 0.4, 0.172, 0.0631, 0.0201, 0.01)),
    10: Levels((6.0, 3.98, 1.85, 1.324, 0.831, 0.589, 0.283, 0.118, 0.043, 0.0167, 0.008)),
}


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
    table = FEW.get(steps)
    if table is not None and all(table.within(s, den.facts.t_range[1]) for s in _schedules(den)):
        return Conditional(), table
    return Adams(min(1 + steps // 5, 4), ANGLE, corrector=True), FLOW


def _schedules(den: Denoiser) -> tuple[Schedule, ...]:
    own: Any = den.schedule  # of parts, those of tokens have a corruption and take any grid
    return tuple(s for s in own.values() if isinstance(s, Schedule)) if isinstance(own, dict) else (own,)
