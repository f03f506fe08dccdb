"""Grids: the n + 1 times of n steps, from the noisiest to 0. Most are stated in sbar = sigma/alpha, so that every
schedule is asked at the same levels; the first time is `high`, where a schedule begins, whatever its level:
    Karras(rho)              sbar^(1/rho) uniform (Karras et al. 2022)           UniformLam    log sbar uniform
    Flow(scale, head, tail)  sbar = scale (1 - v)^tail / v^head, v uniform: rectified flow's time at (1, 1, 1), with the
                             resolution shift of SD3 as scale (Esser et al. 2024); `auto` walks FLOW
    CosineTime               (2/pi) atan(sbar) uniform                           Levels        a table, a searched one
    UniformTime(power)       t^(1/power) uniform: 1 linear, 2 quadratic (Song et al. 2021, DDIM)
    Trailing, Leading, Linspace   the integer steps of a pretrained network (Lin et al. 2023 compare them)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import exp, inf, log

import torch
from torch import Tensor

from oneprior.schedules import Schedule


def check_steps(n: int) -> int:
    if not isinstance(n, int) or n < 1:
        raise ValueError(f"steps = {n!r}: a whole number of at least 1 was expected")
    return n


class Grid(ABC):
    """Abstract: grid(schedule, n, high, low) -> n + 1 falling times, the last 0; every n >= 1 works.

    high: the first time; low: the earliest time to ask a network at, the schedule's t_min without (grids uniform in
    t reach below it). Grids are frozen dataclasses: hashable, and their answers are cached.

    Example:
        >>> Karras(rho=5)(EDM(), 8)

    Raises:
        ValueError: for n < 1, or times that do not fall (two of one level, a table that rises).
    """

    def __call__(self, schedule: Schedule, n: int, high: float = 1.0, low: float | None = None) -> tuple[float, ...]:
        return _made(self, schedule, check_steps(n), float(high), schedule.t_min if low is None else float(low))

    @abstractmethod
    def calls(self, schedule: Schedule, n: int, high: float, low: float) -> Sequence[float]:
        """The n times at which the network is asked, from the noisiest."""

    def end(self, schedule: Schedule, n: int) -> float:
        """The time after the last call: the data, but for foreign grids that keep a little noise."""
        return 0.0


@lru_cache(maxsize=1024)
def _made(grid: Grid, schedule: Schedule, n: int, high: float, low: float) -> tuple[float, ...]:
    times = (*grid.calls(schedule, n, high, low), grid.end(schedule, n))
    for a, b in pairwise(times):
        if not a > b:
            raise ValueError(f"{grid} does not fall with {n} steps on {schedule}: {b:.6g} comes after {a:.6g}")
    return times


def _share(n: int, parts: int) -> Tensor:
    """i / parts for the inner points i = 1 .. n - 1."""
    return torch.arange(1, n, dtype=torch.float64) / max(parts, 1)


def _at(schedule: Schedule, high: float, sbar: Tensor) -> list[float]:
    return [high, *schedule.time(-sbar.log()).tolist()]


def _sbar(schedule: Schedule, t: float) -> float:
    lam = schedule.lam(t)
    return inf if lam == -inf else exp(-lam)


def _ends(schedule: Schedule, high: float, low: float) -> tuple[float, float]:
    # alpha = 0 has no level: the noisiest finite one is taken just below it
    top = _sbar(schedule, high)
    return _sbar(schedule, high * (1 - 1e-3)) if top == inf else top, _sbar(schedule, low)


@dataclass(frozen=True)
class CosineTime(Grid):
    """Uniform in tau = (2/pi) atan(sbar): the same levels whatever the schedule, dense where images form."""

    def calls(self, schedule: Schedule, n: int, high: float, low: float) -> Sequence[float]:
        top = torch.tensor(_sbar(schedule, high), dtype=torch.float64).atan()
        return _at(schedule, high, (top * (1 - _share(n, n))).tan())


@dataclass(frozen=True)
class UniformTime(Grid):
    """t_i = high (1 - i/n)^power: linear (what "trailing" spacing of a trained table is), or quadratic."""

    power: float = 1.0

    def calls(self, schedule: Schedule, n: int, high: float, low: float) -> Sequence[float]:
        return [high * ((n - i) / n) ** self.power for i in range(n)]


@dataclass(frozen=True)
class UniformLam(Grid):
    """Uniform in half log-SNR from `high` to `low`, then 0."""

    def calls(self, schedule: Schedule, n: int, high: float, low: float) -> Sequence[float]:
        hi, lo = _ends(schedule, high, low)
        return _at(schedule, high, (log(hi) + (log(lo) - log(hi)) * _share(n, n - 1)).exp())


@dataclass(frozen=True)
class Karras(Grid):
    """sbar_i = (hi^(1/rho) + i/(n-1) (lo^(1/rho) - hi^(1/rho)))^rho for n points, then 0 (Karras et al. 2022)."""

    rho: float = 7.0

    def calls(self, schedule: Schedule, n: int, high: float, low: float) -> Sequence[float]:
        hi, lo = (v ** (1 / self.rho) for v in _ends(schedule, high, low))
        return _at(schedule, high, (hi + (lo - hi) * _share(n, n - 1)) ** self.rho)


@dataclass(frozen=True)
class Flow(Grid):
    """sbar = scale (1 - v)^tail / v^head for v uniform on [v_high, 1), where v_high has the level of `high`.

    scale: the level that half of the steps lie above, about; head, tail: how sparse the two ends are. (1, 1, 1) is
    rectified flow's uniform time, (f, 1, 1) that time under the resolution shift f. The last call is at `low` or above.
    """

    scale: float = 1.0
    head: float = 1.0
    tail: float = 1.0

    def calls(self, schedule: Schedule, n: int, high: float, low: float) -> Sequence[float]:
        top, bottom = self._share(_sbar(schedule, high)), self._share(_sbar(schedule, low))
        v = top + (1 - top) * _share(n, n)
        if n > 1 and v[-1] > bottom:
            v = top + (bottom - top) * _share(n, n - 1)
        return _at(schedule, high, self.level(v))

    def level(self, v: Tensor) -> Tensor:
        return self.scale * (1 - v) ** self.tail / v**self.head

    def _share(self, sbar: float) -> float:
        # the v of a level, by bisection: the level falls from infinity to 0
        lo, hi = 0.0, 1.0
        for _ in range(60):
            mid = (lo + hi) / 2
            lo, hi = (mid, hi) if self.scale * (1 - mid) ** self.tail > sbar * mid**self.head else (lo, mid)
        return 0.0 if sbar == inf else lo


@dataclass(frozen=True)
class Levels(Grid):
    """A table of levels sbar, noisiest first; its last is where the step to 0 is taken instead, so that a table of
    n + 1 levels is one for n steps. For another n, log sbar is interpolated over the place in the table."""

    sbar: tuple[float, ...]

    def calls(self, schedule: Schedule, n: int, high: float, low: float) -> Sequence[float]:
        table = torch.tensor(self.sbar, dtype=torch.float64).log()
        place = _share(n, n) * (len(table) - 1)
        k = place.round() if n + 1 == len(table) else place
        i = k.floor().long().clamp(max=len(table) - 2)
        return _at(schedule, high, torch.lerp(table[i], table[i + 1], k - i).exp())

    def within(self, schedule: Schedule, n: int, high: float = 1.0) -> bool:
        """Are all of n calls but the first between the levels at `high` and at t_min?"""
        _, first, *_, last = self.calls(schedule, n, high, 0.0)
        return _sbar(schedule, high) > 1.1 * _sbar(schedule, first) and last >= schedule.t_min


# Align Your Steps, published tables of ten steps (Sabour et al. 2024), for latent diffusion's schedules.
AYS_SD15 = Levels((14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029))
AYS_SDXL = Levels((14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029))


@dataclass(frozen=True)
class Shift(Grid):
    """Another grid with sbar multiplied by `factor` inside, its first time kept: more steps at high noise, for higher
    resolutions (Hoogeboom et al. 2023; Esser et al. 2024). u = sbar/(1 + sbar) goes to f u / (1 + (f - 1) u), u
    measured from `high`."""

    grid: Grid
    factor: float

    def calls(self, schedule: Schedule, n: int, high: float, low: float) -> Sequence[float]:
        inner = torch.tensor(self.grid(schedule, n, high, low)[1:-1], dtype=torch.float64)
        top, f = _sbar(schedule, high), self.factor
        u = torch.sigmoid(-schedule.lam(inner)) * (1.0 if top == inf else (1 + top) / top)
        u = f * u / (1 + (f - 1) * u) * (1.0 if top == inf else top / (1 + top))
        return _at(schedule, high, u / (1 - u))


@dataclass(frozen=True)
class _Trained(Grid):
    """Abstract: integer steps k of a chain of T; step k is the time (k + 1)/T. T: the schedule's own, or 1000."""

    T: int | None = None

    def calls(self, schedule: Schedule, n: int, high: float, low: float) -> Sequence[float]:
        T = self.T or getattr(schedule, "T", 1000)
        count = round(T * high)
        if n > count:
            raise ValueError(f"{n} steps of a chain that was trained on {count}: at most so many were expected")
        return [(k + 1) / T for k in self.indices(n, count)]

    @abstractmethod
    def indices(self, n: int, count: int) -> Sequence[int]: ...


@dataclass(frozen=True)
class Trailing(_Trained):
    """From the last trained step down: the spacing to use, and the only one for zero terminal SNR."""

    def indices(self, n: int, count: int) -> Sequence[int]:
        return [round(count - i * count / n) - 1 for i in range(n)]


@dataclass(frozen=True)
class Leading(_Trained):
    """Every (T // n)th step from `offset`: leaves out the noisiest, kept for networks that were published with it."""

    offset: int = 0

    def indices(self, n: int, count: int) -> Sequence[int]:
        return [min(i * (count // n) + self.offset, count - 1) for i in reversed(range(n))]


@dataclass(frozen=True)
class Linspace(_Trained):
    """Evenly from the first trained step to the last, both included; one step is the last alone."""

    def indices(self, n: int, count: int) -> Sequence[int]:
        return [round((count - 1) * (1 - i / max(n - 1, 1))) for i in range(n)]


cosine_time, uniform_time, quadratic_time = CosineTime(), UniformTime(), UniformTime(2.0)
uniform_lam, karras = UniformLam(), Karras()
FLOW, STEEP = Flow(0.6, 0.9, 1.4), Flow(1.0, 1.0, 1.4)
