"""RED-diff lands where the mathematics says, its order of times matters, it never differentiates a network; draws by
moment matching carry error bars that are right."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from oneprior.denoiser import Denoiser, Wrapper
from oneprior.exact import Gaussian, Mixture, empirical
from oneprior.guidance import Tiled
from oneprior.noise import antithetic
from oneprior.operators import Mask, Measurement, Operator
from oneprior.posterior import Posterior
from oneprior.schedules import VP, LinearBetas, RectifiedFlow
from oneprior.uses.restore import Log, MMPSSettings, Power, RedDiffSettings, Truncated, Weighting, restore
from oneprior.uses.restore.red_diff import MODES, direction, red_diff
from oneprior.uses.restore.settings import WINDOWS

D = 16
PLACE = torch.arange(D, dtype=torch.float64)[:, None]
LAW = Gaussian(0.3 * torch.sin(PLACE[:, 0]), 0.9 ** torch.cdist(PLACE, PLACE, p=1))
MASK = Mask(torch.arange(D)[None] % 3 == 1)


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Counted(Wrapper):
    """Counts its calls, and cannot be differentiated."""

    def __init__(self, inner: Denoiser) -> None:
        super().__init__(inner)
        self.calls = 0

    def posterior(self, x: Tensor, t: Any, **cond: Any) -> Posterior:
        self.calls += 1
        post = self.inner(x, t, **cond)
        return post.replace(Closed.apply(post.mean))


class Closed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Tensor:
        raise RuntimeError("the network was differentiated")


@pytest.mark.parametrize("p", [1.0, 0.5, 0.0], ids=["linear", "sqrt", "const"])
def test_landing_point(p: float) -> None:
    """Stochastic steps with random times must land on (v A^T A + R)^-1 (v A^T y + R m)."""
    schedule, lam, v = VP(), 0.25, 1.0
    den, y = LAW.denoiser(schedule), MASK(rand(1, D))
    seen, A = Measurement(y, MASK), torch.diag(MASK.mask[0].double())
    grid = torch.linspace(1e-3, 0.9, 400).double()  # the law of the random times: even over these

    def R(p: float) -> Tensor:
        total = torch.zeros(D, D).double()
        for t in grid.tolist():
            a, _, s = schedule.at(t)
            total += lam * (s / a) ** p * a * s * torch.linalg.inv(a * a * LAW.cov + s * s * torch.eye(D))
        return total / len(grid)

    def land(R: Tensor) -> Tensor:
        return torch.linalg.solve(v * A + R, v * A @ y[0] + R @ LAW.mean)

    steps, batch, mu, trail = 600, 200, torch.zeros(1, D).double(), []
    top = torch.linalg.eigvalsh(v * A + R(p))[-1]
    generator = torch.Generator().manual_seed(1)
    for k in range(steps):
        t = grid[torch.randint(len(grid), (batch // 2,), generator=generator)].repeat(2)
        eps = torch.randn(batch // 2, D, generator=generator, dtype=torch.float64)
        a, _, s = schedule.at(t)
        g = direction(den, seen, mu.expand(batch, -1), t, torch.cat([eps, -eps]), lam * (s / a) ** p, v)
        mu = mu - 1.0 / top * (1 + 4 * k / steps) ** -1 * g.mean(0, keepdim=True)
        trail.append(mu)
    got = torch.cat(trail[steps // 2 :]).mean(0)  # Polyak's average

    def away(x: Tensor) -> float:
        return float((got - x).norm() / x.norm())

    assert away(land(R(p))) < 0.01
    assert away(land(1e-9 * torch.eye(D).double())) > 0.05, "control: no prior"
    assert away(land(R(2.0))) > 0.05, "control: another weighting"


def test_the_paper_s_loss_has_this_gradient() -> None:
    den, y, mu = LAW.denoiser(LinearBetas()), MASK(rand(2, D)), rand(2, D, seed=1).requires_grad_()
    s = RedDiffSettings(lam=0.7, v=1.3, weight=Power(0.5))
    t, eps = 0.4, rand(2, D, seed=2)
    a, _, b = den.schedule.at(t)
    prior, data = MODES["paper"](Measurement(y, MASK), [b / a], s)
    got = direction(den, Measurement(y, MASK), mu.detach(), t, eps, prior[0], data)
    residual = (den(a * mu + b * eps, t).eps - eps).detach()
    seen = MASK.mask[0]
    loss = 0.7 * (b / a) ** 0.5 * (residual * mu).mean(1) + 1.3 / 2 * ((y - mu)[:, seen] ** 2).mean(1)
    assert torch.allclose(got, torch.autograd.grad(loss.sum(), mu)[0])


def test_weightings() -> None:
    for weight, expected in ((Power(), 3), (Power(2), 9), (Power(0), 1), (Log(), 1.3862943611198906), (Truncated(), 1)):
        assert isinstance(weight, Weighting) and weight(3.0) == pytest.approx(expected)


def test_it_costs_calls_and_no_backward_pass() -> None:
    den = Counted(LAW.denoiser(VP()))
    out = restore(den, Measurement(MASK(rand(3, D)), MASK), method="red_diff", steps=7, seeds=range(3))
    assert den.calls == out.nfe == 7 and out.x.isfinite().all()
    with pytest.raises(RuntimeError, match="differentiated"):
        restore(den, Measurement(MASK(rand(3, D)), MASK, 0.1), method="mmps", steps=2, seeds=range(3))


def digits(n: int, held: int) -> tuple[Tensor, Tensor]:
    x = torch.from_numpy(load_digits(return_X_y=True)[0]).reshape(-1, 1, 8, 8) / 8 - 1
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return x[order[:n]], x[order[n : n + held]]


def psnr(x: Tensor, truth: Tensor) -> float:
    return float((10 * torch.log10(4 / (x - truth).square().flatten(1).mean(1))).mean())


def test_annealing_matters_and_one_run_is_no_wiener_filter() -> None:
    train, truth = digits(1000, 40)
    den, mask = empirical(train, 0.15).denoiser(LinearBetas()), Mask.random((1, 8, 8), 0.5, seed=range(40))
    y = mask(truth + 0.1 * rand(*truth.shape))
    seen = Measurement(y, mask)
    down = restore(den, seen, method=RedDiffSettings(steps=100), draws=8, seeds=range(320))
    up = restore(den, seen, method=RedDiffSettings(steps=100, order="ascending"), seeds=range(0, 320, 8))
    assert psnr(down.x, truth) > psnr(mask.pinv(y), truth) + 4
    assert psnr(down.x, truth) > psnr(up.x, truth) + 1
    gauss = Gaussian(train.mean(0), train.flatten(1).mT.cov())
    wiener = torch.stack([gauss.condition(Mask(m[None]), v[None], 0.1).mean for m, v in zip(mask.mask, y, strict=True)])
    assert psnr(down.mean, truth) > psnr(wiener, truth) + 0.5 > psnr(down.x, truth)


def test_mode_map_lands_on_the_maximum_and_mode_paper_on_the_data() -> None:
    noise, den = 0.5, LAW.denoiser(VP())
    y = MASK(LAW.sample(1, seeds=[0]) + noise * rand(1, D)).expand(8, -1)
    seen, post = Measurement(y, MASK, noise), LAW.condition(MASK, y[:1], noise)
    settings = RedDiffSettings(mode="map", s_min=0.02, steps=1000, lr=0.2)
    best = red_diff(den, seen, settings, seeds=range(8)).mean(0)
    with pytest.warns(UserWarning, match="does not use the noise"):
        paper = restore(den, seen, method="red_diff", steps=300, seeds=range(8)).x.mean(0)
    sd = post.cov.diagonal().sqrt()
    assert ((best - post.mean) / sd).abs().mean() < 0.15 < 0.4 < ((paper - post.mean) / sd).abs().mean()
    visible = MASK.mask[0]
    assert ((paper - y[0])[visible]).abs().mean() < 0.1 * (post.mean - y[0])[visible].abs().mean()


def test_error_bars_of_moment_matching() -> None:
    y = MASK(LAW.sample(2, seeds=[0, 1]) + 0.1 * rand(2, D))
    out = restore(LAW.denoiser(VP()), Measurement(y, MASK, 0.1), draws=400, seeds=range(800), steps=40)
    assert out.draws.shape == (2, 400, D) and out.x.shape == out.mean.shape == out.std.shape == (2, D) and out.nfe == 40
    assert torch.equal(out.x, out.draws[:, 0]) and torch.allclose(out.mean, out.draws.mean(1))
    for i in range(2):
        post = LAW.condition(MASK, y[i], 0.1)
        sd = post.cov.diagonal().sqrt()
        assert ((out.mean[i] - post.mean) / sd).abs().max() < 4.5 / 400**0.5
        assert (out.std[i] / sd - 1).abs().max() < 4.5 / 800**0.5 + 0.02  # of 400 draws, and of 40 steps


def test_antithetic_draws_have_the_posterior_s_mean_and_spread() -> None:
    """On a Gaussian a draw is affine in its noise, so the mean of a pair is the exact mean; that of two others is
    off by a standard deviation / sqrt 2. The spread is unbiased for pairs as well, where the plain one is not."""
    den, noise, B = LAW.denoiser(VP()), 0.3, 64
    y = MASK(LAW.sample(1, seeds=[0]) + noise * rand(1, D)).expand(B, -1)
    exact = LAW.condition(MASK, y[:1], noise)
    std = exact.cov.diagonal(dim1=-2, dim2=-1).sqrt()
    found = {}
    for name, seeds in (("pairs", antithetic(range(B * 4), 4)), ("apart", tuple(range(B * 4)))):
        found[name] = restore(den, Measurement(y, MASK, noise), method=MMPSSettings(steps=20), draws=4, seeds=seeds)
    off = {k: (v.mean - exact.mean).square().mean().sqrt() for k, v in found.items()}
    assert off["pairs"] < 0.2 * off["apart"]
    for out in found.values():  # 256 draws, in pairs or not: the variance is known to about 10 %
        ratio = out.std.square().mean() / std.square().mean()
        assert 0.8 < ratio < 1.2
    plain = found["pairs"].draws.var(1).mean() / std.square().mean()
    assert plain > 1.2  # 4/3 with perfect pairs
    with_none = restore(den, Measurement(y[:2], MASK, noise), method=MMPSSettings(steps=6), draws=4)
    a, b = with_none.draws[:, 0] - with_none.mean, with_none.draws[:, 1] - with_none.mean
    assert bool(((a * b).sum(1) < 0).all())


@pytest.mark.parametrize(
    "method", [MMPSSettings(steps=6), RedDiffSettings(steps=6), RedDiffSettings(steps=6, mode="map", order="random")]
)
def test_a_sample_does_not_see_the_others(method: Any) -> None:
    mask = Mask.random((1, 4, 4), 0.5, seed=range(5))
    den, y = Gaussian(torch.zeros(1, 4, 4), LAW.cov).denoiser(RectifiedFlow()), mask(rand(5, 1, 4, 4))
    noise = 0.0 if getattr(method, "mode", "") == "paper" else 0.1
    all_of = restore(den, Measurement(y, mask, noise), method=method, draws=2, seeds=range(10))
    other = torch.cat([y[:1], 20 * y[1:]])
    again = restore(den, Measurement(other, mask, noise), method=method, draws=2, seeds=range(10))
    assert torch.equal(all_of.draws[0], again.draws[0])
    third = Measurement(y[2:3], Mask(mask.mask[2:3]), noise)
    alone = restore(den, third, method=method, seeds=[5])
    assert torch.allclose(alone.x[0], all_of.draws[2, 1], atol=1e-4)


def test_conditions_and_operators_pass_through() -> None:
    law = Mixture([1.0, 1.0], torch.stack([torch.ones(D), -torch.ones(D)]), 0.01, labels=[0, 1])
    y = torch.zeros(2, D)
    label, dark = torch.tensor([0, 1]), Mask(torch.zeros(1, D))
    for method in ("mmps", RedDiffSettings(mode="map")):
        unseen = Measurement(y, dark, 0.1)
        out = restore(law.denoiser(VP()), unseen, method=method, draws=3, seeds=range(6), label=label)
        assert (out.mean[0] > 0.5).all() and (out.mean[1] < -0.5).all()

    class Clip(Operator):
        linear = False

        def forward(self, x: Tensor) -> Tensor:
            return (2 * x).clamp(-1, 1)

        def pinv(self, y: Tensor, iterations: int = 0) -> Tensor:
            return y / 2

    x = LAW.sample(4, seeds=range(4)) / 2
    seen = Measurement(Clip()(x), Clip(), 0.05)
    out = restore(LAW.at(VP(), 0.0).denoiser(VP()), seen, method=RedDiffSettings(mode="map"), seeds=range(4))
    assert (Clip()(out.x) - seen.y).square().mean().sqrt() < 0.1


def test_auto_takes_fewer_calls_by_windows() -> None:
    den = Gaussian(torch.zeros(1, 2, 2), 0.5).denoiser(RectifiedFlow())
    A = Mask.random((1, 2, 3), 0.5)
    seen = Measurement(A(torch.ones(1, 1, 2, 3)), A, 0.1)
    auto = restore(Tiled(den, (2, 2)), seen, seeds=[0])
    same = restore(Tiled(den, (2, 2)), seen, method=WINDOWS, seeds=[0])
    assert auto.nfe == WINDOWS.steps < MMPSSettings().steps and torch.equal(auto.x, same.x)
    assert restore(Tiled(den, (2, 2)), seen, seeds=[0], steps=3).nfe == 3
    whole = Measurement(seen.y[..., :2], Mask(A.mask[..., :2]), 0.1)
    assert restore(den, whole, seeds=[0]).nfe == MMPSSettings().steps


def test_refusals() -> None:
    den, seen = LAW.denoiser(VP()), Measurement(torch.zeros(2, D), MASK, 0.1)
    refused: list[tuple[dict[str, Any], str]] = [
        ({"method": "magic"}, "magic.*red_diff"),
        ({"draws": 0}, "draws = 0"),
        ({"steps": 0}, "steps = 0"),
        ({"seeds": [1]}, "1 seeds for 2 samples"),
    ]
    for settings, match in refused:
        with pytest.raises(ValueError, match=match):
            restore(den, seen, **settings)
    wrong: list[dict[str, Any]] = [{"order": "up"}, {"lr": 0.0}, {"steps": 0}, {"mode": "x"}, {"init": "y"}]
    for bad in wrong:
        match = "|".join(bad)
        with pytest.raises(ValueError, match=match):
            RedDiffSettings(**bad)
    with pytest.raises(ValueError, match="a number above 0"):
        restore(den, Measurement(torch.zeros(2, D), MASK), method=RedDiffSettings(mode="map"))
    with pytest.raises(TypeError, match="tokens"):
        restore(den, seen, tokens=torch.zeros(2))


def test_settings_bring_no_torch() -> None:
    code = "import sys, oneprior.uses.restore as r; r.RedDiffSettings(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
