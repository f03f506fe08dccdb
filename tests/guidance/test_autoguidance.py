"""Autoguidance: away from a bad model, through the good one, to the data (guidance, proof 1)."""

from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import Normal, Simple, draw
from oneprior import paths
from oneprior.denoiser import Denoiser
from oneprior.guidance import APG, CFG, AutoGuidance
from oneprior.noise import Seeded
from oneprior.sampling import Heun, sample, walk
from oneprior.schedules import EDM, VP, RectifiedFlow


def normal(variance: float) -> Denoiser:
    schedule = EDM(1e4)
    return Simple(lambda x, t: variance / (variance + schedule.at(t)[2] ** 2) * x, schedule)


def test_the_line_through_the_good_model_leads_to_the_data() -> None:
    """Variances 1.21 and 1.4641, data 1: w = 2 gives 1.21^2 / 1.4641 = 1 within .1 % at 4000 log steps."""
    times = [1e3 / 1e4 * 1e-6 ** (i / 4000) for i in range(4001)]

    def variance(den: Denoiser, path: paths.Path) -> float:
        *_, out = walk(den, torch.full((1, 1), 1e3).double(), path, Heun(), Seeded([0]))
        return float(out.x) ** 2

    guided = AutoGuidance(normal(1.21), normal(1.4641), 2.0)
    assert variance(guided, paths.sync(times)) == pytest.approx(1.0, rel=1e-3)
    assert variance(normal(1.21), paths.sync(times[::10])) == pytest.approx(1.21, rel=1e-3)


def test_the_formula_and_its_calls() -> None:
    x, label = draw(3, 4), torch.tensor([1.0, 2.0, 3.0])
    good = Simple(lambda x, t, label: torch.tanh(x + label[:, None]), VP(), 1)
    bad = Simple(lambda x, t, label: torch.tanh(0.5 * x + label[:, None]), VP(), 0)
    D, B = good(x, 0.4, label=label).mean, bad(x, 0.4, label=label).mean
    good.calls.clear()
    bad.calls.clear()
    guided = AutoGuidance(good, bad, 3.0)
    torch.testing.assert_close(guided(x, 0.4, label=label).mean, B + 3 * (D - B), rtol=1e-12, atol=1e-12)
    assert [len(d.calls) for d in (good, bad)] == [1, 1], "each its own call, with the same condition"
    AutoGuidance(good, bad, 1.0)(x, 0.4, label=label)
    assert [len(d.calls) for d in (good, bad)] == [2, 1], "plain asks the good one alone"
    assert guided.facts.time_axes == 0, "what both can do"
    with pytest.raises(ValueError, match="time_axes=0"):
        guided(x, torch.rand(3, 4), label=label)


@pytest.mark.parametrize("t", [0.7, torch.tensor([0.2, 0.5, 0.9]).double(), draw(3, 4).sigmoid()], ids=["", "B", "BD"])
def test_the_bad_model_may_have_another_schedule(t: Any) -> None:
    x, cov = draw(3, 4), torch.eye(4)
    here, there = (Normal(torch.zeros(4), 1.5 * cov, s) for s in (VP(), RectifiedFlow()))
    good = Normal(torch.zeros(4), cov, VP())
    got, want = (AutoGuidance(good, bad, 2.0)(x, t).mean for bad in (there, here))
    assert (got - want).abs().max() < 1e-9


def test_it_stacks() -> None:
    def f(x: Tensor, t: Any, label: Tensor) -> Tensor:
        return torch.tanh(x + label.to(x)[:, None])

    good, bad = Simple(f, VP(), 0, {"label": 0}), Simple(lambda *a, **k: 0.9 * f(*a, **k), VP(), 0, {"label": 0})
    x, label = draw(3, 4), torch.tensor([1, 2, 3])
    both = AutoGuidance(CFG(good, 2.0), CFG(bad, 2.0), 1.5)(x, 0.4, label=label).mean
    D = CFG(good, 2.0)(x, 0.4, label=label).mean
    torch.testing.assert_close(both, 0.9 * D + 1.5 * 0.1 * D)
    momentum = AutoGuidance(APG(good, 2.0, momentum=-0.5), APG(bad, 2.0, momentum=-0.5), 1.5)
    begun = momentum.begin()
    assert isinstance(begun, AutoGuidance)
    assert begun.bad is not momentum.bad and begun.inner is not momentum.inner, "each has a trajectory of its own"
    first, second = (sample(momentum, (3, 4), steps=4, seeds=range(3), label=label) for _ in range(2))
    assert torch.equal(first, second)
