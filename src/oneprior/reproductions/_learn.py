"""What reproductions train: the averaged weights; nothing is written but where trainings are kept, to go on later."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from torch import nn

from oneprior.codecs import Codec
from oneprior.conditions import Conditions
from oneprior.denoiser import Facts, NetworkDenoiser
from oneprior.nets import NetConfig, build
from oneprior.objective import Objective
from oneprior.prior import Prior
from oneprior.reproductions import KEPT
from oneprior.schedules import Cosine
from oneprior.times import Uniform
from oneprior.training.batches import Codec as Dequantised
from oneprior.training.batches import Source
from oneprior.training.settings import TrainSettings
from oneprior.training.trainer import Trainer


def trained(
    name: str | None,
    den: nn.Module,
    objective: nn.Module,
    source: Source,
    codec: Dequantised | None = None,
    conditions: Conditions | None = None,
    **how: Any,
) -> Any:
    """A copy of `den` with the averaged weights of a training (the last ones without `averages`), in eval mode.

    how: its settings. name: of its folder where trainings are kept (without one it is not); one that was stopped goes
    on from there, one that is done is read.

    Raises:
        KeyboardInterrupt: where Ctrl-C or SIGTERM ended it, behind a checkpoint.
    """
    kept = KEPT.get()
    said: dict[str, Any] = {"decay": "cosine", "betas": (0.9, 0.99), "save_minutes": 2.0, **how}
    run = None if kept is None or name is None else kept / name
    trainer = Trainer(den, objective, source, codec, conditions, TrainSettings(**said), run)
    for _ in trainer.fit():
        pass
    if trainer.stopped != "samples":
        raise KeyboardInterrupt
    with trainer.using_averages():
        return deepcopy(den).eval()


def learn(
    config: NetConfig, source: Source, codec: Codec, conditions: Conditions, samples: int, seed: int = 0, *,
    batch: int = 64, **how: Any,
) -> Prior:  # fmt: skip
    """The prior after `samples` draws of a source, none of them for an untrained one; how: other training settings."""
    den = NetworkDenoiser(build(config, seed), Cosine(), "v", facts=Facts(null=conditions.null))
    if samples:
        den = trained(
            None, den, Objective(law=Uniform(1e-3, 1.0)), source, codec, conditions,
            samples=samples, batch=batch, lr=2e-3, warmup=samples // 10, seed=seed, **how,
        )  # fmt: skip
    return Prior(den, codec, conditions, {"shape": list(config.shape)})
