"""Data on subspaces: the exact denoiser with its determinant, recovery at and below the threshold, local edits."""

from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import draw
from oneprior.denoiser import NetworkDenoiser
from oneprior.exact import low_rank_mixture
from oneprior.objective import Objective
from oneprior.schedules import Cosine
from oneprior.uses.geometry import Jacobian, LowRank, assign, directions, k_subspaces, loco, matched, projector_distance

D, RANKS = 24, (2, 4, 6)
SCHEDULE = Cosine()


def basis(d: int, r: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(draw(d, r, seed=seed)).Q


def test_exact_denoiser_of_unequal_subspaces() -> None:
    """Card: equals (x + s^2 grad log p)/a of dense covariances to 1e-10; without the determinants off by > 0.05."""
    factors = torch.zeros(3, D, 6, dtype=torch.float64)
    Q = basis(D, 12)
    spread = draw(12, seed=5).square() + 0.2
    start = 0
    for k, r in enumerate(RANKS):
        factors[k, :, :r] = Q[:, start : start + r] * spread[start : start + r].sqrt()
        start += r
    weights = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    den, x, t = low_rank_mixture(weights, torch.zeros(3, D), factors, 0.0).denoiser(SCHEDULE), draw(5, D, seed=6), 0.4
    a, _, s = SCHEDULE.at(t)
    N = a * a * factors @ factors.mT + s * s * torch.eye(D, dtype=torch.float64)

    def dense(x: Tensor, determinant: bool) -> Tensor:
        x = x.clone().requires_grad_()
        square = torch.einsum("bd,kde,be->bk", x, torch.linalg.inv(N), x)
        logs = weights.log() - 0.5 * square - 0.5 * determinant * torch.linalg.slogdet(N).logabsdet
        return (x + s * s * torch.autograd.grad(logs.logsumexp(1).sum(), x)[0]) / a

    got = den(x, t).mean
    assert (got - dense(x, True)).abs().max() < 1e-10 and (got - dense(x, False)).abs().max() > 0.05
    J = Jacobian(den, x[:2], t).dense()
    assert (J - J.mT).abs().max() < 1e-12
    values = torch.linalg.svdvals(J)
    assert (values[:, 11] > 1e-6).all() and values[:, 12].max() < 1e-10


def test_the_network_with_true_bases_is_the_exact_denoiser() -> None:
    U = torch.stack([basis(12, 3, k) for k in range(2)])
    net = LowRank(U, SCHEDULE)
    exact = low_rank_mixture([1.0, 1.0], torch.zeros(2, 12), U, 0.0).denoiser(SCHEDULE)
    x, t = draw(4, 12), torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=torch.float64)
    assert (NetworkDenoiser(net, SCHEDULE, "x0")(x, t).mean - exact(x, t).mean).abs().max() < 1e-10


def test_pca_at_and_below_the_threshold() -> None:
    """Card: exact from N = r on; below, 2 (m - m^2 / (d - N)) on average over the arbitrary directions."""
    d, r, U = 48, 6, basis(48, 6)
    for n in (6, 8):
        assert projector_distance(k_subspaces(draw(n, r, seed=n) @ U.mT, 1, r)[0], U) < 1e-6
    for n in (2, 4):
        m, found = r - n, list[float]()
        for seed in range(60):
            x = draw(n, r, seed=seed) @ U.mT
            seen = torch.linalg.svd(x)[2][:n]
            rest = draw(d, m, seed=99 + seed)
            V = torch.linalg.qr(torch.cat([seen.mT, rest - seen.mT @ (seen @ rest)], 1)).Q
            found.append(float(projector_distance(V, U).square()))
            assert projector_distance(k_subspaces(x, 1, r)[0], U) > 0.5
        assert sum(found) / 60 == pytest.approx(2 * (m - m * m / (d - n)), rel=0.01)


def test_clusters_at_and_below_the_threshold() -> None:
    """Card, two subspaces of rank 6 in 48: recovered from 300 samples each; at 6 each the labels are not."""
    d, r = 48, 6
    Q = basis(d, 12)
    bases = torch.stack([Q[:, :6], Q[:, 6:]])
    for n, least, most in ((300, 0.97, 1.0), (6, 0.0, 0.9)):
        which = torch.arange(2 * n) % 2
        x = torch.einsum("bdr,br->bd", bases[which], draw(2 * n, r, seed=n))
        found = k_subspaces(x, 2, r)
        order = torch.tensor(matched(found, bases))
        right = float((order.argsort()[assign(found, x)] == which).double().mean())
        assert least <= right <= most
        if n == 300:
            assert projector_distance(found[order], bases).max() < 1e-6


def test_one_gradient_of_training_points_to_pca() -> None:
    """K = 1: the loss is const - c tr U^T S U, so its gradient vanishes at the principal subspace alone."""
    x = draw(200, 4, seed=2) @ basis(12, 4).mT + 0.05 * draw(200, 12, seed=3)
    U = k_subspaces(x, 1, 4)

    def slope(bases: Tensor) -> float:
        net = LowRank(bases, SCHEDULE)
        den = NetworkDenoiser(net, SCHEDULE, "x0")
        t, total = torch.full((400,), 0.5, dtype=torch.float64), torch.zeros(())
        noise = draw(200, 12, seed=4)
        E = torch.linalg.qr(noise).Q * 200**0.5 / 1.0  # noise uncorrelated with itself: the mean over noise, exactly
        E = E - x @ torch.linalg.lstsq(x, E).solution  # and with the data
        E = torch.linalg.qr(E).Q * 200**0.5
        total = Objective()(den, torch.cat([x, x]), t, torch.cat([E, -E])).mean()
        total.backward()
        assert net.free.grad is not None
        return float(net.free.grad.norm())

    assert slope(U) < 1e-3 * slope(basis(12, 4, 7)[None])


def test_loco_changes_nothing_outside_to_first_order() -> None:
    """Card: bases wholly inside or outside the region, keep >= the rank outside: J v is 0 outside (< 1e-8)."""
    d = 12
    factors = torch.zeros(2, d, 4, dtype=torch.float64)
    for k in range(2):
        factors[k, :6, :2], factors[k, 6:, 2:] = basis(6, 2, k), basis(6, 2, 9 + k)
    den = low_rank_mixture([0.5, 0.5], torch.zeros(2, d), factors, 0.0).denoiser(SCHEDULE)
    mask = (torch.arange(d) < 6).double()
    x = draw(3, d)
    J = Jacobian(den, x, 0.5)
    v = directions(den, x, 0.5, mask, keep=5)[:, 0]
    assert v.norm(dim=1) == pytest.approx(torch.ones(3).double())
    assert (J.forward(v)[:, 6:]).abs().max() < 1e-8 and J.forward(v)[:, :6].norm(dim=1).min() > 0.05
    plain = directions(den, x, 0.5, mask, keep=0)[:, 0]
    assert J.forward(plain)[:, 6:].abs().max() > 1e-4
    assert directions(den, x, 0.5, mask, k=2).shape == (3, 2, d)


def test_loco_edits_and_keeps() -> None:
    """With one component J is constant, and the change stays in the region to rounding; strength 0 gives x back."""
    d = 12
    U = torch.zeros(1, d, 4, dtype=torch.float64)
    U[0, :6, :2], U[0, 6:, 2:] = basis(6, 2), basis(6, 2, 1)
    law = low_rank_mixture([1.0], torch.zeros(1, d), U, 1e-3)
    den, x, mask = law.denoiser(SCHEDULE), law.sample(3, seeds=range(3)), (torch.arange(d) < 6).double()
    same = loco(den, x, mask, strength=0.0, steps=60)
    moved = loco(den, x, mask, strength=2.0, steps=60)
    assert (same - x).abs().max() < 0.05
    change = moved - same
    assert change[:, :6].norm(dim=1).min() > 0.2 and change[:, 6:].abs().max() < 1e-6


def test_bad_input() -> None:
    x = draw(5, 8)
    for bad in (dict(components=1, rank=9), dict(components=0, rank=2), dict(components=1, rank=0)):
        with pytest.raises(ValueError, match="1 <= rank <= 8"):
            k_subspaces(x, **bad)
    with pytest.raises(ValueError, match="5 samples for 6 subspaces"):
        k_subspaces(x, 6, 2)
    den: Any = low_rank_mixture([1.0], torch.zeros(1, 8), basis(8, 2)[None], 0.0).denoiser(SCHEDULE)
    with pytest.raises(ValueError, match="covers all or nothing"):
        directions(den, x, 0.5, torch.ones(8))
