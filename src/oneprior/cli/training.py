"""The training job: run folder, progress, stopping and going on."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Any

from rich.progress import TaskProgressColumn, TextColumn

from oneprior.cli import codec, joint, page, tokens
from oneprior.cli.build import held_out, parts
from oneprior.cli.job import ABOUT_THIS_CALL, CODECS, TrainJob, folder_of
from oneprior.cli.options import flat, from_file
from oneprior.cli.screen import Screen
from oneprior.report import duration
from oneprior.training.dryrun import dry_run
from oneprior.training.engine import make_engine
from oneprior.training.heldout import HeldOut
from oneprior.training.run import RunFolder
from oneprior.training.settings import TrainSettings
from oneprior.training.trainer import Trainer

SHARE = 0.03  # of the time, for previews


def train(job: TrainJob, command: list[str]) -> int:
    """Train to the end of the job; 0, or 130 after Ctrl-C or SIGTERM, which leave a checkpoint as well."""
    screen, folder = Screen(job.json), folder_of(job)
    if job.resume:
        _same(job, folder)
    job = tokens.codec_of(job)
    face: Any = codec if job.net in CODECS else tokens if tokens.wanted(job) else page
    if job.modalities and face is not page:
        raise ValueError("--modalities are of pictures or vectors with labels: not of tokens or a codec")
    made = (joint.parts if job.modalities else parts if face is page else face.parts)(job, screen)
    settings = made.job.train
    if job.dry_run:
        return _dry_run(made, screen)
    outside = None if made.job.early_stop is None else _held_out(made)
    config = {k: v for k, v in flat(made.job).items() if k not in ABOUT_THIS_CALL}
    config["name"] = job.name or folder.name
    run = RunFolder.create(folder, config, force=job.force, resume=job.resume, command=command)
    trainer = Trainer(
        made.den, made.objective, made.source, made.codec, made.conditions, settings, run, make_engine(settings)
    )
    held = None if outside is None else HeldOut(trainer, outside, made.job.early_stop or 1)
    if job.resume:
        trainer.resume()
        if trainer.engine.is_main:  # one that is refused stays described as it was
            run.describe(config, command)
    size = sum(p.numel() for p in made.den.parameters())
    screen.note(f"{made.job.net} of {size:,} parameters on {trainer.engine.device}, to {folder}")
    spent = _fit(trainer, made, run, screen, face, held)
    found = face.report(trainer, made, run, spent) if trainer.engine.is_main else None
    resume = shlex.join(
        ["oneprior", "train", *(["--out", str(job.out)] if job.out else ["--name", folder.name]), "--resume"]
    )
    lines = run.lines()
    record = {
        "command": "train",
        "out": str(folder),
        face.KEPT: str(folder / face.KEPT),
        "stopped": trainer.stopped,
        "samples": trainer.n,
        "loss": lines[-1]["loss"] if lines else None,
        "parameters": size,
        "seconds": round(trainer.seconds, 3),
        "rate": round(trainer.n / max(trainer.seconds, 1e-9), 1),
        "resume": resume,
        **(found or {}),
    }
    screen.say(
        f"{trainer.n:,} samples in {duration(trainer.seconds)}; {face.KEPT}: {folder / face.KEPT}, "
        f"report: {folder / 'report.html'}"
    )
    if "copied" in (found or {}):
        share = f"{record['copied']:.2f} of 64 samples are nearer to a training item than to any of as many held out"
        screen.say(f"memorisation: {share}; {record['copied_null']:.2f} +- 0.13 without copying")
    screen.result(record)
    if trainer.stopped == "minutes":
        screen.note(f"the time is up; to go on: {resume}")
    if trainer.stopped not in page.ENDS:
        screen.note(f"stopped by {trainer.stopped}; nothing is lost. To go on: {resume}")
        return 130
    return 0


def _held_out(made: Any) -> Any:
    """What `--early-stop` looks at: the held-out part of the data, treated as the other."""
    if made.job.early_stop < 1:
        raise ValueError(f"--early-stop {made.job.early_stop}: at least one line of the log was expected")
    if made.job.split == "all" or made.job.captions or made.job.text:
        raise ValueError("--early-stop looks at the held-out part: leave out --split all, --captions and --text")
    return held_out(made)


def _fit(
    trainer: Trainer, made: Any, run: RunFolder, screen: Screen, face: Any, held: HeldOut | None
) -> dict[str, float]:
    """The loop, its progress, and what is written on the way; seconds by what they went into."""
    kept = run.path / face.KEPT / "config.json"
    main, spent = trainer.engine.is_main, {"training": 0.0, "previews and saves": 0.0}
    columns = (TaskProgressColumn(), TextColumn("{task.fields[said]}"))
    loss, last, shown = None, time.monotonic() - 5.0, 0.0
    cost = 1.0  # seconds of a preview
    with screen.bar(*columns) as bar:
        task = bar.add_task("training", total=1.0, said="")
        for state in trainer.fit():
            while trainer.messages:  # of a resumed run: from where, and what was damaged
                screen.note(trainer.messages.pop(0))
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
            best, late = held.standing(run.lines()) if held and state.line and main else (False, False)
            if held and state.line and trainer.engine.broadcast(late):
                trainer.stopped = "held-out"
            whole = best if held else state.saved is not None or not kept.exists()
            if main and (due or state.saved or best):
                with trainer.using_averages():
                    face.keep(trainer, made, run, whole)
                last = time.monotonic()
                cost = last - now
                spent["previews and saves"] += cost
    for text in trainer.messages:  # nothing was left to train
        screen.note(text)
    spent["training"] = trainer.seconds
    if trainer.stopped == "held-out":
        trainer.save()
    as_it_was = loss is None and not held  # killed before it was written, or another average is to be kept
    if main and (as_it_was or not kept.exists()):
        with trainer.using_averages():
            face.keep(trainer, made, run, True)
    return spent


def _dry_run(made: Any, screen: Screen) -> int:
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
    rows = {
        "parameters": f"{found.parameters:,}",
        "memory": f"{found.memory / 2**20:,.0f} MB",
        "samples a second": f"{found.rate:,.0f}",
        "time to finish": f"{ends} ({made.job.train.samples or 0:,} samples)",
    }
    screen.table([{"": k, "of this run": v} for k, v in rows.items()])
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
