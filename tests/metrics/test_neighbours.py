"""Nearest-neighbour metrics against their exact nulls and a plain independent implementation: metrics card, proof 4."""

import numpy as np
import pytest
import torch
from sklearn.metrics import pairwise_distances
from sklearn.neighbors import KNeighborsClassifier

from oneprior.metrics import authenticity, coverage_null, nearest, prdc, train_share, two_sample_accuracy


def standard(n, d, seed):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def plain_prdc(real, generated, k):
    """The definitions of the papers on full matrices."""
    rr, gg, rg = (pairwise_distances(a, b) for a, b in ((real, real), (generated, generated), (real, generated)))
    radius_r, radius_g = np.sort(rr, axis=1)[:, k], np.sort(gg, axis=1)[:, k]
    inside = rg < radius_r[:, None]
    return (
        inside.any(0).mean(),
        (rg < radius_g[None, :]).any(1).mean(),
        inside.sum(0).mean() / k,
        (rg.min(1) < radius_r).mean(),
    )


@pytest.mark.parametrize(("n", "m", "d", "k"), [(300, 300, 8, 5), (200, 70, 3, 3), (80, 150, 40, 1)])
def test_prdc_equals_the_definitions(n, m, d, k):
    real, generated = standard(n, d, 0), 0.9 * standard(m, d, 1) + 0.2
    assert tuple(prdc(real, generated, k)) == pytest.approx(plain_prdc(real, generated, k), abs=1e-12)


def test_density_and_coverage_nulls():
    n, k = 1000, 5
    values = [prdc(standard(n, 8, 2 * s), standard(n, 8, 2 * s + 1), k) for s in range(3)]
    assert abs(np.mean([v.coverage for v in values]) - coverage_null(n, n, k)) < 0.02
    assert abs(np.mean([v.density for v in values]) - 1) < 0.06
    assert coverage_null(n, n, k) == pytest.approx(0.969, abs=5e-4)
    assert coverage_null(2000, 500, 3) == pytest.approx(0.488, abs=5e-4)
    unequal = prdc(standard(2000, 4, 8), standard(500, 4, 9), 3)
    assert abs(unequal.coverage - coverage_null(2000, 500, 3)) < 0.03


def test_one_outlier_fools_precision_but_not_density():
    real, wrong = standard(1000, 8, 0), standard(1000, 8, 1) + 6
    real[0] = 100.0
    result = prdc(real, wrong)
    assert result.precision == 1 and result.density < 0.5 and result.coverage < 0.01


def test_copies_lie_outside_the_balls_they_touch():
    real = standard(200, 5, 0) * 3 + 50
    result = prdc(real, real.clone(), k=4)
    # in a ball of radius to the 4th neighbour: the point itself and three others
    assert result.density == 1 and result.coverage == 1


def test_nearest_in_blocks(monkeypatch):
    from oneprior.metrics import features, neighbours

    monkeypatch.setattr(neighbours, "blocks", lambda rows, width: features.blocks(rows, width, budget=9 * width))
    x = standard(50, 4, 0)
    full = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    distance, index = nearest(x, x, k=3, leave_out=True)
    expected = full.fill_diagonal_(torch.inf).sort(dim=1)
    torch.testing.assert_close(distance, expected.values[:, :3])
    assert torch.equal(index, expected.indices[:, :3])
    with pytest.raises(ValueError, match="50 nearest of 49"):
        nearest(x, x, k=50, leave_out=True)


def test_two_sample_equals_leave_one_out_classification():
    r, g = standard(80, 3, 0), standard(80, 3, 1) + 0.8
    x, y = torch.cat([r, g]).numpy(), np.repeat([0, 1], 80)
    right = 0
    for i in range(160):
        keep = np.arange(160) != i
        right += KNeighborsClassifier(1).fit(x[keep], y[keep]).predict(x[i : i + 1])[0] == y[i]
    assert two_sample_accuracy(r, g) == pytest.approx(right / 160, abs=1e-12)


def test_two_sample_null_distance_and_copies():
    n = 1000
    # leave-one-out hits are correlated in pairs: twice the binomial variance bounds them
    assert abs(two_sample_accuracy(standard(n, 5, 0), standard(n, 5, 1)) - 0.5) < 4 * np.sqrt(2 * 0.25 / (2 * n))
    assert two_sample_accuracy(standard(n, 5, 0), standard(n, 5, 1) + 20) == 1
    r = standard(n, 5, 0)
    assert two_sample_accuracy(r, r.clone()) == 0
    twice = torch.cat([r, r])
    assert two_sample_accuracy(twice, twice.clone()) == 0.5  # every neighbour is a tie
    with pytest.raises(ValueError, match=r"1000 real and 10 generated.*take 10 at random"):
        two_sample_accuracy(r, r[:10])


def test_authenticity_scales_with_the_share_of_copies():
    train, fresh = standard(1500, 16, 0), standard(1500, 16, 1)
    base = authenticity(fresh, train)
    assert base == pytest.approx(0.70, abs=0.04)
    for q in (0.25, 0.5):
        copied = fresh.clone()
        copied[: int(q * 1500)] = train[: int(q * 1500)]
        assert abs(authenticity(copied, train) - base * (1 - q)) < 0.03
    assert authenticity(train.clone(), train) == 0
    assert authenticity(train[:5], torch.cat([train, train])) == 0  # distance 0 is not further than distance 0


def test_train_share():
    train, held, fresh = standard(800, 6, 0), standard(200, 6, 1), standard(500, 6, 2)
    null = train_share(None, train, held)
    assert abs(null - 0.8) < 4 * np.sqrt(0.8 * 0.2 / 200)  # the nearest of 800 + 199 is of the 800
    assert abs(train_share(fresh, train, held) - 0.8) < 4 * np.sqrt(0.8 * 0.2 * (1 / 500 + 1 / 200))
    assert train_share(train[:50] + 1e-9, train, held) == 1
    assert train_share(held, train, held) == 0
    assert train_share(train[:5], train, train) == 0.5
