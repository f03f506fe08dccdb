"""Exact laws of short token sequences: p(x_0) as a table, so posterior, likelihood and draws follow by enumeration.

    p(x_0^l = j | x_t) ~ sum over sequences n with n_l = j of P(n) prod_i q(x_t^i | n_i),
and without the factor i = l the leave-one-out law. K^L sequences are visited: K = 4, L = 6 is a matter of milliseconds.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Likelihood(Protocol):
    """What of a corruption an exact law asks for."""

    def likelihood(self, z: Tensor, t: Any) -> Tensor: ...


class TokenLaw:
    """A joint law of L tokens: table with L axes of size K, probabilities of sequences (normalised here).

    Example:
        >>> pair = TokenLaw(torch.eye(2))  # AA or BB, half each
        >>> den = TokenDenoiser(pair.net(Absorbing(3)), Absorbing(3))
    """

    def __init__(self, table: Tensor) -> None:
        if table.ndim < 1 or len(set(table.shape)) != 1 or bool((table < 0).any()) or float(table.sum()) <= 0:
            raise ValueError(f"probabilities with L axes of one size were expected, a table {tuple(table.shape)} came")
        self.table = table.double() / table.double().sum()
        self.symbols, self.length = table.shape[0], table.ndim
        self.sequences = torch.cartesian_prod(*[torch.arange(self.symbols)] * self.length).reshape(-1, self.length)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) in nats, (B,), of sequences (B, L) of data symbols."""
        return self.table[tuple(x.T)].log()

    def posterior(self, likelihood: Tensor, loo: bool = False) -> Tensor:
        """p(x_0^l = j | x_t) as (B, L, V) from likelihood[b, l, j] = q(x_t^l | x_0^l = j); 0 for symbols without data.

        loo: from all tokens but l. Where x_t is impossible under the law, the marginal law of each token.
        """
        B, L, V = likelihood.shape
        each = torch.stack([likelihood[:, i, self.sequences[:, i]] for i in range(L)], -1)  # (B, N, L)
        prior = self.table.flatten()
        out = likelihood.new_zeros(B, L, V)
        for i in range(L):
            among = [k for k in range(L) if not (loo and k == i)]
            w = prior * each[:, :, among].prod(-1)
            w = torch.where(w.sum(1, keepdim=True) > 0, w, prior)
            out[:, i].index_add_(1, self.sequences[:, i], w / w.sum(1, keepdim=True))
        return out

    def net(self, corruption: Likelihood, loo: bool = False) -> TokenOracle:
        """The network that training would end at: net(x, t) -> logits (B, L, V)."""
        return TokenOracle(self, corruption, loo)


class TokenOracle(nn.Module):
    """log p(x_0 | x_t), full posterior or leave-one-out; `calls` counts the questions asked."""

    def __init__(self, law: TokenLaw, corruption: Likelihood, loo: bool) -> None:
        super().__init__()
        self.law, self.corruption, self.loo, self.calls = law, corruption, loo, 0

    def forward(self, x: Tensor, t: Any) -> Tensor:
        self.calls += 1
        return self.law.posterior(self.corruption.likelihood(x, t), self.loo).log()
