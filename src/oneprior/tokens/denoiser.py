"""A token denoiser returns log p(x_0^l | x_t), the full posterior of each token, whatever its network means.

Two things are called "x_0 prediction". Cross-entropy trains p_j = p(x_0 = j | all of x_t); bounds that plug the network
into q(x_s | x_t, x_0) train l_j = p(x_0 = j | x_t but for this token). They agree on masks and nowhere else:
    p_j ~ l_j q(z | j),   l_j ~ p_j / q(z | j).
A symbol with q(z | j) = 0 gets no mass: what is certain (a token at time 0, one that an absorbing corruption left
visible) is copied, and the mask is never data (MDLM's rules, Sahoo et al. 2024, which here follow from Bayes' rule).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from oneprior.denoiser import Facts
from oneprior.times import Time, check_axes
from oneprior.tokens.chain import Corruption

Convention = Literal["posterior", "loo"]
NEVER = -1e4  # exp of it is 0 in every type, and unlike -inf it has a gradient and survives a row of its own


class TokenModel(nn.Module, ABC):
    """Abstract: declares `forward`. What samplers ask: log p of x_0, and the law of a step.

    corruption: the chain it undoes. timed: whether its answer depends on t beyond what the corruption says of it.
    facts: as of any denoiser; facts.null are the condition values that stand for "no condition".
    """

    corruption: Corruption
    timed: bool
    facts: Facts

    @abstractmethod
    def forward(self, x: Tensor, t: Time, *, rows: Tensor | None = None, **cond: Any) -> Tensor:
        """log p(x_0 | x_t), (B, L, V), in float64; with `rows`, integers (B, k), of those positions only: (B, k, V)."""

    def step(self, x: Tensor, t: Time, s: Time, **cond: Any) -> Tensor:
        """The law (B, L, V) of x_s given x_t = x, token by token; exact for any s < t."""
        return self.corruption.reverse(self(x, t, **cond).exp(), x, t, s)


class TokenDenoiser(TokenModel):
    """den(x, t, **cond) -> log p (B, L, V) in float64, from a network net(x, t, **cond) -> logits (B, L, V).

    x (B, L) integers; t a float, (B,), or (B, L) for networks with facts.time_axes = 1. convention: what the softmax of
    the network means, "posterior" (trained by cross-entropy) or "loo" (UDLM, GIDD, multinomial diffusion).
    timed: whether the network is asked with t; an absorbing one need not know it (Zheng et al. 2024).
    rows, positions (B, k): all is done for these alone, in the network too if it says `takes_rows = True`.

    Example:
        >>> den = TokenDenoiser(net, Absorbing(28), timed=False)

    Raises:
        ValueError: for tokens outside the vocabulary or not (B, L), a time finer than the network knows, logits of
            another size, or a token that cannot occur at its time.
    """

    def __init__(
        self,
        net: nn.Module,
        corruption: Corruption,
        convention: Convention = "posterior",
        *,
        timed: bool = True,
        facts: Facts | None = None,
    ) -> None:
        super().__init__()
        if convention not in get_args(Convention):
            raise ValueError(f"convention '{convention}' is not known; one of {get_args(Convention)} was expected")
        self.net, self.corruption, self.convention, self.timed = net, corruption, convention, timed
        self.facts = replace(facts or Facts(), prediction=convention)

    def forward(self, x: Tensor, t: Time, *, rows: Tensor | None = None, **cond: Any) -> Tensor:
        self._check(x)
        if rows is not None and getattr(self.net, "takes_rows", False):
            cond["rows"] = rows
        logits = self.logits(x, t, **cond)
        shape = (*cond.get("rows", x).shape, self.corruption.vocab)
        if tuple(logits.shape) != shape:
            raise ValueError(
                f"the network gave {tuple(logits.shape)} for tokens {tuple(x.shape)}: {shape} was expected, one logit "
                f"a symbol of the vocabulary of {self.corruption.vocab}, the mask included"
            )
        if rows is not None:
            logits = logits if "rows" in cond else logits[torch.arange(len(x), device=x.device)[:, None], rows]
            x, t = x.gather(1, rows), at_rows(t, x, rows)
        q = self.corruption.likelihood(x, t)
        if q.is_cpu and not bool((q > 0).any(-1).all()):
            raise ValueError(f"a token that {self.corruption} cannot have led to at its time, as a mask at time 0")
        logp = logits.double().clamp(min=NEVER)
        if self.convention == "loo":
            logp = logp + q.clamp(min=1e-300).log()
        return logp.masked_fill(q <= 0, 2 * NEVER).log_softmax(-1)

    def logits(self, x: Tensor, t: Time, **cond: Any) -> Tensor:
        """What the network says, in its own precision."""
        return self.net(x, self._asked(x, t), **cond) if self.timed else self.net(x, **cond)

    def _check(self, x: Tensor) -> None:
        V = self.corruption.vocab
        if x.ndim != 2 or not x.numel():
            raise ValueError(f"tokens (B, L), one of each at least, were expected; {tuple(x.shape)} came")
        if x.is_floating_point() or (x.is_cpu and not (int(x.min()) >= 0 and int(x.max()) < V)):
            raise ValueError(f"tokens are integers in [0, {V}); {x.dtype} from {x.min()} to {x.max()} came")

    def _asked(self, x: Tensor, t: Time) -> Tensor:
        own = next(self.net.parameters(), None)  # an oracle has no weights and is told the time in full
        t = t if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64)
        t = check_axes(t if t.ndim else t[None], x, self.facts.time_axes)
        t = t.to(x.device, torch.float32 if own is not None else torch.float64)
        return t.expand(x.shape[0], *t.shape[1:])


def at_rows(t: Time, x: Tensor, rows: Tensor) -> Time:
    """The time of tokens x (B, L) at positions `rows` (B, k) of each."""
    if not isinstance(t, Tensor) or t.ndim < 2 or t.shape[1] == 1:
        return t
    return t.expand(x.shape).gather(1, rows)


class TokenWrapper(TokenModel):
    """Abstract: a token denoiser that holds another one, `inner`, and changes what it says. No density any more."""

    def __init__(self, inner: TokenModel) -> None:
        super().__init__()
        self.inner, self.corruption, self.timed = inner, inner.corruption, inner.timed
        self.facts = replace(inner.facts, density=False)
