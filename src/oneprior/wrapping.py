"""A network of your own: what it was trained to say becomes a denoiser, and with the shape of a sample, a prior.

    x_t = alpha x_0 + sigma eps,     F = net(x_t, clock(t), **cond)

The schedule says alpha and sigma, the prediction what F is, the clock what the network is told of t. Get one of them
wrong and samples are plausible or noise, but never an error: `check_denoiser(den, data=x)` tells which one it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, overload

from torch import Tensor

from oneprior import denoiser
from oneprior.codecs import Pixels
from oneprior.conditions import Condition, Conditions
from oneprior.denoiser import NetworkDenoiser
from oneprior.posterior import Prediction
from oneprior.prior import Prior
from oneprior.schedules import Schedule

Net = Callable[..., Any]
Clocks = Callable[[Schedule, Tensor], Tensor]
Range = tuple[float, float]
Said = Mapping[str, Condition] | None


@overload
def wrap(
    net: Net, schedule: Schedule, prediction: str | Prediction, *, time: Clocks | None = ..., time_axes: int = ...,
    t_range: Range | None = ..., range: Range = ..., channels: str = ..., cond: Said = ..., shape: None = None,
) -> NetworkDenoiser: ...  # fmt: skip
@overload
def wrap(
    net: Net, schedule: Schedule, prediction: str | Prediction, *, time: Clocks | None = ..., time_axes: int = ...,
    t_range: Range | None = ..., range: Range = ..., channels: str = ..., cond: Said = ..., shape: tuple[int, ...],
) -> Prior: ...  # fmt: skip
def wrap(
    net: Net,
    schedule: Schedule,
    prediction: str | Prediction,
    *,
    time: Clocks | None = None,
    time_axes: int = 0,
    t_range: Range | None = None,
    range: Range = (-1, 1),
    channels: str = "all",
    cond: Said = None,
    shape: tuple[int, ...] | None = None,
) -> NetworkDenoiser | Prior:
    """Any module or function net(x, t, **cond) -> F as a denoiser in its own range; with `shape`, as a prior.

    time: what the network is told of our t in [0, 1]: `Clock(1000, -1)` the index of a step, `Clock(-1, 1)` a flow's
        reversed time, `NoiseClock()` sigma; any function of (schedule, t). t itself without.
    time_axes: axes of time beyond the batch it takes. t_range: times it was trained on (a table's own, else all).
    channels: "all" are the prediction; "eps+var" a prediction and the learned variance of a step, "half" a prediction
        and as many that say nothing.
    cond: conditions by the names of the network's keywords, `{"label": Label(("cat", "dog"))}`; its null is asked for
        where nothing is said with guidance.
    shape: of one picture in [0, 1], (C, H, W): a `Prior` then comes back. range: what the network takes pictures in.

    Example:
        >>> den = oneprior.wrap(unet, LinearBetas(), "eps", time=Clock(1000, -1))
        >>> prior = oneprior.wrap(unet, LinearBetas(), "eps", time=Clock(1000, -1), shape=(3, 32, 32))

    Raises:
        ValueError: for a prediction or channels that are not known, a range without a shape.
    """
    conditions = Conditions(cond)
    how: Any = dict(time=time, time_axes=time_axes, t_range=t_range, channels=channels, null=conditions.null)
    den = denoiser.wrap(net, schedule, prediction, **how)
    codec = Pixels(None, range)
    if shape is not None:
        return Prior(den, codec, conditions, {"shape": list(shape)})
    if codec != Pixels(None):
        raise ValueError(
            f"range={range} joins pictures in [0, 1] to the network's: give shape=(C, H, W) too, and a prior comes "
            "back; a denoiser alone stays in the range of its network"
        )
    return den
