"""check_* pass what is right and catch the usual slips, with an exact law and with data alone."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from oneprior.check import check_denoiser, check_operator, check_sampler, check_schedule
from oneprior.denoiser import NetworkDenoiser, wrap
from oneprior.exact import Gaussian
from oneprior.operators import Blur, Mask, Pool
from oneprior.posterior import EDMPrediction
from oneprior.schedules import EDM, VP, Cosine, LinearBetas, RectifiedFlow, Schedule

COV = torch.tensor([[0.5, 0.3, 0.0], [0.3, 0.4, 0.1], [0.0, 0.1, 0.2]], dtype=torch.float64)
LAW = Gaussian(torch.tensor([0.2, -0.1, 0.3], dtype=torch.float64), COV)


class Exact(nn.Module):
    """A perfect network of the law, in any convention: turns the exact posterior into what a network would predict."""

    def __init__(self, schedule: Schedule, view: str) -> None:
        super().__init__()
        self.den, self.view = LAW.denoiser(schedule), view

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        post = self.den(x, float(t[0]))
        a, _, s = post.coefs
        views: dict[str, Callable[[], Tensor]] = {
            "x0": lambda: post.mean,
            "eps": lambda: post.eps,
            "v": lambda: a * post.eps - s * post.mean,
            "score": lambda: post.score,
            "velocity": lambda: post.velocity,
        }
        return views[self.view]()


class Feed(nn.Module):
    """A network that was trained on inputs changed by `change(x, t)`."""

    def __init__(self, net: nn.Module, change: Callable[[Tensor, float], Tensor]) -> None:
        super().__init__()
        self.net, self.change = net, change

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.net(self.change(x, float(t[0])), t)


class Turned(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.net(x, 1 - t)


def modes() -> list[dict]:
    return [{"law": LAW}, {"data": LAW.sample(64, seeds=range(64))}]


@pytest.mark.parametrize("mode", modes(), ids=["exact", "data"])
@pytest.mark.parametrize("view", ["x0", "eps", "v", "score", "velocity"])
@pytest.mark.parametrize(
    "schedule", [Cosine(), VP(), RectifiedFlow(), EDM(), LinearBetas()], ids=lambda s: type(s).__name__
)
def test_right_ones_pass(schedule: Schedule, view: str, mode: dict) -> None:
    assert check_denoiser(wrap(Exact(schedule, view), schedule, view), **mode).ok


@pytest.mark.parametrize("mode", modes(), ids=["exact", "data"])
def test_eps_taken_for_v(mode: dict) -> None:
    with pytest.raises(ValueError, match="did you mean eps"):
        check_denoiser(wrap(Exact(Cosine(), "eps"), Cosine(), "v"), **mode)


@pytest.mark.parametrize("mode", modes(), ids=["exact", "data"])
def test_reversed_time(mode: dict) -> None:
    with pytest.raises(ValueError, match="did you mean x0 with time reversed"):
        check_denoiser(wrap(Turned(Exact(Cosine(), "x0")), Cosine(), "x0"), **mode)


@pytest.mark.parametrize("mode", modes(), ids=["exact", "data"])
def test_unscaled_input(mode: dict) -> None:
    # trained on x / sqrt(alpha^2 + sigma^2), as variance-exploding networks are, and fed with x
    schedule = EDM()

    def undo(x: Tensor, t: float) -> Tensor:
        a, _, s = schedule.at(t)
        return x * (a * a + s * s) ** 0.5

    with pytest.raises(ValueError, match="did you mean input divided by"):
        check_denoiser(wrap(Feed(Exact(schedule, "x0"), undo), schedule, "x0"), **mode)


def test_wrong_range_of_the_data() -> None:
    # the network knows data in [-1, 1], the user brings [0, 1]
    pictures = (LAW.sample(64, seeds=range(64)) + 1) / 2
    with pytest.raises(ValueError, match=r"did you mean data as 2 x - 1"):
        check_denoiser(wrap(Exact(Cosine(), "x0"), Cosine(), "x0"), data=pictures)


def test_edm_prediction_passes() -> None:
    schedule, sd = EDM(), 0.6

    class Net(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            row = EDMPrediction(sd).row(schedule, float(t[0]))
            full = x / row.c
            return (LAW.denoiser(schedule)(full, float(t[0])).mean - row.p * full) / row.q

    assert check_denoiser(NetworkDenoiser(Net(), schedule, EDMPrediction(sd)), law=LAW).ok


def test_arguments() -> None:
    den = wrap(Exact(Cosine(), "x0"), Cosine(), "x0")
    with pytest.raises(TypeError, match="not both"):
        check_denoiser(den)
    with pytest.raises(ValueError, match="NaN"):
        check_denoiser(den, data=torch.full((8, 3), torch.nan, dtype=torch.float64))
    assert not check_denoiser(wrap(Exact(Cosine(), "eps"), Cosine(), "v"), law=LAW, strict=False).ok


@pytest.mark.parametrize(
    "schedule", [Cosine(), VP(), RectifiedFlow(), EDM(), LinearBetas()], ids=lambda s: type(s).__name__
)
def test_schedules_pass(schedule: Schedule) -> None:
    assert check_schedule(schedule).ok


def test_schedule_that_is_none() -> None:
    class Wrong(RectifiedFlow):
        def coefs(self, t: Tensor) -> tuple[Tensor, None, Tensor]:
            return 1 - t, None, t + 0.01

    with pytest.raises(ValueError, match=r"FAIL.*alpha\(0\)"):
        check_schedule(Wrong())


@pytest.mark.parametrize("name", ["ddim", "2m", "heun", "ancestral", "sde2m"])
def test_samplers_pass(name: str) -> None:
    assert check_sampler(name, schedule=Cosine()).ok


def test_operators() -> None:
    mask = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.5
    for operator in (Mask(mask), Pool(2), Blur((0.25, 0.5, 0.25))):
        assert check_operator(operator, (2, 1, 8, 8)).ok
    wrong = Pool(2)
    broken = type(
        "Broken",
        (),
        {
            "__call__": lambda self, x: wrong(x),
            "adjoint": lambda self, u: 2 * wrong.adjoint(u),
            "pinv": lambda self, u: wrong.pinv(u),
        },
    )()
    with pytest.raises(ValueError, match="FAIL"):
        check_operator(broken, (2, 1, 8, 8))
