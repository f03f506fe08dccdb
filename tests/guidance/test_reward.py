"""Reward guidance: closed forms of each part, the published updates to rounding, and TFG against DPS (proof 6)."""

from itertools import pairwise
from math import expm1, log
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import Simple, ar1, draw
from oneprior import paths
from oneprior.exact import Gaussian, Mixture
from oneprior.guidance import CFG, PerStep, RewardGuidance
from oneprior.guidance.reward import decrease, flat, increase
from oneprior.noise import Seeded
from oneprior.paths import Path
from oneprior.sampling import DDIM, Heun, sample, walk
from oneprior.sampling.grids import cosine_time
from oneprior.sampling.particles import Grouped
from oneprior.schedules import EDM, VP, Cosine, RectifiedFlow, Schedule

B, D = 3, 4
LAW = Gaussian(draw(D), ar1(D))
PIXELS = 0.1 + 0.8 * torch.rand(B, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def quadratic(x: Tensor) -> Tensor:
    return -0.5 * (x - 1).square().flatten(1).sum(1)


@pytest.mark.parametrize("schedule", [VP(), EDM(), RectifiedFlow()], ids=["vp", "edm", "rf"])
@pytest.mark.parametrize("t", [0.05, 0.5, 0.95, torch.tensor([0.1, 0.5, 0.9]).double(), PIXELS], ids=str)
def test_through_the_net_a_linear_reward_is_exact_on_a_gaussian(schedule: Schedule, t: Any) -> None:
    """N(m, C) tilted by exp(b.x) is N(m + C b, C), and D + (s^2/a) J^T b is its posterior mean."""
    b, x = draw(D, seed=5), draw(B, D, seed=1)
    tilted = Gaussian(LAW.mean + LAW.cov @ b, LAW.cov).denoiser(schedule)
    guided = RewardGuidance(LAW.denoiser(schedule), lambda x: x @ b)
    with torch.no_grad():
        torch.testing.assert_close(guided(x, t).mean, tilted(x, t).mean, rtol=1e-8, atol=1e-8)
    assert (LAW.denoiser(schedule)(x, t).mean - tilted(x, t).mean).abs().max() > 1e-3
    assert not guided.facts.density


@pytest.mark.parametrize("N", [1, 3])
def test_mean_space_descent_never_differentiates_the_net(N: int) -> None:
    def net(x: Tensor, t: Any) -> Tensor:
        assert not (x.requires_grad and torch.is_grad_enabled())
        return 0.5 * x

    x = draw(B, D)
    got = RewardGuidance(Simple(net, VP()), quadratic, rho=0.0, mu=0.3, iterations=N)(x, 0.4).mean
    torch.testing.assert_close(got, 1 + 0.7**N * (0.5 * x - 1))


def abar(schedule: Schedule, t: float) -> float:
    a, _, s = schedule.at(t)
    return a * a / (a * a + s * s)


@pytest.mark.parametrize("kappa", [0.0, 1.0])
@pytest.mark.parametrize("schedule", [Cosine(), VP(), EDM()], ids=["cosine", "vp", "edm"])
def test_the_published_update_of_tfg(schedule: Schedule, kappa: float) -> None:
    """x_s = DDIM(x_t) + Delta_t / r + a_s (D_N - D), r = a_t / a_s, then x_s -> x_t again; written out by hand."""
    rho, mu, N, J, s_, recur = 0.2, 0.1, 2, 3, 0.7, 2
    den, seeds = LAW.denoiser(schedule), Seeded(range(B))
    times, path = [0.9, 0.5, 0.2, 0.0], paths.recur([0.9, 0.5, 0.2, 0.0], recur)
    start = draw(B, D, seed=2) * schedule.at(0.9)[2]
    keep = [abar(schedule, t) / abar(schedule, s) for t, s in pairwise(times)]
    up, down = [k / (sum(keep) / 3) for k in keep], [(1 - k) / (1 - sum(keep) / 3) for k in keep]

    x, stage, call = start, 0, 0
    for i, (t, s) in enumerate(pairwise(times)):
        (a_t, _, s_t), (a_s, _, s_s) = schedule.at(t), schedule.at(s)
        for again in range(recur):
            e = seeds(call, torch.empty(B, J, D), "smooth").double() * s_ * (1 - abar(schedule, t)) ** 0.5

            def log_f(D: Tensor, e: Tensor = e) -> Tensor:
                return torch.stack([quadratic(D + e[:, j]) for j in range(J)]).exp().mean(0).log()

            at = x.clone().requires_grad_()
            mean = den(at, t).mean
            delta = rho * up[i] * torch.autograd.grad(log_f(mean).sum(), at)[0]
            mean = D0 = mean.detach()
            for _ in range(N):
                D0 = D0.requires_grad_()
                D0 = (D0 + mu * down[i] * torch.autograd.grad(log_f(D0).sum(), D0)[0]).detach()
            h = schedule.lam(s) - schedule.lam(t)
            eps = (x - a_t * mean) / s_t
            f = torch.tensor(-kappa * h).exp().item() if s else 0.0
            x = a_s * mean + s_s * f * eps + delta * a_s / a_t + a_s * (D0 - mean)
            if s and kappa:
                x = x + s_s * (-expm1(-2 * h)) ** 0.5 * seeds(stage + 1, x)
            stage, call = stage + 1, call + 1
            if again < recur - 1:
                ratio = a_t / a_s
                x = ratio * x + (s_t**2 - ratio**2 * s_s**2) ** 0.5 * seeds(stage + 1, x)
                stage += 1

    guided = RewardGuidance(
        den, quadratic, rho=rho, mu=mu, iterations=N, copies=J, smooth=s_, noise=seeds, rho_shape="increase",
        mu_shape=decrease, unit=PerStep(kappa),
    )  # fmt: skip
    got = sample(guided, (B, D), path=path, sampler=DDIM(kappa), seeds=range(B), start=start)
    torch.testing.assert_close(got, x, rtol=1e-7, atol=1e-7)
    plain = sample(den, (B, D), path=path, sampler=DDIM(kappa), seeds=range(B), start=start)
    assert (plain - x).abs().max() > 0.05


@pytest.mark.parametrize("shape", ["flat", "increase", "decrease", lambda keep: keep**2])
def test_shapes_have_mean_one_over_the_path(shape: Any) -> None:
    """Taken as mean-space steps of a linear reward, each call's shift is mu_t itself."""
    shifts = []
    den = Simple(lambda x, t: torch.zeros_like(x), Cosine())
    guided = RewardGuidance(den, lambda x: x.flatten(1).sum(1), rho=0.0, mu=0.5, mu_shape=shape)
    times, noise = cosine_time(Cosine(), 9), Seeded(range(B))
    for out in walk(guided, draw(B, D), paths.sync(times), DDIM(), noise):
        shifts.append(float(out.mean[0, 0]))
    assert sum(shifts) / 9 == pytest.approx(0.5)
    named = {"flat": flat, "increase": increase, "decrease": decrease}
    f = named[shape] if isinstance(shape, str) else shape
    keep = torch.tensor([abar(Cosine(), t) / abar(Cosine(), s) for t, s in pairwise(times)])
    torch.testing.assert_close(torch.tensor(shifts), (0.5 * f(keep) / f(keep).mean()).float(), rtol=1e-5, atol=1e-6)
    twice = [float(out.mean[0, 0]) for out in walk(guided, draw(B, D), paths.recur(times, 2), DDIM(), noise)]
    assert twice[::3] == pytest.approx(shifts) and twice[2::3] == pytest.approx(shifts), "solve, renoise, solve"
    assert sample(guided, (B, D), steps=5, sampler=Heun(), seeds=range(B)).isfinite().all()


def test_smoothing_widens_the_likelihood() -> None:
    """E exp -(y - D - v e)^2 / 2 w^2 = N(y; D, w^2 + v^2) up to a constant: the pull shrinks by w^2 / (w^2 + v^2)."""
    den, w, t, J = Simple(lambda x, t: 0.0 * x, Cosine()), 0.5, 0.5, 3000
    v = 0.8 * Cosine().at(t)[2]

    def pull(**kw: Any) -> float:
        guided = RewardGuidance(den, lambda x: -(1 - x[:, 0]).square() / (2 * w * w), rho=0.0, mu=1.0, **kw)
        return float(guided(torch.zeros(1, 1), t).mean)

    assert pull() == pytest.approx(1 / w**2)
    assert pull(copies=J, smooth=0.8, noise=Seeded([0])) == pytest.approx(1 / (w**2 + v**2), rel=0.1)
    # a quotient of means, whose terms vary by about their size


def test_smoothing_is_a_pure_function_of_seed_and_call() -> None:
    den, noise = LAW.denoiser(VP()), Seeded(range(B))

    def run(rows: slice) -> Tensor:
        seeds = list(range(B))[rows]
        guided = RewardGuidance(den, quadratic, mu=0.1, copies=2, smooth=0.5, noise=Seeded(seeds))
        return sample(guided, (len(seeds), D), steps=6, seeds=seeds)

    whole = run(slice(None))
    assert torch.equal(whole, run(slice(None)))
    torch.testing.assert_close(whole[1:2], run(slice(1, 2)))
    guided, x = RewardGuidance(den, quadratic, copies=2, smooth=0.5, noise=noise), draw(B, D)
    assert torch.equal(guided(x, 0.4).mean, guided(x, 0.4).mean), "by itself it has no state"
    begun = guided.begin(None)
    first, second = begun(x, 0.4).mean, begun(x, 0.4).mean
    assert torch.equal(first, guided(x, 0.4).mean) and not torch.equal(first, second)
    assert torch.equal(guided.begin(None)(x, 0.4).mean, first)


def test_a_sample_does_not_see_the_others() -> None:
    guided, x = RewardGuidance(LAW.denoiser(VP()), quadratic, mu=0.2), draw(B, D)
    other = torch.cat([x[:1], 10 * x[1:]])
    torch.testing.assert_close(guided(x, 0.4).mean[0], guided(other, 0.4).mean[0], rtol=1e-12, atol=1e-12)


def test_it_stacks_with_other_guidance() -> None:
    law, label = Mixture([1.0, 1.0], draw(2, D), 0.3, labels=[0, 1]), torch.tensor([0, 1, 1])
    guided = RewardGuidance(CFG(law.denoiser(VP()), 2.0), quadratic, mu=0.1, mu_shape="increase")
    x = sample(guided, (B, D), steps=10, seeds=range(B), label=label)
    plain = sample(guided.inner, (B, D), steps=10, seeds=range(B), label=label)
    assert x.isfinite().all() and not x.requires_grad and (quadratic(x) > quadratic(plain)).all()
    outside = CFG(RewardGuidance(law.denoiser(VP()), quadratic), 2.0)
    assert sample(outside, (B, D), steps=10, seeds=range(B), label=label).isfinite().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"copies": 0}, "copies = 0: at least 1"),
        ({"iterations": 0}, "iterations = 0"),
        ({"smooth": -1.0}, "smooth = -1.0: at least 0"),
        ({"smooth": 0.5}, r"noise=Seeded\(seeds\)"),
        ({"copies": 4}, "4 copies of one and the same point"),
        ({"rho": float("nan")}, "rho = nan"),
        ({"mu_shape": "up"}, r"shape 'up' is not known.*'decrease', 'flat', 'increase'"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RewardGuidance(LAW.denoiser(VP()), quadratic, **settings)


def test_what_it_refuses_when_asked() -> None:
    den, x = LAW.denoiser(VP()), draw(B, D)
    with pytest.raises(ValueError, match=r"the reward gave \(3, 4\) for a batch of 3"):
        RewardGuidance(den, lambda x: x)(x, 0.4)
    with pytest.raises(ValueError, match="depend on the path"):
        RewardGuidance(den, quadratic, unit=PerStep())(x, 0.4)
    two = Path(torch.tensor([[1.0, 1.0], [0.5, 0.0], [0.0, 0.0]], dtype=torch.float64), torch.tensor([[0, 0, 1, 1]]))
    with pytest.raises(ValueError, match="2 tracks"):
        RewardGuidance(den, quadratic, rho_shape="decrease").begin(two)
    assert torch.equal(RewardGuidance(den, lambda x: torch.zeros(len(x)))(x, 0.4).mean, den(x, 0.4).mean)


def test_tfg_comes_nearer_to_the_posterior_mean_than_dps() -> None:
    """Proof 6: a mixture, y = a.x + noise, 100 network calls each; DPS at the best of three strengths, in either unit.
    Smoothing and strengths were chosen with other measurements than these."""
    a, noise, n, M = torch.tensor([1.0, 0.7]).double(), 0.3, 250, 8
    law = Mixture([0.3, 0.7], [[-1.0, 1.0], [1.0, 0.0]], 0.04 * torch.tensor([[4.0, 1.0], [1.0, 4.0]]))
    ys = law.sample(M, seeds=range(100, 100 + M)) @ a + noise * draw(M, seed=11)
    exact = torch.stack([law.condition(lambda x: (x @ a)[:, None], y[None], noise).mean for y in ys])  # type: ignore
    y, den, own = ys.repeat_interleave(n), law.denoiser(VP()), Grouped(Seeded(range(M)), n)

    def error(kappa: float, steps: int, recur: int, **settings: Any) -> float:
        guided = RewardGuidance(den, lambda x: -(x @ a - y).square() / (2 * noise**2), noise=own, **settings)
        path = paths.recur(cosine_time(VP(), steps), recur)
        x = own(0, torch.empty(M * n, 2, dtype=torch.float64))
        for out in walk(guided, x, path, DDIM(kappa), own):
            x = out.x
        return float((x.reshape(M, n, 2).mean(1) - exact).square().sum(1).mean().sqrt())

    dps = [error(1.0, 100, 1, rho=rho) for rho in (0.25, 0.5, 1.0)]
    dps += [error(1.0, 100, 1, rho=rho, unit=PerStep(1.0)) for rho in (0.01, 0.03, 0.1)]
    tfg = error(1.0, 50, 2, copies=16, smooth=0.5)
    print(f"posterior-mean error: DPS {[round(v, 3) for v in dps]}, TFG {tfg:.3f}")
    spread = float(law.cov.trace()) ** 0.5 / n**0.5
    assert tfg < min(dps) - spread and log(min(dps) / tfg) > log(1.2)
