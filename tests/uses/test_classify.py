"""Diffusion classifier against exact posteriors: ratios in nats, shared noise, elimination, invariance of the view."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oneprior.denoiser import Denoiser, Facts, NetworkDenoiser, with_schedule
from oneprior.schedules import VP, Cosine, RectifiedFlow, Schedule
from oneprior.uses.classify import Fitted, classify, cost
from oneprior.uses.errors import Plan, errors

SIX, TEN = {"label": torch.arange(6)}, {"label": torch.arange(10)}
WIDE = (-4.5, 4.5)  # the card's +-9 of log-SNR


def ratios(logits: Tensor) -> Tensor:
    return (logits[:, :1] - logits[:, 1:]).flatten()


def fit(estimate: Tensor, truth: Tensor) -> tuple[float, float]:
    """Correlation, and slope of the estimate on the truth."""
    e, t = estimate - estimate.mean(), truth - truth.mean()
    return (e @ t / (e.norm() * t.norm())).item(), (e @ t / (t @ t)).item()


def test_log_ratios_are_nats(toy: Any) -> None:
    """Card: 64 x 8 evaluations, correlation > 0.997, agreement with Bayes > 0.95, slope 1 +- 0.03."""
    den, x, y = toy
    exact = den.log_prob(x)
    bayes = exact.argmax(1)
    table = errors(den, x, SIX, Plan(512, lam=WIDE), seeds=range(300), max_batch=8192)
    found = -table.total()
    corr, slope = fit(ratios(found), ratios(exact))
    assert corr > 0.997
    assert abs(slope - 1) < 0.03
    assert (found.argmax(1) == bayes).double().mean() > 0.95
    assert (ratios(found) - ratios(exact)).abs().median() < 0.7  # the card's trial had 0.5
    one = nn.functional.one_hot(y, 6)
    brier = [(logits.softmax(1) - one).square().sum(1).mean() for logits in (found, exact)]
    assert abs(brier[0] - brier[1]) < 0.02
    # control: the same table without the factor SNR, an equal weight on |x - D|^2
    wrong = -table.total((-2 * table.lam).exp())
    accuracy = [(logits.argmax(1) == y).double().mean().item() for logits in (found, wrong)]
    assert accuracy[1] < accuracy[0] - 0.1


def test_classify_reads_the_table(toy: Any) -> None:
    den, x, _ = toy
    table = errors(den, x[:20], SIX, Plan(16), seeds=range(20))
    found = classify(den, x[:20], SIX, Plan(16), seeds=range(20))
    assert torch.allclose(found.logits, -table.total())
    assert torch.equal(found.x, found.logits.argmax(1)) and found.nfe == 16


def test_shared_noise_pays(toy: Any) -> None:
    """Card: variance of a difference of two classes at 16 evaluations, independent over shared noise, > 1.4."""
    den, x, _ = toy
    two = {"label": torch.tensor([0, 1])}
    exact = den.log_prob(x)
    truth = exact[:, 1] - exact[:, 0]  # a table is a negative log-likelihood
    plans = [Plan(16, lam=WIDE, seed=s) for s in range(8)]
    tables = [errors(den, x, two, plan, seeds=range(300), max_batch=8192).total() for plan in plans]
    first, second = torch.stack(tables).unbind(-1)
    shared, split = ((first - other - truth).square().mean() for other in (second, second.roll(1, 0)))
    assert split / shared > 1.4


def test_digits_without_training(kde: Any) -> None:
    """Card: at 20 evaluations shared noise >= 0.975, >= 0.03 over independent noise, agreement with Bayes >= 0.97."""
    den, x, y = kde
    bayes = den.log_prob(x).argmax(1)
    assert (bayes == y).double().mean() > 0.985
    plan, seeds = Plan(20, t=(0.01, 0.99), placement="t"), range(300)
    found = classify(den, x, TEN, plan, weight="simple", seeds=seeds, max_batch=8192)
    accuracy = (found.x == y).double().mean()
    assert accuracy >= 0.975
    assert (found.x == bayes).double().mean() >= 0.97
    columns = [
        errors(
            den,
            x,
            {"label": torch.tensor([c])},
            Plan(20, t=(0.01, 0.99), placement="t", seed=1 + c),
            seeds=seeds,
            max_batch=8192,
        ).x.sum(0)
        for c in range(10)
    ]
    apart = torch.cat(columns, 1).argmin(1)  # the simple weight is uniform in t, as are the strata
    assert accuracy - (apart == y).double().mean() >= 0.03


def test_elimination(kde: Any) -> None:
    """Card: (10 evaluations, keep 3), (100, keep 1) agrees with all 100 on >= 98 % at 370 of 1000 calls."""
    den, x, _ = kde
    x, stages, seeds = x[:150], ((10, 3), (100, 1)), range(150)
    full = classify(den, x, TEN, Plan(100), seeds=seeds, max_batch=8192)
    den.calls = 0
    staged = classify(den, x, TEN, Plan(), stages=stages, seeds=seeds, max_batch=8192)
    assert den.calls == 150 * cost(stages, 10) == 150 * 370
    assert staged.nfe == pytest.approx(37.0)
    assert (staged.x == full.x).double().mean() >= 0.98
    assert bool((staged.logits.isfinite().sum(1) == 3).all())
    kept = staged.logits.isfinite()
    assert torch.allclose(staged.logits[kept], full.logits[kept], rtol=1e-9)  # the very same list of evaluations
    assert torch.allclose(staged.probs.sum(1), torch.ones(150).double())


class Viewed(nn.Module):
    """An exact denoiser as a network of some view under a schedule."""

    def __init__(self, den: Denoiser, view: str) -> None:
        super().__init__()
        self.den, self.view = den, view

    def forward(self, x: Tensor, t: Tensor, *, label: Tensor) -> Tensor:
        post = self.den(x, t, label=label)
        a, s = (self.den.schedule.at(t)[i][:, None] for i in (0, 2))
        v = a * post.eps - s * post.mean
        return {"eps": post.eps, "x0": post.mean, "v": v, "velocity": post.velocity}[self.view]


@pytest.mark.parametrize("view", ["eps", "x0", "v", "velocity"])
@pytest.mark.parametrize("schedule", [Cosine(), RectifiedFlow(), VP()])
def test_scores_do_not_depend_on_the_view(toy: Any, schedule: Schedule, view: str) -> None:
    """The same (lam, eps) plan: equal tables to 1e-6, whatever the network predicts and under which schedule."""
    den, x, _ = toy
    plan = Plan(16, lam=(-4.0, 4.0))
    truth = errors(den, x[:20], SIX, plan)
    same = NetworkDenoiser(Viewed(with_schedule(den, schedule), view), schedule, view, facts=Facts())
    table = errors(same, x[:20], SIX, plan)
    assert torch.allclose(table.x, truth.x, rtol=1e-6, atol=1e-6)
    assert torch.allclose(table.lam, truth.lam) and torch.allclose(table.weight, truth.weight)


def test_prior_fitted_weight_and_l1(toy: Any) -> None:
    den, x, y = toy
    plain = classify(den, x, SIX, Plan(16), seeds=range(300))
    tilt = torch.tensor([0.0, 0, 0, 0, 0, 100.0])
    assert bool((classify(den, x, SIX, Plan(16), seeds=range(300), log_prior=tilt).x == 5).all())
    half = classify(den, x, SIX, Plan(16), seeds=range(300), weight=Fitted((-4.0, 0.0, 4.0), (0.5, 0.5, 0.5)))
    assert torch.allclose(half.logits, 0.5 * plain.logits)
    ramp = Fitted((-1.0, 1.0), (0.0, 2.0))(torch.tensor([-3.0, -1.0, 0.0, 0.5, 1.0, 3.0]), den.schedule)
    assert torch.allclose(ramp, torch.tensor([0.0, 0.0, 1.0, 1.5, 2.0, 2.0]))
    assert (classify(den, x, SIX, Plan(64), norm="l1", seeds=range(300)).x == y).double().mean() > 0.7


def test_what_is_refused(toy: Any) -> None:
    den, x, _ = toy
    for stages in (((10, 3), (10, 1)), ((4, 1), (8, 2)), ((0, 3), (8, 1)), ((4, 0),)):
        with pytest.raises(ValueError, match="evaluations so far, conditions to keep"):
            classify(den, x[:2], SIX, stages=stages)
    with pytest.raises(ValueError, match="knots in rising order"):
        Fitted((1.0, 0.0), (1.0, 1.0))
