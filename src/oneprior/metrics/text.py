"""How likely text is under an exact model of n-grams, and how varied: never one without the other.

Interpolated Kneser-Ney of order N (Kneser and Ney 1995; Chen and Goodman 1998), h' the history h without its first
symbol, c(hw) counts of N-grams and, for shorter ones, of distinct symbols seen before them:
    p_n(w | h) = max(c(hw) - D(c(hw)), 0) / c(h) + D_1 N_1(h) + D_2 N_2(h) + D_3 N_3+(h) / c(h) p_{n-1}(w | h'),
    p_0 = 1 / V, so that every symbol has some mass and each law sums to 1.
Perplexity alone is lowest for a constant string: it is told with the entropy of the symbols of each sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from oneprior.metrics.features import Array


class TextScore(NamedTuple):
    """perplexity: exp of the mean nats a token under a model. entropy: in nats, of the symbols within a sample, its
    mean over samples. distinct: share of n-grams of all samples that are distinct, n = 1, 2, 3. perplexity_error,
    entropy_error: standard errors over samples."""

    perplexity: float
    entropy: float
    distinct: tuple[float, ...]
    perplexity_error: float
    entropy_error: float


@dataclass(frozen=True)
class _Level:
    """n-grams of one length: keys, history * V + symbol, in order, how often each counts, and by history the sum of
    counts and the mass that goes to shorter ones."""

    keys: np.ndarray
    kept: np.ndarray
    total: np.ndarray
    rest: np.ndarray


@dataclass(frozen=True, eq=False)
class NGrams:
    """An interpolated Kneser-Ney model; build one with `NGrams.of`.

    Example:
        >>> model = NGrams.of(text("kjv", split="train").tokens, symbols=70, order=5)
        >>> model.bits(tokens).mean()  # tokens (B, L): bits a token
    """

    symbols: int
    levels: tuple[_Level, ...]

    @classmethod
    def of(cls, tokens: Array, symbols: int, order: int = 5) -> NGrams:
        """Count the n-grams of tokens (N,) or (B, L), integers below `symbols`; none spans two rows.

        About 2 seconds and 60 bytes a million tokens and order.

        Raises:
            ValueError: for an order below 1, or tokens outside [0, symbols).
        """
        x = _rows(tokens, symbols)
        if order < 1 or not x.size:
            raise ValueError(f"order = {order} on {x.size} tokens: 1 or more of each was expected")
        grams, keys, suffixes = list[np.ndarray](), list[np.ndarray](), list[np.ndarray]()
        ids = np.zeros((len(x), x.shape[1] + 1), dtype=np.int64)  # of the (n - 1)-gram that ends before each place
        for n in range(1, min(order, x.shape[1]) + 1):
            key = ids[:, :-1] * symbols + x[:, n - 1 :]
            unique, first, inverse, count = np.unique(key, return_index=True, return_inverse=True, return_counts=True)
            keys.append(unique)
            grams.append(count)
            suffixes.append(ids[:, 1:].reshape(-1)[first])  # of each n-gram, the gram without its first symbol
            ids = inverse.reshape(key.shape)
        levels = []
        for n, (key, count) in enumerate(zip(keys, grams, strict=True)):
            if n + 1 < len(keys):
                count = np.bincount(suffixes[n + 1], minlength=len(key))
            histories = len(keys[n - 1]) if n else 1
            levels.append(_level(key, count, key // symbols, histories))
        return cls(symbols, tuple(levels))

    def bits(self, tokens: Array) -> np.ndarray:
        """-log2 p(x_l | x_<l) of tokens (N,) or (B, L), float64, of the same shape; a row begins without a history."""
        x = _rows(tokens, self.symbols)
        p = np.full(x.shape, 1 / self.symbols)
        ids = np.zeros((len(x), x.shape[1] + 1), dtype=np.int64)  # -1: never seen
        for n, level in enumerate(self.levels[: x.shape[1]]):
            at = ids[:, :-1]
            key = np.where(at < 0, -1, at * self.symbols + x[:, n:])
            place = np.searchsorted(level.keys, key).clip(max=len(level.keys) - 1)
            seen = level.keys[place] == key
            total = np.where(at < 0, 0, level.total[at])
            share = np.where(seen, level.kept[place], 0.0) / np.maximum(total, 1)
            p[:, n:] = np.where(total > 0, share + level.rest[at] * p[:, n:], p[:, n:])
            ids = np.where(seen, place, -1)
        return -np.log2(p).reshape(np.shape(tokens))


def ngram_perplexity(samples: Array, model: NGrams, longest: int = 3) -> TextScore:
    """How likely and how varied samples are: tokens (B, L). Say the same of held-out text beside it.

    Example:
        >>> ngram_perplexity(prior.sample(64).x, model).perplexity

    Raises:
        ValueError: for tokens that the model has no symbol for.
    """
    x = _rows(samples, model.symbols)
    nats = model.bits(x).mean(1) * np.log(2)
    counts = np.stack([np.bincount(row, minlength=model.symbols) for row in x]) / x.shape[1]
    entropy = -(counts * np.log(np.where(counts > 0, counts, 1))).sum(1)
    distinct = []
    for n in range(1, min(longest, x.shape[1]) + 1):
        grams = np.lib.stride_tricks.sliding_window_view(x, n, axis=1).reshape(-1, n)
        distinct.append(len(np.unique(grams, axis=0)) / len(grams))
    root, perplexity = max(len(x) - 1, 1) ** 0.5, float(np.exp(nats.mean()))
    errors = float(perplexity * nats.std() / root), float(entropy.std() / root)
    return TextScore(perplexity, float(entropy.mean()), tuple(distinct), *errors)


def _level(keys: np.ndarray, count: np.ndarray, history: np.ndarray, histories: int) -> _Level:
    discount = _discounts(count)[np.minimum(count, 3)]
    total = np.bincount(history, count, histories)
    taken = np.bincount(history, np.minimum(count, discount), histories)
    return _Level(keys, np.maximum(count - discount, 0.0), total, taken / np.maximum(total, 1))


def _discounts(count: np.ndarray) -> np.ndarray:
    """D of counts 0, 1, 2 and 3 or more (Chen and Goodman 1998), in (0, count]; 1/2 where too few counts tell."""
    n1, n2, n3, n4 = (float((count == k).sum()) for k in (1, 2, 3, 4))
    if not (n1 and n2 and n3):
        return np.array([0.0, 0.5, 0.5, 0.5])
    y = n1 / (n1 + 2 * n2)
    d = np.array([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    return np.where((d > 0) & (d < [1, 1, 2, 3]), d, [0.0, 0.5, 0.5, 0.5])


def _rows(tokens: Array, symbols: int) -> np.ndarray:
    x = np.atleast_2d(np.asarray(tokens))
    if x.ndim != 2 or not np.issubdtype(x.dtype, np.integer) or (x.size and not 0 <= x.min() <= x.max() < symbols):
        said = f" from {x.min()} to {x.max()}" if x.size else ""
        raise ValueError(f"integers (N,) or (B, L) in [0, {symbols}) were expected; {x.dtype} {x.shape}{said} came")
    return x.astype(np.int64)
