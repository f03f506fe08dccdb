"""Training a prior of tokens: text, or codes of pictures (`--codec RUN`); what the run shows and leaves: RUN/prior."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from oneprior import storage, tokens
from oneprior.cli import build, page
from oneprior.cli.build import Parts
from oneprior.cli.job import CODECS, TrainJob
from oneprior.cli.options import arguments
from oneprior.cli.screen import Screen
from oneprior.cli.work import write_picture
from oneprior.codecs import VQ, Levels
from oneprior.conditions import Caption, Condition, Conditions, Label
from oneprior.data import Captioned, Source, open_source
from oneprior.data.text import TextSource, is_text, text
from oneprior.denoiser import Facts
from oneprior.nets import CodesConfig, TokensConfig
from oneprior.nets import build as network
from oneprior.nets.lora import config_like, merged
from oneprior.results import grid
from oneprior.token_prior import Texts, TokenPrior
from oneprior.tokens.losses import LOSSES, TokenObjective
from oneprior.training.files import write_text
from oneprior.training.run import RunFolder
from oneprior.training.trainer import Trainer
from oneprior.uses.tokens import nats

KEPT = "prior"
SHOWN, MEASURED, DRAWS = 4, 64, 8
CORRUPTIONS: dict[str, Any] = {
    "absorbing": tokens.Absorbing,
    "uniform": tokens.Uniform,
    "hybrid": tokens.Hybrid,
    "mask-replace": tokens.MaskReplace,
}


def codec_of(job: TrainJob) -> TrainJob:
    """A job that begins from a prior of codes takes its codec, frozen, unless another is given."""
    if job.init is None or job.codec or job.net in CODECS:
        return job
    return replace(job, codec=job.init) if storage.codec_type(job.init) in ("vq", "clip-codes") else job


def wanted(job: TrainJob) -> bool:
    """Whether a job is one of tokens: text, or pictures with a codec to tokens."""
    if job.codec:
        return job.codec == "levels" or storage.codec_type(job.codec) != "clip-codes"
    return job.net == "tokens" or job.data == "kjv" or is_text(Path(job.data))


def parts(job: TrainJob, screen: Screen) -> Parts:
    """Read the data and build the network under its corruption."""
    if job.pairs or job.degrade or job.variance:
        raise ValueError("tokens are neither degraded nor have a variance: leave out --pairs, --degrade, --variance")
    if job.net not in ("auto", "tokens", "codes") or (job.net == "codes" and not job.codec):
        raise ValueError(f"--net {job.net} takes no such tokens; leave --net out, or say tokens (codes with --codec)")
    begun = build.begun(job, tokens=True)
    known: dict[str, Condition] = {}
    picture: VQ | Levels | None = None
    fields: dict[str, Any] = {}
    if job.codec:
        source: Source = build.read(job, screen)
        codec = _codec(job.codec, source)
        words, picture, (h, w) = codec, codec, codec.grid
        symbols, length, fields = codec.symbols, h * w, {"grid": codec.grid, "conv": 3}
        if job.captions or job.text:
            said = _captions(job, job.split)
            known["text"], source = Caption.of(said), Captioned(source, said)
        elif source.facts.classes and not job.unconditional:
            known["label"] = Label(source.facts.classes)
    else:
        told = job.tokens if begun is None else begun.codec
        source = text(job.data, length=job.length, tokens=told, split=job.split)
        words, symbols, length = source.text, source.text.symbols, job.length
        if job.split == "train":  # what the report will be measured on: too short is said now, not at the end
            text(job.data, length=length, tokens=words, split="test")
        kept = "all" if job.split == "all" else "the training part"
        screen.note(f"{source.facts.name}: {len(source.tokens):,} tokens ({kept}) of {symbols} symbols")
    conditions = Conditions(known)
    form = CORRUPTIONS[job.corruption]
    corruption = form(
        symbols + (job.corruption != "uniform"),
        **arguments("--corruption-args", form, job.corruption_args, ("vocab", "keep")),
    )
    masks = isinstance(corruption, tokens.Absorbing)
    loss = ("masks" if masks else "bound") if job.loss == "auto" else job.loss
    job = replace(
        job, net="tokens" if job.net == "auto" else job.net, loss=loss, prediction="x0", weight="plain", law="uniform"
    )
    shape, kind = (length,), TokensConfig
    fields |= {"vocab": corruption.vocab, "timed": not masks}
    if job.net == "codes":
        shape, kind, fields = (64, *fields["grid"]), CodesConfig, {"vocab": corruption.vocab}
    fields |= {"dropout": job.dropout, **conditions.fields}
    fields |= arguments("--net-args", kind, job.net_args, ("shape", "causal", *fields.keys() - {"conv", "dropout"}))
    config = kind.sized(shape, job.net_size, **fields)
    own = "posterior" if loss in ("masks", "ce", "finite") else "loo"  # where tokens are replaced, bounds train this
    if begun is None:
        net = network(config, job.train.seed)
    else:
        config = config_like(begun.den.net.config, shape, dropout=job.dropout, **conditions.fields)
        net = build.adopted(job, begun.den.net, config, screen)
        corruption, own, masks = begun.den.corruption, begun.den.convention, not begun.den.timed
    den = tokens.TokenDenoiser(net, corruption, own, timed=not masks, facts=Facts(null=conditions.null))
    facts = build.told(job, source, (length,))
    return Parts(job, source, picture, conditions, den, TokenObjective(LOSSES[loss]), facts, words)


def _captions(job: TrainJob, split: str) -> tuple[str, ...]:
    """Those of the data, or of the column that the job names."""
    how: dict[str, Any] = {"size": job.size, "channels": job.channels, "text": job.text, **build.columns(job)}
    source: Any = open_source(job.data, split=split, **(how if job.text else {}))
    if not hasattr(source, "captions"):
        raise ValueError(f"--captions: {source.facts.name} has none")
    return source.captions


def _codec(name: str, source: Source) -> VQ | Levels:
    levels, shape = source.facts.levels, source.facts.shape
    if name == "levels":
        if levels is None or len(shape) != 3:
            raise ValueError(f"--codec levels: {source.facts.name} is no pictures of known grey levels")
        return Levels(levels, shape)
    codec, _ = storage.read_codec(name)
    if not isinstance(codec, VQ):
        raise ValueError(f"--codec {name} turns pictures into no tokens: train one with --net vq")
    return codec


def prior_of(trainer: Trainer, made: Parts) -> TokenPrior:
    den = made.den if made.job.lora is None else merged(made.den)
    return TokenPrior(den, made.words, made.conditions, page.facts_of(trainer, made, "net_size", "corruption", "loss"))


def keep(trainer: Trainer, made: Parts, run: RunFolder, whole: bool) -> None:
    """A preview: some samples in few steps; and, if `whole`, the prior."""
    prior = prior_of(trainer, made)
    if not made.job.private:
        preview(prior, made, run, trainer.n)
    if whole:
        prior.save(run.prior, force=True)


def preview(prior: TokenPrior, made: Parts, run: RunFolder, n: int) -> None:
    count = SHOWN if made.codec is None else 10 * SHOWN
    shown = prior.sample(seeds=range(count), steps=min(64, prior.shape[0]))
    if isinstance(shown, Texts):
        write_text(run.samples / f"{n:09d}.txt", str(shown) + "\n")
    else:
        write_picture(run.samples / f"{n:09d}.png", grid(shown.x, 10))


def report(trainer: Trainer, made: Parts, run: RunFolder, spent: dict[str, float]) -> dict[str, Any]:
    """Write the page; returns the bound on held-out data, bits a token."""
    prior = TokenPrior(*storage.read(run.path, device=trainer.engine.device))
    held: Any = made.source
    if made.job.split == "train":
        held = build.held_out(made)
        if isinstance(held, TextSource):
            held = held.apart()
        elif "text" in made.conditions:
            held = Captioned(held, _captions(made.job, "test"))
    some = torch.linspace(0, len(held) - 1, min(MEASURED, len(held))).long().tolist()
    batch = held.batch(some)
    x = prior.codec.encode(batch["x"])
    ports = prior._ports(len(x), {k: batch[k] for k in made.conditions})
    rows = nats(prior.den, x.to(prior.device), DRAWS, range(len(x)), **ports).mean(1) / x.shape[1] / math.log(2)
    found = {"bits": float(rows.mean()), "bits_error": float(rows.std() / math.sqrt(len(rows)))}
    pictures: list[Any] = []
    own = "held-out data" if made.job.split == "train" else "the data it was trained on"
    notes = [f"Bound on {len(x)} samples of {own}, {DRAWS} levels each."]
    if drawn := sorted(run.samples.glob("*.png")):
        pictures.append((f"Samples after {int(drawn[-1].stem):,}", drawn[-1], "One seed a picture, averaged weights."))
    if drawn := sorted(run.samples.glob("*.txt")):
        notes += [f"Sample: {t}" for t in drawn[-1].read_text(encoding="utf-8").strip().split("\n\n")]
    pictures += page.losses(page.finite(run), math.log(2), "bits a token", log=False)
    said = {"bits": f"bound on {own}, bits a token", "bits_error": "its standard error"}
    page.write(
        made,
        run,
        "a diffusion prior",
        lead=f"{prior.shape[0]} tokens of {made.den.corruption.vocab} symbols a sample; oneprior.load('{run.prior}').",
        rows=[{"use": "train", "metric": said[k], "value": v} for k, v in found.items()],
        pictures=pictures,
        seconds=spent,
        notes=notes,
    )
    return found
