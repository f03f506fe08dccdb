"""Samplers of tokens by name: what `prior.sample(sampler=...)` and the command line take."""

from __future__ import annotations

from collections.abc import Callable

from oneprior.tokens.corruptions import Absorbing
from oneprior.tokens.denoiser import TokenModel
from oneprior.tokens.samplers import (
    Ancestral,
    Blocks,
    Confidence,
    FirstHitting,
    Flow,
    Loop,
    Remask,
    TauLeap,
    TokenSampler,
)


def each(free: int, steps: int | None) -> int:
    """Tokens a call so that `free` tokens take at most `steps` calls; without steps one, which is exact."""
    return 1 if steps is None else -(-free // steps)


STEPS = 64
SAMPLERS: dict[str, Callable[[int, int | None], TokenSampler]] = {  # of how many tokens are free, and in how many steps
    "first-hitting": lambda free, steps: FirstHitting(each(free, steps)),
    "corrected": lambda free, steps: FirstHitting(each(free, steps and max(1, steps // 2)), correct=True),
    "blocks": lambda free, steps: Blocks(inner=FirstHitting(each(free, steps))),
    "ancestral": lambda free, steps: Ancestral(steps or STEPS),
    "split": lambda free, steps: Ancestral(steps or STEPS, draw="split"),
    "remask": lambda free, steps: Ancestral(steps or STEPS, draw="split", remask=Remask(cap=0.02, loop=Loop())),
    "confidence": lambda free, steps: Confidence(steps or STEPS),
    "maskgit": lambda free, steps: Confidence(steps or STEPS, "drawn", grid="cosine", noise=4.5, anneal=True),
    "purity": lambda free, steps: Confidence(steps or STEPS, noise=1.0, sharpen=1.0),
    "tau-leap": lambda free, steps: TauLeap(steps or STEPS),
    "flow": lambda free, steps: Flow(steps or STEPS),
}


def sampler(name: str | TokenSampler, den: TokenModel, free: int, steps: int | None = None) -> TokenSampler:
    """A sampler by name for `free` tokens to draw in `steps` network calls; steps None: exact where that can be.

    "auto": first hitting where masks are the only noise, else the exact step law on a grid, 64 steps by default.

    Raises:
        ValueError: for a name that is not known (all are listed), steps below 1, or steps beside a sampler that has
            its own.
    """
    if steps is not None and steps < 1:
        raise ValueError(f"steps = {steps}: 1 or more was expected")
    if isinstance(name, TokenSampler):
        if steps is not None:
            raise ValueError(f"steps = {steps}, but {name} has its own: leave steps out, or name a sampler")
        return name
    if name == "auto":
        name = "first-hitting" if isinstance(den.corruption, Absorbing) else "ancestral"
    if name not in SAMPLERS:
        raise ValueError(f"sampler '{name}' is not one of tokens; one of auto, {', '.join(SAMPLERS)} was expected")
    return SAMPLERS[name](max(1, free), steps)
