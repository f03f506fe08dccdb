"""Sampling: solvers (rows), grids (times), walk (the loop), sample (the names)."""

from oneprior.sampling.particles import Particles, steer
from oneprior.sampling.sampler import SAMPLERS, Sampler, device_of, sample, sampler
from oneprior.sampling.solvers import DDIM, Adams, Heun, Langevin, Multistep, Row, Solver, Stage
from oneprior.sampling.walk import Step, step, walk

__all__ = [
    "DDIM", "SAMPLERS", "Adams", "Heun", "Langevin", "Multistep", "Particles", "Row", "Sampler", "Solver", "Stage",
    "Step", "device_of", "sample", "sampler", "steer", "step", "walk",
]  # fmt: skip
