"""What an error table costs beyond its network calls: 1,000 digits x 10 classes x 32 evaluations.

The floor is the bare network on tensors that are there already: the same batch size, type and number of calls. Rounds
of the sides take turns, and of each the best of three counts, in seconds of the processor: on one thread they are the
work, whatever else the machine does. A round is some of the 32 evaluations; a table is nothing but 32 of them.

    python benchmarks/error_table.py --json docs/results/error_table.json
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from typing import Any

import torch

import oneprior
from oneprior.data import digits
from oneprior.loading import load
from oneprior.uses.errors import Plan, errors

IMAGES, CLASSES, EVALUATIONS, BATCH, BAR = 1000, 10, 32, 500, 0.9


def measure(each: int = 4, rounds: int = 3, images: int = IMAGES) -> list[dict[str, Any]]:
    """each: evaluations of a round."""
    prior = load("digits")
    x = prior.codec.encode(digits("train").batch(range(images))["x"])
    ten, plan = {"label": torch.arange(CLASSES)}, Plan(EVALUATIONS, lam=(-2.0, 1.0))
    net: Any = prior.den.net
    noisy, t, label = torch.randn(BATCH, *x.shape[1:]), torch.full((BATCH,), 0.5), torch.arange(BATCH) % CLASSES
    calls, best = images * CLASSES * each, {"table": float("inf"), "own": float("inf"), "bare": float("inf")}

    def bare() -> None:
        with torch.no_grad():
            for _ in range(calls // BATCH):
                net(noisy, t, label=label)

    def table(seeds: range | None) -> None:
        errors(prior.den, x, ten, plan, which=range(each), max_batch=BATCH, seeds=seeds)

    sides = {"bare": bare, "table": lambda: table(None), "own": lambda: table(range(images))}
    for _ in range(rounds):
        for name, side in sides.items():
            began = time.process_time()
            side()
            best[name] = min(best[name], time.process_time() - began)
    return [
        {"what": f"oneprior: {what}", "value": calls / best[name], "floor": calls / best["bare"],
         "ratio": best["bare"] / best[name], "bar": BAR, "holds": best["bare"] / best[name] >= BAR}
        for name, what in (("table", "one noise for all digits"), ("own", "noise of its own for each digit"))
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="file to write")
    parser.add_argument("--each", type=int, default=4, help="evaluations of a round, of 32")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = measure(args.each)
    for row in rows:
        print(
            f"{row['what']}: {row['value']:,.0f} of {row['floor']:,.0f} a second, {row['ratio']:.3f} (>= {row['bar']})"
        )
    if args.json:
        record = {
            "name": "error_table", "command": shlex.join(["python", "benchmarks/error_table.py", *sys.argv[1:]]),
            "versions": {"oneprior": oneprior.__version__, "torch": torch.__version__}, "load": os.getloadavg()[0],
            "evaluations a round": args.each, "rows": rows,
        }  # fmt: skip
        with open(args.json, "w") as file:
            file.write(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
