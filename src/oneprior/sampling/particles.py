"""Particles: K weighted copies of each sample on one walk, resampled where few of them carry the weight (SMC).

A run with increments log G_t of the log-weight W draws from p(path) prod_t G_t: exact as K grows, for any proposal.
Resampling is systematic, of each sample's own K particles and driven by its own seed, where the effective number
ESS = (sum W)^2 / sum W^2 falls below K/2. Reweighting stands in the body of the walk, after the step was drawn.

FK steering (Singhal et al. 2025): from a denoiser and any reward r, never differentiated, draws of p(x_0) exp(lam r),
    diff  log G_t = lam (r(D_t) - r(D_t+1))     max  lam max_{u >= t} r(D_u)     sum  lam sum_{u >= t} r(D_u),
and the last step's G makes the product exp lam r(x_0), whatever stood before.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import log
from typing import Any

import torch
from torch import Tensor

from oneprior.denoiser import Denoiser
from oneprior.noise import Seeded, uniform
from oneprior.paths import SOLVE, Path
from oneprior.sampling.sampler import Sampler, _resolve, _start, device_of
from oneprior.sampling.solvers import Solver
from oneprior.sampling.walk import Step, walk
from oneprior.times import repeated


@dataclass(frozen=True)
class Particles:
    """x (B, K, *) with log_weights (B, K), whose log-mean-exp estimates the log of the normaliser; ess (calls, B) from
    1 to K, before resampling; seeds, one a sample."""

    x: Tensor
    log_weights: Tensor
    ess: Tensor
    seeds: tuple[int, ...]

    @property
    def weights(self) -> Tensor:
        """Of sum 1, (B, K)."""
        return self.log_weights.softmax(1)

    @property
    def log_z(self) -> Tensor:
        """log E[prod_t G_t], (B,): for twisted SMC log p(y)."""
        return self.log_weights.logsumexp(1) - log(self.log_weights.shape[1])

    def draw(self) -> Tensor:
        """One particle a sample, (B, *), with the chance of its weight; a function of the sample's seed."""
        at = torch.cat(
            [_systematic(w[None], _coins([seed], -1), 1) for w, seed in zip(self.weights, self.seeds, strict=True)]
        )
        return self.x[torch.arange(len(at)), at[:, 0].to(self.x.device)]


def ess(log_weights: Tensor) -> Tensor:
    """The effective number of particles, (B, K) -> (B,), from 1 to K."""
    return (2 * log_weights.logsumexp(1) - (2 * log_weights).logsumexp(1)).exp()


def _systematic(weights: Tensor, u: Tensor, count: int) -> Tensor:
    """(B, K) weights of sum 1 and one uniform number a row (B,) -> indices (B, count): each about count w times."""
    points = (u[:, None] + torch.arange(count)) / count
    return torch.searchsorted(weights.cumsum(1), points, right=True).clamp(max=weights.shape[1] - 1)


def _coins(seeds: Sequence[int], stage: int) -> Tensor:
    return torch.tensor([float(uniform(seed, "resample", stage)) for seed in seeds], dtype=torch.float64)


@dataclass(frozen=True)
class Grouped:
    """Noise of `count` particles a sample, the particles of sample 0 first: all those of a sample from its own seed."""

    seeds: Seeded
    count: int

    def __call__(self, stage: int, like: Tensor, key: str = "") -> Tensor:
        return self.seeds(stage, like.unflatten(0, (-1, self.count)), key).flatten(0, 1)


class Swarm:
    """The particles of one run: make it, loop over its `walk`, `weigh` and `settle` in the body, ask for the `result`.

    Arguments as of `sample`; shape (B, *) without the particles, count = K. Inside, the batch is (B K, *), and
    tensors (B, ...) among the conditions are repeated.

    Raises:
        ValueError: for a solver without noise (copies of a particle would stay copies) or with corrector rows, a path
            of several tracks or one that rises, fewer than 2 particles, seeds or a shape that do not fit.
    """

    def __init__(
        self,
        den: Denoiser,
        shape: Sequence[int],
        count: int,
        steps: int | None = None,
        sampler: str | Sampler | Solver = "ancestral",
        path: Path | None = None,
        seeds: Sequence[int] | None = None,
        **cond: Any,
    ) -> None:
        chosen, self.path = _resolve(den, steps, sampler, path)
        self.solver = chosen.solver
        if self.path.matrix.shape[1] > 1 or set(self.path.kinds) != {SOLVE}:
            raise ValueError("particles walk along a falling path of one track: give steps, or paths.sync(times)")
        self.plan = self.solver.plan(den.schedule, self.path)
        rows = [row for stage in self.plan for row in stage.rows]
        if not (self.solver.variance or any(row.std for row in rows)):
            raise ValueError(
                f"{self.solver} adds no noise, and copies of a particle would stay copies: particles need the SDE, "
                "kappa = 1, as sampler='ancestral', 'sde2m' or DDIM(1.0)"
            )
        if any(row.back or row.lag for row in rows):
            raise ValueError(f"{self.solver} corrects earlier steps, which resampling would mix up: use 'ancestral'")
        B, seeds = shape[0], [secrets.randbits(63) for _ in range(shape[0])] if seeds is None else list(seeds)
        if len(seeds) != B or count < 2:
            raise ValueError(
                f"{len(seeds)} seeds for {B} samples of {count} particles: one a sample, and 2 or more of these"
            )
        self.count, self.noise = count, Grouped(Seeded(seeds), count)
        self.cond = {k: self.repeat(v, B) for k, v in cond.items()}
        like = torch.empty((B * count, *shape[1:]), device=device_of(den))
        self.x = _start(den.schedule, like, self.path, self.noise, "", self.cond.get("y"))
        self.log_weights = torch.zeros(B, count, dtype=torch.float64)
        self._trace: list[Tensor] = []

    def repeat(self, v: Any, batch: int) -> Any:
        return repeated(v, batch, self.count)

    def zeros(self) -> Tensor:
        """A number a particle, (B K,), float64 on the CPU as the weights are."""
        return torch.zeros_like(self.log_weights).flatten()

    def walk(self, den: Denoiser) -> Iterator[Step]:
        return walk(den, self.x, self.path, self.solver, self.noise, **self.cond)

    def last(self, out: Step) -> bool:
        return out.index == len(self.plan) - 1

    def weigh(self, log_g: Tensor) -> Tensor:
        """Add log G (B K,) to the log-weights; returns it as float64 on the CPU. FloatingPointError where it is NaN."""
        log_g = log_g.detach().to("cpu", torch.float64).reshape(-1)
        if log_g.shape != self.log_weights.flatten().shape or bool(log_g.isnan().any()):
            raise FloatingPointError(
                f"{int(log_g.isnan().sum())} NaN in log-weights of shape {tuple(log_g.shape)}; one number a particle, "
                f"({self.log_weights.numel()},), was expected: look at the reward"
            )
        self.log_weights = self.log_weights + log_g.reshape_as(self.log_weights)
        return log_g

    def settle(self, out: Step, *carried: Tensor) -> tuple[Tensor, ...]:
        """Resample out.x, out.history and what else the particles carry, (B K, ...), where ESS < K/2."""
        K, effective = self.count, ess(self.log_weights)
        self._trace.append(effective)
        low = effective < K / 2
        if not bool(low.any()):
            return carried
        mean = self.log_weights.logsumexp(1, keepdim=True) - log(K)
        drawn = _systematic(self.log_weights.softmax(1), _coins(self.noise.seeds.seeds, out.index), K)
        own = torch.where(low[:, None], drawn, torch.arange(K))
        at = (own + K * torch.arange(len(own))[:, None]).flatten()
        self.log_weights = torch.where(low[:, None], mean, self.log_weights)
        there = at.to(out.x.device)
        out.x, out.history = out.x[there], [m[there] for m in out.history]
        return tuple(c[at.to(c.device)] for c in carried)

    def result(self, x: Tensor) -> Particles:
        self._trace.append(ess(self.log_weights))
        return Particles(
            x.unflatten(0, (-1, self.count)), self.log_weights, torch.stack(self._trace), self.noise.seeds.seeds
        )


Potential = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]  # (lam r, what is kept) -> (log G, what to keep)


def diff(r: Tensor, kept: Tensor | None) -> tuple[Tensor, Tensor]:
    return (r if kept is None else r - kept), r


def best(r: Tensor, kept: Tensor | None) -> tuple[Tensor, Tensor]:
    most = r if kept is None else torch.maximum(r, kept)
    return most, most


def total(r: Tensor, kept: Tensor | None) -> tuple[Tensor, Tensor]:
    all_ = r if kept is None else r + kept
    return all_, all_


POTENTIALS: dict[str, Potential] = {"diff": diff, "max": best, "sum": total}


def steer(
    den: Denoiser,
    shape: Sequence[int],
    reward: Callable[[Tensor], Tensor],
    *,
    lam: float = 1.0,
    count: int = 16,
    potential: str = "diff",
    every: int = 1,
    **how: Any,
) -> Particles:
    """FK steering: `count` particles a sample of p(x_0) exp(lam reward(x_0)), p the law of `den` (guided or not).

    reward: x_0 (B K, *), particles of sample 0 first, -> (B K,); it need not be differentiable. every: network calls
    between two weighings. potential: `diff`, `max` or `sum`, see above; the last two want a large `every`, since each
    weighing multiplies the weights anew. how: as of `Swarm`.

    Example:
        >>> out = steer(den, (4, 1, 28, 28), lambda x: -x.mean((1, 2, 3)).square(), lam=50.0, count=32)
        >>> x = out.draw()

    Raises:
        ValueError: as `Swarm`, or for an unknown potential; FloatingPointError: for a reward that is NaN.
    """
    if potential not in POTENTIALS or every < 1:
        raise ValueError(
            f"potential '{potential}', every = {every}: one of {sorted(POTENTIALS)} and at least 1 were expected"
        )
    swarm, kept = Swarm(den, shape, count, **how), None
    x, product = swarm.x, swarm.zeros()
    for out in swarm.walk(den):
        x = out.x
        if swarm.last(out):
            swarm.weigh(lam * reward(x).to("cpu", torch.float64) - product)
        elif (out.index + 1) % every == 0:
            log_g, kept = POTENTIALS[potential](lam * reward(out.mean).to("cpu", torch.float64), kept)
            product = product + swarm.weigh(log_g)
            kept, product = swarm.settle(out, kept, product)
    return swarm.result(x)
