"""Adams methods: x_s = keep x_t + total * (weighted mean over the step of m), m a polynomial through the last calls.

What is interpolated, in which clock and with which weight is a `Form`; all are exact for an m constant in the step:
    Data        m = D    clock lam    x_s = rho x_t + a_s (1 - e^-H) E[D], weight e^(lam (1 + kappa)), H = (1 + kappa) h
    Eps         m = eps  clock lam    x_s = (a_s/a_t) x_t + a_s (sbar_s - sbar_t) E[eps],            weight e^-lam
    Sbar        m = eps  clock sbar   the same with weight 1
    Angle(c)    m = F    clock phi    x_s = (r_s/r_t) x_t + r_s (phi_t - phi_s) E[F],                weight 1
Nodes tau_j = (clock_{i-j} - clock_i)/(clock_s - clock_i) and moments M_m = E[tau^m] give the weights of the calls,
sum_j c_j tau_j^m = M_m. Named so: EAB and DPM-Solver++ (Data), DEIS log-rho (Eps; Zhang and Chen 2022), LMS (Sbar),
iPNDM (Sbar with the weights of a uniform grid; Liu et al. 2022), UniPC (Data with corrector; Zhao et al. 2023),
SA-Solver (Data, kappa, corrector; Xue et al. 2023).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from oneprior.posterior import Posterior
from oneprior.sampling.solvers.plan import Legs, Row, Solver, Stochastic, mean, shift

Rule = Callable[[Tensor, Tensor], Tensor]  # nodes [n, q], exponent H [n] -> weights [n, q] that sum to one


class Form(ABC):
    """Abstract: what is interpolated, in which clock, and the step for a constant one."""

    def known(self, a: Any, s: Any) -> Any:
        """Where a call gives a node; elsewhere its view is the mean and its step first order."""
        return (a > 0) & (s > 0)

    @abstractmethod
    def mix(self, a: Any, s: Any) -> tuple[Any, Any]:
        """(p, q) of m = p (x_t - b y) + q D."""

    @abstractmethod
    def clock(self, a: Tensor, s: Tensor, lam: Tensor) -> Tensor: ...

    @abstractmethod
    def step(self, legs: Legs) -> tuple[Tensor, Tensor, Tensor]:
        """(keep, total, H): the weight over the step is e^(-H (1 - tau)), tau from 0 at t to 1 at s."""

    def view(self, post: Posterior) -> Tensor:
        a, b, s = post.coefs
        known = self.known(a, s)
        if known is False:
            return post.mean
        p, q = self.mix(a, s if known is True else torch.where(known, s, 1.0))
        x = post.x_t if b is None or post.y is None else post.x_t - b * post.y
        if known is True:
            return torch.add(p * x, post.mean, alpha=q)
        return torch.where(known, p * x + q * post.mean, post.mean)


@dataclass(frozen=True)
class Data(Form):
    """The mean: the form that survives strong guidance, and the only one with kappa."""

    def mix(self, a: Any, s: Any) -> tuple[Any, Any]:
        return 0.0, 1.0

    def clock(self, a: Tensor, s: Tensor, lam: Tensor) -> Tensor:
        return lam

    def step(self, legs: Legs) -> tuple[Tensor, Tensor, Tensor]:
        return legs.rho, legs.c, -(legs.rho * legs.a_t / legs.a_s).log()


@dataclass(frozen=True)
class Eps(Form):
    """The noise. It says nothing of x_0 at alpha = 0: the step from there is DDIM's."""

    def mix(self, a: Any, s: Any) -> tuple[Any, Any]:
        return 1 / s, -a / s

    def clock(self, a: Tensor, s: Tensor, lam: Tensor) -> Tensor:
        return lam

    def step(self, legs: Legs) -> tuple[Tensor, Tensor, Tensor]:
        keep = legs.a_s / legs.a_t
        return keep, legs.s_s - keep * legs.s_t, -legs.h


@dataclass(frozen=True)
class Sbar(Eps):
    """The noise as a polynomial in sigma/alpha, finite down to sigma = 0."""

    def clock(self, a: Tensor, s: Tensor, lam: Tensor) -> Tensor:
        return s / a

    def step(self, legs: Legs) -> tuple[Tensor, Tensor, Tensor]:
        keep, total, H = super().step(legs)
        return keep, total, torch.zeros_like(H)


@dataclass(frozen=True)
class Angle(Form):
    """x/r as a function of phi = atan2(s, q a), r^p = (c a)^p + s^p: nothing singular at alpha = 0 or sigma = 0.

    c: the scale of the data, near its standard deviation. With p = 2 and q = c (as None) m is F of EDM's
    preconditioning, D = c (cos(phi) u + sin(phi) F) with u = x/r, and the ODE is du/dphi = -F: F = 0 for data
    N(0, c^2), so a step is exact there. p = 1 takes out D ~ x c / (c a + s), of data with features of many sizes. Only
    ratios of a and s enter: one method under every schedule. c > 0, p >= 1, q > 0.

    Raises:
        ValueError: for c, p or q outside these ranges.
    """

    c: float = 0.5
    p: float = 2.0
    q: float | None = None

    def __post_init__(self) -> None:
        if not (self.c > 0 and self.p >= 1 and (self.q is None or self.q > 0)):
            raise ValueError(f"{self}: c > 0, p >= 1 and q > 0 were expected")

    def known(self, a: Any, s: Any) -> Any:
        return s > 0

    def radius(self, a: Any, s: Any) -> Any:
        return ((self.c * a) ** self.p + s**self.p) ** (1 / self.p)

    def mix(self, a: Any, s: Any) -> tuple[Any, Any]:
        r, q = self.radius(a, s), self.q or self.c
        scale = (q * q * a * a + s * s) / (q * s * r)
        return -scale * (self.c / r) ** self.p * a ** (self.p - 1), scale

    def clock(self, a: Tensor, s: Tensor, lam: Tensor) -> Tensor:
        return torch.atan2(s, (self.q or self.c) * a)

    def step(self, legs: Legs) -> tuple[Tensor, Tensor, Tensor]:
        r_t, r_s = self.radius(legs.a_t, legs.s_t), self.radius(legs.a_s, legs.s_s)
        turn = self.clock(legs.a_t, legs.s_t, legs.h) - self.clock(legs.a_s, legs.s_s, legs.h)
        return r_s / r_t, r_s * turn, torch.zeros_like(turn)


# weights


_X, _W = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(8))
_X, _W = (_X + 1) / 2, _W / 2


def moments(H: Tensor, count: int) -> Tensor:
    """E[tau^m] for m < count under the weight e^(-H (1 - tau)) on [0, 1]: [n] -> [n, count].

    By recursion, E_m = (1 - m E_{m-1})/H; for |H| < 1, where that cancels, by 8-point Gauss-Legendre quadrature.
    """
    small = H.abs() < 1
    big = torch.where(small, 1.0, H)
    E = [-torch.expm1(-big) / big]
    for m in range(1, count):
        E.append((1 - m * E[-1]) / big)
    f = _W * torch.exp(-torch.where(small, H, 0.0)[..., None] * (1 - _X))
    G = [(f * _X**m).sum(-1) for m in range(count)]
    return torch.stack([torch.where(small, g / G[0], e / E[0]) for g, e in zip(G, E, strict=True)], -1)


def solve(tau: Tensor, M: Tensor) -> Tensor:
    powers = torch.arange(tau.shape[-1], dtype=tau.dtype)[:, None]
    return torch.linalg.solve(tau[..., None, :] ** powers, M[..., None])[..., 0]


def exact(tau: Tensor, H: Tensor) -> Tensor:
    """The integral of the interpolating polynomial, on any grid."""
    return solve(tau, moments(H, tau.shape[-1]))


def bh2(tau: Tensor, H: Tensor) -> Tensor:
    """UniPC's B = e^h - 1: of two nodes the slope has weight 1/2 (2M's midpoint), more nodes are exact."""
    M = moments(H, tau.shape[-1])
    return solve(tau, torch.tensor([1.0, 0.5], dtype=M.dtype).expand_as(M) if tau.shape[-1] == 2 else M)


def bh1(tau: Tensor, H: Tensor) -> Tensor:
    """UniPC's B = h: of two nodes the slope has weight H / (2 (1 - e^-H)), more nodes are exact."""
    M = moments(H, tau.shape[-1]).clone()
    if tau.shape[-1] == 2:
        M[..., 1] = torch.where(H == 0, 0.5, 0.5 * H / -torch.expm1(-H))
    return solve(tau, M)


def halved(tau: Tensor, H: Tensor) -> Tensor:
    """3M as published (DPM-Solver++): the second divided difference has half the weight that integrates it."""
    M = moments(H, tau.shape[-1]).clone()
    M[..., 2:] *= 0.5
    return solve(tau, M)


def fixed(tau: Tensor, H: Tensor) -> Tensor:
    """The Adams-Bashforth (and, with a corrector, Adams-Moulton) weights of a uniform grid, whatever the grid."""
    uniform = tau[..., :1] - torch.arange(tau.shape[-1], dtype=tau.dtype)
    return exact(uniform, torch.zeros_like(H))


@dataclass(frozen=True)
class Adams(Solver):
    """A multistep method of any order, one call a step: a form, a rule for the weights, a corrector or none.

    order: calls that the predictor interpolates, as many as a track has since it last rested or rose. kappa: as in
    DDIM, or a function of sigma/alpha such as `Band`; `Data` only, and of order 2 in law at most. corrector: when the
    next call is made, take the step to it once more with that call as a node, and the predictor's noise: no further
    call, none after the final step; an x that is assigned on the way is corrected away. taper: no more order than
    steps left (worth it below 15 steps). A step to or from where the clock is infinite is first order; for `Data` and
    `Eps` so is the last one, which returns D.

    Example:
        >>> unipc3 = Adams(3, corrector=True, rule=bh2)

    Raises:
        ValueError: for an order below 1, or kappa with a form other than Data.
    """

    order: int = 2
    form: Form = Data()
    kappa: Stochastic = 0.0
    corrector: bool = False
    rule: Rule = exact
    taper: bool = False

    def __post_init__(self) -> None:
        if self.order < 1:
            raise ValueError(f"an order of at least 1 was expected; got {self.order}")
        if not isinstance(self.form, Data) and self.kappa != 0.0:
            raise ValueError(f"kappa = {self.kappa} needs form=Data(): {self.form} is a form of the ODE")

    @property
    def depth(self) -> int:
        return self.order + self.corrector

    @property
    def view(self) -> Callable[[Posterior], Tensor]:
        return mean if isinstance(self.form, Data) else self.form.view

    def rows(self, legs: Legs) -> list[list[list[Row]]]:
        n, k = len(legs.kinds), self.order
        clock = self.form.clock(legs.a_t, legs.s_t, legs.lam_t)
        span = self.form.clock(legs.a_s, legs.s_s, legs.lam_s) - clock
        known = self.form.known(legs.a_t, legs.s_t)
        keep, total, H = self.form.step(legs)
        keep, total = torch.where(known, keep, legs.rho), torch.where(known, total, legs.c)
        # how many calls of this trajectory there are, and how many steps it has left
        sound = known & torch.isfinite(span) & legs.moves
        past, left, count, room = sound, legs.moves, sound.long(), legs.moves.long()
        for j in range(1, k):
            past = past & shift(legs.follows, j - 1, False) & shift(known, j, False)
            left = left & shift(legs.follows & legs.moves, -j, False)
            count, room = count + past, room + left
        count = torch.minimum(count, room) if self.taper else count
        tau = torch.stack([(shift(clock, j, 0.0) - clock) / span for j in range(k)], -1)
        w = self._weights(tau, H, count.clamp(min=1)) * total[..., None]
        rows = [[[legs.row(i, tuple(w[i].unbind(-1)), keep[i])]] for i in range(n)]
        if not self.corrector:
            return rows
        ahead = torch.cat([torch.ones_like(tau[..., :1]), tau], -1)
        v = self._weights(ahead, H, count + 1) * total[..., None]
        for i in range(1, n):
            on = sound[i - 1] & legs.follows[i] & known[i]
            if on.any():  # a track that is not corrected takes the same step again
                c = torch.where(on[:, None], v[i - 1], torch.nn.functional.pad(w[i - 1], (1, 0)))
                again = legs.row(i - 1, tuple(c.unbind(-1)), keep[i - 1])
                rows[i][0].insert(0, again._replace(back=True, lag=1))
        return rows

    def _weights(self, tau: Tensor, H: Tensor, count: Tensor) -> Tensor:
        out = torch.zeros_like(tau)
        out[..., 0] = 1.0
        for q in range(2, tau.shape[-1] + 1):
            of = count == q
            if of.any():
                out[of] = torch.nn.functional.pad(self.rule(tau[of][:, :q], H[of]), (0, tau.shape[-1] - q))
        return out


@dataclass(frozen=True)
class Band:
    """kappa where low <= sigma/alpha <= high, else 0: noise in the middle of the way only (Xue et al. 2023)."""

    kappa: float = 1.0
    low: float = 0.05
    high: float = 1.0

    def __call__(self, sbar: Tensor) -> Tensor:
        return self.kappa * ((sbar >= self.low) & (sbar <= self.high)).to(sbar)
