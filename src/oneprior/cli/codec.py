"""Training a codec, its parts, and what the run shows and leaves: RUN/codec.

`oneprior train DATA --net vq` of pictures to tokens, `--net clip-codes` of clips to smaller ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
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
from oneprior.codecs import ClipAutoencoder, ClipCodes
from oneprior.codecs.vq import VQ, Autoencoder, Reconstruction, VQConfig, perplexity, usage
from oneprior.data import Source
from oneprior.metrics import psnr
from oneprior.results import contact
from oneprior.training.run import RunFolder
from oneprior.training.trainer import Trainer

KEPT = "codec"
SHOWN, PART = 20, 256
SCALED = 1024  # clips that the scale of their codes is from


@dataclass(frozen=True)
class OfClips(VQConfig):
    """What `--net-args` may say of a codec of clips. dim: of what passes over time; r, d: as of `ClipAutoencoder`."""

    dim: int = 32
    d: int = 4
    r: int = 4


def parts(job: TrainJob, screen: Screen) -> Parts:
    """Read the data and build the autoencoder."""
    clips = job.net == "clip-codes"
    wrong = ["pairs", "degrade"] + ["codec", "init", "pack"] * clips
    if wrong := [f"--{k}" for k in wrong if getattr(job, k)]:
        raise ValueError(f"--net {job.net} learns a codec of data as they are: leave out {', '.join(wrong)}")
    source = build.read(job, screen)
    if len(shape := source.facts.shape) != 3 + clips or source.facts.unit is not None:
        kind = "clips" if clips else "pictures"
        raise ValueError(f"--net {job.net} takes {kind}; samples of {source.facts.name} have shape {shape}")
    form, seed = OfClips if clips else VQConfig, job.train.seed
    fields = arguments("--net-args", form, job.net_args, ("shape", "seed"))
    if not clips:
        config = VQConfig.sized(shape, job.net_size, seed=seed, **fields)
        h, w = config.grid
        screen.note(f"{h} x {w} tokens of {config.codes} codes")
        return Parts(job, source, None, None, Autoencoder(config, seed), Reconstruction())
    own = {k: fields.pop(k, getattr(OfClips, k)) for k in ("d", "r")}
    config = VQConfig.sized(shape[1:], job.net_size, seed=seed, **{"dim": OfClips.dim, **fields})
    den = ClipAutoencoder(config, seed=seed, **own)
    codes = ClipCodes(deepcopy(den)).inside(shape)  # refuses a number of frames that is not 1 + r k
    screen.note(f"clips {' x '.join(map(str, shape))} to codes {' x '.join(map(str, codes))}")
    return Parts(job, source, None, None, den, Reconstruction())


def keep(trainer: Trainer, made: Parts, run: RunFolder, whole: bool) -> None:
    """A preview, data above what comes back; and, if `whole`, the codec: of tokens, without those that nothing uses."""
    picture, clips = None, made.job.net == "clip-codes"
    if not made.job.private:
        x = made.source.batch(range(min(4 if clips else SHOWN, len(made.source))))["x"].to(trainer.engine.device)
        codec: Any = ClipCodes(deepcopy(made.den)) if clips else VQ.of(made.den)
        both = [x.cpu(), codec.decode(codec.encode(x)).cpu()]
        picture = contact(torch.stack(both, 1).flatten(0, 1)) if clips else sheet(both)
        write_picture(run.samples / f"{trainer.n:09d}.png", picture)
    if whole:
        form, most = (ClipCodes, SCALED) if clips else (VQ, None)
        codec = form.of(deepcopy(made.den), _batches(made.source, trainer.engine.device, most))
        facts = {"shape": list(made.source.facts.shape), "oneprior": __version__}
        facts |= {"data": {k: getattr(made.source.facts, k) for k in ("name", "count", "licence")}}
        facts |= {"training": {"samples": trainer.n, "batch": trainer.settings.batch, "lr": trainer.settings.lr}}
        storage.write_codec(run.path / KEPT, codec, facts, picture, force=True)


def report(trainer: Trainer, made: Parts, run: RunFolder, spent: dict[str, float]) -> dict[str, Any]:
    """Write the page; returns the figures, of the held-out part where there is one."""
    codec: Any = storage.read_codec(run.path)[0]
    held = build.held_out(made) if made.job.split == "train" else made.source
    codes, error, each = [], [], []
    for x in _batches(held, trainer.engine.device, None if isinstance(codec, VQ) else SCALED):
        codes.append(codec.encode(x).cpu())
        y = codec.decode(codes[-1].to(x.device))
        each.append(psnr(x, y, data_range=1.0).cpu())
        error.append((x - y).square().flatten(1).mean(1).double().cpu())
    kind = "pictures" if isinstance(codec, VQ) else "clips"
    where = f"held-out {kind}" if held is not made.source else f"training {kind}"
    found = {
        "psnr": float(torch.cat(each).mean()),
        "psnr_of_mean_error": -10 * math.log10(float(torch.cat(error).mean())),
    }
    said = {
        "psnr": f"PSNR of {where}, mean (dB)",
        "psnr_of_mean_error": f"PSNR of the mean squared error of {where} (dB)",
        "codes": "codes that the training pictures use",
        "codes_trained": "codes trained",
        "usage": f"share of these codes that {where} use",
        "perplexity": f"perplexity of the codes of {where}",
        "smaller": "numbers of a clip for one of its codes",
    }
    if isinstance(codec, VQ):
        index = torch.cat(codes)
        found |= {"codes": codec.symbols, "codes_trained": codec.vq.codes}
        found |= {"usage": usage(index, codec.symbols), "perplexity": perplexity(index)}
        lead = f"{' x '.join(map(str, codec.grid))} tokens of {codec.symbols} codes"
    else:
        shape, inner = made.source.facts.shape, tuple(codes[0].shape[1:])
        found["smaller"] = math.prod(shape) / math.prod(inner)
        lead = f"Clips {' x '.join(map(str, shape))} to codes {' x '.join(map(str, inner))}"
    pictures: list[Any] = []
    if grids := sorted(run.samples.glob("*.png")):
        pictures.append((f"{kind.capitalize()}, and what comes back", grids[-1], "Of the training data."))
    page.write(
        made,
        run,
        "a codec",
        lead=f"{lead}, in {run.path / KEPT}.",
        rows=[{"use": "codec", "metric": said[k], "value": v} for k, v in found.items()],
        pictures=[*pictures, *page.losses(page.finite(run))],
        seconds=spent,
    )
    return found


def _batches(source: Source, device: torch.device, most: int | None = None) -> Iterator[Tensor]:
    """Of all samples, or of `most` of them, evenly; as many numbers each for clips as for pictures."""
    count = len(source) if most is None else min(most, len(source))
    part = PART if len(source.facts.shape) == 3 else max(1, PART // source.facts.shape[0])
    for i in range(0, count, part):
        at = [j * len(source) // count for j in range(i, min(i + part, count))]
        yield source.batch(at)["x"].to(device)
