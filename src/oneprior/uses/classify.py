"""Classification without training: the condition under which the model removes noise best wins.

    log p(c | x) = log p(c) - sum_k w_k SNR_k |x - D(x_k, t_k, c)|^2 + const
(Li et al. 2023, "Your Diffusion Model is Secretly a Zero-Shot Classifier"). With the weights of the bound, the logits
are nats; other weights give other temperatures. Candidates are eliminated in stages: a stage evaluates the next stretch
of one nested list of (lam, noise) pairs, for the conditions that remain, of the images that are still undecided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import log
from typing import Any, NamedTuple

import torch
from torch import Tensor

from oneprior.uses.errors import Conditions, Errors, Model, Norm, Plan, candidates, errors, name_of
from oneprior.uses.weighting import Weighting, weighting


class Classified(NamedTuple):
    """x: (B,) index of the winning condition. logits: (B, C) float64, log p(x | c) + log p(c) up to a constant of the
    image (nats with the weights of the bound and the squared norm), -inf for the eliminated. nfe: network calls per
    image and condition, the mean. table: all that was evaluated, NaN elsewhere.
    """

    x: Tensor
    logits: Tensor
    nfe: float
    table: Errors

    @property
    def probs(self) -> Tensor:
        """(B, C): the posterior over the conditions that remained."""
        return self.logits.softmax(1)


def classify(
    den: Model,
    x0: Tensor,
    conds: Conditions,
    plan: Plan | None = None,
    *,
    weight: str | Weighting = "elbo",
    norm: str | Norm = "squared",
    stages: Sequence[tuple[int, int]] | None = None,
    margin: float | None = None,
    log_prior: Tensor | None = None,
    seeds: Sequence[int] | None = None,
    max_batch: int = 512,
    progress: bool = False,
    **given: Any,
) -> Classified:
    """Which of the conditions explains each image best.

    x0: (B, *) in model range, or tokens. conds, norm, seeds, max_batch, given: see `errors`. weight: "elbo" (nats),
    "simple" (the paper's), or an object such as `Fitted`. stages: (evaluations so far, conditions to keep), rising and
    falling; the last gives the evaluations of the plan; `cost` says what they cost. margin: after a stage an image
    whose best logit leads by this much is decided, and costs nothing more. log_prior: (C,) in nats.

    Example:
        >>> found = classify(den, x, {"label": torch.arange(10)}, stages=((4, 3), (16, 1)))

    Raises:
        ValueError: for a denoiser that is no density, a single condition, stages out of order, weights of another norm.
    """
    plan = plan or Plan()
    stages = tuple(stages or ((plan.n, 1),))
    B, count, done, calls = len(x0), candidates(den, conds)[1], 0, 0
    _check(stages)
    if count < 2:
        raise ValueError("one condition alone: there is nothing to tell apart; likelihood(x) says how probable x is")
    plan, factor = replace(plan, n=stages[-1][0]), weighting(weight, name_of(norm))
    prior = (torch.zeros(count) if log_prior is None else log_prior).to(x0.device).double()
    rows = torch.arange(B, device=x0.device)  # images that are undecided, and the conditions that remain of each
    pick = torch.arange(count, device=x0.device).expand(B, count)
    logits = torch.full((B, count), -torch.inf, dtype=torch.float64, device=x0.device)
    seen = torch.full((plan.n, B, count), torch.nan, device=x0.device)
    how: dict[str, Any] = dict(norm=norm, max_batch=max_batch, progress=progress)
    for n, keep in stages:
        own: dict[str, Any] = {k: v[rows] if isinstance(v, Tensor) and v.ndim else v for k, v in given.items()}
        of = None if seeds is None else [seeds[i] for i in rows.tolist()]
        part = errors(den, x0[rows], conds, plan, seeds=of, which=range(done, n), pick=pick, **how, **own).x
        seen = seen.to(part.dtype)
        seen[done:n, rows[:, None], pick] = part
        nodes = plan.nodes(den, n)
        sums = Errors(seen[:n, rows[:, None], pick], nodes).total(factor(nodes))
        found = prior[pick] - sums
        logits[rows] = torch.full_like(logits[rows], -torch.inf).scatter(1, pick, found)
        calls, done = calls + part.numel(), n
        best = found.topk(min(max(keep, 2), pick.shape[1]), 1)
        open_ = torch.full_like(rows, True, dtype=torch.bool)
        if margin is not None and best.values.shape[1] > 1:
            open_ = best.values[:, 0] - best.values[:, 1] < margin
        pick, rows = pick.gather(1, best.indices[:, :keep])[open_], rows[open_]
        if n == stages[-1][0] or not len(rows):
            break
    return Classified(logits.argmax(1), logits, calls / (B * count), Errors(seen, plan.nodes(den), name_of(norm)))


def cost(stages: Sequence[tuple[int, int]], count: int) -> int:
    """Network calls per image of a staged classification of `count` conditions, where no margin ends it earlier."""
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


def pairing(
    den: Model, x0: Tensor, conds: Conditions, plan: Plan | None = None, *, normalise: str = "null", **how: Any
) -> Tensor:
    """Which images and captions belong together: log p(x | c) - log p(x), (B, C) in nats.

    p(x | c) of different images cannot be compared; over p(x) they can. normalise: p(x) of the model without a
    condition, "null"; the mean of p(x | c) over the captions given, "mean"; or "none". how: as in `errors`, and
    weight= as in `classify`.

    Raises:
        ValueError: for an unknown normalisation, or "null" of a denoiser without one.
    """
    if normalise not in ("none", "null", "mean"):
        raise ValueError(f"normalise = '{normalise}': one of none, null, mean was expected")
    plan, factor = plan or Plan(), weighting(how.pop("weight", "elbo"), name_of(how.get("norm", "squared")))
    table = errors(den, x0, conds, plan, **how)
    logp = -table.total(factor(table.nodes))
    if normalise == "null":
        names = candidates(den, conds)[0].keys()
        if lack := [k for k in names if k not in den.facts.null]:
            raise ValueError(f"the denoiser has no null for {lack}: it cannot tell p(x); take normalise='mean'")
        alone = {k: torch.as_tensor(den.facts.null[k]) for k in names}
        null = [{k: v[0] if v.ndim else v for k, v in alone.items()}]  # it may come as a batch of one
        return logp + errors(den, x0, null, plan, **how).total(factor(table.nodes))
    return logp if normalise == "none" else logp - logp.logsumexp(1, keepdim=True) + log(logp.shape[1])


class Retrieval(NamedTuple):
    """Shares of pairs for which the right caption wins (text), the right image wins (image), and both (group)."""

    text: float
    image: float
    group: float


def retrieval(scores: Tensor, size: int) -> Retrieval:
    """Of scores (N, N), caption i being that of image i, within groups of `size` in a row; a tie is wrong.

    A group counts as Winoground has it (Thrush et al. 2022): all its captions, all its images, or both.
    """
    N = len(scores)
    if scores.shape != (N, N) or size < 2 or N % size:
        raise ValueError(f"scores (N, N) and groups of 2 or more that fill N were expected; got {tuple(scores.shape)}")
    blocks = torch.stack([scores[i : i + size, i : i + size] for i in range(0, N, size)])
    own = torch.eye(size, dtype=torch.bool, device=scores.device)
    right = blocks.diagonal(dim1=1, dim2=2)
    others = blocks.masked_fill(own, -torch.inf)
    text, image = ((right > others.amax(dim)).all(1) for dim in (2, 1))
    return Retrieval(*(float(v.double().mean()) for v in (text, image, text & image)))
