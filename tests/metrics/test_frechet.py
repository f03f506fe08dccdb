"""Frechet distance against closed forms: metrics card, proofs 1, 2 and (without processes) 6."""

import pytest
import torch

from oneprior.metrics import Moments, frechet_distance, frechet_eigh, frechet_gaussians, frechet_nuclear, null


def standard(n, d, seed):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def with_moments(mean, cov, n=200):
    """Samples whose mean and unbiased covariance are exactly the given ones (diagonal cov)."""
    z = standard(n, len(mean), 3)
    z = z - z.mean(0)
    z = z @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(z.T)).T)
    return z * torch.tensor(cov, dtype=torch.float64).sqrt() + torch.tensor(mean, dtype=torch.float64)


def test_oracle_is_six_on_every_path():
    real, generated = with_moments([0.0, 0, 0], [1.0, 4, 9]), with_moments([1.0, 0, 0], [4.0, 4, 1])
    for path in (frechet_distance, frechet_eigh, frechet_nuclear):
        assert abs(path(real, generated) - 6) < 1e-8
    exact = frechet_gaussians(
        torch.zeros(3), torch.diag(torch.tensor([1.0, 4, 9])), torch.eye(3)[0], torch.diag(torch.tensor([4.0, 4, 1]))
    )
    assert abs(exact - 6) < 1e-8


def test_covariances_that_do_not_commute():
    mix = standard(32, 32, 0), standard(32, 32, 1)
    real, generated = standard(400, 32, 2) @ mix[0], standard(300, 32, 3) @ mix[1]
    s_r, s_g = torch.cov(real.T), torch.cov(generated.T)
    gap = (real.mean(0) - generated.mean(0)).square().sum() + s_r.trace() + s_g.trace()
    independent = gap - 2 * torch.linalg.eigvals(s_r @ s_g).sqrt().real.sum()
    for path in (frechet_eigh, frechet_nuclear):
        assert path(real, generated) == pytest.approx(independent.item(), rel=1e-6)

    def root(s):
        values, vectors = torch.linalg.eigh(s)
        return (vectors * values.clamp(min=0).sqrt()) @ vectors.T

    wrong = (gap - 2 * (root(s_r) @ root(s_g)).trace()).item()  # right only where the covariances commute
    assert abs(wrong / independent.item() - 1) > 1e-3


def test_fewer_samples_than_features():
    real, generated = standard(100, 256, 0), 1.5 * standard(90, 256, 1) + 0.1
    assert frechet_nuclear(real, generated) == pytest.approx(frechet_eigh(real, generated), rel=1e-6)
    assert frechet_distance(real, generated) == frechet_nuclear(real, generated)
    assert frechet_distance(real, real) < 1e-8


def test_sample_size_bias_law():
    d, means = 64, {}
    for n in (500, 2000, 10_000):
        values = [frechet_distance(standard(n, d, 10 * k), standard(n, d, 10 * k + 1)) for k in range(5)]
        means[n] = sum(values) / 5
        assert means[n] == pytest.approx((2 * d + d * (d + 1) / 2) / n, rel=0.05)
    # the line through the two larger sizes meets 1/N = 0 near zero
    slope = (means[2000] - means[10_000]) / (1 / 2000 - 1 / 10_000)
    assert abs(means[10_000] - slope / 10_000) < 0.1 * means[2000]


def test_moments_add_up_whatever_the_batches():
    x = standard(1000, 8, 0) + 1e4  # a large offset must not cancel the spread
    whole = Moments.of(x)
    for size in (1, 7, 300):
        parts = [Moments.of(part) for part in x.split(size)]
        left = sum(parts[1:], parts[0])
        assert left.count == 1000
        torch.testing.assert_close(left.mean, whole.mean, rtol=1e-10, atol=0)
        assert (left.cov - whole.cov).norm() / whole.cov.norm() < 1e-10
    other = standard(500, 8, 1)
    assert frechet_distance(whole, Moments.of(other)) == pytest.approx(frechet_distance(x, other), rel=1e-8)


def test_null_is_the_perfect_model_at_equal_size():
    d, n = 16, 500
    real = standard(4000, d, 0)
    estimate = null(frechet_distance, real, n=n, repeats=20)
    expected = (2 * d + d * (d + 1) / 2) / n
    assert abs(estimate.mean - expected) < 4 * estimate.error + 0.03 * expected
    assert null(frechet_distance, real, n=n, repeats=20) == estimate
    assert null(frechet_distance, real, n=n, repeats=20, seed=1) != estimate
    unequal = null(frechet_distance, real, n=(3000, 500), repeats=20)
    assert unequal.mean < 0.7 * estimate.mean


def test_bad_input_is_named():
    good = standard(10, 4, 0)
    with pytest.raises(ValueError, match=r"generated has shape \(10, 1, 2, 2\).*flatten"):
        frechet_distance(good, good.reshape(10, 1, 2, 2))
    with pytest.raises(ValueError, match="4 features a row and generated 3"):
        frechet_distance(good, good[:, :3])
    bad = good.clone()
    bad[7, 1] = torch.nan
    with pytest.raises(ValueError, match="generated is not finite in 1 of 10 rows, the first of them row 7"):
        frechet_distance(good, bad)
    with pytest.raises(ValueError, match="1 rows; this metric needs at least 2"):
        frechet_distance(good, good[:1])
    with pytest.raises(ValueError, match=r"sizes \(6, 6\) needs 12 disjoint samples; real has 10"):
        null(frechet_distance, good, n=6)
    with pytest.raises(ValueError, match="4 and of 3 features"):
        _ = Moments.of(good) + Moments.of(good[:, :3])
    with pytest.raises(ValueError, match="expected shapes"):
        frechet_gaussians(good[0], good, good[0], good)
