"""What a token network is trained on: one of the bounds or weightings of `objective`, in nats a token.

    masks       L E_{n ~ U{1..L}} mean over n masked tokens of -log p(x_0 | x), n stratified over samples (Zheng et al.
                2024): the bound of every absorbing schedule, without a weight that is singular.
    bound       the continuous-time bound at t ~ U(lo, hi), any corruption.
    ce          plain cross-entropy over all tokens, auxiliary to the others: consistent with "posterior" only.
    dynamic     GIDD's level-headed weights.
    finite      KL of one step's laws out of T, with the auxiliary cross-entropy 2 - t of VQ-Diffusion (Gu et al. 2021).
A time law gives t; the numbers that a Gaussian objective takes for noise are uniform here and say which tokens change.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from oneprior.times import TimeLaw, Uniform
from oneprior.tokens.corruptions import Absorbing
from oneprior.tokens.denoiser import TokenDenoiser
from oneprior.tokens.objective import bound, cross_entropy, dynamic, kl


class TokenLoss(ABC):
    """Abstract: loss(den, x0, t, z, **cond) -> (B,) in nats a sequence, from z ~ q(x_t | x_0). law: of t."""

    law: ClassVar[TimeLaw] = Uniform(1e-3, 1 - 1e-3)  # the continuous-time integrand may be infinite at the ends

    @abstractmethod
    def __call__(self, den: TokenDenoiser, x0: Tensor, t: Tensor, z: Tensor, **cond: Any) -> Tensor: ...

    def corrupt(self, den: TokenDenoiser, x0: Tensor, t: Tensor, u: Tensor) -> Tensor:
        return den.corruption.corrupt(x0, t, u)


@dataclass(frozen=True)
class Masks(TokenLoss):
    """L times the mean cross-entropy over ceil(t L) masked tokens; the network is asked in its own precision."""

    law: ClassVar[TimeLaw] = Uniform()

    def corrupt(self, den: TokenDenoiser, x0: Tensor, t: Tensor, u: Tensor) -> Tensor:
        L, mask = x0.shape[1], den.corruption.mask
        if not isinstance(den.corruption, Absorbing) or mask is None:
            raise ValueError(
                f"the loss 'masks' is for an absorbing corruption; this one is {den.corruption}: use bound"
            )
        n = (t.reshape(len(t), -1)[:, :1] * L).ceil().clamp(1, L)
        return x0.masked_fill(u.argsort(1).argsort(1) < n, mask)

    def __call__(self, den: TokenDenoiser, x0: Tensor, t: Tensor, z: Tensor, **cond: Any) -> Tensor:
        masked = z == den.corruption.mask
        logits = den.logits(z, t, **cond)[masked][:, :-1]  # the mask is never data
        row = masked.nonzero()[:, 0]
        ce = F.cross_entropy(logits.float(), x0[masked], reduction="none")
        total = ce.new_zeros(len(x0)).index_add_(0, row, ce)
        return x0.shape[1] * total / masked.sum(1)


@dataclass(frozen=True)
class Bound(TokenLoss):
    """The continuous-time bound, with `auxiliary` times the plain cross-entropy."""

    auxiliary: float = 0.0

    def __call__(self, den: TokenDenoiser, x0: Tensor, t: Tensor, z: Tensor, **cond: Any) -> Tensor:
        loss = bound(den, x0, t, z, **cond)
        return loss + self.auxiliary * cross_entropy(den, x0, t, z, **cond) if self.auxiliary else loss


@dataclass(frozen=True)
class CrossEntropy(TokenLoss):
    def __call__(self, den: TokenDenoiser, x0: Tensor, t: Tensor, z: Tensor, **cond: Any) -> Tensor:
        return cross_entropy(den, x0, t, z, **cond)


@dataclass(frozen=True)
class Dynamic(TokenLoss):
    def __call__(self, den: TokenDenoiser, x0: Tensor, t: Tensor, z: Tensor, **cond: Any) -> Tensor:
        return dynamic(den, x0, t, z, **cond)


@dataclass(frozen=True)
class Finite(TokenLoss):
    """T KL(q(x_s | x_t, x_0) || p(x_s | x_t)) at t = i / T above the drawn time, plus auxiliary (2 - t) CE."""

    steps: int = 100
    auxiliary: float = 5e-4
    law: ClassVar[TimeLaw] = Uniform()

    def corrupt(self, den: TokenDenoiser, x0: Tensor, t: Tensor, u: Tensor) -> Tensor:
        return den.corruption.corrupt(x0, self.step(t) / self.steps, u)

    def step(self, t: Tensor) -> Tensor:
        return (t.double() * self.steps).ceil().clamp(1, self.steps)

    def __call__(self, den: TokenDenoiser, x0: Tensor, t: Tensor, z: Tensor, **cond: Any) -> Tensor:
        c, i = den.corruption, self.step(t)
        t, s = i / self.steps, (i - 1) / self.steps  # in float64, or s is not 0 at the first step
        logp = den(z, t, **cond)
        loss = self.steps * kl(c.bridge(x0, z, t, s), c.reverse(logp.exp(), z, t, s)).sum(1)
        ce = -logp.gather(-1, x0[..., None])[..., 0].sum(1)
        return loss + self.steps * self.auxiliary * (2 - t) * ce


LOSSES: dict[str, TokenLoss] = {
    "masks": Masks(),
    "bound": Bound(),
    "ce": CrossEntropy(),
    "dynamic": Dynamic(),
    "finite": Finite(),
}


class TokenObjective(nn.Module):
    """objective(den, x0, t, u, **cond) -> (B,) nats a token, as the trainer asks it; u (B, L) uniform in [0, 1).

    law: from which t is drawn, by default that of the loss.

    Example:
        >>> Trainer(den, TokenObjective(), text("kjv"), settings=settings)
    """

    def __init__(self, loss: TokenLoss | None = None, law: TimeLaw | None = None) -> None:
        super().__init__()
        self.loss = loss or Masks()
        self.law = law or self.loss.law

    def forward(self, den: TokenDenoiser, x0: Tensor, t: Tensor, u: Tensor, **cond: Any) -> Tensor:
        z = self.loss.corrupt(den, x0, t, u)
        return self.loss(den, x0, t, z, **cond) / x0.shape[1]
