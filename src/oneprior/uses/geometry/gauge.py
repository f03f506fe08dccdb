"""Scores that are no gradients: which of them do no harm, and networks that cannot be one (Horvat and Pfister 2024).

In L2(p_t) a field is s = grad phi + r with div(p_t r) = 0, uniquely; the marginals and the likelihood of its ODE are
those of phi alone. For any density r = c(t) A grad log p, A antisymmetric, is such an r (sum A_ij d_i d_j log p = 0 and
s^T A s = 0), so (I + c A) s has other trajectories and the same laws:
    D' = D + c A (D - x_t / a).
A x is free of divergence too, but not tangent to p: it changes the law.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from oneprior.denoiser import Denoiser, Wrapper
from oneprior.posterior import Posterior
from oneprior.times import Time, align


def fading(a: Tensor, s: Tensor) -> Tensor:
    """a^2 / (a^2 + s^2): full at the data, nothing at the noise, where a Gaussian's ODE needs no turning."""
    return a * a / (a * a + s * s)


class Gauge(Wrapper):
    """`inner` with the score (I + c A) s: another model of the same law.

    A: antisymmetric, (d, d) over the flattened sample. strength: (a, s) -> c; where a = 0 there is no signal to turn,
    and D stays.

    Raises:
        ValueError: for an A that is not square and antisymmetric.
    """

    def __init__(self, inner: Denoiser, A: Tensor, strength: Callable[[Tensor, Tensor], Any] = fading) -> None:
        super().__init__(inner)
        if A.ndim != 2 or A.shape[0] != A.shape[1] or not torch.allclose(A, -A.mT):
            raise ValueError(f"an antisymmetric matrix was expected, A^T = -A; got {tuple(A.shape)}, or off by more")
        self.register_buffer("A", A)
        self.strength = strength

    def posterior(self, x: Tensor, t: Time, **cond: Any) -> Posterior:
        post = self.inner(x, t, **cond)
        a, b, s = (None if v is None else torch.as_tensor(v) for v in self.schedule.at(t))
        assert a is not None and s is not None
        part = torch.where(a > 0, self.strength(a, s) / torch.where(a > 0, a, 1.0), 0.0)
        part, a = (align(v, x).to(x) for v in (part, a))
        seen = x if b is None or post.y is None else x - align(b, x).to(x) * post.y
        rest = (a * post.mean - seen).flatten(1)
        A: Any = self.A
        return post.replace(post.mean + part * (rest @ A.mT.to(rest)).reshape(x.shape))


FORMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "dot": lambda x, psi: (x * psi).flatten(1).sum(1),
    "norm2": lambda x, psi: psi.square().flatten(1).sum(1),  # the paper's; a net that gives 0 stays there
    "residual": lambda x, psi: -(x - psi).square().flatten(1).sum(1) / 2,
}


class Potential(nn.Module):
    """A network that is a gradient: F = grad_x form(x, net(x, t)), with one backward pass a call.

    Under a `NetworkDenoiser` of any prediction D is then a gradient, too. form: a name of `FORMS` or a function of
    x and net(x, t), (B, *) both, to (B,).

    Example:
        >>> den = NetworkDenoiser(Potential(build(MLPConfig((10,)), seed=0)), Cosine())
    """

    def __init__(self, net: nn.Module, form: str | Callable[[Tensor, Tensor], Tensor] = "dot") -> None:
        super().__init__()
        if isinstance(form, str) and form not in FORMS:
            raise ValueError(f"form '{form}' is not known; one of {sorted(FORMS)} was expected")
        self.net, self.form = net, FORMS[form] if isinstance(form, str) else form

    def forward(self, x: Tensor, t: Tensor, **ports: Any) -> Tensor:
        return torch.func.grad(lambda z: self.form(z, self.net(z, t, **ports)).sum())(x)
