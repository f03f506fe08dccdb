"""The posterior samplers of the peers on one denoiser and one linear measurement, at as many calls as ours.

A problem asks `ask(x, a, s)` for E[x_0 | x], x = a x_0 + s noise, in the range [-1, 1]. Each method has one weight that
its users tune: its library's default (or the paper's) and three to choose from. Random numbers come from one seed,
inside a fork of torch's generator, since the peers draw from that.

What is theirs stays theirs: azula's DPS takes one norm over the whole batch, so its weights grow with that; its TDS
resamples at every step; its PGDM uses the noise
in the pseudo-inverse alone, ours; deepinv's DDRM divides its noise by sqrt(2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from importlib import import_module
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from peers import peer
from torch import Tensor, nn

from oneprior.operators import Measurement
from oneprior.operators.foreign import to_deepinv

Ask = Callable[[Tensor, float, float], Tensor]


class Problem(NamedTuple):
    """seen: measurements of every draw, those of an image in a row; shape: of x, (images * draws, C, H, W)."""

    ask: Ask
    seen: Measurement
    shape: tuple[int, ...]
    draws: int
    calls: int
    particles: int = 16
    """a draw, of a method that has them"""


class Method(NamedTuple):
    """run(problem, weight) -> x of problem.shape; name: of the weight."""

    name: str
    default: float
    weights: tuple[float, ...]
    run: Callable[[Problem, float], Tensor]
    particles: bool = False


def methods() -> dict[str, Method]:
    """Of every peer that imports."""
    return dict(azula()) | dict(deepinv())


def drawn(method: Method, problem: Problem, weight: float, seed: int = 0) -> Tensor:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(seed)
        return method.run(problem, weight).detach()


def azula() -> Iterator[tuple[str, Method]]:
    if (m := peer("azula")) is None:
        return
    modules, guidance, sample = m["denoise"], m["guidance"], m["sample"]
    schedule = m["noise"].VPSchedule()
    isotropic = import_module("azula.linalg.covariance").IsotropicCovariance

    class Asking(modules.Denoiser):
        def __init__(self, p: Problem) -> None:
            super().__init__()
            self.p, self.schedule = p, schedule

        def forward(self, x_t: Tensor, t: Tensor, **_: Any) -> Any:
            a, s = (float(v) for v in schedule(t))
            x = self.p.ask(x_t.reshape(-1, *self.p.shape[1:]), a, s)
            return modules.DiracPosterior(mean=x.flatten(1))

    class Task:
        """azula's algebra is on vectors, (*, D)."""

        def __init__(self, p: Problem) -> None:
            self.p, self.den = p, Asking(p)
            self.y, self.var = p.seen.y.flatten(1), torch.as_tensor(p.seen.noise**2, dtype=p.seen.y.dtype)
            self.common: dict[str, Any] = {"y": self.y, "A": self.A}

        def A(self, x: Tensor) -> Tensor:
            return self.p.seen.operator(x.reshape(-1, *self.p.shape[1:])).flatten(1)

        def inverse(self, y: Tensor) -> Tensor:
            """By singular values, those below the noise left out: iterations to the end would take hours on a blur,
            and the noise of y divided by 1e-4."""
            parts = self.p.seen.operator.svd(self.y.new_empty(1, *self.p.shape[1:]))
            if parts is None:
                return self.p.seen.operator.pinv(y.reshape(-1, *self.p.seen.y.shape[1:])).flatten(1)
            cut = max(float(self.var.sqrt() / parts.s.max()), 1e-4)
            return parts.pinv(y.reshape(-1, *self.p.seen.y.shape[1:]), cut).flatten(1)

        def start(self, count: int) -> Tensor:
            return torch.randn(count, math.prod(self.p.shape[1:]), dtype=self.y.dtype) * schedule(torch.ones(()))[1]

    def run(make: Callable[[Task, float], Any]) -> Callable[[Problem, float], Tensor]:
        def go(p: Problem, weight: float) -> Tensor:
            task = Task(p)
            return make(task, weight)(task.start(p.shape[0])).reshape(p.shape)

        return go

    def tds(p: Problem, weight: float) -> Tensor:
        """An image at a time; of its particles, which come without weights, as many as draws."""
        task, out = Task(p), []
        for i in range(0, p.shape[0], p.draws):
            y = task.y[i : i + 1]

            def twist(x: Tensor, sbar: Tensor, y: Tensor = y) -> Tensor:
                var = task.var + weight * sbar**2 / (1 + sbar**2)
                return -((y - task.A(x)).square() / var + var.log()) / 2

            sampler = guidance.TDSSampler(task.den, twist, steps=p.calls, silent=True)
            out.append(sampler(task.start(p.particles * p.draws))[: p.draws])
        return torch.cat(out).reshape(p.shape)

    def by(sampler: str) -> Callable[[Problem, float], Tensor]:
        def mmps(k: Task, w: float) -> Any:
            den = guidance.MMPSDenoiser(k.den, cov_y=isotropic(k.var), iterations=int(w), **k.common)
            return getattr(sample, sampler)(den, steps=k.p.calls, silent=True)

        return run(mmps)

    def diffpir(k: Task, w: float) -> Any:
        return sample.DDIMSampler(
            guidance.DiffPIRDenoiser(k.den, var_y=k.var, lmbda=w, **k.common), steps=k.p.calls, silent=True
        )

    def pgdm(k: Task, w: float) -> Any:
        return guidance.PGDMSampler(k.den, A_inv=k.inverse, eta=w, steps=k.p.calls, silent=True, **k.common)

    def dps(k: Task, w: float) -> Any:
        return guidance.DPSSampler(k.den, zeta=w, steps=k.p.calls, silent=True, **k.common)

    yield "azula DPS", Method("zeta", 1.0, (1.0, 4.0, 16.0), run(dps))
    yield "azula MMPS, DDPM", Method("iterations", 1, (1, 3, 5), by("DDPMSampler"))
    yield "azula MMPS, DDIM", Method("iterations", 1, (1, 3, 5), by("DDIMSampler"))
    yield "azula DiffPIR", Method("lambda", 10.0, (3.0, 10.0, 30.0), run(diffpir))
    yield "azula PGDM", Method("eta", 0.0, (0.0, 0.5, 1.0), run(pgdm))
    yield "azula TDS", Method("spread of the twist", 1.0, (0.1, 0.3, 1.0), tds, particles=True)


def deepinv() -> Iterator[tuple[str, Method]]:
    """In [0, 1], as they ask for it: A of (x + 1) / 2 is (y + A 1) / 2 with half the noise."""
    if (m := peer("deepinv")) is None:
        return
    sampling, L2 = m["sampling"], import_module("deepinv.optim.data_fidelity").L2

    class Asking(nn.Module):
        def __init__(self, ask: Ask) -> None:
            super().__init__()
            self.ask = ask

        def forward(self, x: Tensor, sigma: Any, *_: Any, **__: Any) -> Tensor:
            level = float(torch.as_tensor(sigma).flatten()[0])  # one for the batch
            return (self.ask(2 * x - 1, 1.0, 2 * level) + 1) / 2

    def physics(p: Problem) -> tuple[Tensor, SimpleNamespace]:
        A, noise = p.seen.operator, float(p.seen.noise) / 2
        one = torch.ones(1, *p.shape[1:], dtype=p.seen.y.dtype)
        found, parts = to_deepinv(A, noise), A.svd(one.float())
        if parts is not None:
            found.mask = parts.s.float().expand(1, *p.shape[1:])
            found.U_adjoint, found.V, found.V_adjoint = parts.Ut, parts.V, parts.Vt
        return ((p.seen.y + A(one)) / 2).float(), found

    def run(make: Callable[[Problem, nn.Module, float, float], Any]) -> Callable[[Problem, float], Tensor]:
        def go(p: Problem, weight: float) -> Tensor:
            y, known = physics(p)
            return 2 * make(p, Asking(p.ask), known.noise_model.sigma, weight)(y, known).to(p.seen.y) - 1

        return go

    def dps(p: Problem, den: nn.Module, noise: float, w: float) -> Any:
        return sampling.DPS(den, num_steps=p.calls + 1, weight=w)

    def diffpir(p: Problem, den: nn.Module, noise: float, w: float) -> Any:
        return sampling.DiffPIR(den, L2(), sigma=noise, max_iter=p.calls, lambda_=w)

    def ddrm(p: Problem, den: nn.Module, noise: float, w: float) -> Any:
        levels = torch.linspace(1, 0, p.calls, dtype=torch.float64).numpy()
        return sampling.DDRM(den, sigmas=levels, eta=w)

    yield "deepinv DPS", Method("weight", 1.0, (0.3, 1.0, 3.0), run(dps))
    yield "deepinv DiffPIR", Method("lambda", 7.0, (3.0, 7.0, 25.0), run(diffpir))
    yield "deepinv DDRM", Method("eta", 0.85, (0.5, 0.85, 1.0), run(ddrm))
