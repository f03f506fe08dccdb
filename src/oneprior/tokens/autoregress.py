"""Autoregression, the baseline of equal size: p(x) = prod_l p(x_l | x_<l) by a causal network of the same kind.

The network sees the tokens shifted by one, led by the mask, which is its last symbol: what it says at place l is the
law of token l. A token drawn costs one call on one token, as keys and values of earlier ones are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oneprior.times import Uniform
from oneprior.tokens.draw import Coins, categorical


class NextToken(nn.Module):
    """objective(net, x0, t, u, **cond) -> (B,) nats a token, as the trainer asks it: the mean of `next_token`.

    Example:
        >>> Trainer(net, NextToken(), text("kjv"), settings=settings)  # net of TokensConfig(..., causal=True)
    """

    def __init__(self) -> None:
        super().__init__()
        self.law = Uniform()

    def forward(self, net: nn.Module, x0: Tensor, t: Tensor, u: Tensor, **cond: Any) -> Tensor:
        return next_token(net, x0, **cond).mean(1)


def next_token(net: nn.Module, x: Tensor, **cond: Any) -> Tensor:
    """-log p(x_l | x_<l) of tokens (B, L), (B, L) in nats: the exact likelihood of a causal net."""
    logits = net(torch.cat((_lead(net, x), x[:, :-1]), 1), **cond)[..., :-1]
    return F.cross_entropy(logits.float().transpose(1, 2), x, reduction="none")


@torch.no_grad()
def autoregress(
    net: nn.Module,
    shape: tuple[int, int],
    *,
    seeds: Sequence[int],
    prompt: Tensor | None = None,
    temperature: float = 1.0,
    cache: bool = True,
    **cond: Any,
) -> Tensor:
    """Draw tokens (B, L) one after the other from a causal net, sample i from seeds[i] alone, in float64.

    prompt: tokens (P,) or (B, P) to begin with, P < L. cache: keep keys and values (`net(x, cache=...)`); False asks
    anew with all tokens, for networks without them, at L times the cost.

    Raises:
        ValueError: for seeds or a prompt that do not fit, or a temperature that is not above 0.
    """
    B, L = shape
    if len(seeds) != B or not temperature > 0:
        raise ValueError(f"{len(seeds)} seeds for {B} samples, temperature {temperature}: one each, above 0")
    device = next(net.parameters(), torch.empty(0)).device
    x = torch.zeros(B, 0, dtype=torch.long, device=device) if prompt is None else prompt.to(device).expand(B, -1)
    if x.shape[1] >= L:
        raise ValueError(f"the prompt has {x.shape[1]} tokens of {L}: nothing is left to draw")
    u, x, past = Coins(seeds)(0, "value", (L,)).to(device), torch.cat((_lead(net, x), x), 1), list[Any]()
    for at in range(x.shape[1] - 1, L):
        logits = net(x[:, -1:] if past else x, cache=past, **cond) if cache else net(x, **cond)
        law = (logits[:, -1, :-1].double() / temperature).softmax(-1)
        x = torch.cat((x, categorical(law, u[:, at])[:, None]), 1)
    return x[:, 1:]


def _lead(net: Any, x: Tensor) -> Tensor:
    return x.new_full((len(x), 1), net.config.vocab - 1)
