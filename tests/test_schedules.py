"""Schedules against published constants, exact ends, finite differences and the forward process they stand for."""

from math import atan, cos, inf, log, pi, sin, sqrt, tan

import numpy as np
import pytest
import torch

from helpers import ANCHORED, PRESERVING, SCHEDULES
from oneprior.schedules import (
    EDM,
    VE,
    VP,
    Cosine,
    CosineBetas,
    Eta,
    Kappa,
    Laplace,
    LinearBetas,
    Own,
    RectifiedFlow,
    ScaledLinearBetas,
    Schedule,
    Sigmoid,
    SubVP,
)

ALL = {**SCHEDULES, **ANCHORED}
INNER = torch.cat(
    [torch.tensor([1e-4, 1e-3]), torch.linspace(0.0137, 0.9873, 19), torch.tensor([0.999, 1 - 1e-4])]
).double()


@pytest.mark.parametrize("name", ALL)
def test_data_stands_at_zero_exactly(name: str) -> None:
    for t in (0.0, 0, torch.zeros(2), torch.zeros(2, 3, dtype=torch.float64)):
        a, b, s = ALL[name].at(t)
        assert bool(torch.as_tensor(a == 1.0).all()) and bool(torch.as_tensor(s == 0.0).all())
        assert (b is None) == (name in SCHEDULES)
        assert b is None or bool(torch.as_tensor(b == 0.0).all())
    assert ALL[name].lam(0.0) == inf and ALL[name].time(inf) == 0.0


@pytest.mark.parametrize("name", PRESERVING)
def test_variance_is_preserved(name: str) -> None:
    a, _, s = SCHEDULES[name].at(torch.cat([INNER, torch.tensor([0.0, 1.0])]))
    assert (a * a + s * s - 1).abs().max() < 1e-14


@pytest.mark.parametrize(
    ("schedule", "abar"), [(LinearBetas(), 4.036e-5), (VP(), 4.319e-5), (ScaledLinearBetas(), 4.66e-3)]
)
def test_published_ends(schedule: Schedule, abar: float) -> None:
    assert schedule.at(1.0)[0] ** 2 == pytest.approx(abar, rel=1.5e-4 if abar < 1e-3 else 1e-3)


def test_more_published_constants() -> None:
    assert ScaledLinearBetas().at(1.0)[0] == pytest.approx(0.0683, abs=5e-5)
    assert LinearBetas().at(0.001)[0] ** 2 == pytest.approx(1 - 1e-4, abs=1e-15)
    assert VE().at(1.0)[2] == pytest.approx(50.0, rel=1e-7) and VE().at(0.5)[2] == pytest.approx(sqrt(0.5), rel=1e-3)
    assert EDM().at(0.5) == (1.0, None, 40.0)
    assert RectifiedFlow().at(0.3) == (0.7, None, 0.3)
    assert Cosine().at(1.0)[0] == 0.0 and Cosine().lam(0.25) == pytest.approx(-log(tan(pi / 8)))
    assert Cosine(scale=0.5).at(0.5)[2] == pytest.approx(0.5 * sin(pi / 4))  # TrigFlow, data of standard deviation .5
    f0 = cos(pi / 2 * 0.008 / 1.008) ** 2
    assert CosineBetas().at(0.5)[0] ** 2 == pytest.approx(cos(pi / 2 * 0.508 / 1.008) ** 2 / f0, rel=1e-9)
    assert Sigmoid().at(0.5)[0] ** 2 == pytest.approx(0.5)
    assert Laplace(mu=1.0, b=0.5).lam(0.5) == pytest.approx(0.5)  # half of mu
    assert 2 * Laplace(b=0.5).lam(0.1) == pytest.approx(-0.5 * log(1 - 2 * 0.4))
    assert SubVP().at(0.4)[0] == VP().at(0.4)[0] and SubVP().at(0.4)[2] == pytest.approx(VP().at(0.4)[2] ** 2)


@pytest.mark.parametrize("schedule", [LinearBetas(), ScaledLinearBetas(), CosineBetas(), LinearBetas(T=250)])
def test_tables_are_the_products_of_their_betas(schedule: LinearBetas) -> None:
    betas = {
        LinearBetas: lambda T: np.linspace(1e-4, 0.02, T) * 1000 / T,
        ScaledLinearBetas: lambda T: np.linspace(0.00085**0.5, 0.012**0.5, T) ** 2,
        CosineBetas: lambda T: np.minimum(1 - _cosine(np.arange(1, T + 1) / T) / _cosine(np.arange(T) / T), 0.999),
    }[type(schedule)](schedule.T)
    t = torch.arange(1, schedule.T + 1, dtype=torch.float64) / schedule.T  # index k is the time (k + 1) / T
    torch.testing.assert_close(schedule.at(t)[0] ** 2, torch.from_numpy(np.cumprod(1 - betas)), rtol=1e-9, atol=1e-18)


def _cosine(t: np.ndarray) -> np.ndarray:
    return np.cos(np.pi / 2 * (t + 0.008) / 1.008) ** 2


@pytest.mark.parametrize("table", [LinearBetas, ScaledLinearBetas, CosineBetas])
def test_zero_terminal_snr_is_zero_and_keeps_the_first(table: type[LinearBetas]) -> None:
    plain, zero = table(), table(zero_snr=True)
    assert zero.at(1.0)[0] == 0.0 and zero.at(1.0)[2] == 1.0 and zero.lam(1.0) == -inf
    assert zero.at(0.001)[0] == pytest.approx(plain.at(0.001)[0], rel=1e-12)
    a_1, a_T = plain.at(0.001)[0], plain.at(1.0)[0]
    for t in (0.25, 0.5, 0.999):
        assert zero.at(t)[0] == pytest.approx((plain.at(t)[0] - a_T) * a_1 / (a_1 - a_T), rel=1e-9)


@pytest.mark.parametrize("name", ALL)
def test_time_is_the_inverse_of_lam(name: str) -> None:
    schedule = ALL[name]
    lam = schedule.lam(INNER)
    assert bool((lam[1:] < lam[:-1]).all())
    torch.testing.assert_close(schedule.time(lam), INNER, rtol=1e-7, atol=1e-9)
    for t in INNER[::6].tolist():
        assert schedule.time(schedule.lam(t)) == pytest.approx(t, rel=1e-7, abs=1e-9)
    end = schedule.lam(1.0)
    assert schedule.time(end) == pytest.approx(1.0, abs=1e-12) and schedule.time(end - 5.0) <= 1.0
    assert bool(torch.isfinite(schedule.time(torch.tensor([-40.0, 0.0, 40.0, inf, -inf]))).all())


@pytest.mark.parametrize("name", ALL)
def test_slopes_against_finite_differences(name: str) -> None:
    schedule, h = ALL[name], 1e-6
    t = torch.linspace(0.0237, 0.9773, 13, dtype=torch.float64)  # between the indices of every table
    for d, lo, hi in zip(schedule.slope(t), schedule.at(t - h), schedule.at(t + h), strict=True):
        if d is None:
            assert lo is None
            continue
        fd = (hi - lo) / (2 * h)
        assert (d - fd).abs().max() < 1e-6 * fd.abs().max().clamp(min=1)
    for d, v in zip(schedule.slope(t), schedule.slope(t[5].item()), strict=True):
        assert d is None or d[5].item() == pytest.approx(v, rel=1e-12)


def test_shift_of_rectified_flow_is_the_formula_of_sd3() -> None:
    t, factor = INNER, 3.0
    moved = factor * t / (1 + (factor - 1) * t)
    a, _, s = RectifiedFlow().shift(factor).at(t)
    torch.testing.assert_close(s, moved, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(a, 1 - moved, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("schedule", [RectifiedFlow(), Cosine(), VP(), LinearBetas()])
@pytest.mark.parametrize("factor", [0.25, 3.0])
def test_shift_lowers_lam(schedule: Schedule, factor: float) -> None:
    t = torch.linspace(0.05, 0.7, 8, dtype=torch.float64)
    shifted = schedule.shift(factor)
    torch.testing.assert_close(shifted.lam(t), schedule.lam(t) - log(factor), rtol=1e-9, atol=1e-9)
    assert shifted.time(shifted.lam(0.4)) == pytest.approx(0.4, abs=1e-9)
    assert shifted.at(0.0) == (1.0, None, 0.0)


def test_shift_ends_at_the_noisiest_level_there_is() -> None:
    """VP ends at a finite log-SNR: levels beyond it do not exist, and the last one stands for them."""
    assert VP().shift(3.0).at(1.0) == pytest.approx((VP().at(1.0)[0], None, VP().at(1.0)[2]))
    assert VP().shift(0.5).lam(1.0) == pytest.approx(VP().lam(1.0) + log(2))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("kappa", [0.0, 0.3, 1.0, 2.5, Kappa(0.7), Eta(0.0), Eta(0.5), Eta(1.0), Own()], ids=str)
def test_every_stochasticity_keeps_the_marginals(name: str, kappa: float | Eta | Kappa | Own) -> None:
    """With D = x_0 the step is rho of the noise that was and std of new: rho^2 s_t^2 + std^2 = s_s^2."""
    schedule, t = ALL[name], torch.tensor([1.0, 0.93, 0.5, 0.5, 0.02, 0.7], dtype=torch.float64)
    s = torch.tensor([0.8, 0.31, 0.49, 0.0, 1e-4, 0.7], dtype=torch.float64)
    rho, std = schedule.transition(t, s, kappa)
    s_t, s_s = schedule.at(t)[2], schedule.at(s)[2]
    assert ((rho * s_t) ** 2 + std**2 - s_s**2).abs().max() <= 1e-12 * s_s.max() ** 2
    assert bool((rho >= 0).all()) and bool((std >= 0).all())
    assert (rho[-1], std[-1]) == (1.0, 0.0) and (rho[3] * s_t[3], std[3]) == (0.0, 0.0)
    one = schedule.transition(0.93, 0.31, kappa)
    assert one == pytest.approx((rho[1].item(), std[1].item()), rel=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_way_up_is_the_forward_process(name: str) -> None:
    """q(x_s | x_t) for s > t: mean (a_s / a_t) x_t, variance s_s^2 - (a_s / a_t)^2 s_t^2, whatever kappa."""
    schedule = SCHEDULES[name]
    for t, s in ((0.2, 0.7), (0.0, 0.5), (0.001, 0.999)):
        (a_t, _, s_t), (a_s, _, s_s) = schedule.at(t), schedule.at(s)
        r = a_s / a_t
        for kappa in (0.0, 1.0):
            rho, std = schedule.transition(t, s, kappa)
            assert rho == pytest.approx(r, rel=1e-12)
            assert std**2 == pytest.approx(s_s**2 - r**2 * s_t**2, rel=1e-9)


def test_numbers_come_back_as_they_went_in() -> None:
    for schedule in (VP(), RectifiedFlow(), LinearBetas()):
        assert all(type(v) is float for v in (*schedule.at(0.5)[::2], *schedule.slope(0.5)[::2], schedule.lam(0.5)))
        assert type(schedule.time(0.5)) is float and type(schedule.transition(0.5, 0.2)[0]) is float
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            t = torch.full((2, 1, 3), 0.5, dtype=dtype)
            for v in (*schedule.at(t)[::2], *schedule.slope(t)[::2], schedule.lam(t), schedule.time(t)):
                assert v.dtype == dtype and v.shape == t.shape
        assert schedule.at(torch.tensor([0, 1]))[0].dtype == torch.float32


@pytest.mark.parametrize("t", [-0.1, 1.0001, 80.0])
def test_times_outside_are_refused(t: float) -> None:
    with pytest.raises(ValueError, match="time runs from 0"):
        VP().at(t)


def test_schedules_are_values() -> None:
    assert VP() == VP() and hash(VP().shift(2.0)) == hash(VP().shift(2)) and VP() != VP(bmax=10.0)
    assert len({*SCHEDULES.values(), *SCHEDULES.values()}) == len(SCHEDULES)


def test_lam_of_cosine_time_is_what_grids_take_it_for() -> None:
    t = 0.3
    assert 2 / pi * atan(2.718281828459045 ** -Cosine().lam(t)) == pytest.approx(t, rel=1e-12)
