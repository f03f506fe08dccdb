"""What is done with matrices M_i, one a sample, that are known by their products: M_i u_i = b_i, and M_i^(1/2) n_i.

Conjugate gradients (Hestenes and Stiefel 1952) and least residuals, guarded for matrices that only ought to be
symmetric positive definite, such as A V A^T + R with V from a trained network.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def cg(apply: Callable[[Tensor], Tensor], b: Tensor, iterations: int, tol: float = 1e-6) -> Tensor:
    """u (B, *) with M u = b, for `apply` that maps (B, *) to M u sample by sample.

    A sample stops by itself: when its residual is below tol |b|, when a direction has no positive curvature
    (p^T M p <= 0, impossible for the matrices meant) or when a number is not finite. What it keeps is the iterate with
    its smallest residual, at worst 0. So no sample depends on the others, and none becomes NaN.
    """
    u, r, p = torch.zeros_like(b), b, b
    rr = _dot(b, b)
    best, least, goal = u, rr, rr * tol**2
    live = (rr > goal) & rr.isfinite()
    for _ in range(iterations):
        if not bool(live.any()):
            break
        q = apply(p)
        curve = _dot(p, q)
        live = live & (curve > 0) & curve.isfinite()
        step = rr / curve
        u, r_next = torch.where(live, u + step * p, u), torch.where(live, r - step * q, r)
        rr_next = _dot(r_next, r_next)
        better = live & (rr_next < least) & u.isfinite().flatten(1).all(1).reshape(rr.shape)
        best, least = torch.where(better, u, best), torch.where(better, rr_next, least)
        live = live & rr_next.isfinite() & (rr_next > goal)
        p = torch.where(live, r_next + rr_next / rr * p, 0.0)
        r, rr = r_next, rr_next
    return best


def _dot(u: Tensor, v: Tensor) -> Tensor:
    return (u * v).flatten(1).sum(1).reshape(-1, *(1,) * (u.ndim - 1))


def gmres(
    apply: Callable[[Tensor], Tensor], b: Tensor, iterations: int, tol: float = 1e-6, doubt: float = 0.0
) -> Tensor:
    """u (B, *) in span{b, M b, M^2 b, ...} that makes |b - M u|^2 + d^2 |u|^2 least (Saad and Schultz 1986).

    For M that may be neither symmetric nor positive: the residual never rises, where that of conjugate gradients on
    such an M does from the first steps on. d^2 = doubt |T - T^T|^2 / k for the k x k part T of M in that span: what is
    antisymmetric in an M that ought to be symmetric is error, and d keeps u from what lies below it; 0 for an M
    without error. A sample stops by itself below tol |b|, or where a number is not finite; a u
    with u^T M u <= 0, impossible for the matrices meant, is not taken: at worst u is 0.
    """
    size = b.flatten(1).norm(dim=1)
    live = (size > 0) & size.isfinite()
    Q = torch.where(live[:, None], b.flatten(1) / size[:, None], 0.0)[:, None]
    n = max(iterations, 1)
    H, u = b.new_zeros(len(b), n + 1, n, dtype=torch.float64), torch.zeros_like(b)
    for k in range(iterations):
        w = apply(Q[:, k].reshape(b.shape)).flatten(1)
        live = live & w.isfinite().all(1)
        w = torch.where(live[:, None], w, 0.0)
        for _ in range(2):  # twice is enough
            part = torch.einsum("bkd,bd->bk", Q, w)
            H[:, : k + 1, k] += part
            w = w - torch.einsum("bkd,bk->bd", Q, part)
        length = w.norm(dim=1)
        H[:, k + 1, k] = length
        c, left, curve = _least(H[:, : k + 2, : k + 1], doubt)
        moved = size[:, None] * torch.einsum("bkd,bk->bd", Q, c.to(b))
        u = torch.where((live & (curve > 0))[:, None], moved, u.flatten(1))
        live = live & (left > tol) & (length > 1e-12 * H.abs().amax((1, 2)))
        if not bool(live.any()):
            break
        Q = torch.cat([Q, torch.where(live[:, None], w / length[:, None], 0.0)[:, None]], 1)
    return u.reshape(b.shape)


def _least(H: Tensor, doubt: float) -> tuple[Tensor, Tensor, Tensor]:
    """c (B, k) with |e_1 - H c|^2 + d^2 |c|^2 least, |e_1 - H c| and c^T T c; columns of nothing but 0 have c = 0."""
    k = H.shape[2]
    T = H[:, :k]
    d = (doubt / k * (T - T.mT).square().sum((1, 2))).sqrt()[:, None]
    d = torch.where((H != 0).any(1), d, 1.0)
    full = torch.cat([H, torch.diag_embed(d)], 1)
    e = torch.zeros_like(full[:, :, :1])
    e[:, 0] = 1
    U, S = torch.linalg.qr(full)
    c = torch.linalg.solve_triangular(S, U.mT @ e, upper=True)
    return c[..., 0], (e[:, : k + 1] - H @ c).flatten(1).norm(dim=1), (c * (T @ c)).flatten(1).sum(1)


def root(V: Callable[[Tensor], Tensor], n: Tensor, rank: int) -> Tensor:
    """V^(1/2) n, (B, *) like n, for a symmetric V >= 0 (Lanczos 1950; Druskin and Knizhnerman 1989): with the
    orthonormal Q of span{n, V n, ..., V^(k-1) n} and T = Q^T V Q, nearly |n| Q T^(1/2) e_1; exact for as many ranks k
    as V has distinct eigenvalues.

    Negative eigenvalues, which a covariance has not, count as 0; so does whatever is not finite.
    """
    size = n.flatten(1).norm(dim=1)
    basis = [n.flatten(1) / size[:, None]]
    T = n.new_zeros(len(n), rank, rank)
    for k in range(rank):
        w = V(basis[k].reshape(n.shape)).flatten(1).nan_to_num(0.0)
        Q = torch.stack(basis, 1)
        for _ in range(2):  # twice is enough
            part = torch.einsum("bkd,bd->bk", Q, w)
            T[:, : k + 1, k] += part
            w = w - torch.einsum("bkd,bk->bd", Q, part)
        length = w.norm(dim=1)
        live = length > 1e-6 * T.abs().amax((1, 2))  # else the space is invariant: what follows is 0
        basis.append(torch.where(live[:, None], w / length[:, None], 0.0))
        if k + 1 < rank:
            T[:, k + 1, k] = torch.where(live, length, 0.0)
    low, U = torch.linalg.eigh((T + T.mT) / 2)
    c = torch.einsum("bij,bj,bj->bi", U, low.clamp(min=0).sqrt(), U[:, 0])
    return (size[:, None] * torch.einsum("bkd,bk->bd", torch.stack(basis[:rank], 1), c)).reshape(n.shape)
