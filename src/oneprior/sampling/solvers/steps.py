"""The short solvers, each a choice of D in x_s = a_s D + b_s y + rho (x_t - a_t D - b_t y) + std n:
DDIM            D_i                                        order 1; kappa = 1 is DDPM's ancestral step
Multistep (2M)  D_i + (D_i - D_{i-1}) h / (2 h_prev)       order 2, one call a step (Lu et al. 2022)
Heun            trapezoid in sigma/alpha                   order 2, two calls a step (Karras et al. 2022)
Langevin        D_i, then steps that stay at s             order 1, 1 + count calls a step (Song et al. 2021)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from oneprior.paths import INVERT
from oneprior.sampling.solvers.plan import Legs, Row, Solver, Stochastic, shift


@dataclass(frozen=True)
class DDIM(Solver):
    """First order: D of this step alone (Song et al. 2021). kappa 0 is the ODE, 1 ancestral DDPM, `Eta(x)` DDIM's eta.

    variance: add (a_s - rho a_t)^2 Var[x_0 | x_t] to the noise where the denoiser gives it; on Gaussian data the chain
    is then exact at any number of steps (Bao et al. 2022, Analytic-DPM).
    """

    kappa: Stochastic = 0.0
    variance: bool = False

    def rows(self, legs: Legs) -> list[list[list[Row]]]:
        return [[[legs.row(i, (legs.c[i],))]] for i in range(len(legs.kinds))]


@dataclass(frozen=True)
class Multistep(Solver):
    """2M: second order from the last two means, one call a step; kappa > 0 is SDE-2M (Lu et al. 2022, DPM-Solver++).

    History is per track: an element that rested, rose or has not been seen before takes a first-order step.
    """

    kappa: Stochastic = 0.0

    @property
    def depth(self) -> int:
        return 2

    def rows(self, legs: Legs) -> list[list[list[Row]]]:
        r = legs.h / (2 * shift(legs.h, 1, torch.nan))
        r = torch.where(legs.follows & torch.isfinite(r), r, 0.0)
        return [[[legs.row(i, (legs.c[i] * (1 + r[i]), -legs.c[i] * r[i]))]] for i in range(len(legs.kinds))]


@dataclass(frozen=True)
class Heun(Solver):
    """Trapezoid in sbar = sigma/alpha, Euler where a step starts at alpha = 0 or ends at sigma = 0 (EDM).

    With r = sbar_s / sbar_t: x_s / a_s = r x_t / a_t + (1 - r)(2r - 1)/(2r) D_t + (1 - r)/(2r) D_s.
    swell: EDM's S_noise, a factor on the noise that `paths.churn` adds (1.003 there, against a network that removes
    slightly too much); any other than 1 leaves the law of x_t.
    """

    swell: float = 1.0

    @property
    def depth(self) -> int:
        return 2

    def rows(self, legs: Legs) -> list[list[list[Row]]]:
        r = (legs.s_s / legs.a_s) / (legs.s_t / legs.a_t)
        good = torch.isfinite(r) & (r > 0) & torch.isfinite(legs.h)
        g = torch.where(good, (1 - r) / (2 * r), 0.0) * legs.a_s
        out = []
        for i in range(len(legs.kinds)):
            euler = legs.row(i, (legs.c[i],))
            corrected = legs.row(i, (g[i], legs.c[i] - g[i]))._replace(back=True)
            out.append([[euler], [corrected]] if good[i].any() else [[euler]])
        return out


@dataclass(frozen=True)
class Langevin(Solver):
    """Predictor-corrector: a DDIM step, then `count` Langevin steps at the level reached (Song et al. 2021).

    x <- x + size s^2 score + s sqrt(2 size) n = (1 - size) x + size (a D + b y) + s sqrt(2 size) n: every sample on its
    own. Song's signal-to-noise ratio r, whose norms are taken over the batch there, is size = 2 r^2 in high dimension.
    For a fixed D it settles at 1 / (1 - size/2) times the variance. None at sigma = 0, where there is nothing to do.
    """

    kappa: Stochastic = 1.0
    size: float = 0.05
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.size < 1 or self.count < 1:
            raise ValueError(
                f"Langevin steps need a size in (0, 1) and a count of at least 1; got {self.size}, {self.count}"
            )

    def rows(self, legs: Legs) -> list[list[list[Row]]]:
        out = []
        for i, kind in enumerate(legs.kinds):
            stay = self.size * (legs.s_s[i] > 0).double()
            anchor = None if legs.b_s is None else stay * legs.b_s[i]
            at_s = Row(1 - stay, (stay * legs.a_s[i],), anchor, legs.s_s[i] * (2 * stay).sqrt())
            count = self.count if kind != INVERT and stay.any() else 0
            out.append([[legs.row(i, (legs.c[i],))], *[[at_s]] * count])
        return out
