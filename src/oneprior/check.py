"""Does this schedule, denoiser, sampler or operator behave? Each check measures, and says what is wrong.

With a law whose answer is known (`oneprior.exact`) the answer itself is compared: exact mode. With a few dozen samples
of data only, a denoiser is held against what any denoiser must do: at every level its error must not exceed that of the
best linear denoiser of single elements, v s^2/(a^2 v + s^2) for data variance v. When it fails, the usual slips are
tried in turn (another prediction, reversed time, other ranges and scalings of the input) and their figures shown:
"as eps 6.1, as v 0.4: did you mean v?".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log, pi, tan
from typing import Any

import torch
from torch import Tensor

from oneprior.denoiser import Denoiser, NetworkDenoiser
from oneprior.exact import Gaussian
from oneprior.noise import Fresh, Seeded
from oneprior.posterior import PREDICTIONS
from oneprior.sampling import Sampler, Solver, sampler, walk
from oneprior.schedules import Schedule

LEVELS = (0.05, 0.2, 0.4, 0.6, 0.8, 0.95)  # (2/pi) atan(sigma/alpha): noise levels, whatever the schedule


@dataclass(frozen=True)
class Row:
    """One line of a check: `measured` must not exceed `bar`."""

    what: str
    measured: float
    bar: float

    @property
    def holds(self) -> bool:
        return self.measured <= self.bar  # false for NaN


@dataclass(frozen=True)
class Checked:
    """The rows of a check, its verdict `ok`, and advice where something fails. `str()` is a table."""

    name: str
    rows: tuple[Row, ...]
    advice: str = ""

    @property
    def ok(self) -> bool:
        return all(r.holds for r in self.rows)

    def __str__(self) -> str:
        lines = [f"{self.name}: {'passes' if self.ok else 'FAILS'}"]
        lines += [
            f"  {'ok  ' if r.holds else 'FAIL'} {r.what}: {r.measured:.3g} (at most {r.bar:.3g})" for r in self.rows
        ]
        return "\n".join(lines + ([f"  {self.advice}"] if self.advice else []))


def _verdict(checked: Checked, strict: bool) -> Checked:
    if strict and not checked.ok:
        raise ValueError(str(checked))
    return checked


def check_schedule(schedule: Schedule, *, strict: bool = True) -> Checked:
    """Exact ends, lam falling, `time` inverting `lam`, slopes, and transitions that keep the marginals.

    Raises:
        ValueError: with the table, when something fails (unless `strict=False`).
    """
    t = torch.linspace(0.0203, 0.9803, 49, dtype=torch.float64)  # between the knots of tables
    a, b, s = schedule.at(0.0)
    lam = schedule.lam(t)
    h = 1e-6
    off = max(
        float(((p - m) / (2 * h) - d).abs().div(d.abs() + 1).median())
        for p, m, d in zip(schedule.at(t + h), schedule.at(t - h), schedule.slope(t), strict=True)
        if d is not None
    )
    (_, _, s1), (_, _, s0) = schedule.at(t[1:]), schedule.at(t[:-1])
    keeps = max(
        float((rho**2 * s1**2 + std**2 - s0**2).abs().div(s0**2).max())
        for rho, std in (schedule.transition(t[1:], t[:-1], k) for k in (0.0, 0.5, 1.0))
    )
    rows = (
        Row("|alpha(0) - 1| + |sigma(0)| + |anchor(0)|", abs(a - 1) + abs(s) + abs(b or 0.0), 0.0),
        Row("largest rise of lam between times (it must fall)", float((lam[1:] - lam[:-1]).max()), 0.0),
        Row("|time(lam(t)) - t|", float((schedule.time(lam) - t).abs().max()), 1e-6),
        Row("relative error of slope against differences", off, 1e-5),
        Row("relative error of rho^2 sigma_t^2 + std^2 = sigma_s^2", keeps, 1e-9),
    )
    return _verdict(Checked(f"check_schedule({type(schedule).__name__})", rows), strict)


def check_denoiser(
    den: Denoiser, *, law: Any = None, data: Tensor | None = None, seed: int = 0, strict: bool = True, **cond: Any
) -> Checked:
    """Is `den` the denoiser its schedule and prediction say? Give a law (exact mode) or data (B, *) in model range.

    64 samples serve well. Figures are mean squared errors relative to the best linear denoiser of single elements:
    1 is as good as knowing mean and variance only, below 1 is a model of structure; a wrong convention is far above.
    In exact mode they are the squared distance to the exact posterior mean, in the same unit.

    Raises:
        ValueError: with the table and the likely fix, when it fails (unless `strict=False`).
        TypeError: when neither or both of law and data are given.
    """
    if (law is None) == (data is None):
        raise TypeError("give either law= (a law of oneprior.exact) or data= (samples in model range), not both")
    x0 = law.sample(256, seeds=range(seed, seed + 256)) if data is None else data
    like = next((p for p in den.parameters()), None)
    x0 = x0.to(dtype=like.dtype, device=like.device) if like is not None else x0
    if not bool(torch.isfinite(x0).all()):
        raise ValueError(f"{int((~torch.isfinite(x0)).sum())} of {x0.numel()} data values are NaN or infinite")
    exact = None if law is None else law.denoiser(den.schedule)
    low, high = den.facts.t_range
    times = [min(max(den.schedule.time(-log(tan(pi * tau / 2))), low), high) for tau in LEVELS]
    figures = [_error(den, x0, t, seed, exact, cond) for t in times]
    bar = 0.05 if exact is not None else 1.5
    rows = [Row(f"error at t = {t:.3g}", f, bar) for t, f in zip(times, figures, strict=True)]
    tiny = max(low, den.schedule.t_min)
    rows.append(
        Row(
            f"error as t -> 0 (t = {tiny:.2g})", _error(den, x0, tiny, seed, exact, cond), 4.0 if exact is None else bar
        )
    )
    advice = ""
    if not all(r.holds for r in rows):
        advice = _advice(den, x0, times, seed, exact, cond, max(figures), bar)
    return _verdict(Checked(f"check_denoiser({type(den).__name__})", tuple(rows), advice), strict)


@torch.no_grad()
def _error(den: Denoiser, x0: Tensor, t: float, seed: int, exact: Denoiser | None, cond: dict[str, Any]) -> float:
    a, b, s = den.schedule.at(t)
    n = Seeded(range(seed, seed + len(x0)))(0, x0, "check")
    x = a * x0 + s * n + (0 if b is None else b * cond["y"])
    wanted = x0 if exact is None else exact(x, t, **cond).mean
    v = x0.var(0, correction=0).mean().item() if len(x0) > 1 else x0.var().item()
    best = v * s * s / (a * a * v + s * s)
    return ((den(x, t, **cond).mean - wanted).square().mean() / best).item()


class _Tried(Denoiser):
    """A network denoiser with one of its conventions replaced."""

    def __init__(
        self,
        den: NetworkDenoiser,
        name: str | None = None,
        clock: Callable[[Any], Any] = lambda t: t,
        feed: Callable[[Tensor, float, float], Tensor] = lambda x, a, s: x,
        back: Callable[[Tensor], Tensor] = lambda m: m,
    ) -> None:
        super().__init__()
        self.den, self.schedule, self.facts = den, den.schedule, den.facts
        self.row = PREDICTIONS[name] if name else den.prediction
        self.clock, self.feed, self.back = clock, feed, back

    def posterior(self, x: Tensor, t: Any, **cond: Any) -> Any:
        a, _, s = self.schedule.at(t)
        own = self.den.prediction.row(self.schedule, t)
        fed = self.feed(x, a, s)
        row = self.row.row(self.schedule, t)
        # the network is asked with its own input scaling undone, then with that of the convention on trial
        F = self.den.raw(fed * (row.c / own.c), self.clock(t), **cond)
        F = F.chunk(2, 1)[0] if self.den.variance else F
        mean = self.back(row.p * fed + row.q * F)
        from oneprior.posterior import Posterior

        return Posterior(mean, x, self.schedule, t)


def _advice(
    den: Denoiser,
    x0: Tensor,
    times: list[float],
    seed: int,
    exact: Denoiser | None,
    cond: dict[str, Any],
    now: float,
    bar: float,
) -> str:
    inner = den
    while not isinstance(inner, NetworkDenoiser):
        held = getattr(inner, "inner", None)
        if held is None:
            return "no conventions to try: this denoiser holds no NetworkDenoiser"
        inner = held
    own = inner.prediction.name
    trials: dict[str, Denoiser] = {name: _Tried(inner, name) for name in PREDICTIONS if name != own}
    trials |= {f"{name} with time reversed": _Tried(inner, name, clock=lambda t: 1 - t) for name in PREDICTIONS}
    trials["input divided by sqrt(alpha^2 + sigma^2)"] = _Tried(
        inner, feed=lambda x, a, s: x / (a * a + s * s) ** 0.5, back=lambda m: m
    )
    if inner.prediction.name in ("eps", "x0"):  # views that do not depend on the scale at which the network is fed
        trials["input divided by sqrt(alpha^2 + sigma^2)"] = _Scaled(inner)
    found = {name: max(_error(d, x0, t, seed, exact, cond) for t in times) for name, d in trials.items()}
    if exact is None:
        for name, other in (
            ("data as 2 x - 1", 2 * x0 - 1),
            ("data as x / 127.5 - 1", x0 / 127.5 - 1),
            ("data as (x + 1) / 2", (x0 + 1) / 2),
        ):
            found[name] = max(_error(inner, other, t, seed, None, cond) for t in times)
    best = min(found, key=lambda k: found[k] if found[k] == found[k] else float("inf"))
    table = ", ".join(f"{k} {v:.2g}" for k, v in sorted(found.items(), key=lambda p: p[1])[:4])
    if found[best] < min(now, bar) or found[best] < 0.5 * now:
        return f"as {own} {now:.2g}; {table}: did you mean {best}?"
    return f"as {own} {now:.2g}; tried {table}: none explains it. Is the network trained, and on this data and range?"


class _Scaled(Denoiser):
    """The same network, fed x / sqrt(alpha^2 + sigma^2)."""

    def __init__(self, den: NetworkDenoiser) -> None:
        super().__init__()
        self.den, self.schedule, self.facts = den, den.schedule, den.facts

    def posterior(self, x: Tensor, t: Any, **cond: Any) -> Any:
        from oneprior.posterior import Posterior

        a, _, s = self.schedule.at(t)
        row = self.den.prediction.row(self.schedule, t)
        F = self.den.raw(x / (a * a + s * s) ** 0.5, t, **cond)
        F = F.chunk(2, 1)[0] if self.den.variance else F
        return Posterior(row.p * x + row.q * F, x, self.schedule, t)


def check_sampler(solver: str | Sampler | Solver, *, schedule: Schedule, strict: bool = True) -> Checked:
    """Does it transport a Gaussian to where it belongs, and better with more steps?

    Deterministic solvers are held against the closed-form end point; any solver's law against the data's mean and
    variance (8,000 samples, 5 standard errors plus the discretisation of 200 steps).

    Raises:
        ValueError: with the table, when something fails (unless `strict=False`).
    """
    chosen = sampler(solver)
    law = Gaussian(
        torch.tensor([0.3, -0.7], dtype=torch.float64), torch.diag(torch.tensor([0.25, 0.04], dtype=torch.float64))
    )
    den = law.denoiser(schedule)
    n = 8_000
    a, _, s = schedule.at(1.0)
    noise = Fresh(torch.Generator().manual_seed(0))
    z = noise(0, torch.empty(n, 2, dtype=torch.float64))
    start = a * law.sample(n, generator=torch.Generator().manual_seed(1)) + s * z
    with torch.no_grad():
        ends = []
        for steps in (50, 200):
            x = start
            for out in walk(den, start, chosen.path(den, steps), chosen.solver, noise):
                x = out.x
            ends.append(x)
    x = ends[-1]
    std = torch.tensor([0.5, 0.2], dtype=torch.float64)
    rows = [
        Row(
            "error of the mean, in standard errors of 8,000",
            float(((x.mean(0) - torch.tensor([0.3, -0.7])) / std).abs().max() * n**0.5),
            6.0,
        ),
        Row(
            "relative error of the standard deviation",
            float((x.std(0) / std - 1).abs().max()),
            5 / (2 * n) ** 0.5 + 0.02,
        ),
    ]
    if getattr(chosen.solver, "kappa", 0.0) == 0.0:
        exact = law.ode_end(schedule, start, 1.0, 0.0)
        far, near = (float((e - exact).square().mean().sqrt()) for e in ends)
        rows.append(Row("error to the ODE's end point at 200 steps over that at 50", near / far, 0.35))
    return _verdict(Checked(f"check_sampler({type(chosen.solver).__name__})", tuple(rows)), strict)


def check_operator(operator: Any, shape: tuple[int, ...], *, strict: bool = True) -> Checked:
    """<A x, u> = <x, A^T u>, linearity, and A A^+ A = A, in float64. shape: of x with its batch, (B, *).

    Raises:
        ValueError: with the table, when something fails (unless `strict=False`).
    """
    noise = Seeded(range(shape[0]))
    x, z = (noise(i, torch.empty(shape, dtype=torch.float64)) for i in (0, 1))
    ax = operator(x)
    u = noise(2, ax)
    left, right = (ax * u).sum(), (x * operator.adjoint(u)).sum()
    size = (ax.square().sum() * u.square().sum()).sqrt()
    linear = (operator(2 * x - 3 * z) - (2 * ax - 3 * operator(z))).abs().max() / ax.abs().max()
    again = (operator(operator.pinv(ax)) - ax).abs().max() / ax.abs().max()
    rows = (
        Row("|<A x, u> - <x, A^T u>| / |A x||u|", float((left - right).abs() / size), 1e-10),
        Row("departure from linearity", float(linear), 1e-10),
        Row("|A A^+ A x - A x|", float(again), 1e-5),
    )
    return _verdict(Checked(f"check_operator({type(operator).__name__})", rows), strict)
