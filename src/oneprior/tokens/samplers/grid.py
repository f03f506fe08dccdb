"""Chains on a grid of times: each token is drawn from the law of a step, given the others as they were.

Tokens that change together are independent, an error that falls as one over the steps. The step law of `Ancestral` is
the exact one (`Corruption.reverse`), so fewer steps are strides of the same chain; `TauLeap` freezes rates over a step.
Discrete flow matching (`Flow`; Gat et al. 2024; Campbell et al. 2024) jumps to a drawn x_0 at rate -alpha' / (1 -
alpha): integrated over a step, with chance
    u = (alpha_s - alpha_t) / (1 - alpha_t),
and may add a chain that leaves q_t(. | x_0) where it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch

from oneprior.tokens.corruptions import Absorbing, Uniform
from oneprior.tokens.draw import categorical
from oneprior.tokens.samplers.run import Run, TokenSampler, rows_of


@dataclass(frozen=True)
class Loop:
    """alpha over the grid's time for ReMDM's loop: up to `level` by `on`, held there until `off`, then up to 1."""

    on: float = 0.55
    off: float = 0.05
    level: float = 0.9

    def alpha(self, t: float) -> float:
        if t > self.on:
            return (1 - t) / (1 - self.on) * self.level
        return self.level if t > self.off else 1 - t / self.off * (1 - self.level)


@dataclass(frozen=True)
class Remask:
    """Revealed tokens are masked again with probability sigma <= sigma_max = min(1, (1 - alpha_s) / alpha_t), and more
    are revealed in turn: x_t keeps its marginals for every sigma (ReMDM, Wang et al. 2025).

    sigma = min(cap, scale sigma_max). unsure: one token a step is masked again, times sigma, rather a token that was
    revealed with a low probability: shares softmax(-probability); what is revealed in turn keeps the number of masks.
    loop: sigma only where `Loop` holds alpha, as in Remask(cap=0.02, loop=Loop()), with top-p 0.9 in the paper.
    """

    cap: float = 1.0
    scale: float = 1.0
    unsure: bool = False
    loop: Loop | None = None

    def sigma(self, a_t: float, a_s: float) -> float:
        if a_t <= 0 or (self.loop is not None and a_t != a_s):
            return 0.0
        return min(self.cap, self.scale * min(1.0, (1 - a_s) / a_t))


@dataclass(frozen=True)
class Ancestral(TokenSampler):
    """x_s ~ p(x_s | x_t) token by token on a grid of times, `GRIDS`.

    draw: "joint" is one draw from the step law over V symbols; "split", for masks, first asks whether a token is
    revealed and draws symbols for those alone: the same law in exact arithmetic, and V-sized work where needed only.
    cache: no call where it would tell nothing new: "split" asks when a token is to be revealed, "joint" does not ask a
    network without time again while no token changed. remask: see `Remask`; it needs "split".
    """

    steps: int = 64
    draw: Literal["joint", "split"] = "joint"
    grid: str = "even"
    cache: bool = True
    remask: Remask | None = None

    @property
    def clamps(self) -> bool:
        return self.draw == "joint"

    def run(self, run: Run) -> None:
        if self.draw == "split":
            return self._split(run, self.remask or Remask(cap=0.0))
        if self.remask is not None:
            raise ValueError('remasking is a rule of the split draw: Ancestral(draw="split", remask=...)')
        timeless = self.cache and not run.den.timed and isinstance(run.den.corruption, Absorbing)
        logp, same = None, False
        for i, (t, s) in enumerate(pairwise(run.times(self.grid, self.steps)), 1):
            if not timeless:
                law = run.den.step(run.x, run.at(t), run.at(s), **run.cond)
            else:
                logp = run.logp(t) if logp is None or not same else logp
                law = run.den.corruption.reverse(logp.exp(), run.x, run.at(t), run.at(s))
            new = run.settled(categorical(law, run.u(i, "value")), s, i)
            same, run.x = bool(torch.equal(new, run.x)), new
        return None

    def _split(self, run: Run, rule: Remask) -> None:
        corruption = self._absorbing(run)
        times, sure = run.times(self.grid, self.steps), torch.ones(run.x.shape, dtype=torch.float64).to(run.x.device)
        alpha = corruption.levels(torch.tensor(times, dtype=torch.float64))[0]
        if rule.loop is not None:
            alpha = torch.tensor([rule.loop.alpha(t) for t in times], dtype=torch.float64)
            times = corruption.keep.time(alpha).tolist()
        for i, (t, (a_t, a_s)) in enumerate(zip(times, pairwise(alpha.tolist()), strict=False), 1):
            jump, masked, sigma = run.u(i, "jump"), run.masked, rule.sigma(a_t, a_s)
            hide, more = sigma, sigma
            if rule.unsure and sigma:  # the same number of tokens on average, of all there are
                seen, n = run.free & ~masked, run.free.sum(1, keepdim=True).clamp(min=1)
                hide = sigma * sure.neg().masked_fill(~seen, -torch.inf).softmax(1).nan_to_num()
                more = sigma * (1 - (1 - a_t) ** n) / (a_t * n)
            shown = masked & (jump < (a_s - (1 - more) * a_t) / (1 - a_t))
            law, (rows, new) = None, rows_of(shown)
            if not self.cache or bool(shown.any()):
                law = run.logp(t, rows).exp()
            run.x = run.x.masked_fill(~masked & run.free & (jump < hide), corruption.vocab - 1)
            if law is not None and bool(shown.any()):
                token = categorical(law, run.u(i, "value").gather(1, rows))
                sure = sure.scatter(
                    1, rows, torch.where(new, law.gather(-1, token[..., None])[..., 0], sure.gather(1, rows))
                )
                run.put(rows, token, new)


@dataclass(frozen=True)
class TauLeap(TokenSampler):
    """Reverse rates G(k -> z) s_k frozen over a step: a token jumps at most once, with 1 - exp(-h sum of rates), to k
    in proportion to its rate (Campbell et al. 2022; one jump, as categories have no order). The last step is exact."""

    steps: int = 64
    grid: str = "even"

    def run(self, run: Run) -> None:
        c = run.den.corruption
        for i, (t, s) in enumerate(pairwise(run.times(self.grid, self.steps)), 1):
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


@dataclass(frozen=True)
class Flow(TokenSampler):
    """Discrete flow matching: x_0 ~ p(x_0 | x_t), and the token jumps there with chance u. For corruptions whose noise
    is one law throughout: with masks it is `Ancestral`; with replacement it has the same marginals, not the same chain.

    corrector: c adds a chain that draws x_t anew from q_t(. | x_0) at rate -c alpha' / (alpha (1 - alpha)): tokens are
    noised and denoised again, which corrects and costs steps; 0 has the fewest jumps.
    """

    steps: int = 64
    grid: str = "even"
    corrector: float = 0.0

    def run(self, run: Run) -> None:
        c = run.den.corruption
        if not isinstance(c, Absorbing | Uniform):
            raise ValueError(f"{c} has a noise that changes over time: Flow is for Absorbing, Uniform and Marginal")
        times = run.times(self.grid, self.steps)
        for i, ((t, s), (a_t, a_s)) in enumerate(zip(pairwise(times), pairwise(self._alpha(c, times)), strict=True), 1):
            u = (a_s - a_t) / (1 - a_t)
            v = 1 - ((1 - a_s) / a_s * a_t / (1 - a_t)) ** self.corrector
            x0, jump = categorical(run.logp(t).exp(), run.u(i, "value")), run.u(i, "jump")
            new = torch.where(jump < v + (1 - v) * u, x0, run.x)
            new = torch.where(jump < v, c.corrupt(x0, s, run.u(i, "fresh")), new)
            run.x = torch.where(run.free, new, run.x)

    @staticmethod
    def _alpha(c: Absorbing | Uniform, times: Sequence[float]) -> list[float]:
        return c.levels(torch.tensor(times, dtype=torch.float64))[0].tolist()
