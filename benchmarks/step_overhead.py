"""What a step of a sampler costs beyond the network: ours, the same method written by hand, and every peer.

The network is trivial (one multiplication), so what is left is the loop. The hand loops below are written for speed:
coefficients as Python floats, in-place updates, one generator, no checks. Ours is the whole public call with its plan
cached, start noise and the test for non-finite values included. The peers are in peer_loops.py. All are timed in turn,
there and back, so what else the machine does falls on each alike.

    python benchmarks/step_overhead.py --json step_overhead.json    # or --docs: rewrite the table in docs/speed.md
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Collection
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import peer_loops
import torch
from peers import PEERS, between, versions
from torch import Tensor

from oneprior.denoiser import Denoiser, Facts
from oneprior.guidance import CFG
from oneprior.paths import Hold
from oneprior.posterior import Posterior
from oneprior.sampling import grids, sample
from oneprior.schedules import Cosine

STEPS = 100
SHAPES = ((16, 3, 32, 32), (1, 3, 64, 64))
BAR, HELD_BAR = 1.5, 2.5
DOCS = Path(__file__).resolve().parent.parent / "docs"
COMMAND = "benchmarks/step_overhead.py --docs"

Shape = tuple[int, ...]
Loop = Callable[[], Any]


class Trivial(Denoiser):
    """D = x / 2: one multiplication."""

    def __init__(self, time_axes: int = 0) -> None:
        super().__init__()
        self.schedule, self.facts = Cosine(), Facts(time_axes=time_axes, null={"label": None})

    def posterior(self, x: Tensor, t, **cond) -> Posterior:
        return Posterior(network(x), x, self.schedule, t)


def network(x: Tensor) -> Tensor:
    """What stands for the network on every side."""
    return x * 0.5


def coefficients(times: tuple[float, ...]) -> list[tuple[float, float]]:
    return [(math.cos(math.pi * t / 2), math.sin(math.pi * t / 2)) for t in times]


def hand_ddim(shape: Shape, cs: list[tuple[float, float]], guided: bool = False) -> Tensor:
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


def hand_2m(shape: Shape, cs: list[tuple[float, float]]) -> Tensor:
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


def hand_heun(shape: Shape, cs: list[tuple[float, float]]) -> Tensor:
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


class UniPC(NamedTuple):
    """A step of UniPC-2 (Zhao et al. 2023, B = e^-h - 1): x' = r x + p0 D_0 + p1 D_1, and once the network has seen x'
    the step is taken again from the old x with D', unless it is the last: r x + c' D' + c0 D_0 + c1 D_1."""

    r: float
    p: tuple[float, float]
    c: tuple[float, float, float] | None


def unipc(cs: list[tuple[float, float]]) -> list[UniPC]:
    lam = [math.log(a / s) if a > 1e-12 and s > 1e-12 else math.nan for a, s in cs]
    out = []
    for i, ((a, s), (a1, s1)) in enumerate(pairwise(cs)):
        r = s1 / s
        c = a1 - r * a
        h, old = lam[i + 1] - lam[i], lam[i] - lam[i - 1] if i else math.nan
        if math.isnan(h):  # from alpha = 0 or to sigma = 0: first order, and nothing to correct
            out.append(UniPC(r, (c, 0.0), None))
            continue
        q, new, back = (0.0 if math.isnan(old) else h / old), 0.5, 0.0
        if q:  # two unknowns: the slopes to D_1 at -1/q and to D' at 1
            B = math.expm1(-h)
            second = B / -h - 1
            third = second / -h - 0.5
            b1, b2 = second / B, 2 * third / B
            back = (b1 - b2) / (1 + 1 / q)
            new = b1 - back
        out.append(UniPC(r, (c * (1 + q / 2), -c * q / 2), (c * new, c * (1 - new + back * q), -c * back * q)))
    return out


def hand_unipc(shape: Shape, steps: list[UniPC]) -> Tensor:
    x, base, old, older = torch.randn(shape), None, None, None
    last = UniPC(0.0, (0.0, 0.0), None)
    for step in steps:
        d = network(x)
        if last.c is not None and base is not None and old is not None:
            new, c0, c1 = last.c
            base.mul_(last.r).add_(d, alpha=new).add_(old, alpha=c0)
            if c1 and older is not None:
                base.add_(older, alpha=c1)
            x, base = base, x
        if step.c is None:
            x.mul_(step.r).add_(d, alpha=step.p[0])
            base = None
        else:  # x stays for the corrector; what the network saw makes room for the prediction
            ahead = torch.mul(x, step.r, out=base) if base is not None else x * step.r
            ahead.add_(d, alpha=step.p[0])
            if step.p[1] and old is not None:
                ahead.add_(old, alpha=step.p[1])
            x, base = ahead, x
        last, old, older = step, d, old
    return x


def hand_held(shape: Shape, times: tuple[float, ...], known: Tensor, value: Tensor) -> Tensor:
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


class Case(NamedTuple):
    """bar: on the ratio of ours to the same by hand."""

    ours: Loop
    hand: Loop
    bar: float


def cases(shape: Shape) -> dict[str, Case]:
    times = grids.cosine_time(Cosine(), STEPS)
    cs = coefficients(times)
    den, held_den, guided = Trivial(), Trivial(3), CFG(Trivial(), 2.0)
    label = torch.zeros(shape[0], dtype=torch.long)
    mask = torch.zeros(shape[0], 1, *shape[2:], dtype=torch.bool)
    mask[..., ::2] = True
    known, value = mask.expand(shape), torch.zeros(shape)
    ours = partial(sample, shape=shape, steps=STEPS, seeds=range(shape[0]))
    hold = Hold(value, mask)
    return {
        "DDIM": Case(partial(ours, den, sampler="ddim"), partial(hand_ddim, shape, cs), BAR),
        "2M": Case(partial(ours, den, sampler="2m"), partial(hand_2m, shape, cs), BAR),
        "Heun": Case(partial(ours, den, sampler="heun"), partial(hand_heun, shape, cs), BAR),
        "UniPC-2": Case(partial(ours, den, sampler="unipc2"), partial(hand_unipc, shape, unipc(cs)), BAR),
        "guided DDIM": Case(
            partial(ours, guided, sampler="ddim", label=label), partial(hand_ddim, shape, cs, True), BAR
        ),
        "half held DDIM": Case(
            partial(ours, held_den, sampler="ddim", hold=hold), partial(hand_held, shape, times, known, value), HELD_BAR
        ),
    }


def in_turn(loops: dict[str, Loop], rounds: int) -> dict[str, list[float]]:
    """Seconds of each loop in each round, one after the other, every second round backwards; two rounds to warm up."""
    out: dict[str, list[float]] = {name: [] for name in loops}
    there = list(loops.items())
    for i in range(rounds + 2):
        for name, loop in there[::-1] if i % 2 else there:
            begin = time.perf_counter()
            loop()
            if i > 1:
                out[name].append(time.perf_counter() - begin)
    return out


def rows(rounds: int = 40, beside: bool = True, only: Collection[str] | None = None) -> list[dict[str, Any]]:
    """A row a method and shape: median seconds a step, and the median over the rounds of ours / by hand.

    beside: the peers too. only: rows by name, all without.
    """
    out = []
    for shape in SHAPES:
        others = peer_loops.loops(shape, STEPS, network) if beside else {}
        for what, case in cases(shape).items():
            name = f"{what}, {'x'.join(map(str, shape))}"
            if only is not None and name not in only:
                continue
            loops: dict[str, Loop] = {"ours": case.ours, "hand": case.hand, **others.get(what, {})}
            each = in_turn(loops, rounds)
            ratio = statistics.median(a / b for a, b in zip(each["ours"], each["hand"], strict=True))
            value, floor, *rest = (statistics.median(v) / STEPS for v in each.values())
            peer_values = dict(zip(list(loops)[2:], rest, strict=True))
            out.append(
                {
                    "what": name,
                    "value": value,
                    "floor": floor,
                    "ratio": ratio,
                    "fastest": min(each["ours"]) / min(each["hand"]),
                    "bar": case.bar,
                    "holds": ratio <= case.bar,
                    "peers": peer_values,
                    "lowest": all(value < v for v in peer_values.values()),
                }
            )
    return out


def table(report: dict[str, Any]) -> str:
    """The rows of a report in Markdown, in microseconds a step."""
    names = [name for name in PEERS if any(name in row["peers"] for row in report["rows"])]
    head = ["microseconds a step", "by hand", "oneprior", "ratio", "bar", *names]
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join(['---'] * len(head))} |"]
    for row in report["rows"]:
        ours = [f"{row['floor'] * 1e6:.0f}", f"{row['value'] * 1e6:.0f}", f"{row['ratio']:.2f}", f"<= {row['bar']}"]
        theirs = [f"{row['peers'][name] * 1e6:.0f}" if name in row["peers"] else "" for name in names]
        lines.append(f"| {' | '.join([row['what'], *ours, *theirs])} |")
    used = ", ".join(f"{k} {v}" for k, v in report["versions"].items())
    return "\n".join([*lines, "", f"One thread, load {report['load']:.1f}; {used}."])


def main() -> None:
    parser = argparse.ArgumentParser(description="The cost of a step, beside loops by hand and other libraries.")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--docs", action="store_true", help="write docs/results/step_overhead.json and docs/speed.md")
    parser.add_argument("--rounds", type=int, default=40)
    args = parser.parse_args()
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    report = {"name": "step_overhead", "versions": versions(["torch", *PEERS]), "load": load, "rows": rows(args.rounds)}
    print(table(report))
    for row in report["rows"]:
        if not row["lowest"]:
            print(f"{row['what']}: a peer is faster")
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    if args.docs:
        (DOCS / "results" / "step_overhead.json").write_text(json.dumps(report, indent=1) + "\n")
        page = DOCS / "speed.md"
        page.write_text(between(page.read_text(), COMMAND, table(report)))
    raise SystemExit(not all(row["holds"] for row in report["rows"]))


if __name__ == "__main__":
    main()
