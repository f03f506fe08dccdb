"""Samplers of tokens: chains on a grid of times, and the absorbing process simulated event by event.

On a grid a step t -> s draws each token from the exact step law (`Corruption.reverse`), given the others: tokens that
change together are independent, an error that falls as one over the steps. First hitting makes none: each token has a
clock h ~ U(0, 1) and is revealed when the share of masks 1 - alpha has fallen to h, one call an event (Zheng et al.
2024).

Exact: FirstHitting(1). Exact as steps grow: Ancestral (with or without Remask), TauLeap. Confidence orders have the
data law with an exact denoiser and one drawn token a call, as every order has; else they seek the mode. Uniform numbers
have an address (seed, step, name): sample i depends on seeds[i] alone.
"""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import cos, pi
from typing import Any, Literal

import torch
from torch import Tensor

from oneprior.paths import Hold
from oneprior.times import Time
from oneprior.tokens.corruptions import Absorbing
from oneprior.tokens.denoiser import TokenDenoiser
from oneprior.tokens.draw import Coins, categorical


def even(steps: int) -> list[float]:
    """Times 1 .. 0 in equal steps."""
    return [1 - i / steps for i in range(steps + 1)]


def cosine(steps: int) -> list[float]:
    """t = cos(pi i / 2 steps): short steps where everything is masked still (MD4's grid)."""
    return [*(cos(pi / 2 * i / steps) for i in range(steps)), 0.0]


GRIDS = {"even": even, "cosine": cosine}


def times(grid: str, steps: int) -> list[float]:
    """The times of a grid by name, from 1 to 0."""
    if grid not in GRIDS or steps < 1:
        raise ValueError(f"grid '{grid}' and {steps} steps came; one of {list(GRIDS)} and 1 step or more were expected")
    return GRIDS[grid](steps)


@dataclass
class Run:
    """One run of a sampler: the state x (B, L), which tokens are free to change, and where numbers come from."""

    den: TokenDenoiser
    x: Tensor
    free: Tensor
    coins: Coins
    cond: dict[str, Any]

    @property
    def masked(self) -> Tensor:
        return (self.x == self.den.corruption.mask) & self.free

    def u(self, stage: int, name: str) -> Tensor:
        return self.coins(stage, name, tuple(self.x.shape[1:])).to(self.x.device)

    def at(self, t: Time) -> Time:
        """t for free tokens and 0 for held ones, where a network must know: a visible token is certain if masks are
        the only noise."""
        if isinstance(self.den.corruption, Absorbing) or bool(self.free.all()):
            return t
        return self.free.double() * t  # type: ignore[operator]

    def logp(self, t: Time) -> Tensor:
        return self.den(self.x, self.at(t), **self.cond)


@dataclass(frozen=True)
class TokenSampler(ABC):
    """Abstract: declares `run`. sampler(den, (B, L), seeds=...) -> tokens (B, L) at time 0.

    hold: `Hold(value, mask)`, tokens (B, L) or (L,) to keep where mask is true: they are at time 0 throughout, so the
    others are drawn given them. Corruptions that replace tokens need a denoiser with facts.time_axes = 1 for that.

    Example:
        >>> x = FirstHitting()(den, (8, 64), seeds=range(8))
    """

    @abstractmethod
    def run(self, run: Run) -> None:
        """Bring run.x from time 1 to time 0."""

    def __call__(
        self,
        den: TokenDenoiser,
        shape: tuple[int, int],
        *,
        seeds: Sequence[int] | None = None,
        hold: Hold | None = None,
        **cond: Any,
    ) -> Tensor:
        coins = Coins(seeds if seeds is not None else [secrets.randbits(63) for _ in range(shape[0])])
        if len(coins.seeds) != shape[0]:
            raise ValueError(f"{len(coins.seeds)} seeds for {shape[0]} samples: one seed a sample")
        weight = next(den.net.parameters(), torch.empty(0))
        _, share, masked = den.corruption.levels(torch.ones((), dtype=torch.float64))
        start = den.corruption.mass(share, masked).to(weight.device)
        x = categorical(start.expand(*shape, -1), coins(0, "start", shape[1:]).to(weight.device))
        free = torch.ones_like(x, dtype=torch.bool)
        if hold is not None:
            if hold.time or hold.clamp:
                raise ValueError("tokens are held at time 0: Hold(value, mask) without time and clamp was expected")
            free = ~torch.as_tensor(hold.mask, device=x.device).expand(shape)
            x = torch.where(free, x, torch.as_tensor(hold.value, device=x.device).expand(shape))
        run = Run(den, x, free, coins, cond)
        with torch.no_grad():
            self.run(run)
        return run.x

    def _absorbing(self, run: Run) -> Absorbing:
        if not isinstance(run.den.corruption, Absorbing):
            raise ValueError(
                f"{self} is for an absorbing corruption; this one is {run.den.corruption}: use Ancestral()"
            )
        return run.den.corruption


@dataclass(frozen=True)
class Remask:
    """Revealed tokens are masked again with probability sigma <= sigma_max = min(1, (1 - alpha_s) / alpha_t), and more
    are revealed in turn: x_t keeps its marginals for every sigma (ReMDM, Wang et al. 2025). Two rules: min(cap,
    sigma_max), and scale times sigma_max."""

    cap: float = 1.0
    scale: float = 1.0

    def sigma(self, a_t: float, a_s: float) -> float:
        return min(self.cap, self.scale * min(1.0, (1 - a_s) / a_t)) if a_t > 0 else 0.0


@dataclass(frozen=True)
class Ancestral(TokenSampler):
    """x_s ~ p(x_s | x_t) token by token on a grid of times, `GRIDS`.

    draw: "joint" is one draw from the step law over V symbols; "split", for masks, first asks whether a token is
    revealed and draws symbols for those alone: the same law in exact arithmetic, and V-sized work where needed only.
    cache: a network without time is not asked again while no token changed. remask: see `Remask`; it needs "split".
    """

    steps: int = 64
    draw: Literal["joint", "split"] = "joint"
    grid: str = "even"
    cache: bool = True
    remask: Remask | None = None

    def run(self, run: Run) -> None:
        if self.remask is not None and self.draw != "split":
            raise ValueError('remasking is a rule of the split draw: Ancestral(draw="split", remask=...)')
        corruption, logp, same = run.den.corruption, None, False
        for i, (t, s) in enumerate(pairwise(times(self.grid, self.steps)), 1):
            if logp is None or not (self.cache and not run.den.timed and same):
                logp = run.logp(t)
            if self.draw == "split":
                new = self._split(run, logp, t, s, i)
            else:
                law = corruption.reverse(logp.exp(), run.x, run.at(t), run.at(s))
                new = torch.where(run.free, categorical(law, run.u(i, "value")), run.x)
            same, run.x = bool(torch.equal(new, run.x)), new

    def _split(self, run: Run, logp: Tensor, t: float, s: float, i: int) -> Tensor:
        corruption = self._absorbing(run)
        a_t, a_s = (corruption.levels(torch.tensor(v, dtype=torch.float64))[0].item() for v in (t, s))
        sigma = self.remask.sigma(a_t, a_s) if self.remask is not None else 0.0
        jump, masked = run.u(i, "jump"), run.masked
        shown = masked & (jump < (a_s - (1 - sigma) * a_t) / (1 - a_t))
        new = run.x.masked_fill(~masked & run.free & (jump < sigma), run.den.corruption.vocab - 1)
        new[shown] = categorical(logp[shown].exp(), run.u(i, "value")[shown])
        return new


@dataclass(frozen=True)
class FirstHitting(TokenSampler):
    """The continuous-time absorbing process itself: `per_call` tokens a network call, in descending order of clocks.

    per_call = 1 is exact, and costs as many calls as there are free tokens; more are drawn as if independent.
    """

    per_call: int = 1

    def run(self, run: Run) -> None:
        corruption = self._absorbing(run)
        clocks = torch.where(run.free, run.u(1, "clock"), -1.0)  # held tokens come last, and are never revealed
        order, values = clocks.argsort(1, descending=True), run.u(1, "value")
        for i in range(0, int(run.free.sum(1).max()), self.per_call):
            at = order[:, i : i + self.per_call]
            h = clocks.gather(1, at[:, :1])[:, 0].clamp(min=0)
            law = run.logp(corruption.keep.time(1 - h)).gather(1, at[..., None].expand(-1, -1, corruption.vocab))
            token = categorical(law.exp(), values.gather(1, at))
            token = torch.where(clocks.gather(1, at) >= 0, token, run.x.gather(1, at))
            run.x = run.x.scatter(1, at, token)


@dataclass(frozen=True)
class TauLeap(TokenSampler):
    """Reverse rates G(k -> z) s_k frozen over a step: a token jumps at most once, with 1 - exp(-h sum of rates), to k
    in proportion to its rate (Campbell et al. 2022; one jump, as categories have no order). The last step is exact."""

    steps: int = 64
    grid: str = "even"

    def run(self, run: Run) -> None:
        c = run.den.corruption
        for i, (t, s) in enumerate(pairwise(times(self.grid, self.steps)), 1):
            t = min(t, 1 - 1e-6)  # at alpha = 0 the forward rates are infinite
            p, at = run.logp(t).exp(), run.at(t)
            if s == 0:
                law = p
            else:
                rate = c.rates(run.x, t) * c.score(p, run.x, at)
                total = rate.sum(-1, keepdim=True)
                law = rate / total.clamp(min=1e-300) * -torch.expm1(-(t - s) * total)
                law.scatter_(-1, run.x[..., None], torch.exp(-(t - s) * total))
            run.x = torch.where(run.free, categorical(law, run.u(i, "value")), run.x)


SCORES = {
    "prob": lambda p: p.max(-1).values,
    "entropy": lambda p: torch.special.entr(p).sum(-1).neg(),
    "margin": lambda p: p.topk(2, -1).values.diff(dim=-1)[..., 0].neg(),
}


@dataclass(frozen=True)
class Confidence(TokenSampler):
    """The surest masked tokens first, in `steps` calls (MaskGIT, Chang et al. 2022; LLaDA): a law of its own.

    score: "prob", "entropy" or "margin", of the clean probabilities. threshold: reveal besides all with a largest
    probability above it (Fast-dLLM). greedy: the likeliest symbol instead of a draw. grid: how many stay masked.
    """

    steps: int = 16
    score: str = "prob"
    threshold: float = 1.0
    greedy: bool = False
    grid: str = "even"

    def run(self, run: Run) -> None:
        keep, holes = self._absorbing(run).keep, run.masked.sum(1)
        for i, share in enumerate(times(self.grid, self.steps)[1:], 1):
            masked = run.masked
            if not bool(masked.any()):
                return
            p = run.logp(keep.time(1 - masked.double().mean(1))).exp()  # told the share of masks it sees
            left = (holes * share).floor().long()
            count = (masked.sum(1) - left).clamp(min=1)[:, None]
            score = SCORES[self.score](p).masked_fill(~masked, -torch.inf)
            rank = score.argsort(dim=1, descending=True, stable=True).argsort(1)
            shown = masked & ((rank < count) | (p.max(-1).values > self.threshold))
            new = p[shown].argmax(-1) if self.greedy else categorical(p[shown], run.u(i, "value")[shown])
            run.x = run.x.masked_scatter(shown, new)
