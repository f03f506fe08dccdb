"""MMPS: exact on Gaussians, calibrated through a sampler, and unharmed by Jacobians that no posterior has."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import oneprior.guidance.mmps as module
from oneprior.denoiser import Denoiser, wrap
from oneprior.exact import Gaussian, Mixture
from oneprior.guidance import CFG, MMPS
from oneprior.nets import MLPConfig, build
from oneprior.operators import Mask, Measurement, Operator, Pool
from oneprior.posterior import Posterior
from oneprior.sampling import sample
from oneprior.schedules import VE, VP, Cosine, RectifiedFlow, Schedule

D = 16
PLACE = torch.arange(D, dtype=torch.float64)[:, None]
AR = 0.9 ** torch.cdist(PLACE, PLACE, p=1)
SCHEDULES = [VP(), VE(), RectifiedFlow(), Cosine()]


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Matrix(Operator):
    def __init__(self, A: Tensor) -> None:
        self.A = A

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.A.mT.to(x)

    def domain(self, y: tuple[int, ...]) -> tuple[int, ...]:
        return (y[0], self.A.shape[1])


def isotropic(den: Denoiser, seen: Measurement, A: Tensor, x: Tensor, t: float) -> Tensor:
    """PiGDM's stand-in: Cov[x_0 | x_t] = s^2 / (a^2 + s^2) I."""
    a, _, s = den.schedule.at(t)
    x = x.clone().requires_grad_()
    mean = den(x, t).mean
    S = float(seen.noise) ** 2 * torch.eye(len(A)) + s * s / (a * a + s * s) * A @ A.mT
    u = torch.linalg.solve(S, (seen.y - mean @ A.mT).mT).mT
    return (mean + s * s / a * torch.autograd.grad(mean, x, u @ A)[0]).detach()


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_the_gaussian_posterior_to_solver_tolerance(schedule: Schedule) -> None:
    law, A = Gaussian(rand(D, seed=1), AR), rand(12, D, seed=2)
    operator = Matrix(A)
    seen = Measurement(operator(law.sample(1, seeds=[0])) + 0.1 * rand(1, 12, seed=3), operator, 0.1)
    den, x = law.denoiser(schedule), rand(4, D, seed=4)
    exact = law.condition(operator, seen.y, 0.1).denoiser(schedule)
    mmps, off = MMPS(den, seen, iterations=60, tol=1e-12), []
    for t in (0.05, 0.2, 0.5, 0.8, 0.95):
        assert (mmps(x, t).mean - exact(x, t).mean).abs().max() < 1e-6
        off.append((isotropic(den, seen, A, x, t) - exact(x, t).mean).abs().max())
    assert max(off) > 1e-2, "the control: an isotropic covariance is another answer"
    assert (mmps(x, 1.0).mean - exact(x, 1.0).mean).abs().max() < 5e-3, "alpha may be 0 at the end"
    for t in (torch.linspace(0.1, 0.9, 4).double(), 0.05 + 0.9 * rand(4, D).sigmoid()):
        assert (mmps(x, t).mean - exact(x, t).mean).abs().max() < 1e-6, "any alignment of time"
    assert torch.equal(mmps(x, 0.0).mean, x)


@pytest.mark.parametrize(
    "shape, finer",
    [((6,), [(3, 6)]), ((1, 2, 3), [(3, 1), (3, 1, 2, 3)]), ((2, 1, 1, 3), [(3, 2), (3, 1, 1, 1)])],
    ids=str,
)
def test_constant_times_equal_the_float(shape: tuple[int, ...], finer: list[tuple[int, ...]]) -> None:
    law, mask = Gaussian(torch.zeros(shape), AR[:6, :6]), Mask.random(shape, 0.5)
    x = rand(3, *shape)
    mmps = MMPS(law.denoiser(VP()), Measurement(mask(rand(3, *shape, seed=1)), mask, 0.1), iterations=20, tol=1e-10)
    for size in [(3,), *finer]:
        assert (mmps(x, torch.full(size, 0.4).double()).mean - mmps(x, 0.4).mean).abs().max() < 1e-6
    with pytest.raises(ValueError, match=r"\(2, 2\)"):
        mmps(x, torch.rand(2, 2))
    single = MMPS(law.denoiser(VP(), time_axes=0), mmps.measurement)
    with pytest.raises(ValueError, match="time_axes=0"):
        single(x, torch.rand(3, *shape))


def test_calibration_through_the_ode() -> None:
    """1,500 draws at 200 steps: the mean is off by .026 sd from sampling alone."""
    law, mask = Gaussian(torch.zeros(D), AR), Mask(torch.arange(D)[None] % 3 == 1)
    y = mask(law.sample(1, seeds=[3]) + 0.1 * rand(1, D, seed=5))
    post = law.condition(mask, y, 0.1)
    sd, ratio = post.cov.diagonal().sqrt(), {}
    assert (post.mean / sd).abs().mean() > 1, "the control: the prior's own mean"
    for steps in (50, 200):
        mmps = MMPS(law.denoiser(VP()), Measurement(y, mask, 0.1), iterations=6, tol=1e-6)
        x = sample(mmps, (1500, D), steps=steps, sampler="ddim", seeds=range(1500)).double()
        assert ((x.mean(0) - post.mean) / sd).abs().mean() < 0.06
        ratio[steps] = float(x.var(0).sum() / post.cov.trace())
    assert 0.88 < ratio[200] < 1.1
    assert abs(ratio[200] - 1) < abs(ratio[50] - 1), f"{ratio} moves to 1 with the steps"


def test_more_iterations_come_nearer() -> None:
    law, mask = Gaussian(torch.zeros(D), AR), Mask.random((D,), 0.3)
    seen = Measurement(mask(rand(4, D)), mask, 0.05)
    x, t = rand(4, D, seed=1), 0.4
    best = MMPS(law.denoiser(VP()), seen, iterations=60, tol=1e-12)(x, t).mean
    error = [(MMPS(law.denoiser(VP()), seen, iterations=k, tol=0)(x, t).mean - best).norm() for k in (1, 3, 10)]
    assert error[0] > error[1] > error[2] and error[2] < 1e-2 * best.norm()


def test_a_sample_does_not_see_the_others() -> None:
    law, masks = Gaussian(torch.zeros(1, 4, 4), AR), Mask.random((1, 4, 4), 0.5, seed=range(5))
    y, x = masks(rand(5, 1, 4, 4)), rand(5, 1, 4, 4, seed=1)
    noise = torch.tensor([0.1, 0.5, 0.05, 0.2, 0.1]).double()
    first = MMPS(law.denoiser(VP()), Measurement(y, masks, noise))(x, 0.4).mean
    other = y.clone()
    other[1:] *= 30  # the others then need other numbers of iterations
    assert torch.equal(MMPS(law.denoiser(VP()), Measurement(other, masks, noise))(x, 0.4).mean[0], first[0])
    alone = MMPS(law.denoiser(VP()), Measurement(y[:1], Mask(masks.mask[:1]), 0.1))(x[:1], 0.4).mean
    assert torch.allclose(alone[0], first[0], atol=1e-10)


class Wild(nn.Module):
    """Bounded answers, unbounded and far from symmetric derivatives."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.W = nn.Parameter(gain * rand(D, D).float())

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(x @ self.W)


def awake() -> nn.Module:
    net = build(MLPConfig((D,), width=32, depth=2), 0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.5 * torch.randn(p.shape, generator=generator))
    return net


def unguarded(apply: Callable[[Tensor], Tensor], b: Tensor, iterations: int, tol: float = 0.0) -> Tensor:
    u, r, p = torch.zeros_like(b), b, b
    for _ in range(iterations):
        q = apply(p)
        step = (r * r).sum(1, keepdim=True) / (p * q).sum(1, keepdim=True)
        u, last, r = u + step * p, r, r - step * q
        p = r + (r * r).sum(1, keepdim=True) / (last * last).sum(1, keepdim=True) * p
    return u


@pytest.mark.parametrize("name", ["wild", "wilder", "untrained"])
def test_jacobians_of_no_posterior_bring_no_nan(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = awake() if name == "untrained" else Wild(30.0 if name == "wild" else 1e4)
    den = wrap(net, VP(), "v" if name == "untrained" else "x0")
    mask = Mask.random((D,), 0.5)
    seen = Measurement(mask(rand(32, D).float()), mask, 0.05)
    for t in (0.02, 0.3, 0.9, rand(32).sigmoid().float()):
        assert MMPS(den, seen, iterations=20, tol=0.0)(rand(32, D).float(), t).mean.isfinite().all()
    x = sample(MMPS(den, seen, iterations=20, tol=0.0), (32, D), steps=12, seeds=range(32))
    assert x.isfinite().all()
    assert x.abs().max() < 10

    solved = []  # the control: what the textbook's solver, without guards, hands back for the same systems
    monkeypatch.setattr(module, "gmres", lambda *a: solved.append(unguarded(*a[:4])) or torch.zeros_like(solved[-1]))
    sample(MMPS(den, seen, iterations=20), (32, D), steps=12, seeds=range(32))
    assert not all(bool((u.abs() < 1e6).all()) for u in solved)


class Given(Denoiser):
    """D = k x: the posterior variance k s^2 / a, whatever the sign of k."""

    def __init__(self, k: float) -> None:
        super().__init__()
        self.schedule, self.facts, self.k = VP(), Gaussian(torch.zeros(D), 1.0).denoiser(VP()).facts, k

    def posterior(self, x: Tensor, t: Any, **cond: Any) -> Posterior:
        return Posterior(self.k * x if self.k else torch.ones_like(x), x, self.schedule, t)


def test_negative_curvature_stops_a_sample() -> None:
    mask = Mask.random((D,), 0.5)
    seen, x = Measurement(mask(rand(3, D)), mask, 0.05), rand(3, D, seed=1)
    for k in (-1.0, 0.0):
        den = Given(k)
        assert torch.equal(MMPS(den, seen)(x, 0.5).mean, den(x, 0.5).mean)
    assert not torch.equal(MMPS(Given(1.0), seen)(x, 0.5).mean, x)
    bent = Measurement(seen.y, seen.operator, torch.tensor([0.05, 50.0, 0.05]).double())
    moved = (MMPS(Given(-0.1), bent)(x, 0.9).mean + 0.1 * x).abs().flatten(1).sum(1)
    assert moved[1] > 0 and moved[0] == moved[2] == 0, "each for itself"


def test_it_stacks_and_says_what_it_is() -> None:
    law = Mixture([1.0, 1.0], rand(2, D), 0.5, labels=[0, 1])
    den, mask = law.denoiser(VP()), Mask.random((D,), 0.5)
    seen, x, label = Measurement(mask(rand(3, D)), mask, 0.1), rand(3, D, seed=1), torch.tensor([0, 1, 1])
    plain = MMPS(den, seen, iterations=9)
    assert not plain.facts.density and plain.facts.null == {"label": 2} and plain.begin(None) is plain
    guided = MMPS(CFG(den, 1.0), seen, iterations=9)(x, 0.4, label=label).mean
    assert torch.allclose(plain(x, 0.4, label=label).mean, guided)
    twice = sample(MMPS(CFG(den, 2.0), seen), (3, D), steps=4, seeds=range(3), label=label)
    assert twice.isfinite().all()
    with pytest.raises(ValueError, match=r"MMPS\(CFG"):  # a doubled batch
        CFG(plain, 2.0)(x, 0.4, label=label)
    begun = MMPS(CFG(den, 2.0), seen).begin(None)
    assert isinstance(begun, MMPS) and begun.measurement is seen
    with torch.no_grad():
        assert not plain(x.requires_grad_(), 0.4).mean.requires_grad
    with pytest.raises(ValueError, match=r"Measurement\.repeat"):
        plain(rand(4, D), 0.4)
    with pytest.raises(ValueError, match="iterations"):
        MMPS(den, seen, iterations=0)


def test_other_operators() -> None:
    class Bent(Operator):
        linear = False

        def forward(self, x: Tensor) -> Tensor:
            return 2 * x[:, :5] + 1

    law, y = Gaussian(torch.zeros(D), AR), rand(1, 5)
    exact = law.condition(Bent(), y, 0.2).denoiser(VP())
    x = rand(3, D)
    got = MMPS(law.denoiser(VP()), Measurement(y, Bent(), 0.2), iterations=20, tol=1e-10)(x, 0.4)
    assert (got.mean - exact(x, 0.4).mean).abs().max() < 1e-6, "linearised at D, exact for an affine operator"
    wide = Gaussian(torch.zeros(1, 4, 4), AR)
    low = rand(2, 1, 2, 2)
    restored = sample(MMPS(wide.denoiser(VP()), Measurement(low, Pool(2), 0.05)), (2, 1, 4, 4), steps=20, seeds=[0, 1])
    assert (Pool(2)(restored) - low).std() < 3 * 0.05 + 0.02
