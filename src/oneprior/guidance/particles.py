"""Particles that need guidance: exact in the limit of many, where guidance alone is an approximation.

Twisted SMC (TDS; Wu et al. 2023) draws from p(x_0 | y). With twists f_t(x_t), guesses of p(y | x_t) that end in the
likelihood, the proposal q moves along grad log f_t and the weight mends whatever is wrong with it:
    G = p(x_s | x_t) f_s(x_s) / (q(x_s | x_t) f_t(x_t)),   q: D_q = D + (s_t^2 / a_t) grad log f_t(x_t),
the kernels p and q being those of the sampler's step with noise, equal but for their means.

Feynman-Kac correctors (Skreta et al. 2025) draw from p_u^(1-w) p_c^w, which classifier-free guidance does not: along
the reverse SDE with the guided score,
    d log W = (w (w - 1) / 2) g^2 |score_c - score_u|^2 dt,
whose integral over a step, where the scores differ by a constant, is (w (w - 1) / 2) (1 - e^-2h) SNR |D_c - D_u|^2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp, expm1, inf, isfinite, pi
from typing import Any

import torch
from torch import Tensor

from oneprior.denoiser import Denoiser, Wrapper
from oneprior.guidance.contrast import Conditional
from oneprior.guidance.tweedie import each, informed, through, white
from oneprior.noise import Seeded
from oneprior.operators import Measurement
from oneprior.posterior import Posterior
from oneprior.sampling import Step
from oneprior.sampling.particles import Particles, Swarm
from oneprior.sampling.solvers import mean as post_mean
from oneprior.times import Time, align


class Told(Posterior):
    """A guided posterior that also tells what it was made of."""

    __slots__ = ("shift", "value")
    shift: Tensor  # what guidance added to the mean (TDS), or D_c - D_u (correctors)
    value: Tensor  # log f_t(x_t), or |D_c - D_u|^2, (B,)


def _told(post: Posterior, den: Denoiser, t: Time, mean: Tensor, shift: Tensor, value: Tensor) -> Told:
    out = Told(mean, post.x_t, den.schedule, t, post.var, post.y)
    out.shift, out.value = shift, value
    return out


class _Twisted(Wrapper):
    def __init__(self, inner: Denoiser, log_f: Callable[[Posterior], Tensor], most: float) -> None:
        super().__init__(inner, density=False)
        self.log_f, self.most = log_f, most

    def posterior(self, x: Tensor, t: Time, **cond: Any) -> Posterior:
        asked = informed(self.schedule, t)
        a, _, s = self.schedule.at(asked)
        post, value, grad = through(self.inner, lambda p: each(self.log_f(p), x, "the twist"), x, asked, cond)
        shift = align(s * s / a, x) * grad
        length = (shift.square() / _variance(post)).flatten(1).mean(1).sqrt()
        shift = shift * align((self.most / length).clamp(max=1.0).nan_to_num(1.0), x)
        return _told(post, self, t, post.mean + shift, shift, value)


def _variance(post: Posterior) -> Any:
    """Var[x_0 | x_t], or what it would be for data of unit variance."""
    a, _, s = post.coefs
    return s * s / (a * a + s * s) if post.var is None else post.var.clamp(min=1e-30)


class _Measured:
    """log p(y | x_0), and the twist log N(y; A D, R + v), v the mean of the diagonal of A Var[x_0 | x_t] A^T over y,
    estimated by one vector of signs (exact for masks and for a single number)."""

    def __init__(self, measurement: Measurement, count: int) -> None:
        if not bool((torch.as_tensor(measurement.noise) > 0).all()):
            raise ValueError("a likelihood needs noise > 0; measurements without noise: uses.restore, or Hold")
        many = measurement.repeat(count)
        self.operator, self.y, self.R = many.operator, many.y, many.variance
        self.signs = Seeded([0])(0, many.y[:1], "probe").sign()
        self.count = torch.as_tensor(many.operator.count(many.y), device=many.y.device).reshape(-1)

    def log_p(self, x: Tensor, more: Any = 0.0) -> Tensor:
        var = self.R + more + torch.zeros_like(self.y)
        logs = (2 * pi * var).log().flatten(1).mean(1) * self.count
        return -0.5 * ((self.y - self.operator(x)).square() / var).flatten(1).sum(1) - 0.5 * logs

    def twist(self, post: Posterior) -> Tensor:
        back = self.operator.at(post.mean).adjoint(self.signs.expand_as(self.y))
        total = (_variance(post) * back.square()).flatten(1).sum(1)
        return self.log_p(post.mean, align(total / self.count, self.y))


class _Product(Conditional):
    def posterior(self, x: Tensor, t: Time, **cond: Any) -> Posterior:
        post, (c, u) = self.views(x, t, cond)
        mean = torch.lerp(u, c, align(self.scale, x))
        return _told(post, self, t, mean, c - u, (c - u).square().flatten(1).sum(1))


def twisted(
    den: Denoiser,
    shape: Sequence[int],
    target: Measurement | Callable[[Tensor], Tensor],
    *,
    twist: Callable[[Posterior], Tensor] | None = None,
    count: int = 16,
    **how: Any,
) -> Particles:
    """TDS: `count` particles a sample of p(x_0 | y); `out.log_z` estimates log p(y). Exact as `count` grows, for p the
    law that the sampler's own steps draw without guidance.

    target: a `Measurement` of B samples in model range, or x_0 (B K, *), particles of sample 0 first, ->
    log p(y | x_0) (B K,), differentiable. twist: another log f_t, from the posterior of x_t, (B K,). By default a
    measurement is taken with the variance that x_0 still has, and any other target at the mean, which is sharper than
    p(y | x_t): there a step is not moved by more than a standard deviation of x_0 (rms). how: as of `Swarm`.

    Example:
        >>> out = twisted(den, (4, 1, 28, 28), Measurement(y, Pool(2), 0.5), count=64)
        >>> mean = (out.weights[..., None, None, None] * out.x).sum(1)

    Raises:
        ValueError: as `Swarm`, and for a sampler that is not one of a single mean a step (`ancestral`, DDIM(kappa)).
    """
    seen = _Measured(target, count) if isinstance(target, Measurement) else None
    log_p: Any = seen.log_p if seen else target
    log_f = twist or (seen.twist if seen else lambda post: log_p(post.mean))
    swarm = Swarm(den, shape, count, **how)
    single = all(len(stage.rows) == 1 and len(stage.rows[0].w) == 1 for stage in swarm.plan)
    if swarm.solver.depth > 1 or swarm.solver.view is not post_mean or not single:
        raise ValueError(f"{swarm.solver} steps by more than one mean: weights are known for 'ancestral', DDIM(kappa)")
    x, carried, mend = swarm.x, swarm.zeros(), swarm.zeros()
    for out in swarm.walk(_Twisted(den, log_f, inf if seen or twist else 1.0)):
        post: Any = out.posterior
        swarm.weigh(post.value.to("cpu", torch.float64) - carried + mend)
        carried, mend = post.value.to("cpu", torch.float64), _mend(swarm, out, post)
        carried, mend = swarm.settle(out, carried, mend)
        x = out.x
    swarm.weigh(log_p(x).to("cpu", torch.float64) - carried + mend)
    return swarm.result(x)


def _mend(swarm: Swarm, out: Step, post: Told) -> Tensor:
    """log p(x_s | x_t) - log q(x_s | x_t), (B K,); a step without noise is taken without guidance, where it is 0."""
    (row,) = swarm.plan[out.index].rows
    (w,) = row.w
    moved, var = w * post.shift, torch.full_like(out.x, row.std**2)
    if swarm.solver.variance and post.var is not None:
        var = var + w * w * post.var
    free = var == 0
    noise = out.x - row.keep * post.x_t - w * post.mean
    if row.anchor and post.y is not None:
        noise = noise - row.anchor * post.y
    out.x = torch.where(free, out.x - moved, out.x)
    gap = torch.where(free, 0.0, moved * (2 * noise + moved) / (2 * torch.where(free, 1.0, var)))
    return -gap.flatten(1).sum(1).to("cpu", torch.float64)


def corrected(
    den: Denoiser, shape: Sequence[int], scale: float | Tensor = 2.0, *, count: int = 16, **how: Any
) -> Particles:
    """Feynman-Kac corrected CFG: `count` particles a sample of p(x_0)^(1-w) p(x_0 | c)^w, w = `scale` or (B,) of them.

    Exact as steps and `count` grow, from a start so noisy that the two laws are one. how: as of `Swarm`.

    Example:
        >>> x = corrected(den, (4, 1, 28, 28), 3.0, count=32, steps=100, label=label).draw()

    Raises:
        ValueError: as `Swarm`, and as `CFG` for a denoiser without conditions.
    """
    white(den.schedule)
    swarm = Swarm(den, shape, count, **how)
    w = swarm.repeat(scale, shape[0])
    guided, x, lam = _Product(den, w), swarm.x, den.schedule.lam
    for out in swarm.walk(guided):
        x, post = out.x, out.posterior
        low, high = lam(out.t), lam(out.s)
        share = exp(2 * low) * -expm1(2 * (low - high)) if isfinite(low) else 0.0
        swarm.weigh(w * (w - 1) / 2 * share * post.value)
        if not swarm.last(out):
            swarm.settle(out)
    return swarm.result(x)
