"""From data to noise along the ODE and back: the round trip returns, better with order and steps."""

from math import log2

import pytest
import torch

from helpers import Normal, ar1, draw
from oneprior import paths
from oneprior.exact import Gaussian
from oneprior.noise import Seeded
from oneprior.sampling import DDIM, Heun, Multistep, Solver, grids, sample, walk
from oneprior.schedules import VP, RectifiedFlow, Schedule

MEAN, K = torch.tensor([0.3, -0.7, 0.1]).double(), 0.4 * ar1(3, 0.6)
SOLVERS: dict[str, Solver] = {"ddim": DDIM(), "2m": Multistep(), "heun": Heun()}


def encode(schedule: Schedule, x0: torch.Tensor, times: list[float], name: str) -> torch.Tensor:
    *_, last = walk(Normal(MEAN, K, schedule), x0, paths.invert(times), SOLVERS[name], Seeded(range(len(x0))))
    return last.x


def decode(schedule: Schedule, code: torch.Tensor, times: list[float], name: str) -> torch.Tensor:
    path = paths.sync(sorted(times, reverse=True))
    return sample(Normal(MEAN, K, schedule), code.shape, path=path, sampler=name, seeds=range(len(code)), start=code)


def ladder(schedule: Schedule, n: int, low: float = 1e-3) -> list[float]:
    """n steps uniform in log-SNR from `low` to .98."""
    hi, lo = schedule.lam(low), schedule.lam(0.98)
    return [schedule.time(hi + (lo - hi) * i / n) for i in range(n + 1)]


@pytest.mark.parametrize("schedule", [VP(), RectifiedFlow()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("2m", 2), ("heun", 2)])
def test_there_and_back(schedule: Schedule, name: str, order: int) -> None:
    """Both the code and the round trip are right to the order of the solver."""
    x0, there, back = draw(16, 3), {}, {}
    law = Gaussian(MEAN, K)
    for n in (32, 64, 128):
        times = ladder(schedule, n)
        code = encode(schedule, x0, times, name)
        exact = law.ode_end(schedule, x0, times[0], times[-1])
        there[n] = float((code - exact).norm(dim=1).mean())
        back[n] = float((decode(schedule, code, times, name) - x0).norm(dim=1).mean())
    for errors in (there, back):
        assert log2(errors[64] / errors[128]) > order - 0.25
        assert errors[128] < (0.1 if order == 1 else 4e-3)


@pytest.mark.parametrize("name", SOLVERS)
def test_from_clean_data_to_a_normal_code(name: str) -> None:
    """From t = 0 itself: codes of data are standard normal, and decoding them returns the data."""
    schedule, n = VP(), 2000
    x0 = Gaussian(MEAN, K).sample(n, seeds=range(n))
    times = list(grids.cosine_time(schedule, 60))
    code = encode(schedule, x0, times, name)
    assert code.mean(0).abs().max() < 5 / n**0.5 + 0.01
    assert (torch.cov(code.T) - torch.eye(3)).abs().max() < 5 * (2 / n) ** 0.5 + (0.08 if name == "ddim" else 0.02)
    assert (decode(schedule, code, times, name) - x0).abs().mean() < (0.15 if name == "ddim" else 0.02)


def test_inversion_draws_no_noise() -> None:
    """kappa has no say on the way up."""
    x0, times = draw(3, 3), ladder(VP(), 8)
    ends = []
    for kappa in (0.0, 1.0):
        *_, last = walk(Normal(MEAN, K, VP()), x0, paths.invert(times), DDIM(kappa), Seeded(range(3)))
        ends.append(last.x)
        assert all(row.std == 0.0 for st in DDIM(kappa).plan(VP(), paths.invert(times)) for row in st.rows)
    assert torch.equal(*ends)


def test_one_step_up_is_the_step_down_reversed() -> None:
    """With the same mean, DDIM inversion is the inverse of the DDIM step."""
    (up,) = DDIM().plan(VP(), paths.invert([0.4, 0.7]))[0].rows
    (down,) = DDIM().plan(VP(), paths.sync([0.7, 0.4]))[0].rows
    assert up.keep * down.keep == pytest.approx(1.0) and up.w[0] + up.keep * down.w[0] == pytest.approx(0.0, abs=1e-12)
