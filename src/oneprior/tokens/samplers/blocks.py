"""Samplers made of samplers: block after block, and a correction of what came out.

Blocks: p(x) = prod_b p(x_b | x_<b), each factor by any sampler with clocks of its own (BD3-LM, Arriola et al. 2025;
LLaDA, Nie et al. 2025). Self-correction: draw each token from p(x_0^l | the others), accept the surest change, repeat
until none is wanted (GIDD, von Ruette et al. 2025).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from oneprior.tokens.corruptions import Absorbing
from oneprior.tokens.draw import categorical
from oneprior.tokens.samplers.order import FirstHitting
from oneprior.tokens.samplers.run import Run, TokenSampler

EACH = FirstHitting()


@dataclass(frozen=True)
class Blocks(TokenSampler):
    """Blocks of `size` tokens from left to right, each by `inner` given the finished ones.

    ahead: False shows the network no token beyond the block (BD3-LM), so cost grows with what is written; True shows
    the whole sequence, later blocks as noise (LLaDA: Blocks(32, Confidence(32, "drawn", greedy=True), ahead=True)).

    Example:
        >>> x = Blocks(16, FirstHitting())(den, (8, 64), seeds=range(8))
    """

    size: int = 32
    inner: TokenSampler = EACH
    ahead: bool = False

    def run(self, run: Run) -> None:
        if self.size < 1:
            raise ValueError(f"size = {self.size}: blocks of one token or more were expected")
        length = run.x.shape[1]
        place = torch.arange(length, device=run.x.device)
        for first in range(0, length, self.size):
            last = min(first + self.size, length)
            end = length if self.ahead else last
            free = run.free & (place >= first) & (place < last)
            if not bool(free.any()):
                continue
            still = (run.free & (place >= last)).double() * run.begin
            block = replace(run, x=run.x[:, :end], free=free[:, :end], still=still[:, :end])
            self.inner.run(block)
            run.x = torch.cat([block.x, run.x[:, end:]], 1)


@dataclass(frozen=True)
class SelfCorrection(TokenSampler):
    """`inner`, or what `start` holds, and then at most `rounds` calls that change one token each, the surest of those
    that a draw at `temperature` (0: the likeliest symbol) wants otherwise. Ends when none does: a mode-seeking rule.

    noise: the time the network is asked at; the corruption must replace tokens, or no visible one is doubted.
    """

    inner: TokenSampler | None = None
    rounds: int = 32
    temperature: float = 0.0
    noise: float = 0.1

    def run(self, run: Run) -> None:
        c = run.den.corruption
        if isinstance(c, Absorbing):
            raise ValueError(f"under {c} a visible token is certain: SelfCorrection needs one that replaces tokens")
        if self.inner is not None:
            self.inner.run(run)
        live = run.free
        for i in range(1, self.rounds + 1):
            others = c.to_loo(run.logp(self.noise).exp(), run.x, run.at(self.noise))
            new = others.argmax(-1)
            if self.temperature:
                new = categorical(others ** (1 / self.temperature), run.u(i, "correct"))
            wanted = (new != run.x) & live
            live = live & wanted.any(1, keepdim=True)  # a sample ends by itself, whatever the batch
            if not bool(live.any()):
                return
            at = others.gather(-1, new[..., None])[..., 0].masked_fill(~wanted, -1).argmax(1, keepdim=True)
            run.put(at, new.gather(1, at), wanted.gather(1, at))
