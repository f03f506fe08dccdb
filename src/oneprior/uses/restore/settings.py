"""Settings of the restorations, and RED-diff's weightings h(s) of s = sigma / alpha: plain numbers, no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import log1p
from typing import Literal


class Weighting(ABC):
    """Abstract: h(s) > 0, the weight of the prior's gradient at noise level s = sigma / alpha, up to a factor."""

    @abstractmethod
    def __call__(self, s: float) -> float: ...


@dataclass(frozen=True)
class Power(Weighting):
    """h = s^p: 1 the published `linear`, 1/2 `sqrt`, 2 `square`, 2/3, 0 `const`."""

    p: float = 1.0

    def __call__(self, s: float) -> float:
        return s**self.p


@dataclass(frozen=True)
class Log(Weighting):
    """h = log(1 + s)."""

    def __call__(self, s: float) -> float:
        return log1p(s)


@dataclass(frozen=True)
class Truncated(Weighting):
    """h = min(s, top): `trunc_linear`."""

    top: float = 1.0

    def __call__(self, s: float) -> float:
        return min(s, self.top)


@dataclass(frozen=True)
class MMPSSettings:
    """Posterior sampling by moment matching: draws of p(x_0 | y), with error bars that mean something."""

    steps: int = 50
    """network calls a draw (for one-call samplers)"""
    iterations: int = 5
    """steps of conjugate gradients at most in each call"""
    tol: float = 1e-3
    """relative residual at which a sample's solve stops"""
    sampler: str = "auto"
    """any name of oneprior.sampling.SAMPLERS. The ODE's draws have the right spread; "ancestral" mends the errors of a
    trained network (on digits one dB of PSNR) and spreads a little less at few steps"""


@dataclass(frozen=True)
class RedDiffSettings:
    """RED-diff: a point estimate by optimisation; the network is never differentiated.

    Raises ValueError for a number out of range.
    """

    steps: int = 100
    """network calls, one gradient step each"""
    mode: Literal["paper", "map"] = "paper"
    """paper: means over elements, weights lam h(s) and v, the noise of y is not used; map: sums, noise-aware"""
    lr: float = 0.1
    """of Adam; constant in mode paper, falling to 0 in mode map"""
    betas: tuple[float, float] = (0.9, 0.99)
    lam: float = 0.25
    """weight of the prior (mode paper)"""
    weight: Weighting = Power()
    """how it varies with the noise level (mode paper)"""
    v: float = 1.0
    """weight of the data term (mode paper); 0 is score distillation"""
    s_min: float = 0.05
    """the smallest sigma / alpha that is visited (mode map)"""
    sigma_x0: float = 0.0
    """standard deviation of the estimate's own spread"""
    order: Literal["descending", "ascending", "random"] = "descending"
    """of the times; the annealing does much of the work"""
    init: Literal["pinv", "zero"] = "pinv"

    def __post_init__(self) -> None:
        for name in ("steps", "lr", "s_min"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} = {getattr(self, name)}: a number above 0 was expected")
        known = {"mode": ("paper", "map"), "order": ("descending", "ascending", "random"), "init": ("pinv", "zero")}
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} '{getattr(self, name)}' is not known; one of {values} was expected")


METHODS: dict[str, MMPSSettings | RedDiffSettings] = {"mmps": MMPSSettings(), "red_diff": RedDiffSettings()}
