"""Every solver per element of time: a track goes its way as if alone; and the laws of the stochastic ones, exactly."""

from itertools import pairwise
from math import log, log2, sqrt
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import Normal, Simple, ar1, draw, wasserstein2
from oneprior import paths
from oneprior.noise import Replay, Seeded
from oneprior.paths import Path
from oneprior.sampling import DDIM, SAMPLERS, Adams, Heun, Langevin, Multistep, Solver, Stage, sample, walk
from oneprior.sampling.solvers import Angle, Conditional, Data, Eps, Sbar
from oneprior.schedules import EDM, VP, Cosine, RectifiedFlow, Schedule
from oneprior.times import align

SOLVERS: dict[str, Solver] = {
    **{name: sampler.solver for name, sampler in SAMPLERS.items() if not sampler.solver.variance},
    **{f"{form}, corrected": Adams(3, form, corrector=True) for form in (Data(), Eps(), Sbar(), Angle())},
    "tapered": Adams(4, Sbar(), corrector=True, taper=True),
    "sa, kappa 1": Adams(2, kappa=1.0, corrector=True),
    "conditional": Conditional(),
}
# three tracks: one that rests in the middle and arrives early, one that begins late and rests, one that is held
MATRIX = torch.tensor(
    [
        [1.0, 1.0, 0.0], [0.8, 1.0, 0.0], [0.7, 0.9, 0.0], [0.7, 0.75, 0.0], [0.6, 0.6, 0.0], [0.4, 0.6, 0.0],
        [0.55, 0.7, 0.0], [0.35, 0.5, 0.0], [0.2, 0.4, 0.0], [0.0, 0.25, 0.0], [0.0, 0.1, 0.0], [0.0, 0.0, 0.0],
    ],
    dtype=torch.float64,
)  # fmt: skip
KINDS = ("solve",) * 5 + ("renoise",) + ("solve",) * 5


def apart(x: Tensor, t: Any) -> Tensor:
    """Nothing linear, element by element with the time of each; a network that divides by sigma at t = 0."""
    t = align(t, x)
    nan = torch.where(torch.as_tensor(t) == 0, torch.nan, 1.0)
    return torch.tanh(1.3 * x) * (0.9 - 0.3 * t) * nan


def addresses(plan: tuple[Stage, ...]) -> list[tuple[int, int]]:
    """(step of the path, which of its calls) of every stage."""
    seen: dict[int, int] = {}
    return [(st.leg, seen.update({st.leg: seen.get(st.leg, -1) + 1}) or seen[st.leg]) for st in plan]


@pytest.mark.parametrize("schedule", [Cosine(), RectifiedFlow(), EDM()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("name", SOLVERS)
def test_a_track_goes_its_way_as_if_alone(name: str, schedule: Schedule) -> None:
    """alpha = 0 at the start, sigma = 0 at the end, rests and a rise: the same numbers, with a history of its own."""
    solver, x = SOLVERS[name], draw(2, 3, 4)
    together = Path(MATRIX, torch.arange(3)[None], KINDS)
    places = addresses(solver.plan(schedule, together))
    tape = {(i + 1, ""): draw(2, 3, 4, seed=i + 1) for i in range(len(places))}
    *_, out = walk(Simple(apart, schedule, 1), x, together, solver, Replay(tape))
    assert torch.equal(out.x[:, 2], x[:, 2])  # held, whatever the network said of it
    for k in (0, 1):
        alone = Path(MATRIX[:, k : k + 1], 0, KINDS)
        plan = solver.plan(schedule, alone)
        mine = {
            (i + 1, ""): tape[places.index(place) + 1, ""][:, k].contiguous() for i, place in enumerate(addresses(plan))
        }
        assert all(isinstance(v, float) for st in plan for row in st.rows for v in (row.keep, *row.w, row.std))
        *_, want = walk(Simple(apart, schedule), x[:, k].contiguous(), alone, solver, Replay(mine))
        assert bool(torch.isfinite(want.x).all())
        torch.testing.assert_close(out.x[:, k], want.x, rtol=1e-10, atol=1e-10)


def test_the_tracks_test_can_fail() -> None:
    """A solver whose history ignored the rests would be seen: its rows differ on this path."""
    alone = Path(MATRIX[:, :1], 0, KINDS)
    orders = [len(st.rows[-1].w) for st in Adams(3).plan(Cosine(), alone) if st.call]
    assert orders == [1, 1, 1, 2, 1, 2, 1]  # after alpha = 0; after the rest; after the rise; to sigma = 0
    assert [len(st.rows[-1].w) for st in Adams(3, Angle()).plan(Cosine(), alone) if st.call] == [1, 2, 1, 2, 1, 2, 3]
    tapered = [len(st.rows[-1].w) for st in Adams(3, Angle(), taper=True).plan(Cosine(), alone) if st.call]
    assert tapered == [1, 1, 1, 1, 1, 2, 1]  # a rest and a rise are ends too
    for form, first in ((Angle(), True), (Data(), False)):  # from alpha = 0 there is no order to raise but in the angle
        backs = [any(r.back for r in st.rows) for st in Adams(2, form, corrector=True).plan(Cosine(), alone)]
        assert backs == [False, first, False, True, False, False, True, True]


@pytest.mark.parametrize("name", ["unipc2", "deis3", "lms4", "angle3", "ipndm4", "eab3"])
def test_autoregressive_frames_of_high_order(name: str) -> None:
    """Frames of AR(1) one after another: as close to the law as the order says, closer than DDIM on the same path."""
    K, n = ar1(4), 24
    den = Normal(torch.zeros(4), K, Cosine(), time_axes=1)
    route = paths.pyramid(4, [(n - i) / n for i in range(n + 1)], 8)
    eye = torch.cat([torch.zeros(1, 4), torch.eye(4)]).double()
    error = {}
    for which in (name, "ddim"):
        out = sample(den, (5, 4), path=route, sampler=which, seeds=range(5), start=eye)
        M = (out[1:] - out[0]).mT
        error[which] = wasserstein2(M @ M.mT, K)
    assert error[name] < error["ddim"] / 5


# the laws of the chains, with no sampling error: everything is linear, so each unit of noise is followed to the end


def variance(solver: Solver, schedule: Schedule, path: Path, law: float) -> tuple[float, float]:
    """(variance, that of the exact marginal) at the end for data N(0, law), through the real walk."""
    plan = solver.plan(schedule, path)
    n = len(plan) + 1
    units = torch.eye(n, dtype=torch.float64)
    a, _, s = schedule.at(path.matrix[0, 0].item())
    den = Normal(torch.zeros(1), torch.tensor([[law]]), schedule)
    tape = {(i + 1, ""): units[:, i + 1 : i + 2] for i in range(n - 1)}
    *_, out = walk(den, sqrt(a * a * law + s * s) * units[:, :1], path, solver, Replay(tape))
    a, _, s = schedule.at(path.matrix[-1, 0].item())
    return float(out.x.square().sum()), a * a * law + s * s


def ladder(n: int, schedule: Schedule) -> Path:
    return paths.sync([schedule.time(-log(20) + log(1000) * i / n) for i in range(n + 1)])


@pytest.mark.parametrize(
    ("name", "solver", "error"),
    [
        ("ddpm", DDIM(1.0), 4.19e-2), ("sde2m", Multistep(1.0), 6.13e-4), ("sde3m", SAMPLERS["sde3m"].solver, 4.19e-4),
        ("seeds", Adams(2, kappa=1.0), 1.25e-3), ("sa1", Adams(1, kappa=1.0, corrector=True), 2.46e-3),
        ("sa2", Adams(2, kappa=1.0, corrector=True), 2.95e-4), ("sa3", SAMPLERS["sa3"].solver, 1.82e-4),
    ],
)  # fmt: skip
def test_the_law_of_the_sde_is_reached_with_the_order(name: str, solver: Solver, error: float) -> None:
    """Data N(0, .25): the variance at the end tends to the marginal's, to second order for every multistep method:
    a polynomial through the means does not know of the noise between them, of whatever degree it is."""
    errors = []
    for n in (80, 160, 320):
        got, want = variance(solver, EDM(20.0), ladder(n, EDM(20.0)), 0.25)
        errors.append(abs(got / want - 1))
    order = log2(errors[1] / errors[2])
    assert order == pytest.approx(0.98, abs=0.02) if name == "ddpm" else 1.95 < order < 2.3
    assert errors[1] == pytest.approx(error, rel=0.01)


def test_a_corrector_repeats_its_predictors_noise() -> None:
    """With noise of its own it would contradict the call it was made from: the variance is 5.8 times further off."""
    solver, path = Adams(2, kappa=1.0, corrector=True), ladder(160, VP())
    right, want = variance(solver, VP(), path, 0.25)
    plan = solver.plan(VP(), path)
    assert all(row.lag == (1 if row.back else 0) for st in plan for row in st.rows)
    assert all(st.rows[0].std == before.rows[-1].std > 0 for before, st in pairwise(plan))

    class Apart(Solver):
        @property
        def depth(self) -> int:
            return 3

        def rows(self, legs: Any) -> Any:
            return [[[r._replace(lag=0) for r in rows] for rows in calls] for calls in solver.rows(legs)]

        kappa = 1.0

    wrong, _ = variance(Apart(), VP(), path, 0.25)
    assert (wrong / want - 1) / (right / want - 1) == pytest.approx(5.78, rel=0.01)


def test_langevin_steps_stay_and_settle_at_the_marginal() -> None:
    """(1 - d) x + d (a D + b y) + s sqrt(2 d) n at each level; as d falls its law is that of x_t (Song et al. 2021)."""
    schedule, path = VP(), paths.sync([0.9, 0.6, 0.3, 0.0])
    plan = Langevin(1.0, 0.1, 2).plan(schedule, path)
    assert [(st.t, st.s) for st in plan] == [
        (0.9, 0.6), (0.6, 0.6), (0.6, 0.6), (0.6, 0.3), (0.3, 0.3), (0.3, 0.3), (0.3, 0.0),
    ]  # fmt: skip
    a, _, s = schedule.at(0.6)
    (row,) = plan[1].rows
    assert (row.keep, row.w[0], row.std) == pytest.approx((0.9, 0.1 * a, s * sqrt(0.2)))
    with torch.no_grad():
        plain, corrected = (
            variance(solver, schedule, ladder(10, schedule), 0.25) for solver in (DDIM(1.0), Langevin(1.0, 0.2, 40))
        )
    # at the last level the fixed point of V = (1 - d + d a K)^2 V + 2 d s^2, in closed form
    a, _, s = schedule.at(ladder(10, schedule).matrix[-1, 0].item())
    pull = 1 - 0.2 + 0.2 * a * a * 0.25 / (a * a * 0.25 + s * s)
    assert corrected[0] == pytest.approx(0.4 * s * s / (1 - pull**2), rel=0.3)
    assert abs(corrected[0] / corrected[1] - 1) < abs(plain[0] / plain[1] - 1)


def test_langevin_is_of_each_sample_alone() -> None:
    den = Simple(lambda x, t: torch.tanh(x), VP())
    many = sample(den, (6, 5), steps=6, sampler="langevin", seeds=range(6))
    one = sample(den, (1, 5), steps=6, sampler="langevin", seeds=[4])
    torch.testing.assert_close(many[4:5], one, rtol=1e-6, atol=1e-6)


def test_churn_keeps_the_law() -> None:
    """Rises with the exact noise: the variance at the end tends to the marginal's, which S_noise > 1 overshoots."""
    schedule, ends = EDM(20.0), {}
    times = ladder(160, schedule).matrix[:, 0].tolist()
    for swell in (1.0, 1.02):
        got, want = variance(Heun(swell=swell), schedule, paths.churn(times, schedule, 10, 0.05, 10.0), 0.25)
        ends[swell] = got / want
    assert ends[1.0] == pytest.approx(1.0, abs=2e-3) and ends[1.02] > 1.01


def test_seeds_decide_with_a_corrector_too() -> None:
    den, path = Simple(lambda x, t: torch.tanh(x), VP()), ladder(6, VP())
    runs = []
    for _ in range(2):
        *_, out = walk(den, draw(3, 5), path, Adams(3, kappa=1.0, corrector=True), Seeded(range(3)))
        runs.append(out.x)
    assert torch.equal(*runs)
