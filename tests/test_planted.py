"""Twelve ways to describe a network wrongly: `check_denoiser` names each from 64 samples."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oneprior.check import check_denoiser
from oneprior.denoiser import wrap
from oneprior.exact import Gaussian
from oneprior.schedules import EDM, Cosine, LinearBetas, RectifiedFlow, Schedule
from oneprior.times import Clock, NoiseClock

SHAPE = (3, 2, 3)


def smooth() -> Gaussian:
    """Pictures (3, 2, 3) whose pixels are alike, in about [-1, 1]."""
    i = torch.arange(18, dtype=torch.float64)
    mean = torch.linspace(-0.3, 0.4, 18, dtype=torch.float64)
    return Gaussian(mean, 0.16 * 0.97 ** (i[:, None] - i).abs() + 0.01 * torch.eye(18))


LAW = smooth()
DATA = LAW.sample(64, seeds=range(64)).reshape(64, *SHAPE)
VIEWS: dict[str, Callable[[Any], Tensor]] = {
    "x0": lambda post: post.mean,
    "eps": lambda post: post.eps,
    "v": lambda post: post.coefs[0] * post.eps - post.coefs[2] * post.mean,
    "score": lambda post: post.score,
    "velocity": lambda post: post.velocity,
    "-velocity": lambda post: -post.velocity,
}


class Trained(nn.Module):
    """A perfect network: what it says under `schedule`, asked by a clock whose inverse is `back`."""

    def __init__(self, schedule: Schedule, view: str, back: Callable[[float], float] = lambda c: c) -> None:
        super().__init__()
        self.den, self.view, self.back = LAW.denoiser(schedule), VIEWS[view], back

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != SHAPE:
            raise RuntimeError(f"expected input with 3 channels, got {tuple(x.shape)}")
        time = min(max(self.back(float(t[0])), 1e-9), 1.0)
        return self.view(self.den(x.flatten(1), time)).reshape(x.shape)


def index(k: float) -> float:
    return (k + 1) / 1000


class Table(Trained):
    """One that looks the index of a step up."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        if t.is_floating_point():
            raise RuntimeError("indices must be integers")
        return super().forward(x, t)


class Doubled(Trained):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        F = super().forward(x, t)
        return torch.cat([F, torch.zeros_like(F)], 1)


class Unscaled(Trained):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        a, _, s = EDM().at(float(t[0]))
        return super().forward(x * (a * a + s * s) ** 0.5, t)


class Tuple(Trained):
    def forward(self, x: Tensor, t: Tensor) -> Any:
        return (super().forward(x, t),)


BETAS, STEPS = LinearBetas(), Clock(1000, -1)
CASES: dict[str, tuple[nn.Module, dict[str, Any], Tensor, str]] = {
    "eps taken for v": (
        Trained(Cosine(), "eps"), {"schedule": Cosine(), "prediction": "v"}, DATA, "did you mean eps",
    ),
    "v taken for eps": (
        Trained(BETAS, "v", index), {"schedule": BETAS, "prediction": "eps", "time": STEPS}, DATA, "did you mean v",
    ),
    "score taken for eps": (
        Trained(Cosine(), "score"), {"schedule": Cosine(), "prediction": "eps", "t_range": (0, 0.99)}, DATA,
        "did you mean score",
    ),
    "a velocity towards the data": (
        Trained(RectifiedFlow(), "-velocity"), {"schedule": RectifiedFlow(), "prediction": "velocity"}, DATA,
        "did you mean -velocity",
    ),
    "time reversed": (
        Trained(Cosine(), "x0", lambda c: 1 - c), {"schedule": Cosine(), "prediction": "x0"}, DATA,
        "did you mean x0 with time reversed",
    ),
    "both, as flows towards the data are": (
        Trained(RectifiedFlow(), "-velocity", lambda c: 1 - c),
        {"schedule": RectifiedFlow(), "prediction": "velocity"}, DATA, "did you mean -velocity with time",
    ),
    "t instead of the index": (
        Trained(BETAS, "eps", index), {"schedule": BETAS, "prediction": "eps"}, DATA,
        r"did you mean .*Clock\(1000",
    ),
    "the index instead of t": (
        Trained(BETAS, "eps", lambda c: c % 1), {"schedule": BETAS, "prediction": "eps", "time": STEPS}, DATA,
        r"did you mean .*Clock\(\)",
    ),
    "sigma, not time": (
        Trained(EDM(), "x0", lambda c: c / 80), {"schedule": EDM(), "prediction": "x0"}, DATA,
        r"did you mean .*NoiseClock\(\)",
    ),
    "a table of steps": (
        Table(BETAS, "eps", index), {"schedule": BETAS, "prediction": "eps", "time": STEPS}, DATA, "whole=True",
    ),
    "another schedule": (
        Trained(RectifiedFlow(), "velocity"), {"schedule": Cosine(), "prediction": "velocity"}, DATA,
        r"did you mean velocity under RectifiedFlow\(\)",
    ),
    "input not scaled": (
        Unscaled(EDM(), "x0"), {"schedule": EDM(), "prediction": "x0"}, DATA, "did you mean input divided by",
    ),
    "data in [0, 1]": (
        Trained(Cosine(), "x0"), {"schedule": Cosine(), "prediction": "x0"},
        (DATA + 1) / 2, "did you mean data as 2 x - 1",
    ),
    "data in 0..255": (
        Trained(Cosine(), "x0"), {"schedule": Cosine(), "prediction": "x0"},
        (DATA + 1) * 127.5,
        "did you mean data as x / 127.5 - 1",
    ),
    "bytes": (
        Trained(Cosine(), "x0"), {"schedule": Cosine(), "prediction": "x0"}, ((DATA + 1) * 127.5).clamp(0, 255).byte(),
        "data is torch.uint8",
    ),
    "channels last": (
        Trained(Cosine(), "x0"), {"schedule": Cosine(), "prediction": "x0"}, DATA.movedim(1, -1), "channels first",
    ),
    "channels in the other order": (
        Trained(Cosine(), "x0"), {"schedule": Cosine(), "prediction": "x0"}, DATA.flip(1), r"x.flip\(1\)",
    ),
    "a variance that nobody asked for": (
        Doubled(Cosine(), "x0"), {"schedule": Cosine(), "prediction": "x0"}, DATA, "channels='(half|eps.var)'",
    ),
    "a variance that is not there": (
        Trained(BETAS, "eps", index),
        {"schedule": BETAS, "prediction": "eps", "time": STEPS, "channels": "half"}, DATA,
        "did you mean .*channels='all'",
    ),
    "a tuple": (
        Tuple(Cosine(), "x0"), {"schedule": Cosine(), "prediction": "x0"}, DATA,
        "did you mean .*first thing it returns",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_mistake_is_named(case: str) -> None:
    net, said, data, message = CASES[case]
    with pytest.raises(ValueError, match=message):
        check_denoiser(wrap(net, **said), data=data)


def test_what_is_right_passes() -> None:
    assert check_denoiser(wrap(Trained(Cosine(), "v"), Cosine(), "v"), data=DATA).ok
    assert check_denoiser(wrap(Trained(BETAS, "eps", index), BETAS, "eps", time=STEPS), data=DATA).ok
    assert check_denoiser(
        wrap(Table(BETAS, "eps", index), BETAS, "eps", time=Clock(1000, -1, whole=True)), data=DATA
    ).ok
    assert check_denoiser(wrap(Trained(EDM(), "x0", lambda c: c / 80), EDM(), "x0", time=NoiseClock()), data=DATA).ok


def test_an_untrained_network_is_told_as_such() -> None:
    net = nn.Conv2d(3, 3, 1, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"none explains it\. Is the network trained"):
        check_denoiser(wrap(lambda x, t: net(x).detach(), Cosine(), "eps"), data=DATA)


def test_a_network_that_refuses_whatever_it_is_given() -> None:
    def broken(x: Tensor, t: Tensor) -> Tensor:
        raise RuntimeError("no such kernel")

    with pytest.raises(RuntimeError, match="no such kernel"):
        check_denoiser(wrap(broken, Cosine(), "eps"), data=DATA)
