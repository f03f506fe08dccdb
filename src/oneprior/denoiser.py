"""A denoiser returns a posterior: den(x_t, t, **cond) -> E[x_0 | x_t, cond] and views of it.

Whatever changes the mean is a denoiser that holds a denoiser (`Wrapper`): guidance, restoration, an offset. They
stack, and samplers never learn of them. The bound every use shares is, with an exact denoiser (Kong et al. 2023),
    -log p(x_0) = const + integral over lam of E_eps[ SNR |x_0 - D(x_t, t)|^2 ] dlam,   lam = log(alpha / sigma),
and `nats` is its integrand.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from oneprior.posterior import Posterior, Prediction, Variance, no_variance, prediction, range_variance, unit_variance
from oneprior.schedules import Schedule, Table
from oneprior.times import Time, align, aligned, check_axes


@dataclass(frozen=True)
class Facts:
    """What a denoiser knows of itself.

    time_axes: axes of time beyond the batch its network was trained for (0 a time a sample, 1 a frame, 3 a pixel).
    t_range: times it was trained on. density: is it a model of p(x)? (guided or restored ones are not).
    null: condition values that stand for "no condition". prediction: the view its network predicts.
    grids: levels sbar of the grids searched for it, by number of steps (`sampling.gridsearch`); `auto` walks them.
    """

    time_axes: int = 0
    t_range: tuple[float, float] = (0.0, 1.0)
    density: bool = True
    null: Mapping[str, Any] = field(default_factory=dict, hash=False)
    prediction: str = ""
    grids: Mapping[int, tuple[float, ...]] = field(default_factory=dict, hash=False)


class Denoiser(nn.Module, ABC):
    """Abstract: declares `posterior`. x (B, *) in model range, t a `Time`; cond by the names of the network's ports."""

    schedule: Schedule
    facts: Facts

    def forward(self, x: Any, t: Time, **cond: Any) -> Any:
        if isinstance(x, dict) or isinstance(t, dict):
            t = t if isinstance(t, dict) else dict.fromkeys(x, t)  # one time for all parts
            align(t, x)
            known: Any = self.schedule
            if isinstance(known, dict) and x.keys() != known.keys():
                raise ValueError(f"x has the parts {sorted(x)}; this denoiser is of {sorted(known)}")
            return self.posterior(x, {k: self._checked(x[k], v) for k, v in t.items()}, **cond)
        return self.posterior(x, self._checked(x, t), **cond)

    def _checked(self, x: Tensor, t: Any) -> Any:
        if isinstance(t, Tensor):
            t = check_axes(t, x, self.facts.time_axes) if t.ndim else float(t)
            # on a CPU alone: elsewhere a look at the values would wait for the device
            if isinstance(t, Tensor) and t.is_cpu and not bool(((t >= 0) & (t <= 1)).all()):
                low, high = t.min().item(), t.max().item()
                raise ValueError(f"t is in [{low:.4g}, {high:.4g}]: time runs from 0 (data) to 1 (noise)")
        return float(t) if isinstance(t, int) else t

    @abstractmethod
    def posterior(self, x: Any, t: Time, **cond: Any) -> Any:
        """The posterior at (x, t); t is a float or a tensor already checked against `facts.time_axes`."""

    def begin(self, path: Any = None) -> Denoiser:
        """A denoiser for one trajectory: self, or a fresh object where a trajectory has state (momentum, jitter)."""
        return self

    def residual(self, x0: Tensor, t: Time, noise: Tensor, **cond: Any) -> Tensor:
        """(alpha / sigma)(x_0 - D(x_t, t)) = e - eps, (B, *): what is wrong about the noise that is found in x_t."""
        a, b, s = aligned(self.schedule.at(t), x0)
        x = a * x0 + s * noise
        if b is not None:
            x = x + b * cond["y"]
        return (x0 - self(x, t, **cond).mean) * (a / s)

    def nats(self, x0: Tensor, t: Time, noise: Tensor, **cond: Any) -> Tensor:
        """SNR |x_0 - D(x_t, t)|^2 summed per sample, (B,): the integrand of the bound, in nats per unit of lam.

        x0, noise (B, *); t > 0 a float or (B,). Integrated over lam it is -log p(x_0) up to a constant free of cond.
        """
        return self.residual(x0, t, noise, **cond).square().flatten(1).sum(1)


def schedule_of(den: Denoiser, key: str) -> Schedule:
    """The schedule of a part; parts without a schedule of their own share one. A part of tokens has a corruption."""
    own: Any = den.schedule
    if isinstance(own, dict) and key not in own:
        raise ValueError(f"the sample has the part '{key}'; this denoiser is of {sorted(own)}")
    return own[key] if isinstance(own, dict) else own


class Wrapper(Denoiser):
    """Abstract: a denoiser that holds a denoiser, `inner`; schedule, facts and net are the inner one's unless said."""

    def __init__(self, inner: Denoiser, density: bool | None = None) -> None:
        super().__init__()
        self.inner = inner
        self.schedule = inner.schedule
        self.facts = inner.facts if density is None else replace(inner.facts, density=density)

    @property
    def net(self) -> nn.Module:
        """The network underneath: where hooks, taps and adapters belong."""
        return self.inner.net  # type: ignore[return-value]

    def begin(self, path: Any = None) -> Denoiser:
        inner, state = self.inner.begin(path), self.state(path)
        if inner is self.inner and state is None:
            return self
        twin = self.around(inner)
        for name, value in (state or {}).items():
            setattr(twin, name, value)
        return twin

    def state(self, path: Any) -> dict[str, Any] | None:
        """What a trajectory along `path` begins with, by attribute; None for a wrapper without a state."""
        return None

    def around(self, inner: Denoiser) -> Denoiser:
        """This wrapper with its settings around another denoiser; overridden where there are settings to carry."""
        twin = object.__new__(type(self))
        nn.Module.__init__(twin)
        vars(twin).update({k: v for k, v in self.__dict__.items() if k not in ("_modules",)})
        twin._modules = {**self._modules, "inner": inner}
        return twin


class Counted(Wrapper):
    """Counts network calls (batched ones once) and the samples asked about; `seconds` is for the caller to write."""

    def __init__(self, inner: Denoiser) -> None:
        super().__init__(inner)
        self.calls, self.asked, self.seconds = 0, 0, 0.0

    def posterior(self, x: Any, t: Any, **cond: Any) -> Any:
        self.calls += 1
        self.asked += len(next(iter(x.values())) if isinstance(x, dict) else x)
        return self.inner.posterior(x, t, **cond)

    def around(self, inner: Denoiser) -> Denoiser:
        self.inner = inner  # the count belongs to the caller: one object for every trajectory
        return self


class NetworkDenoiser(Denoiser):
    """A network under a schedule: D from what it predicts.

    net(x, t, **ports) -> F like x; t arrives as a tensor, (B,) for one time a sample. With a variance it gives twice
    the channels, the second half h: True reads them as `unit_variance`, a function of that form in its own way.
    time: maps (schedule, t) to the network's own clock, the identity by default: `times.Clock`.
    """

    def __init__(
        self,
        net: nn.Module,
        schedule: Schedule,
        prediction_: str | Prediction = "v",
        *,
        facts: Facts | None = None,
        variance: bool | Variance = False,
        time: Callable[[Schedule, Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.net, self.schedule, self.prediction = net, schedule, prediction(prediction_)
        self.facts = replace(facts or Facts(), prediction=self.prediction.name)
        self.told = unit_variance if variance is True else variance or None
        self.variance, self.time = self.told not in (None, no_variance), time

    def raw(self, x: Tensor, t: Time, **cond: Any) -> Tensor:
        """The network's output F, before any conversion; a float t becomes (B,)."""
        exact = torch.promote_types(x.dtype, torch.float32)  # a clock in half precision would stand still
        if isinstance(t, Tensor):
            clock = t.to(exact)
        else:
            clock = torch.full((x.shape[0],), float(t), device=x.device, dtype=exact)  # type: ignore[arg-type]
        if clock.shape[0] == 1 != x.shape[0]:
            clock = clock.expand(x.shape[0], *clock.shape[1:])
        if self.time is not None:
            clock = self.time(self.schedule, clock)
        if hasattr(self.net, "config"):  # our networks see the anchor through their port `image`
            cond = self._seen(t, cond)
        c = self.prediction.row(self.schedule, t).c
        return self.net(x if isinstance(c, float) and c == 1.0 else align(c, x) * x, clock, **cond)

    def halves(self, F: Tensor) -> tuple[Tensor, ...]:
        """The two halves of its channels; those of a network of clips (B, F, C, H, W) stand behind the frames."""
        return F.chunk(2, 2 if len(getattr(getattr(self.net, "config", None), "shape", ())) == 4 else 1)

    def _seen(self, t: Time, cond: dict[str, Any]) -> dict[str, Any]:
        if self.schedule.at(t)[1] is None:
            return cond
        if cond.get("y") is None:
            raise ValueError(f"the path of {self.schedule} ends at y: give the degraded picture, y=(B, C, H, W)")
        return {"image": cond["y"], **{k: v for k, v in cond.items() if k != "y"}}

    def posterior(self, x: Tensor, t: Time, **cond: Any) -> Posterior:
        y = cond.get("y")
        F = self.raw(x, t, **cond)
        h = None
        if self.told is not None:
            F, h = self.halves(F)
        if F.shape != x.shape:
            raise ValueError(_misshapen(F, x, h is not None))
        row = self.prediction.row(self.schedule, t)
        b, base = self.schedule.at(t)[1], x
        if b is not None and y is not None:
            base = x - align(b, x) * y
            if self.prediction.name == "velocity":
                F = F - align(self.schedule.slope(t)[1], x) * y
        mean = _combine(row.p, base, row.q, F)
        var = None if h is None or self.told is None else self.told(self.schedule, t, h, x)
        return Posterior(mean, x, self.schedule, t, var, y)


def _misshapen(F: Tensor, x: Tensor, half: bool) -> str:
    whole, fix = (F.shape[0], F.shape[1] * (1 + half), *F.shape[2:]), "it must give one number for each of x's"
    if not half and F.ndim == x.ndim and F.shape[1] == 2 * x.shape[1]:
        fix = "of twice as many channels, channels='eps+var' reads a variance, 'half' drops the second half"
    return f"the network gave {tuple(whole)} for x of shape {tuple(x.shape)}: {fix}"


def _combine(p: Any, x: Tensor, q: Any, F: Tensor) -> Tensor:
    if isinstance(p, float) and isinstance(q, float):
        if p == 0.0:
            return F if q == 1.0 else q * F
        return torch.add(p * x, F, alpha=q)
    return align(p, x) * x + align(q, x) * F


class Rescheduled(Wrapper):
    """The same model asked under another schedule: match lam, rescale x. Equal lam makes the two one problem."""

    def __init__(self, inner: Denoiser, schedule: Schedule) -> None:
        super().__init__(inner)
        self.schedule = schedule

    def posterior(self, x: Tensor, t: Time, **cond: Any) -> Posterior:
        tau, scale = _matched(self.inner.schedule, self.schedule, t)
        inner = self.inner(align(scale, x) * x, tau, **cond)
        return Posterior(inner.mean, x, self.schedule, t, inner.var, inner.y)


def with_schedule(den: Denoiser, schedule: Schedule) -> Denoiser:
    """`den` under another schedule without an anchor; times beyond its own noisiest one are asked at that one.

    Example:
        >>> den = with_schedule(den, RectifiedFlow())
    """
    if schedule.at(0.5)[1] is not None or den.schedule.at(0.5)[1] is not None:
        raise ValueError("only schedules without an anchor are related by a rescaling of x")
    return den if schedule == den.schedule else Rescheduled(den, schedule)


@lru_cache(maxsize=16384)
def _matched_float(own: Schedule, other: Schedule, t: float) -> tuple[float, float]:
    tau, scale = _matched(own, other, torch.tensor([t], dtype=torch.float64))
    return float(tau), float(scale)


def _matched(own: Schedule, other: Schedule, t: Any) -> tuple[Any, Any]:
    if not isinstance(t, Tensor):
        return _matched_float(own, other, t)
    tau = own.time(other.lam(t))
    (a0, _, s0), (a, _, s) = own.at(tau), other.at(t)
    # matched by whichever coefficient is not small; at equal lam the two ratios agree
    return tau, torch.where(s > a, s0 / s, a0 / a)


class Called(nn.Module):
    """A callable as a network: its answer, or the first thing in it (`.sample`, a tuple's first)."""

    def __init__(self, call: Callable[..., Any]) -> None:
        super().__init__()
        self.call = call

    def forward(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        out = self.call(x, t, **cond)
        out = getattr(out, "sample", out) if not isinstance(out, Tensor) else out
        return out[0] if isinstance(out, (tuple, list)) else out


CHANNELS: dict[str, bool | Variance] = {"all": False, "eps+var": range_variance, "half": no_variance}


def wrap(
    net: Callable[..., Any],
    schedule: Schedule,
    prediction: str | Prediction,
    *,
    time_axes: int = 0,
    t_range: tuple[float, float] | None = None,
    time: Callable[[Schedule, Tensor], Tensor] | None = None,
    null: Mapping[str, Any] | None = None,
    channels: str = "all",
) -> NetworkDenoiser:
    """Any module or function net(x, t, **cond) as a denoiser; `oneprior.wrap` is this with a codec around it.

    t_range: times it was trained on; those of the steps of a `Table`, else all. channels: "all" are the prediction;
    "eps+var" is followed by as many of the variance of a step, learned in a range, "half" by as many that say nothing.

    Example:
        >>> den = wrap(net, LinearBetas(1000), "eps", time=Clock(1000, -1))

    Raises:
        ValueError: for a prediction or channels that are not known.
    """
    if channels not in CHANNELS:
        raise ValueError(f"channels '{channels}' is not known; one of {list(CHANNELS)} was expected")
    first = 1 / schedule.T if isinstance(schedule, Table) else 0.0
    facts = Facts(time_axes=time_axes, t_range=t_range or (first, 1.0), null=null or {})
    module = net if isinstance(net, nn.Module) and not isinstance(net, Called) else Called(net)
    return NetworkDenoiser(module, schedule, prediction, facts=facts, variance=CHANNELS[channels], time=time)
