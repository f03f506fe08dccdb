"""What a corruption of tokens answers, and what follows from it by Bayes' rule: the law of a step back.

With q(x_t | x_0) and lik(k) = q(x_t = z | x_s = k) at hand, p_j = p(x_0 = j | x_t) a full posterior and r_j =
p_j / q(z | j), the reverse is a mixture of bridges over p (Austin et al. 2021, D3PM; Hoogeboom et al. 2021):
    p(x_s = k | x_t = z) = lik(k) sum_j q(x_s = k | j) r_j;
the leave-one-out posterior is l = r / sum r, and the ratios of a score are s_k = sum_j q(x_t = k | j) r_j (SEDD).
Everything is in float64 and no array is larger than one law a token.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from oneprior.times import Time, align
from oneprior.tokens.draw import categorical
from oneprior.tokens.part import TokenPart


@dataclass(frozen=True)
class Corruption(ABC):
    """Abstract: a Markov chain over symbols. vocab: number of symbols V, the mask included; tokens are integers (B, L).

    Times are `Time`s: a float, (B,), or (B, L) a time a token. Laws have the shape of the tokens and an axis V.
    """

    vocab: int

    @property
    def mask(self) -> int | None:
        """The symbol that says nothing, the last one, or None where there is none."""
        return self.vocab - 1

    @abstractmethod
    def start(self) -> Tensor:
        """The law (V,) of a token at time 1, from which a sampler starts."""

    @abstractmethod
    def push(self, w: Tensor, t: Time) -> Tensor:
        """sum_j q(x_t = k | x_0 = j) w_j of weights w (B, L, V)."""

    @abstractmethod
    def likelihood(self, z: Tensor, t: Time) -> Tensor:
        """q(x_t = z | x_0 = j) for every symbol j, (B, L, V); 0 for the mask, which is never data."""

    @abstractmethod
    def forward(self, z: Tensor, t: Time, s: Time) -> Tensor:
        """lik(k) = q(x_t = z | x_s = k) for every state k, (B, L, V); s <= t."""

    @abstractmethod
    def corrupt(self, x0: Tensor, t: Time, u: Tensor) -> Tensor:
        """A draw of x_t from uniform numbers u in [0, 1) of the shape of x0."""

    @abstractmethod
    def rates(self, z: Tensor, t: Time) -> Tensor:
        """Rate (B, L, V) of the forward chain from each state k into z, 0 at k = z; t with alpha_t > 0."""

    def q(self, x0: Tensor, t: Time) -> Tensor:
        """q(x_t | x_0), (B, L, V)."""
        return self.push(self._hot(x0), t)

    def reverse(self, p: Tensor, z: Tensor, t: Time, s: Time) -> Tensor:
        """The law (B, L, V) of x_s given x_t = z, from the full posterior p (B, L, V) of x_0; exact for any s < t."""
        return self.forward(z, t, s) * self.push(self._ratio(p, z, t), s)

    def bridge(self, x0: Tensor, z: Tensor, t: Time, s: Time) -> Tensor:
        """q(x_s | x_t = z, x_0), (B, L, V)."""
        return self.reverse(self._hot(x0), z, t, s)

    def to_loo(self, p: Tensor, z: Tensor, t: Time) -> Tensor:
        """Leave-one-out p(x_0 | x_t elsewhere) from the full posterior; where z says all, it is all there is to say."""
        r = self._ratio(p, z, t)
        return r / r.sum(-1, keepdim=True)

    def from_loo(self, l: Tensor, z: Tensor, t: Time) -> Tensor:  # noqa: E741 (the letter of the papers)
        """The full posterior p_j ~ l_j q(z | j) from the leave-one-out one."""
        p = l * self.likelihood(z, t)
        return p / p.sum(-1, keepdim=True)

    def score(self, p: Tensor, z: Tensor, t: Time) -> Tensor:
        """s_k = p_t(x with z -> k) / p_t(x), 1 at k = z (SEDD, Lou et al. 2024), from the full posterior."""
        return self.push(self._ratio(p, z, t), t)

    # what a walk asks of a part of tokens, as it asks `Schedule`s of tensors

    def part(self, *args: Any) -> TokenPart:
        """Tokens on their way in `sampling.walk`, beside parts that are tensors."""
        return TokenPart(*args)

    def begin(self, like: Tensor, noise: Any, key: str) -> Tensor:
        """Tokens (B, L) at time 1."""
        return categorical(self.start().to(like.device), noise.uniform(0, like, key))

    def noised(self, x0: Tensor, t: float, noise: Any, key: str) -> Tensor:
        """A draw of x_t of known tokens x0 (B, L), which are looked at first."""
        if not bool(((x0 >= 0) & (x0 < self.vocab) & (x0 != (-1 if self.mask is None else self.mask))).all()):
            own = self.vocab - (self.mask is not None)
            raise ValueError(f"known '{key}' from {x0.min()} to {x0.max()}: integers in [0, {own}) were expected")
        return x0 if t == 0 else self.corrupt(x0, t, noise.uniform(-1, x0, key))

    def _ratio(self, p: Tensor, z: Tensor, t: Time) -> Tensor:
        q = self.likelihood(z, t)
        return torch.where(q > 0, p.double() / q.clamp(min=1e-300), 0.0)

    def _hot(self, x: Tensor) -> Tensor:
        return one_hot(x, self.vocab).double()


def clock(t: Time, like: Tensor) -> Tensor:
    """`t` in float64 with the axes of tokens `like` (B, L)."""
    t = align(t, like)
    return t.double() if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64, device=like.device)
