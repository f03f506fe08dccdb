"""The rule of `sampler="auto"`: solver and grid from what the denoiser is and how many steps there are.

A model of the data's density (`facts.density`), n steps:
    solver   Adams(k, corrector) in ANGLE = Angle(c = 0.3, p = 1, q = 0.45), k = 1 + n // 5, at most 4
    grid     FLOW: sbar = 0.6 (1 - v)^1.4 / v^0.9, v uniform; or the one searched for n, where `facts.grids` has it
A guided or restored denoiser, whose mean may be steep (the angle diverges at 8 steps from scale 8 on, the data form
does not):
    solver   UniPC-2: order 2 in the data form with the free corrector;   grid   STEEP: sbar = (1 - v)^1.4 / v
What more than the solver changes on its way (known values put back): 2M, which has no corrector; grid STEEP.
Schedules with an anchor: 2M, uniform in cosine time. A path of one's own: 2M.

Why: the angle's polynomial is finite at both ends, so that no step is wasted on them, and with p = 1 the linear part
taken out, D ~ x c / (c + sbar), changes over a decade of levels, as in data with features of many sizes. Levels are
matched, so every schedule gets the same samples but for where it begins. The constants were found on mixtures of
Gaussians in 16 dimensions, drawn from a law of which `benchmarks/nfe_quality.py` holds other draws against peers.
"""

from __future__ import annotations

from typing import Any

from oneprior.denoiser import Denoiser
from oneprior.sampling.grids import FLOW, STEEP, Grid, Levels, check_steps, cosine_time
from oneprior.sampling.solvers import Adams, Angle, Multistep, Solver, bh2

ANGLE = Angle(c=0.3, p=1.0, q=0.45)


def auto(den: Denoiser, steps: int, alone: bool = True) -> tuple[Solver, Grid]:
    """The solver and the grid of the rule above.

    alone: does nothing but the solver change the sample on its way?

    Raises:
        ValueError: for steps < 1.
    """
    check_steps(steps)
    own: Any = den.schedule
    if any(s.at(0.5)[1] is not None for s in (own.values() if isinstance(own, dict) else (own,))):
        return Multistep(), cosine_time
    if not alone:
        return Multistep(), STEEP
    if not den.facts.density:
        return Adams(2, corrector=True, rule=bh2), STEEP
    searched = den.facts.grids.get(steps)
    return solver(steps), FLOW if searched is None else Levels(searched)


def solver(steps: int) -> Solver:
    """The solver of the rule for a model of the density."""
    return Adams(min(1 + steps // 5, 4), ANGLE, corrector=True)
