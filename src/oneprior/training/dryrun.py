"""What a run will cost, measured: parameters, memory, samples a second, time to finish."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from time import monotonic

import torch
from torch import Tensor

from oneprior.training.trainer import Trainer


@dataclass(frozen=True)
class Forecast:
    """What a few steps say about a run."""

    parameters: int
    memory: int
    """bytes in one process: weights, gradients, optimiser, averages, activations of one micro-batch"""
    rate: float
    """samples a second"""
    seconds: float | None
    """to the end of the run; none where it has no end in sight"""


def dry_run(trainer: Trainer, steps: int = 5) -> Forecast:
    """Measure a few steps before `fit` and forget them: the weights end as they began, nothing is written."""
    modules = (trainer.den, trainer.objective)
    before = [{k: v.clone() for k, v in m.state_dict().items()} for m in modules]
    with closing(trainer.batches.after(0)) as feed:
        first = next(feed)
        with _weighed() as activations:
            trainer.update(first[:1])
        trainer.update(next(feed))  # warms up
        start = monotonic()
        for _ in range(steps):
            trainer.update(next(feed))
        next(trainer.den.parameters()).sum().item()  # waits for the device
        rate = steps * trainer.settings.batch / (monotonic() - start)
    for module, state in zip(modules, before, strict=True):
        module.load_state_dict(state)
    trainer.reset()
    size = {p.data_ptr(): p.numel() * p.element_size() for m in modules for p in m.parameters()}
    return Forecast(
        parameters=sum(p.numel() for p in trainer.den.parameters()),
        memory=sum(size.values()) * (3 + len(trainer.averages.profiles)) + activations(),
        rate=rate,
        seconds=trainer.left(rate),
    )


@contextmanager
def _weighed() -> Iterator[Callable[[], int]]:
    """Bytes of the distinct tensors that autograd keeps for one backward pass, weights included."""
    kept: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        yield lambda: sum(kept.values())
