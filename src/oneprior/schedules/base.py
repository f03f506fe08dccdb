"""Schedules: x_t = alpha(t) x_0 + anchor(t) y + sigma(t) eps, with alpha(0) = 1 and sigma(0) = anchor(0) = 0 exactly.

A schedule is three numbers a time; variational, score-based and flow models differ in nothing else (Lai et al. 2025,
"The Principles of Diffusion Models"). Half log-SNR lam = log(alpha / sigma). Two schedules are related by equal lam and
a rescaling of x, so a network trained under one serves under another. All maths is in float64; the answer has the
type that came: floats for a float, a tensor for a tensor. Schedules are frozen and hashable, so plans can be cached.

With an anchor y (a degraded image, an end point) the same three numbers give bridges, residual shift and mean-reverting
SDEs: `oneprior.anchored`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from math import inf, log
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from oneprior.noise import WHITE, Color


class Eta(NamedTuple):
    """Stochasticity as DDIM's eta: the fresh noise has eta^2 times the variance of the ancestral step."""

    value: float

    def share(self, e: Tensor, s_t: Tensor, s_s: Tensor) -> Tensor:
        return (1 - self.value**2 * (1 - e * e)).clamp(min=0).sqrt()


class Kappa(NamedTuple):
    """Stochasticity of the SDE dx = ... + sqrt(kappa) g dW: 0 the probability-flow ODE, 1 the reverse SDE."""

    value: float

    def share(self, e: Tensor, s_t: Tensor, s_s: Tensor) -> Tensor:
        return e**self.value


class Own(NamedTuple):
    """The stochasticity a schedule was published with (`Schedule.own`)."""


class Share(Protocol):
    """rho = (sigma_s / sigma_t) f and std = sigma_s sqrt(1 - f^2), with f from e = exp(-h) = SNR ratio^(1/2)."""

    def share(self, e: Tensor, s_t: Tensor, s_s: Tensor) -> Tensor: ...


Stochasticity = float | Eta | Kappa | Own | Share


@dataclass(frozen=True, kw_only=True)
class Schedule(ABC):
    """Abstract: declares `coefs`; everything else follows from it.

    color: the covariance of eps, white by default.
    t_min: the earliest time a network is usually asked for; grids end there and then step to 0.
    """

    color: Color = WHITE
    t_min: float = 1e-3

    @property
    def own(self) -> Eta | Kappa | Share:
        """The stochasticity this schedule was published with."""
        return Kappa(1.0)

    @abstractmethod
    def coefs(self, t: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """(alpha, anchor or None, sigma) for a float64 tensor of times in [0, 1]."""

    def at(self, t: Any) -> tuple[Any, Any, Any]:
        """(alpha, anchor | None, sigma) in one visit: floats for a float, tensors like t for a tensor."""
        if not isinstance(t, Tensor):
            return _at(self, float(t))
        return _cast(self.coefs(_double(t)), t)

    def slope(self, t: Any) -> tuple[Any, Any, Any]:
        """The derivatives (d alpha, d anchor | None, d sigma) / dt, by forward differentiation of `coefs`."""
        if not isinstance(t, Tensor):
            return _slope(self, float(t))
        return _cast(self._slope(_double(t)), t)

    def _slope(self, t: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        has_anchor = self.coefs(t)[1] is not None

        def stacked(t: Tensor) -> Tensor:
            a, b, s = self.coefs(t)
            return torch.stack([a, s] if b is None else [a, s, b])

        d: Any = torch.func.jvp(stacked, (t,), (torch.ones_like(t),))[1]
        return d[0], d[2] if has_anchor else None, d[1]

    def lam(self, t: Any) -> Any:
        """Half log-SNR: +inf at t = 0, -inf where alpha is 0."""
        if not isinstance(t, Tensor):
            a, _, s = self.at(t)
            return -inf if a == 0 else inf if s == 0 else log(a) - log(s)
        return _cast((self._lam(_double(t)),), t)[0]

    def _lam(self, t: Tensor) -> Tensor:
        a, _, s = self.coefs(t)
        return torch.where(a > 0, a.log() - s.log(), -inf)  # a bridge has alpha = sigma = 0 at its end

    def time(self, lam: Any) -> Any:
        """The time of a half log-SNR, clamped to [0, 1]: the inverse of `lam`."""
        if not isinstance(lam, Tensor):
            return _time(self, float(lam))
        return _cast((self._time(_double(lam)),), lam)[0]

    def _time(self, lam: Tensor) -> Tensor:
        lo, hi = torch.zeros_like(lam), torch.ones_like(lam)
        for _ in range(54):  # bisection to the last bit: lam falls with t in every schedule
            mid = (lo + hi) / 2
            above = self._lam(mid) > lam
            lo, hi = torch.where(above, mid, lo), torch.where(above, hi, mid)
        return torch.where(lam == inf, torch.zeros_like(lam), torch.where(self._lam(hi) > lam, hi, (lo + hi) / 2))

    def transition(self, t: Any, s: Any, kappa: Stochasticity = 0.0) -> tuple[Any, Any]:
        """(rho, std) of x_s = a_s D + b_s y + rho (x_t - a_t D - b_t y) + std n.

        Any rho with |rho| sigma_t <= sigma_s keeps the marginals when D is x_0. For s < t, kappa sets it: 0 the ODE
        (DDIM), 1 the Markov posterior (DDPM), `Eta(x)` DDIM's eta, `Own()` the published rule. For s > t the step
        adds noise along the forward process (kappa does not enter), for s = t it is (1, 0).
        """
        if not isinstance(t, Tensor) and not isinstance(s, Tensor):
            rho, std = self.transition(
                torch.tensor(t, dtype=torch.float64), torch.tensor(s, dtype=torch.float64), kappa
            )
            return rho.item(), std.item()
        like = t if isinstance(t, Tensor) else s
        t, s = torch.broadcast_tensors(*(v if isinstance(v, Tensor) else like.new_tensor(v) for v in (t, s)))
        (a_t, _, s_t), (a_s, _, s_s) = self.coefs(_double(t)), self.coefs(_double(s))
        law = self.own if isinstance(kappa, Own) else Kappa(float(kappa)) if isinstance(kappa, (float, int)) else kappa
        e = (s_s * a_t / (s_t * a_s)).nan_to_num(0.0)
        f = law.share(e, s_t, s_s)
        down = (
            torch.where(s_t > 0, s_s / s_t * f, 0.0),
            torch.where(s_t > 0, s_s * (1 - f * f).clamp(min=0).sqrt(), s_s),
        )
        rise = a_s / a_t
        up = (rise, (s_s * s_s - rise * rise * s_t * s_t).clamp(min=0).sqrt())
        still = (torch.ones_like(e), torch.zeros_like(e))
        out = [torch.where(s == t, z, torch.where(s > t, u, d)) for z, u, d in zip(still, up, down, strict=True)]
        rho, std = _cast(tuple(out), like)
        return rho, std

    def shift(self, factor: float) -> Schedule:
        """Replace sigma/alpha by factor * sigma/alpha: the same curve, run through at other times (SD3's resolution
        shift, simple diffusion's with factor = size / 64)."""
        return Shifted(self, float(factor))


def _double(t: Tensor) -> Tensor:
    return t.double() if t.device.type != "mps" else t.cpu().double()


def _cast(values: tuple[Tensor | None, ...], like: Tensor) -> tuple[Any, ...]:
    dtype = like.dtype if like.is_floating_point() else torch.float32
    return tuple(None if v is None else v.to(device=like.device, dtype=dtype) for v in values)


def _floats(values: tuple[Tensor | None, ...]) -> tuple[Any, ...]:
    return tuple(None if v is None else v.item() for v in values)


@lru_cache(maxsize=16384)
def _at(schedule: Schedule, t: float) -> tuple[float, float | None, float]:
    if not 0.0 <= t <= 1.0:
        raise ValueError(f"t = {t}: time runs from 0 (data) to 1 (noise)")
    a, b, s = _floats(schedule.coefs(torch.tensor(t, dtype=torch.float64)))
    return a, b, s


@lru_cache(maxsize=16384)
def _slope(schedule: Schedule, t: float) -> tuple[float, float | None, float]:
    a, b, s = _floats(schedule._slope(torch.tensor(t, dtype=torch.float64)))
    return a, b, s


@lru_cache(maxsize=16384)
def _time(schedule: Schedule, lam: float) -> float:
    return schedule._time(torch.tensor(lam, dtype=torch.float64)).item()


@dataclass(frozen=True)
class Shifted(Schedule):
    """A schedule with lam lowered by log(factor) at every time; for rectified flow t' = f t / (1 + (f - 1) t)."""

    base: Schedule
    factor: float

    def coefs(self, t: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        a, b, s = self.base.coefs(self.base._time(self.base._lam(t) - log(self.factor)))
        end = t <= 0
        return torch.where(end, 1.0, a), None if b is None else torch.where(end, 0.0, b), torch.where(end, 0.0, s)

    def _slope(self, t: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        # chain rule: the base is differentiated at its own time, bisection is not differentiated at all
        tau = self.base._time(self.base._lam(t) - log(self.factor))
        (a, _, s), (da, db, ds) = self.base.coefs(tau), self.base._slope(tau)
        (a0, _, s0), (da0, _, ds0) = self.base.coefs(t), self.base._slope(t)
        rate = (da0 / a0 - ds0 / s0) / (da / a - ds / s)
        return da * rate, None if db is None else db * rate, ds * rate

    def _time(self, lam: Tensor) -> Tensor:
        return self.base._time(self.base._lam(self.base._time(lam + log(self.factor))))
