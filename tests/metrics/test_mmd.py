"""KID, Gaussian MMD, energy and sliced Wasserstein distances against closed forms: metrics card, proof 3."""

import math

import numpy as np
import ot
import pytest
import torch

from oneprior.metrics import energy_distance, gaussian_mmd, kernel_mmd, kid, kid_subsets, sliced_wasserstein

D, REPEATS = 16, 6


def standard(n, seed, d=D):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def within_four_errors(values, exact):
    mean, error = np.mean(values), np.std(values, ddof=1) / math.sqrt(len(values))
    assert abs(mean - exact) < 4 * error, (mean, error, exact)
    assert error < 0.1 * abs(exact)  # a test with a wide error would prove nothing


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_kid_of_gaussians(shift):
    exact = 3 / D  # N(0, I) against N(0, 2 I): 3 (a - b)^2 / D
    if shift:  # N(0, I) against N(m, I), |m|^2 = M
        exact = 3 * shift / D + 3 * shift**2 / D**2 + (shift**3 + 3 * shift * D + 6 * shift**2 + 6 * shift) / D**3
    values = []
    for k in range(REPEATS):
        g = standard(2000, 100 + k)
        g = g + math.sqrt(shift / D) if shift else g * math.sqrt(2)
        values.append(kid(standard(2000, k), g))
    within_four_errors(values, exact)


def test_gaussian_mmd_of_gaussians():
    a, b, m2, s2 = 1.0, 1.5, 0.5, 9.0

    def expected(p, q, gap):  # E k under N(0, p I) and N(m, q I)
        return (1 + (p + q) / s2) ** (-D / 2) * math.exp(-gap / (2 * (s2 + p + q)))

    exact = expected(a, a, 0) + expected(b, b, 0) - 2 * expected(a, b, m2)
    values = [
        gaussian_mmd(
            standard(1500, k), standard(1500, 50 + k) * math.sqrt(b) + math.sqrt(m2 / D), bandwidth=math.sqrt(s2)
        )
        for k in range(REPEATS)
    ]
    within_four_errors(values, exact)


def test_unbiased_may_be_negative_and_biased_never():
    n, s2 = 500, 9.0
    unbiased, biased = [], []
    for k in range(12):
        r, g = standard(n, k), standard(n, 50 + k)
        unbiased.append(gaussian_mmd(r, g, bandwidth=3.0))
        biased.append(gaussian_mmd(r, g, bandwidth=3.0, unbiased=False))
    assert min(unbiased) < 0 < min(biased)
    off_diagonal = (1 + 2 / s2) ** (-D / 2)
    assert np.mean(np.subtract(biased, unbiased)) == pytest.approx(2 * (1 - off_diagonal) / n, rel=0.05)


def test_blocks_do_not_change_the_sum(monkeypatch):
    from oneprior.metrics import features
    from oneprior.metrics import mmd as module

    r, g = standard(50, 0), standard(40, 1)
    whole = energy_distance(r, g), energy_distance(r, g, unbiased=False)
    monkeypatch.setattr(module, "blocks", lambda rows, width: features.blocks(rows, width, budget=7 * width))
    # a sample is 1e-8 from itself by rounding, which the biased estimator keeps
    assert (energy_distance(r, g), energy_distance(r, g, unbiased=False)) == pytest.approx(whole, rel=1e-7)


def test_kid_subsets_average_the_whole():
    r, g = standard(1500, 0), standard(1500, 1) * math.sqrt(2)
    result = kid_subsets(r, g, subsets=30, size=300)
    assert abs(result.mean - kid(r, g)) < 4 * result.std / math.sqrt(30)
    assert kid_subsets(r, g, subsets=3, size=300) == kid_subsets(r, g, subsets=3, size=300)
    with pytest.raises(ValueError, match="subsets of 1000 out of 50 real"):
        kid_subsets(r[:50], g)


def test_energy_distance_in_one_dimension():
    # twice the integral of the squared difference of the distribution functions
    r, g = standard(300, 0, 1), standard(200, 1, 1) + 0.7
    points = torch.cat([r, g]).flatten().sort().values
    f_r = torch.searchsorted(r.flatten().sort().values, points, right=True) / 300
    f_g = torch.searchsorted(g.flatten().sort().values, points, right=True) / 200
    exact = 2 * ((f_r - f_g).double().square()[:-1] * points.diff()).sum()
    # the differences enter as square roots of squares: 1e-8 apart at most
    assert energy_distance(r, g, unbiased=False) == pytest.approx(exact.item(), rel=1e-6)


def test_sliced_wasserstein_of_gaussians():
    n, a = 2000, 4.0
    scaled = [sliced_wasserstein(standard(n, k), standard(n, 50 + k) * 2, directions=100) for k in range(3)]
    assert np.mean(scaled) == pytest.approx((math.sqrt(a) - 1) ** 2, rel=0.03)
    shift = torch.zeros(D, dtype=torch.float64)
    shift[0] = math.sqrt(0.5 * D)  # |m|^2 / D = 0.5; over directions the standard error is 0.5 sqrt(2 / 3000)
    moved = sliced_wasserstein(standard(n, 0), standard(n, 0) + shift, directions=3000)
    assert abs(moved - 0.5) < 4 * 0.5 * math.sqrt(2 / 3000)


@pytest.mark.parametrize("sizes", [(60, 60), (60, 45), (7, 1)])
def test_sliced_wasserstein_is_exact_on_a_line(sizes):
    r, g = standard(sizes[0], 0, 1), 0.5 * standard(sizes[1], 1, 1) + 1
    assert sliced_wasserstein(r, g, directions=1) == pytest.approx(
        float(ot.wasserstein_1d(r.numpy(), g.numpy(), p=2)[0]), rel=1e-9
    )


def test_arrays_and_tensors_agree_and_bad_settings_are_refused():
    r, g = standard(20, 0), standard(20, 1)
    frozen = r.numpy().astype(np.float32)
    frozen.setflags(write=False)
    assert kid(frozen, g.numpy()) == pytest.approx(kid(r, g), rel=1e-3)
    assert kernel_mmd(r, g, lambda x, y: x @ y.T, unbiased=False) == pytest.approx(
        (r.mean(0) - g.mean(0)).square().sum().item(), rel=1e-9
    )
    with pytest.raises(ValueError, match="bandwidth is 0"):
        gaussian_mmd(r, g, bandwidth=0)
