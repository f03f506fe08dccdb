r"""Metrics of nearest neighbours: is it real, is it varied, is it copied?

With R_i the distance of real r_i to its k-th nearest other real sample:
    precision  share of g inside some real ball        recall    the same with the roles swapped
    density    (1/kM) #{(i, j): |g_j - r_i| < R_i}     coverage  share of real balls that hold some g
Equal distributions give density 1 and coverage `coverage_null(N, M, k)` in expectation; precision and recall have
no such null (print real against real), and one outlier can make precision 1.

Two-sample test: Revisiting classifier two-sample tests (Lopez-Paz and Oquab, 2017), https://arxiv.org/abs/1610.06545
Improved precision and recall (Kynkaanniemi et al., 2019), https://arxiv.org/abs/1904.06991
Density and coverage (Naeem et al., 2020), https://arxiv.org/abs/2002.09797
AuthPct: How faithful is your synthetic data? (Alaa et al., 2022), https://arxiv.org/abs/2102.08921
"""

from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from oneprior.metrics.features import Array, blocks, pair, squared_distances


class PRDC(NamedTuple):
    """Precision, recall, density, coverage; all in [0, 1] except density (0 or more)."""

    precision: float
    recall: float
    density: float
    coverage: float


def nearest(x: Tensor, to: Tensor, k: int = 1, leave_out: bool = False) -> tuple[Tensor, Tensor]:
    """Distances and indices (N, k) of the k nearest rows of `to` (M, D) for each row of x (N, D), nearest first.

    A matrix product finds the candidates; their distances are then taken by subtraction, so a copy has distance 0.
    leave_out: x and `to` are the same rows and row i is not its own neighbour.
    """
    if not 1 <= k <= len(to) - leave_out:
        raise ValueError(f"{k} nearest of {len(to) - leave_out} samples; take a smaller k or more samples")
    centre = to.mean(0)
    distances, indices = [], []
    for rows in blocks(len(x), max(len(to), k * x.shape[1])):
        squared = squared_distances(x[rows] - centre, to - centre)
        if leave_out:
            squared.diagonal(offset=rows.start).fill_(torch.inf)
        index = squared.topk(k, dim=1, largest=False).indices
        exact, order = (x[rows, None] - to[index]).norm(dim=2).sort(dim=1)
        distances.append(exact)
        indices.append(index.gather(1, order))
    return torch.cat(distances), torch.cat(indices)


def two_sample_accuracy(real: Array, generated: Array) -> float:
    """Leave-one-out accuracy of a nearest-neighbour classifier of real against generated.

    0.5: indistinguishable; 1: always told apart; below 0.5: generated samples sit closer to real ones than real ones
    do to each other (copies). A tie between the two classes counts one half.

    Raises:
        ValueError: the two sets differ in size, for then chance is not 0.5.
    """
    r, g = pair(real, generated)
    if len(r) != len(g):
        raise ValueError(
            f"{len(r)} real and {len(g)} generated samples; the test needs equal sizes: "
            f"take {min(len(r), len(g))} at random of both"
        )
    right = r.new_zeros(())
    for own, other in ((r, g), (g, r)):
        same, across = nearest(own, own, leave_out=True)[0], nearest(own, other)[0]
        right += (same < across).sum() + 0.5 * (same == across).sum()
    return (right / (2 * len(r))).item()


def prdc(real: Array, generated: Array, k: int = 5) -> PRDC:
    """Precision, recall, density and coverage of features (N, D), (M, D) with balls to the k-th neighbour; N, M > k.

    k is 3 in the paper of precision and recall, 5 in that of density and coverage.
    """
    r, g = pair(real, generated)
    centre = r.mean(0)
    r, g = r - centre, g - centre
    radius_r = nearest(r, r, k, leave_out=True)[0][:, -1].square()
    radius_g = nearest(g, g, k, leave_out=True)[0][:, -1].square()
    # a point on a sphere is outside: without the slack, copies of real points would be in or out by rounding
    slack = 1e-12 * max(r.square().sum(1).max().item(), g.square().sum(1).max().item())
    precise, balls = 0, 0
    covered, recalled = (torch.zeros(len(r), dtype=torch.bool, device=r.device) for _ in range(2))
    for rows in blocks(len(g), len(r)):
        squared = squared_distances(g[rows], r) + slack
        inside = squared < radius_r
        precise += int(inside.any(1).sum())
        balls += int(inside.sum())
        covered |= inside.any(0)
        recalled |= (squared < radius_g[rows, None]).any(0)
    m = len(g)
    return PRDC(precise / m, recalled.double().mean().item(), balls / (k * m), covered.double().mean().item())


def coverage_null(n: int, m: int, k: int = 5) -> float:
    """Expected coverage of n real samples by m samples of the same distribution."""
    return 1 - prod((n - i) / (n + m - i) for i in range(1, k + 1))


def train_share(generated: Array | None, train: Array, held_out: Array) -> float:
    """Share of samples nearer to a training than to a held-out item (a tie counts one half).

    It depends on the two sizes, so it is read beside its null: `train_share(None, train, held_out)` asks the same of
    the held-out items, each against the others. A share well above the null means copied training data.
    """
    t, h = pair(train, held_out)
    if generated is None:
        far = nearest(h, h, leave_out=True)[0]
        near = nearest(h, t)[0]
    else:
        g = pair(t, generated, least=1)[1]
        near, far = nearest(g, t)[0], nearest(g, h)[0]
    return ((near < far).double() + 0.5 * (near == far).double()).mean().item()


def authenticity(generated: Array, train: Array) -> float:
    """Share of samples further from their nearest training item than that item is from its own nearest (AuthPct / 100).

    Its value for fresh real data is not 0.5 and depends on D: report it beside `authenticity(held_out, train)`.
    """
    t, g = pair(train, generated, least=1)
    near, index = nearest(g, t)
    own = nearest(t, t, leave_out=True)[0]
    return (near > own[index[:, 0]]).double().mean().item()
