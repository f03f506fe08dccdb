r"""Distances that compare all pairs of samples: maximum mean discrepancy, energy distance, sliced Wasserstein.

    MMD^2 = E k(r, r') + E k(g, g') - 2 E k(r, g)

Unbiased: the means leave out i = j and may come out negative. Biased: they keep it, and MMD^2 >= 0.
The kernel is (r.g/D + 1)^3 for KID, exp(-|r-g|^2 / 2 s^2) for CMMD, -|r-g| for the energy distance.

Kernel two-sample test (Gretton et al., 2012), https://jmlr.org/papers/v13/gretton12a.html
Demystifying MMD GANs, KID (Binkowski et al., 2018), https://arxiv.org/abs/1801.01401
Rethinking FID, CMMD (Jayasumana et al., 2023), https://arxiv.org/abs/2401.09603
Energy statistics (Szekely and Rizzo, 2013); sliced Wasserstein (Rabin et al., 2011; Bonneel et al., 2015).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from oneprior.metrics.features import Array, blocks, pair, squared_distances

Kernel = Callable[[Tensor, Tensor], Tensor]


class KID(NamedTuple):
    """Mean and standard deviation over subsets, the form in which papers report KID."""

    mean: float
    std: float


def _polynomial(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _negative_distance(x: Tensor, y: Tensor) -> Tensor:
    return -squared_distances(x, y).sqrt()


def _mean(kernel: Kernel, x: Tensor, y: Tensor, leave_out: bool) -> Tensor:
    total = x.new_zeros(())
    for rows in blocks(len(x), len(y)):
        block = kernel(x[rows], y)
        total += block.sum()
        if leave_out:
            total -= block.diagonal(offset=rows.start).sum()
    return total / (len(x) * (len(y) - leave_out))


def kernel_mmd(real: Array, generated: Array, kernel: Kernel, unbiased: bool = True) -> float:
    """Squared maximum mean discrepancy of features (N, D) and (M, D) under a kernel.

    kernel: float64 rows (n, D), (m, D) -> k(x_i, y_j), (n, m). unbiased: leave out the pairs of a sample with itself.
    """
    r, g = pair(real, generated)
    return (_mean(kernel, r, r, unbiased) + _mean(kernel, g, g, unbiased) - 2 * _mean(kernel, r, g, False)).item()


def gaussian_mmd(real: Array, generated: Array, *, bandwidth: float, unbiased: bool = True) -> float:
    """Squared MMD under exp(-|x - y|^2 / 2 s^2), s = `bandwidth` in the units of the features.

    CMMD is 1000 times this on unit-norm CLIP embeddings with s = 10; its published figures are `unbiased=False`.
    """
    if not bandwidth > 0:
        raise ValueError(f"bandwidth is {bandwidth}; expected a positive number in the units of the features")
    return kernel_mmd(real, generated, lambda x, y: torch.exp(squared_distances(x, y) / (-2 * bandwidth**2)), unbiased)


def kid(real: Array, generated: Array, unbiased: bool = True) -> float:
    """KID over all samples at once: the estimator of least variance, cost O((N + M)^2 D)."""
    return kernel_mmd(real, generated, _polynomial, unbiased)


def kid_subsets(real: Array, generated: Array, *, subsets: int = 100, size: int = 1000, seed: int = 0) -> KID:
    """KID as papers report it: mean and standard deviation over random subsets of both sets.

    Raises:
        ValueError: a set has fewer than `size` rows.
    """
    r, g = pair(real, generated)
    if not 2 <= size <= min(len(r), len(g)):
        raise ValueError(f"subsets of {size} out of {len(r)} real and {len(g)} generated samples; take a smaller size=")
    values = []
    for subset in range(subsets):
        rng = np.random.default_rng((seed, subset))
        i, j = (torch.from_numpy(rng.permutation(len(x))[:size]) for x in (r, g))
        values.append(kernel_mmd(r[i], g[j], _polynomial))
    return KID(float(np.mean(values)), float(np.std(values)))


def energy_distance(real: Array, generated: Array, unbiased: bool = True) -> float:
    """2 E|r - g| - E|r - r'| - E|g - g'|: zero only for equal distributions, no setting to choose."""
    return kernel_mmd(real, generated, _negative_distance, unbiased)


def sliced_wasserstein(real: Array, generated: Array, *, directions: int = 512, seed: int = 0) -> float:
    """Squared 2-Wasserstein distance of one-dimensional projections, averaged over random directions.

    Exact on every direction, also for N != M: the quantile functions are steps, integrated between all their jumps.
    For N(m, I) against N(m', I) its expectation is |m - m'|^2 / D plus a sampling term of order 1/N. The directions, on
    the sphere, are a pure function of the seed.
    """
    r, g = pair(real, generated, least=1)
    n, m = len(r), len(g)
    jumps = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).unique()
    widths = torch.diff(jumps, prepend=jumps.new_zeros(1)).to(r) / (n * m)
    at_r, at_g = ((jumps - 1) // m).to(r.device), ((jumps - 1) // n).to(r.device)
    w = torch.from_numpy(np.random.default_rng(seed).standard_normal((directions, r.shape[1]))).to(r)
    w = w / w.norm(dim=1, keepdim=True)
    total = r.new_zeros(())
    for part in blocks(directions, len(jumps)):
        u, v = (r @ w[part].T).sort(dim=0).values, (g @ w[part].T).sort(dim=0).values
        total += (widths @ (u[at_r] - v[at_g]).square()).sum()
    return (total / directions).item()
