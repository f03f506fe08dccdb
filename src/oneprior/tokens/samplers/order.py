"""Masks lifted one after the other: in the order of chance, which simulates the absorbing process exactly, or of
confidence, which seeks the mode.

First hitting: each token has a clock h ~ U(0, 1) and is revealed when the share of masks 1 - alpha has fallen to h, one
call an event (Zheng et al. 2024). In any order one drawn token a call has the data law with an exact denoiser; tokens
drawn together are as if independent.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from oneprior.tokens.draw import categorical
from oneprior.tokens.samplers.run import Run, TokenSampler, rows_of, times


@dataclass(frozen=True)
class FirstHitting(TokenSampler):
    """The continuous-time absorbing process itself: `per_call` tokens a network call, in descending order of clocks.

    per_call = 1 is exact, and costs as many calls as there are holes; more are drawn as if independent, and then
    extrapolate: each at its own clock, linearly from the last two calls, at no further call;
    correct: a second call a block, for which every second token of it is masked again and drawn given the others.
    """

    per_call: int = 1
    extrapolate: bool = False
    correct: bool = False

    def run(self, run: Run) -> None:
        keep, k = self._absorbing(run).keep, self.per_call
        if k < 1:
            raise ValueError(f"per_call = {k}: 1 token a call or more was expected")
        clocks = torch.where(run.masked, run.u(1, "clock"), -1.0)  # the others come last, and are never revealed
        begin = 1 - float(keep.alpha(torch.tensor(run.begin, dtype=torch.float64)))
        order, values, holes = clocks.argsort(1, descending=True), run.u(1, "value"), clocks >= 0
        clocks = clocks.clamp(min=1e-9) * begin
        old: Tensor | None = None
        before = clocks[:, :1]
        for i in range(0, int(holes.sum(1).max()), k):
            at, ahead = order[:, i : i + k], order[:, i : i + (2 * k if self.extrapolate else k)]
            tau = keep.time(1 - clocks.gather(1, at))  # (B, k), the first is the time of the call
            p = run.logp(tau[:, 0], ahead).exp()
            law = p[:, : at.shape[1]]
            if old is not None and self.extrapolate:
                w = ((tau[:, :1] - tau) / (before - tau[:, :1]).clamp(min=1e-12)).clamp(max=1)
                law = (law + w[..., None] * (law - old[:, : at.shape[1]])).clamp(min=0)
            old, before = p[:, at.shape[1] :], tau[:, :1]
            hole = holes.gather(1, at)
            run.put(at, categorical(law, values.gather(1, at)), hole)
            again = hole & (torch.arange(at.shape[1], device=at.device) % 2 == 1)
            if self.correct and bool(again.any()):
                run.put(at, torch.full_like(at, run.den.corruption.vocab - 1), again)
                law = run.logp(tau[:, -1], at).exp()
                run.put(at, categorical(law, run.u(2, "value").gather(1, at)), again)


SCORES = {  # of clean probabilities and the symbols drawn from them; logarithms where noise is to be added
    "prob": lambda p, token: p.max(-1).values.log(),
    "drawn": lambda p, token: p.gather(-1, token[..., None])[..., 0].log(),
    "entropy": lambda p, token: torch.special.entr(p).sum(-1).neg(),
    "margin": lambda p, token: p.topk(2, -1).values.diff(dim=-1)[..., 0].neg().log(),
}


@dataclass(frozen=True)
class Confidence(TokenSampler):
    """The surest masked tokens first, in at most `steps` calls (MaskGIT, Chang et al. 2022; LLaDA): a law of its own.

    score: "prob", "drawn" (the probability of the symbol drawn), "entropy" or "margin", of the clean probabilities.
    grid: how many stay masked. greedy: the likeliest symbol instead of a draw. More are revealed where their largest
    probability is above `threshold`, and the n surest where the n-th is at least 1 - factor / (n + 1) (Fast-dLLM; with
    as many steps as tokens these rules alone decide). noise: so much Gumbel noise on log score, `anneal`ed to 0 over
    the steps (MaskGIT: Confidence(8, "drawn", grid="cosine", noise=4.5, anneal=True)); 1 draws positions in proportion
    to score. sharpen: symbols from p^(1 + sharpen score / largest score); the purity prior of improved VQ-Diffusion
    (Tang et al. 2022) is Confidence(noise=1, sharpen=1).
    """

    steps: int = 16
    score: str = "prob"
    threshold: float = 1.0
    greedy: bool = False
    grid: str = "even"
    factor: float = 0.0
    noise: float = 0.0
    anneal: bool = False
    sharpen: float = 0.0

    def run(self, run: Run) -> None:
        keep, holes = self._absorbing(run).keep, run.masked.sum(1)
        if self.score not in SCORES:
            raise ValueError(f"score '{self.score}' is not known; one of {list(SCORES)} was expected")
        for i, share in enumerate(times(self.grid, self.steps)[1:], 1):
            masked = run.masked
            if not bool(masked.any()):
                return
            rows, hole = rows_of(masked)
            seen = (run.x == run.den.corruption.mask).double().mean(1)  # it is told the share of masks it sees
            p = run.logp(keep.time(1 - seen.clamp(min=1e-9)), rows).exp()
            top = p.max(-1).values.masked_fill(~hole, 0)
            law = p
            if self.sharpen:
                law = p ** (1 + self.sharpen * top / top.max(1, keepdim=True).values.clamp(min=1e-300))[..., None]
            token = p.argmax(-1) if self.greedy else categorical(law, run.u(i, "value").gather(1, rows))
            score = SCORES[self.score](p, token)
            if self.noise:
                u = run.u(i, "order").gather(1, rows).clamp(min=1e-300)
                score = score - self.noise * (1 - i / self.steps if self.anneal else 1) * torch.log(-torch.log(u))
            score = score.masked_fill(~hole, -torch.inf)
            rank = score.argsort(dim=1, descending=True, stable=True).argsort(1)
            left = (holes * share).floor().long()
            count = torch.maximum((masked.sum(1) - left).clamp(min=1), self._surest(top))[:, None]
            run.put(rows, token, hole & ((rank < count) | (top > self.threshold)))

    def _surest(self, top: Tensor) -> Tensor:
        n = torch.arange(1, top.shape[1] + 1, device=top.device)
        good = top.sort(dim=1, descending=True).values >= 1 - self.factor / (n + 1)
        return (good * n).max(1).values if self.factor else torch.zeros_like(good[:, 0], dtype=torch.long)
