"""Named laws: a Gaussian, mixtures of low rank, a data set. Each is a `Mixture`; a Gaussian knows its ODE as well.

With N_t = a_t^2 C + s_t^2 I, the probability-flow ODE of a Gaussian ends at
    x_s = a_s m + b_s y + (N_s N_t^-1)^(1/2) (x_t - a_t m - b_t y).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from oneprior.exact.covariance import TINY, Covariance
from oneprior.exact.mixture import Mixture, tensor
from oneprior.schedules import Schedule


class Gaussian(Mixture):
    """N(mean, cov): mean (*shape); cov a variance, (*shape) variances or a matrix (d, d) over the flattened sample.

    Example:
        >>> den = Gaussian(torch.zeros(16), 0.9 ** torch.cdist(i, i, p=1)).denoiser(VP())
    """

    def __init__(self, mean: Any, cov: Any) -> None:
        mean, cov = tensor(mean), tensor(cov)
        super().__init__([1.0], mean[None], cov[None])

    def ode_end(self, schedule: Schedule, x: Tensor, t: float, s: float, y: Tensor | None = None) -> Tensor:
        """The end at time s of the probability-flow ODE that starts from x (B, *shape) at time t; y (B, *shape)."""
        (a, b, _), (a_s, b_s, _) = schedule.at(t), schedule.at(s)
        start, end = self.at(schedule, t).covariances, self.at(schedule, s).covariances
        (f0, c0), (f1, c1) = start.levels(), end.levels()
        flat, anchor = self.flat(x), 0.0 if y is None else self.flat(y)
        r = flat - a * self.means - (0.0 if b is None else b * anchor)
        ratio = ((one / zero.clamp(min=TINY)).sqrt() for zero, one in ((f0, f1), (c0, c1)))
        out = start.scale(r[:, None], *ratio)[:, 0] + a_s * self.means + (0.0 if b_s is None else b_s * anchor)
        return out.reshape(x.shape).to(x.dtype)


def low_rank_mixture(weights: Any, means: Any, factors: Any, floor: Any, labels: Any = None) -> Mixture:
    """Components N(m_k, L_k L_k^T + floor_k I): factors L (K, d, r), floor a variance >= 0 or (K,). Cost O(d r)."""
    means, factors = tensor(means), tensor(factors)
    K, d = len(means), means[0].numel()
    if factors.ndim != 3 or tuple(factors.shape[:2]) != (K, d):
        raise ValueError(f"factors have shape {tuple(factors.shape)}; ({K}, {d}, rank) was expected")
    return Mixture(weights, means, Covariance.low_rank(factors, tensor(floor).expand(K)), labels)


def empirical(data: Any, bandwidth: float = 0.0, labels: Any = None) -> Mixture:
    """A data set (N, *shape) as a law: a Gaussian of standard deviation `bandwidth` (in units of x) at each sample.

    bandwidth 0 is the empirical distribution itself, the optimum of the training loss: D is a softmax over the data.
    """
    if bandwidth < 0:
        raise ValueError(f"bandwidth = {bandwidth}: a standard deviation >= 0 was expected")
    data = tensor(data)
    return Mixture(torch.ones(len(data)), data, bandwidth**2, labels)
