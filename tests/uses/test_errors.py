"""The error table: a pure function of images, conditions and plan, whatever the batch; its nodes and weights."""

from math import log, pi, tanh
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oneprior.denoiser import Denoiser, Facts, wrap
from oneprior.exact import Gaussian, TokenLaw
from oneprior.guidance import CFG
from oneprior.posterior import Posterior
from oneprior.schedules import EDM, VE, VP, Cosine, RectifiedFlow, Schedule
from oneprior.tokens import Absorbing, TokenDenoiser
from oneprior.tokens import Uniform as TokenUniform
from oneprior.uses.classify import classify
from oneprior.uses.errors import Plan, errors

LABELS = {"label": torch.arange(6)}


@pytest.mark.parametrize("n", [1, 2, 5, 16, 100])
def test_prefixes_are_nearly_stratified(n: int, toy: Any) -> None:
    den = toy[0]
    full = Plan(n, lam=(-3.0, 2.0)).nodes(den)
    lo, hi = -3.0, 2.0
    expected = lo + (hi - lo) * (torch.arange(n).double() + 0.5) / n
    assert torch.allclose(full.lam.sort().values, expected)
    assert torch.allclose(full.weight, torch.full((n,), (hi - lo) / n, dtype=torch.float64))
    for m in range(1, n + 1):
        part = Plan(n, lam=(lo, hi)).nodes(den, m)
        assert torch.equal(part.lam, full.lam[:m])
        assert part.weight.sum().item() == pytest.approx(hi - lo)
        assert part.weight.max() <= 3 * (hi - lo) / m


@pytest.mark.parametrize("placement", ["lam", "t"])
@pytest.mark.parametrize("schedule", [VP(), VE(), EDM(), Cosine(), RectifiedFlow()])
def test_weights_sum_to_an_integral_over_lam(schedule: Schedule, placement: str) -> None:
    """integral of 1 / cosh^2 over [-2, 2] = 2 tanh 2, by strata of lam and of t."""
    den = Gaussian([0.0], 1.0).denoiser(schedule)
    nodes = Plan(2000, lam=(-2.0, 2.0), placement=placement).nodes(den)
    assert (nodes.weight / nodes.lam.cosh() ** 2).sum().item() == pytest.approx(2 * tanh(2), rel=1e-3)
    assert torch.allclose(schedule.lam(nodes.t), nodes.lam, atol=1e-9)


def test_the_range_is_cut_to_what_the_denoiser_knows() -> None:
    den = Gaussian([0.0], 1.0).denoiser(EDM(smax=10.0))
    nodes = Plan(8, lam=(-9.0, 9.0)).nodes(den)
    assert nodes.lam.min() > -log(10) and nodes.lam.max() < -log(10 * den.schedule.t_min)
    with pytest.raises(ValueError, match="holds no times"):
        Plan(8, lam=(-9.0, -8.0)).nodes(den)
    with pytest.raises(ValueError, match="placement 'lam' or 't'"):
        Plan(8, placement="sigma")


@pytest.mark.parametrize("seeds", [None, range(100, 140)])
def test_a_row_does_not_depend_on_its_batch(toy: Any, seeds: Any) -> None:
    den, x, _ = toy
    x, plan = x[:40], Plan(6)
    full = errors(den, x, LABELS, plan, seeds=seeds)
    assert full.x.shape == (6, 40, 6)
    for cap in (1000, 7, 1):
        if cap == 1:
            small = errors(den, x[:3], LABELS, plan, seeds=None if seeds is None else seeds[:3], max_batch=1)
            assert torch.allclose(small.x, full.x[:, :3], rtol=1e-10)
        else:
            den.largest = 0
            assert torch.allclose(errors(den, x, LABELS, plan, seeds=seeds, max_batch=cap).x, full.x, rtol=1e-10)
            assert den.largest == cap
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    moved = errors(den, x[order], LABELS, plan, seeds=None if seeds is None else [seeds[i] for i in order.tolist()])
    assert torch.allclose(moved.x, full.x[:, order], rtol=1e-10)
    pick = torch.randint(6, (40, 2), generator=torch.Generator().manual_seed(1))
    part = errors(den, x, LABELS, plan, seeds=seeds, which=range(2, 5), pick=pick, max_batch=13)
    assert torch.allclose(part.x, full.x[2:5].gather(2, pick.expand(3, 40, 2)), rtol=1e-10)
    assert torch.equal(part.lam, full.lam[2:5])


def test_noise_is_shared_by_conditions_and_changes_with_the_seed(toy: Any) -> None:
    den, x, _ = toy
    twice = errors(den, x[:5], {"label": torch.tensor([2, 2])}, Plan(8), seeds=range(5))
    assert torch.equal(twice.x[..., 0], twice.x[..., 1])
    other = errors(den, x[:5], {"label": torch.tensor([2, 2])}, Plan(8, seed=1), seeds=range(5))
    assert (other.x - twice.x).abs().min() > 0


def test_the_table_sums_to_the_negative_log_density() -> None:
    """Pointwise identity of Kong et al.: -log p(x) = (d/2) log(2 pi e sbar^2) + integral, up to the level sbar."""
    law = Gaussian([0.4, -0.3], [[1.0, 0.5], [0.5, 0.6]])
    x, n = law.sample(400, seeds=range(400)), 256
    table = errors(law.denoiser(RectifiedFlow()), x, None, Plan(n, lam=(-5.0, 5.0)), seeds=range(400))
    nll = table.total()[:, 0] + (log(2 * pi) + 1 - 2 * 5.0)
    gap = nll + law.log_prob(x)
    assert abs(gap.mean()) < 3 * gap.std() / 20 + 1e-3
    assert gap.std() < 1.0  # 2 dimensions of chi^2 noise over half the range: 10 (2 d / 2 n)^(1/2) = 0.9


class Taking(Denoiser):
    """Records the conditions it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.schedule, self.facts, self.seen = Cosine(), Facts(null={"label": 9}), {}

    def posterior(self, x: Tensor, t: Any, **cond: Any) -> Posterior:
        self.seen = cond
        return Posterior(torch.zeros_like(x), x, self.schedule, t)


def test_conditions_as_a_list_and_conditions_of_the_images() -> None:
    den, x = Taking(), torch.zeros(2, 1, 4, 4)
    own = torch.arange(2.0).reshape(2, 1, 1, 1).expand(2, 1, 4, 4)
    errors(den, x, [{"label": 3}, {"label": torch.tensor(5)}, {}], Plan(1), image=own)
    assert den.seen["label"].tolist() == [3, 5, 9, 3, 5, 9]
    assert den.seen["image"][:, 0, 0, 0].tolist() == [0, 0, 0, 1, 1, 1]
    tokens = torch.randn(3, 7, 2)
    errors(den, x, {"tokens": tokens}, Plan(1))
    assert torch.equal(den.seen["tokens"], torch.cat([tokens, tokens]))
    den.facts = Facts(null={"label": torch.tensor([9])})  # as a batch of one, which is how priors keep it
    errors(den, x, [{}, {"label": 3}], Plan(1))
    assert den.seen["label"].tolist() == [9, 3, 9, 3]


def test_what_is_refused(toy: Any) -> None:
    den, x, _ = toy
    with pytest.raises(ValueError, match="no model of a density"):
        errors(CFG(den, 2.0), x, LABELS)
    with pytest.raises(ValueError, match="3 seeds for 300 images"):
        errors(den, x, LABELS, seeds=[1, 2, 3])
    with pytest.raises(ValueError, match=r"one row a candidate; got \{'label': 2, 'vector': 3\}"):
        errors(den, x, {"label": torch.zeros(2), "vector": torch.zeros(3)})
    with pytest.raises(ValueError, match="no null"):
        errors(den, x, [{"label": 1}, {"vector": torch.zeros(2)}])
    with pytest.raises(ValueError, match=r"no end at t = 1\.0"):
        Plan(8, t=(0.0, 1.0)).nodes(den)


@pytest.fixture
def zero() -> Denoiser:
    """A network that finds no noise: the residual is eps itself."""

    class Zero(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return torch.zeros_like(x)

    return wrap(Zero(), Cosine(), "eps")


def test_norms(zero: Denoiser) -> None:
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    l1, l2, two = (errors(zero, x, None, Plan(4), norm=norm, seeds=range(50)) for norm in ("l1", "l2", "squared"))
    assert bool((l1.x.square() <= 3 * two.x * (1 + 1e-4)).all()) and bool((two.x <= l1.x.square() * (1 + 1e-4)).all())
    assert l1.x.mean().item() == pytest.approx(3 * (2 / pi) ** 0.5, rel=0.1)  # |eps| of 600 normal numbers
    torch.testing.assert_close(l2.x, two.x.sqrt())
    most = errors(zero, x, None, Plan(4), norm=lambda r: r.abs().amax(1), seeds=range(50))
    assert bool((most.x <= l2.x).all()) and most.norm == "<lambda>" and two.norm == "squared"
    with pytest.raises(ValueError, match="norm 'huber' is not known: one of squared, l2, l1"):
        errors(zero, x, norm="huber")


def test_latents_are_data_in_the_range_of_the_model(by_label: Any) -> None:
    """A latent model's ratios are those of the pixels where the code loses nothing: z = (x - m) / s."""
    laws = [Gaussian([0.4, -0.3], 0.3), Gaussian([-0.5, 0.1], 0.3)]
    inside = [Gaussian((law.mean - 0.2) / 1.7, law.cov / 1.7**2) for law in laws]
    x = laws[0].sample(100, seeds=range(100))
    den = by_label(inside, RectifiedFlow())
    table = errors(den, (x - 0.2) / 1.7, {"label": torch.arange(2)}, Plan(256, lam=(-5.0, 5.0)), seeds=range(100))
    ratio, exact = -table.total().diff(dim=1)[:, 0], laws[1].log_prob(x) - laws[0].log_prob(x)
    e, t = ratio - ratio.mean(), exact - exact.mean()
    assert e @ t > 0.97 * e.norm() * t.norm() and abs(e @ t / (t @ t) - 1) < 0.05


@pytest.mark.parametrize("corruption", [Absorbing(4), TokenUniform(3)])
def test_tokens(corruption: Any) -> None:
    """The bound of an exact denoiser is the log-likelihood itself: ratios of two laws over 27 sequences are nats."""
    g = torch.Generator().manual_seed(0)
    laws = [TokenLaw(torch.rand(3, 3, 3, generator=g) ** 2) for _ in range(2)]
    timed = not isinstance(corruption, Absorbing)

    class Either(nn.Module):
        def forward(self, x: Tensor, t: Any = None, *, label: Tensor) -> Tensor:
            both = torch.stack([law.net(corruption)(x, 0.5 if t is None else t) for law in laws])
            return both[label, torch.arange(len(x))]

    den = TokenDenoiser(Either(), corruption, timed=timed, facts=Facts(null={"label": 2}))
    x = laws[0].sequences[::3]
    n = 3 * 150
    table = errors(den, x, {"label": torch.arange(2)}, Plan(n), seeds=range(len(x)), max_batch=8192)
    assert table.weight.sum().item() == pytest.approx(1.0) and torch.equal(
        table.lam.argsort(), table.nodes.t.argsort().flip(0)
    )
    own = table.x.diff(dim=2)[..., 0]
    exact = laws[0].log_prob(x) - laws[1].log_prob(x)
    assert bool((own.mean(0) - exact).abs().lt(4 * own.std(0) / n**0.5 + 0.02).all())
    found = classify(den, x, {"label": torch.arange(2)}, Plan(n), seeds=range(len(x)), max_batch=8192)
    sure = exact.abs() > 0.5
    assert torch.equal(found.x[sure], (exact < 0).long()[sure])
    with pytest.raises(ValueError, match="norm = l1: tokens have no residual"):
        errors(den, x, {"label": torch.arange(2)}, norm="l1")


def test_more_classes_than_are_known(toy: Any) -> None:
    den, x, _ = toy
    with pytest.raises(ValueError, match="labels up to 6 were given; this denoiser knows 6 classes, 0 to 5"):
        errors(den, x, {"label": torch.arange(7)})
