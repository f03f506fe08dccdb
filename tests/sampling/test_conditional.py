"""Conditional: its process keeps the ODE, its rows are the conditional means, and few calls go far on normal data."""

import math

import pytest
import torch

from helpers import Normal, draw
from oneprior import paths
from oneprior.noise import Seeded
from oneprior.sampling import Sampler, sample, walk
from oneprior.sampling.auto import ANGLE, FEW, SIX
from oneprior.sampling.grids import FLOW
from oneprior.sampling.solvers import Adams, Conditional
from oneprior.schedules import EDM, VP, Cosine, RectifiedFlow, Schedule


def test_features_keep_the_ode() -> None:
    # with y = x/a and sbar = s/a:  dy/dsbar = (y - D)/sbar, feature by feature
    sbar = torch.tensor([0.004, 0.05, 0.3, 1.1, 6.0, 70.0], dtype=torch.float64, requires_grad=True)
    x, D = Conditional().features(torch.ones_like(sbar), sbar)
    for k in range(x.shape[1]):
        (slope,) = torch.autograd.grad(x[:, k].sum(), sbar, retain_graph=True)
        torch.testing.assert_close(slope, ((x[:, k] - D[:, k]) / sbar).detach(), rtol=1e-6, atol=1e-9)
    # one state at two scales of (a, s): x goes along, D stays
    far, same = Conditional().features(0.1 * torch.ones_like(sbar), 0.1 * sbar)
    torch.testing.assert_close(far, 0.1 * x)
    torch.testing.assert_close(same, D)


def test_features_end_at_the_data_and_begin_at_noise() -> None:
    one = torch.ones(1, dtype=torch.float64)
    x, D = Conditional().features(one, 0 * one)
    torch.testing.assert_close(x, D)
    x, D = Conditional().features(0 * one, one)
    scales = x.shape[1] // 2
    assert float(D[0, :-1].abs().max()) < 1e-100 and bool((x[0, scales:] == 0).all())
    assert float(x.square().sum()) == pytest.approx(1)  # noise of variance one


@pytest.mark.parametrize("schedule", [VP(), RectifiedFlow()], ids=lambda s: type(s).__name__)
def test_every_x_is_its_mean_given_the_first_and_all_calls(schedule: Schedule) -> None:
    solver, den = Conditional(noise=0.03), Normal(torch.tensor([0.3, -0.5]).double(), torch.eye(2).double(), schedule)
    times = FEW[6](schedule, 6)
    x, x0 = None, draw(3, 2)
    calls = []
    for out in walk(den, x0, paths.sync(times), solver, Seeded(range(3))):
        calls.append(out.mean)
        x = out.x
        level = torch.tensor([t for t in times[: len(calls) + 1]], dtype=torch.float64)
        a, _, s = schedule.coefs(level)
        fx, fd = solver.features(a, s)
        known = torch.cat([fx[:1], fd[:-1]])
        K = known @ known.T
        K[1:, 1:] += torch.diag(0.03**2 * K.diagonal()[1:])
        w = torch.linalg.solve(K, known @ fx[-1])
        torch.testing.assert_close(
            x, w[0] * x0 + sum(v * d for v, d in zip(w[1:], calls, strict=True)), atol=1e-7, rtol=0
        )
    assert len(calls) == 6


@pytest.mark.parametrize("schedule", [EDM(), Cosine()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize(("c", "bound"), [(0.03, 0.1), (0.2, 0.05), (0.7, 0.05)])
def test_normal_data_of_any_scale_at_six_calls(c: float, bound: float, schedule: Schedule) -> None:
    # measured, of c: 0.09 at c = 0.03, where the polynomial in the angle has 0.55
    mean, x = torch.tensor([0.4, -0.2], dtype=torch.float64), draw(64, 2) * schedule.at(1.0)[2]
    a, _, s = schedule.at(1.0)
    end = mean + (x - a * mean) * c / math.hypot(a * c, s)
    den = Normal(mean, c * c * torch.eye(2, dtype=torch.float64), schedule)

    def error(by: Sampler) -> float:
        got = sample(den, (64, 2), steps=6, sampler=by, start=x, seeds=range(64))
        return float((got - end).square().mean().sqrt()) / c

    found, angle = error(Sampler(SIX, FEW[6])), error(Sampler(Adams(2, ANGLE, corrector=True), FLOW))
    assert found < bound and found < 0.6 * angle, (found, angle)


def test_a_long_way_begins_anew_when_its_memory_is_full() -> None:
    mean, var = torch.zeros(2, dtype=torch.float64), 0.25 * torch.eye(2, dtype=torch.float64)
    x, den = draw(8, 2), Normal(mean, var, Cosine())
    for memory in (1, 3, 32):
        got = sample(den, (8, 2), steps=40, sampler=Sampler(Conditional(memory=memory), FLOW), start=x, seeds=range(8))
        assert float((got - 0.5 * x).abs().max()) < (0.3 if memory == 1 else 0.05)
        plan = Conditional(memory=memory).plan(Cosine(), paths.sync(FLOW(Cosine(), 40)))
        assert max(len(row.w) for stage in plan for row in stage.rows) <= memory


@pytest.mark.parametrize(
    "wrong", [{"low": 0.0}, {"low": 3.0}, {"noise": 0.0}, {"share": -1.0}, {"mean": 0.0}, {"memory": 0}]
)
def test_bad_settings(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="low < high"):
        Conditional(**wrong)  # type: ignore[arg-type]
