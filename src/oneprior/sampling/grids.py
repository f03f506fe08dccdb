"""Grids: the n + 1 times of n steps, from the noisiest to 0.

The default is uniform in cosine time tau = (2/pi) atan(sigma/alpha): the same levels of sigma/alpha whatever the
schedule, dense where images form. Karras et al. 2022 (rho = 7), uniform log-SNR and uniform t are here too.
"""

from __future__ import annotations

from functools import lru_cache
from math import atan, inf, log, pi, tan
from typing import Protocol

from oneprior.schedules import Schedule


class Grid(Protocol):
    """grid(schedule, n, high, low) -> n + 1 times, the first `high`, the last 0, the one before it >= low."""

    def __call__(
        self, schedule: Schedule, n: int, high: float = 1.0, low: float | None = None
    ) -> tuple[float, ...]: ...


def check_steps(n: int) -> int:
    if not isinstance(n, int) or n < 1:
        raise ValueError(f"steps = {n!r}: a whole number of at least 1 was expected")
    return n


@lru_cache(maxsize=1024)
def cosine_time(schedule: Schedule, n: int, high: float = 1.0, low: float | None = None) -> tuple[float, ...]:
    """Uniform in tau = (2/pi) atan(sigma/alpha)."""
    check_steps(n)
    lam = schedule.lam(high)
    top = 1.0 if lam == -inf else 2 / pi * atan(2.718281828459045 ** (-lam))
    taus = [top * (n - i) / n for i in range(1, n)]
    return (high, *(schedule.time(-log(tan(pi * tau / 2))) for tau in taus), 0.0)


@lru_cache(maxsize=1024)
def uniform_time(schedule: Schedule, n: int, high: float = 1.0, low: float | None = None) -> tuple[float, ...]:
    """Uniform in t: what "trailing" spacing of a trained table is."""
    check_steps(n)
    return (*(high * (n - i) / n for i in range(n)), 0.0)


@lru_cache(maxsize=1024)
def uniform_lam(schedule: Schedule, n: int, high: float = 1.0, low: float | None = None) -> tuple[float, ...]:
    """Uniform in half log-SNR between `high` and `low` (schedule.t_min), then 0; n >= 2 for an inner point."""
    check_steps(n)
    lo, hi = _ends(schedule, high, low)
    inner = [schedule.time(hi + (lo - hi) * i / max(n - 1, 1)) for i in range(1, n)]
    return (high, *inner, 0.0)


@lru_cache(maxsize=1024)
def karras(schedule: Schedule, n: int, high: float = 1.0, low: float | None = None) -> tuple[float, ...]:
    """sbar_i = (hi^(1/7) + i/(n-1) (lo^(1/7) - hi^(1/7)))^7 for n points, then 0 (Karras et al. 2022)."""
    check_steps(n)
    lo, hi = (2.718281828459045 ** (-v / 7) for v in _ends(schedule, high, low))
    inner = [schedule.time(-7 * log(hi + (lo - hi) * i / max(n - 1, 1))) for i in range(1, n)]
    return (high, *inner, 0.0)


def _ends(schedule: Schedule, high: float, low: float | None) -> tuple[float, float]:
    # lam at the two ends; alpha = 0 has none, so the noisiest finite level is taken just below it
    hi = schedule.lam(high)
    return schedule.lam(schedule.t_min if low is None else low), schedule.lam(high * (1 - 1e-3)) if hi == -inf else hi
