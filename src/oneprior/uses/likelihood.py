"""log p(x_0) of a model: by the probability-flow ODE, and by the bound.

ODE (Song et al. 2021, "Score-Based Generative Modeling through SDEs"): with u = x_t / (alpha^2 + sigma^2)^(1/2),
lam = log(alpha / sigma), c = alpha / (alpha^2 + sigma^2)^(1/2) and J = dD/du, every schedule has one and the same flow
    du/dlam = c (D - c u),      log p(x_0) = log p(u at lam_0) + integral over lam of [d c^2 - c tr J],
whose integrand vanishes at both ends and varies over units of lam: so the path is RK4 on nodes dense around lam = 1,
lam = 1 + 2 sinh(q), and the trace is taken once a node and summed by the trapezoid rule in q. Beyond the ends nothing
is assumed about the data. Below t_min the integrand falls like e^(-2 lam): its tail is half its value, and x_0 moves
by (x_0 - D)/2. At the noisy end the law is the Gaussian that has the model's own score and Jacobian at the point
reached: with r = u - c D and s^2 = 1 - c^2,
    -2 log p(u) = r^T (I - c J)^-1 r / s^2 + d log(2 pi s^2) - log det(I - c J),      c J small.
Bound (Kingma et al. 2021, "Variational Diffusion Models"), to the level sbar = sigma / alpha of t_min:
    -log p(x_0) <= (d/2) log(2 pi e sbar^2) + integral over lam of E[SNR |x_0 - D|^2].
"""

from __future__ import annotations

from collections.abc import Sequence
from math import asinh, cosh, exp, log, pi, sinh
from typing import Any, NamedTuple

import torch
from torch import Tensor

from oneprior.codecs import Codec
from oneprior.denoiser import Denoiser
from oneprior.noise import Seeded
from oneprior.uses.errors import Plan, check_density, errors

NOISIEST = -5.0  # lam of the noisy end: the signal is 0.7 % of the noise, its third cumulant 3e-7 of it


class Likelihood(NamedTuple):
    """x: (B,) float64, log p in nats, a density in model range; for `bound` a lower bound of it. bpd: (B,) bits per
    dimension of what the codec stores (of model range without one). nfe: network calls. stderr: (B,), of `bound`."""

    x: Tensor
    bpd: Tensor
    nfe: int
    stderr: Tensor | None = None


def likelihood(
    den: Denoiser,
    x0: Tensor,
    *,
    steps: int = 32,
    probes: int | None = None,
    seeds: Sequence[int] | None = None,
    codec: Codec | None = None,
    **cond: Any,
) -> Likelihood:
    """log p(x_0) along the probability-flow ODE.

    x0: (B, *) in model range; stored levels must have been dequantised. steps: in lam, four network calls each.
    probes: None for the exact trace, d backward passes a node; else the number of Rademacher probes (Hutchinson),
    fixed for the whole solve and drawn from `seeds` (one a sample, range(B) by default). codec: for bits per dimension.

    Example:
        >>> likelihood(Gaussian([0.0, 0.0], 1.0).denoiser(VP()), torch.zeros(1, 2)).x     # -log(2 pi)

    Raises:
        ValueError: for a denoiser that is no density, an anchored or coloured schedule, steps or probes < 1, or a
            model whose noisiest time is not nearly pure noise.
    """
    lo, hi = _ends(den)
    if steps < 1 or (probes is not None and probes < 1):
        raise ValueError(f"steps = {steps}, probes = {probes}: at least 1 was expected (None for the exact trace)")
    d, calls, probe = x0[0].numel(), 0, sign_vectors(x0, probes, seeds)
    start, end = asinh((hi - 1) / 2), asinh((lo - 1) / 2)
    h = (end - start) / steps

    def call(u: Tensor, lam: float, vectors: Sequence[Tensor] = ()) -> tuple[float, Tensor, list[Tensor]]:
        # c, D, and v^T J v for every v: (B,) float64
        nonlocal calls
        calls += 1
        t = den.schedule.time(lam)
        a, _, s = den.schedule.at(t)
        n = (a * a + s * s) ** 0.5
        with torch.set_grad_enabled(bool(vectors)):
            u = u.detach().requires_grad_(bool(vectors))
            mean = den(n * u, t, **cond).mean
            inner = [
                dot(v, torch.autograd.grad(mean, u, v, retain_graph=v is not vectors[-1], materialize_grads=True)[0])
                for v in vectors
            ]
        return a / n, mean.detach(), inner

    def flow(u: Tensor, q: float) -> Tensor:
        c, mean, _ = call(u, 1 + 2 * sinh(q))
        return 2 * cosh(q) * c * (mean - c * u)

    def node(u: Tensor, q: float) -> tuple[Tensor, Tensor]:
        c, mean, inner = call(u, 1 + 2 * sinh(q), probe)
        return 2 * cosh(q) * c * (mean - c * u), d * c * c - c * torch.stack(inner).sum(0) / (probes or 1)

    c, mean, _ = call(x0 / (1 + exp(-2 * hi)) ** 0.5, hi)
    u = c * (x0 + (x0 - mean) / 2)
    slope, f = node(u, start)
    total = f / 2 - f * h * cosh(start)
    for i in range(1, steps + 1):
        q = start + i * h
        k2 = flow(u + h / 2 * slope, q - h / 2)
        k3 = flow(u + h / 2 * k2, q - h / 2)
        k4 = flow(u + h * k3, q)
        u = u + h / 6 * (slope + 2 * k2 + 2 * k3 + k4)
        slope, f = node(u, q)
        total = total - f * h * cosh(q) * (2 if i < steps else 1)

    c, mean, _ = call(u, lo)
    r = u - c * mean
    rJr, s2 = call(u, lo, [r])[2][0], 1 - c * c
    cJ = d * c * c - f  # c tr J of the last node
    total = total - 0.5 * ((dot(r, r) + c * rJr) / s2 + d * log(2 * pi * s2) + cJ)
    return Likelihood(total, _bits(total, d, codec), calls)


def bound(
    den: Denoiser,
    x0: Tensor,
    *,
    n: int = 128,
    seed: int = 0,
    seeds: Sequence[int] | None = None,
    codec: Codec | None = None,
    max_batch: int = 512,
    **cond: Any,
) -> Likelihood:
    """A lower bound of log p(x_0), with its standard error a sample: n network calls, no gradients.

    seeds: one a sample, range(B) by default; the other arguments as in `likelihood` and `errors`. The standard error
    is that of pairs of neighbouring strata: a little too large where the integrand is steep.
    """
    lo, hi = _ends(den)
    seeds, d = range(len(x0)) if seeds is None else seeds, x0[0].numel()
    table = errors(den, x0, None, Plan(n, lam=(lo, hi), seed=seed), seeds=seeds, max_batch=max_batch, **cond)
    order = table.lam.argsort()
    each = (table.weight.to(x0.device)[:, None] * table.x[:, :, 0].double())[order.to(x0.device)]
    tail = table.x[int(order[0]), :, 0].double() / 2  # the integrand falls like SNR below lo
    value = -(each.sum(0) + tail + d / 2 * (log(2 * pi) + 1 - 2 * hi))
    gaps = each[0 : n - 1 : 2] - each[1::2]
    return Likelihood(value, _bits(value, d, codec), n, gaps.square().sum(0).sqrt())


def _ends(den: Denoiser) -> tuple[float, float]:
    schedule, (first, last) = den.schedule, den.facts.t_range
    check_density(den)
    if schedule.at(0.5)[1] is not None:
        raise ValueError(f"likelihoods are defined without an anchor; the schedule is {schedule}")
    lo, hi = max(schedule.lam(last), NOISIEST), schedule.lam(max(first, schedule.t_min))
    if lo > -2:
        raise ValueError(f"log(alpha/sigma) = {lo:.3g} at the model's last time, {last}; -2 or less was expected")
    return lo, hi


def sign_vectors(
    x: Tensor, count: int | None, seeds: Sequence[int] | None = None, key: str = "likelihood"
) -> list[Tensor]:
    """`count` vectors of signs like x (B, *), drawn from seeds (range(B) without); None: the d unit vectors."""
    if count is None:
        eye = torch.eye(x[0].numel(), dtype=x.dtype, device=x.device)
        return [e.reshape(1, *x.shape[1:]).expand_as(x) for e in eye]
    if count < 1:
        raise ValueError(f"{count} probes: at least 1 was expected (None for the exact trace)")
    noise = Seeded(range(len(x)) if seeds is None else seeds, key)
    return [torch.where(noise(k, x) < 0, -1.0, 1.0).to(x) for k in range(count)]


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each sample, (B,) float64."""
    return (a * b).double().flatten(1).sum(1)


def _bits(nats: Tensor, d: int, codec: Codec | None) -> Tensor:
    unit = 0.0 if codec is None else codec.logdet if codec.log_bin is None else codec.log_bin
    return -(nats / d + unit) / log(2)
