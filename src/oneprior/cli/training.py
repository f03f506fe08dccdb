"""The training job: run folder, progress, previews, a prior that can be loaded at any moment, and the report."""

from __future__ import annotations

import math
import shlex
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from PIL import Image
from rich.progress import TaskProgressColumn, TextColumn

from oneprior.cli.build import Parts, parts
from oneprior.cli.inputs import label_of, write_picture
from oneprior.cli.options import flat, from_file
from oneprior.cli.screen import Screen
from oneprior.cli.train import TrainJob, folder_of
from oneprior.prior import Prior
from oneprior.report import curve, duration, write_report
from oneprior.results import grid
from oneprior.training.dryrun import dry_run
from oneprior.training.engine import make_engine
from oneprior.training.run import RunFolder
from oneprior.training.settings import TrainSettings
from oneprior.training.trainer import Trainer

ABOUT_THIS_CALL = {"config", "json", "debug", "out", "resume", "force", "dry_run"}  # not part of what makes the run
SHARE = 0.03  # of the time, for previews
SAMPLES = 40


def train(job: TrainJob, command: list[str]) -> int:
    """Train to the end of the job; 0, or 130 after Ctrl-C or SIGTERM, which leave a checkpoint as well."""
    screen, folder = Screen(job.json), folder_of(job)
    if job.resume:
        _same(job, folder)
    made = parts(job, screen)
    settings = made.job.train
    if job.dry_run:
        return _dry_run(made, screen)
    config = {k: v for k, v in flat(made.job).items() if k not in ABOUT_THIS_CALL}
    run = RunFolder.create(
        folder, {**config, "name": job.name or folder.name}, force=job.force, resume=job.resume, command=command
    )
    trainer = Trainer(
        made.den, made.objective, made.source, made.codec, made.conditions, settings, run, make_engine(settings)
    )
    size = sum(p.numel() for p in made.den.parameters())
    screen.note(f"{made.job.net} of {size:,} parameters on {trainer.engine.device}, to {folder}")
    spent = _fit(trainer, made, run, screen)
    for text in trainer.messages:
        screen.note(text)
    if trainer.engine.is_main:
        _report(trainer, made, run, spent)
    resume = shlex.join(
        ["oneprior", "train", *(["--out", str(job.out)] if job.out else ["--name", folder.name]), "--resume"]
    )
    lines = run.lines()
    record = {
        "command": "train",
        "out": str(folder),
        "prior": str(run.prior),
        "stopped": trainer.stopped,
        "samples": trainer.n,
        "loss": lines[-1]["loss"] if lines else None,
        "parameters": size,
        "seconds": round(trainer.seconds, 3),
        "rate": round(trainer.n / max(trainer.seconds, 1e-9), 1),
        "resume": resume,
    }
    screen.say(
        f"{trainer.n:,} samples in {duration(trainer.seconds)}; prior: {run.prior}, report: {folder / 'report.html'}"
    )
    screen.result(record)
    if trainer.stopped == "minutes":
        screen.note(f"the time is up; to go on: {resume}")
    if trainer.stopped not in ("samples", "minutes"):
        screen.note(f"stopped by {trainer.stopped}; nothing is lost. To go on: {resume}")
        return 130
    return 0


def _fit(trainer: Trainer, made: Parts, run: RunFolder, screen: Screen) -> dict[str, float]:
    """The loop, its progress, and what is written on the way; seconds by what they went into."""
    main, spent = trainer.engine.is_main, {"training": 0.0, "previews and saves": 0.0}
    columns = (TaskProgressColumn(), TextColumn("{task.fields[said]}"))
    loss, last, shown = None, time.monotonic() - 5.0, 0.0
    cost = 1.0  # seconds of a preview
    with screen.bar(*columns) as bar:
        task = bar.add_task("training", total=1.0, said="")
        for state in trainer.fit():
            loss = state.loss if loss is None else loss.lerp(state.loss, 0.05)
            now = time.monotonic()
            if now - shown > 0.25:
                shown = now
                left = "" if state.left is None else f", {duration(state.left)} left"
                done = None if state.left is None else state.seconds / max(state.seconds + state.left, 1e-9)
                said = f"loss {loss.item():.4f}, {state.rate:,.0f} samples/s, n {state.n:,}{left}"
                bar.update(task, completed=done or 0.0, said=said)
            if state.line and not screen.side.is_terminal:
                left = "" if state.left is None else f", {duration(state.left)} left"
                screen.note(f"n {state.n:,}  loss {state.line['loss']:.4f}  {state.rate:,.0f} samples/s{left}")
            due = state.preview or (trainer.settings.preview_every is None and now - last > max(10.0, cost / SHARE))
            if main and (due or state.saved):
                with _averaged(trainer):
                    prior = _prior(trainer, made)
                    _preview(prior, run, trainer.n)
                    if state.saved:
                        prior.save(run.prior, force=True)
                last = time.monotonic()
                cost = last - now
                spent["previews and saves"] += cost
    spent["training"] = trainer.seconds
    if main and not (run.prior / "config.json").exists():  # nothing was left to train
        with _averaged(trainer):
            _prior(trainer, made).save(run.prior, force=True)
    return spent


def _averaged(trainer: Trainer) -> Any:
    return trainer.averages.applied() if trainer.averages.profiles else nullcontext()


def _prior(trainer: Trainer, made: Parts) -> Prior:
    training = {"samples": trainer.n, "seconds": round(trainer.seconds, 1), "batch": trainer.settings.batch}
    training |= {k: getattr(made.job, k) for k in ("net_size", "schedule", "prediction", "weight", "law")}
    training |= {"lr": trainer.settings.lr, "seed": trainer.settings.seed}
    return Prior(made.den, made.codec, made.conditions, {**made.facts, "training": training})


def _preview(prior: Prior, run: RunFolder, n: int) -> None:
    label = label_of(prior)
    cond = {} if label is None else {"label": [i % len(label.names) for i in range(SAMPLES)]}
    columns = 10 if label is None else min(10, len(label.names))
    try:
        if len(prior.shape) == 3 and prior.shape[0] in (1, 3):
            write_picture(
                run.samples / f"{n:09d}.png", grid(prior.sample(SAMPLES, seeds=range(SAMPLES), **cond).x, columns)
            )
        elif prior.shape == (2,):
            write_picture(run.samples / f"{n:09d}.png", scatter(prior.sample(1000, seeds=range(1000), clip=False).x))
    except FloatingPointError:
        return  # a network that has hardly begun; the trainer watches its gradients itself


def scatter(x: Any) -> Image.Image:
    """Points (N, 2) as a picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 4), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot(aspect="equal")
    axes.scatter(*x.cpu().T.numpy(), s=4, alpha=0.5, linewidths=0)
    canvas.draw()
    return Image.frombytes("RGBA", canvas.get_width_height(), bytes(canvas.buffer_rgba())).convert("RGB")


def _report(trainer: Trainer, made: Parts, run: RunFolder, spent: dict[str, float]) -> None:
    lines = [line for line in run.lines() if math.isfinite(line["loss"])]
    pictures: list[Any] = []
    grids = sorted(run.samples.glob("*.png"))
    if grids:
        said = "One seed a picture, averaged weights, 20 steps."
        pictures.append((f"Samples after {int(grids[-1].stem):,}", grids[-1], said))
    if len(grids) > 1:
        pictures.append((f"The same seeds after {int(grids[0].stem):,}", grids[0], "As training went on: samples/."))
    if len(lines) > 1:
        n, loss = [line["n"] for line in lines], [line["loss"] for line in lines]
        pictures.append(("Loss", curve(n, {"loss": loss}, xlabel="samples seen", ylabel="loss", log=True)))
    last = lines[-1] if lines else {}
    rows = [
        {"use": "train", "metric": "samples seen", "value": trainer.n},
        {"use": "train", "metric": "loss", "value": last.get("loss")},
        {"use": "train", "metric": "samples a second", "value": last.get("rate")},
        {"use": "train", "metric": "steps skipped (gradient not finite)", "value": last.get("skipped", 0)},
    ]
    facts = made.source.facts
    write_report(
        run.path / "report.html",
        title=f"{run.path.name}: a diffusion prior of {facts.name}",
        lead=f"{len(made.source):,} samples of {' x '.join(map(str, facts.shape))}; use it with "
        f"oneprior sample {run.path}, or oneprior.load('{run.prior}').",
        rows=rows,
        pictures=pictures,
        seconds=spent,
        notes=[
            "A loss is comparable between runs with the same schedule, prediction and weight only; "
            f"oneprior evaluate {run.path} DATA measures what counts."
        ],  # fmt: skip
        prior_card={k: v for k, v in flat(made.job).items() if k not in ABOUT_THIS_CALL and v not in (None, False)},
    )


def _dry_run(made: Parts, screen: Screen) -> int:
    trainer = Trainer(made.den, made.objective, made.source, made.codec, made.conditions, made.job.train)
    found = dry_run(trainer)
    record = {
        "command": "train",
        "dry_run": True,
        "data": made.source.facts.name,
        "count": len(made.source),
        "shape": list(made.source.facts.shape),
        "device": str(trainer.engine.device),
        "parameters": found.parameters,
        "memory": found.memory,
        "rate": found.rate,
        "seconds": found.seconds,
    }
    ends = "no end in sight" if found.seconds is None else duration(found.seconds)
    screen.table([
        {"": "parameters", "value": f"{found.parameters:,}"},
        {"": "memory", "value": f"{found.memory / 2**20:,.0f} MB"},
        {"": "samples a second", "value": f"{found.rate:,.0f}"},
        {"": "time to finish", "value": f"{ends} ({made.job.train.samples or 0:,} samples)"},
    ])  # fmt: skip
    screen.result(record)
    return 0


def _same(job: TrainJob, folder: Path) -> None:
    """What shapes the network and the loss may not change within a run; the trainer looks after its own settings."""
    path = folder / "config.yaml"
    if not path.is_file():
        return
    own = set(flat(TrainSettings())) | ABOUT_THIS_CALL | {"name", "skip_bad"}
    before, now = flat(from_file(TrainJob, path)), flat(job)
    other = [f"{k}: {before[k]!r} -> {v!r}" for k, v in now.items() if k not in own and v not in ("auto", before[k])]
    if other:
        raise ValueError(
            f"{folder} was started with other settings ({'; '.join(other)}): leave them out, or give another --name"
        )
