"""The demo: one prior of real handwritten digits, trained in two minutes, and every use of it with its figure.

Leaves report.html, report.json, and prior/, which every command takes. `toy` is the same on points in the plane, with
exact scores beside the learned ones.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from oneprior import __version__
from oneprior.codecs import Codec, Pixels
from oneprior.conditions import Conditions, Label
from oneprior.data import Source, held_out, in_memory, subset
from oneprior.data import digits as digits_source
from oneprior.demo.baselines import Digits
from oneprior.demo.figures import FIGURES, Bench, Extent
from oneprior.denoiser import Facts, NetworkDenoiser
from oneprior.loading import load
from oneprior.nets import NetConfig, UNetConfig, build
from oneprior.objective import Objective
from oneprior.prior import Prior
from oneprior.report import curve, write_report
from oneprior.results import plain, png
from oneprior.schedules import Cosine
from oneprior.times import Uniform
from oneprior.training.engine import make_engine
from oneprior.training.files import write_bytes, write_json
from oneprior.training.run import RunFolder
from oneprior.training.settings import TrainSettings, as_json
from oneprior.training.trainer import Trainer

NETWORK = UNetConfig((1, 8, 8), classes=10, channels=(16, 32), dropout=0.35)
# Hiding the label from three in ten makes the unconditional half good enough to restore with; dropout keeps samples
# from lying closer to training digits than held-out digits do.
SAMPLES = 300_032
SETTINGS = TrainSettings(
    samples=SAMPLES, batch=256, lr=3e-3, warmup=10_000, decay="cosine", decay_from=170_000, betas=(0.9, 0.99), drop=0.3,
    averages=(0.05, 0.10), save_minutes=1.0, keep=1, log_every=4_096,
)  # fmt: skip
QUICK = replace(SETTINGS, samples=12_800, decay_from=6_400, log_every=1_280)
LITTLE = Extent(seeds=(0,), generate=400, images=60, restored=8, draws=4, edits=30)


class DemoJob(NamedTuple):
    """The command's settings."""

    out: str = "runs/demo"
    toy: bool = False
    force: bool = False
    quick: bool = False
    development: bool = False
    device: str = "auto"
    json: bool = False


def run(job: DemoJob) -> int:
    """0 when the report is written; its verdicts are for people to read."""
    if job.toy:
        from oneprior.demo.toy import toy

        return toy(job)
    console = Console(stderr=True, highlight=False)
    settings = replace(QUICK if job.quick else SETTINGS, device=job.device)
    train, test = parts(job.development)
    settings = scaled(settings, len(train) / TRAINING)
    began = time.perf_counter()
    prior, log = learn(job, train, Pixels(17), NETWORK, settings, console)
    seconds: dict[str, float] = {"train": time.perf_counter() - began}
    folder = Path(job.out)
    bench = Bench(prior, Digits.of(train, test), LITTLE if job.quick else Extent())
    rows, pictures = [], []
    with bars(console) as progress:
        task = progress.add_task("measuring", total=len(FIGURES))
        for use, figure in FIGURES.items():
            progress.update(task, description=use)
            if not console.is_terminal:
                console.print(f"measuring: {use}")
            at = time.perf_counter()
            found, seen = figure(bench)
            rows, pictures = rows + found, pictures + seen
            seconds[use] = time.perf_counter() - at
            progress.advance(task)
    pictures.append(("Loss", curve(*log, xlabel="samples seen", ylabel="loss", log=True), "Of the training run above."))
    finish(job, folder, rows, pictures, seconds, prior, console)
    return 0


TRAINING = 1437  # digits the recipe is for; fewer are seen as often


def scaled(settings: TrainSettings, share: float) -> TrainSettings:
    """The same schedule of training over `share` of the samples."""
    assert settings.samples is not None and settings.decay_from is not None
    return replace(
        settings,
        samples=int(settings.samples * share),
        warmup=int(settings.warmup * share),
        decay_from=int(settings.decay_from * share),
    )


def parts(development: bool) -> tuple[Source, Source]:
    """What is trained on and what is measured on. Recipe and settings are to be chosen in development, which takes a
    fifth of every class from the training digits and leaves the held-out ones alone."""
    train = digits_source("train")
    if not development:
        return train, digits_source("test")
    fit, aside = held_out(len(train), seed=2, groups=train.batch(range(len(train)))["label"].numpy())
    return subset(train, fit), subset(train, aside)


def learn(
    job: DemoJob, source: Source, codec: Codec, network: NetConfig, settings: TrainSettings, console: Console
) -> tuple[Prior, tuple[list[float], dict[str, list[float]]]]:
    """Train (or take up a run that was begun), with progress; saves and returns the prior, and the losses.

    Raises:
        KeyboardInterrupt: where Ctrl-C or SIGTERM ended it, behind a checkpoint.
    """
    facts = source.facts
    conditions = Conditions({"label": Label(facts.classes)} if facts.classes else {})
    net = build(network, settings.seed)
    den = NetworkDenoiser(net, Cosine(), "v", facts=Facts(null=conditions.null))
    objective = Objective(law=Uniform(1e-3, 1.0))
    resume = (Path(job.out) / "checkpoints").is_dir() and not job.force
    run = RunFolder.create(job.out, {"demo": True, "train": as_json(settings)}, force=job.force, resume=resume)
    trainer = Trainer(den, objective, in_memory(source), codec, conditions, settings, run, make_engine(settings))
    of = {"shape": list(facts.shape), "oneprior": __version__}
    of["data"] = {"name": facts.name, "count": facts.count, "licence": facts.licence, "levels": facts.levels}

    with bars(console, "{task.fields[said]}") as progress:
        task, loss, shown = progress.add_task("training", total=settings.samples, said=""), None, 0.0
        for state in trainer.fit():
            loss = state.loss.detach() if loss is None else torch.lerp(loss, state.loss.detach(), 0.05)
            if time.monotonic() - shown > 0.3:
                shown = time.monotonic()
                said = f"loss {loss.item():.3f}, {state.rate:,.0f} samples/s"
                progress.update(task, completed=state.n, said=said)
            if state.line and not console.is_terminal:  # a log has no bar
                console.print(f"n {state.n:,} of {settings.samples:,}  loss {state.line['loss']:.3f}")
    if trainer.stopped != "samples":
        console.print("stopped behind a checkpoint: the same command goes on")
        raise KeyboardInterrupt
    how = {"samples": trainer.n, "seconds": round(trainer.seconds, 1), "lr": settings.lr, "seed": settings.seed}
    with trainer.averages.applied():
        Prior(den, codec, conditions, {**of, "training": how}).save(run.prior, force=True)
    lines = run.lines()
    return load(run.prior), ([x["n"] for x in lines], {"loss": [x["loss"] for x in lines]})


def bars(console: Console, *more: str) -> Progress:
    columns = [TextColumn("{task.description:12s}"), BarColumn(), TimeRemainingColumn(), *(TextColumn(m) for m in more)]
    return Progress(*columns, console=console, transient=True)


def finish(
    job: DemoJob,
    folder: Path,
    rows: list[dict[str, Any]],
    pictures: list[Any],
    seconds: dict[str, float],
    prior: Prior,
    console: Console,
) -> None:
    """Write report.html, report.json and the pictures; say where they are."""
    record = {"rows": plain(rows), "seconds": seconds, "oneprior": __version__, "torch": torch.__version__}
    write_json(folder / "report.json", record)
    write_report(
        folder / "report.html",
        title="One prior, every use" if not job.toy else "One prior in the plane",
        lead=f"{prior!r}. Trained from nothing just now; every figure on data it has not seen.",
        rows=rows,
        pictures=pictures,
        seconds=seconds,
        notes=NOTES,
        prior_card={**prior.facts, "network": type(prior.den).__name__},
    )
    for name, image, _ in pictures:
        if hasattr(image, "save"):
            write_bytes(folder / f"{name.lower().replace(', ', '-').replace(' ', '-')}.png", png(image))
    if job.json:
        print(json.dumps(record))
        return
    for r in rows:
        error = f" +- {r['stderr']:.3f}" if r.get("stderr") is not None else ""
        console.print(f"{MARK[r['verdict']]:3s} {r['use']:11s}{r['metric']:34s}{r['value']:8.3f}{error}  ({r['bar']})")
    console.print(f"report: {folder / 'report.html'}   prior: {folder / 'prior'}   ({sum(seconds.values()):.0f} s)")


MARK = {True: "ok", False: "no", None: ""}
NOTES = [
    "Each figure is the mean over noise seeds with the standard error of that mean. Beside it stands the best that we "
    "know without a diffusion model (logistic regression, one Gaussian, one Gaussian per class, the Wiener filter, "
    "blending of class means), and the null: the same measured on real data, or chance.",
    "The network was not trained on the digits that it is measured on. Settings are chosen in development (`oneprior "
    "demo --development`: a fifth of the training digits stands aside), but part of the recipe was first chosen while "
    "looking at held-out digits: read all but the edits as development figures.",
    "The prior is in the folder prior/ beside this page: every command of oneprior takes it.",
]
