"""Local dimension on manifolds that are known, by exact denoisers."""

from math import log
from typing import Any

import pytest
import torch

from helpers import draw
from oneprior.exact import Gaussian, low_rank_mixture
from oneprior.guidance import CFG
from oneprior.schedules import VE, VP, Cosine, Schedule
from oneprior.uses.geometry import dimension
from oneprior.uses.geometry.dimension import flow_map

D, RANK = 24, 6
U = torch.linalg.qr(draw(D, RANK)).Q
PLANE = low_rank_mixture([1.0], torch.zeros(1, D), U[None], 0.0)
Z = draw(3, RANK, seed=1)
SCHEDULES = [Cosine(), VP(), VE()]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_flipd_is_the_closed_form(schedule: Schedule) -> None:
    """Card: N(0, I_6) on a plane: a^2 (6 + s^2 |x|^2) for a^2 + s^2 = 1, to 1e-10; 6 as t0 falls."""
    times = (0.02, 0.1, 0.3)
    found = dimension(PLANE.denoiser(schedule), Z @ U.mT, t0=times)
    for t, row in zip(times, found.curve, strict=True):
        a, _, s = schedule.at(t)
        n = a * a + s * s
        exact = a * a / n * RANK + (a * s / n) ** 2 * Z.square().sum(1)
        assert (row - exact).abs().max() < 1e-10
    assert (found.curve[0] - RANK).abs().max() < 0.5
    some = dimension(PLANE.denoiser(schedule), (Z @ U.mT)[:1].expand(300, D), t0=times, count=2)
    error = some.curve.std(1) / 300**0.5
    assert ((some.curve.mean(1) - found.curve[:, 0]).abs() < 4 * error).all()


def test_normal_bundle_and_flow_map() -> None:
    """Card: 6 by both, and singular values of the flow map to 1e-3 of their closed form."""
    den, x = PLANE.denoiser(Cosine()), Z[:2] @ U.mT
    assert (dimension(den, x, "normal_bundle", t0=(0.02, 0.1), count=48).curve == RANK).all()
    x, t0 = Z[:1] @ U.mT, (0.02, 0.1)
    small: Any = low_rank_mixture([1.0], torch.zeros(1, 8), U[:8, :3][None], 0.0).denoiser(Cosine())
    x = draw(1, 3) @ U[:8, :3].mT
    values = flow_map(small, x, t0, None, range(1), values=True)
    lam = torch.cat([torch.linalg.svdvals(U[:8, :3]).square(), torch.zeros(5, dtype=torch.float64)])
    a1, _, s1 = Cosine().at(Cosine().time(-5.0))
    for t, row in zip(t0, values, strict=True):
        a, _, s = Cosine().at(t)
        exact = ((a * a * lam + s * s) / (a1 * a1 * lam + s1 * s1)).sqrt()
        assert (row[0] / exact.sort(descending=True).values - 1).abs().max() < 1e-3
    assert (dimension(small, x, "flow_map", t0=t0).x == 3).all()


def test_lidl_is_the_fit_to_exact_densities() -> None:
    """The slope of log p_delta(x) against log delta, with log p from the law and not from FLIPD."""
    times = tuple(0.01 * 1.2**k for k in range(12))
    x, schedule = Z @ U.mT, VE()
    found = dimension(PLANE.denoiser(schedule), x, "lidl", t0=times)
    sbar = [schedule.at(t)[2] for t in times]
    logp = torch.stack([PLANE.at(schedule, t).log_prob(x) for t in times])
    X = torch.stack([torch.ones(12, dtype=torch.float64), torch.tensor([log(v) for v in sbar], dtype=torch.float64)], 1)
    slope = torch.linalg.lstsq(X, logp).solution[1]
    assert (found.x - (slope + D)).abs().max() < 0.01
    assert found.x.mean() < D  # not the ambient one


def test_full_space_and_mixtures() -> None:
    """A point on a line and one on a plane of one law have each their own; data that fills its space has d."""
    law = low_rank_mixture([0.5, 0.5], [[2.0] + [0.0] * 7, [-2.0] + [0.0] * 7], torch.stack([
        torch.eye(8)[:, 1:4] * torch.tensor([1.0, 0.0, 0.0]), torch.eye(8)[:, 4:7]]), 1e-8)  # fmt: skip
    x = torch.zeros(2, 8, dtype=torch.float64)
    x[0, :2], x[1, 0], x[1, 4:7] = torch.tensor([2.0, 0.5]), -2.0, torch.tensor([0.1, -0.3, 0.5])
    found = dimension(law.denoiser(Cosine()), x, t0=(0.02, 0.05))
    assert (found.x - torch.tensor([1.0, 3.0])).abs().max() < 0.1
    full = dimension(Gaussian(torch.zeros(5), 1.0).denoiser(Cosine()), torch.zeros(1, 5).double(), t0=(0.01, 0.02))
    assert full.x.item() == pytest.approx(5, abs=0.01)


def test_bad_input() -> None:
    den, x = PLANE.denoiser(Cosine()), Z @ U.mT
    with pytest.raises(ValueError, match="method 'mle' is not known"):
        dimension(den, x, "mle")
    for t0 in ((0.1,), (0.2, 0.1), (0.0, 0.1), (0.1, 1.0)):
        with pytest.raises(ValueError, match="at least two times that rise"):
            dimension(den, x, t0=t0)
    with pytest.raises(ValueError, match="wants at least as many"):
        dimension(den, x, "normal_bundle", count=5)
    with pytest.raises(ValueError, match="no model of a density"):
        dimension(CFG(den, negative={"label": 0}), x)
    with pytest.raises(ValueError, match="singular"):
        PLANE.log_prob(x)
