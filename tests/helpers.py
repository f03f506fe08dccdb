"""What the tests of the mathematical core share: every schedule by name, and closed forms of their own.

The closed forms are written here a second time on purpose, apart from `oneprior.exact`: an answer that two people
derived independently is worth more than one that agrees with itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from oneprior.anchored import BrownianBridge, MeanReverting, OUBridge, Residual, ResShift, Straight
from oneprior.denoiser import Denoiser, Facts
from oneprior.posterior import Posterior
from oneprior.schedules import (
    EDM,
    VE,
    VP,
    Cosine,
    CosineBetas,
    Laplace,
    LinearBetas,
    RectifiedFlow,
    ScaledLinearBetas,
    Schedule,
    Sigmoid,
    SubVP,
)
from oneprior.times import align

SCHEDULES: dict[str, Schedule] = {
    "vp": VP(),
    "subvp": SubVP(),
    "ve": VE(),
    "edm": EDM(),
    "cosine": Cosine(),
    "trigflow": Cosine(scale=0.5),
    "rf": RectifiedFlow(),
    "laplace": Laplace(),
    "sigmoid": Sigmoid(),
    "linear betas": LinearBetas(),
    "scaled linear betas": ScaledLinearBetas(),
    "cosine betas": CosineBetas(),
    "linear betas, zero snr": LinearBetas(zero_snr=True),
    "rf, shifted": RectifiedFlow().shift(3.0),
    "cosine, shifted": Cosine().shift(0.5),
}
ANCHORED: dict[str, Schedule] = {
    "IR-SDE": MeanReverting(),
    "ResShift": ResShift(),
    "I2SB": BrownianBridge(),
    "GOUB": OUBridge(),
    "RDDM": Residual(),
    "InDI": Straight(),
}
# those that keep alpha^2 + sigma^2 = 1
PRESERVING = [k for k in SCHEDULES if k not in ("subvp", "ve", "edm", "trigflow", "rf", "rf, shifted")]

BATCH = 3
# (shape of x, shape of t): a time a sample, a frame, a pixel, on points, images and clips
ALIGNED = [
    ((3, 5), (3,)),
    ((3, 5), (3, 5)),
    ((3, 2, 4, 6), (3,)),
    ((3, 2, 4, 6), (3, 2)),
    ((3, 2, 4, 6), (3, 1, 4, 6)),
    ((3, 4, 2, 5, 6), (3,)),
    ((3, 4, 2, 5, 6), (3, 4)),
    ((3, 4, 2, 5, 6), (3, 1, 2, 5)),
]


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def ar1(count: int, rho: float = 0.9) -> Tensor:
    """The covariance of a stationary AR(1) sequence of unit variance."""
    i = torch.arange(count, dtype=torch.float64)
    return rho ** (i[:, None] - i).abs()


class Normal(Denoiser):
    """D = m + K A (A K A + S^2)^-1 (x - A m - b y) for x_0 ~ N(m, K): K (d, d) over the flattened sample, any time."""

    def __init__(self, mean: Tensor, cov: Tensor, schedule: Schedule, time_axes: int = 3) -> None:
        super().__init__()
        self.mean, self.cov, self.schedule = mean.double(), cov.double(), schedule
        self.facts = Facts(time_axes=time_axes)
        self.calls: list[Any] = []

    def posterior(self, x: Tensor, t: Any, *, y: Tensor | None = None, **_: Any) -> Posterior:
        self.calls.append(t)
        d, K = self.mean.numel(), self.cov
        a, b, s = (torch.as_tensor(0.0 if v is None else v, dtype=torch.float64) for v in self.schedule.at(t))
        a, b, s = (align(v, x.double()).expand(x.shape).reshape(len(x), d) for v in (a, b, s))
        same = not isinstance(t, Tensor) or t.shape[0] == 1  # one matrix serves the whole batch
        A, S = (v[:1] if same else v for v in (a, s))
        total = A[:, :, None] * K * A[:, None] + torch.diag_embed(S * S)
        pinned = total.diagonal(dim1=1, dim2=2) == 0  # the start of a bridge: alpha = sigma = 0 says nothing
        gain = torch.linalg.solve(total + torch.diag_embed(pinned.double()), A[:, :, None] * K).mT
        m = self.mean.reshape(1, d)
        r = x.double().reshape(len(x), d) - a * m - (0.0 if y is None else b * y.double().reshape(len(y), d))
        D = m + (gain @ r[:, :, None])[..., 0]
        var = (K.diagonal() - (gain * (A[:, :, None] * K).mT).sum(-1)).clamp(min=0).expand(len(x), d)
        return Posterior(D.reshape(x.shape).to(x), x, self.schedule, t, var.reshape(x.shape).to(x), y)


class Simple(Denoiser):
    """D = f(x, t), for what a test needs to count, alias or break."""

    def __init__(self, f: Callable[..., Tensor], schedule: Schedule, time_axes: int = 0, null: Any = None) -> None:
        super().__init__()
        self.f, self.schedule, self.facts = f, schedule, Facts(time_axes=time_axes, null=null or {})
        self.calls: list[tuple[tuple[int, ...], Any]] = []

    def posterior(self, x: Tensor, t: Any, **cond: Any) -> Posterior:
        self.calls.append((tuple(x.shape), t))
        return Posterior(self.f(x, t, **cond), x, self.schedule, t, y=cond.get("y"))


def affine(run: Callable[[Tensor], Tensor], shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """(c, M) of a map x -> c + M x on flattened samples, by pushing the origin and the unit vectors through it."""
    d = int(torch.tensor(shape).prod())
    points = torch.cat([torch.zeros(1, d, dtype=torch.float64), torch.eye(d, dtype=torch.float64)])
    out = run(points.reshape(d + 1, *shape)).reshape(d + 1, d)
    return out[0], (out[1:] - out[0]).mT


def root(C: Tensor) -> Tensor:
    w, Q = torch.linalg.eigh(C)
    return (Q * w.clamp(min=0).sqrt()) @ Q.mT


def wasserstein2(C1: Tensor, C2: Tensor) -> float:
    """Squared 2-Wasserstein distance between N(0, C1) and N(0, C2)."""
    r = root(C1)
    return float((C1 + C2 - 2 * root(r @ C2 @ r)).trace())


def propagate(
    plan: Any, schedule: Schedule, law: tuple[float, float], start: tuple[float, float], y: float = 0.0
) -> tuple[float, float, float]:
    """Mean and variance of a scalar chain through the very rows of a plan, with D exact for x_0 ~ N(*law).

    Returns the mean, the variance, and the variance when each step also adds that of the posterior.
    """
    (m, v), (M, V) = law, start
    W = V
    for stage in plan:
        (row,) = stage.rows
        a, b, s = schedule.at(stage.t)
        b, total = b or 0.0, a * a * v + s * s
        K = a * v / total if total else 0.0
        gain, left = row.keep + row.w[0] * K, v - K * a * v
        M = gain * M + row.w[0] * (m - K * (a * m + b * y)) + row.anchor * y
        V = gain**2 * V + row.std**2
        W = gain**2 * W + row.std**2 + row.w[0] ** 2 * left
    return M, V, W
