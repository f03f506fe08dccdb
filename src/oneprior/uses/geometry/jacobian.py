"""The Jacobian of a denoiser by its products alone: J = dD/dx_t, for each sample its own.

    J v by forward mode,   J^T u by one backward pass,   tr J = E[v^T J v],   v of independent signs (Hutchinson 1990).
For an exact denoiser J = (a / s^2) Cov[x_0 | x_t]: symmetric, its rank at most that of the data. A network's need not
be: with num = E|J v - J^T v|^2 = |J - J^T|^2 and den = E|J v|^2 = |J|^2 (Frobenius), num / (4 den) is 0 for a symmetric
J and 1 for an antisymmetric one (as in Chao et al. 2023, QCSBM). Top singular triplets come by subspace iteration.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from oneprior.denoiser import Denoiser
from oneprior.noise import Seeded
from oneprior.times import Time, repeated
from oneprior.uses.likelihood import dot, sign_vectors


class Jacobian:
    """J at x (B, *) and time t: `forward` J v and `adjoint` J^T u of v, u (B, *); `mean` is D. cond: as of den.

    rows: a mask that broadcasts to x; outputs outside it are taken as 0.
    """

    def __init__(self, den: Denoiser, x: Tensor, t: Time, *, rows: Tensor | None = None, **cond: Any) -> None:
        keep = 1.0 if rows is None else rows.to(x)

        def f(z: Tensor) -> Tensor:
            with sdpa_kernel(SDPBackend.MATH):  # the fused kernels of attention have no forward mode
                return den(z, t, **cond).mean * keep

        self._f, self.x = f, x.detach()
        self._made = (den, t, rows, cond)
        done: Any = torch.func.vjp(f, self.x)
        self.mean: Tensor = done[0].detach()
        self._back: Any = done[1]

    def forward(self, v: Tensor) -> Tensor:
        return torch.func.jvp(self._f, (self.x,), (v,))[1].detach()

    def adjoint(self, u: Tensor) -> Tensor:
        return self._back(u)[0].detach()

    def wide(self, k: int) -> Jacobian:
        """The same J for k vectors of each sample at once: v, u (B k, *), those of sample 0 first."""
        (den, t, rows, cond), many = self._made, partial(repeated, batch=len(self.x), n=k)
        rows = many(rows) if rows is not None and rows.ndim == self.x.ndim else rows
        return Jacobian(den, many(self.x), many(t), rows=rows, **{name: many(v) for name, v in cond.items()})

    def trace(self, count: int | None, seeds: Sequence[int] | None, key: str = "probes") -> Tensor:
        """tr J, (B,) float64: exact with d backward passes, or by `count` random probes."""
        every = [dot(v, self.adjoint(v)) for v in sign_vectors(self.x, count, seeds, key)]
        return torch.stack(every).sum(0) / (count or 1)

    def dense(self) -> Tensor:
        """J itself, (B, d, d): d backward passes."""
        return torch.stack([self.adjoint(e).flatten(1) for e in sign_vectors(self.x, None)], 1)


def divergence(
    den: Denoiser, x: Tensor, t: Time, *, count: int | None = None, seeds: Sequence[int] | None = None, **cond: Any
) -> Tensor:
    """tr dD/dx, (B,) float64, as of `Jacobian.trace`."""
    return Jacobian(den, x, t, **cond).trace(count, seeds)


class Estimated(NamedTuple):
    """x: (B,) float64 and its standard error."""

    x: Tensor
    stderr: Tensor


def conservativity(
    den: Denoiser, x: Tensor, t: Time, *, count: int = 64, seeds: Sequence[int] | None = None, **cond: Any
) -> Estimated:
    """|J - J^T|^2 / (4 |J|^2) of the denoiser at x (B, *), in [0, 1]: 0 where D is a gradient; one J v and one J^T v a
    probe. A J of 0 counts as symmetric."""
    if count < 2:
        raise ValueError(f"count = {count}: at least two probes were expected, for the standard error")
    J, num, den_ = Jacobian(den, x, t, **cond), list[Tensor](), list[Tensor]()
    for v in sign_vectors(x, count, seeds, "probes"):
        f, b = J.forward(v), J.adjoint(v)
        num.append(dot(f - b, f - b) / 4)
        den_.append((dot(f, f) + dot(b, b)) / 2)  # |J^T|^2 is |J|^2: half the variance
    n, d = torch.stack(num), torch.stack(den_)
    mean = d.mean(0).clamp(min=1e-300)
    ratio = n.mean(0) / mean
    return Estimated(ratio, (n - ratio * d).std(0) / mean / count**0.5)


class SVD(NamedTuple):
    """s (B, k) falling; V, U (B, k, *): right and left singular vectors, J V_i = s_i U_i."""

    s: Tensor
    V: Tensor
    U: Tensor


def top_svd(J: Jacobian, k: int, *, iterations: int = 30, tol: float = 1e-3, seed: int = 0) -> SVD:
    """The k largest singular values of J and their vectors, by subspace iteration with four spare directions.

    It ends when the sum of the k largest squares grows by less than tol^2 of itself: single vectors may swap and flip.

    Raises:
        ValueError: for k outside 1..d.
    """
    x, d = J.x, J.x[0].numel()
    if not 1 <= k <= d:
        raise ValueError(f"k = {k}: 1 to {d} singular vectors were expected")
    m, shape = min(k + 4, d), x.shape[1:]
    J = J.wide(m)

    def through(f: Any, Q: Tensor) -> Tensor:  # (B, d, m)
        return f(Q.mT.reshape(-1, *shape)).reshape(len(x), m, d).mT

    noise = Seeded([seed], "subspace")(0, x.new_empty(1, m, d)).mT.expand(len(x), d, m)
    Q = torch.linalg.qr(noise).Q
    U, s, W = torch.linalg.svd(through(J.forward, Q), full_matrices=False)
    for _ in range(iterations):
        before = s[:, :k].square().sum(1)
        Q = torch.linalg.qr(through(J.adjoint, U)).Q  # J^T J Q spans the same
        U, s, W = torch.linalg.svd(through(J.forward, Q), full_matrices=False)
        now = s[:, :k].square().sum(1)
        if bool((now - before <= tol**2 * now).all()):
            break
    V = Q @ W.mT
    return SVD(s[:, :k], *(v.mT[:, :k].reshape(len(x), k, *shape) for v in (V, U)))


def numerical_rank(s: Tensor, share: float = 0.99) -> Tensor:
    """How many singular values s (..., d), falling, hold `share` of their root sum of squares (Wang et al. 2024)."""
    part = s.square().cumsum(-1).sqrt()
    return (part <= share * part[..., -1:]).sum(-1) + 1
