"""Data on a few linear subspaces, the model of Wang et al. 2024: training a denoiser of it is subspace clustering.

    x_0 = U_k z,  z ~ N(0, I_r);    D(x_t) = a/(a^2 + s^2) sum_k w_k U_k U_k^T x_t,    w_k ~ exp(phi |U_k^T x_t|^2),
phi = a^2 / (2 s^2 (a^2 + s^2)). With one component the denoising loss is minimal at the principal subspace of the
(uncentred) samples; with several, and the weights made hard at the clean sample, at the optimum of K-subspaces. The law
itself, of any variances and ranks, is `exact.low_rank_mixture`. With N < r samples r - N = m directions are arbitrary:
|U U^T - V V^T|^2 = 2 (m - m^2 / (d - N)) on average.
"""

from __future__ import annotations

from itertools import permutations
from typing import Any

import torch
from torch import Tensor, nn

from oneprior.schedules import Schedule
from oneprior.times import align


class LowRank(nn.Module):
    """The denoiser above with its bases to be learned: a network that predicts x0.

    bases: (K, d, r), where to start; such as `k_subspaces`, or noise made orthonormal: the longer its columns, the less
    a step of training turns them. Samples have shape (d,).

    Example:
        >>> den = NetworkDenoiser(LowRank(torch.randn(2, 48, 6), schedule), schedule, "x0")
    """

    def __init__(self, bases: Tensor, schedule: Schedule) -> None:
        super().__init__()
        _check(bases.shape[1], bases.shape[2], bases.shape[0])
        self.free, self.schedule = nn.Parameter(bases.clone()), schedule

    @property
    def bases(self) -> Tensor:
        """(K, d, r), orthonormal columns."""
        return torch.linalg.qr(self.free).Q

    def forward(self, x: Tensor, t: Tensor, **_: Any) -> Tensor:
        a, _, s = self.schedule.at(t)
        a, s = (align(v, x) for v in (a, s))
        U = self.bases
        z = torch.einsum("bd,kdr->bkr", x, U)
        n = a * a + s * s
        w = (z.square().sum(-1) * (a * a / (2 * s * s * n))).softmax(1)
        return a / n * torch.einsum("bk,bkr,kdr->bd", w, z, U)


def assign(bases: Tensor, x: Tensor) -> Tensor:
    """The subspace that holds most of each x (B, d): argmax_k |U_k^T x|^2, (B,)."""
    return torch.einsum("bd,kdr->bkr", x, bases).square().sum(-1).argmax(1)


def k_subspaces(
    x: Tensor, components: int, rank: int, *, restarts: int = 8, iterations: int = 100, seed: int = 0
) -> Tensor:
    """Bases (K, d, r) by turns of assignment and PCA (Bradley and Mangasarian 2000), the best of several starts.

    x: (N, d), not centred. A component left with fewer samples than `rank` keeps them and fills up with what the SVD
    gives: arbitrary directions.

    Raises:
        ValueError: for a rank or number of components that d or N does not hold.
    """
    _check(x.shape[1], rank, components)
    if len(x) < components:
        raise ValueError(f"{len(x)} samples for {components} subspaces: at least one each was expected")
    g = torch.Generator().manual_seed(seed)
    best, held = x.new_empty(0), -1.0
    for _ in range(restarts if components > 1 else 1):
        U = torch.linalg.qr(torch.randn(components, x.shape[1], rank, generator=g, dtype=torch.float64).to(x)).Q
        which = assign(U, x)
        for _ in range(iterations):
            parts = [torch.linalg.svd(x[which == k], full_matrices=True)[2][:rank].mT for k in range(components)]
            U, before = torch.stack(parts), which
            which = assign(U, x)
            if bool((which == before).all()):
                break
        now = float(torch.einsum("bd,bdr->br", x, U[which]).square().sum())
        if now > held:
            best, held = U, now
    return best


def projector_distance(U: Tensor, V: Tensor) -> Tensor:
    """|U U^T - V V^T| (Frobenius) of orthonormal bases (..., d, r): 0 for one and the same subspace."""
    cross = (U.mT @ V.to(U)).square().sum((-2, -1))
    return (U.shape[-1] + V.shape[-1] - 2 * cross).clamp(min=0).sqrt()


def matched(bases: Tensor, to: Tensor) -> tuple[int, ...]:
    """The order of `bases` (K, d, r) in which they are nearest to `to`: labels of clusters are arbitrary."""
    gaps = projector_distance(bases[:, None], to[None])
    return min(permutations(range(len(bases))), key=lambda p: float(sum(gaps[i, k] for k, i in enumerate(p))))


def _check(d: int, rank: int, components: int) -> None:
    if not (1 <= rank <= d and components >= 1):
        raise ValueError(f"{components} subspaces of rank {rank} in {d} dimensions: 1 <= rank <= {d} was expected")
