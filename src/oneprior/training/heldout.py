"""The objective on held-out data at every line of the log, with the same samples, times and noise each time.

What it says is a function of the log alone, so a run that is resumed stops where it would have stopped.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch

from oneprior.times import TimeLaw
from oneprior.training.batches import Batches, Source
from oneprior.training.trainer import Trainer

COUNT, PART = 512, 128  # of fewer samples, several times and noises each


class HeldOut:
    """patience: lines of the log without a new best after which training is to end."""

    def __init__(self, trainer: Trainer, source: Source, patience: int) -> None:
        s = trainer.settings
        plain = replace(s, drop=0.0, batch=max(s.batch, trainer.engine.world))
        given = trainer.batches
        law = cast(TimeLaw, trainer.objective.law)
        batches = Batches(source, given.codec, given.conditions, law, plain, trainer.engine)
        self.trainer, self.patience = trainer, patience
        self.parts = [
            batches.prepare(np.arange(i, i + PART)) for i in range(0, COUNT, PART)
        ]  # of fewer, several noises
        trainer.measure = self.look

    @torch.no_grad()
    def look(self) -> dict[str, Any]:
        """The mean objective of the averaged weights."""
        with self.trainer.using_averages():
            total = sum(float(self.trainer._loss(part).double().sum()) for part in self.parts)
        return {"held_out": total / sum(len(part.t) for part in self.parts)}

    def standing(self, lines: list[dict[str, Any]]) -> tuple[bool, bool]:
        """Of a run's log: whether its last line is the best so far, and whether it is time to stop."""
        seen = [line["held_out"] for line in lines if "held_out" in line]
        best = min(range(len(seen)), key=seen.__getitem__, default=-1)
        return best == len(seen) - 1, len(seen) - 1 - best >= self.patience
