"""Weights of the times of an error table: given, or fitted to labels.

    logits_ic = -sum_k f_k w_k e_kic,   w_k the quadrature weight of the bound, f_k a factor on it
f = 1 is log p(x | c) in nats; f = 1 / |d lam / dt| the plain mean over t of Li et al. (2023). Given labels, the f of
highest likelihood is a conditional logit with one feature a time, so convex (Jeong et al. 2025 fit it by Adam).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from oneprior.uses.errors import Errors, Nodes


class Weighting(Protocol):
    """A factor on nats per unit of lam, one a node."""

    def __call__(self, nodes: Nodes) -> Tensor: ...


@dataclass(frozen=True)
class Elbo:
    """1: the sum is -log p(x | c) in nats, up to a constant."""

    def __call__(self, nodes: Nodes) -> Tensor:
        return torch.ones_like(nodes.lam)


@dataclass(frozen=True)
class Simple:
    """|dt / dlam|: |eps - e|^2 integrated over the schedule's own t, the paper's weight. Not nats."""

    def __call__(self, nodes: Nodes) -> Tensor:
        return 1 / nodes.rate


@dataclass(frozen=True)
class Fitted:
    """A factor per lam: linear between the knots `lam` (rising), constant beyond. norm: of the table it is for."""

    lam: tuple[float, ...]
    weight: tuple[float, ...]
    norm: str = "squared"

    def __post_init__(self) -> None:
        if len(self.lam) != len(self.weight) or not self.lam or list(self.lam) != sorted(set(self.lam)):
            raise ValueError(f"knots in rising order, one weight each, were expected; got {self.lam} and {self.weight}")

    def __call__(self, nodes: Nodes) -> Tensor:
        knots, w = (torch.tensor(v).to(nodes.lam) for v in (self.lam, self.weight))
        if len(knots) == 1:
            return w.expand_as(nodes.lam)
        j = torch.searchsorted(knots, nodes.lam).clamp(1, len(knots) - 1)
        share = ((nodes.lam - knots[j - 1]) / (knots[j] - knots[j - 1])).clamp(0, 1)
        return torch.lerp(w[j - 1], w[j], share)


WEIGHTS: dict[str, Weighting] = {"elbo": Elbo(), "simple": Simple()}


def weighting(weight: str | Weighting, norm: str) -> Weighting:
    """The object of a name. Raises ValueError for one that is not known, and for weights fitted to another norm."""
    if isinstance(weight, str) and weight not in WEIGHTS:
        raise ValueError(f"weight '{weight}' is not known: {', '.join(WEIGHTS)}, or an object such as Fitted")
    if isinstance(weight, Fitted) and weight.norm != norm:
        raise ValueError(f"these weights were fitted to a table of norm '{weight.norm}'; this one's is '{norm}'")
    return WEIGHTS[weight] if isinstance(weight, str) else weight


def _free(u: Tensor) -> Tensor:
    return torch.eye(len(u)).to(u)


def _poly(u: Tensor) -> Tensor:
    return u[:, None] ** torch.arange(4)


Kind = tuple[Callable[[Tensor], Tensor], bool]
KINDS: dict[str, Kind] = {
    "scale": (lambda u: torch.ones_like(u)[:, None], True),  # of one factor for all: the temperature
    "poly3": (_poly, False),
    "positive": (_free, True),
    "free": (_free, False),
}


def fit(table: Errors, y: Tensor, kind: str = "positive", *, l1: float = 0.0, steps: int = 1000) -> Fitted:
    """The weights of highest likelihood of labels y (B,) under softmax of the logits.

    kind: "positive" or "free" (one a time), "poly3" (a cubic in the rank of lam), "scale" (one for all: a calibrated
    temperature). l1: penalty on the absolute weights, each in units of its time's spread, in nats an image. Fit on
    images that the accuracy is not measured on. Deterministic (FISTA, Beck and Teboulle 2009, with restarts).

    Raises:
        ValueError: for an unknown kind, a staged table, labels that name no column, or labels of one class only.
    """
    K, B, C = table.x.shape
    if kind not in KINDS:
        raise ValueError(f"kind '{kind}' is not known: one of {', '.join(KINDS)} was expected")
    if tuple(y.shape) != (B,) or not bool(((y >= 0) & (y < C)).all()) or not bool(table.x.isfinite().all()):
        raise ValueError(f"a whole table and a label, 0 to {C - 1}, of each of its {B} images were expected")
    if len(y.unique()) < 2:
        raise ValueError(f"all {B} labels are {int(y[0])}: weights that tell classes apart need two of them")
    order = table.lam.argsort()
    basis, positive = KINDS[kind][0](torch.linspace(-1, 1, K, dtype=torch.float64)), KINDS[kind][1]
    e = -(table.weight.to(table.x.device)[:, None, None] * table.x.double())[order.to(table.x.device)]
    e = (e - e.mean(2, keepdim=True)).cpu()
    unit = e.square().mean((1, 2)).sqrt().clamp(min=1e-30)  # of each time
    unit = unit if len(basis[0]) == K else torch.full_like(unit, float(unit.mean()))
    F = torch.einsum("kic,kj->jic", e / unit[:, None, None], basis.to(e)).flatten(1)  # (features, B C)
    truth = torch.nn.functional.one_hot(y.cpu(), C).double()
    step = 2 * B / float(torch.linalg.matrix_norm(F, 2)) ** 2  # the softmax has curvature 1/2 at most
    w = ahead = torch.zeros(len(F), dtype=torch.float64)
    pace = 1.0
    for _ in range(steps):
        slope = F @ ((ahead @ F).reshape(B, C).softmax(1) - truth).flatten() / B
        new = ahead - step * slope
        new = new.sign() * (new.abs() - step * l1).clamp(min=0)
        new = new.clamp(min=0) if positive else new
        if float((ahead - new) @ (new - w)) > 0:
            pace = 1.0
        following = (1 + (1 + 4 * pace**2) ** 0.5) / 2
        ahead, w, pace = new + (pace - 1) / following * (new - w), new, following
    factor = (basis @ w) / unit
    return Fitted(tuple(table.lam[order].tolist()), tuple(factor.tolist()), table.norm)
