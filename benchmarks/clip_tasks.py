"""One model of clips for four uses, beside a model trained for each use alone at equal compute (docs/video.md).

    python benchmarks/clip_tasks.py --runs runs/clip-tasks --docs

Digits that bounce in 12 x 12 pixels, windows of 8 frames. A model with a time a frame draws clips (generation), goes on
from a picture (image to video), fills in between two (interpolation) and goes on for 120 frames by windows of 8 with 4
known ones (extension). It was trained with a time a frame for a share p of the clips (PTSS, Liu et al. 2024), or with
frames known at random (`times.Known`); the others saw as many samples with the times of their one use. Pictures and
clips to begin from move digits that no model was trained on. Figures: Frechet distances of looks and of motion to
held-out clips (`metrics.frechet_video`), beside what two halves of held-out clips have. Of extension, also those of
frames 17-48 and 97-128, and how much the memory in use grew from the second window to the last.

Everything is kept by seed and model: the same command goes on where it was stopped, in the middle of a training too.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from peers import between
from torch import Tensor

from oneprior import __version__
from oneprior.codecs import Pixels
from oneprior.data import MovingDigits
from oneprior.denoiser import Facts, NetworkDenoiser
from oneprior.metrics import frechet_video
from oneprior.nets import ClipConfig, UNetConfig, build
from oneprior.objective import Objective
from oneprior.results import contact
from oneprior.sampling import sample
from oneprior.schedules import Cosine
from oneprior.times import Known, PerElement, TimeLaw, Uniform
from oneprior.training.settings import TrainSettings
from oneprior.training.trainer import Trainer
from oneprior.uses import video

FRAMES, SIZE, CONTEXT, LENGTH = 8, 12, 4, 128
NET = ClipConfig((FRAMES, 1, SIZE, SIZE), frame=UNetConfig((1, SIZE, SIZE), channels=(8, 16, 32)))
SAMPLES, BATCH, CLIPS, LONG, STEPS = 28_000, 16, 256, 48, 12  # clips seen; drawn of each use; and of extension
EVEN = Uniform(1e-4, 1.0)
JOINT: dict[str, TimeLaw] = {
    "p = 0.2": PerElement(EVEN, (0,), 0.2), "p = 1": PerElement(EVEN, (0,), 1.0), "known at random": Known(None, EVEN),
}  # fmt: skip
ALONE: dict[str, TimeLaw] = {
    "generation": EVEN,
    "image to video": Known((0,), EVEN),
    "interpolation": Known((0, -1), EVEN),
    "extension": Known(tuple(range(CONTEXT)), EVEN),
}
BAR, DRIFT = 1.25, 1.2
FIGURES = ("appearance", "motion")
DOCS = Path(__file__).parents[1] / "docs"
CODEC = Pixels(None)


def world(split: str) -> MovingDigits:
    return MovingDigits(FRAMES, SIZE, speed=1.0, split=split)


def held_out(first: int, count: int) -> Tensor:
    return world("test").batch(range(first, first + count))["x"]


def trained(law: TimeLaw, seed: int, samples: int, run: Path | None) -> NetworkDenoiser:
    """Averaged weights; goes on from the checkpoints of `run`."""
    den = NetworkDenoiser(build(NET, seed), Cosine(), "v", facts=Facts(time_axes=1))
    settings = TrainSettings(
        samples=samples, batch=BATCH, lr=4e-3, warmup=samples // 20, decay="cosine", betas=(0.9, 0.99), seed=seed,
        averages=(0.05,), device="cpu", save_minutes=0.5, log_every=samples // 20,
    )  # fmt: skip
    trainer = Trainer(den, Objective(law=law), world("train"), CODEC, settings=settings, run=run)
    for state in trainer.fit():
        if state.line:
            print(f"  {state.n:,} of {samples:,}: loss {state.line['loss']:.4f}, {state.rate:.0f} a second", flush=True)
    if trainer.stopped != "samples":
        raise SystemExit(f"stopped by {trainer.stopped}; the same command goes on")
    with trainer.averages.applied():
        return den.eval()


def drawn(den: NetworkDenoiser, use: str, clips: int, seed: int) -> Iterator[Tensor]:
    """Clips (B, F, 1, H, W) in [0, 1] of one use; of extension, windows of new frames one behind the other."""
    seeds = range(seed * clips, seed * clips + clips)
    how: dict[str, Any] = {"steps": STEPS, "seeds": seeds}
    known = CODEC.encode(held_out(100_000 + seeds[0], clips))
    if use == "generation":
        yield CODEC.decode(sample(den, known.shape, **how), clip=True)
    elif use == "image to video":
        yield CODEC.decode(video.animate(den, known[:, 0], FRAMES, **how), clip=True)
    elif use == "interpolation":
        yield CODEC.decode(video.interpolate(den, known[:, 0], known[:, -1], FRAMES, **how), clip=True)
    else:
        for new in video.extend(den, known, LENGTH - FRAMES, window=FRAMES, context=CONTEXT, **how):
            yield CODEC.decode(new, clip=True)


def rows(
    model: str, den: NetworkDenoiser, seed: int, clips: int, long: int, show: Callable[[str, Tensor], Any]
) -> Iterator[dict[str, Any]]:
    """One row a use that the model is for."""
    for use in ALONE if model in JOINT else (model,):
        began, parts, used = time.process_time(), [], []
        for part in drawn(den, use, long if use == "extension" else clips, seed):
            parts.append(part)
            used.append(memory())
        x = torch.cat(parts, 1)
        row: dict[str, Any] = {"seed": seed, "model": model, "use": use, "seconds": time.process_time() - began}
        if use == "extension":
            row["MB more"] = used[-1] - used[1]
            for name, (first, last) in {"17-48": (17, 48), "97-128": (97, 128)}.items():
                row |= {f"{k} {name}": v for k, v in figures(x[:, first - 1 - FRAMES : last - FRAMES]).items()}
        show(f"{model}-{use}-{seed}".replace(" ", "-"), x[:8, :32])
        yield row | figures(x)


def figures(x: Tensor) -> dict[str, float]:
    """Of all windows of clips (B, n F, ...), beside twice as many held-out ones."""
    x = x.unflatten(1, (-1, FRAMES)).flatten(0, 1)
    s = frechet_video(held_out(0, 2 * len(x)), x)
    nulls = {"null appearance": s.null_appearance.mean, "null motion": s.null_motion.mean}
    return {"appearance": s.appearance, "motion": s.motion, **nulls}


def memory() -> float:
    """Megabytes of this process in memory now, 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        return 0.0


def table(found: list[dict[str, Any]]) -> str:
    """Means over the seeds that are there; each joint model beside the one of the use."""
    lines = [
        "| use | model | seeds | appearance | motion | of the single model's | holds |",
        "|---|---|---|---|---|---|---|",
    ]
    for use in ALONE:
        means = {}
        for model in (use, *JOINT):
            some = [r for r in found if (r["model"], r["use"]) == (model, use)]
            if not some:
                continue
            means[model] = m = {k: fmean(r[k] for r in some) for k in FIGURES}
            ratio, holds = "", ""
            if model in JOINT and use in means:
                of = [m[k] / means[use][k] for k in FIGURES]
                ratio, holds = " / ".join(f"{v:.2f}" for v in of), "yes" if max(of) <= BAR else "no"
            name = "this use alone" if model == use else model
            looks, moves = (f"{m[k]:.3g} (null {fmean(r[f'null {k}'] for r in some):.2g})" for k in FIGURES)
            lines.append(f"| {use} | {name} | {len(some)} | {looks} | {moves} | {ratio} | {holds} |")
    lines += [
        "",
        "| extension by | frames 17-48 | frames 97-128 | ratio | holds | MB more |",
        "|---|---|---|---|---|---|",
    ]
    for model in ("extension", *JOINT):
        if some := [r for r in found if (r["model"], r["use"]) == (model, "extension")]:
            a, b = ([fmean(r[f"{k} {which}"] for r in some) for k in FIGURES] for which in ("17-48", "97-128"))
            of = [v / u for u, v in zip(a, b, strict=True)]
            said = [" / ".join(f"{v:.3g}" for v in pair) for pair in (a, b, of)]
            more = max(r["MB more"] or 0.0 for r in some)
            lines.append(f"| {model} | {' | '.join(said)} | {'yes' if max(of) <= DRIFT else 'no'} | {more:.1f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/clip-tasks"), help="folder of trainings and rows")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--models", nargs="*", default=[*JOINT, *ALONE], choices=[*JOINT, *ALONE])
    parser.add_argument("--samples", type=int, default=SAMPLES, help="clips seen in a training")
    parser.add_argument("--clips", type=int, default=CLIPS, help="drawn of each use")
    parser.add_argument("--long", type=int, default=LONG, help="drawn of extension")
    parser.add_argument("--docs", action="store_true", help="write results and page in docs")
    given = parser.parse_args()
    torch.set_num_threads(1)
    head = {"name": "clip_tasks", "net": repr(NET), "samples": given.samples, "batch": BATCH, "clips": given.clips}
    head |= {"long": given.long, "steps": STEPS, "versions": {"oneprior": __version__, "torch": torch.__version__}}
    given.runs.mkdir(parents=True, exist_ok=True)
    file, report = given.runs / "rows.json", head | {"rows": []}
    if file.is_file():
        report = json.loads(file.read_text())
        if not head.items() <= report.items():
            raise SystemExit(f"{file} is of other settings than {head}: give another --runs")

    def show(name: str, x: Tensor) -> None:
        contact(x).save(given.runs / f"{name}.png")

    for seed, model in ((s, m) for s in given.seeds for m in given.models):
        if any((r["seed"], r["model"]) == (seed, model) for r in report["rows"]):
            continue
        print(f"seed {seed}, {model}", flush=True)
        run, began = given.runs / f"{model}-{seed}".replace(" ", "-"), time.process_time()
        den = trained((JOINT | ALONE)[model], seed, given.samples, run)
        print(f"  trained: {time.process_time() - began:.0f} s of the processor", flush=True)
        report["rows"] += list(rows(model, den, seed, given.clips, given.long, show))
        file.write_text(json.dumps(report, indent=1) + "\n")
        print(f"  {time.process_time() - began:.0f} s in all\n{table(report['rows'])}", flush=True)
    if given.docs:
        (DOCS / "results" / "clip_tasks.json").write_text(json.dumps(report, indent=1) + "\n")
        page = DOCS / "video.md"
        page.write_text(between(page.read_text(), "benchmarks/clip_tasks.py --docs", table(report["rows"])))
    print(table(report["rows"]))


if __name__ == "__main__":
    main()
