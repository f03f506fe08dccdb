"""The posterior of a denoiser: mean D = E[x_0 | x_t], an optional variance, and every other view of it.

With x_t = a x_0 + b y + s eps (Song et al. 2021; Salimans and Ho 2022):
    eps = (x_t - a D - b y)/s,    score = grad log p(x_t) = -eps/s,    velocity = a' D + b' y + s' eps.
What a network predicts is a linear view of the same thing. A `Prediction` is one row of the table: with the network's
output F, D = p (x_t - b y) + q F (- b' y for velocity), and its target is u x_0 + w eps. The row never divides by what
it does not have to: targets come from (x_0, eps), not from D.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple

import torch
from torch import Tensor

from oneprior.schedules import Schedule
from oneprior.times import Time, align, aligned


class Linear(NamedTuple):
    """D = p x + q F; target = u x_0 + w eps; the network is fed c x. Each a float or a tensor like t."""

    p: Any
    q: Any
    u: Any
    w: Any
    c: Any = 1.0


class Prediction:
    """A view a network may predict: gives the coefficients `Linear` at (schedule, t)."""

    name: str = ""

    def row(self, schedule: Schedule, t: Any) -> Linear:
        raise TypeError("Prediction declares; use EPS, X0, V, SCORE, VELOCITY or EDMPrediction(sd)")


class _Eps(Prediction):
    name = "eps"

    def row(self, schedule: Schedule, t: Any) -> Linear:
        a, _, s = _with_signal(self.name, schedule, t)
        return Linear(1 / a, -s / a, 0.0, 1.0)


def _with_signal(name: str, schedule: Schedule, t: Any) -> tuple[Any, Any, Any]:
    a, b, s = schedule.at(t)
    if isinstance(a, float) and a == 0.0:
        raise ValueError(
            f"a prediction of {name} says nothing of x_0 at t = {t:g}, where alpha = 0: predict v or x0, or keep away "
            "from the end with t_range=(0, 0.999)"
        )
    return a, b, s


class _X0(Prediction):
    name = "x0"

    def row(self, schedule: Schedule, t: Any) -> Linear:
        return Linear(0.0, 1.0, 1.0, 0.0)


class _Score(Prediction):
    name = "score"

    def row(self, schedule: Schedule, t: Any) -> Linear:
        a, _, s = _with_signal(self.name, schedule, t)
        return Linear(1 / a, s * s / a, 0.0, -inf if isinstance(s, float) and s == 0.0 else -1 / s)


class _V(Prediction):
    """v = alpha eps - sigma x_0, for any alpha and sigma (Salimans and Ho 2022 have alpha^2 + sigma^2 = 1)."""

    name = "v"

    def row(self, schedule: Schedule, t: Any) -> Linear:
        a, _, s = schedule.at(t)
        n = a * a + s * s
        return Linear(a / n, -s / n, -s, a)


class _Velocity(Prediction):
    """dx/dt towards noise: alpha' x_0 + anchor' y + sigma' eps; eps - x_0 for rectified flow."""

    name = "velocity"

    def row(self, schedule: Schedule, t: Any) -> Linear:
        t = t.clamp(min=1e-12) if isinstance(t, Tensor) else max(t, 1e-12)  # sigma may rise infinitely fast at 0
        (a, _, s), (da, _, ds) = schedule.at(t), schedule.slope(t)
        n = a * ds - da * s
        return Linear(ds / n, -s / n, da, ds)


@dataclass(frozen=True)
class EDMPrediction(Prediction):
    """D = c_skip x + c_out F(c_in x), unit variance of input and target for data of standard deviation `sd`
    (Karras et al. 2022, extended to any alpha)."""

    sd: float = 0.5
    name: str = "edm"

    def row(self, schedule: Schedule, t: Any) -> Linear:
        a, _, s = schedule.at(t)
        n = a * a * self.sd**2 + s * s
        r = n**0.5
        return Linear(a * self.sd**2 / n, s * self.sd / r, s / (self.sd * r), -a * self.sd / r, 1 / r)


EPS, X0, SCORE, V, VELOCITY = _Eps(), _X0(), _Score(), _V(), _Velocity()
PREDICTIONS: dict[str, Prediction] = {p.name: p for p in (EPS, X0, SCORE, V, VELOCITY, EDMPrediction())}


def prediction(name: str | Prediction) -> Prediction:
    """The prediction of a name: eps, x0, score, v, velocity, edm (sd 0.5; `EDMPrediction(sd)` for another)."""
    if isinstance(name, Prediction):
        return name
    if name not in PREDICTIONS:
        raise ValueError(f"prediction '{name}' is not known; one of {sorted(PREDICTIONS)} was expected")
    return PREDICTIONS[name]


Variance = Callable[[Schedule, Time, Tensor, Tensor], "Tensor | None"]


def unit_variance(schedule: Schedule, t: Time, h: Tensor, x: Tensor) -> Tensor:
    """Var[x_0 | x_t] = e^h s^2/(a^2 + s^2): h = 0 is unit Gaussian data."""
    a, _, s = schedule.at(t)
    return h.exp() * align(s * s / (a * a + s * s), x)


def range_variance(schedule: Schedule, t: Time, h: Tensor, x: Tensor) -> Tensor:
    """Var[x_0 | x_t] from the learned variance of a step of a chain (Nichol and Dhariwal 2021), of T steps or 1000.

    Var[x_s | x_t] = beta^f btilde^(1 - f), f = (h + 1)/2, is btilde + c^2 Var[x_0 | x_t], where x_0 enters the mean of
    the step by c. btilde is 0 in the last step, and there replaced by the second last's.
    """
    T = getattr(schedule, "T", 1000)
    t = torch.as_tensor(t, dtype=torch.float64)

    def step(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (a, _, s), (a1, _, s1) = schedule.at(t), schedule.at((t - 1 / T).clamp(min=0))
        beta = s * s - (a / a1 * s1) ** 2
        return beta, beta * (s1 / s) ** 2, a1 * beta / (s * s)

    beta, btilde, c = step(t.clamp(min=1e-12))
    low = torch.maximum(btilde, step(torch.full_like(t, 2 / T))[1])
    f = (h.clamp(-1.5, 1.5) + 1) / 2
    var = torch.exp(f * align(beta.log(), x) + (1 - f) * align(low.log(), x)) - align(btilde, x)
    return (var / align(c * c, x)).clamp(min=0)


def no_variance(schedule: Schedule, t: Time, h: Tensor, x: Tensor) -> None:
    """Channels that a network has and nobody asks for."""


class Posterior:
    """E[x_0 | x_t] and what follows from it; views are computed when asked and never kept.

    mean: (B, *) like x_t; var: per-element Var[x_0 | x_t] or None; y: the anchor, where the schedule has one.
    """

    __slots__ = ("_schedule", "_t", "mean", "var", "x_t", "y")

    def __init__(
        self, mean: Tensor, x_t: Tensor, schedule: Schedule, t: Time, var: Tensor | None = None, y: Tensor | None = None
    ) -> None:
        self.mean, self.x_t, self._schedule = mean, x_t, schedule
        self._t, self.var, self.y = t, var, y

    @property
    def coefs(self) -> tuple[Any, ...]:
        """(a, b | None, s) of the schedule, aligned to x_t."""
        return aligned(self._schedule.at(self._t), self.x_t)

    @property
    def eps(self) -> Tensor:
        """E[eps | x_t] = (x_t - a D - b y)/s; it needs t > 0."""
        a, b, s = self.coefs
        rest = self.x_t - a * self.mean
        return (rest if b is None or self.y is None else rest - b * self.y) / s

    @property
    def score(self) -> Tensor:
        """grad log p(x_t) = -eps/s."""
        return -self.eps / self.coefs[2]

    @property
    def velocity(self) -> Tensor:
        """dx/dt of the probability-flow ODE, towards noise."""
        da, db, ds = aligned(self._schedule.slope(self._t), self.x_t)
        v = da * self.mean + ds * self.eps
        return v if db is None or self.y is None else v + db * self.y

    def mix(self, other: Posterior, scale: Any) -> Posterior:
        """other + scale (self - other): scale 1 is self, above 1 extrapolates (guidance)."""
        mean = torch.lerp(other.mean, self.mean, scale)
        return Posterior(mean, self.x_t, self._schedule, self._t, self.var, self.y)

    def replace(self, mean: Tensor, var: Tensor | None = None) -> Posterior:
        """The same point and time with another mean (and variance)."""
        return Posterior(mean, self.x_t, self._schedule, self._t, var, self.y)
