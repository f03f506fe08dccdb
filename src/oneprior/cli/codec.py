"""Training a codec, `oneprior train DATA --net vq`: its parts, and what the run shows and leaves: RUN/codec."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from oneprior import __version__, storage
from oneprior.cli import build, page
from oneprior.cli.build import Parts
from oneprior.cli.job import TrainJob
from oneprior.cli.options import arguments
from oneprior.cli.screen import Screen
from oneprior.cli.work import sheet, write_picture
from oneprior.codecs.vq import VQ, Autoencoder, Reconstruction, VQConfig, perplexity, usage
from oneprior.data import Source
from oneprior.metrics import psnr
from oneprior.training.run import RunFolder
from oneprior.training.trainer import Trainer

KEPT = "codec"
SHOWN, PART = 20, 256


def parts(job: TrainJob, screen: Screen) -> Parts:
    """Read the data and build the autoencoder."""
    if job.pairs or job.degrade:
        raise ValueError("--net vq learns a codec of pictures as they are: leave out --pairs and --degrade")
    source = build.read(job, screen)
    if len(shape := source.facts.shape) != 3:
        raise ValueError(f"--net vq takes pictures; samples of {source.facts.name} have shape {shape}")
    fields = arguments("--net-args", VQConfig, job.net_args, ("shape", "seed"))
    config = VQConfig.sized(shape, job.net_size, seed=job.train.seed, **fields)
    h, w = config.grid
    screen.note(f"{h} x {w} tokens of {config.codes} codes")
    return Parts(job, source, None, None, Autoencoder(config, job.train.seed), Reconstruction())


def keep(trainer: Trainer, made: Parts, run: RunFolder, whole: bool) -> None:
    """A preview, pictures above what comes back; and, if `whole`, the codec, without the codes that nothing uses."""
    picture = None
    if not made.job.private:
        x = made.source.batch(range(min(SHOWN, len(made.source))))["x"].to(trainer.engine.device)
        y = VQ.of(made.den)
        picture = sheet([x.cpu(), y.decode(y.encode(x)).cpu()])
        write_picture(run.samples / f"{trainer.n:09d}.png", picture)
    if whole:
        codec = VQ.of(made.den, _pictures(made.source, trainer.engine.device))
        facts = {"shape": list(made.source.facts.shape), "oneprior": __version__}
        facts |= {"data": {k: getattr(made.source.facts, k) for k in ("name", "count", "licence")}}
        facts |= {"training": {"samples": trainer.n, "batch": trainer.settings.batch, "lr": trainer.settings.lr}}
        storage.write_codec(run.path / KEPT, codec, facts, picture, force=True)


def report(trainer: Trainer, made: Parts, run: RunFolder, spent: dict[str, float]) -> dict[str, Any]:
    """Write the page; returns the figures, of the held-out part where there is one."""
    codec, _ = storage.read_codec(run.path)
    assert isinstance(codec, VQ)
    held = build.held_out(made) if made.job.split == "train" else made.source
    tokens, error, each = [], [], []
    for x in _pictures(held, trainer.engine.device):
        tokens.append(codec.encode(x).cpu())
        y = codec.decode(tokens[-1].to(x.device))
        each.append(psnr(x, y, data_range=1.0).cpu())
        error.append((x - y).square().flatten(1).mean(1).double().cpu())
    index = torch.cat(tokens)
    found = {
        "codes": codec.symbols,
        "codes_trained": codec.vq.codes,
        "psnr": float(torch.cat(each).mean()),
        "psnr_of_mean_error": -10 * math.log10(float(torch.cat(error).mean())),
        "usage": usage(index, codec.symbols),
        "perplexity": perplexity(index),
    }
    where = "held-out pictures" if held is not made.source else "training pictures"
    said = {
        "codes": "codes that the training pictures use",
        "codes_trained": "codes trained",
        "psnr": f"PSNR of {where}, mean (dB)",
        "psnr_of_mean_error": f"PSNR of the mean squared error of {where} (dB)",
        "usage": f"share of these codes that {where} use",
        "perplexity": f"perplexity of the codes of {where}",
    }
    pictures: list[Any] = []
    if grids := sorted(run.samples.glob("*.png")):
        pictures.append(("Pictures, and what comes back", grids[-1], "Of the training data, averaged weights."))
    page.write(
        made,
        run,
        "a codec",
        lead=f"{' x '.join(map(str, codec.grid))} tokens of {codec.symbols} codes, in {run.path / KEPT}.",
        rows=[{"use": "codec", "metric": said[k], "value": v} for k, v in found.items()],
        pictures=[*pictures, *page.losses(page.finite(run))],
        seconds=spent,
    )
    return found


def _pictures(source: Source, device: torch.device) -> Iterator[Tensor]:
    for i in range(0, len(source), PART):
        yield source.batch(range(i, min(i + PART, len(source))))["x"].to(device)
