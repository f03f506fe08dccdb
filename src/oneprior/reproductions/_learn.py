"""A small prior, trained for a reproduction: the averaged weights; nothing is written."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from oneprior.codecs import Codec
from oneprior.conditions import Conditions
from oneprior.denoiser import Facts, NetworkDenoiser
from oneprior.nets import NetConfig, build
from oneprior.objective import Objective
from oneprior.prior import Prior
from oneprior.schedules import Cosine
from oneprior.times import Uniform
from oneprior.training.batches import Source
from oneprior.training.settings import TrainSettings
from oneprior.training.trainer import Trainer


def learn(
    config: NetConfig, source: Source, codec: Codec, conditions: Conditions, samples: int, seed: int = 0, *,
    batch: int = 64, **how: Any,
) -> Prior:  # fmt: skip
    """The prior after `samples` draws of a source, none of them for an untrained one; how: other training settings."""
    den = NetworkDenoiser(build(config, seed), Cosine(), "v", facts=Facts(null=conditions.null))
    if samples:
        settings = TrainSettings(
            samples=samples, batch=batch, lr=2e-3, warmup=samples // 10, decay="cosine", betas=(0.9, 0.99), seed=seed,
            save_minutes=None, **how,
        )  # fmt: skip
        trainer = Trainer(den, Objective(law=Uniform(1e-3, 1.0)), source, codec, conditions, settings)
        for _ in trainer.fit():
            pass
        with trainer.averages.applied():
            den = deepcopy(den)
    return Prior(den, codec, conditions, {"shape": list(config.shape)})
