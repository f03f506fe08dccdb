"""Particles: resampling, FK steering against tilted laws that are known exactly, and what a sample depends on."""

from math import sqrt
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import draw
from oneprior import paths
from oneprior.exact import Gaussian, Mixture
from oneprior.sampling import DDIM, Heun, Multistep, Particles, Step, sample, steer
from oneprior.sampling.particles import Swarm, _coins, _systematic, ess
from oneprior.schedules import VP, Cosine

LAW, LAM = Gaussian([0.5], 0.64), 1.5
EXACT = DDIM(1.0, variance=True)  # on a Gaussian its chain has the right law at any number of steps
GROUPS, K = 40, 512


def test_effective_number_of_particles() -> None:
    weights = torch.tensor([[1.0, 1, 1, 1], [1, 0, 0, 0], [2, 2, 0, 0], [3, 1, 0, 0]]).double()
    torch.testing.assert_close(ess(weights.log()), torch.tensor([4.0, 1.0, 2.0, 1.6]).double())
    torch.testing.assert_close(ess(weights.log() - 2000), ess(weights.log()))


def test_systematic_resampling_takes_each_about_n_w_times() -> None:
    """Between floor(n w) and ceil(n w) copies, in all n w on average: the property that names it."""
    weights = draw(50, 9, seed=1).softmax(1)
    u = _coins(range(50), 3)
    drawn = torch.nn.functional.one_hot(_systematic(weights, u, 30), 9).sum(1)
    assert (drawn >= (30 * weights).floor()).all() and (drawn <= (30 * weights).ceil()).all()
    same = weights[:1].expand(2000, 9)
    often = torch.nn.functional.one_hot(_systematic(same, _coins(range(2000), 0), 30), 9).sum(1).double()
    assert (often.mean(0) - 30 * weights[0]).abs().max() < 4 * 0.5 / sqrt(2000)
    one = torch.tensor([[0.0, 0.0, 1.0, 0.0]]).double()
    assert _systematic(one, torch.zeros(1).double(), 4).tolist() == [[2, 2, 2, 2]]


def moments(out: Particles) -> tuple[Tensor, Tensor]:
    w, x = out.weights, out.x[..., 0].double()
    mean = (w * x).sum(1)
    return mean, (w * (x - mean[:, None]).square()).sum(1)


REWARDS = {  # exp(lam r) N(m, v): mean, variance and log of the normaliser
    "linear": (lambda x: x[:, 0], 0.5 + LAM * 0.64, 0.64, LAM * 0.5 + LAM**2 * 0.64 / 2),
    "square": (lambda x: -(x[:, 0] ** 2), 0.78125 / 4.5625, 1 / 4.5625, None),
}


@pytest.mark.parametrize("reward", REWARDS)
@pytest.mark.parametrize(("potential", "every"), [("diff", 1), ("diff", 5), ("max", 10), ("sum", 15)])
def test_steering_draws_the_tilted_law(reward: str, potential: str, every: int) -> None:
    r, m, v, log_z = REWARDS[reward]
    out = steer(
        LAW.denoiser(VP()), (GROUPS, 1), r, lam=LAM, count=K, potential=potential, every=every, steps=30,
        sampler=EXACT, seeds=range(GROUPS),
    )  # fmt: skip
    mean, var = moments(out)
    for got, want in ((mean, m), (var, v)):
        error = float(got.std()) / sqrt(GROUPS)
        assert float(got.mean()) == pytest.approx(want, abs=4 * error + 4 * want / K)  # a ratio of means: bias ~ 1/K
        assert error < 0.05
    assert abs(m - 0.5) > 20 * float(mean.std()) / sqrt(GROUPS), "untilted, the mean is 0.5"
    if log_z is not None:
        z = (out.log_z - log_z).exp()
        assert float(z.mean()) == pytest.approx(1, abs=4 * float(z.std()) / sqrt(GROUPS))
    assert out.x.shape == (GROUPS, K, 1) and out.ess.shape[1] == GROUPS and out.ess.max() <= K + 1e-6


def test_steering_beats_weighting_at_the_end() -> None:
    """A rare reward: without resampling a few particles carry the weight."""
    law = Gaussian(torch.zeros(4), 1.0)
    kw: dict[str, Any] = {"lam": 1.0, "count": 128, "steps": 40, "sampler": EXACT, "seeds": range(30)}
    steered = steer(law.denoiser(VP()), (30, 4), lambda x: 1.2 * x.sum(1), **kw)
    weighted = steer(law.denoiser(VP()), (30, 4), lambda x: 1.2 * x.sum(1), every=1000, **kw)

    def error(out: Particles) -> float:
        return float(((out.weights[..., None] * out.x).sum(1) - 1.2).square().sum(1).mean().sqrt())

    print(f"error of the tilted mean: steered {error(steered):.3f}, weighted at the end {error(weighted):.3f}")
    assert error(steered) < 0.7 * error(weighted)
    assert len(weighted.ess) == 1, "the control was never resampled"


def test_a_sample_is_a_function_of_its_own_seed() -> None:
    law = Mixture([0.3, 0.7], [[-1.0, 1.0], [1.0, 0.0]], 0.04)
    shift = torch.tensor([-4.0, 0.6, 6.0])

    def run(rows: list[int]) -> Particles:
        b = shift[rows].repeat_interleave(16)
        return steer(
            law.denoiser(Cosine()), (len(rows), 2), lambda x: b * x[:, 0], count=16, steps=12, sampler=Multistep(1.0),
            seeds=[7 + r for r in rows],
        )  # fmt: skip

    whole = run([0, 1, 2])
    for rows in ([2, 0], [1]):
        part = run(rows)
        assert torch.equal(part.x, whole.x[rows]) and torch.equal(part.ess, whole.ess[:, rows])
        assert torch.equal(part.log_weights, whole.log_weights[rows]) and torch.equal(part.draw(), whole.draw()[rows])
    assert (whole.ess[:, 2] < 8).any() and not (whole.ess[:, 1] < 8).any(), "some are resampled, some never"
    assert len(whole.x[1].unique(dim=0)) == 16


def test_all_a_particle_carries_goes_with_it() -> None:
    swarm = Swarm(LAW.denoiser(VP()), (2, 1), 8, 5, Multistep(1.0), seeds=[0, 1])
    x = torch.arange(16.0)[:, None]
    log_g = torch.zeros(16)
    log_g[3] = 10.0  # in the first sample one particle has nearly all the weight, in the second all are alike
    swarm.weigh(log_g)
    out = Step(0, x, None, 0.5, 0.4, [2 * x, 3 * x])
    (kept,) = swarm.settle(out, 5 * x)
    assert out.x[:, 0].tolist() == [3.0] * 8 + list(range(8, 16))
    assert torch.equal(out.history[0], 2 * out.x) and torch.equal(out.history[1], 3 * out.x)
    assert torch.equal(kept, 5 * out.x)
    want = torch.tensor([(7 + torch.tensor(10.0).exp().item()) / 8, 1.0]).double().log()
    torch.testing.assert_close(swarm.log_weights, want[:, None].expand(2, 8), rtol=1e-6, atol=1e-6)


def test_without_a_reward_it_is_ancestral_sampling_and_nothing_is_resampled() -> None:
    out = steer(LAW.denoiser(VP()), (3, 1), lambda x: torch.zeros(len(x)), count=400, steps=20, seeds=range(3))
    assert out.ess.min() > 399.999 and out.log_weights.count_nonzero() == 0
    plain = sample(LAW.denoiser(VP()), (1200, 1), steps=20, sampler="ancestral", seeds=range(1200))
    spread = 0.8 / sqrt(1200)
    assert abs(float(out.x.mean() - plain.mean())) < 4 * sqrt(2) * spread
    assert float(out.x.var() / plain.var()) == pytest.approx(1, abs=4 * sqrt(4 / 1200))


def test_a_draw_has_the_chance_of_its_weight() -> None:
    x = torch.arange(4.0).expand(4000, 4)[..., None]
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4]).double()
    out = Particles(x, weights.log().expand(4000, 4), torch.ones(1, 4000), tuple(range(4000)))
    share = torch.bincount(out.draw()[:, 0].long(), minlength=4) / 4000
    assert (share - weights).abs().max() < 4 * 0.5 / sqrt(4000)


def test_conditions_are_repeated_for_the_particles() -> None:
    law = Mixture([1.0, 1.0], [[-2.0], [2.0]], 0.01, labels=[0, 1])
    label = torch.tensor([0, 1, 1])
    out = steer(law.denoiser(VP()), (3, 1), lambda x: x[:, 0], count=8, steps=20, seeds=range(3), label=label)
    assert (out.x.mean((1, 2)) - torch.tensor([-2.0, 2.0, 2.0])).abs().max() < 0.2


def reward(x: Tensor) -> Tensor:
    return x[:, 0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampler": "ddim"}, r"DDIM.*adds no noise.*copies of a particle.*kappa = 1.*'ancestral'"),
        ({"sampler": "auto"}, "adds no noise"),
        ({"sampler": Heun()}, "adds no noise"),
        ({"path": paths.restart([1.0, 0.5, 0.2, 0.0], 0.2, 0.5, 1)}, "a falling path of one track"),
        ({"path": paths.autoregressive(2, [1.0, 0.5, 0.0])}, "a falling path of one track"),
        ({"count": 1}, "2 seeds for 2 samples of 1 particles"),
        ({"seeds": [1]}, "1 seeds for 2 samples"),
        ({"potential": "min"}, r"potential 'min'.*'diff', 'max', 'sum'"),
        ({"every": 0}, "every = 0"),
    ],
)
def test_what_steering_refuses(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        steer(Gaussian([0.0, 0.0], 1.0).denoiser(VP()), (2, 2), reward, **{"seeds": [0, 1], **settings})


def test_a_reward_that_is_nan_or_of_another_shape_is_named() -> None:
    den = LAW.denoiser(VP())
    with pytest.raises(FloatingPointError, match="8 NaN in log-weights"):
        steer(den, (2, 1), lambda x: x[:, 0] * torch.nan, count=4, seeds=[0, 1])
    with pytest.raises(FloatingPointError, match=r"shape \(1,\).*\(8,\)"):
        steer(den, (2, 1), lambda x: x.mean()[None], count=4, seeds=[0, 1])


def test_corrected_steps_are_refused() -> None:
    class Corrects(DDIM):
        def rows(self, legs: Any) -> Any:
            return [[[row._replace(back=True) for row in stage] for stage in leg] for leg in super().rows(legs)]

    with pytest.raises(ValueError, match="resampling would mix up"):
        Swarm(LAW.denoiser(VP()), (2, 1), 4, 5, Corrects(1.0), seeds=[0, 1])
