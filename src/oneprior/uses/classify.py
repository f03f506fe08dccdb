"""Classification without training: the condition under which the model removes noise best wins.

    log p(c | x) = log p(c) - sum_k w_k SNR_k |x - D(x_k, t_k, c)|^2 + const
(Li et al. 2023, "Your Diffusion Model is Secretly a Zero-Shot Classifier"). With the weights of the bound, the logits
are nats; the paper's uniform weight in t gives the same argmax at another temperature. Candidates are eliminated in
stages: a stage evaluates the next stretch of one nested list of (lam, noise) pairs for those that remain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from oneprior.denoiser import Denoiser
from oneprior.schedules import Schedule
from oneprior.uses.errors import Conditions, Errors, Norm, Plan, candidates, errors, slope


class Weighting(Protocol):
    """A factor on nats per unit lam: weight(lam, schedule) -> tensor like lam."""

    def __call__(self, lam: Tensor, schedule: Schedule) -> Tensor: ...


@dataclass(frozen=True)
class Elbo:
    """1: the sum is -log p(x | c) in nats, up to a constant."""

    def __call__(self, lam: Tensor, schedule: Schedule) -> Tensor:
        return torch.ones_like(lam)


@dataclass(frozen=True)
class Simple:
    """|dt / dlam|: |eps - e|^2 averaged over the schedule's own t, the paper's weight. Not nats."""

    def __call__(self, lam: Tensor, schedule: Schedule) -> Tensor:
        return -1 / slope(schedule, schedule.time(lam))


@dataclass(frozen=True)
class Fitted:
    """A weight per lam that the caller fitted: linear between the knots `lam` (rising), constant beyond them."""

    lam: tuple[float, ...]
    weight: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.lam) != len(self.weight) or not self.lam or list(self.lam) != sorted(set(self.lam)):
            raise ValueError(f"knots in rising order, one weight each, were expected; got {self.lam} and {self.weight}")

    def __call__(self, lam: Tensor, schedule: Schedule) -> Tensor:
        knots, w = (torch.tensor(v, dtype=lam.dtype, device=lam.device) for v in (self.lam, self.weight))
        if len(knots) == 1:
            return w.expand_as(lam)
        j = torch.searchsorted(knots, lam).clamp(1, len(knots) - 1)
        share = ((lam - knots[j - 1]) / (knots[j] - knots[j - 1])).clamp(0, 1)
        return torch.lerp(w[j - 1], w[j], share)


WEIGHTS: dict[str, Weighting] = {"elbo": Elbo(), "simple": Simple()}


class Classified(NamedTuple):
    """x: (B,) index of the winning condition. logits: (B, C) float64, log p(x | c) + log p(c) up to a constant of the
    image (nats with the weights of the bound and l2), -inf for the eliminated. nfe: network calls per image and class.
    """

    x: Tensor
    logits: Tensor
    nfe: float

    @property
    def probs(self) -> Tensor:
        """(B, C): the posterior over the conditions that remained."""
        return self.logits.softmax(1)


def classify(
    den: Denoiser,
    x0: Tensor,
    conds: Conditions,
    plan: Plan | None = None,
    *,
    weight: str | Weighting = "elbo",
    norm: str | Norm = "l2",
    stages: Sequence[tuple[int, int]] | None = None,
    log_prior: Tensor | None = None,
    seeds: Sequence[int] | None = None,
    max_batch: int = 512,
    progress: bool = False,
    **given: Any,
) -> Classified:
    """Which of the conditions explains each image best.

    x0: (B, *) in model range. conds, seeds, max_batch, given: see `errors`. weight: "elbo" (nats), "simple" (the
    paper's), or an object such as `Fitted`. norm: "l2", or "l1", which is no likelihood. stages: (evaluations so far,
    conditions to keep), rising and falling; the last gives the evaluations of the plan. log_prior: (C,) in nats.

    Example:
        >>> found = classify(den, x, {"label": torch.arange(10)}, stages=((4, 3), (16, 1)))

    Raises:
        ValueError: for a denoiser that is no density, or stages out of order.
    """
    plan = plan or Plan()
    stages = tuple(stages or ((plan.n, 1),))
    count = candidates(den, conds)[1]
    _check(stages)
    plan, factor = replace(plan, n=stages[-1][0]), WEIGHTS[weight] if isinstance(weight, str) else weight
    B, done = len(x0), 0
    prior = (torch.zeros(count) if log_prior is None else log_prior).to(x0.device).double()
    pick = torch.arange(count, device=x0.device).expand(B, count)
    seen, logits, keep = None, prior.expand(B, count), count
    for n, after in stages:
        part = errors(
            den,
            x0,
            conds,
            plan,
            norm=norm,
            seeds=seeds,
            which=range(done, n),
            pick=pick,
            max_batch=max_batch,
            progress=progress,
            **given,
        )
        seen = part.x if seen is None else torch.cat([seen, part.x])
        nodes = plan.nodes(den, n)
        sums = Errors(seen, nodes.lam, nodes.weight).total(factor(nodes.lam, den.schedule))
        logits, done, keep = prior[pick] - sums, n, min(after, pick.shape[1])
        if n < stages[-1][0]:
            best = logits.topk(keep, 1).indices
            pick = pick.gather(1, best)
            seen = seen.gather(2, best.expand(len(seen), B, keep))
    out = torch.full((B, count), -torch.inf, dtype=torch.float64, device=x0.device).scatter(1, pick, logits)
    return Classified(out.argmax(1), out, cost(stages, count) / count)


def cost(stages: Sequence[tuple[int, int]], count: int) -> int:
    """Network calls per image of a staged classification of `count` conditions."""
    done, left, calls = 0, count, 0
    for n, keep in stages:
        calls, done, left = calls + (n - done) * left, n, min(keep, left)
    return calls


def _check(stages: Sequence[tuple[int, int]]) -> None:
    n, keep = [s[0] for s in stages], [s[1] for s in stages]
    if n != sorted(set(n)) or n[0] < 1 or keep != sorted(keep, reverse=True) or keep[-1] < 1:
        raise ValueError(
            f"stages = {tuple(stages)}: pairs (evaluations so far, conditions to keep) were expected, "
            "the first rising from 1, the second falling to 1"
        )
