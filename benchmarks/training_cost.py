"""What the trainer adds to a training step, over a hand loop that does the same work.

Digits (8 x 8), batch 128. The hand loop draws whole batches from one generator, clips, steps a fused AdamW and updates
two averages; it cannot be resumed or split. Both take turns, a few steps each; medians of processor time.

    python benchmarks/training_cost.py --json training_cost.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch

from oneprior.codecs.pixels import Pixels
from oneprior.conditions import Conditions, Label
from oneprior.data.digits import digits
from oneprior.denoiser import NetworkDenoiser
from oneprior.nets import build
from oneprior.nets.config import MLPConfig, NetConfig, UNetConfig
from oneprior.objective import Objective
from oneprior.schedules import Cosine
from oneprior.training.settings import TrainSettings
from oneprior.training.trainer import Trainer

BATCH, BAR = 128, 1.10


def hand(config: NetConfig) -> Callable[[], None]:
    source = digits("train")
    data = source.batch(range(len(source)))
    den, objective = NetworkDenoiser(build(config), Cosine(), "v"), Objective()
    parameters = list(den.parameters())
    live = [p.detach() for p in parameters]
    averages = [[p.clone() for p in live] for _ in range(2)]
    optimiser = torch.optim.AdamW(parameters, lr=3e-4, fused=True)
    g = torch.Generator().manual_seed(0)

    def step() -> None:
        i = torch.randint(len(source), (BATCH,), generator=g)
        x = data["x"][i]
        x0 = (x * 16 + torch.rand(x.shape, generator=g)) * (2 / 17) - 1
        label = torch.where(torch.rand(BATCH, generator=g) < 0.1, 10, data["label"][i])
        t, eps = torch.rand(BATCH, generator=g), torch.randn(x.shape, generator=g)
        optimiser.zero_grad()
        objective(den, x0, t, eps, label=label).mean().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        for average in averages:
            torch._foreach_lerp_(average, live, 0.01)  # pyright: ignore[reportPrivateImportUsage]

    return step


def ours(config: NetConfig, conditions: Conditions) -> Callable[[], None]:
    den = NetworkDenoiser(build(config), Cosine(), "v")
    settings = TrainSettings(samples=10**9, batch=BATCH, device="cpu")
    fit = Trainer(den, Objective(), digits("train"), Pixels(17), conditions, settings).fit()
    return lambda: void(next(fit))


def void(_: object) -> None: ...


def seconds(step: Callable[[], None], steps: int) -> float:
    start = time.process_time()
    for _ in range(steps):
        step()
    return (time.process_time() - start) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    source = digits("train")
    conditions = Conditions({"label": Label(source.facts.classes or ())})
    configs: dict[str, tuple[NetConfig, float | None]] = {
        "U-Net of 0.26M": (UNetConfig(source.facts.shape, channels=(20, 40), **conditions.fields), BAR),
        "MLP of 0.25M": (MLPConfig(source.facts.shape, width=128, depth=4, **conditions.fields), None),
    }
    rows = []
    for name, (config, bar) in configs.items():
        torch.manual_seed(0)
        a, b = hand(config), ours(config, conditions)
        for warm in (a, b):
            seconds(warm, 3)
        pairs = [(seconds(a, 4), seconds(b, 4)) for _ in range(12)]
        floor, value = (statistics.median(p[i] for p in pairs) for i in (0, 1))
        ratio = value / floor
        holds = None if bar is None else ratio <= bar
        row = {"what": f"oneprior training step, {name}", "value": value, "floor": floor, "ratio": ratio}
        rows.append({**row, "bar": bar, "holds": holds})
        print(f"{row['what']}: {1e3 * value:.1f} ms, by hand {1e3 * floor:.1f} ms, ratio {ratio:.2f}")
    versions = {p: version(p) for p in ("torch", "numpy")}
    load = list(os.getloadavg()) if hasattr(os, "getloadavg") else None
    if args.json:
        out = {"name": "training_cost", "versions": versions, "load": load, "rows": rows}
        args.json.write_text(json.dumps(out, indent=1) + "\n")
    raise SystemExit(any(row["holds"] is False for row in rows))


if __name__ == "__main__":
    main()
