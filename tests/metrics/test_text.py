"""Kneser-Ney against sums, counts by hand and chains of known entropy rate."""

import itertools
import math

import numpy as np
import pytest
import torch

from oneprior.metrics import NGrams, ngram_perplexity

CHAIN = np.array([[0.9, 0.1], [0.2, 0.8]])
RATE = 0.38352  # nats a token: sum_i pi_i H(row i), pi = (2/3, 1/3)


def walk(n: int, rows: int, seed: int) -> np.ndarray:
    u, x = np.random.default_rng(seed).random((rows, n)), np.zeros((rows, n), dtype=np.int64)
    x[:, 0] = u[:, 0] > 2 / 3
    for i in range(1, n):
        x[:, i] = u[:, i] >= CHAIN[x[:, i - 1], 0]
    return x


@pytest.mark.parametrize("order", [1, 2, 3, 6])
def test_every_conditional_law_sums_to_one(order: int) -> None:
    x = np.random.default_rng(0).choice(4, 400, p=[0.5, 0.3, 0.15, 0.05])
    model = NGrams.of(x, symbols=5, order=order)  # symbol 4 was never seen
    for history in [(), (0,), (4,), (1, 2), (3, 3, 3), tuple(x[:7]), tuple(x[-7:])]:
        p = 2.0 ** -model.bits(np.array([[*history, w] for w in range(5)]))[:, -1]
        assert p.sum() == pytest.approx(1, abs=1e-12) and p.min() > 0


def test_sequences_sum_to_one() -> None:
    model = NGrams.of(torch.randint(3, (4, 50), generator=torch.Generator().manual_seed(0)), 3, 4)
    every = np.array(list(itertools.product(range(3), repeat=6)))
    assert (2.0 ** -model.bits(every).sum(1)).sum() == pytest.approx(1, abs=1e-12)


def test_counts_by_hand() -> None:
    """aab aab ab: an order-2 model, too little for discounts of its own, so D = 1/2 throughout."""
    x = np.array([0, 0, 1, 0, 0, 1, 0, 1])
    model = NGrams.of(x, 2, 2)
    # bigrams: aa 2, ab 3, ba 2; before a stand a and b, before b stands a
    one = [(2 - 0.5) / 3 + 1 / 3 * 0.5, (1 - 0.5) / 3 + 1 / 3 * 0.5]
    after_a = [(2 - 0.5) / 5 + 1 / 5 * one[0], (3 - 0.5) / 5 + 1 / 5 * one[1]]
    after_b = [(2 - 0.5) / 2 + 0.5 / 2 * one[0], 0.5 / 2 * one[1]]
    found = 2.0 ** -model.bits(np.array([[0, 0], [0, 1], [1, 0], [1, 1]]))
    np.testing.assert_allclose(found[:, 0], [one[0], one[0], one[1], one[1]], rtol=1e-12)
    np.testing.assert_allclose(found[:, 1], [*after_a, *after_b], rtol=1e-12)


def test_rows_are_apart_and_shapes_kept() -> None:
    x = walk(50, 4, 0)
    model = NGrams.of(x, 2, 3)
    np.testing.assert_allclose(model.bits(x[1]), model.bits(x)[1], rtol=1e-15)
    assert model.bits(torch.from_numpy(x)).shape == (4, 50) and model.bits(x[0, :1]).shape == (1,)
    joined = NGrams.of(x.reshape(-1), 2, 3)
    assert joined.levels[1].total.sum() >= model.levels[1].total.sum() and joined.levels[2].total.sum() == 198
    assert model.levels[2].total.sum() == 4 * 48


@pytest.mark.parametrize("order", [2, 4])
def test_a_chain_has_the_perplexity_of_its_entropy_rate(order: int) -> None:
    model = NGrams.of(walk(20_000, 1, 1)[0], 2, order)
    found = ngram_perplexity(walk(1000, 100, 2), model)
    assert found.perplexity == pytest.approx(math.exp(RATE), abs=4 * found.perplexity_error)  # 1.46745
    assert found.perplexity_error < 0.01
    share = math.log(3) - 2 / 3 * math.log(2)  # the entropy of (2/3, 1/3); 1000 draws of it lose about 0.01
    assert found.entropy == pytest.approx(share, abs=0.02)
    plain = NGrams.of(walk(20_000, 1, 1)[0], 2, 1)
    assert math.log(ngram_perplexity(walk(1000, 100, 2), plain).perplexity) > RATE + 0.2


def test_a_constant_string_is_likely_and_says_nothing() -> None:
    model = NGrams.of(walk(20_000, 1, 1)[0], 2, 2)
    found = ngram_perplexity(np.zeros((3, 500), dtype=np.int64), model)
    assert found.perplexity == pytest.approx(1.11, abs=0.01)  # 1 / 0.9, far below that of the chain itself
    assert found.entropy == 0 and found.distinct[2] == pytest.approx(1 / (3 * 498))


def test_distinct_and_entropy_of_a_counted_string() -> None:
    found = ngram_perplexity(np.array([[0, 1, 2, 3], [0, 1, 2, 3]]), NGrams.of(np.arange(4), 4, 2))
    assert found.distinct == (4 / 8, 3 / 6, 2 / 4) and found.entropy == pytest.approx(math.log(4))


def test_longer_histories_help_where_there_are_any() -> None:
    x = np.tile([0, 1, 1, 0, 2, 1, 0, 0], 200)  # the next symbol follows from the last three
    bits = [NGrams.of(x[:1000], 3, n).bits(x[1000:]).mean() for n in (1, 2, 3, 4)]
    assert bits == sorted(bits, reverse=True) and bits[-1] < 0.05


@pytest.mark.parametrize(
    ("x", "order", "said"),
    [
        (np.array([0, 3]), 2, r"integers .* in \[0, 3\)"),
        (np.array([0.0]), 2, "float64"),
        (np.zeros((1, 2, 2), dtype=int), 2, "integers"),
        (np.array([0, 1]), 0, "order = 0"),
        (np.zeros(0, dtype=int), 2, "0 tokens"),
    ],
)
def test_refused(x: np.ndarray, order: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        NGrams.of(x, 3, order)
