"""CFG++ is plain guidance with a scale a step, exactly; and what that means for its strength (guidance, proof 4)."""

from itertools import pairwise
from math import exp
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import PRESERVING, SCHEDULES, Simple, draw
from oneprior import paths
from oneprior.denoiser import Denoiser, Facts, with_schedule
from oneprior.guidance import CFG, CFGpp
from oneprior.noise import Seeded
from oneprior.posterior import Posterior
from oneprior.sampling import DDIM, Heun, sample, walk
from oneprior.schedules import EDM, VP, RectifiedFlow, Schedule
from oneprior.times import align, aligned

LABEL, TIMES = torch.tensor([1.0, 2.0, 3.0]), [1.0, 0.8, 0.55, 0.3, 0.1, 0.0]


def f(x: Tensor, t: Any, label: Tensor, **_: Any) -> Tensor:
    return torch.tanh(x + align(label.to(x), x))


def den(schedule: Schedule, axes: int = 0) -> Simple:
    return Simple(f, schedule, axes, {"label": 0})


def renoised(schedule: Schedule, x: Tensor, t: Any, s: Any, l: Any) -> Tensor:  # noqa: E741 (the paper's)
    """One DDIM step as the paper has it: the image is guided, the noise is the unconditional one."""
    c, u = f(x, t, LABEL), f(x, t, torch.zeros(3))
    (a, _, e), (a_s, _, e_s) = aligned(schedule.at(t), x), aligned(schedule.at(s), x)
    return a_s * (u + l * (c - u)) + e_s * (x - a * u) / e


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("l", [0.6, torch.tensor([0.1, 0.5, 1.0])], ids=str)
def test_it_is_the_step_that_renoises_with_the_unconditional_noise(name: str, l: Any) -> None:  # noqa: E741
    """To 1e-12, from alpha = 0 and to sigma = 0."""
    schedule, weight = SCHEDULES[name], l[:, None].double() if isinstance(l, Tensor) else l
    x = draw(3, 4) * schedule.at(1.0)[2]
    steps = walk(CFGpp(den(schedule), l), x, paths.sync(TIMES), DDIM(), Seeded(range(3)), label=LABEL)
    for t, s, out in zip(TIMES, TIMES[1:], steps, strict=False):
        x = renoised(schedule, x, t, s, weight)
        assert ((out.x - x).abs() <= 1e-12 * x.abs().max().clamp(min=1)).all(), (t, s)


def test_the_scale_of_a_step() -> None:
    for name in PRESERVING[:3]:
        schedule, x = SCHEDULES[name], draw(3, 4)
        guided = CFGpp(den(schedule), 0.6).begin(paths.sync(TIMES))
        for t, s in pairwise(TIMES[1:]):
            w = 0.6 / (1 - exp(schedule.lam(t) - schedule.lam(s)))  # 0.6 on the last step
            want = CFG(den(schedule), w)(x, t, label=LABEL).mean
            torch.testing.assert_close(guided(x, t, label=LABEL).mean, want, rtol=1e-12, atol=1e-12)


def test_times_an_element() -> None:
    """A clip on a pyramid: every frame has the scale of its own step; those that rest, or are held, do not mind."""
    schedule, x = VP(), draw(3, 2, 4)
    path = paths.pyramid(2, TIMES, 2)
    along = walk(CFGpp(den(schedule, 1), 0.6), x, path, DDIM(), Seeded(range(3)), label=LABEL)
    for i, out in enumerate(along):
        t, s = path.matrix[i][None], path.matrix[i + 1][None]
        x = torch.where((t != s)[..., None], renoised(schedule, x, t.clamp(min=1e-9), s, 0.6), x)
        assert (out.x - x).abs().max() < 1e-12
    held = paths.sync(TIMES).hold(torch.tensor([[True, False]]), 0.3)
    *_, out = walk(CFGpp(den(schedule, 1), 0.6), draw(3, 2, 4), held, DDIM(), Seeded(range(3)), label=LABEL)
    alone = walk(CFGpp(den(schedule), 0.6), draw(3, 2, 4)[:, 1], paths.sync(TIMES), DDIM(), Seeded([0]), label=LABEL)
    *_, want = alone
    assert torch.equal(out.x[:, 0], draw(3, 2, 4)[:, 0]) and (out.x[:, 1] - want.x).abs().max() < 1e-12


class TwoNormals(Denoiser):
    """N(0, 1/4) with the label, N(0, 1) without."""

    def __init__(self) -> None:
        super().__init__()
        self.schedule, self.facts = EDM(1e4), Facts(null={"label": 0})

    def posterior(self, x: Tensor, t: Any, *, label: Tensor, **_: Any) -> Posterior:
        k = 1 / (1 + self.schedule.at(t)[2] ** 2 * torch.where(label == 1, 4.0, 1.0).double())
        return Posterior(k[:, None] * x, x, self.schedule, t)


def variance(guided: Denoiser, n: int) -> float:
    """From sigma = 200 to 0.001 in n equal steps of log sigma."""
    times = [200e-4 * (1e-3 / 200) ** (i / n) for i in range(n + 1)]
    start = torch.full((1, 1), 200.0).double()
    *_, out = walk(guided, start, paths.sync(times), DDIM(), Seeded([0]), label=torch.ones(1))
    return float(out.x) ** 2


@pytest.mark.parametrize(
    ("n", "want", "half"), [(10, 0.17, 5e-3), (20, 0.11, 5e-3), (50, 0.015, 5e-4), (100, 0.0004, 5e-5)]
)
def test_the_strength_rises_with_the_number_of_steps(n: int, want: float, half: float) -> None:
    assert abs(variance(CFGpp(TwoNormals(), 0.6), n) - want) <= half
    h = torch.tensor(200 / 1e-3).log() / n
    assert variance(CFG(TwoNormals(), 0.6 / (1 - exp(-h))), n) == pytest.approx(variance(CFGpp(TwoNormals(), 0.6), n))
    # the control: a fixed scale (here 1) has a limit, which Euler steps approach at first order
    error = [abs(variance(CFG(TwoNormals(), 1.0), k) - 0.25) for k in (n, 2 * n)]
    assert 0.45 < error[1] / error[0] < 0.65


def test_other_samplers_and_paths() -> None:
    guided, kwargs = CFGpp(den(RectifiedFlow()), 0.6), {"seeds": range(3), "label": LABEL}
    for name in ("heun", "2m", "ancestral"):
        assert sample(guided, (3, 4), steps=6, sampler=name, **kwargs).isfinite().all()
    again = paths.restart(TIMES, low=0.3, high=0.8, repeats=2)
    assert sample(guided, (3, 4), path=again, sampler="ddim", **kwargs).isfinite().all()
    assert sample(guided, (3, 4), path=paths.sync([0.8, 0.3]), sampler=Heun(), **kwargs).isfinite().all()
    with torch.no_grad():
        start = walk(guided, draw(3, 4), paths.invert([0.1, 0.5, 1.0]), DDIM(), Seeded(range(3)), label=LABEL)
        assert all(out.x.isfinite().all() for out in start)


def test_it_belongs_to_a_path() -> None:
    x = draw(3, 4)
    for alone in (CFGpp(den(VP())), CFGpp(den(VP())).begin(None)):
        with pytest.raises(ValueError, match="steps of a path"):
            alone(x, 0.5, label=LABEL)
    begun = CFGpp(den(VP())).begin(paths.sync(TIMES))
    for t in (0.5, torch.tensor([0.8, 0.5, 0.3])):
        with pytest.raises(ValueError, match="no time of the path"):
            begun(x, t, label=LABEL)
    two = paths.Path(torch.tensor([[0.8, 0.8], [0.5, 0.3], [0.0, 0.0]]).double(), torch.tensor([[0, 1]]))
    with pytest.raises(ValueError, match=r"steps of two lengths from t = 0\.8"):
        CFGpp(den(VP(), 1)).begin(two)
    outside = with_schedule(CFGpp(den(VP())), RectifiedFlow())
    with pytest.raises(ValueError, match="wrappers that change the time inside"):
        sample(outside, (3, 4), steps=4, seeds=range(3), label=LABEL)
    inside = sample(CFGpp(with_schedule(den(VP()), RectifiedFlow())), (3, 4), steps=4, seeds=range(3), label=LABEL)
    assert inside.isfinite().all()
