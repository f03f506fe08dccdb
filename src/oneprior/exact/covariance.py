"""Covariances of K Gaussians, C_k = diag(floor_k) + U_k diag(spread_k) U_k^T, under x_t = A x_0 + S eps.

With R = x_t - A m and N = A C A + S^2 (A, S diagonal: a time an element), a Gaussian's posterior is
    E[x_0 | x_t] = m + C A N^-1 R,    Var[x_0 | x_t] = diag(C - C A N^-1 A C),    log p(x_t) = log N(R; 0, N).
One time for all elements keeps the eigenvectors of C: cost O(d r). Times per element need N itself: O(d^3) a pattern.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log, pi, prod
from typing import NamedTuple

import torch
from torch import Tensor

TINY = 1e-30  # stands for S^2 = 0, where limits are taken


class Update(NamedTuple):
    """shift = C A N^-1 R (B, K, d), var (B|1, K|1, d), logp = log N(R; 0, N) (B, K)."""

    shift: Tensor
    var: Tensor
    logp: Tensor


@dataclass(frozen=True)
class Covariance:
    """floor (k, 1 | d); basis (k, d, r) with orthonormal columns and spread (k, r) >= 0, or None for a diagonal.

    k is the number of components, or 1 where all share one covariance. With a basis the floor is isotropic (k, 1).
    """

    floor: Tensor
    basis: Tensor | None = None
    spread: Tensor | None = None

    @staticmethod
    def read(value: float | Tensor | Covariance, means: Tensor) -> Covariance:
        """means (K, *shape). A number or (K,): isotropic variances; (K | 1, *shape): diagonal; (K | 1, d, d): full.

        Raises ValueError for another shape, a matrix that is not symmetric, or a negative variance.
        """
        if isinstance(value, Covariance):
            return value
        c = torch.as_tensor(value, dtype=means.dtype, device=means.device)
        K, shape, d = means.shape[0], tuple(means.shape[1:]), prod(means.shape[1:])
        if c.ndim == 0 or tuple(c.shape) == (K,):
            made = Covariance(c.reshape(-1, 1))
        elif c.shape[0] in (1, K) and tuple(c.shape[1:]) == shape:
            made = Covariance(c.reshape(c.shape[0], d))
        elif c.shape[0] in (1, K) and tuple(c.shape[1:]) == (d, d):
            if (off := float((c - c.mT).abs().max())) > 1e-6 * float(c.abs().max()):
                raise ValueError(f"covariances are symmetric; these differ from their transpose by up to {off:.3g}")
            made = Covariance.full(c)
        else:
            raise ValueError(
                f"covariances have shape {tuple(c.shape)}; for {K} means of shape {shape} one of (), ({K},) isotropic, "
                f"{(K, *shape)} diagonal or {(K, d, d)} full was expected (1 instead of {K}: shared)"
            )
        low = made.floor.min() if made.spread is None else made.spread.min()
        if not bool(low >= 0):
            raise ValueError(f"a covariance has no negative variances; the smallest here is {float(low):.3g}")
        return made

    @staticmethod
    def full(c: Tensor) -> Covariance:
        """From matrices (k, d, d); eigenvalues that are negative by rounding alone become 0."""
        e, U = torch.linalg.eigh((c + c.mT) / 2)
        e = torch.where(e > -1e-6 * e[:, -1:].abs(), e.clamp(min=0), e)  # a covariance estimated in float32 has such
        return Covariance(e.new_zeros(len(e), 1), U, e)

    @staticmethod
    def low_rank(factors: Tensor, floor: Tensor) -> Covariance:
        """factors L (k, d, r), floor (k,): C = L L^T + floor I."""
        U, s, _ = torch.linalg.svd(factors, full_matrices=False)
        return Covariance(floor.reshape(-1, 1), U, s * s)

    def dense(self, d: int) -> Tensor:
        """(k, d, d)."""
        c = torch.diag_embed(self.floor.expand(-1, d))
        if self.basis is None or self.spread is None:
            return c
        return c + (self.basis * self.spread[:, None]) @ self.basis.mT

    def noisy(self, a: Tensor, s: Tensor) -> Covariance:
        """a^2 C + s^2 I; a, s (1, 1), or (1, d) for a diagonal C."""
        spread = None if self.spread is None else a * a * self.spread
        return Covariance(a * a * self.floor + s * s, self.basis, spread)

    def scale(self, z: Tensor, of_floor: Tensor, of_rest: Tensor) -> Tensor:
        """f(C) z for z (B, K, d), from f at the floor (k, 1 | d) and at floor + spread (k, r)."""
        if self.basis is None:
            return of_floor * z
        w = torch.einsum("bkd,kdr->bkr", z, self.basis)
        return of_floor * z + torch.einsum("bkr,kdr->bkd", (of_rest - of_floor) * w, self.basis)

    def levels(self) -> tuple[Tensor, Tensor]:
        """The eigenvalues: floor (k, 1 | d), and floor + spread (k, r)."""
        return self.floor, self.floor[:, :0] if self.spread is None else self.floor + self.spread

    def update(self, R: Tensor, a: Tensor, v: Tensor) -> Update:
        """R (B, K, d); a and v = S^2 (B | 1, 1 | d), v > 0."""
        if a.shape[-1] > 1 and self.basis is not None:
            return self._by_pattern(R, a, v)
        d, (f, c) = R.shape[-1], self.levels()
        a, v = a[:, None], v[:, None]
        n = a * a * f + v
        if self.basis is None:
            logdet = n.log().expand(-1, -1, d).sum(-1)
            var = f * v / n + torch.zeros_like(R[:1, :1])
            return Update(a * f / n * R, var, _logp((R.square() / n).sum(-1), logdet, d))
        nc = a * a * c + v
        z = torch.einsum("bkd,kdr->bkr", R, self.basis)
        shift = torch.einsum("bkr,kdr->bkd", a * c / nc * z, self.basis)
        square, logdet, rank = (z.square() / nc).sum(-1), nc.log().sum(-1), c.shape[-1]
        if rank < d:  # what lies outside the basis sees the floor alone
            rest = R - torch.einsum("bkr,kdr->bkd", z, self.basis)
            shift = shift + a * f / n * rest
            square, logdet = square + (rest.square() / n).sum(-1), logdet + (d - rank) * n[..., 0].log()
        low = f * v / n
        var = low + torch.einsum("bkr,kdr->bkd", c * v / nc - low, self.basis.square())
        return Update(shift, var, _logp(square, logdet, d))

    def _by_pattern(self, R: Tensor, a: Tensor, v: Tensor) -> Update:
        B, d = R.shape[0], R.shape[-1]
        rows, which = torch.unique(torch.cat([a.expand(B, d), v.expand(B, d)], 1), dim=0, return_inverse=True)
        C = self.dense(d)
        diagonal = C.diagonal(dim1=1, dim2=2)
        parts, order = [], []
        for p, (ap, vp) in enumerate(zip(rows[:, :d], rows[:, d:], strict=True)):
            chosen = (which == p).nonzero()[:, 0]
            w, Q = torch.linalg.eigh(ap[:, None] * C * ap + torch.diag(vp))
            # directions without variance (C singular, no noise) hold no information: pseudo-inverse
            lost = w <= 1e-14 * w[:, -1:]
            inverse = torch.where(lost, 0.0, 1 / w)
            CAQ = (C * ap) @ Q
            z = torch.einsum("bkd,kde->bke", R[chosen], Q)
            shift = torch.einsum("bke,kde->bkd", z * inverse, CAQ)
            var = (diagonal - (CAQ.square() * inverse[:, None]).sum(-1)).clamp(min=0)
            logdet = torch.where(lost, 0.0, w.log()).sum(-1)
            logp = _logp((z.square() * inverse).sum(-1), logdet, d)
            parts.append(Update(shift, var.expand(len(chosen), -1, -1), logp))
            order.append(chosen)
        back = torch.argsort(torch.cat(order))
        return Update(*(torch.cat([part[i] for part in parts])[back] for i in range(3)))


def _logp(square: Tensor, logdet: Tensor, d: int) -> Tensor:
    return -0.5 * (square + logdet + d * log(2 * pi))
