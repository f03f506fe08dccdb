"""Conditional: a few calls say most when read under a law of what they can say, not through a polynomial.

Along a way of the ODE let x_t, D_t be a Gaussian process, a sum over scales c (log-uniform, times a power of c) of
    x                                          D                 what it says
    sqrt(a^2 c^2 + s^2)                        a c^2 / x         the data are normal of deviation c, and x tells which
    a c (g - z sqrt(pi/2) erfc(z/sqrt 2))      c g               the mean turns near level c, x does not tell where to
    a                                          1                 the mean of the data is not known
with z = s/(a c), g = exp(-z^2/2); each line keeps dx/dt = the ODE's, so that a call is news of the whole way. Each x_s
is the conditional mean given the x the way began at and all its calls: linear in them, weights of the levels alone
(Bayesian quadrature, O'Hagan 1991). Against Adams: nothing to choose as order, and every step is taken anew from the
first x at every call.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log, pi, sqrt

import torch
from torch import Tensor

from oneprior.sampling.solvers.plan import Legs, Row, Solver


@dataclass(frozen=True)
class Conditional(Solver):
    """x_s is its mean given the first x and all calls under the process above; one call a step, deterministic.

    low, high: the scales c of the data, in units of x; normal, turn: powers of c in the weights of the first two lines,
    share: the second against the first, by deviation; mean: the deviation of the third. noise: of a call, relative,
    what keeps weights small. memory: calls of a way, after which it counts as begun anew.

    Example:
        >>> x = sample(den, (8, 1, 28, 28), steps=6, sampler=Sampler(Conditional(), FLOW))

    Raises:
        ValueError: for scales out of order, a noise, share or mean that is not positive, or a memory below 1.
    """

    low: float = 0.0125
    high: float = 2.2
    normal: float = -1.2
    turn: float = -1.1
    share: float = 4.8
    mean: float = 1.0
    noise: float = 0.012
    memory: int = 32

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high or min(self.share, self.mean, self.noise) <= 0 or self.memory < 1:
            raise ValueError(f"{self}: 0 < low < high, share, mean and noise above 0, memory >= 1 were expected")

    @property
    def depth(self) -> int:
        return self.memory

    def features(self, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Of x and of D at levels (a, s): [*, features], whose sums of products are covariances."""
        a, s = a[..., None], s[..., None]
        lc = torch.linspace(log(self.low), log(self.high), 48, dtype=torch.float64)
        c, w, v = lc.exp(), (self.normal * lc).softmax(0).sqrt(), (self.turn * lc).softmax(0).sqrt()
        x = (a * a * c * c + s * s).sqrt()
        z = (s / (a * c)).clamp(max=30.0)  # beyond, the mean has not begun to turn
        g = torch.exp(-z * z / 2)
        turned = g - z * sqrt(pi / 2) * torch.erfc(z / sqrt(2))
        one = torch.ones_like(a)
        return (
            torch.cat([w * x, self.share * v * a * c * turned, self.mean * a], -1),
            torch.cat([w * a * c * c / x, self.share * v * c * g, self.mean * one], -1),
        )

    def rows(self, legs: Legs) -> list[list[list[Row]]]:
        n, tracks = legs.a_t.shape
        xs, calls = self.features(legs.a_t, legs.s_t)
        ends, _ = self.features(legs.a_s, legs.s_s)
        every = torch.arange(tracks)
        begun = torch.zeros(tracks, dtype=torch.long)
        # x_t = kappa (first x) + sum_j held_j D_j, of which a row tells the change
        kappa, held = torch.ones(tracks, dtype=torch.float64), torch.zeros(tracks, n, dtype=torch.float64)
        out = []
        for i in range(n):
            begun = torch.where(legs.follows[i] & (i - begun < self.memory), begun, i)
            new = begun == i
            kappa, held = torch.where(new, 1.0, kappa), torch.where(new[:, None], 0.0, held)
            live = (torch.arange(i + 1) >= begun[:, None])[..., None]
            known = torch.cat([xs[begun, every][:, None], calls[: i + 1].transpose(0, 1) * live], 1)
            own = known.square().sum(-1)
            # the first x is no estimate; a call of another way says nothing: its row is that of the identity
            noise = torch.where(own > 0, self.noise**2 * own, 1.0)
            noise[:, 0] = 1e-12
            K = known @ known.mT + torch.diag_embed(noise)
            w = torch.linalg.solve(K, (known @ ends[i][..., None]))[..., 0]
            keep, given = w[:, 0], torch.nn.functional.pad(w[:, 1:], (0, n - i - 1))
            step = given - (keep / kappa)[:, None] * held
            first = max(0, i - self.memory + 1)
            out.append([[legs.row(i, tuple(step[:, first : i + 1].flip(-1).unbind(-1)), keep / kappa)]])
            kappa, held = keep, given
        return out
