"""The usual slips, as denoisers and data with one setting changed: what `check_denoiser` puts on trial."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from oneprior.denoiser import CHANNELS, Called, NetworkDenoiser
from oneprior.posterior import PREDICTIONS, EDMPrediction, Linear, Prediction
from oneprior.schedules import EDM, VP, Cosine, CosineBetas, LinearBetas, RectifiedFlow, ScaledLinearBetas, Schedule
from oneprior.times import Clock, NoiseClock

Named = Iterator[tuple[str, NetworkDenoiser]]
CLOCKS: dict[str, Callable[[Schedule, Tensor], Tensor]] = {
    "time=Clock()": Clock(),
    "time=Clock(-1, 1)": Clock(-1, 1),
    "time=Clock(1000, -1)": Clock(1000, -1),
    "time=Clock(1000)": Clock(1000),
    "time=Clock(999)": Clock(999),
    "time=Clock(-1000, 1000)": Clock(-1000, 1000),
    "time=NoiseClock()": NoiseClock(),
    "time=NoiseClock(1/4)": NoiseClock(0.25),
    "time=Clock(1000, -1, whole=True)": Clock(1000, -1, whole=True),
}
SCHEDULES: tuple[Schedule, ...] = (
    LinearBetas(), ScaledLinearBetas(), CosineBetas(), Cosine(), VP(), RectifiedFlow(), EDM(),
)  # fmt: skip


class _Changed(Prediction):
    """Another prediction whose network points the other way, or was fed x / sqrt(alpha^2 + sigma^2)."""

    def __init__(self, of: Prediction, sign: float = 1.0, scaled: bool = False) -> None:
        self.of, self.sign, self.scaled, self.name = of, sign, scaled, of.name

    def row(self, schedule: Schedule, t: Any) -> Linear:
        a, _, s = schedule.at(t)
        p, q, u, w, c = self.of.row(schedule, t)
        return Linear(p, self.sign * q, self.sign * u, self.sign * w, c / (a * a + s * s) ** 0.5 if self.scaled else c)


def _signed() -> dict[str, Prediction]:
    known = PREDICTIONS | {"EDMPrediction(1.0)": EDMPrediction(1.0)}
    return known | {f"-{k}": _Changed(known[k], -1) for k in ("velocity", "eps", "v")}


def _twin(den: NetworkDenoiser, **changed: Any) -> NetworkDenoiser:
    """The same network under other settings."""
    own = {"net": den.net, "schedule": den.schedule, "prediction_": den.prediction, "time": den.time}
    return NetworkDenoiser(**{**own, "facts": den.facts, "variance": den.told or False, **changed})


def silent(den: NetworkDenoiser) -> NetworkDenoiser:
    """The same settings around a network that says nothing: what they alone are worth."""
    return _twin(den, net=Called(lambda x, t, **_: torch.zeros_like(x)), variance=False)


def _turned(den: NetworkDenoiser) -> Callable[[Schedule, Tensor], Tensor]:
    own = den.time or Clock()
    return lambda schedule, t: own(schedule, 1 - t)


def single(den: NetworkDenoiser) -> Named:
    """One setting changed."""
    for name, prediction in _signed().items():
        if name != den.prediction.name:
            yield name, _twin(den, prediction_=prediction)
    own = den.prediction.name
    yield f"{own} with time reversed", _twin(den, time=_turned(den))
    for name, clock in CLOCKS.items():
        yield f"{own} with {name}", _twin(den, time=clock)
    for schedule in SCHEDULES:
        if schedule != den.schedule:
            yield f"{own} under {type(schedule).__name__}()", _twin(den, schedule=schedule)
    yield "input divided by sqrt(alpha^2 + sigma^2)", _twin(den, prediction_=_Changed(den.prediction, scaled=True))
    for name, told in CHANNELS.items():
        yield f"{own} with channels='{name}'", _twin(den, variance=told)
    yield f"{own} of the first thing it returns", _twin(den, net=Called(den.net))


def combined(den: NetworkDenoiser) -> Named:
    """Two settings changed: a prediction, and a clock or a schedule."""
    for name, prediction in _signed().items():
        yield f"{name} with time reversed", _twin(den, prediction_=prediction, time=_turned(den))
        for said, clock in CLOCKS.items():
            yield f"{name} with {said}", _twin(den, prediction_=prediction, time=clock)
        for schedule in SCHEDULES:
            if schedule != den.schedule:
                other = _twin(den, prediction_=prediction, schedule=schedule)
                yield f"{name} under {type(schedule).__name__}()", other


def of_data(x0: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The same data in another range, or with its channels elsewhere."""
    yield "data as 2 x - 1", 2 * x0 - 1
    yield "data as x / 127.5 - 1", x0 / 127.5 - 1
    yield "data as (x + 1) / 2", (x0 + 1) / 2
    yield "data as x / 255", x0 / 255
    if x0.ndim == 4:
        yield "data as x.movedim(-1, 1), channels first", x0.movedim(-1, 1)
    if x0.ndim == 4 and x0.shape[1] == 3:
        yield "data as x.flip(1), channels in the other order", x0.flip(1)
