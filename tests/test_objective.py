"""Objectives: only w_x(lam) matters, whatever the network predicts; the mean does not see the variance head."""

from math import exp, log
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers import SCHEDULES, draw
from oneprior.denoiser import Facts, NetworkDenoiser, wrap
from oneprior.noise import Spectral
from oneprior.objective import EDMWeight, MinSNR, Objective, Plain, SigmoidWeight, TruncatedSNR, Weight
from oneprior.posterior import PREDICTIONS, EDMPrediction
from oneprior.schedules import EDM, VP, RectifiedFlow, Schedule
from oneprior.times import LogitNormal, Uniform, align

X0, EPS, GUESS = draw(4, 2, 3), draw(4, 2, 3, seed=1), draw(4, 2, 3, seed=2)
T = torch.tensor([0.1, 0.37, 0.6, 0.9], dtype=torch.float64)
ERROR = (GUESS - X0).square().flatten(1).mean(1)


class Says(nn.Module):
    """A network of any prediction whose D is always GUESS."""

    def __init__(self, schedule: Schedule, kind: Any) -> None:
        super().__init__()
        self.schedule, self.kind = schedule, kind

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        a, _, s = (align(v, x) for v in (self.schedule.at(t)[0], t, self.schedule.at(t)[2]))
        row = self.kind.row(self.schedule, t)
        x = x / (row.c if isinstance(row.c, float) else align(row.c, x))
        return align(row.u, x) * GUESS + align(row.w, x) * (x - a * GUESS) / s


def loss(weight: Weight, kind: Any, schedule: Schedule) -> Tensor:
    kind = PREDICTIONS.get(kind, kind)
    return Objective(weight)(wrap(Says(schedule, kind), schedule, kind), X0, T, EPS)


def snr(schedule: Schedule) -> Tensor:
    a, _, s = schedule.at(T)
    return (a / s) ** 2


@pytest.mark.parametrize("name", ["vp", "rf", "edm", "linear betas"])
def test_errors_of_every_prediction_in_terms_of_the_mean(name: str) -> None:
    """eps-MSE = SNR |D - x_0|^2, v-MSE = (SNR + 1) of it under VP, velocity-MSE = 1/t^2 under rectified flow."""
    schedule = SCHEDULES[name]
    torch.testing.assert_close(loss(Plain(), "x0", schedule), ERROR)
    torch.testing.assert_close(loss(Plain(), "eps", schedule), snr(schedule) * ERROR)
    if name in ("vp", "linear betas"):
        torch.testing.assert_close(loss(Plain(), "v", schedule), (snr(schedule) + 1) * ERROR)
    if name == "rf":
        torch.testing.assert_close(loss(Plain(), "velocity", schedule), ERROR / T**2)
    if name == "edm":
        sd = 0.5
        sigma2 = schedule.at(T)[2] ** 2
        torch.testing.assert_close(
            loss(Plain(), EDMPrediction(sd), schedule), (sigma2 + sd**2) / (sigma2 * sd**2) * ERROR
        )


WEIGHTS = {
    "min-SNR": (MinSNR(5.0), lambda r: r.clamp(max=5)),
    "truncated": (TruncatedSNR(), lambda r: r.clamp(min=1)),
    "EDM": (EDMWeight(0.5), lambda r: r + 4),
    "sigmoid": (SigmoidWeight(-1.0), lambda r: r / (1 + r * exp(1.0))),
}


@pytest.mark.parametrize("kind", [*PREDICTIONS, EDMPrediction(1.3)], ids=str)
@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("name", ["vp", "rf", "ve"])
def test_a_weight_means_the_same_for_every_prediction(name: str, weight: str, kind: Any) -> None:
    made, w_x = WEIGHTS[weight]
    torch.testing.assert_close(
        loss(made, kind, SCHEDULES[name]), w_x(snr(SCHEDULES[name])) * ERROR, rtol=1e-8, atol=1e-8
    )


def test_min_snr_in_its_published_forms() -> None:
    """min(SNR, 5)/SNR on the error of eps, /(SNR + 1) on that of v (Hang et al. 2023)."""
    r = snr(VP())
    torch.testing.assert_close(loss(MinSNR(), "eps", VP()), r.clamp(max=5) / r * loss(Plain(), "eps", VP()))
    torch.testing.assert_close(loss(MinSNR(), "v", VP()), r.clamp(max=5) / (r + 1) * loss(Plain(), "v", VP()))


def test_edm_starts_with_unit_loss_at_every_level() -> None:
    """Its weight is 1/c_out^2 at alpha = 1: plain error of F, and F = 0 has error 1 on data of that spread."""
    torch.testing.assert_close(
        loss(EDMWeight(0.5), EDMPrediction(0.5), EDM()), loss(Plain(), EDMPrediction(0.5), EDM())
    )

    class Zero(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return torch.zeros_like(x)

    x0, eps = 0.5 * draw(4, 50_000), draw(4, 50_000, seed=1)
    value = Objective(EDMWeight(0.5))(wrap(Zero(), EDM(), EDMPrediction(0.5)), x0, T * 0.01, eps)
    assert (value - 1).abs().max() < 5 * (2 / 50_000) ** 0.5


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mean, self.h = nn.Parameter(torch.zeros(()).double()), nn.Parameter(torch.zeros(()).double())

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.cat([x * 0 + self.mean, x * 0 + self.h], 1)


def test_the_variance_head_learns_and_the_mean_does_not_see_it() -> None:
    """The likelihood's gradient in h vanishes where Var is the mean square error; the mean's gradient is Plain's."""
    schedule, t = VP(), 0.4
    a, _, s = schedule.at(t)
    head = Head()
    den = NetworkDenoiser(head, schedule, "x0", variance=True)
    best = log(float(X0.square().mean()) * (a * a + s * s) / s**2)
    for h in (best, best + 1.0):
        with torch.no_grad():
            head.h.fill_(h)
        grads = {}
        for nll in (0.0, 0.5):
            den.zero_grad()
            Objective(nll=nll)(den, X0, t, EPS).mean().backward()
            assert head.mean.grad is not None and head.h.grad is not None
            grads[nll] = (float(head.mean.grad), float(head.h.grad))
        assert grads[0.0][0] == pytest.approx(grads[0.5][0], rel=1e-12) and grads[0.0][1] == 0.0
        # d/dh of (h + E / (e^h r)) / 2 with r the scale of the variance
        assert grads[0.5][1] == pytest.approx(0.5 * 0.5 * (1 - exp(best - h)), abs=1e-12)


@pytest.mark.parametrize("kind", ["eps", "v", "velocity"])
def test_coloured_noise_is_what_the_network_must_predict(kind: str) -> None:
    schedule = VP(color=Spectral(1.0))
    x0, eps = draw(2, 1, 8, 8), draw(2, 1, 8, 8, seed=1)
    seen = []

    class Net(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            seen.append(x)
            return torch.zeros_like(x)

    value = Objective()(wrap(Net(), schedule, kind), x0, 0.4, eps)
    a, _, s = schedule.at(0.4)
    da, _, ds = schedule.slope(0.4)
    n = Spectral(1.0)(eps)
    torch.testing.assert_close(seen[0], a * x0 + s * n)
    target = {"eps": n, "v": a * n - s * x0, "velocity": da * x0 + ds * n}[kind]
    torch.testing.assert_close(value, target.square().flatten(1).mean(1))


def test_parts_of_an_objective() -> None:
    assert Objective().law == Uniform(1e-4, 1.0) and isinstance(Objective(law=LogitNormal()).law, LogitNormal)
    assert list(Objective().parameters()) == []
    den = wrap(nn.Identity(), RectifiedFlow(), "velocity")
    den.net.forward = lambda x, t: torch.full_like(x, torch.nan)  # type: ignore[method-assign]
    assert bool(Objective()(den, X0, 0.5, EPS).isnan().all())


@pytest.mark.parametrize("weight", [Plain(), MinSNR(), TruncatedSNR(), EDMWeight(), SigmoidWeight()])
@pytest.mark.parametrize("kind", ["v", "x0", "eps"])
def test_what_is_given_has_no_loss(weight: Weight, kind: str) -> None:
    """An element at t = 0 is known: its error counts nothing, and its gradient is zero, not NaN."""
    t = torch.tensor([[0.0, 0.4], [0.7, 0.0], [0.5, 0.2], [0.0, 0.9]], dtype=torch.float64)
    said = draw(4, 2, 3, seed=2).requires_grad_()

    class Free(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return said

    den = NetworkDenoiser(Free(), VP(), kind, facts=Facts(time_axes=1))
    found = Objective(weight)(den, X0, t, EPS)
    (grad,) = torch.autograd.grad(found.sum(), said)
    assert bool(found.isfinite().all()) and bool((grad[t == 0] == 0).all()) and bool((grad[t > 0] != 0).all())
    alone = Objective(weight)(den, X0, t.clamp(min=0.2), EPS)
    assert torch.equal(found[2], alone[2]), "others count as they did"
