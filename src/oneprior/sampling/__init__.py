"""Sampling: solvers (rows), grids (times), walk (the loop), sample (the names)."""

from oneprior.sampling.sampler import SAMPLERS, Sampler, sample, sampler
from oneprior.sampling.solvers import DDIM, Heun, Multistep, Row, Solver, Stage
from oneprior.sampling.walk import Step, step, walk

__all__ = [
    "DDIM",
    "SAMPLERS",
    "Heun",
    "Multistep",
    "Row",
    "Sampler",
    "Solver",
    "Stage",
    "Step",
    "sample",
    "sampler",
    "step",
    "walk",
]
