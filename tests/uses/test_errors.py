"""The error table: a pure function of images, conditions and plan, whatever the batch; its nodes and weights."""

from math import log, pi, tanh
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oneprior.denoiser import Denoiser, Facts, wrap
from oneprior.exact import Gaussian
from oneprior.guidance import CFG
from oneprior.posterior import Posterior
from oneprior.schedules import EDM, VE, VP, Cosine, RectifiedFlow, Schedule
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


def test_l1_is_the_sum_of_absolute_errors() -> None:
    class Zero(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return torch.zeros_like(x)

    den, x = wrap(Zero(), Cosine(), "eps"), torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    one, two = (errors(den, x, None, Plan(4), norm=norm, seeds=range(50)) for norm in ("l1", "l2"))
    assert bool((one.x.square() <= 3 * two.x * (1 + 1e-4)).all()) and bool((two.x <= one.x.square() * (1 + 1e-4)).all())
    assert one.x.mean().item() == pytest.approx(3 * (2 / pi) ** 0.5, rel=0.1)  # |eps| of 600 normal numbers
