"""What a step of the library costs over the same method written by hand, in one run.

The network is trivial (one multiplication), so what is left is the loop. The hand loops below are as fast as plain
torch allows: coefficients as Python floats computed beforehand, in-place updates, one generator, no checks. Ours is
the whole public call, start noise and the test for non-finite values included.

    python benchmarks/step_cost.py --json step_cost.json
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

import oneprior
from oneprior.denoiser import Denoiser, Facts
from oneprior.guidance import CFG
from oneprior.paths import Hold
from oneprior.posterior import Posterior
from oneprior.sampling import grids, sample
from oneprior.schedules import Cosine

STEPS = 100
BAR, HELD_BAR = 1.5, 2.5


class Trivial(Denoiser):
    """D = x / 2: one multiplication."""

    def __init__(self, time_axes: int = 0) -> None:
        super().__init__()
        self.schedule, self.facts = Cosine(), Facts(time_axes=time_axes, null={"label": None})

    def posterior(self, x: Tensor, t, **cond) -> Posterior:
        return Posterior(network(x), x, self.schedule, t)


def network(x: Tensor) -> Tensor:
    """What stands for the network on both sides."""
    return x * 0.5


def coefficients(times: tuple[float, ...]) -> list[tuple[float, float]]:
    return [(math.cos(math.pi * t / 2), math.sin(math.pi * t / 2)) for t in times]


def hand_ddim(shape: tuple[int, ...], cs: list[tuple[float, float]], guided: bool = False) -> Tensor:
    x = torch.randn(shape)
    for (a, s), (a1, s1) in pairwise(cs):
        if guided:
            u, d = network(torch.cat([x, x])).chunk(2)
            d = u.lerp_(d, 2.0)
        else:
            d = network(x)
        r = s1 / s
        x.mul_(r).add_(d, alpha=a1 - r * a)
    return x


def hand_2m(shape: tuple[int, ...], cs: list[tuple[float, float]]) -> Tensor:
    x, old, h_old = torch.randn(shape), None, None
    for (a, s), (a1, s1) in pairwise(cs):
        d = network(x)
        r = s1 / s
        c = a1 - r * a
        h = math.log(a1 / s1) - math.log(a / s) if s1 > 1e-12 and a > 1e-12 else None
        x.mul_(r)
        if old is not None and h is not None and h_old is not None:
            q = h / (2 * h_old)
            x.add_(d, alpha=c * (1 + q)).add_(old, alpha=-c * q)
        else:
            x.add_(d, alpha=c)
        old, h_old = d, h
    return x


def hand_heun(shape: tuple[int, ...], cs: list[tuple[float, float]]) -> Tensor:
    x = torch.randn(shape)
    for (a, s), (a1, s1) in pairwise(cs):
        d = network(x)
        r = s1 / s
        if s1 < 1e-12 or a < 1e-12:
            x.mul_(r).add_(d, alpha=a1 - r * a)
            continue
        e = (x * r).add_(d, alpha=a1 - r * a)
        d1 = network(e)
        q = (s1 / a1) / (s / a)
        g = a1 * (1 - q) / (2 * q)
        x.mul_(r).add_(d, alpha=a1 - r * a - g).add_(d1, alpha=g)
    return x


def hand_held(shape: tuple[int, ...], times: tuple[float, ...], known: Tensor, value: Tensor) -> Tensor:
    x = torch.where(known, value, torch.randn(shape))
    for t0, t1 in pairwise(times):
        t = torch.where(known, 0.0, t0)
        u = torch.where(known, 0.0, t1)
        a, s = torch.cos(math.pi * t / 2), torch.sin(math.pi * t / 2)
        a1, s1 = torch.cos(math.pi * u / 2), torch.sin(math.pi * u / 2)
        d = network(x)
        r = s1 / s.clamp(min=1e-8)
        x = torch.where(known, x, r * x + (a1 - r * a) * d)
    return x


def ratio(ours: Callable[[], object], floor: Callable[[], object], rounds: int = 40) -> tuple[float, float, float]:
    """Median seconds of both, taken in turn, and the median of the ratios pair by pair."""
    for f in (ours, floor, ours, floor):
        f()
    pairs = []
    for _ in range(rounds):
        t0 = time.perf_counter()
        ours()
        t1 = time.perf_counter()
        floor()
        pairs.append((t1 - t0, time.perf_counter() - t1))
    a, b = (statistics.median(v) for v in zip(*pairs, strict=True))
    return a, b, statistics.median(p / q for p, q in pairs)


Pair = tuple[Callable[[], object], Callable[[], object], float]


def cases(shape: tuple[int, ...]) -> dict[str, Pair]:
    """By name: ours, the same by hand, and the bar on their ratio."""
    times = grids.cosine_time(Cosine(), STEPS)
    cs = coefficients(times)
    den, held_den, guided = Trivial(), Trivial(3), CFG(Trivial(), 2.0)
    label = torch.zeros(shape[0], dtype=torch.long)
    mask = torch.zeros(shape[0], 1, *shape[2:], dtype=torch.bool)
    mask[..., ::2] = True
    known, value = mask.expand(shape), torch.zeros(shape)
    ours = partial(sample, steps=STEPS, seeds=range(shape[0]))
    return {
        "DDIM": (partial(ours, den, shape, sampler="ddim"), partial(hand_ddim, shape, cs), BAR),
        "2M": (partial(ours, den, shape, sampler="2m"), partial(hand_2m, shape, cs), BAR),
        "Heun": (partial(ours, den, shape, sampler="heun"), partial(hand_heun, shape, cs), BAR),
        "guided DDIM": (
            partial(ours, guided, shape, sampler="ddim", label=label),
            partial(hand_ddim, shape, cs, True),
            BAR,
        ),
        "half held DDIM": (
            partial(ours, held_den, shape, sampler="ddim", hold=Hold(value, mask)),
            partial(hand_held, shape, times, known, value),
            HELD_BAR,
        ),
    }


def rows(rounds: int = 40) -> list[dict]:
    out = []
    for shape in ((16, 3, 32, 32), (1, 3, 64, 64)):
        for what, (ours, floor, bar) in cases(shape).items():
            a, b, r = ratio(ours, floor, rounds)
            name = f"oneprior {what} {'x'.join(map(str, shape))}"
            row = {"what": name, "value": a / STEPS, "floor": b / STEPS, "ratio": r, "bar": bar, "holds": r <= bar}
            out.append(row)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description="The cost of a step, beside loops written by hand.")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    table = rows()
    for row in table:
        us = f"{row['value'] * 1e6:8.1f} us  floor {row['floor'] * 1e6:8.1f} us"
        print(f"{row['what']:40s} {us}  ratio {row['ratio']:.2f}  bar {row['bar']}")
    if args.json:
        report = {
            "name": "step_cost",
            "versions": {"oneprior": oneprior.__version__, "torch": torch.__version__},
            "load": os.getloadavg()[0],
            "rows": table,
        }
        args.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
