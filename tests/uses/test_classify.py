"""Diffusion classifier against exact posteriors: ratios in nats, shared noise, elimination, invariance of the view."""

from math import log
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oneprior.denoiser import Denoiser, Facts, NetworkDenoiser, with_schedule
from oneprior.exact import Mixture
from oneprior.schedules import VP, Cosine, RectifiedFlow, Schedule
from oneprior.uses.classify import classify, cost, pairing, retrieval
from oneprior.uses.errors import Errors, Nodes, Plan, errors
from oneprior.uses.weighting import Fitted, fit

SIX, TEN = {"label": torch.arange(6)}, {"label": torch.arange(10)}
WIDE = (-4.5, 4.5)  # the card's +-9 of log-SNR


def ratios(logits: Tensor) -> Tensor:
    return (logits[:, :1] - logits[:, 1:]).flatten()


def fit_line(estimate: Tensor, truth: Tensor) -> tuple[float, float]:
    """Correlation, and slope of the estimate on the truth."""
    e, t = (estimate - estimate.mean()).flatten(), (truth - truth.mean()).flatten()
    return (e @ t / (e.norm() * t.norm())).item(), (e @ t / (t @ t)).item()


def test_log_ratios_are_nats(toy: Any) -> None:
    """Card: 64 x 8 evaluations, correlation > 0.997, agreement with Bayes > 0.95, slope 1 +- 0.03."""
    den, x, y = toy
    exact = den.log_prob(x)
    bayes = exact.argmax(1)
    table = errors(den, x, SIX, Plan(512, lam=WIDE), seeds=range(300), max_batch=8192)
    found = -table.total()
    corr, slope = fit_line(ratios(found), ratios(exact))
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
    lam = torch.tensor([-3.0, -1.0, 0.0, 0.5, 1.0, 3.0])
    ramp = Fitted((-1.0, 1.0), (0.0, 2.0))(Nodes(lam, lam, lam, lam))
    assert torch.allclose(ramp, torch.tensor([0.0, 0.0, 1.0, 1.5, 2.0, 2.0]))
    assert (classify(den, x, SIX, Plan(64), norm="l1", seeds=range(300)).x == y).double().mean() > 0.7


def test_a_margin_ends_what_is_decided(kde: Any) -> None:
    """Card: shared plan; images decided at a stage cost nothing more, and the mean cost is that of the calls made."""
    den, x, _ = kde
    x, stages, seeds = x[:100], ((4, 3), (12, 2), (32, 1)), range(100)
    full = classify(den, x, TEN, Plan(32), seeds=seeds, max_batch=8192)
    den.calls = 0
    early = classify(den, x, TEN, stages=stages, margin=20.0, seeds=seeds, max_batch=8192)
    assert den.calls == pytest.approx(early.nfe * 1000) and early.nfe < cost(stages, 10) / 10 < 32 / 3
    assert (early.x == full.x).double().mean() >= 0.99
    some = early.table.x.isfinite()
    assert int(some.sum()) == den.calls
    torch.testing.assert_close(early.table.x[some], full.table.x[some], rtol=1e-9, atol=0)
    assert bool((early.logits.softmax(1).amax(1) > 0.5).all()) and early.table.norm == "squared"
    assert classify(den, x, TEN, stages=stages, margin=0.0, seeds=seeds).nfe == 4


def test_weights_are_recovered() -> None:
    """Card: 10 of 30 times carry a signal of 1 among noise of 1; 200 training images."""
    g = torch.Generator().manual_seed(0)

    def table(n: int, signal: float) -> tuple[Errors, Tensor]:
        x, y = torch.randn(30, n, 4, generator=g, dtype=torch.float64), torch.randint(4, (n,), generator=g)
        x[:10] -= signal * nn.functional.one_hot(y, 4)
        t = torch.linspace(-3, 3, 30, dtype=torch.float64)
        return Errors(x, Nodes(t, t, torch.ones_like(t), torch.ones_like(t)), "l2"), y

    def right(e: Errors, y: Tensor, w: Tensor | None = None) -> float:
        return (e.total(w).argmin(1) == y).double().mean().item()

    (train, y), (test, z) = table(200, 1.0), table(4000, 1.0)
    found = fit(train, y, "positive", l1=0.02)
    w = found(test.nodes)
    assert w[:10].abs().sum() > 0.8 * w.abs().sum() and found.norm == "l2" and bool((w >= 0).all())
    # what a plain sum gets right, by quadrature: P(3 of N(0, 30) all above N(-10, 30))
    u = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    density = (-u * u / 2).exp() / (2 * torch.pi) ** 0.5
    plain = float((density * torch.special.ndtr(10 / 30**0.5 + u) ** 3).sum() * (u[1] - u[0]))
    assert right(test, z) == pytest.approx(plain, abs=3 * (plain * (1 - plain) / 4000) ** 0.5)
    assert right(test, z, w) > plain + 0.1
    ideal = fit(*table(4000, 1.0), "free")(test.nodes)  # the log-ratio of N(-1, 1) and N(0, 1) has weight 1
    assert (ideal[:10] - 1).abs().max() < 0.25 and ideal[10:].abs().max() < 0.25
    (nothing, y), (test, z) = table(200, 0.0), table(4000, 0.0)
    for kind in ("positive", "free", "poly3", "scale"):
        assert abs(right(test, z, fit(nothing, y, kind)(test.nodes)) - 0.25) < 3 * (0.25 * 0.75 / 4000) ** 0.5


def test_fitted_to_an_exact_model_the_temperature_is_one(toy: Any) -> None:
    den, x, y = toy
    table = errors(den, x, SIX, Plan(128, lam=WIDE), seeds=range(300), max_batch=8192)
    assert fit(table, y, "scale").weight[0] == pytest.approx(1, abs=0.25)
    with pytest.raises(ValueError, match="fitted to a table of norm 'squared'; this one's is 'l1'"):
        classify(den, x, SIX, norm="l1", weight=fit(table, y, "scale"))
    with pytest.raises(ValueError, match="all 300 labels are 2: weights that tell classes apart need two"):
        fit(table, torch.full((300,), 2))
    with pytest.raises(ValueError, match="a label, 0 to 5"):
        fit(table, y + 1)
    with pytest.raises(ValueError, match="kind 'best' is not known"):
        fit(table, y, "best")


def test_pairs_of_images_and_captions(by_label: Any) -> None:
    """Of laws of unlike spread p(x | c) of two images cannot be compared, p(x | c) / p(x) can: exact ratios."""
    laws = [Mixture([1.0], [[m, 0.0]], v) for m, v in ((-1.0, 0.05), (1.0, 0.05), (0.5, 1.0), (-0.5, 1.0))]
    x = torch.cat([law.sample(100, seeds=range(100 * i, 100 * i + 100)) for i, law in enumerate(laws)])
    den, four, plan = by_label(laws, RectifiedFlow()), {"label": torch.arange(4)}, Plan(64, lam=(-5.0, 5.0))
    exact = den.log_prob(x)
    among = pairing(den, x, four, plan, normalise="mean", max_batch=8192)
    assert fit_line(among, exact - exact.logsumexp(1, keepdim=True) + log(4))[0] > 0.99

    class Whole(type(den)):
        def posterior(self, x: Tensor, t: Any, *, label: Tensor, **cond: Any) -> Any:  # 4 stands for the mixture
            if bool((label < 4).all()):
                return super().posterior(x, t, label=label)
            every = Mixture(
                torch.ones(4), torch.cat([v.means for v in laws]), torch.cat([v.floor for v in laws]).flatten()
            )
            return every.denoiser(self.schedule)(x, t)

    by_null = pairing(Whole(laws, RectifiedFlow()), x, four, plan, max_batch=8192)
    assert fit_line(by_null, among)[0] > 0.99
    # rows 0, 100, 200, 300 make a group of four: the image that fits a caption best
    groups = torch.arange(400).reshape(4, 100).mT.flatten()
    cells = torch.arange(4).repeat(100)
    plain, fair = (v[groups][:, cells] for v in (pairing(den, x, four, plan, normalise="none"), among))
    truth = (exact - exact.logsumexp(1, keepdim=True))[groups][:, cells]
    texts, images, both = zip(*(retrieval(v, 4) for v in (plain, fair, truth)), strict=True)
    assert texts[0] == texts[1] and images[1] > images[0] + 0.1
    assert abs(images[1] - images[2]) < 0.1 and all(b <= min(p, q) for p, q, b in zip(texts, images, both, strict=True))
    assert retrieval(torch.zeros(4, 4), 2) == (0.0, 0.0, 0.0) and retrieval(torch.eye(4), 2) == (1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="one of none, null, mean"):
        pairing(den, x, four, normalise="max")
    with pytest.raises(ValueError, match="groups of 2 or more"):
        retrieval(torch.zeros(3, 4), 2)


def test_what_is_refused(toy: Any) -> None:
    den, x, _ = toy
    for stages in (((10, 3), (10, 1)), ((4, 1), (8, 2)), ((0, 3), (8, 1)), ((4, 0),)):
        with pytest.raises(ValueError, match="evaluations so far, conditions to keep"):
            classify(den, x[:2], SIX, stages=stages)
    with pytest.raises(ValueError, match="knots in rising order"):
        Fitted((1.0, 0.0), (1.0, 1.0))
    with pytest.raises(ValueError, match="one condition alone"):
        classify(den, x[:2], {"label": torch.tensor([3])})
    with pytest.raises(ValueError, match="weight 'mean' is not known: elbo, simple"):
        classify(den, x[:2], SIX, weight="mean")
