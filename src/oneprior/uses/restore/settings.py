"""Settings of the restorations, and RED-diff's weightings h(s) of s = sigma / alpha: plain numbers, no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import log1p
from typing import Any, Literal, NamedTuple


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
    """of the solver (least residuals) at most in each call, one backward pass each"""
    tol: float = 1e-3
    """relative residual at which a sample's solve stops"""
    covariance: Literal["posterior", "isotropic", "row_sums"] = "posterior"
    """what is taken for that of x_0 given x_t: its own, by Jacobian products; PiGDM's r^2 I; TMPD's row sums"""
    sampler: str = "auto"
    """2M's steps with noise, half of them where sigma > 2 alpha ("ancestral" with a rank); or any name of
    oneprior.sampling.SAMPLERS. Noise forgets the errors of a trained network, which the ODE carries to its end"""
    rank: int = 0
    """of the square root of that covariance (so many more backward passes a call), with which each step draws x_0
    instead of taking its mean: exact on Gaussians at any number of steps, for "ancestral" alone; 0 for means"""


# What `auto` takes where a picture is restored by windows: 20 steps of up to 7 backward passes, not 50 of 6. On
# Gaussians the draws keep 0.95 to 1.0 of the variance, and are biased by 0.1 to 0.2 of its root.
WINDOWS = MMPSSettings(steps=20, iterations=4, rank=2)


@dataclass(frozen=True)
class DiffPIRSettings:
    """Proximal steps between denoising ones: no backward pass, and draws that spread by rule of thumb."""

    steps: int = 100
    lam: float = 7.0
    """trust in the denoiser: 3 to 25 in use"""
    zeta: float = 0.3
    """share of the noise that is drawn anew at each step"""


@dataclass(frozen=True)
class DDRMSettings:
    """Per singular direction of the operator: measured ones follow y as far as its noise allows. No backward pass."""

    steps: int = 100
    eta: float = 0.85
    """share of fresh noise in directions that were not measured"""
    eta_b: float = 1.0
    """how far measured directions go to y while the noise of x_t is larger than that of y"""
    eta_c: float = 0.85
    """share of fresh noise in them once it is smaller; 0 is DDNM+"""


@dataclass(frozen=True)
class DPSSettings:
    """Ancestral steps, each followed by one along the gradient of |y - A(D)|, a norm a sample."""

    steps: int = 100
    zeta: float = 1.0
    """length of that step, in |y - A D| = 1"""


@dataclass(frozen=True)
class DAPSSettings:
    """Levels of noise, x_0 drawn given y at each and noised anew to the next."""

    steps: int = 100
    """network calls a draw"""
    inner: Literal["moments", "isotropic", "langevin"] = "moments"
    """moments: from the Gaussian with the mean and covariance of x_0 given x_t and y, a call a level, exact on
    Gaussians; isotropic: exactly from N(the ODE's end, r^2 I) given y; langevin: the same by Langevin steps, for any
    operator"""
    rank: int = 4
    """of the square root of that covariance, see MMPSSettings (moments)"""
    ode: int = 5
    """network calls from a level to its x_0 (isotropic, langevin)"""
    langevin: int = 50
    lr: float = 0.2
    """of a Langevin step, relative to one over the curvature along it"""
    tau: float = 0.01
    """the least noise that Langevin steps assume"""


@dataclass(frozen=True)
class TwistedSettings:
    """Weighted and resampled particles: exact in the limit of many, for any prior. The draw is one of them."""

    steps: int = 100
    count: int = 16
    """particles a draw, each with its own network calls"""
    sampler: str = "auto"
    """ancestral; ancestral-optimal of a denoiser that tells its variance"""


@dataclass(frozen=True)
class RepaintSettings:
    """What a mask shows is pasted in at the noise of each step; harmonised by going back and forth. Masks only."""

    steps: int = 20
    """of the grid; about `resample` times as many network calls"""
    jump: int = 5
    resample: int = 5


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


class Method(NamedTuple):
    """settings: the defaults; function: "module:name" of f(den, measurement, settings, *, seeds, progress, **cond) ->
    (B, *shape); linear: for linear operators alone."""

    settings: Any
    function: str
    linear: bool = False


METHODS: dict[str, Method] = {
    "mmps": Method(MMPSSettings(), "guided:mmps"),
    "pigdm": Method(MMPSSettings(steps=100, covariance="isotropic", sampler="ancestral"), "guided:mmps"),
    "tmpd": Method(MMPSSettings(steps=100, covariance="row_sums", sampler="ancestral"), "guided:mmps"),
    "twisted": Method(TwistedSettings(), "guided:twist"),
    "daps": Method(DAPSSettings(), "daps:daps"),
    "dps": Method(DPSSettings(), "dps:dps"),
    "diffpir": Method(DiffPIRSettings(), "guided:diffpir", True),
    "ddrm": Method(DDRMSettings(), "ddrm:ddrm", True),
    "ddnm": Method(DDRMSettings(eta_c=0.0), "ddrm:ddrm", True),
    "repaint": Method(RepaintSettings(), "guided:repaint", True),
    "red_diff": Method(RedDiffSettings(), "red_diff:red_diff"),
    "score_distillation": Method(RedDiffSettings(v=0.0, init="zero"), "red_diff:red_diff"),
}
