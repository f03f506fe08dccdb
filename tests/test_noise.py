"""Noise is a pure function of (seed; stage, part, tile); coloured noise has the covariance it states."""

from concurrent.futures import ThreadPoolExecutor
from math import sqrt

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers import affine, draw
from oneprior import noise
from oneprior.noise import Fresh, Replay, Seeded, Shared, Spectral, White

SEEDS = [*range(90), -1, -7, 2**40, 2**63, 2**64 + 5, 123456789]
SHAPE = (2, 3, 5)


def like(n: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(n, *SHAPE, dtype=dtype)


@pytest.mark.parametrize("split", [7, 32, 96])
def test_bit_identical_for_any_split_and_order(split: int) -> None:
    whole = Seeded(SEEDS)(3, like(96), "image")
    parts = [SEEDS[i : i + split] for i in range(0, 96, split)]
    assert torch.equal(whole, torch.cat([Seeded(p)(3, like(len(p)), "image") for p in parts]))
    order = np.random.default_rng(split).permutation(96)
    shuffled = Seeded([SEEDS[i] for i in order])(3, like(96), "image")
    assert torch.equal(whole[torch.from_numpy(order)], shuffled)


def test_every_part_of_the_address_counts() -> None:
    x = like(2)
    draws = [
        Seeded([5, 6])(0, x), Seeded([5, 6])(1, x), Seeded([5, 6])(-1, x), Seeded([5, 6])(0, x, "a"),
        Seeded([5, 6])(0, x, "b"), Seeded([5, 6], "1,0")(0, x), Seeded([5, 6], "0,1")(0, x),
    ]  # fmt: skip
    rows = torch.cat([d.reshape(2, -1) for d in draws])
    assert len({tuple(r.tolist()) for r in rows}) == len(rows)
    assert torch.equal(Seeded([5, 6])(0, x), draws[0])


def test_the_type_is_a_cast_and_nothing_else() -> None:
    single = Seeded([1, 2])(4, like(2))
    assert torch.equal(Seeded([1, 2])(4, like(2, torch.float64)), single.double())
    assert torch.equal(Seeded([1, 2])(4, like(2, torch.bfloat16)), single.bfloat16())


def test_threads_do_not_meet() -> None:
    with ThreadPoolExecutor(8) as pool:
        many = list(pool.map(lambda s: Seeded([s])(0, like(1)), range(64)))
    assert torch.equal(torch.cat(many), Seeded(range(64))(0, like(64)))


def test_a_seed_a_sample() -> None:
    with pytest.raises(ValueError, match="3 seeds were given for a batch of 4"):
        Seeded([1, 2, 3])(0, like(4))


def test_normal_within_five_standard_errors() -> None:
    n = 200_000
    x = Seeded(range(200))(0, torch.empty(200, n // 200)).double()
    for power, mean, var in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)):  # of z^power
        assert abs(float((x**power).mean()) - mean) < 5 * sqrt(var / n)
    inside = float((x.abs() < 1).double().mean())
    assert abs(inside - 0.6826894921) < 5 * sqrt(0.6827 * 0.3173 / n)


@pytest.mark.parametrize("what", ["seeds", "stages", "keys", "tiles", "bits", "within"])
def test_nearby_addresses_have_nothing_in_common(what: str) -> None:
    n, x = 4096, torch.empty(1, 4096)
    rows = {
        "seeds": lambda k: Seeded([k])(0, x),
        "stages": lambda k: Seeded([0])(k, x),
        "keys": lambda k: Seeded([0])(0, x, str(k)),
        "tiles": lambda k: Seeded([0], str(k))(0, x),
        "bits": lambda k: Seeded([1 << k])(0, x),
        "within": lambda k: Seeded([0])(0, torch.empty(1, 32 * n))[:, n * k : n * k + n],
    }[what]
    z = torch.cat([rows(k) for k in range(32)]).double()
    corr = torch.corrcoef(z) - torch.eye(32)
    assert corr.abs().max() < 5 / sqrt(n)
    shifted = torch.corrcoef(torch.cat([z[:, 1:], z[:, :-1]]))[:32, 32:]
    assert shifted.abs().max() < 5 / sqrt(n)
    mean, var = z.mean(1), z.var(1)
    assert mean.abs().max() < 5 / sqrt(n) and (var - 1).abs().max() < 5 * sqrt(2 / n)


def test_keyed_primitives() -> None:
    rows = noise.normal(3, "order", [4, 9, 4], (2, 5))
    assert rows.shape == (3, 2, 5) and rows.dtype == np.float32
    assert np.array_equal(rows[1], noise.normal(3, "order", 9, (2, 5))) and np.array_equal(rows[0], rows[2])
    assert not np.array_equal(noise.normal(3, "other", 9, (2, 5)), rows[1])
    u = noise.uniform(3, "order", range(20_000))
    assert u.dtype == np.float64 and u.shape == (20_000,) and u.min() >= 0 and u.max() < 1
    assert abs(u.mean() - 0.5) < 5 / sqrt(12 * 20_000) and abs(u.var() - 1 / 12) < 5 * sqrt(1 / 180 / 20_000)
    assert float(noise.uniform(3, "order", 7)) == u[7]


def test_fresh_and_replay() -> None:
    a, b = (Fresh(torch.Generator().manual_seed(4))(0, like(2)) for _ in range(2))
    assert torch.equal(a, b) and a.shape == like(2).shape
    tape = {(0, ""): draw(2, *SHAPE), (3, "image"): draw(2, *SHAPE, seed=1)}
    replay = Replay(tape)
    assert torch.equal(replay(3, like(2, torch.float64), "image"), tape[3, "image"])
    assert replay(0, like(2)).dtype == torch.float32
    with pytest.raises(KeyError, match="stage 1, part 'image'"):
        replay(1, like(2), "image")


def test_white_is_the_identity() -> None:
    x = draw(2, 3)
    assert White()(x) is x


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 6, 9)])
def test_spectral_noise_has_the_power_it_states(exponent: float, shape: tuple[int, int, int]) -> None:
    """Push unit vectors through: the covariance is circulant with eigenvalues |f|^-exponent, and its mean is 1."""
    offset, M = affine(Spectral(exponent), shape)
    C, (c, h, w) = M @ M.mT, shape
    assert offset.abs().max() == 0
    torch.testing.assert_close(C, C.mT)
    torch.testing.assert_close(C.diagonal(), torch.ones(c * h * w).double(), rtol=1e-12, atol=1e-12)  # stationary, unit
    fy, fx = np.meshgrid(np.fft.fftfreq(h), np.fft.fftfreq(w), indexing="ij")
    power = np.maximum(np.hypot(fy, fx), 1 / max(h, w)) ** -exponent
    row = C[0, : h * w].reshape(h, w)
    torch.testing.assert_close(torch.fft.fft2(row).real, torch.from_numpy(power / power.mean()), rtol=1e-10, atol=1e-12)
    assert C[0, h * w :].abs().sum() == 0  # channels are independent


@pytest.mark.parametrize("rho", [0.0, 0.5, 1.0])
def test_shared_noise_has_the_correlation_it_states(rho: float) -> None:
    F, inner = 5, 3
    _, M = affine(Shared(rho), (F, inner))
    want = (1 - rho) * torch.eye(F) + rho * torch.ones(F, F)
    torch.testing.assert_close(M @ M.mT, torch.kron(want, torch.eye(inner)).double(), rtol=1e-12, atol=1e-12)


def test_spectral_noise_does_not_change_its_type() -> None:
    assert Spectral()(draw(2, 4, 4, dtype=torch.float32)).dtype == torch.float32


def test_opposite_seeds_have_opposite_noise() -> None:
    seeds = [0, 5, 2**40]
    x, turned = like(3), [~s for s in seeds]
    assert torch.equal(Seeded(turned)(2, x, "image"), -Seeded(seeds)(2, x, "image"))
    u = noise.uniforms(seeds, 1, "value", SHAPE)
    assert np.abs(noise.uniforms(turned, 1, "value", SHAPE) + u - 1).max() < 1e-15
    assert noise.uniforms(turned, 1, "value", (4096,)).max() < 1
    assert noise.antithetic(range(6), 3) == (0, -1, 2, 3, -4, 5) and noise.antithetic(range(3), 1) == (0, 1, 2)
