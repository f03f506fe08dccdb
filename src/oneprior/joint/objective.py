"""What a joint denoiser is trained on: sum_i weight_i (mean over the elements of part i of its own loss).

A part of 3,072 pixels and one of a single label weigh the same before the weight. A part that is given (t_i = 0) has no
loss. The law of times is the design:
    Independent   a time for each part (UniDiffuser, Bao et al. 2023): conditionals, marginals, soft conditions
    Together      one time for all (ReDi, Kouzelis et al. 2025): joint samples; at times a part is left out
    Alone         the first part alone is shown and the others are read from it (MT-Diffusion, Chen et al. 2024)
The trainer sees one tensor a sample, all parts flattened behind one another (`pack`): what is true of its order,
noise and resumption is then true here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from oneprior.denoiser import NetworkDenoiser
from oneprior.joint.denoiser import JointDenoiser
from oneprior.objective import Objective
from oneprior.times import TimeLaw, Uniform, aligned
from oneprior.tokens import LOSSES, TokenDenoiser
from oneprior.tokens.losses import TokenLoss

EVEN = Uniform(1e-4, 1.0)


@dataclass(frozen=True)
class Independent(TimeLaw):
    """(B, parts) times, each its own draw of `law`; with probability `off` a part is left out (t = 1), with `clean` it
    is given (t = 0): the lines of the cube of times that marginals and conditionals are drawn along."""

    parts: int
    law: TimeLaw = EVEN
    off: float = 0.1
    clean: float = 0.2

    def shape(self, sample: tuple[int, ...]) -> tuple[int, ...]:
        return (2, self.parts)

    def __call__(self, u: Tensor) -> Tensor:
        t = self.law(u[:, 0].reshape(-1, 1)).reshape(-1, self.parts)
        coin = u[:, 1]
        return t.masked_fill(coin < self.off, 1.0).masked_fill(coin > 1 - self.clean, 0.0)


@dataclass(frozen=True)
class Together(TimeLaw):
    """(B, parts) times, one draw for all; with probability `off` all parts but the first are left out (t = 1)."""

    parts: int
    law: TimeLaw = EVEN
    off: float = 0.2

    def shape(self, sample: tuple[int, ...]) -> tuple[int, ...]:
        return (2,)

    def __call__(self, u: Tensor) -> Tensor:
        t = self.law(u[:, :1])[:, None].repeat(1, self.parts)
        t[:, 1:] = t[:, 1:].masked_fill(u[:, 1:] < self.off, 1.0)
        return t


@dataclass(frozen=True)
class Alone(TimeLaw):
    """(B, parts) times: the first a draw of `law`, the others 1."""

    parts: int
    law: TimeLaw = EVEN

    def __call__(self, u: Tensor) -> Tensor:
        t = torch.ones(len(u), self.parts, dtype=u.dtype)
        t[:, 0] = self.law(u[:, :1])
        return t


def pack(x: Mapping[str, Tensor]) -> Tensor:
    """Parts (B, *) as one float tensor (B, D), in the order of the dict; tokens become numbers."""
    return torch.cat([v.flatten(1).float() for v in x.values()], 1)


def unpack(flat: Tensor, den: JointDenoiser, noise: bool = False) -> dict[str, Tensor]:
    """What `pack` made of samples of `den`: tensors, and tokens as integers. noise: flat is standard normal; of tokens
    it becomes uniform in [0, 1)."""
    out = {}
    for v, (k, shape) in zip(flat.split([prod(s) for s in den.shapes.values()], 1), den.shapes.items(), strict=True):
        own = v.reshape(len(flat), *shape)
        if isinstance(den.heads[k], TokenDenoiser):
            own = torch.special.ndtr(own.double()) if noise else own.round().long()
        out[k] = own
    return out


class JointObjective(nn.Module):
    """objective(den, x0, t, noise) -> (B,), as the trainer asks it: x0 and noise (B, D) packed, t (B, parts).

    law: of times, one of this module's. weights: {part: weight}, 1 unless said. each: the loss of tensors (its time law
    is not used); tokens: that of tokens, on the noise of the same law, which becomes uniform numbers.

    Example:
        >>> Trainer(den, JointObjective(Independent(2), {"label": 0.5}), source, settings=settings)

    Raises:
        ValueError: for a weight of a part that the denoiser has not, or a law of another number of parts.
    """

    def __init__(
        self,
        law: Independent | Together | Alone,
        weights: Mapping[str, float] | None = None,
        each: Objective | None = None,
        tokens: TokenLoss = LOSSES["ce"],
    ) -> None:
        super().__init__()
        self.law, self.weights, self.each, self.tokens = law, dict(weights or {}), each or Objective(), tokens

    def forward(self, den: JointDenoiser, x0: Tensor, t: Tensor, noise: Tensor, **cond: Any) -> Tensor:
        if (strange := self.weights.keys() - den.shapes.keys()) or t.shape[1] != len(den.parts):
            said = f"weights of {sorted(strange)}" if strange else f"a law of {t.shape[1]} parts"
            raise ValueError(f"{said} for a denoiser of {list(den.parts)}")
        clean, eps = unpack(x0, den), unpack(noise, den, noise=True)
        times = dict(zip(den.parts, t.unbind(1), strict=True))
        x = {}
        for k, head in den.heads.items():
            if isinstance(head, NetworkDenoiser):
                a, _, s = aligned(head.schedule.at(times[k]), clean[k])
                x[k] = a * clean[k] + s * head.schedule.color(eps[k])
            else:
                x[k] = self.tokens.corrupt(head, clean[k], times[k], eps[k])  # type: ignore[arg-type]
        out, total = den.raw(x, times, **cond), x0.new_zeros(len(x0))
        for k, head in den.heads.items():
            own = times[k].clamp(min=1e-4)  # of a part that is given the loss is left out: its limit is not asked for
            if isinstance(head, NetworkDenoiser):
                loss = self.each(head, clean[k], own, eps[k], F=out[k])
            else:
                loss = self.tokens(head, clean[k], times[k], x[k], F=out[k]) / clean[k].shape[1]  # type: ignore[arg-type]
            total = total + self.weights.get(k, 1.0) * torch.where(times[k] > 0, loss, 0.0).to(total)
        return total
