"""Bounds on -log p(x_0) for tokens, in nats per sequence, (B,); each is an unbiased integrand at one time and one z.

With s_k = q_t(x with z -> k) / q_t(x) given x_0 and sh_k the same of the model (Lou et al. 2024; Campbell et al. 2022)
    -log p(x_0) <= int_0^1 E_z sum_tokens sum_{k != z} G_t(k -> z) phi(s_k, sh_k) dt + KL(q_1(.|x_0) || p_1),
    phi(a, b) = b - a + a log(a / b), G the forward rate, with equality for the exact denoiser at every x_0.
For masks the integrand is -alpha' / (1 - alpha) sum_masked CE, which no longer knows the schedule in the form
    L E_{n ~ U{1..L}} mean over n masked tokens of CE      (Zheng et al. 2024; Ou et al. 2024).
What trains better than a bound (`cross_entropy`, `dynamic`) is not one: report a bound beside it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from oneprior.times import Time
from oneprior.tokens.chain import Corruption
from oneprior.tokens.denoiser import TokenDenoiser

TINY = 1e-300


def bound(den: TokenDenoiser, x0: Tensor, t: Time, z: Tensor, **cond: Any) -> Tensor:
    """The continuous-time integrand at t in (0, 1) and z ~ q(x_t | x_0), tokens (B, L); its mean over t ~ U(0, 1)
    is the bound without the prior's term, `prior_term`. Where tokens are replaced it is finite only if the denoiser is
    sure of its tokens as t -> 0: a "loo" network always is.

    Example:
        >>> nats = bound(den, x0, t, den.corruption.corrupt(x0, t, u)) + prior_term(den.corruption, x0)
    """
    c = den.corruption
    s = c.score(c._hot(x0), z, t)
    sh = c.score(den(z, t, **cond).exp(), z, t)
    phi = sh - s + torch.where(s > 0, s * (s.clamp(min=TINY).log() - sh.clamp(min=TINY).log()), 0.0)
    return (c.rates(z, t) * phi).sum((1, 2))


def finite_bound(den: TokenDenoiser, x0: Tensor, step: int, steps: int, z: Tensor, **cond: Any) -> Tensor:
    """T KL(q(x_s | x_t, x_0) || p(x_s | x_t)) at t = step / T, s = t - 1 / T, z ~ q(x_t | x_0) (D3PM).

    step in 1..T; at step 1 it is T times -log p(x_0 | x_t). Its mean over steps is the bound of a chain of T steps.
    """
    if not 1 <= step <= steps:
        raise ValueError(f"step = {step}: one of 1 .. {steps} was expected")
    c, t, s = den.corruption, step / steps, (step - 1) / steps
    return steps * kl(c.bridge(x0, z, t, s), c.reverse(den(z, t, **cond).exp(), z, t, s)).sum(1)


def masked_bound(den: TokenDenoiser, x0: Tensor, z: Tensor, t: Time = 0.5, **cond: Any) -> Tensor:
    """L times the mean cross-entropy over the masked tokens of z: the bound of every schedule at once.

    For an absorbing corruption and a network without time. z is x_0 with n tokens masked, n uniform in 1..L and the
    n tokens uniform among all; t is what a network that asks for a time is told.
    """
    masked = z == den.corruption.mask
    if not bool(masked.any(1).all()):
        raise ValueError("every sequence of z needs a masked token at least: n is uniform in 1..L, not 0..L")
    return x0.shape[1] * (_ce(den(z, t, **cond), x0) * masked).sum(1) / masked.sum(1)


def cross_entropy(den: TokenDenoiser, x0: Tensor, t: Time, z: Tensor, **cond: Any) -> Tensor:
    """Plain -log p(x_0 | x_t), summed over tokens: what certain tokens add is 0. Not a bound."""
    return _ce(den(z, t, **cond), x0).sum(1)


def dynamic(
    den: TokenDenoiser,
    x0: Tensor,
    t: Time,
    z: Tensor,
    *,
    masked: float = 2.0,
    replaced: float = 1.0,
    kept: float = 0.01,
    **cond: Any,
) -> Tensor:
    """The bound of a memoryless chain with its weight g / q at a token replaced by a level-headed one (GIDD).

    That bound is sum over tokens of g_t(z) / q(z | x_0) [KL(q_t(. | x_0) || q_t(. | l)) + w - log w - 1] with
    w = q(z | x_0) / q(z | l); g / q is huge on kept tokens at small t. Not a bound.
    """
    c = den.corruption
    q, qh = c.q(x0, t), c.push(c.to_loo(den(z, t, **cond).exp(), z, t), t)
    w = (q.gather(-1, z[..., None]) / qh.gather(-1, z[..., None]).clamp(min=TINY))[..., 0]
    weight = torch.where(z == x0, q.new_tensor(kept), replaced)
    if c.mask is not None:
        weight = torch.where(z == c.mask, masked, weight)
    return (weight * (kl(q, qh) + w - w.log() - 1)).sum(1)


def prior_term(corruption: Corruption, x0: Tensor, prior: Tensor | None = None) -> Tensor:
    """KL(q(x_1 | x_0) || prior), (B,); prior (V,) is by default what a sampler starts from, `corruption.start()`, which
    is exact and 0 where alpha_1 = 0. Infinite if x_0 may survive to time 1 and the prior has not it.
    """
    p = corruption.start().to(x0.device) if prior is None else prior
    return kl(corruption.q(x0, 1.0), p / p.sum()).sum(1)


def _ce(logp: Tensor, x0: Tensor) -> Tensor:
    return -logp.gather(-1, x0[..., None])[..., 0]


def kl(p: Tensor, q: Tensor) -> Tensor:
    return torch.where(p > 0, p * (p.clamp(min=TINY).log() - q.clamp(min=TINY).log()), 0.0).sum(-1)
