"""The laws that samplers draw from, in closed form: variances of chains, stochasticity, one model under many schedules,
and frames at times of their own (video-fvdm, proofs 1 and 2)."""

from collections.abc import Callable
from math import log, sqrt
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers import SCHEDULES, Normal, Simple, affine, ar1, draw, propagate, wasserstein2
from oneprior import paths
from oneprior.denoiser import Wrapper, with_schedule, wrap
from oneprior.exact import Gaussian
from oneprior.nets import MLPConfig, build
from oneprior.noise import Seeded
from oneprior.paths import Hold, Path
from oneprior.posterior import Posterior
from oneprior.sampling import DDIM, SAMPLERS, sample, walk
from oneprior.schedules import EDM, VP, Cosine, Eta, LinearBetas, Own, RectifiedFlow, Schedule

# those that every denoiser serves
SOLVERS = {name: sampler.solver for name, sampler in SAMPLERS.items() if not sampler.solver.variance}

# principles-schedules, proof 2: data of variance .25, 10, 50 and 1000 of the thousand linear steps (both ends included)


def _subsampled(n: int) -> tuple[LinearBetas, Any]:
    index = torch.linspace(999, 0, n).round()
    times = [*((index + 1) / 1000).double().tolist(), 0.0]
    return LinearBetas(), DDIM(1.0, variance=True).plan(LinearBetas(), paths.sync(times))


@pytest.mark.parametrize(("n", "small", "large"), [(10, 0.1042, 0.3585), (50, 0.1964, 0.2679), (1000, 0.2461, 0.2508)])
def test_optimal_variance_law(n: int, small: float, large: float) -> None:
    schedule, plan = _subsampled(n)
    _, fixed_small, optimal = propagate(plan, schedule, (0.0, 0.25), (0.0, 1.0))
    assert optimal == pytest.approx(0.25, rel=1e-4)  # exact but for the 4e-5 of signal that the start leaves out
    a, _, s = schedule.at(1.0)
    assert propagate(plan, schedule, (0.0, 0.25), (0.0, a * a * 0.25 + s * s))[2] == pytest.approx(0.25, rel=1e-12)
    assert fixed_small == pytest.approx(small, abs=5e-5)
    # "fixed large" has the same mean and beta = s_t^2 - r^2 s_s^2 for its variance, none in the last step
    V = 1.0
    for stage in plan:
        (row,), (a, _, s), (a_s, _, s_s) = stage.rows, schedule.at(stage.t), schedule.at(stage.s)
        gain = row.keep + row.w[0] * a * 0.25 / (a * a * 0.25 + s * s)
        V = gain**2 * V + (s * s - (a / a_s) ** 2 * s_s**2 if stage.s else 0.0)
    assert pytest.approx(large, abs=6e-5) == V


# principles-solvers, proof 3: N(0, .25) from sbar 20 to .02 in n steps uniform in lambda


def _ladder(n: int, schedule: Schedule) -> Path:
    return paths.sync([schedule.time(-log(20) + log(1000) * i / n) for i in range(n + 1)])


@pytest.mark.parametrize(
    ("kappa", "ratios"), [(0.0, (0.7085, 0.9175, 0.9787, 0.9946)), (1.0, (0.5425, 0.8458, 0.9581, 0.9893))]
)
@pytest.mark.parametrize("schedule", [EDM(20.0), VP()], ids=["EDM", "VP"])
def test_law_of_the_sde(kappa: float, ratios: tuple[float, ...], schedule: Schedule) -> None:
    for n, ratio in zip((10, 40, 160, 640), ratios, strict=True):
        path = _ladder(n, schedule)
        (a, _, s), (a_s, _, s_s) = (schedule.at(path.matrix[i, 0].item()) for i in (0, -1))
        law, start = (0.0, 0.25), (0.0, a * a * 0.25 + s * s)
        _, V, _ = propagate(DDIM(kappa).plan(schedule, path), schedule, law, start)
        assert V / (a_s * a_s * 0.25 + s_s * s_s) == pytest.approx(ratio, abs=1e-3)


@pytest.mark.parametrize("kappa", [0.0, 1.0])
@pytest.mark.parametrize("own", [True, False])
def test_sampling_has_the_variance_of_the_law(kappa: float, own: bool) -> None:
    """20,000 numbers of the real walk within 3 %, three standard errors, of the closed form (the seeds are fixed)."""
    schedule, shape = EDM(20.0), (400, 50)
    path = _ladder(40, schedule)
    law = Gaussian(torch.zeros(50), 0.25).denoiser(schedule)
    den = Normal(torch.zeros(50), 0.25 * torch.eye(50), schedule) if own else law
    x = draw(*shape, seed=9) * sqrt(0.25 + 400)
    x *= sqrt(0.25 + 400) / x.std()
    x = sample(den, shape, path=path, sampler=DDIM(kappa), seeds=range(shape[0]), start=x)
    start = (0.0, 0.25 + 400.0)
    _, V, _ = propagate(DDIM(kappa).plan(schedule, path), schedule, (0.0, 0.25), start)
    assert float(x.var()) == pytest.approx(V, rel=0.03)
    assert abs(float(x.mean())) < 5 * sqrt(V / 20_000)


@pytest.mark.parametrize("name", ["vp", "subvp", "ve", "rf", "linear betas", "cosine"])
def test_the_ancestral_step_is_ddpms_posterior(name: str) -> None:
    """q(x_s | x_t, x_0) = N(c0 x_0 + c1 x_t, btilde), c0 = a_s beta/s_t^2, c1 = r s_s^2/s_t^2 (Ho et al. 2020)."""
    schedule = SCHEDULES[name]
    for t, s in ((0.9, 0.5), (0.5, 0.49), (0.3, 0.01), (0.2, 0.0)):
        (a_t, _, s_t), (a_s, _, s_s) = schedule.at(t), schedule.at(s)
        r = a_t / a_s
        beta = s_t**2 - r * r * s_s**2
        (stage,) = DDIM(1.0).plan(schedule, paths.sync([t, s]))
        (row,) = stage.rows
        assert row.keep == pytest.approx(r * s_s**2 / s_t**2, rel=1e-10, abs=1e-12)
        assert row.w[0] == pytest.approx(a_s * beta / s_t**2, rel=1e-10)
        assert row.std**2 == pytest.approx(beta * s_s**2 / s_t**2, rel=1e-9, abs=1e-12)
        (eta,) = DDIM(Eta(1.0)).plan(schedule, paths.sync([t, s]))[0].rows
        assert (eta.keep, eta.w[0], eta.std) == pytest.approx((row.keep, row.w[0], row.std), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_eta_is_ddims(eta: float) -> None:
    """std = eta sqrt((1 - abar_s)/(1 - abar_t)) sqrt(1 - abar_t/abar_s), the rest along eps (Song et al. 2021)."""
    schedule, x, d = LinearBetas(), draw(3), draw(3, seed=1)
    t, s = 0.7, 0.35
    abar_t, abar_s = schedule.at(t)[0] ** 2, schedule.at(s)[0] ** 2
    std = eta * sqrt((1 - abar_s) / (1 - abar_t)) * sqrt(1 - abar_t / abar_s)
    eps = (x - sqrt(abar_t) * d) / sqrt(1 - abar_t)
    want = sqrt(abar_s) * d + sqrt(1 - abar_s - std**2) * eps
    (row,) = DDIM(Eta(eta)).plan(schedule, paths.sync([t, s]))[0].rows
    torch.testing.assert_close(row.keep * x + row.w[0] * d, want, rtol=1e-10, atol=1e-10)
    assert row.std == pytest.approx(std, rel=1e-10)
    own = DDIM(Own()).plan(schedule, paths.sync([t, s]))[0].rows[0]
    assert own == DDIM(1.0).plan(schedule, paths.sync([t, s]))[0].rows[0]


def test_temperature_scales_the_noise_of_the_steps() -> None:
    den, shape = Normal(torch.zeros(50), 0.25 * torch.eye(50), VP()), (200, 50)
    V = {}
    for temperature in (0.0, 0.5, 1.0):
        x = sample(den, shape, steps=20, sampler="ancestral", seeds=range(200), temperature=temperature)
        V[temperature] = float(x.double().var())
    assert V[0.5] == pytest.approx(V[0.0] + 0.25 * (V[1.0] - V[0.0]), rel=0.05) and V[0.0] < 0.02


# principles-schedules, proof 4


@pytest.fixture(scope="module")
def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = build(MLPConfig(shape=(4,), width=32, depth=2))
        for p in net.parameters():
            nn.init.normal_(p, std=0.3)
    return net.double().requires_grad_(False)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("other", ["rf", "ve", "vp", "trigflow"])
def test_one_network_under_any_schedule_draws_the_same(net: nn.Module, other: str, solver: Any) -> None:
    """Trained under cosine, wrapped to others, grids of equal log-SNR: the same samples. Raw t is another model."""
    cosine, target = wrap(net, Cosine(), "v"), SCHEDULES[other]
    lams = torch.linspace(-3.5, 4.0, 13, dtype=torch.float64)
    noise = draw(32, 4)

    def run(den: Any) -> Tensor:
        times = [*den.schedule.time(lams).tolist(), 0.0]
        start = noise * den.schedule.at(times[0])[2]
        return sample(den, (32, 4), path=paths.sync(times), sampler=solver, seeds=range(32), start=start)

    want, got = run(cosine), run(with_schedule(cosine, target))
    assert want.std() > 0.05
    assert (got - want).abs().max() < 1e-8
    assert (run(wrap(net, target, "v")) - want).abs().mean() > 100 * (got - want).abs().mean()


# video-fvdm, proofs 1 and 2: eight frames of an AR(1) sequence, rho = .9, alpha = cos, sigma = sin

FRAMES, K = 8, ar1(8)
GRID: Callable[[int], list[float]] = lambda n: [(n - i) / n for i in range(n + 1)]  # noqa: E731
ROUTES: dict[str, Callable[[int], Path]] = {
    "synchronous": lambda n: paths.sync(GRID(n)),
    "pyramid": lambda n: paths.pyramid(FRAMES, GRID(n), n // 4),
    "autoregressive": lambda n: paths.autoregressive(FRAMES, GRID(n)),
}


class MeanTime(Wrapper):
    """The control: every frame is denoised at the mean time of all."""

    def posterior(self, x: Tensor, t: Any, **cond: Any) -> Posterior:
        level = t if isinstance(t, float) else float(t.mean())
        return self.inner(x, level).replace(self.inner(x, level).mean)


def _covariance(den: Any, path: Path, name: str = "ddim") -> Tensor:
    run = lambda x: sample(den, x.shape, path=path, sampler=name, seeds=range(len(x)), start=x)  # noqa: E731
    offset, M = affine(run, (FRAMES,))
    assert offset.abs().max() < 1e-9
    return M @ M.mT


@pytest.mark.parametrize(
    ("route", "at_40", "at_160"),
    [("synchronous", 1.45e-2, 9.4e-4), ("pyramid", 8.0e-3, 5.2e-4), ("autoregressive", 1.0e-2, 6.5e-4)],
)
def test_every_path_over_the_frames_gives_the_same_law(route: str, at_40: float, at_160: float) -> None:
    den = Normal(torch.zeros(FRAMES), K, Cosine(), time_axes=1)
    w2 = {n: wasserstein2(_covariance(den, ROUTES[route](n)), K) for n in (40, 80, 160)}
    assert w2[160] < 2e-3
    assert (w2[40], w2[160]) == pytest.approx((at_40, at_160), rel=0.05)
    assert all(3.3 < w2[n] / w2[2 * n] < 4.7 for n in (40, 80))
    if route != "synchronous":
        assert wasserstein2(_covariance(MeanTime(den), ROUTES[route](40)), K) > 1


@pytest.mark.parametrize("name", ["2m", "heun"])
@pytest.mark.parametrize("route", ROUTES)
def test_second_order_needs_a_history_a_frame(route: str, name: str) -> None:
    """2M keeps the means of each frame and forgets them where a frame rested: better than first order on every path."""
    den, w2 = Normal(torch.zeros(FRAMES), K, Cosine(), time_axes=1), {}
    for n in (40, 80):
        w2[n] = wasserstein2(_covariance(den, ROUTES[route](n), name), K)
    assert w2[80] < 1.2e-4 and w2[40] / w2[80] > 4.2  # measured 4.3 to 13; DDIM 2.1e-3 to 3.7e-3


@pytest.mark.parametrize(("held", "bar"), [((0,), 0.02), ((0, 7), 0.01)], ids=["first", "ends"])
@pytest.mark.parametrize("exact", [True, False])
def test_held_frames_give_the_conditional_law(held: tuple[int, ...], bar: float, exact: bool) -> None:
    law = Gaussian(torch.zeros(FRAMES), K).denoiser(Cosine())
    den = law if exact else Normal(torch.zeros(FRAMES), K, Cosine(), time_axes=1)
    known = torch.zeros(1, FRAMES, dtype=torch.bool)
    known[0, list(held)] = True
    value = torch.where(known, 1.3 + torch.arange(FRAMES), torch.nan)[0]  # nothing but the held may be looked at
    free = [f for f in range(FRAMES) if f not in held]

    def run(x: Tensor) -> Tensor:
        hold = Hold(value.expand(len(x), -1), known)
        path = paths.sync(GRID(200))
        out = sample(den, x.shape, path=path, sampler="ddim", seeds=range(len(x)), start=x, hold=hold)
        assert torch.equal(out[:, list(held)], value[list(held)].double().expand(len(x), -1))
        return out

    mean, M = affine(run, (FRAMES,))
    gain = K[free][:, list(held)] @ torch.linalg.inv(K[list(held)][:, list(held)])
    cov = K[free][:, free] - gain @ K[list(held)][:, free]
    assert (mean[free] - gain @ value[list(held)].double()).abs().max() < 1e-9
    assert ((M @ M.mT)[free][:, free] - cov).abs().max() < bar


def test_a_frame_given_with_noise_is_a_noisy_frame() -> None:
    """Held at t > 0 the conditional law is that of a noisy observation; the frame is shown as that noisy throughout."""
    den, n, t = Normal(torch.zeros(FRAMES), K, Cosine(), time_axes=1), 4000, 0.3
    known = torch.zeros(1, FRAMES, dtype=torch.bool)
    known[0, 0] = True
    hold = Hold(torch.full((n, FRAMES), 1.3), known, time=t)
    x = sample(den, (n, FRAMES), steps=60, sampler="ddim", seeds=range(n), hold=hold).double()
    a, _, s = Cosine().at(t)
    seen = a * 1.3 + s * Seeded(range(n))(-1, torch.empty(n, FRAMES))[:, 0].double()
    torch.testing.assert_close(x[:, 0], seen, rtol=1e-6, atol=1e-6)
    slope = a * K[1, 0] / (a * a + s * s)  # E[x_1 | noisy x_0] = slope * seen
    left = x[:, 1] - slope * seen
    assert abs(float(left.mean())) < 5 * sqrt(float(left.var()) / n)
    assert float(left.var()) == pytest.approx(float(1 - slope * a * K[1, 0]), rel=5 * sqrt(2 / n) + 0.02)


def test_clamp_pastes_and_is_not_exact() -> None:
    """For a network of one time: the known come back exactly, the rest is only plausible (RePaint's replacement)."""
    den, n = Normal(torch.zeros(FRAMES), K, Cosine(), time_axes=0), 500
    known = torch.zeros(1, FRAMES, dtype=torch.bool)
    known[0, 0] = True
    value = torch.full((n, FRAMES), 1.3)
    for name in SAMPLERS:
        hold = Hold(value, known, clamp=True)
        x = sample(den, (n, FRAMES), steps=30, sampler=name, seeds=range(n), hold=hold)
        assert torch.equal(x[:, :1], value[:, :1])
        assert all(isinstance(t, float) for t in den.calls)
        assert 0.2 < float(x[:, 1].mean()) < 0.9 * 1.3 + 0.2
    with pytest.raises(ValueError, match="several tracks"):
        sample(den, (n, FRAMES), path=ROUTES["pyramid"](8), seeds=range(n), hold=Hold(value, known, clamp=True))
    with pytest.raises(ValueError, match="time_axes=0"):
        sample(den, (n, FRAMES), steps=2, seeds=range(n), hold=Hold(value, known))
    with pytest.raises(ValueError, match="everything is held"):
        sample(den, (n, FRAMES), steps=2, seeds=range(n), hold=Hold(value))


def test_pixels_of_their_own_time_are_held_by_every_sampler() -> None:
    den = Normal(torch.zeros(2, 3, 3), torch.kron(torch.eye(2), ar1(9)), RectifiedFlow())
    mask = torch.zeros(5, 1, 3, 3, dtype=torch.bool)
    mask[:, :, 1] = True
    mask[2] = False  # one sample is free
    value = draw(5, 2, 3, 3, dtype=torch.float32)
    for name in SAMPLERS:
        x = sample(den, (5, 2, 3, 3), steps=6, sampler=name, seeds=range(5), hold=Hold(value, mask))
        assert torch.equal(x[mask.expand_as(x)], value[mask.expand_as(x)]) and x.dtype == torch.float32
        free = sample(den, (5, 2, 3, 3), steps=6, sampler=name, seeds=range(5))
        torch.testing.assert_close(x[2], free[2], rtol=1e-4, atol=1e-5)
        assert not torch.equal(x[0], free[0])


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_unmoved_frames_are_bit_identical_at_every_step(solver: Any) -> None:
    den, noise, path = Normal(torch.zeros(FRAMES), K, Cosine(), time_axes=1), Seeded(range(3)), ROUTES["pyramid"](12)
    before, rested = noise(0, torch.empty(3, FRAMES)), 0
    plan = solver.plan(Cosine(), path)
    for stage, out in zip(plan, walk(den, before, path, solver, noise), strict=True):
        if stage.moved is not None:
            rested += int((~stage.moved).sum())
            assert torch.equal(out.x[:, ~stage.moved], before[:, ~stage.moved])
            assert bool((out.x != before).any())
        before = out.x.clone()
    assert rested > 40 and bool(torch.isfinite(before).all())


@pytest.mark.parametrize("name", SOLVERS)
def test_what_a_network_says_of_held_frames_does_not_matter(name: str) -> None:
    """At t = 0 a network may divide by sigma: the NaN of a held frame stays in its frame, and there it is not used."""
    known = torch.zeros(1, FRAMES, dtype=torch.bool)
    known[0, [0, 4]] = True
    value = draw(3, FRAMES, dtype=torch.float32)
    den = Simple(lambda x, t: torch.where(t == 0, torch.nan, 0.5 * x), Cosine(), 1)
    x = sample(den, (3, FRAMES), steps=5, sampler=name, seeds=range(3), hold=Hold(value, known))
    assert torch.equal(x[:, [0, 4]], value[:, [0, 4]]) and bool(torch.isfinite(x).all())
