"""Solvers are data: plans of network calls and linear rows; which D stands in a row is all that a solver says."""

from oneprior.sampling.solvers.adams import Adams, Angle, Band, Data, Eps, Form, Sbar, bh1, bh2, exact, fixed, halved
from oneprior.sampling.solvers.conditional import Conditional
from oneprior.sampling.solvers.plan import Legs, Row, Solver, Stage, mean, together
from oneprior.sampling.solvers.steps import DDIM, Heun, Langevin, Multistep

__all__ = [
    "DDIM", "Adams", "Angle", "Band", "Conditional", "Data", "Eps", "Form", "Heun", "Langevin", "Legs", "Multistep",
    "Row", "Sbar", "Solver", "Stage", "bh1", "bh2", "exact", "fixed", "halved", "mean", "together",
]  # fmt: skip
