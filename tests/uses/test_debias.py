"""Groups, weights and shares against exact answers; the toy's groups from an exact biased model."""

from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import draw
from oneprior.data import toy_points
from oneprior.denoiser import NetworkDenoiser
from oneprior.exact import Mixture
from oneprior.nets import MLPConfig, build
from oneprior.schedules import Cosine
from oneprior.uses.debias import balanced, beside, bias_score, group_risk, infer_groups, share, weights
from oneprior.uses.errors import Plan, errors

N, RARE = 2000, 0.05


def toy(n: int = N) -> tuple[Tensor, Tensor]:
    """The card's, for one y: x = (1, b) + noise, b = -1 in one of 20; and who is rare."""
    rare = torch.arange(n) % 20 == 0
    means = torch.stack([torch.ones(n), 1 - 2 * rare.double()], 1)
    return means + 0.25 * draw(n, 2, seed=1), rare


def test_weights_are_those_of_a_balanced_law() -> None:
    """Weighting the denoising loss of a planted 5 % makes its optimum the denoiser of half and half, exactly:
    E[w x_0 | x_t] / E[w | x_t], from posterior weights of the planted law, is the mean of the balanced one."""
    _, rare = toy()
    q = torch.stack([~rare, rare], 1).double()
    w = weights(q)
    assert w.mean().item() == pytest.approx(1, abs=1e-12)
    per_group = torch.stack([w[~rare].mean(), w[rare].mean()])
    planted = torch.tensor([1 - RARE, RARE], dtype=torch.float64)
    means, x, schedule = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64), draw(50, 2), Cosine()
    half = Mixture([0.5, 0.5], means, 0.0625).denoiser(schedule)
    each = [Mixture([1.0], means[k : k + 1], 0.0625).denoiser(schedule) for k in range(2)]
    for t in (0.1, 0.5, 0.9):
        like = torch.stack([d.log_prob(x, t).exp() for d in each], 1) * planted  # p(g) p(x_t | g)
        D = torch.stack([d(x, t).mean for d in each], 1)
        optimum = ((like * per_group)[..., None] * D).sum(1) / (like * per_group).sum(1, keepdim=True)
        assert (optimum - half(x, t).mean).abs().max() < 1e-10
        plain = (like[..., None] * D).sum(1) / like.sum(1, keepdim=True)
        assert t > 0.8 or (plain - half(x, t).mean).abs().max() > 0.05


def test_risk_and_balanced_draws_are_the_weighted_mean() -> None:
    x, rare = toy(400)
    q = torch.stack([~rare, rare], 1).double() * 0.8 + 0.1
    loss = x.square().sum(1)
    mean = (weights(q) * loss).mean()
    assert group_risk(loss, q, q.sum(0), 400) == pytest.approx(float(mean))
    m = (loss[:, None] * q).sum(0) / q.sum(0)
    assert group_risk(loss, q, q.sum(0), 400, 2.0) == pytest.approx(float(m.mean() + 2 * m.var(unbiased=False)))
    parts = [group_risk(loss[i : i + 50], q[i : i + 50], q.sum(0), 400) for i in range(0, 400, 50)]
    assert torch.stack(parts).mean() == pytest.approx(float(mean))  # dataset-level masses: batches are unbiased
    source = toy_points("gaussians", 400)
    counts = torch.tensor(balanced(source, q, 800).indices).bincount(minlength=400)
    assert (counts - 2 * weights(q)).abs().max() <= 1 and len(balanced(source, q)) == 400


def auc(score: Tensor, rare: Tensor) -> float:
    return float((score[rare][:, None] > score[~rare][None]).double().mean())


def test_shared_draws_find_the_minority() -> None:
    """Card: AUC of the averaged loss >= .97 with 64 shared draws, one draw at least .1 below; quantile groups of the
    true size then hold it, EIIL's hold all of it and more."""
    x, rare = toy(1000)
    den = Mixture([1 - RARE, RARE], [[1.0, 1.0], [1.0, -1.0]], 0.0625).denoiser(Cosine())
    table = errors(den, x, None, Plan(64, t=(0.02, 0.98), placement="t"), max_batch=1 << 16).x[:, :, 0]
    loss = table.mean(0)
    one = table[torch.arange(1000) % 64, torch.arange(1000)]  # a time of its own each
    assert auc(loss, rare) >= 0.97 and auc(one, rare) <= auc(loss, rare) - 0.1
    q = infer_groups(loss, share=RARE)
    assert q[:, 1].sum() == 50 and q[rare, 1].mean() > 0.6
    soft = infer_groups(loss, method="eiil", steps=200)
    high = int((soft * loss[:, None]).sum(0).div(soft.sum(0)).argmax())
    assert soft[rare, high].mean() > 0.9 > soft[~rare, high].mean()
    assert torch.allclose(soft.sum(1), torch.ones(1000).double()) and soft.sum(0).min() > 40


def test_groups_are_found_within_classes() -> None:
    loss = torch.cat([torch.arange(40.0), 1000 + torch.arange(40.0)])
    q = infer_groups(loss, torch.arange(80) // 40, share=0.1)
    assert q[36:40, 1].all() and q[76:, 1].all() and q[:, 1].sum() == 8


def test_a_light_module_starts_as_the_base_and_trains_alone() -> None:
    den: Any = NetworkDenoiser(build(MLPConfig((2,), width=16, depth=1), seed=0), Cosine())
    torch.nn.init.ones_(den.net.out.weight)
    both: Any = beside(den, build(MLPConfig((2,), width=8, depth=1), seed=1)).train()
    x = draw(5, 2, dtype=torch.float32)
    assert torch.equal(both(x, 0.3).mean, den(x, 0.3).mean)
    both(x, 0.3).mean.square().sum().backward()
    got = [n for n, p in both.named_parameters() if p.grad is not None]
    assert got and all(n.startswith("net.light.") for n in got)
    assert all(p.requires_grad for p in den.parameters())  # the base given is left alone
    assert not both.net.base.training and both.net.light.training


def test_bias_and_share() -> None:
    """Card's figures; the interval of 5 in 100 by Wilson."""
    assert bias_score([[30, 10]]) == (0.5, 0) and bias_score([[10, 10, 10, 10]])[0] == 0
    assert bias_score([[40, 0, 0, 0]])[0] == pytest.approx(0.5)
    assert bias_score([[30, 10], [10, 30]]) == (0.5, 0.0)
    found = share(torch.arange(100) < 5)
    assert (
        found.x == 0.05
        and found.low == pytest.approx(0.02154, abs=1e-4)
        and found.high == pytest.approx(0.11175, abs=1e-4)
    )


def test_bad_input() -> None:
    loss = draw(40)
    for bad in (dict(method="kmeans"), dict(share=0.0), dict(share=0.6), dict(method="eiil", groups=1)):
        with pytest.raises(ValueError, match="were expected"):
            infer_groups(loss, **bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="losses of class 3 do not tell"):
        infer_groups(torch.ones(4), torch.full((4,), 3))
    with pytest.raises(ValueError, match="none of them empty"):
        weights(torch.ones(4, 1))
    with pytest.raises(ValueError, match="none of them empty"):
        weights(torch.tensor([[1.0, 0.0]] * 4))
    with pytest.raises(ValueError, match="groups of 4 samples for a source of 10"):
        balanced(toy_points("moons", 10), torch.ones(4, 2))
    with pytest.raises(ValueError, match="no samples"):
        share(torch.zeros(0))
    with pytest.raises(ValueError, match="two classes or more"):
        bias_score([[3.0]])
