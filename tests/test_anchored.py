"""Paths that end at a degraded image: their published coefficients, and chains exact at 4 steps (low-level vision)."""

from dataclasses import dataclass
from math import log, sqrt

import pytest
import torch
from torch import Tensor

from helpers import ANCHORED, Normal, draw, propagate
from oneprior import paths
from oneprior.anchored import BrownianBridge, MeanReverting, OUBridge, Residual, ResShift, Straight
from oneprior.denoiser import wrap
from oneprior.exact import Gaussian
from oneprior.sampling import DDIM, grids, sample, step
from oneprior.schedules import VP, Own, RectifiedFlow, Schedule

OWN = Own()
TIMES = torch.linspace(0.05, 1.0, 8, dtype=torch.float64)
# x_0 ~ N(0, 1), y = .6 x_0 + .3 n seen as .8: the posterior is N(1.067, .2)
SEEN, LAW = 0.8, (0.8 * 0.6 / 0.45, 0.2)


@dataclass(frozen=True)
class ConstantRate(MeanReverting):
    """IR-SDE with theta_t constant: the path behind the card's figures, not the published cosine one."""

    def coefs(self, t: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        th = -log(self.end) * t
        return torch.exp(-th), -torch.expm1(-th), self.lam_inf * (-torch.expm1(-2 * th)).sqrt()


@pytest.mark.parametrize("name", ANCHORED)
@pytest.mark.parametrize("kappa", [0.0, 1.0, OWN], ids=str)
def test_any_step_keeps_the_marginals(name: str, kappa: float | Own) -> None:
    """Path algebra to 1e-12: with D = x_0, x_t = a x_0 + b y + s eps goes to a_s x_0 + b_s y and variance s_s^2."""
    schedule, x0, y, eps = ANCHORED[name], draw(4), draw(4, seed=1), draw(4, seed=2)
    times = [1.0, 0.9, 0.6, 0.59, 0.2, 0.0]
    for stage in DDIM(kappa).plan(schedule, paths.sync(times)):
        (row,), (a, b, s), (a_s, b_s, s_s) = stage.rows, schedule.at(stage.t), schedule.at(stage.s)
        x = a * x0 + b * y + s * eps
        mean = step(x, [x0], row, y=y)
        left = row.keep * s * eps  # what remains of the noise
        assert (mean - a_s * x0 - b_s * y - left).abs().max() < 1e-12
        assert (row.keep * s) ** 2 + row.std**2 == pytest.approx(s_s**2, abs=1e-12)


def test_mean_reverting_sde() -> None:
    """The posterior's coefficients are A (1 - C^2)/(1 - B^2) and C (1 - A^2)/(1 - B^2) on x_t - y and x_0 - y."""
    schedule = MeanReverting(lam_inf=0.2)
    for t, r in ((0.9, 0.4), (0.5, 0.45), (1.0, 0.05)):
        B, C = schedule.at(t)[0], schedule.at(r)[0]
        A = B / C
        rho, std = schedule.transition(t, r, 1.0)
        (a_t, b_t, _), (a_r, b_r, _) = schedule.at(t), schedule.at(r)
        assert rho == pytest.approx(A * (1 - C**2) / (1 - B**2), rel=1e-12)
        assert a_r - rho * a_t == pytest.approx(C * (1 - A**2) / (1 - B**2), rel=1e-12)
        assert (a_t + b_t, a_r + b_r) == pytest.approx((1.0, 1.0), abs=1e-15)
        assert std**2 == pytest.approx(0.2**2 * (1 - A**2) * (1 - C**2) / (1 - B**2), rel=1e-12)
    assert schedule.at(1.0)[0] == pytest.approx(0.005, rel=1e-12)
    _, b, s = schedule.at(1.0)
    assert (b, s) == pytest.approx((0.995, 0.2 * sqrt(1 - 0.005**2)))


def test_resshift() -> None:
    schedule = ResShift()
    eta = [schedule.at(k / 15)[1] for k in range(1, 16)]
    assert sqrt(eta[0]) == pytest.approx(0.02, rel=1e-4) and sqrt(eta[-1]) == pytest.approx(0.99)  # min(.04 / 2, .04)
    for k in (3, 9):  # published index k, from 0
        assert sqrt(eta[k]) == pytest.approx(0.02 * (0.99 / 0.02) ** ((k / 14) ** 0.3), rel=1e-9)
        assert schedule.transition((k + 1) / 15, k / 15, OWN)[0] == pytest.approx(eta[k - 1] / eta[k], rel=1e-12)
    assert schedule.at(0.5)[0] + schedule.at(0.5)[1] == pytest.approx(1.0)
    assert schedule.at(0.5)[2] == pytest.approx(2.0 * sqrt(schedule.at(0.5)[1]))


def test_brownian_bridge() -> None:
    """I2SB: beta quadratic from 1e-4 to .3/1000 over 1000 indices, mirrored; total variance .141; rho = f_r / f_t."""
    schedule = BrownianBridge()
    half = torch.linspace(0.1**0.5, 0.3**0.5, 1001, dtype=torch.float64)[:501] ** 2 / 1000
    half = (half[:-1] + half[1:]) / 2
    beta = torch.cat([half, half.flip(0)])
    f, whole = beta.cumsum(0).tolist(), float(beta.sum())
    assert whole == pytest.approx(0.141, abs=5e-4)
    for k in (100, 499, 777):
        a, b, s = schedule.at((k + 1) / 1000)
        assert (a, b) == pytest.approx(((whole - f[k]) / whole, f[k] / whole), abs=1e-6)
        assert s**2 == pytest.approx(f[k] * (whole - f[k]) / whole, abs=1e-7)
    assert schedule.at(1.0) == (0.0, 1.0, 0.0) and schedule.at(0.5)[:2] == pytest.approx((0.5, 0.5))
    assert schedule.lam(1.0) == float("-inf") and schedule.lam(torch.ones(1))[0] == -torch.inf
    (_, b_t, _), (_, b_r, _) = schedule.at(0.8), schedule.at(0.3)
    assert schedule.transition(0.8, 0.3, 1.0)[0] == pytest.approx(b_r / b_t, rel=1e-12)


def test_ou_bridge_is_the_mean_reverting_sde_conditioned_on_its_end() -> None:
    """GOUB, derived anew: condition the joint Gaussian of the OU process at (t, 1) on x_1 = y."""
    schedule, free = OUBridge(0.3, 0.01), MeanReverting(0.3, 0.01)
    for t in (0.2, 0.5, 0.9):
        A, end = free.at(t)[0], 0.01
        C = end / A  # e^{-th_{t:1}}
        v_t, v_1 = 0.3**2 * (1 - A**2), 0.3**2 * (1 - end**2)
        gain = C * v_t / v_1  # x_t | x_1 = y: mean + gain (y - E x_1)
        a, b, s = schedule.at(t)
        assert a == pytest.approx(A - gain * end, rel=1e-10)
        assert b == pytest.approx(1 - A + gain * (1 - (1 - end)), rel=1e-10)
        assert s**2 == pytest.approx(v_t - gain * C * v_t, rel=1e-9)
    assert schedule.at(1.0)[1] == pytest.approx(1.0) and schedule.at(1.0)[2] == 0.0


def test_residual() -> None:
    assert Residual(0.5).at(0.25) == (0.5625, 0.4375, 0.125)


def test_straight() -> None:
    assert Straight(0.1).at(0.25) == (0.75, 0.25, 0.025)


CHAINS: dict[str, tuple[Schedule, float | Own]] = {
    "VP": (VP(), 1.0),
    "flow": (RectifiedFlow(), 1.0),
    **{k: (v, OWN if k == "ResShift" else 1.0) for k, v in ANCHORED.items()},
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("n", [1, 4, 15, 100])
@pytest.mark.parametrize("grid", [grids.cosine_time, grids.uniform_time])
def test_variance_in_the_step_makes_a_chain_exact(name: str, n: int, grid: grids.Grid) -> None:
    """Proof 2, in closed form: mean and variance right at any number of steps; without the variance it shrinks."""
    schedule, kappa = CHAINS[name]
    times = grid(schedule, n)
    a, b, s = schedule.at(times[0])
    start = (a * LAW[0] + (b or 0.0) * SEEN, a * a * LAW[1] + s * s)
    plan = DDIM(kappa).plan(schedule, paths.sync(times))
    mean, plain, exact = propagate(plan, schedule, LAW, start, SEEN)
    assert mean == pytest.approx(LAW[0], abs=1e-9)
    assert exact == pytest.approx(LAW[1], rel=1e-9)
    assert plain < 0.97 * LAW[1]
    # without alpha x_0, which nobody knows, in the start
    mean, _, exact = propagate(plan, schedule, LAW, ((b or 0.0) * SEEN, s * s), SEEN)
    assert abs(mean - LAW[0]) < 0.03 * sqrt(LAW[1]) and exact == pytest.approx(LAW[1], rel=0.05)


@pytest.mark.parametrize("name", ["VP", "ResShift", "I2SB", "IR-SDE", "GOUB", "RDDM"])
def test_four_steps_of_the_own_rho_are_exact_within_one_percent(name: str) -> None:
    """As it is used: rho by name (`Own`), alpha(1) x_0 left out of the start; without the variance it is far off."""
    schedule = CHAINS[name][0]
    times = grids.uniform_time(schedule, 4)
    _, b, s = schedule.at(1.0)
    plan = DDIM(OWN).plan(schedule, paths.sync(times))
    mean, plain, exact = propagate(plan, schedule, LAW, ((b or 0.0) * SEEN, s * s), SEEN)
    assert abs(exact / LAW[1] - 1) < 0.01 and abs(mean - LAW[0]) < 0.03 * sqrt(LAW[1])
    assert plain < 0.75 * LAW[1]


def _resshift(n: int) -> Schedule:
    return ResShift(T=n)


@pytest.mark.parametrize(
    ("make", "kappa", "ratios"),
    [
        (lambda n: VP(), 1.0, (0.15, 0.53, 0.87)),
        (_resshift, OWN, (0.23, 0.64, 0.89)),  # its table has as many indices as there are steps
        (lambda n: BrownianBridge(), 1.0, (0.48, 0.79, 0.95)),
        (lambda n: ConstantRate(lam_inf=0.5), 1.0, (0.05, 0.35, 0.76)),
    ],
    ids=["VP", "ResShift", "I2SB", "IR-SDE"],
)
def test_without_the_variance_few_steps_are_over_confident(make, kappa, ratios: tuple[float, ...]) -> None:
    """The card's shrunken variances at 4, 15 and 100 steps, uniform in t."""
    for n, ratio in zip((4, 15, 100), ratios, strict=True):
        schedule = make(n)
        times = grids.uniform_time(schedule, n)
        a, b, s = schedule.at(1.0)
        start = (a * LAW[0] + (b or 0.0) * SEEN, a * a * LAW[1] + s * s)
        _, plain, _ = propagate(DDIM(kappa).plan(schedule, paths.sync(times)), schedule, LAW, start, SEEN)
        assert plain / LAW[1] == pytest.approx(ratio, abs=0.02)


@pytest.mark.parametrize("name", ["flow", *ANCHORED])
@pytest.mark.parametrize("own", [True, False])
def test_four_sampled_steps_have_the_exact_law(name: str, own: bool) -> None:
    """The whole call, 20,000 independent elements: moments of the posterior within five standard errors."""
    (schedule, kappa), shape, n = CHAINS[name], (400, 50), 20_000
    mean = torch.full(shape[1:], LAW[0])
    den = Normal(mean, LAW[1] * torch.eye(50), schedule) if own else Gaussian(mean, LAW[1]).denoiser(schedule)
    y = torch.full(shape, SEEN)
    x = sample(den, shape, steps=4, sampler=DDIM(kappa, variance=True), seeds=range(shape[0]), y=y).double()
    slack = 0.003 if name in ("ResShift", "IR-SDE") else 0.0  # alpha(1) x_0 is left out of the start
    assert abs(float(x.mean()) - LAW[0]) < 5 * sqrt(LAW[1] / n) + slack
    assert abs(float(x.var()) - LAW[1]) < 5 * LAW[1] * sqrt(2 / n)


@pytest.mark.parametrize("prediction", ["x0", "v", "velocity", "edm"])
@pytest.mark.parametrize("name", ANCHORED)
def test_networks_see_the_anchored_path(name: str, prediction: str) -> None:
    """A network that returns its target exactly gives back x_0, whatever it predicts."""
    schedule, x0, y, eps = ANCHORED[name], draw(2, 3), draw(2, 3, seed=1), draw(2, 3, seed=2)

    class Oracle(torch.nn.Module):
        def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            (a, _, s), (da, db, ds) = schedule.at(float(t[0])), schedule.slope(float(t[0]))
            r = sqrt(a * a * 0.25 + s * s)
            return {
                "x0": x0,
                "v": a * eps - s * x0,
                "velocity": da * x0 + db * y + ds * eps,
                "edm": s / (0.5 * r) * x0 - a * 0.5 / r * eps,
            }[prediction]

    den = wrap(Oracle(), schedule, prediction)
    for t in (0.1, 0.5, 0.875):
        a, b, s = schedule.at(t)
        post = den(a * x0 + b * y + s * eps, t, y=y)
        torch.testing.assert_close(post.mean, x0, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(post.eps, eps, rtol=1e-7, atol=1e-7)
        da, db, ds = schedule.slope(t)
        torch.testing.assert_close(post.velocity, da * x0 + db * y + ds * eps, rtol=1e-6, atol=1e-6)


def test_the_start_is_the_anchor_and_its_noise() -> None:
    y = draw(3, 4, dtype=torch.float32)
    seen = []

    class Net(torch.nn.Module):
        def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            seen.append(x)
            return x

    for schedule in (BrownianBridge(), MeanReverting(0.2)):
        sample(wrap(Net(), schedule, "x0"), (3, 4), steps=1, sampler="ddim", seeds=range(3), y=y)
    assert torch.equal(seen[0], y)  # a bridge ends at y exactly
    assert (seen[1] - 0.995 * y).abs().max() < 5 * 0.2 and (seen[1] - 0.995 * y).std() > 0.1
