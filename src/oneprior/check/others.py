"""Schedules, samplers and operators: each against what it must do whatever it is."""

from __future__ import annotations

from typing import Any

import torch

from oneprior.check.table import Checked, Row, _verdict
from oneprior.exact import Gaussian
from oneprior.noise import Fresh, Seeded
from oneprior.sampling import Sampler, Solver, sampler, walk
from oneprior.schedules import Schedule


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
