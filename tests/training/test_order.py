from math import erf

import numpy as np
import pytest

from oneprior.training import order


@pytest.mark.parametrize("count", [1, 2, 3, 5, 16, 17, 101, 1437, 5000])
def test_every_epoch_visits_every_element_once(count: int) -> None:
    for epoch in range(3):
        visited = order.element(7, np.arange(count * epoch, count * (epoch + 1)), count)
        assert np.array_equal(np.sort(visited), np.arange(count))


def test_epochs_and_seeds_differ_and_any_k_is_found_alone() -> None:
    k = np.arange(3 * 101)
    one = order.element(0, k, 101)
    assert not np.array_equal(one[:101], one[101:202])
    assert not np.array_equal(one, order.element(1, k, 101))
    assert [int(order.element(0, np.array([i]), 101)[0]) for i in k] == one.tolist()


def test_permutations_are_uniform() -> None:
    """Chi-square of position against element (49 degrees of freedom) and of neighbours (55), 4000 epochs of 8."""
    epochs, count = 4000, 8
    where = order.element(3, np.arange(epochs * count), count).reshape(epochs, count)
    table = np.stack([np.bincount(where[:, j], minlength=count) for j in range(count)])
    chi = ((table - epochs / count) ** 2 / (epochs / count)).sum()
    assert chi < 49 + 5 * np.sqrt(2 * 49)
    pairs = np.bincount((where[:, :-1] * count + where[:, 1:]).ravel(), minlength=count**2).reshape(count, count)
    expected = epochs * (count - 1) / (count * (count - 1))
    off = pairs[~np.eye(count, dtype=bool)]
    assert ((off - expected) ** 2 / expected).sum() < 55 + 5 * np.sqrt(2 * 55)
    assert np.all(np.diag(pairs) == 0)


def test_large_data_costs_no_table() -> None:
    visited = order.element(0, np.arange(10**12, 10**12 + 1000), 10**10 + 19)
    assert visited.min() >= 0 and visited.max() < 10**10 + 19
    assert len(set(visited.tolist())) == 1000


def test_empty_data_is_refused() -> None:
    with pytest.raises(ValueError, match="0 samples"):
        order.element(0, np.arange(3), 0)


def test_golden_times_cover_every_batch_evenly() -> None:
    """Steinhaus: gaps of any run of n consecutive numbers are below 2 / n; independent ones reach about log(n) / n."""
    for first in (0, 12345, 10**10):
        u = np.sort(order.golden(4, np.arange(first, first + 128)))
        gaps = np.diff(np.append(u, u[0] + 1))
        assert gaps.max() < 2 / 128
        assert gaps.min() > 0.3 / 128
    assert not np.allclose(order.golden(4, np.arange(3)), order.golden(5, np.arange(3)))


def test_uniforms_are_uniform_and_independent_of_one_another() -> None:
    k = np.arange(100_000)
    u, v = order.uniform(0, "drop", k), order.uniform(0, "other", k)
    sd = 1 / np.sqrt(len(k))
    assert u.min() >= 0 and u.max() < 1
    counts = np.bincount((u * 100).astype(int), minlength=100)
    assert ((counts - 1000) ** 2 / 1000).sum() < 99 + 5 * np.sqrt(2 * 99)
    for other in (v, np.roll(u, 1), order.golden(0, k), order.uniform(1, "drop", k)):
        assert abs(np.corrcoef(u, other)[0, 1]) < 5 * sd


def test_normals_are_normal_and_white() -> None:
    x = order.normal(0, "noise", np.arange(4000), (3, 7, 7)).reshape(4000, -1)
    assert x.dtype == np.float32
    z, count = x.astype(np.float64), x.size
    for power, (mean, var) in {1: (0, 1), 2: (1, 2), 3: (0, 15), 4: (3, 96), 6: (15, 10170)}.items():
        assert abs((z**power).mean() - mean) < 5 * np.sqrt(var / count), power
    edges = np.linspace(-3, 3, 61)
    cdf = np.array([0.5 * (1 + erf(e / np.sqrt(2))) for e in edges])
    expected = count * np.diff(cdf, prepend=0, append=1)
    seen = np.bincount(np.digitize(z.ravel(), edges), minlength=62)
    assert ((seen - expected) ** 2 / expected).sum() < 61 + 5 * np.sqrt(2 * 61)
    # 147 places, 10731 pairs of them, and each sample against the next: no correlation beyond chance
    c = np.asarray(np.corrcoef(z.T))[np.triu_indices(147, 1)] * np.sqrt(4000)
    assert np.abs(c).max() < 5.5 and abs(c.std() - 1) < 5 / np.sqrt(2 * c.size)
    assert abs((z[1:] * z[:-1]).mean()) < 5 / np.sqrt(count)
    pairs = z[:, :74] ** 2, z[:, 73:] ** 2  # the two numbers of one word
    assert abs(((pairs[0] - 1) * (pairs[1] - 1)).mean()) < 5 * 2 / np.sqrt(count / 2)


@pytest.mark.parametrize("shape", [(), (1,), (2,), (5,), (3, 8, 8), (3, 17, 31)])
def test_a_row_does_not_depend_on_its_batch(shape: tuple[int, ...]) -> None:
    k = np.array([5, 3, 10**12, 0, 77, 3, 8])
    for draw in (order.normal, order.uniform):
        rows = draw(9, "noise", k, shape)
        assert rows.shape == (7, *shape)
        for i in range(7):
            assert np.array_equal(draw(9, "noise", k[i : i + 1], shape)[0], rows[i])
            assert np.array_equal(draw(9, "noise", k[i:], shape)[0], rows[i])


@pytest.mark.parametrize(("batch", "world", "micro"), [(12, 1, None), (13, 2, 4), (7, 7, 1), (128, 3, 50)])
def test_shares_cover_a_step_exactly(batch: int, world: int, micro: int | None) -> None:
    parts = [order.share(1000, batch, rank, world, micro) for rank in range(world)]
    assert np.array_equal(np.sort(np.concatenate([k for p in parts for k in p])), np.arange(1000, 1000 + batch))
    assert all(len(p) >= 1 and all(1 <= len(k) <= (micro or batch) for k in p) for p in parts)


def test_more_processes_than_samples_are_refused() -> None:
    with pytest.raises(ValueError, match=r"batch=2 .* 3 processes"):
        order.share(0, 2, 0, 3, None)
