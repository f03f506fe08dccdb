"""Any chain of T steps over V <= 512 symbols, as matrices: Q_i[k, j] = q(x_i = j | x_{i-1} = k), i = 1 .. T.

Time t is step t T, so times are multiples of 1 / T. For ordinal symbols, as grey levels, D3PM's discretised Gaussian
moves to near symbols first: Q_i[k, j] ~ exp(-4 (k - j)^2 / ((V - 1)^2 beta_i)) off the diagonal, normalised by its sum
over all differences, the rest stays (Austin et al. 2021). It is symmetric, so its noise is uniform in the end.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from oneprior.times import Time
from oneprior.tokens.chain import Corruption, clock
from oneprior.tokens.draw import categorical


@dataclass(frozen=True, eq=False)
class MatrixCorruption(Corruption):
    """steps: (T, V, V), rows that sum to 1. masked: the last symbol is a mask, never data.

    Products are made once, (T + 1, V, V) in float64; those of strides when they are asked for. `bound` wants rates in
    continuous time, which such a chain has not: `finite_bound(den, x0, i, T, z)` is the bound of it.

    Example:
        >>> corruption = MatrixCorruption(17, discretised_gaussian(17, 100))

    Raises:
        ValueError: for matrices that are not (T, V, V) or do not sum to 1, V > 512, or a time that is no step.
    """

    steps: Tensor = field(repr=False)
    masked: bool = False
    total: Tensor = field(init=False, repr=False)

    def __eq__(self, other: object) -> bool:
        return self is other  # two chains over as many symbols are two chains

    def __hash__(self) -> int:
        return id(self)

    def __post_init__(self) -> None:
        Q, V = self.steps.double(), self.vocab
        if Q.ndim != 3 or Q.shape[1:] != (V, V) or not len(Q) or V > 512:
            raise ValueError(f"steps {tuple(Q.shape)} for {V} symbols: (T, V, V) with V <= 512 was expected")
        if bool((Q < 0).any()) or float((Q.sum(-1) - 1).abs().max()) > 1e-9:
            raise ValueError("each row of a step is a law: numbers >= 0 that sum to 1 were expected")
        total = [torch.eye(V, dtype=torch.float64, device=Q.device)]
        for step in Q:
            total.append(total[-1] @ step)
        object.__setattr__(self, "steps", Q)
        object.__setattr__(self, "total", torch.stack(total))

    @property
    def mask(self) -> int | None:
        return self.vocab - 1 if self.masked else None

    def start(self) -> Tensor:
        return self.total[-1, : self.vocab - self.masked].mean(0)

    def _at(self, t: Time, like: Tensor) -> Tensor:
        i = clock(t, like) * len(self.steps)
        if float((i - i.round()).abs().max()) > 1e-6 or not 0 <= float(i.min()) <= float(i.max()) <= len(self.steps):
            raise ValueError(f"a chain of {len(self.steps)} steps has times i / {len(self.steps)}; {t} came")
        return i.round().long().expand(like.shape)

    def push(self, w: Tensor, t: Time) -> Tensor:
        i = self._at(t, w[..., 0])
        if bool((i == i.flatten()[:1]).all()):
            return w @ self.total[int(i.flatten()[0])]
        return torch.einsum("blj,bljk->blk", w, self.total[i])

    def q(self, x0: Tensor, t: Time) -> Tensor:
        return self.total[self._at(t, x0), x0]

    def likelihood(self, z: Tensor, t: Time) -> Tensor:
        out = self.total.mT[self._at(t, z), z].clone()
        if self.masked:
            out[..., -1] = 0
        return out

    def forward(self, z: Tensor, t: Time, s: Time) -> Tensor:
        i, j = self._at(t, z), self._at(s, z)
        out = z.new_zeros(*z.shape, self.vocab, dtype=torch.float64)
        for a, b in torch.unique(torch.stack([i.flatten(), j.flatten()], 1), dim=0).tolist():
            between = self.total[0]
            for step in self.steps[b:a]:
                between = between @ step
            at = (i == a) & (j == b)
            out[at] = between.mT[z[at]]
        return out

    def corrupt(self, x0: Tensor, t: Time, u: Tensor) -> Tensor:
        return categorical(self.q(x0, t), u)

    def rates(self, z: Tensor, t: Time) -> Tensor:
        raise ValueError(f"{self} has steps and no rates: use finite_bound with {len(self.steps)} steps, and Ancestral")


def discretised_gaussian(vocab: int, steps: int, first: float = 1e-4, last: float = 0.02) -> Tensor:
    """Steps (T, V, V) of D3PM's chain for ordinal symbols; beta goes linearly from `first` to `last` (the paper's
    values for T = 1000: multiply both by 1000 / T for another T)."""
    k = torch.arange(vocab, dtype=torch.float64)
    beta = torch.linspace(first, last, steps, dtype=torch.float64)[:, None, None]
    weigh = 4 / ((vocab - 1) ** 2 * beta)
    far = torch.exp(-((k[:, None] - k) ** 2) * weigh)
    every = torch.arange(1 - vocab, vocab, dtype=torch.float64)
    Q = far / torch.exp(-(every**2) * weigh).sum(-1, keepdim=True)
    Q = Q * (1 - torch.eye(vocab, dtype=torch.float64))
    return Q + torch.diag_embed(1 - Q.sum(-1))
