"""Is a denoiser what its settings say? From 64 samples of data, or against a law whose answer is known.

With data alone: at every level the error |x_0 - D|^2 must not exceed that of the best linear denoiser of single
elements, v s^2/(a^2 v + s^2) for data variance v; it must vanish as t -> 0, where D = x, and fall with t. Where that
fails, `trials` changes one setting after the other and the figure of each is shown: "as eps 6.1, as v 0.4".
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from math import inf, log, pi, tan
from typing import Any, NamedTuple

import torch
from torch import Tensor

from oneprior.check.table import Checked, Row, _verdict
from oneprior.check.trials import combined, of_data, silent, single
from oneprior.denoiser import Denoiser, NetworkDenoiser
from oneprior.noise import Seeded

LEVELS = (0.05, 0.2, 0.4, 0.6, 0.8, 0.95)  # (2/pi) atan(sigma/alpha): noise levels, whatever the schedule
TRIED = (0.05, 0.4, 0.8)  # those at which settings are on trial
REFUSALS = (RuntimeError, ValueError, IndexError, TypeError, AttributeError)  # of a network asked the wrong way


def check_denoiser(
    den: Denoiser, *, law: Any = None, data: Tensor | None = None, seed: int = 0, strict: bool = True, **cond: Any
) -> Checked:
    """Is `den` the denoiser its schedule and prediction say? Give a law (exact mode) or data (B, *) in model range.

    64 samples serve well. Figures are mean squared errors relative to the best linear denoiser of single elements:
    1 is as good as knowing mean and variance only, below 1 is a model of structure; a wrong convention is far above.
    In exact mode they are the squared distance to the exact posterior mean, in the same unit. Where one fails, other
    predictions, clocks, schedules, channels, scales of the input and ranges of the data are tried, then pairs of them.

    Raises:
        ValueError: with the table and the likely fix, when it fails (unless `strict=False`).
        TypeError: when neither or both of law and data are given.
    """
    if (law is None) == (data is None):
        raise TypeError("give either law= (a law of oneprior.exact) or data= (samples in model range), not both")
    x0 = law.sample(256, seeds=range(seed, seed + 256)) if data is None else data
    like = next((p for p in den.parameters()), None)
    kind, x0 = x0.dtype, x0 if x0.is_floating_point() else x0.float()
    x0 = x0.to(dtype=like.dtype, device=like.device) if like is not None else x0
    if not bool(torch.isfinite(x0).all()):
        raise ValueError(f"{int((~torch.isfinite(x0)).sum())} of {x0.numel()} data values are NaN or infinite")
    asked = _Asked(law, seed, cond)
    name, bar = f"check_denoiser({type(den).__name__})", 0.05 if law is not None else 1.5
    if not kind.is_floating_point:
        advice = f"data is {kind}: floats in the network's range were expected, x.float() / 127.5 - 1 for bytes"
        return _verdict(Checked(name, (Row("data that are no floats", 1.0, 0.0),), advice), strict)
    advice, refused = "", None
    try:
        rows = _rows(asked, den, x0, bar)
    except REFUSALS as e:
        rows, refused = (Row("calls that the network refused", 1.0, 0.0),), e
    if not all(r.holds for r in rows):
        now = inf if refused else max(r.measured for r in rows[: len(LEVELS)])
        advice, found = _advice(asked, den, x0, now, bar)
        if refused and not found:
            raise refused
        advice = f"it refused: {str(refused).splitlines()[0]}; {advice}" if refused else advice
    return _verdict(Checked(name, rows, advice), strict)


class _Asked(NamedTuple):
    """How a denoiser is asked: against which law, with which noise, under which conditions."""

    law: Any
    seed: int
    cond: dict[str, Any]

    @torch.no_grad()
    def error(self, den: Denoiser, x0: Tensor, t: float) -> tuple[float, float]:
        """Mean squared error, relative to the best linear denoiser's and as it is."""
        a, b, s = den.schedule.at(t)
        n = Seeded(range(self.seed, self.seed + len(x0)))(0, x0, "check")
        x = a * x0 + s * n + (0 if b is None else b * self.cond["y"])
        wanted = x0 if self.law is None else self.law.denoiser(den.schedule)(x, t, **self.cond).mean
        v = x0.var(0, correction=0).mean().item() if len(x0) > 1 else x0.var().item()
        best = v * s * s / (a * a * v + s * s)
        error = (den(x, t, **self.cond).mean - wanted).square().mean().item()
        return error / best, error

    def tried(self, den: Denoiser, x0: Tensor) -> float:
        """The largest error over a few levels; infinite where the network refuses."""
        try:
            n = len(x0)
            few = {k: v[:32] if isinstance(v, Tensor) and v.shape[:1] == (n,) else v for k, v in self.cond.items()}
            return max(self._replace(cond=few).error(den, x0[:32], t)[0] for t in _times(den, TRIED))
        except (*REFUSALS, ZeroDivisionError):
            return inf


def _times(den: Denoiser, levels: Iterable[float]) -> list[float]:
    low, high = den.facts.t_range
    return [min(max(den.schedule.time(-log(tan(pi * tau / 2))), low), high) for tau in levels]


def _rows(asked: _Asked, den: Denoiser, x0: Tensor, bar: float) -> tuple[Row, ...]:
    times = _times(den, LEVELS)
    found = [asked.error(den, x0, t) for t in times]
    rows = [Row(f"error at t = {t:.3g}", f, bar) for t, (f, _) in zip(times, found, strict=True)]
    tiny = max(den.facts.t_range[0], den.schedule.t_min)
    near = asked.error(den, x0, tiny)[0]
    rows.append(Row(f"identity as t -> 0: error at t = {tiny:.2g}", near, 4.0 if asked.law is None else bar))
    if asked.law is None:
        rises = max(a[1] / max(b[1], 1e-30) for a, b in pairwise(found))
        rows.append(Row("error falling with t: largest ratio of one to that of the next noisier", rises, 1.25))
    return tuple(rows)


def _advice(asked: _Asked, den: Denoiser, x0: Tensor, now: float, bar: float) -> tuple[str, bool]:
    """What was tried, and whether anything fits."""
    inner: Any = den
    while not isinstance(inner, NetworkDenoiser):
        if (inner := getattr(inner, "inner", None)) is None:
            return "no conventions to try: this denoiser holds no NetworkDenoiser", False
    own, found = inner.prediction.name, dict[str, float]()

    def tell(name: str, tried: NetworkDenoiser, x0: Tensor = x0) -> None:
        figure = asked.tried(tried, x0)
        if figure >= now or figure < 0.9 * asked.tried(silent(tried), x0):  # else any network would do as well
            found[name] = figure

    for name, tried in single(inner):
        tell(name, tried)
    if asked.law is None:
        for name, other in of_data(x0):
            tell(name, inner, other)
    if not min(found.values(), default=inf) < min(bar / 2, now):
        for name, tried in combined(inner):
            tell(name, tried)
    order = sorted((k for k in found if found[k] < inf), key=lambda k: found[k])
    if not order:
        return f"as {own} {now:.2g}; nothing else that was tried explains it", False
    table = ", ".join(f"{k if k.startswith('data') else f'as {k}'} {found[k]:.2g}" for k in order[:4])
    best = found[order[0]]
    if best < min(now, bar) or best < 0.5 * now < inf:
        return f"as {own} {now:.2g}; {table}: did you mean {order[0]}?", True
    return (
        f"as {own} {now:.2g}; tried {table}: none explains it. Is the network trained, and on this data and range?",
        True,
    )
