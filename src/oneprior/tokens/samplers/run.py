"""One run of a sampler of tokens: its state, grids of times, and where uniform numbers come from.

Uniform numbers have an address (seed, step, name), and one for each position: sample i depends on seeds[i] alone, and a
longer sequence begins as a shorter one does.
"""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, pi
from typing import Any

import torch
from torch import Tensor

from oneprior.paths import Hold
from oneprior.times import Time
from oneprior.tokens.corruptions import Absorbing
from oneprior.tokens.denoiser import TokenModel
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
    """The state x (B, L), which tokens are free to change, and how things stand: free tokens began at time `begin`, the
    others are at `still`, a time or a tensor (B, L) of them."""

    den: TokenModel
    x: Tensor
    free: Tensor
    coins: Coins
    cond: dict[str, Any]
    begin: float = 1.0
    still: Tensor | float = 0.0
    clamped: Tensor | None = None
    """tokens (B, L) at time 0 of which the held ones are noised anew at every time"""

    @property
    def masked(self) -> Tensor:
        return (self.x == self.den.corruption.mask) & self.free

    def times(self, grid: str, steps: int) -> list[float]:
        return [self.begin * t for t in times(grid, steps)]

    def u(self, stage: int, name: str) -> Tensor:
        return self.coins(stage, name, tuple(self.x.shape[1:])).to(self.x.device)

    def at(self, t: Time) -> Time:
        """t for free tokens and `still` for the others, where a network must know: if masks are the only noise, a
        visible token is certain, and a network with one time a sequence is told that of the free tokens."""
        alone = isinstance(self.den.corruption, Absorbing) and self.den.facts.time_axes == 0
        if alone or self.clamped is not None or bool(self.free.all()):
            return t
        t, still = (torch.as_tensor(v, dtype=torch.float64, device=self.x.device) for v in (t, self.still))
        return torch.where(self.free, t[:, None] if t.ndim == 1 else t, still)

    def logp(self, t: Time, rows: Tensor | None = None) -> Tensor:
        return self.den(self.x, self.at(t), rows=rows, **self.cond)

    def settled(self, new: Tensor, s: float, stage: int) -> Tensor:
        """`new` where tokens are free, else what is held: as it is, or, where clamped, at the noise of time s."""
        held = self.x
        if self.clamped is not None:
            held = self.den.corruption.corrupt(self.clamped, s, self.u(stage, "clamp"))
        return torch.where(self.free, new, held)

    def put(self, rows: Tensor, token: Tensor, where: Tensor) -> None:
        """`token` (B, k) at positions `rows` (B, k) where `where` (B, k) is true."""
        self.x = self.x.scatter(1, rows, torch.where(where, token, self.x.gather(1, rows)))


def rows_of(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Positions (B, k) where mask (B, L) is true, padded to the most a sample has, and which of them are no padding."""
    k = max(1, int(mask.sum(1).max()))
    rows = mask.byte().argsort(dim=1, descending=True, stable=True)[:, :k]
    return rows, mask.gather(1, rows)


@dataclass(frozen=True)
class TokenSampler(ABC):
    """Abstract: declares `run`. sampler(den, (B, L), seeds=...) -> tokens (B, L) at time 0.

    hold: `Hold(value, mask)`, tokens (B, L) or (L,) to keep where mask is true: they are at time 0 throughout, so the
    others are drawn given them. Corruptions that replace tokens need a denoiser with facts.time_axes = 1 for that; with
    one time a sample, `Ancestral` takes Hold(value, mask, clamp=True), which noises what is held anew at every step
    (RePaint's replacement in VQ-DDM): biased by about one over the root of the steps, where a held mask is exact.
    start, time: tokens (B, L) to go on from, at time `time` in (0, 1], instead of noise. With an absorbing corruption
    its masks are holes to fill, and its visible tokens stay.

    Example:
        >>> x = FirstHitting()(den, (8, 64), seeds=range(8))

    Raises:
        ValueError: when seeds, start or held tokens do not fit the shape or the vocabulary, nothing is left to draw, or
            the corruption is not one the sampler is for.
    """

    @abstractmethod
    def run(self, run: Run) -> None:
        """Bring run.x from time run.begin to time 0."""

    @property
    def clamps(self) -> bool:
        """Whether Hold(clamp=True) is heeded."""
        return False

    def __call__(
        self,
        den: TokenModel,
        shape: tuple[int, int],
        *,
        seeds: Sequence[int] | None = None,
        hold: Hold | None = None,
        start: Tensor | None = None,
        time: float = 1.0,
        **cond: Any,
    ) -> Tensor:
        coins = Coins(seeds if seeds is not None else [secrets.randbits(63) for _ in range(shape[0])])
        if len(shape) != 2 or min(shape) < 1 or len(coins.seeds) != shape[0]:
            raise ValueError(f"{len(coins.seeds)} seeds for {shape} tokens: shape (B, L) and one seed a sample")
        if not 0 < time <= 1:
            raise ValueError(f"time = {time}: the time of `start` is in (0, 1]")
        device = next(den.parameters(), torch.empty(0)).device
        if start is None:
            x = categorical(den.corruption.start().to(device), coins(0, "start", shape[1:]).to(device))
        else:
            x = _fit(start, den.corruption.vocab, shape, "start").to(device)
        free = torch.ones_like(x, dtype=torch.bool)
        if hold is not None:
            x, free = _held(hold, x, den.corruption.mask, den.corruption.vocab)
        run = Run(den, x, free, coins, cond, time)
        if hold is not None and hold.clamp:
            if not self.clamps:
                raise ValueError(f"{self} holds tokens at time 0 only: leave clamp out, or take Ancestral()")
            run.clamped = x
            run.x = run.settled(x, time, 0)
        with torch.no_grad():
            self.run(run)
        return run.x

    def _absorbing(self, run: Run) -> Absorbing:
        if not isinstance(run.den.corruption, Absorbing):
            raise ValueError(
                f"{self} is for an absorbing corruption; this one is {run.den.corruption}: use Ancestral()"
            )
        return run.den.corruption


def _fit(value: Any, vocab: int, shape: Sequence[int], name: str) -> Tensor:
    v = torch.as_tensor(value)
    fits = v.ndim <= len(shape) and all(n in (1, m) for n, m in zip(v.shape[::-1], list(shape)[::-1], strict=False))
    if not v.numel() or not fits or v.is_floating_point() or not 0 <= int(v.min()) <= int(v.max()) < vocab:
        what = f"{v.dtype} of shape {tuple(v.shape)}" + (f" from {v.min()} to {v.max()}" if v.numel() else "")
        raise ValueError(f"{name} is {what}: integers in [0, {vocab}) that fit {tuple(shape)} were expected")
    return v.expand(tuple(shape)).long()


def _held(hold: Hold, x: Tensor, mask: int | None, vocab: int) -> tuple[Tensor, Tensor]:
    if hold.time:
        raise ValueError("tokens are held at time 0: Hold(value, mask) without a time was expected")
    kept = torch.as_tensor(hold.mask, device=x.device).expand(x.shape)
    value = _fit(hold.value, vocab, x.shape, "the held value").to(x.device)
    if bool(kept.all()):
        raise ValueError("every token is held: nothing is left to draw")
    if bool((kept & (value == mask)).any()):
        raise ValueError(f"the mask, symbol {mask}, is held somewhere: it is no data, leave it out of Hold's mask")
    return torch.where(kept, value, x), ~kept
