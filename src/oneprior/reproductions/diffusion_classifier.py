"""Your Diffusion Model is Secretly a Zero-Shot Classifier (Li et al. 2023), on the priors that ship.

What is exact (ratios in nats, shared noise, elimination on exact denoisers) are tests of `uses.classify`; here are the
trained ones. Range of noise and stages for digits were chosen on the noise seeds 0 to 2, and are measured on others;
norm and weights of Fashion-MNIST were chosen on training pictures, its range and stages after a first figure on the
first 1,200 test pictures had been seen (0.8725). So it is measured on the pictures 2,000 to 3,999, never looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from oneprior.data import Source, digits, open_source
from oneprior.demo.baselines import Digits
from oneprior.loading import load
from oneprior.prior import Prior
from oneprior.reproductions import Check, Scale
from oneprior.uses.classify import classify
from oneprior.uses.errors import Errors, Plan, errors
from oneprior.uses.weighting import fit

PAPER = "Your Diffusion Model is Secretly a Zero-Shot Classifier (2023)"
CLAIM = (
    "A class-conditional prior reads held-out digits at 0.985 for at most 12 network calls a class; staged elimination "
    "decides as the whole table of 32 does for a third of the calls; with time weights fitted on training pictures it "
    "reads Fashion-MNIST at 0.87."
)
SEEDS: dict[Scale, tuple[int, ...]] = {"quick": (3,), "desk": (3, 4, 5)}
TEN = {"label": torch.arange(10)}
LAM, STAGES, MARGIN = (-2.0, 1.0), ((4, 5), (8, 3), (16, 2), (32, 1)), 7.0
FASHION, FASHION_STAGES, FASHION_MARGIN = Plan(32, lam=(-4.5, 1.5)), ((8, 5), (16, 3), (32, 1)), 6.0
BATCH = 50  # what the caches of a core hold


def run(scale: Scale, device: str = "cpu") -> Iterator[Check]:
    """The figures, in the order of the claim."""
    kind = "check" if scale == "desk" else "uncalibrated"
    prior = load("digits", device=device)
    x, y = part(prior, digits("test"), range(360 if scale == "desk" else 24))
    found, agree, apart, cost = [], [], [], []
    for seed in SEEDS[scale]:
        whole = errors(prior.den, x, TEN, Plan(32, lam=LAM, seed=seed)).total().argmin(1)
        staged = classify(prior.den, x, TEN, Plan(lam=LAM, seed=seed), stages=STAGES, margin=MARGIN)
        found.append(share(staged.x, y))
        agree.append(share(staged.x, whole))
        apart.append(abs(found[-1] - share(whole, y)) * len(x))
        cost.append(staged.nfe)
    right, mean = fmean(found), fmean(cost)
    base = Digits.of(digits("train"), digits("test")).logistic if scale == "desk" else None
    yield Check("digits read right", right, ">= 0.985", base, right >= 0.985, kind)
    yield Check("network calls for a digit and class", mean, "<= 12", 32, mean <= 12)
    yield Check("whole table over staged, calls", 32 / mean, ">= 3", 1, 32 / mean >= 3)
    yield Check("staged as the whole table, least of seeds", min(agree), ">= 0.99", 1, min(agree) >= 0.99, kind)
    yield Check("digits by which accuracies differ, most of seeds", max(apart), "<= 1", 0, max(apart) <= 1.01, kind)
    if scale == "desk":
        yield from fashion(device)


def fashion(device: str, fitted: int = 400, tested: range = range(2000, 4000)) -> Iterator[Check]:
    """Weights fitted on the first training pictures, measured on held-out ones."""
    prior = load("fashion", device=device)
    x, y = part(prior, open_source("fashion-mnist", split="train"), range(fitted))
    table = errors(prior.den, x, TEN, FASHION, norm="l2", max_batch=BATCH)
    kind = max(("scale", "positive"), key=lambda k: validated(table, y, k))
    weight = fit(table, y, kind)
    x, y = part(prior, open_source("fashion-mnist", split="test"), tested)
    how: dict[str, Any] = {"stages": FASHION_STAGES, "margin": FASHION_MARGIN, "max_batch": BATCH}
    out = classify(prior.den, x, TEN, FASHION, norm="l2", weight=weight, **how)
    right = share(out.x, y)
    what = f"Fashion-MNIST, test pictures {tested.start} to {tested.stop - 1} read right, weights '{kind}'"
    what += "; baseline: a small CNN"
    yield Check(what, right, ">= 0.87", 0.893, right >= 0.87)
    yield Check("network calls for a picture and class", out.nfe, "shown", 16, True, "uncalibrated")


def validated(table: Errors, y: Tensor, kind: str, folds: int = 4) -> float:
    """Accuracy on folds of the pictures that the weights were not fitted to."""
    fold, right = torch.arange(len(y)) % folds, list[float]()
    for k in range(folds):
        own, rest = (table._replace(x=table.x[:, m]) for m in (fold == k, fold != k))
        right.append(share(own.total(fit(rest, y[fold != k], kind)(table.nodes)).argmin(1), y[fold == k]))
    return fmean(right)


def part(prior: Prior, source: Source, which: range) -> tuple[Tensor, Tensor]:
    """Pictures of a source in model range, and their labels."""
    batch = source.batch(which)
    return prior.codec.encode(batch["x"].to(prior.device)), batch["label"].to(prior.device)


def share(a: Tensor, b: Tensor) -> float:
    return float((a == b).double().mean())
