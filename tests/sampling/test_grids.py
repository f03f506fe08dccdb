"""Grids: each against its formula, on every schedule, from one step on."""

from itertools import pairwise
from math import exp, inf, log

import pytest
import torch

from oneprior.sampling import grids
from oneprior.sampling.grids import (
    AYS_SD15,
    AYS_SDXL,
    FLOW,
    STEEP,
    Flow,
    Grid,
    Karras,
    Leading,
    Levels,
    Linspace,
    Shift,
    Trailing,
    UniformTime,
)
from oneprior.schedules import EDM, VE, VP, Cosine, LinearBetas, RectifiedFlow, ScaledLinearBetas, Schedule

SCHEDULES = [VP(), VE(), EDM(), Cosine(), RectifiedFlow(), LinearBetas(), ScaledLinearBetas()]
GRIDS = [
    grids.cosine_time, grids.uniform_time, grids.quadratic_time, grids.uniform_lam, Karras(), Karras(5.0), FLOW, STEEP,
    Flow(3.0), AYS_SD15, AYS_SDXL, Shift(grids.uniform_time, 3.0), Trailing(), Linspace(),
]  # fmt: skip


def sbar(schedule: Schedule, t: float) -> float:
    lam = schedule.lam(t)
    return inf if lam == -inf else exp(-lam)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_every_grid_falls_from_its_first_time_to_zero(grid: Grid, schedule: Schedule) -> None:
    for n in (1, 2, 3, 10, 47):
        times = grid(schedule, n)
        assert len(times) == n + 1 and times[0] == 1.0 and times[-1] == 0.0
        assert all(a > b for a, b in pairwise(times))


def test_grids_are_settings_and_their_answers_are_kept() -> None:
    assert Karras() == grids.karras and hash(Flow(1.0, 2.0)) == hash(Flow(1.0, 2.0)) and Karras(5.0) != Karras()
    assert FLOW(VP(), 8) is Flow(0.6, 0.9, 1.4)(VP(), 8)


def test_flow_is_rectified_flow_and_its_shift() -> None:
    for f in (1.0, 3.0):
        times = torch.tensor(Flow(f)(RectifiedFlow(t_min=1e-5), 8), dtype=torch.float64)
        u = torch.linspace(1, 0, 9, dtype=torch.float64)
        torch.testing.assert_close(times, f * u / (1 + (f - 1) * u))
        torch.testing.assert_close(
            times, torch.tensor(Shift(grids.uniform_time, f)(RectifiedFlow(), 8), dtype=torch.float64)
        )


def test_flow_has_its_levels_on_every_schedule() -> None:
    v = [i / 10 for i in range(1, 10)]
    levels = [0.6 * (1 - x) ** 1.4 / x**0.9 for x in v]
    for schedule in (Cosine(), RectifiedFlow()):  # these begin at infinity: v_high = 0
        assert [sbar(schedule, t) for t in FLOW(schedule, 10)[1:-1]] == pytest.approx(levels)
    for schedule in (VP(), EDM()):  # these a little below
        near = [sbar(schedule, t) for t in FLOW(schedule, 10)[1:-1]]
        assert near == pytest.approx(levels, rel=0.04) and all(a < b for a, b in zip(near, levels, strict=True))


def test_flow_ends_where_the_network_does() -> None:
    times = FLOW(VP(), 400)
    assert times[-2] == pytest.approx(VP().t_min) and all(a > b for a, b in pairwise(times))
    assert FLOW(Cosine(), 40, low=0.1)[-2] == pytest.approx(0.1)
    assert FLOW(Cosine(), 40, high=0.5)[0] == 0.5


def test_uniform_and_quadratic_time_and_karras_rho() -> None:
    assert grids.quadratic_time(VP(), 4) == pytest.approx((1.0, 9 / 16, 1 / 4, 1 / 16, 0.0))
    assert UniformTime(1.0) == grids.uniform_time
    roots = [sbar(EDM(), t) ** (1 / 5) for t in Karras(5.0)(EDM(), 6)[:-1]]
    assert all(b - a == pytest.approx(roots[1] - roots[0], rel=1e-6) for a, b in pairwise(roots))
    assert roots[-1] ** 5 == pytest.approx(0.002)


def test_trained_steps_are_what_the_spacings_are_known_for() -> None:
    schedule = LinearBetas()
    index = lambda grid, n: [round(t * 1000) - 1 for t in grid(schedule, n)[:-1]]  # noqa: E731
    assert index(Trailing(), 4) == [999, 749, 499, 249]
    assert index(Leading(offset=1), 4) == [751, 501, 251, 1]
    assert index(Linspace(), 4) == [999, 666, 333, 0]
    assert index(Trailing(), 1) == index(Linspace(), 1) == [999] and index(Leading(), 1) == [0]
    assert len(Trailing()(schedule, 1000)) == 1001
    with pytest.raises(ValueError, match="1001 steps of a chain that was trained on 1000"):
        Trailing()(schedule, 1001)


def test_ays_is_its_table_and_interpolates_in_log() -> None:
    schedule = ScaledLinearBetas()
    ten = [sbar(schedule, t) for t in AYS_SD15(schedule, 10)[1:-1]]
    assert ten == pytest.approx(AYS_SD15.sbar[1:-1], rel=1e-4)
    twenty = [log(sbar(schedule, t)) for t in AYS_SD15(schedule, 20)[1:-1]]
    table = [log(v) for v in AYS_SD15.sbar]
    assert twenty[1::2] == pytest.approx(table[1:-1], abs=1e-4)
    assert twenty[2] == pytest.approx((table[1] + table[2]) / 2, abs=1e-4)


def test_a_table_that_does_not_fall_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fall"):
        Levels((5.0, 1.0, 2.0, 0.01))(EDM(), 3)
    for bad in (0, -1, 2.5):
        with pytest.raises(ValueError, match="steps ="):
            FLOW(VP(), bad)  # type: ignore[arg-type]
