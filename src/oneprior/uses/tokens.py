"""Uses of a token denoiser: text with holes, and the bound on its likelihood.

    -log p(x) <= E_j [ nats at level j ],   j = 1..K levels, one a stratum of (0, 1)

A prompt is text in which `[32]` stands for 32 tokens to be drawn; without any, what is missing to the length follows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from oneprior.codecs import Text
from oneprior.paths import Hold
from oneprior.tokens import Absorbing, Coins, TokenDenoiser, bound, masked_bound, prior_term

HOLE = re.compile(r"(?<!\\)\[(\d+)\]")


def prompted(text: Text, prompt: str, length: int) -> Hold:
    """Tokens of a prompt and which of them are given: `Hold(value (L,), mask (L,))`; write \\[ for a bracket.

    Example:
        >>> hold = prompted(prior.codec, "In the beginning [32] light", 256)

    Raises:
        ValueError: for an empty prompt, a character without a symbol, or one longer than `length` tokens.
    """
    if not prompt:
        raise ValueError("the prompt is empty: leave it out to draw freely, or give text, such as 'In the [16] light'")
    ids, given = list[int](), list[bool]()
    for i, piece in enumerate(HOLE.split(prompt)):
        new = [0] * int(piece) if i % 2 else text.ids(piece.replace("\\[", "["))
        ids, given = ids + new, given + [i % 2 == 0] * len(new)
    if len(ids) > length:
        raise ValueError(f"the prompt has {len(ids)} tokens, its holes included; the context is {length}: shorten it")
    if all(given):
        more = length - len(ids)
        if not more:
            raise ValueError(f"the prompt fills the context of {length} tokens: nothing is left to draw")
        ids, given = ids + [0] * more, given + [False] * more
    return Hold(torch.tensor(ids), torch.tensor(given))


def integrand(den: TokenDenoiser, x0: Tensor, t: Tensor, u: Tensor, **cond: Any) -> Tensor:
    """Nats a sequence, (B,), whose mean over t (B,) and u (B, L), both uniform in (0, 1), bounds -log p(x_0 | cond).

    Masks and a network without time: the schedule-free form, exact in the number of masks, ceil(t L). Else the
    continuous-time bound with the prior's term; it is unbiased but for times within 1e-4 of the ends.
    """
    c, L = den.corruption, x0.shape[1]
    if isinstance(c, Absorbing) and not den.timed:
        n = (t[:, None] * L).ceil().clamp(1, L)
        return masked_bound(den, x0, x0.masked_fill(u.argsort(1).argsort(1) < n, c.vocab - 1), **cond)
    t = t.clamp(1e-4, 1 - 1e-4)
    return bound(den, x0, t, c.corrupt(x0, t, u), **cond) + prior_term(c, x0)


@torch.no_grad()
def nats(den: TokenDenoiser, x0: Tensor, draws: int = 8, seeds: Sequence[int] | None = None, **cond: Any) -> Tensor:
    """`integrand` at `draws` stratified levels of corruption, (B, draws): its mean over draws bounds -log p(x_0)."""
    if draws < 1:
        raise ValueError(f"draws = {draws}: one level of corruption or more was expected")
    coins, out = Coins(range(len(x0)) if seeds is None else seeds), []
    for j in range(draws):
        level = (j + coins(j, "level", (1,)).to(x0.device)) / draws
        out.append(integrand(den, x0, level[:, 0], coins(j, "which", tuple(x0.shape[1:])).to(x0.device), **cond))
    return torch.stack(out, 1)
