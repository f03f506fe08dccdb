"""V^(1/2) n for a symmetric V >= 0 that is known by its products (Lanczos 1950; Druskin and Knizhnerman 1989):
with the orthonormal Q of span{n, V n, ..., V^(k-1) n} and T = Q^T V Q,  V^(1/2) n = |n| Q T^(1/2) e_1, nearly."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def root(V: Callable[[Tensor], Tensor], n: Tensor, rank: int) -> Tensor:
    """V^(1/2) n, (B, *) like n, sample by sample; exact for as many ranks as V has distinct eigenvalues.

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
