"""Denoisers: a network under a schedule, one model under many schedules, and the bound whose integrand is `nats`."""

from dataclasses import replace
from math import log
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from helpers import ANCHORED, SCHEDULES, Normal, Simple, ar1, draw
from oneprior.denoiser import Denoiser, Facts, NetworkDenoiser, Rescheduled, Wrapper, with_schedule, wrap
from oneprior.exact import Gaussian
from oneprior.posterior import PREDICTIONS, EDMPrediction, Posterior
from oneprior.schedules import EDM, VE, VP, Cosine, LinearBetas, RectifiedFlow, Schedule
from oneprior.times import Clock, align


class Ideal(nn.Module):
    """E[target | x_t] for x_0 ~ N(.3, .5) elementwise: what a perfectly trained network of this prediction returns."""

    def __init__(self, schedule: Schedule, kind: Any) -> None:
        super().__init__()
        self.schedule, self.kind = schedule, kind

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        a, s = (align(v, x) for v in self.schedule.at(t)[::2])
        row = self.kind.row(self.schedule, t)
        x = x / (row.c if isinstance(row.c, float) else align(row.c, x))
        D = 0.3 + a * 0.5 / (a * a * 0.5 + s * s) * (x - a * 0.3)
        return align(row.u, x) * D + align(row.w, x) * (x - a * D) / s


@pytest.mark.parametrize("kind", [*PREDICTIONS.values(), EDMPrediction(1.3)], ids=lambda k: k.name)
@pytest.mark.parametrize("name", SCHEDULES)
def test_an_ideal_network_becomes_the_exact_denoiser(name: str, kind: Any) -> None:
    schedule, x = SCHEDULES[name], draw(4, 3)
    exact = Gaussian(torch.full((3,), 0.3, dtype=torch.float64), 0.5).denoiser(schedule)
    den = wrap(Ideal(schedule, kind), schedule, kind, time_axes=1)
    assert den.facts.prediction == kind.name
    for t in (0.003, 0.4, 0.97, torch.tensor([0.1, 0.4, 0.7, 0.9]).double(), torch.rand(4, 3).double() * 0.9 + 0.05):
        torch.testing.assert_close(den(x, t).mean, exact(x, t).mean, rtol=1e-8, atol=1e-8)


def test_a_table_of_thousand_integer_steps() -> None:
    """A network that wants integer steps gets them: t = (k + 1) / 1000 is step k."""
    seen = []

    class Net(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            seen.append(t)
            return x

    den = wrap(Net(), LinearBetas(), "eps", time=lambda schedule, t: 1000 * t - 1)
    den(torch.zeros(2, 3), 0.5)
    den(torch.zeros(2, 3), torch.tensor([0.001, 1.0]))
    assert seen[0].tolist() == [499.0, 499.0] and seen[1].tolist() == pytest.approx([0.0, 999.0], abs=1e-4)


def test_variance_head() -> None:
    """Var = e^h s^2 / (a^2 + s^2): h = 0 is the exact answer for unit Gaussian data."""

    class Net(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return torch.cat([x, torch.full_like(x, log(2.0))], 1)

    x = draw(2, 3, 4, 4)
    den = NetworkDenoiser(Net(), VP(), "x0", variance=True)
    post = den(x, 0.4)
    a, _, s = VP().at(0.4)
    assert torch.equal(post.mean, x) and post.var is not None
    torch.testing.assert_close(post.var, torch.full_like(x, 2 * s * s / (a * a + s * s)))
    per_sample = den(x, torch.tensor([0.4, 0.4]).double()).var
    assert per_sample is not None
    torch.testing.assert_close(per_sample, post.var)
    unit = Normal(torch.zeros(4), torch.eye(4), VP())(draw(2, 4), 0.4).var
    assert unit is not None
    torch.testing.assert_close(unit, torch.full_like(unit, s * s / (a * a + s * s)))


@pytest.mark.parametrize("other", ["rf", "ve", "vp", "edm", "linear betas", "laplace", "rf, shifted"])
def test_with_schedule_is_the_model_trained_under_it(other: str) -> None:
    """Equal log-SNR and a rescaled x are the same problem: mean, variance, score and velocity of the other schedule."""
    m, K = draw(3), ar1(3)
    wrapped = with_schedule(Normal(m, K, Cosine()), SCHEDULES[other])
    native, x = Normal(m, K, SCHEDULES[other]), draw(5, 3, seed=2)
    assert wrapped.schedule == SCHEDULES[other] and isinstance(wrapped, Rescheduled)
    for t in (0.002, 0.3, 0.8, 0.999, torch.rand(5, 3).double() * 0.9 + 0.05):
        a, b = wrapped(x, t), native(x, t)
        for view in ("mean", "var", "score", "velocity"):
            got, want = getattr(a, view), getattr(b, view)
            assert (got - want).abs().max() < 1e-8 * want.abs().max().clamp(min=1)


def test_with_schedule_at_the_ends_and_beyond() -> None:
    den = Normal(torch.zeros(2), torch.eye(2), VP())
    assert with_schedule(den, VP()) is den
    flow, x = with_schedule(den, RectifiedFlow()), draw(3, 2)
    torch.testing.assert_close(flow(x, 0.0).mean, x, rtol=1e-9, atol=1e-9)
    # pure noise lies beyond VP's noisiest time: asked there, where almost nothing is known
    assert flow(x, 1.0).mean.abs().max() < 0.05
    for schedule in ANCHORED.values():
        with pytest.raises(ValueError, match="without an anchor"):
            with_schedule(den, schedule)


def _expected_nats(x0: float, lam: np.ndarray, m: float, v: float) -> np.ndarray:
    """E_eps[SNR |x_0 - D|^2] for x_0 ~ N(m, v), worked out by hand."""
    snr = np.exp(2 * lam)
    return snr * ((x0 - m) ** 2 + v * v * snr) / (1 + v * snr) ** 2


@pytest.mark.parametrize("name", ["vp", "rf", "ve", "cosine"])
def test_nats_integrates_to_the_log_density(name: str) -> None:
    """-log p(x) = const + the integral of E[nats] over lam; the constant is the same for every x and every law."""
    schedule, m, v = SCHEDULES[name], 0.3, 0.5
    den = Normal(torch.tensor([m], dtype=torch.float64), torch.tensor([[v]]), schedule)
    nodes, weights = np.polynomial.hermite_e.hermegauss(6)  # exact: nats is a square of something linear in eps
    eps, w = torch.from_numpy(nodes)[:, None], torch.from_numpy(weights / weights.sum())
    lam = np.linspace(-7, 9, 900) if name == "ve" else np.linspace(-5, 9, 900)
    lam = lam[(lam > schedule.lam(1.0)) & (lam < schedule.lam(1e-7))]
    totals = []
    for x0 in (1.3, 0.2):
        at = torch.full((6, 1), x0, dtype=torch.float64)
        f = np.array([float(w @ den.nats(at, schedule.time(float(u)), eps)) for u in lam[::9]])
        np.testing.assert_allclose(f, _expected_nats(x0, lam[::9], m, v), rtol=1e-7)
        totals.append(np.trapezoid(_expected_nats(x0, lam, m, v), lam))
    gap = ((1.3 - m) ** 2 - (0.2 - m) ** 2) / (2 * v)
    assert totals[0] - totals[1] == pytest.approx(gap, rel=3e-3)  # the ends cut off


def test_nats_is_what_it_says() -> None:
    x0, eps, y = draw(3, 2, 4), draw(3, 2, 4, seed=1), draw(3, 2, 4, seed=2)
    for schedule in (VP(), RectifiedFlow(), *ANCHORED.values()):
        den = Normal(torch.zeros(2, 4), torch.eye(8), schedule)
        for t in (0.2, torch.tensor([0.2, 0.5, 0.9]).double()):
            a, b, s = (align(0.0 if v is None else v, x0) for v in schedule.at(t))
            x = a * x0 + b * y + s * eps
            want = ((a / s) ** 2 * (x0 - den(x, t, y=y).mean) ** 2).sum((1, 2))
            torch.testing.assert_close(den.nats(x0, t, eps, y=y), want)


class Offset(Wrapper):
    def __init__(self, inner: Denoiser, by: float) -> None:
        super().__init__(inner, density=False)
        self.by = by

    def posterior(self, x: Tensor, t: Any, **cond: Any) -> Posterior:
        post = self.inner(x, t, **cond)
        return post.replace(post.mean + self.by)


class Fresh(Simple):
    """A denoiser with state for one trajectory."""

    def begin(self, path: Any = None) -> Denoiser:
        return Fresh(self.f, self.schedule)


def test_wrappers_stack_and_begin_anew_only_where_needed() -> None:
    den = wrap(nn.Linear(3, 3, dtype=torch.float64), VP(), "x0")
    den.net.forward = lambda x, t: nn.functional.linear(x, den.net.weight)  # type: ignore[method-assign]
    stack = Offset(Offset(den, 1.0), 10.0)
    x = draw(2, 3)
    torch.testing.assert_close(stack(x, 0.3).mean, den(x, 0.3).mean + 11)
    assert stack.net is den.net and stack.schedule is den.schedule and not stack.facts.density
    assert den.facts.density and list(stack.parameters())
    assert stack.begin() is stack

    inner = Fresh(lambda x, t: 2 * x, VP())
    outer = Offset(Offset(inner, 1.0), 10.0)
    twin = outer.begin()
    assert isinstance(twin, Offset) and twin is not outer and twin.by == 10.0
    assert isinstance(twin.inner, Offset) and twin.inner.inner is not inner and outer.inner is not twin.inner
    torch.testing.assert_close(twin(x, 0.3).mean, outer(x, 0.3).mean)
    assert not hasattr(twin, "missing") and len(inner.calls) == 1


def test_facts_are_frozen_and_hashable() -> None:
    facts = Facts(null={"label": 10})
    assert hash(facts) == hash(replace(facts)) and facts.null["label"] == 10
    assert wrap(nn.Identity(), VP(), "eps", t_range=(0.0, 0.5)).facts.t_range == (0.0, 0.5)


def test_unknown_prediction() -> None:
    with pytest.raises(ValueError, match="'noise' is not known"):
        wrap(nn.Identity(), VP(), "noise")


def test_integer_and_zero_dimensional_times() -> None:
    den, x = Normal(torch.zeros(2), torch.eye(2), EDM()), draw(3, 2)
    for t in (1, torch.tensor(1.0), torch.tensor(1)):
        assert torch.equal(den(x, t).mean, den(x, 1.0).mean)
    with pytest.raises(ValueError, match="time runs from 0"):
        den(x, 500.0)  # a step of a thousand, or EDM's sigma, taken for a time
    assert with_schedule(den, VE()).schedule == VE()


def test_what_a_network_returns_is_taken_apart_and_its_shape_held() -> None:
    class Output:
        def __init__(self, sample: Tensor) -> None:
            self.sample = sample

    x = draw(4, 2, 3, 3)
    for call in (lambda x, t: Output(2 * x), lambda x, t: (2 * x, None)):
        torch.testing.assert_close(wrap(call, VP(), "x0")(x, 0.3).mean, 2 * x)

    def double(x: Tensor, t: Tensor) -> Tensor:
        return torch.cat([2 * x, x], 1)

    assert wrap(double, VP(), "x0", channels="half")(x, 0.3).var is None
    with pytest.raises(ValueError, match=r"channels='eps\+var'"):
        wrap(double, VP(), "x0")(x, 0.3)
    with pytest.raises(ValueError, match=r"\(4, 3\) for x of shape \(4, 2, 3, 3\)"):
        wrap(lambda x, t: x[:, 0, 0], VP(), "x0")(x, 0.3)
    with pytest.raises(ValueError, match="'both' is not known"):
        wrap(double, VP(), "x0", channels="both")


@pytest.mark.parametrize("k", [0, 1, 2, 400, 999])
def test_the_learned_variance_of_a_step_tells_that_of_x0(k: int) -> None:
    """For Gaussian data of variance v a head that knows the step's true variance gives back Var[x_0 | x_t]."""
    v, schedule = 0.3, LinearBetas()
    betas = schedule.betas()
    abar = torch.cumprod(1 - betas, 0)
    now, before = abar[k], abar[k - 1] if k else torch.ones((), dtype=torch.float64)
    post = v * (1 - now) / (now * v + 1 - now)
    btilde = betas[k] * (1 - before) / (1 - now)
    low = btilde if k else betas[1] * (1 - abar[0]) / (1 - abar[1])
    true = btilde + (before.sqrt() * betas[k] / (1 - now)) ** 2 * post
    f = (true.log() - low.log()) / (betas[k].log() - low.log())
    h = (2 * f - 1).clamp(-1.5, 1.5)

    def net(x: Tensor, t: Tensor) -> Tensor:
        return torch.cat([x, h.expand_as(x)], 1)

    var = wrap(net, schedule, "eps", channels="eps+var", time=Clock(1000, -1))(draw(2, 1, 2, 2), (k + 1) / 1000).var
    assert var is not None
    torch.testing.assert_close(var, post.expand_as(var), rtol=1e-6, atol=1e-12)
