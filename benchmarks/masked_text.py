"""What samplers of masked tokens cost: `--overhead`, beyond the network.

The network is a table of logits, so what is left is the sampler. The floor is ancestral sampling over the whole
vocabulary by hand, in float64 as it must be drawn: softmax, times the chance to be revealed, running sum, one search a
token, 64 steps of it. First hitting reveals 256 tokens in 64 calls, four a call, and looks at those four alone. A step
of the floor costs the same whatever the state, so the large cases time eight steps and take them eight times.

    python benchmarks/masked_text.py --overhead --json masked_text.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peers import versions
from torch import Tensor, nn

from oneprior.tokens import Absorbing, Ancestral, Coins, FirstHitting, TokenDenoiser, TokenSampler

LENGTH, STEPS, BAR = 256, 64, 0.25
CASES = ((1, 8192), (8, 8192), (1, 32768), (8, 32768))
SAMPLERS: dict[str, TokenSampler] = {
    "FirstHitting(4)": FirstHitting(LENGTH // STEPS),
    "Ancestral(64, split)": Ancestral(STEPS, "split"),
}


class Table(nn.Module):
    """Logits (L, V) of each position, whatever the tokens; counts its calls."""

    def __init__(self, length: int, vocab: int) -> None:
        super().__init__()
        self.table = torch.randn(length, vocab, generator=torch.Generator().manual_seed(0))
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.table.expand(len(x), -1, -1)


def by_hand(
    net: Table, batch: int, steps: int = STEPS, of: int = STEPS, u: Callable[[int], Tensor] | None = None
) -> Tensor:
    """The first `steps` of `of` steps of ancestral sampling, u(i) (B, L) uniform numbers of step i; tokens (B, L)."""
    L, V = net.table.shape
    x = torch.full((batch, L), V - 1)
    g = torch.Generator().manual_seed(0)
    for i in range(1, steps + 1):
        t, s = 1 - (i - 1) / of, 1 - i / of
        p = net(x).double()
        p[..., -1] = -torch.inf
        p = torch.softmax(p, -1).mul_((t - s) / t)
        p[..., -1] = s / t
        cdf = p.cumsum_(-1)
        drawn = torch.rand(batch, L, generator=g, dtype=torch.float64) if u is None else u(i)
        new = torch.searchsorted(cdf, (drawn * cdf[..., -1])[..., None], right=True)[..., 0]
        x = torch.where(x == V - 1, new, x)
    return x


def denoiser(net: Table) -> TokenDenoiser:
    return TokenDenoiser(net, Absorbing(net.table.shape[1]), timed=False)


def seconds(run: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def overhead(
    rounds: int = 3, cases: tuple[tuple[int, int], ...] = CASES, part: int | None = None
) -> list[dict[str, Any]]:
    """A row a sampler and case: medians over the rounds, in turn, after one to warm up. part: steps of the floor."""
    rows = []
    for batch, vocab in cases:
        net, few = Table(LENGTH, vocab), part or (STEPS if batch * vocab <= 8192 else 8)
        runs = {n: partial(s, denoiser(net), (batch, LENGTH), seeds=range(batch)) for n, s in SAMPLERS.items()}
        each: dict[str, list[float]] = {name: [] for name in ("floor", *runs)}
        for i in range(rounds + 1):
            now = {"floor": seconds(partial(by_hand, net, batch, few)) * STEPS / few}
            now |= {name: seconds(run) for name, run in runs.items()}
            for name, value in now.items() if i else ():
                each[name].append(value)
        floor = statistics.median(each["floor"])
        for name in runs:
            ratio = statistics.median(a / b for a, b in zip(each[name], each["floor"], strict=True))
            rows.append(
                {
                    "what": f"oneprior {name}, B = {batch}, L = {LENGTH}, V = {vocab}",
                    "value": statistics.median(each[name]),
                    "floor": floor,
                    "ratio": ratio,
                    "fastest": min(each[name]) / min(each["floor"]),
                    "bar": BAR,
                    "holds": ratio <= BAR,
                }
            )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| seconds a batch | by hand | here | ratio | bar |", "| --- | --- | --- | --- | --- |"]
    for r in rows:
        lines.append(f"| {r['what']} | {r['floor']:.3g} | {r['value']:.3g} | {r['ratio']:.3f} | <= {r['bar']} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="What samplers of masked tokens cost.")
    parser.add_argument("--overhead", action="store_true", help="the samplers beside a loop by hand, with a table")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if not args.overhead:
        parser.error("say what to measure: --overhead")
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    rows = overhead(args.rounds)
    print(table(rows))
    report = {"name": "masked_text", "versions": versions(["torch"]), "load": load, "rows": rows}
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    raise SystemExit(not all(row["holds"] for row in rows))


def same_numbers(seed: int, length: int) -> Callable[[int], Tensor]:
    """The uniform numbers that `Ancestral` takes for its steps, one sample."""
    return lambda i: Coins([seed])(i, "value", (length,))


if __name__ == "__main__":
    main()
