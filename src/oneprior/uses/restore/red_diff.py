"""RED-diff (Mardani et al. 2023, arXiv 2305.04391): restoration as optimisation, one denoiser call a step.

For q(x_0) = N(mu, 0) the KL to p(x_0 | y), differentiated by parts in t, has the direction
    g(mu) = q_t J_A^T (A(mu) - y) + p_t (eps_hat(alpha_t mu + sigma_t eps, t) - eps),
eps_hat held constant: no backward pass through the network. With s = sigma / alpha, N elements of x and M of y,
    paper   p_t = lam h(s_t) / N,   q_t = v / M           (means; the noise of y does not enter)
    map     p_t = 1 / s_t,          q_t = 1 / noise^2     (sums; a level contributes precision 1/(S + s^2) to a
                                                           Gaussian prior S, so s_min -> 0 gives the exact MAP)
A point estimate: the spread of several runs is not a posterior standard deviation.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from math import log, prod
from typing import Any

import torch
from torch import Tensor

from oneprior.denoiser import Denoiser
from oneprior.noise import Seeded, uniform
from oneprior.operators import Measurement
from oneprior.sampling.sampler import shown
from oneprior.schedules import Schedule
from oneprior.times import Time, align
from oneprior.uses.restore.settings import RedDiffSettings

Weights = tuple[list[float], Any]  # p of each step, and q


def red_diff(
    den: Denoiser,
    measurement: Measurement,
    settings: RedDiffSettings | None = None,
    *,
    seeds: Sequence[int],
    start: Tensor | None = None,
    progress: bool = False,
    **cond: Any,
) -> Tensor:
    """One descending pass of Adam on mu; (B, *shape), sample i with the noise of seeds[i].

    measurement: in model range, B samples. start: instead of the settings' `init`.

    Raises:
        ValueError: in mode map for a measurement without noise; as many seeds as there are not samples.
        FloatingPointError: when the estimate is not finite.
    """
    s = settings or RedDiffSettings()
    y, A = measurement.y, measurement.operator
    times = _times(den, s)
    prior, data = MODES[s.mode](measurement, [_level(den.schedule, t) for t in times], s)
    if start is None:
        start = A.pinv(y) if s.init == "pinv" else y.new_zeros(A.domain(tuple(y.shape)))
    mu, noise = start.detach().clone(), Seeded(seeds)
    adam = torch.optim.Adam([mu], lr=s.lr, betas=s.betas)
    every = shown(range(len(times)), len(times), "restoring") if progress else range(len(times))
    with torch.no_grad():
        for i in every:
            x0 = mu + s.sigma_x0 * noise(i, mu, "spread") if s.sigma_x0 else mu
            mu.grad = direction(den, measurement, mu, times[i], noise(i, mu, "red-diff"), prior[i], data, x0=x0, **cond)
            if s.mode == "map":
                adam.param_groups[0]["lr"] = s.lr * (1 - i / len(times))
            adam.step()
    if not bool(mu.isfinite().all()):
        raise FloatingPointError(f"the estimate is not finite after {len(times)} steps of lr {s.lr}: lower lr")
    return mu


@torch.no_grad()
def direction(
    den: Denoiser,
    measurement: Measurement,
    mu: Tensor,
    t: Time,
    eps: Tensor,
    prior: Any,
    data: Any,
    *,
    x0: Tensor | None = None,
    **cond: Any,
) -> Tensor:
    """g(mu) = data J_A^T (A(mu) - y) + prior (eps_hat - eps), (B, *shape). x0: where eps is added, mu by default."""
    a, b, s = den.schedule.at(t)
    x = align(a, mu) * (mu if x0 is None else x0) + align(s, mu) * den.schedule.color(eps)
    if b is not None:
        x = x + align(b, mu) * cond["y"]
    prior_residual = den(x, t, **cond).eps - den.schedule.color(eps)
    A = measurement.operator.at(mu)
    return A.adjoint(data * (A.value - measurement.y.to(mu))) + align(prior, mu) * prior_residual


def _paper(measurement: Measurement, levels: list[float], s: RedDiffSettings) -> Weights:
    if float(torch.as_tensor(measurement.noise).max()) > 0:
        warnings.warn(
            f"RED-diff in mode 'paper' does not use the noise of the measurement, {measurement.noise}: it ends on the "
            "data whatever that is. Use mode='map', or give the measurement noise=0 to say that you know",
            stacklevel=4,
        )
    y = measurement.y
    N = prod(measurement.operator.domain(tuple(y.shape))[1:])
    return [s.lam * s.weight(level) / N for level in levels], s.v / measurement.operator.count(y)


def _map(measurement: Measurement, levels: list[float], s: RedDiffSettings) -> Weights:
    if not float(torch.as_tensor(measurement.noise).min()) > 0:
        raise ValueError("mode 'map' weighs the data by 1/noise^2: give the measurement its noise, a number above 0")
    R = measurement.variance
    return [1 / level for level in levels], 1 / (R.to(measurement.y) if isinstance(R, Tensor) else R)


MODES: dict[str, Callable[[Measurement, list[float], RedDiffSettings], Weights]] = {"paper": _paper, "map": _map}


def _level(schedule: Schedule, t: float) -> float:
    a, _, s = schedule.at(t)
    return s / a


def _times(den: Denoiser, s: RedDiffSettings) -> list[float]:
    """An even grid of the trained times, in mode map of those with sigma / alpha >= s_min; its end, where alpha may be
    0, is left out, as in the reference."""
    low = max(den.schedule.t_min, den.facts.t_range[0])
    if s.mode == "map":
        low = max(low, den.schedule.time(-log(s.s_min)))
    up = [low + (den.facts.t_range[1] - low) * i / s.steps for i in range(s.steps)]
    if s.order == "random":  # one order for all samples, whatever the batch
        return [up[int(i)] for i in uniform(0, "red-diff order", 0, (s.steps,)).argsort()]
    return up if s.order == "ascending" else up[::-1]
