"""Small joint laws and their exact denoisers; the law of a chain, pushed through its steps without drawing anything."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from oneprior.exact import TokenLaw
from oneprior.tokens import Corruption, TokenDenoiser


def joint(symbols: int, length: int, seed: int = 0, concentration: float = 0.3) -> TokenLaw:
    table = np.random.default_rng(seed).gamma(concentration, size=(symbols,) * length)
    return TokenLaw(torch.from_numpy(table))


def exact(law: TokenLaw, corruption: Corruption, convention: str = "posterior", oracle: str = "") -> TokenDenoiser:
    """The exact denoiser; with `oracle` another convention than the declared one, the fault of mixing them."""
    net = law.net(corruption, loo=(oracle or convention) == "loo")
    return TokenDenoiser(net, corruption, convention)  # type: ignore[arg-type]


def states(symbols: int, length: int) -> Tensor:
    return torch.cartesian_prod(*[torch.arange(symbols)] * length).reshape(-1, length)


def product(law: Tensor, x: Tensor) -> Tensor:
    """prod_l law[b, l, x[n, l]] as (B, N): factorised laws (B, L, V) at sequences (N, L)."""
    out = law.new_ones(len(law), len(x))
    for i in range(x.shape[1]):
        out = out * law[:, i, x[:, i]]
    return out


def ancestral_law(den: TokenDenoiser, length: int, times: Iterable[float]) -> Tensor:
    """The law over all sequences of the ancestral chain on a grid, as a table of `length` axes of size V."""
    V, corruption = den.corruption.vocab, den.corruption
    x = states(V, length)
    times = list(times)
    start = corruption.q(torch.zeros(1, length, dtype=torch.long), times[0])
    now = product(start, x)[0]
    for t, s in pairwise(times):
        at = now > 0  # elsewhere may be what cannot occur at t
        now = now[at] @ product(corruption.reverse(den(x[at], t).exp(), x[at], t, s), x)
    return now.reshape((V,) * length)


def distance(p: Tensor, law: TokenLaw) -> float:
    """Total variation between a table over the vocabulary and a law over its data symbols."""
    want = torch.zeros_like(p)
    want[(slice(0, law.symbols),) * law.length] = law.table
    return 0.5 * (p - want).abs().sum().item()


def frequencies(x: Tensor, vocab: int) -> Tensor:
    code = torch.zeros(len(x), dtype=torch.long)
    for i in range(x.shape[1]):
        code = code * vocab + x[:, i]
    return (torch.bincount(code, minlength=vocab ** x.shape[1]) / len(x)).double().reshape((vocab,) * x.shape[1])
