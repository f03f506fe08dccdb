"""Masked diffusion without time (Zheng et al. 2024, Masked Diffusion Models are Secretly Time-Agnostic Masked Models).

On digits of 64 tokens and 17 levels. The training bound needs no time: counted in masks (n) or integrated over t it is
one number, and a network that is told the time gains nothing. Sampling needs no grid: first hitting asks once a token
and its samples are as good as those of the finest grid, coarse grids and tokens revealed together are worse. Laws that
can be enumerated are tests of `tokens`; the speed on text is `benchmarks/masked_text.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import log, sqrt

import torch
from torch import Tensor

from oneprior.metrics import energy_distance
from oneprior.reproductions import Check, Scale
from oneprior.reproductions._token_digits import CODEC, LEVELS, L, histogram_nats, learn, tokens
from oneprior.token_prior import TokenPrior
from oneprior.tokens import Absorbing, Ancestral, Coins, FirstHitting, TokenSampler, bound
from oneprior.tokens.losses import Masks
from oneprior.uses.tokens import nats

PAPER = "Masked Diffusion Models are Secretly Time-Agnostic Masked Models (2024)"
CLAIM = (
    "The bound counted in masks equals the one integrated over time; a network told the time has no better bound; "
    "both beat independent pixels by 0.15 nats a token; first hitting makes a call a token and its samples are no "
    "worse than those of 256 ancestral steps, while 4 steps are."
)
SEEDS: dict[Scale, tuple[int, ...]] = {"quick": (0,), "desk": (0, 1)}
SAMPLES: dict[Scale, int] = {"quick": 256, "desk": 60_032}
TESTED: dict[Scale, int] = {"quick": 16, "desk": 360}


def run(scale: Scale, device: str = "cpu") -> Iterator[Check]:
    """The figures, in the order of the claim."""
    train, _ = tokens("train")
    test = tokens("test")[0][: TESTED[scale]].to(device)
    base, kind = histogram_nats(train, test.cpu()), "check" if scale == "desk" else "uncalibrated"
    rows: dict[str, list[Tensor]] = {}
    priors: list[TokenPrior] = []
    draws = 16 if scale == "desk" else 8
    for seed in SEEDS[scale]:
        prior = learn(Absorbing(LEVELS + 1), Masks(), SAMPLES[scale], seed, timed=False, device=device)
        told = learn(Absorbing(LEVELS + 1), Masks(), SAMPLES[scale], seed, timed=True, device=device)
        seeds = range(seed * 10**6, seed * 10**6 + len(test))
        rows.setdefault("n", []).append(nats(prior.den, test, draws, seeds).mean(1) / L)
        rows.setdefault("t", []).append(over_time(prior, test, draws, seeds) / L)
        rows.setdefault("told", []).append(nats(told.den, test, draws, seeds).mean(1) / L)
        priors.append(prior)
    first = priors[0]
    n, t, told = (torch.cat(rows[k]) for k in ("n", "t", "told"))
    yield Check(
        "bound, nats a token",
        float(n.mean()),
        "<= independent pixels - 0.15",
        base,
        bool(n.mean() <= base - 0.15),
        kind,
    )
    gap, error = float((n - t).mean().abs()), _error(n - t)
    yield Check("bound in masks less that over time", gap, "< 3 standard errors", error, gap < 3 * error)
    better, error = float((n - told).mean()), _error(n - told)
    what = "bound without time less that of a network told the time"
    yield Check(what, better, "< 0.01 nats + 3 standard errors", error, better < 0.01 + 3 * error, kind)

    found = {name: quality(first, s, test, 8 if scale == "desk" else 0) for name, s in SAMPLERS.items()}
    calls = float(found["first hitting"][1])
    yield Check("network calls of first hitting", calls, f"= {L} tokens", float(L), calls == L)
    steps, chance = 64, 64 * (1 - (1 - 1 / 64) ** L)
    few = range(20 if scale == "desk" else 4)
    asked = torch.tensor([first.sample(seeds=[i], sampler=Ancestral(steps, draw="split")).nfe for i in few])
    mean = float(asked.double().mean())
    what, error = "network calls of cached ancestral, 64 steps, one sample", _error(asked.double())
    yield Check(what, mean, "within 3 standard errors of N (1 - (1 - 1/N)^L)", chance, abs(mean - chance) < 3 * error)
    fine, hit, coarse = (found[k][0] for k in ("ancestral, 256 steps", "first hitting", "ancestral, 4 steps"))
    noise = _error(torch.stack([fine, hit]).std(0)) + _error(fine)
    worse = float((hit - fine).mean())
    what = "energy distance of first hitting less that of 256 steps"
    yield Check(what, worse, "< 3 standard errors", noise, worse < 3 * noise, kind)
    what = "energy distance to held-out digits, ancestral, 4 steps"
    yield Check(
        what, float(coarse.mean()), "> first hitting", float(hit.mean()), bool(coarse.mean() > hit.mean()), kind
    )
    for name, (distance, count) in found.items():
        what = f"energy distance to held-out digits, {name}, {count} calls"
        yield Check(what, float(distance.mean()), "shown", None, True, "uncalibrated")


SAMPLERS: dict[str, TokenSampler] = {
    "first hitting": FirstHitting(),
    "first hitting, 4 tokens a call": FirstHitting(per_call=4),
    "ancestral, 4 steps": Ancestral(4),
    "ancestral, 16 steps": Ancestral(16),
    "ancestral, 256 steps": Ancestral(256),
}


def quality(prior: TokenPrior, sampler: TokenSampler, test: Tensor, groups: int) -> tuple[Tensor, int]:
    """Energy distances of groups of 64 samples to held-out digits (0 groups: of 4), and the calls of one group."""
    real, n, calls, out = CODEC.decode(test).flatten(1), 64 if groups else 4, 0, []
    for g in range(max(1, groups)):
        made = prior.sample(seeds=range(g * n, (g + 1) * n), sampler=sampler)
        out.append(energy_distance(real.cpu(), made.x.cpu().flatten(1)))
        calls = made.nfe
    return torch.tensor([float(v) for v in out], dtype=torch.float64), calls


def over_time(prior: TokenPrior, x: Tensor, draws: int, seeds: range) -> Tensor:
    """The bound integrated over t under alpha = 1 - t, stratified, nats a sequence (B,)."""
    coins, total = Coins(seeds), torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for j in range(draws):
        t = ((j + coins(j, "time", (1,))[:, 0].to(x.device)) / draws).clamp(1e-6, 1 - 1e-6)
        z = prior.den.corruption.corrupt(x, t, coins(j, "over time", (x.shape[1],)).to(x.device))
        with torch.no_grad():
            total += bound(prior.den, x, t, z)
    return total / draws


def _error(v: Tensor) -> float:
    return float(v.std() / sqrt(len(v))) if len(v) > 1 else log(2)
