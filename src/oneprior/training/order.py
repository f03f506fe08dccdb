"""Which sample, and which random numbers: pure functions of (seed, stream, k), where k counts samples over all epochs.

Sample number k is element pi_e(k mod N) of the data, e = k // N. The permutation pi_e is a Feistel network on
Z_a x Z_b, with a b just above N, walked until it lands below N: no table, no state, any k at once. The first uniform
of a time law is low-discrepancy, u_k = frac(u_0 + k / golden ratio) in 64-bit integers: each batch covers the times
evenly. All else is a hash of (seed, stream, k, place), computed for a whole batch at once: a batch of 512 points costs
microseconds, where a generator for each sample would cost more than the network.
"""

from __future__ import annotations

from hashlib import blake2b
from math import isqrt, pi, prod

import numpy as np

GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, odd
_MASK = (1 << 64) - 1
_ROUNDS = 8


def key(seed: int, stream: str) -> int:
    """64 bits that stand for a named stream of a seed."""
    return int.from_bytes(blake2b(f"{int(seed)}/{stream}".encode(), digest_size=8).digest(), "little")


def mix(z: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele et al. 2014), in place: a bijection of 64-bit words that looks random."""
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def _weyl(k: np.ndarray, start: int) -> np.ndarray:
    return np.asarray(k, np.int64).astype(np.uint64) * np.uint64(GOLDEN) + np.uint64(start)


def _words(seed: int, stream: str, k: np.ndarray, count: int) -> np.ndarray:
    """(B, count) 64-bit words: sample k and place j are mixed each, and their sum again, so no two rows run alike."""
    return mix(mix(_weyl(k, key(seed, stream)))[:, None] + mix(_weyl(np.arange(count), GOLDEN)))


def _unit(z: np.ndarray) -> np.ndarray:
    return (z >> np.uint64(11)) * 2.0**-53


def golden(seed: int, k: np.ndarray) -> np.ndarray:
    """Low-discrepancy uniforms in [0, 1), float64: those of any run of consecutive k are nearly evenly spaced."""
    return _unit(_weyl(k, key(seed, "golden")))


def uniform(seed: int, stream: str, k: np.ndarray, shape: tuple[int, ...] = ()) -> np.ndarray:
    """Independent uniforms in [0, 1), float64, (B, *shape): row i depends on seed, stream and k[i] alone."""
    return _unit(_words(seed, stream, k, prod(shape))).reshape(len(k), *shape)


def normal(seed: int, stream: str, k: np.ndarray, shape: tuple[int, ...] = ()) -> np.ndarray:
    """Independent standard normal numbers, float32, (B, *shape), as `uniform`: two from each word (Box and Muller)."""
    count = prod(shape)
    words = _words(seed, stream, k, (count + 1) // 2)
    radius = np.sqrt(-2 * np.log(((words >> np.uint64(32)) + 0.5).astype(np.float32) * np.float32(2**-32)))
    angle = (words & np.uint64(0xFFFFFFFF)).astype(np.float32) * np.float32(2 * pi * 2**-32)
    pair = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], 1)
    return np.ascontiguousarray(pair[:, :count]).reshape(len(k), *shape)


def element(seed: int, k: np.ndarray, count: int) -> np.ndarray:
    """Index in the data set, int64 in [0, count), of sample numbers k; every epoch visits every element once.

    Example:
        >>> sorted(element(0, np.arange(5, 10), 5).tolist())
        [0, 1, 2, 3, 4]
    """
    if count < 1:
        raise ValueError(f"the data set holds {count} samples: nothing to train on")
    number = np.asarray(k, np.int64).astype(np.uint64)
    n = np.uint64(count)
    side = isqrt(count - 1) + 1
    a, b = np.uint64(side), np.uint64(-(-count // side))
    epoch = mix(number // n + np.uint64(key(seed, "order")))
    where = number % n
    todo = np.arange(where.size)
    while todo.size:  # outside [0, count) lie fewer than sqrt(count) of the a b cells, so this ends after a walk or two
        left, right = where[todo] % a, where[todo] // a
        for i in range(0, 2 * _ROUNDS, 2):
            left = (left + mix(epoch[todo] + right * np.uint64(GOLDEN) + np.uint64(i)) % a) % a
            right = (right + mix(epoch[todo] + left * np.uint64(GOLDEN) + np.uint64(i + 1)) % b) % b
        where[todo] = left + a * right
        todo = todo[where[todo] >= n]
    return where.astype(np.int64)


def module_seed(seed: int, k: int) -> int:
    """Seed of torch's global generator for the micro-batch that starts at sample k (dropout inside modules)."""
    return (key(seed, "module") + k * GOLDEN) & (_MASK >> 1)


def share(n: int, batch: int, rank: int, world: int, micro: int | None) -> list[np.ndarray]:
    """Sample numbers n .. n + batch - 1 of one step that fall to a process, cut into micro-batches.

    Raises:
        ValueError: when there are more processes than samples.
    """
    if batch < world:
        raise ValueError(f"batch={batch} is less than one sample for each of {world} processes")
    mine = np.array_split(np.arange(n, n + batch), world)[rank]
    size = micro or len(mine)
    return [mine[i : i + size] for i in range(0, len(mine), size)]
