"""What a training run shows of itself: a prior that can be loaded at any moment, previews, and its report."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

from PIL import Image

from oneprior.cli.build import Parts, held_out
from oneprior.cli.inputs import label_of
from oneprior.cli.job import ABOUT_THIS_CALL
from oneprior.cli.options import flat
from oneprior.cli.work import sheet, write_picture
from oneprior.codecs import Latent
from oneprior.conditions import Conditions, Label
from oneprior.data import Source
from oneprior.joint import JointDenoiser
from oneprior.joint_prior import JointPrior
from oneprior.loading import load
from oneprior.metrics import train_share
from oneprior.nets.lora import merged
from oneprior.prior import Prior
from oneprior.report import curve, raster, write_report
from oneprior.results import contact
from oneprior.training.run import RunFolder
from oneprior.training.trainer import Trainer

SAMPLES = 40
KEPT = "prior"  # what a training leaves in its folder
ENDS = ("samples", "minutes", "held-out")  # of a training that came to its end


def facts_of(trainer: Trainer, made: Any, *settings: str) -> dict[str, Any]:
    """Facts of a prior, with those of its training."""
    s = trainer.settings
    training = {"samples": trainer.n, "seconds": round(trainer.seconds, 1), "batch": s.batch}
    training |= {k: getattr(made.job, k) for k in settings} | {"lr": s.lr, "seed": s.seed}
    return {**made.facts, "training": training}


def prior_of(trainer: Trainer, made: Parts) -> Prior:
    den = made.den if made.job.lora is None else merged(made.den)
    facts = facts_of(trainer, made, "net_size", "schedule", "prediction", "weight", "law")
    if isinstance(made.den, JointDenoiser):
        known = Conditions({"label": Label(made.source.facts.classes or ())})
        return JointPrior(made.den, made.source.codec, known, facts)  # type: ignore[attr-defined]
    # a codec with weights works for the trainer where the data are
    codec = deepcopy(made.codec).to(trainer.engine.device) if isinstance(made.codec, Latent) else made.codec
    return Prior(den, codec, made.conditions, facts)


def keep(trainer: Trainer, made: Parts, run: RunFolder, whole: bool) -> None:
    """A preview; and, if `whole`, the prior."""
    prior = prior_of(trainer, made)
    if not made.job.private:
        preview(prior, run, trainer.n, made.source)
    if whole:
        prior.save(run.prior, force=True)


def preview(prior: Prior, run: RunFolder, n: int, source: Source) -> None:
    label = label_of(prior)
    own: dict[str, Any] = {} if label is None else {"label": [i % len(label.names) for i in range(SAMPLES)]}
    file = run.samples / f"{n:09d}.png"
    try:
        if "y" in prior.conditions:
            pair = source.batch(range(min(10, len(source))))
            x = prior.restore(pair["y"], seeds=range(len(pair["y"]))).x.cpu()
            write_picture(file, sheet([pair["y"], x, pair["x"]]))
        elif len(prior.shape) == 3 and prior.shape[0] in (1, 3):
            columns = 10 if label is None else min(10, len(label.names))
            write_picture(file, prior.sample(SAMPLES, seeds=range(SAMPLES), **own).grid(columns))
        elif len(prior.shape) == 4:
            shown = prior.sample(SAMPLES // 8, seeds=range(SAMPLES // 8), **{k: v[:5] for k, v in own.items()}).x
            write_picture(file, contact(shown))
        elif prior.shape == (2,):
            write_picture(file, scatter(prior.sample(1000, seeds=range(1000), clip=False).x))
    except FloatingPointError:
        return  # a network that has hardly begun; the trainer watches its gradients itself


def scatter(x: Any) -> Image.Image:
    """Points (N, 2) as a picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 4), layout="constrained")
    axes = figure.add_subplot(aspect="equal")
    axes.scatter(*x.cpu().T.numpy(), s=4, alpha=0.5, linewidths=0)
    return raster(figure)


def copied(prior: Prior, made: Parts) -> dict[str, Any] | None:
    """Share of 64 samples nearer to one of some training items than to any of as many held-out ones; 1/2 without
    copying, whatever the data, within two standard errors. None where nothing was held out, samples need a y, or have
    several parts."""
    if made.job.split == "all" or "y" in made.conditions or isinstance(prior, JointPrior):
        return None
    held = held_out(made)
    n = min(len(held), len(made.source), 2000)
    t, h = (s.batch([i * len(s) // n for i in range(n)])["x"].flatten(1) for s in (made.source, held))
    label = label_of(prior)
    own: dict[str, Any] = {} if label is None else {"label": [i % len(label.names) for i in range(64)]}
    share = train_share(prior.sample(seeds=range(64), **own).x.cpu().flatten(1), t, h)
    return {"copied": share, "copied_null": train_share(None, t, h), "copied_error": 0.0625}


def report(trainer: Trainer, made: Parts, run: RunFolder, spent: dict[str, float]) -> dict[str, Any]:
    lines, pictures = finite(run), list[Any]()
    grids = sorted(run.samples.glob("*.png"))
    if grids:
        said = "One seed a picture, averaged weights, 20 steps."
        if "y" in made.conditions:
            said = "Degraded, restored (one draw, averaged weights), clean."
        pictures.append((f"Samples after {int(grids[-1].stem):,}", grids[-1], said))
    if len(grids) > 1:
        pictures.append((f"The same seeds after {int(grids[0].stem):,}", grids[0], "As training went on: samples/."))
    pictures += losses(lines)
    if len(lines) > 1 and all("held_out" in line for line in lines):
        n, seen = [line["n"] for line in lines], [line["held_out"] for line in lines]
        pictures.append(("Held-out objective", curve(n, {"held out": seen}, xlabel="samples seen", log=True)))
    last = lines[-1] if lines else {}
    found = copied(load(run.path, device=trainer.engine.device), made) if trainer.stopped in ENDS else None
    rows: list[dict[str, Any]] = [
        {"use": "train", "metric": "samples seen", "value": trainer.n},
        {"use": "train", "metric": "loss", "value": last.get("loss")},
        {"use": "train", "metric": "samples a second", "value": last.get("rate")},
        {"use": "train", "metric": "steps skipped (gradient not finite)", "value": last.get("skipped", 0)},
    ]
    if found:
        said = "share of 64 samples nearer to training than to held-out data"
        rows.append({"use": "copies", "metric": said, "value": found["copied"], "null": found["copied_null"]})
    facts = made.source.facts
    write(
        made,
        run,
        "a diffusion prior",
        lead=f"{len(made.source):,} samples of {' x '.join(map(str, facts.shape))}; use it with "
        f"oneprior sample {run.path}, or oneprior.load('{run.prior}').",
        rows=rows,
        pictures=pictures,
        seconds=spent,
        notes=[
            "A loss is comparable between runs with the same schedule, prediction and weight only; "
            f"oneprior evaluate {run.path} DATA measures what counts."
        ],
    )
    return found or {}


def finite(run: RunFolder) -> list[dict[str, Any]]:
    """The lines of a run's log whose loss is a number."""
    return [line for line in run.lines() if math.isfinite(line["loss"])]


def losses(lines: list[dict[str, Any]], unit: float = 1.0, what: str = "loss", log: bool = True) -> list[Any]:
    """The loss as a picture of a report, where there is a line to draw. unit: of the picture, in that of the log."""
    n, loss = [line["n"] for line in lines], [line["loss"] / unit for line in lines]
    return [("Loss", curve(n, {what: loss}, xlabel="samples seen", ylabel=what, log=log))] if len(n) > 1 else []


def write(made: Any, run: RunFolder, what: str, **parts: Any) -> None:
    """The run's report, with its settings; parts: as of `write_report`."""
    card = {k: v for k, v in flat(made.job).items() if k not in ABOUT_THIS_CALL and v not in (None, False)}
    title = f"{run.path.name}: {what} of {made.source.facts.name}"
    write_report(run.path / "report.html", title=title, prior_card=card, **parts)
