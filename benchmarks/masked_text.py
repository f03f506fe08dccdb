"""What samplers of masked tokens cost, beyond the network and for text as good; and how good a prior of text is.

The network is a table of logits, so what is left is the sampler. The floor is ancestral sampling over the whole
vocabulary by hand, in float64 as it must be drawn: softmax, times the chance to be revealed, running sum, one search a
token, 64 steps of it. First hitting reveals 256 tokens in 64 calls, four a call, and looks at those four alone. A step
of the floor costs the same whatever the state, so the large cases time eight steps and take them eight times.

    python benchmarks/masked_text.py --overhead [--docs]

With a prior of text, first hitting stands beside cached ancestral sampling (no call where nothing was revealed), one
sample at a time, each at its fewest calls whose text is as good as that of first hitting one token a call, which is
exact: perplexity under an exact model of 5-grams and entropy within 1 % each, as far as the samples can tell.

    python benchmarks/masked_text.py --speed [--prior kjv] [--lengths 64,256,1024] [--keep FILE] [--docs]

The bound on held-out text stands beside models of n-grams and, with `--ar`, a causal transformer of the same size,
trained by the same recipe on the same text.

    python benchmarks/masked_text.py --bits [--prior kjv] [--ar runs/kjv-ar] [--docs]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peer_causal import causal_twin
from peers import between, versions
from torch import Tensor, nn

import oneprior
from oneprior.data.text import text
from oneprior.metrics import NGrams, TextScore, ngram_perplexity
from oneprior.storage import identity
from oneprior.tokens import Absorbing, Ancestral, Coins, FirstHitting, TokenDenoiser, TokenSampler, next_token
from oneprior.training.files import write_json
from oneprior.uses.tokens import nats

LENGTH, STEPS, BAR = 256, 64, 0.25
DOCS = Path(__file__).parents[1] / "docs"
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


class Kept(dict[str, Any]):
    """Figures of one prior by name, written to a file as they come: an interrupted table goes on from them."""

    def __init__(self, file: Path | None = None, of: str = "") -> None:
        found: dict[str, Any] = json.loads(file.read_text()) if file and file.exists() else {"of": of}
        if found["of"] != of:
            raise SystemExit(f"{file} is of the prior {found['of']}, this is {of}: give another --keep")
        super().__init__(found.get("figures", {}))
        self.file, self.of = file, of

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value)
        if self.file:
            write_json(self.file, {"of": self.of, "figures": dict(self)})


def speed(
    den: TokenDenoiser,
    model: NGrams,
    length: int,
    count: int,
    steps: Sequence[int],
    blocks: Sequence[int] = (8, 4, 2),
    kept: Kept | None = None,
) -> list[dict[str, Any]]:
    """First hitting with the most tokens a call, beside the fewest steps of cached ancestral sampling, whose text is as
    good as that of one token a call, which is exact; a row for each number tried, up to those two.

    As good: perplexity and entropy off by no more than 1 % and two standard errors of the difference, which a row says.
    """
    kept = Kept() if kept is None else kept

    def drawn(name: str, sampler: TokenSampler) -> tuple[float, TextScore]:
        """Seconds of the first samples, drawn one at a time; how good all are, the others drawn in batches."""
        key = f"{name}, L = {length}, {count} samples"
        if key not in kept:
            began = time.perf_counter()
            x = [sampler(den, (1, length), seeds=[i]) for i in range(min(8, count))]
            each = (time.perf_counter() - began) / len(x)
            rest = [range(i, min(i + 16, count)) for i in range(8, count, 16)]
            x += [sampler(den, (len(seeds), length), seeds=seeds) for seeds in rest]
            kept[key] = each, list(ngram_perplexity(torch.cat(x), model))
            print(f"{key}: {each:.3g} s a sample", flush=True)  # all take hours
        each, score = kept[key]
        return each, TextScore(*score)

    one = "first hitting, 1 token a call"
    (took, exact), rows = drawn(one, FirstHitting()), []

    def compared(name: str, each: float, found: TextScore) -> dict[str, Any]:
        off = found.perplexity / exact.perplexity - 1, found.entropy / exact.entropy - 1
        error = (
            math.hypot(found.perplexity_error, exact.perplexity_error) / exact.perplexity,
            math.hypot(found.entropy_error, exact.entropy_error) / exact.entropy,
        )
        scores: dict[str, Any] = {"perplexity": found.perplexity, "entropy": found.entropy}
        return shown(f"{name}, L = {length}", each, took, **scores, off=off, off_error=error)

    def cheapest(tries: dict[str, TokenSampler]) -> tuple[str, float] | None:
        for name, sampler in tries.items():
            rows.append(row := compared(name, *drawn(name, sampler)))
            if all(abs(v) <= 0.01 + 2 * e for v, e in zip(row["off"], row["off_error"], strict=True)):
                return name, row["value"]
        return None

    own, each = cheapest({f"first hitting, {k} tokens a call": FirstHitting(k) for k in blocks}) or (one, took)
    best = cheapest({f"cached ancestral, {n} steps": Ancestral(n, "split") for n in steps})
    found = best[0] if best else "no number of ancestral steps as good: the most"
    floor = best[1] if best else rows[-1]["value"]
    what = f"oneprior {own}, seconds a sample of {length} tokens, beside {found}"
    return [shown(what, each, floor, speedup=floor / each, samples=count), compared(one, took, exact), *rows]


def bits(
    den: TokenDenoiser, tokens: Tensor, train: Tensor, symbols: int, draws: int = 8, ar: nn.Module | None = None
) -> list[dict[str, Any]]:
    """Bits a character of texts (N, L) that training has not seen: the bound, models of n-grams, the causal net."""
    parts = [range(i, min(i + 32, len(tokens))) for i in range(0, len(tokens), 32)]
    bound = torch.cat([nats(den, tokens[i.start : i.stop], draws, i) for i in parts]).mean(1)
    each = bound / (math.log(2) * tokens.shape[1])
    error = float(each.std() / math.sqrt(len(each)))
    rows = [shown("oneprior, bound, bits a character", float(each.mean()), None, 1.9, error=error)]
    for order in (4, 5, 6):
        value = float(NGrams.of(train, symbols, order).bits(tokens).mean())
        rows.append(shown(f"interpolated Kneser-Ney of order {order}, bits a character", value))
    if ar is not None:
        with torch.no_grad():
            exact = torch.cat([next_token(ar, tokens[i.start : i.stop]).mean(1) for i in parts]) / math.log(2)
        gap = each - exact
        error = float(gap.std() / math.sqrt(len(gap)))
        rows.append(shown("causal transformer of the same size, bits a character", float(exact.mean())))
        rows.append(shown("bound less the causal transformer, bits a character", float(gap.mean()), error=error))
    return rows


def shown(what: str, value: float, floor: float | None = None, bar: float | None = None, **more: Any) -> dict[str, Any]:
    ratio = value / floor if floor else None
    holds = bar is None or value <= bar
    return {"what": what, "value": value, "floor": floor, "ratio": ratio, "bar": bar, "holds": holds, **more}


def table(rows: list[dict[str, Any]]) -> str:
    names = ["figure", "beside", "here", "ratio", "bar"]
    names += ["perplexity, entropy off"] if any("off" in r for r in rows) else []
    lines = [names, ["---"] * len(names)]
    for r in rows:
        floor, ratio = (f"{v:.3g}" if v is not None else "" for v in (r["floor"], r["ratio"]))
        value = f"{r['value']:.4g}" + (f" ± {r['error']:.2g}" if "error" in r else "")
        apart = zip(r.get("off", ()), r.get("off_error", ()), strict=True)
        off = ", ".join(f"{100 * v:+.1f} ± {100 * e:.1f} %" for v, e in apart)
        lines.append([r["what"], floor, value, ratio, "" if r["bar"] is None else str(r["bar"]), off][: len(names)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="What samplers of masked tokens cost, and how good text is.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--overhead", dest="what", action="store_const", const=overhead_of, help="beside a loop by hand")
    what.add_argument("--speed", dest="what", action="store_const", const=speed_of, help="of samplers, for equal text")
    what.add_argument("--bits", dest="what", action="store_const", const=bits_of, help="a character of held-out books")
    parser.add_argument("--prior", default="kjv", help="of text: folder, or the name of a shipped one; data: kjv")
    parser.add_argument("--ar", type=Path, help="folder of the causal baseline's training; begun if not there")
    parser.add_argument("--recipe", type=Path, default=Path("recipes/kjv.yaml"), help="by which it is trained")
    parser.add_argument("--lengths", type=lambda v: [int(n) for n in v.split(",")], default=[64, 256, 1024])
    parser.add_argument(
        "--samples",
        type=lambda v: [int(n) for n in v.split(",")],
        default=[1024, 64, 4],
        help="of each sampler, by length",
    )
    parser.add_argument("--keep", type=Path, help="file of figures that --speed has already, and goes on from")
    parser.add_argument("--held-out", type=int, help="windows of held-out text (none: all)")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--docs", action="store_true", help="write the results and the page in docs")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args(argv)
    if len(args.samples) != len(args.lengths):
        parser.error(f"--samples {args.samples} and --lengths {args.lengths}: as many of the one as of the other")
    torch.set_num_threads(1)
    load, rows = os.getloadavg()[0], args.what(args)
    print(table(rows))
    what = args.what.__name__.removesuffix("_of")
    name = f"masked_text_{what}"
    report = {"name": name, "versions": versions(["torch"]), "load": load, "rows": rows}
    for file in (args.json, DOCS / "results" / f"{name}.json" if args.docs else None):
        if file is not None:
            file.write_text(json.dumps(report, indent=1) + "\n")
    if args.docs:
        page = DOCS / "text.md"
        page.write_text(between(page.read_text(), f"benchmarks/masked_text.py --{what} --docs", table(rows)))
    raise SystemExit(not all(row["holds"] for row in rows))


def overhead_of(args: argparse.Namespace) -> list[dict[str, Any]]:
    return overhead(args.rounds)


def speed_of(args: argparse.Namespace) -> list[dict[str, Any]]:
    """At each length; rotary positions run on any, no better beyond the context."""
    prior, source = of_prior(args)
    model, rows = NGrams.of(source.tokens, prior.codec.symbols, 5), []
    kept = Kept(args.keep, identity(args.prior))
    for n, count in zip(args.lengths, args.samples, strict=True):
        rows += speed(prior.den, model, n, count, [n // 4, n // 2, n, 2 * n, 4 * n, 8 * n], kept=kept)
    return rows


def bits_of(args: argparse.Namespace) -> list[dict[str, Any]]:
    prior, source = of_prior(args)
    ar = args.ar and causal_twin(prior, source, args.ar, args.recipe)
    test = text("kjv", length=prior.shape[0], split="test", tokens=prior.codec).apart()
    tokens = torch.as_tensor(test.batch(range(min(args.held_out or len(test), len(test))))["x"])
    return bits(prior.den, tokens, source.tokens, prior.codec.symbols, ar=ar)


def of_prior(args: argparse.Namespace) -> tuple[Any, Any]:
    """The prior, and the text that it was trained on."""
    prior: Any = oneprior.load(args.prior)
    return prior, text("kjv", length=prior.shape[0], split="train", tokens=prior.codec)


def same_numbers(seed: int, length: int) -> Callable[[int], Tensor]:
    """The uniform numbers that `Ancestral` takes for its steps, one sample."""
    return lambda i: Coins([seed])(i, "value", (length,))


if __name__ == "__main__":
    main()
