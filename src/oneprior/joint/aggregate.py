"""One shared code for all parts, MT-Diffusion (Chen et al. 2024): z_t = a_t z_{t-1} + b_t h_t + sqrt(1 - a_t^2) eps.

With A_t = prod a_s, H_t = a_t H_{t-1} + b_t h_t and H_0 = 0,
    q(z_t | z_0, X) = N(A_t z_0 + H_t, (1 - A_t^2) I),
    q(z_{t-1} | z_t, z_0, X) = N(H_{t-1} + rho (z_t - H_t) + (A_{t-1} - rho A_t) z_0, v I),
    rho = a_t (1 - A_{t-1}^2) / (1 - A_t^2),    v = (1 - a_t^2)(1 - A_{t-1}^2) / (1 - A_t^2):
take the shift away, do what DDPM does, put it back. What ships has b = 0 and aggregates the clean code,
    z_0 = sum_i w_i E_i(x^i),
with constant weights (1 for the picture, less for the others; the paper does not say): ordinary diffusion of z. Its
denoiser is a joint one of {z, x^1, .., x^N} in which z alone is shown (`objective.Alone`); the others are heads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from oneprior.denoiser import Denoiser
from oneprior.joint.views import blank
from oneprior.posterior import Posterior


class Chain(NamedTuple):
    """a, A: (T + 1,), with A_0 = 1; H: (T + 1, *), with H_0 = 0. Index t is the time, 0 the clean code."""

    a: Tensor
    A: Tensor
    H: Tensor

    def marginal(self, z0: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """Mean and variance of q(z_t | z_0, X)."""
        return self.A[t] * z0 + self.H[t], 1 - self.A[t] ** 2

    def bridge(self, zt: Tensor, z0: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """Mean and variance of q(z_{t-1} | z_t, z_0, X), t >= 1."""
        a, A, before = self.a[t], self.A[t], self.A[t - 1]
        rho = a * (1 - before**2) / (1 - A**2)
        mean = self.H[t - 1] + rho * (zt - self.H[t]) + (before - rho * A) * z0
        return mean, (1 - a**2) * (1 - before**2) / (1 - A**2)


def chain(a: Tensor, b: Tensor, h: Tensor) -> Chain:
    """The chain of a, b (T,) and aggregates h (T, *), h_t = sum_i w_t^i E_i(x^i), for t = 1 .. T."""
    H = [torch.zeros_like(h[0])]
    for at, bt, ht in zip(a, b, h, strict=True):
        H.append(at * H[-1] + bt * ht)
    one = a.new_ones(1)
    return Chain(torch.cat([one, a]), torch.cat([one, a.cumprod(0)]), torch.stack(H))


class Aggregated(Denoiser):
    """The code z of `joint`, whose part `code` is it and whose other parts are heads, as a denoiser of its own.

    encoders: {part: E_i}, from what a head's `mean` holds (values, or probabilities of tokens) to the range of z;
    weights: {part: w_i}. known: values of parts like those means. With some known, D = sum_i w_i E_i(x^i) of what is
    known and of what the heads guess for the rest; with none, D is the network's own of z.

    Example:
        >>> z = sample(Aggregated(den, {"image": same, "label": codes}, {"image": 1.0, "label": 0.3}), (8, 1, 8, 8))

    Raises:
        ValueError: where encoders and weights are not of the parts of `joint` but its code.
    """

    def __init__(
        self,
        joint: Any,
        encoders: Mapping[str, Callable[[Tensor], Tensor]],
        weights: Mapping[str, float],
        known: Mapping[str, Tensor] | None = None,
        code: str = "z",
    ) -> None:
        super().__init__()
        parts = set(joint.shapes) - {code}
        if not set(encoders) == set(weights) == parts or set(known or {}) - parts:
            raise ValueError(f"encoders and weights of {sorted(parts)} were expected; got {sorted(encoders)}")
        self.joint, self.encoders, self.weights, self.known = joint, dict(encoders), dict(weights), dict(known or {})
        self.code, self.schedule, self.facts = code, joint.schedule[code], joint.facts

    def heads(self, z: Tensor, t: Any, **cond: Any) -> dict[str, Any]:
        """The posterior of every part given z_t alone, that of the code too."""
        x = {k: z if k == self.code else blank(self.joint, k, z) for k in self.joint.shapes}
        return self.joint(x, {k: t if k == self.code else 1.0 for k in x}, **cond)

    def aggregate(self, parts: Mapping[str, Tensor]) -> Tensor:
        """sum_i w_i E_i(x^i)."""
        every: Any = sum(self.weights[k] * self.encoders[k](v) for k, v in parts.items())
        return every

    def posterior(self, x: Tensor, t: Any, **cond: Any) -> Posterior:
        post = self.heads(x, t, **cond)
        if not self.known:
            return post[self.code]
        parts = {k: self.known[k] if k in self.known else post[k].mean for k in self.encoders}
        return post[self.code].replace(self.aggregate(parts).to(x))
