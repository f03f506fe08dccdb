"""Noise as a pure function: n = SFC64(seed; stage, part, tile).

Every random number in the library has an address. The seed of sample i and the name of the place that asks (which
stage of the path, which part of the sample, which tile of a canvas) are the 128-bit key from which a small fast
generator starts (Doty-Humphrey's SFC64), so sample i is the same whatever the batch, the order, the device or the
number of processes. Numbers are drawn in float32 and then cast: a run in float64 or bf16 starts from the same noise.
The seed ~s (that is -1 - s) has the noise of s with the other sign, which is as likely: antithetic draws, whose mean is
nearer to the expectation than that of independent ones.
"""

from __future__ import annotations

import secrets
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

_MASK = (1 << 64) - 1
_own = threading.local()  # one generator a thread, set anew at every use: it carries nothing from one to the next


@lru_cache(maxsize=65536)
def _word(*address: int | str) -> int:
    return int.from_bytes(blake2b(repr(address).encode(), digest_size=8).digest(), "little")


def _draws(keys: Sequence[tuple[int, int]], shape: tuple[int, ...], gaussian: bool) -> Tensor:
    # (len(keys), *shape): float32 normal or float64 uniform numbers, row by row from the generator of a key
    if not hasattr(_own, "bits"):
        _own.bits = np.random.SFC64(0)
        _own.generator, _own.state = np.random.Generator(_own.bits), _own.bits.state
        _own.state["state"]["state"][2:] = 0x9E3779B97F4A7C15, 1
    bits, generator, state = _own.bits, _own.generator, _own.state
    words = state["state"]["state"]
    # torch's memory is aligned to 64 bytes, NumPy's to 16: all that is done to these numbers later is faster so
    out = torch.empty((len(keys), *shape), dtype=torch.float32 if gaussian else torch.float64)
    flat = out.numpy().reshape(len(keys), -1)
    for i, key in enumerate(keys):  # resetting one generator costs a fifth of making a new one
        words[:2] = key
        bits.state = state
        bits.random_raw(12, output=False)  # the rounds after which nearby keys have nothing in common
        if gaussian:
            generator.standard_normal(dtype=np.float32, out=flat[i])
        else:
            generator.random(out=flat[i])
    return out


def _keys(seed: int, stream: str, index: int | Sequence[int]) -> list[tuple[int, int]]:
    word = _word(int(seed), stream)
    return [(word, int(k) & _MASK) for k in ([index] if isinstance(index, int) else index)]


def normal(seed: int, stream: str, index: int | Sequence[int], shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal float32 numbers of sample number `index` in a named stream.

    `index` an integer gives an array of `shape`; a sequence of B integers gives (B, *shape), row by row the same.
    """
    rows = _draws(_keys(seed, stream, index), shape, True).numpy()
    return rows[0] if isinstance(index, int) else rows


def uniform(seed: int, stream: str, index: int | Sequence[int], shape: tuple[int, ...] = ()) -> np.ndarray:
    """Uniform float64 numbers in [0, 1), addressed as in `normal`."""
    rows = _draws(_keys(seed, stream, index), shape, False).numpy()
    return rows[0] if isinstance(index, int) else rows


def uniforms(seeds: Sequence[int], stage: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform float64 numbers (B, *shape) in [0, 1), row i from seeds[i] and the address (stage, name) alone."""
    word = _word("uniform", stage, name)
    rows = _draws([(max(s, ~s) & _MASK, word) for s in map(int, seeds)], shape, False).numpy()
    if turned := [i for i, s in enumerate(seeds) if s < 0]:
        rows[turned] = (1 - 2**-53) - rows[turned]
    return rows


def antithetic(seeds: Iterable[int], draws: int) -> tuple[int, ...]:
    """Of each `draws` seeds in a row, every second one as the opposite ~s of the one before it.

    Example:
        >>> antithetic(range(6), 3)
        (0, -1, 2, 3, -4, 5)
    """
    rows = [int(s) for s in seeds]
    return tuple(~rows[i - 1] if i % draws % 2 else s for i, s in enumerate(rows))


def derived(seeds: Iterable[int], *address: int | str) -> tuple[int, ...]:
    """Seeds for one of several draws that belong to a sample: a function of its seed and the address (which window)."""
    return tuple(v if s >= 0 else ~v for s in map(int, seeds) for v in [_word(max(s, ~s), *address) >> 2])


class Noise(Protocol):
    """What a walk asks for noise: stage 0 is the start, stage i + 1 the end of the i-th network call."""

    def __call__(self, stage: int, like: Tensor, key: str = "") -> Tensor: ...


@dataclass(frozen=True)
class Seeded:
    """Noise of a batch whose sample i has seed `seeds[i]`: bit-identical for any split or order of the batch."""

    seeds: tuple[int, ...]
    tile: str = ""

    def __init__(self, seeds: Iterable[int], tile: str = "") -> None:
        object.__setattr__(self, "seeds", tuple(map(int, seeds)))
        object.__setattr__(self, "tile", tile)

    @classmethod
    def of(cls, seeds: Iterable[int] | None, batch: int) -> Seeded:
        """The noise of `batch` samples; without seeds, of seeds that nobody has chosen."""
        return cls([secrets.randbits(63) for _ in range(batch)] if seeds is None else seeds)

    def __call__(self, stage: int, like: Tensor, key: str = "") -> Tensor:
        if like.shape[0] != len(self.seeds):
            raise ValueError(f"{len(self.seeds)} seeds were given for a batch of {like.shape[0]}: one seed a sample")
        word = _word(stage, key, self.tile)
        rows = _draws([(max(s, ~s) & _MASK, word) for s in self.seeds], tuple(like.shape[1:]), True)
        if turned := [i for i, s in enumerate(self.seeds) if s < 0]:
            rows[turned] *= -1
        return rows.to(device=like.device, dtype=like.dtype)

    def uniform(self, stage: int, like: Tensor, key: str = "") -> Tensor:
        """Uniform float64 numbers in [0, 1) of the shape of `like`, at an address of their own."""
        rows = uniforms(self.seeds, stage, f"{key}/{self.tile}", tuple(like.shape[1:]))
        return torch.from_numpy(rows).to(like.device)


@dataclass(frozen=True)
class Fresh:
    """Noise from a generator of the caller's; not reproducible across batch splits, useful in loops over one batch."""

    generator: torch.Generator

    def __call__(self, stage: int, like: Tensor, key: str = "") -> Tensor:
        n = torch.randn(like.shape, generator=self.generator, device=self.generator.device)
        return n.to(device=like.device, dtype=like.dtype)


@dataclass(frozen=True)
class Replay:
    """Noise given in advance, by (stage, key): what turns a sampler into a decoder of an encoded sample."""

    tape: dict[tuple[int, str], Tensor]

    def __call__(self, stage: int, like: Tensor, key: str = "") -> Tensor:
        if (stage, key) not in self.tape:
            raise KeyError(f"the tape holds no noise for stage {stage}, part '{key}'; it was recorded on another path")
        return self.tape[stage, key].to(device=like.device, dtype=like.dtype)


class Color(ABC):
    """A linear map from white noise to the noise of a schedule; it preserves the mean square per element."""

    @abstractmethod
    def __call__(self, n: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class White(Color):
    def __call__(self, n: Tensor) -> Tensor:
        return n


WHITE = White()


@dataclass(frozen=True)
class Spectral(Color):
    """Noise with amplitude |frequency|^(-exponent / 2) over the last two axes: 0 white, 1 pink, 2 brown."""

    exponent: float = 1.0

    def __call__(self, n: Tensor) -> Tensor:
        h, w = n.shape[-2:]
        fy = torch.fft.fftfreq(h, device=n.device, dtype=n.dtype)[:, None]
        fx = torch.fft.fftfreq(w, device=n.device, dtype=n.dtype)[None, :]
        f = (fx * fx + fy * fy).sqrt().clamp(min=1 / max(h, w))
        gain = f ** (-self.exponent / 2)
        gain = gain / gain.square().mean().sqrt()
        return torch.fft.ifft2(torch.fft.fft2(n) * gain).real


@dataclass(frozen=True)
class Shared(Color):
    """Noise with correlation `rho` between all frames of a clip (B, F, ...): rho = 1 is one noise for all frames."""

    rho: float = 0.5

    def __call__(self, n: Tensor) -> Tensor:
        # covariance (1 - rho) I + rho 11^T has the square root p I + q 11^T
        frames = n.shape[1]
        p = (1 - self.rho) ** 0.5
        q = ((1 - self.rho + frames * self.rho) ** 0.5 - p) / frames
        return p * n + q * n.sum(1, keepdim=True)
