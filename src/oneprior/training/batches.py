"""Batches: data, times, noise and hidden conditions of sample numbers k, each a pure function of (seed, k).

Threads may read ahead; they cannot change the order, because step and rank alone say which k come next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Mapping, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from oneprior.conditions import Conditions
from oneprior.times import TimeLaw
from oneprior.training import order
from oneprior.training.engine import Engine
from oneprior.training.settings import TrainSettings

STRUCTURE = ("segments",)  # what a source says of how its samples are made up: it goes to the network, never hidden


class Source(Sized, Protocol):
    """Data by index: "x" of shape (B, ...), float32 or integer tokens, conditions by the name of their port, and what
    `STRUCTURE` names."""

    def batch(self, indices: Sequence[int], /) -> Mapping[str, Tensor]: ...


class Codec(Protocol):
    """To model range: each value at u in [0, 1) of its bin, u like x."""

    def dequantise(self, x: Tensor, u: Tensor, /) -> Tensor: ...


@dataclass(frozen=True)
class Batch:
    """One micro-batch in the processor's memory; nothing random is left to do but dropout inside modules."""

    first: int
    """number of its first sample"""
    x0: Tensor
    """in model range"""
    t: Tensor
    noise: Tensor
    """standard normal, like x0; where x0 are tokens, uniform in [0, 1)"""
    cond: dict[str, Tensor]
    """conditions, hidden already where they are to be"""


class Batches:
    """What each step of this process trains on.

    Raises:
        ValueError: when there are more processes than samples in a batch, or no data.
        KeyError: when the data lacks what a condition needs.
    """

    def __init__(
        self,
        source: Source,
        codec: Codec | None,
        conditions: Conditions | None,
        law: TimeLaw,
        settings: TrainSettings,
        engine: Engine,
    ) -> None:
        self.source, self.codec, self.conditions = source, codec, conditions
        self.law, self.settings, self.engine = law, settings, engine
        self.prepare(self.split(0)[0])

    def split(self, n: int) -> list[np.ndarray]:
        """Sample numbers of this process's micro-batches in the step that starts after n samples."""
        s, engine = self.settings, self.engine
        return order.share(n, s.batch, engine.rank, engine.world, s.micro_batch)

    def prepare(self, k: np.ndarray) -> Batch:
        """The micro-batch of sample numbers k."""
        seed = self.settings.seed
        data = self.source.batch(order.element(seed, k, len(self.source)).tolist())
        x0 = data["x"]
        if self.codec is not None and x0.is_floating_point():  # the cast to float32 may round up to 1
            u = torch.from_numpy(order.uniform(seed, "dequantise", k, tuple(x0.shape[1:]))).float()
            x0 = self.codec.dequantise(x0, u.clamp_(max=1 - 2**-24))
        shape, noise = tuple(x0.shape[1:]), order.normal if x0.is_floating_point() else order.uniform
        u = order.uniform(seed, "time", k, self.law.shape(shape))
        u.reshape(len(k), -1)[:, 0] = order.golden(seed, k)
        t = self.law(torch.from_numpy(u)).to(x0.dtype if x0.is_floating_point() else torch.float32)
        eps = torch.from_numpy(noise(seed, "noise", k, shape))
        cond: dict[str, Tensor] = {}
        if self.conditions:
            if missing := [name for name in self.conditions if name not in data]:
                raise KeyError(f"the model is conditioned on {missing}, but the data gives only {sorted(data)}")
            hidden = torch.from_numpy(order.uniform(seed, "drop", k))
            given = self.conditions.encode(len(k), **{name: data[name] for name in self.conditions})
            cond = self.conditions.drop(given, hidden, self.settings.drop)
        cond |= {k: data[k] for k in STRUCTURE if k in data}
        if self.engine.device.type == "cuda":
            x0, eps = x0.pin_memory(), eps.pin_memory()
        return Batch(first=int(k[0]), x0=x0, t=t, noise=eps, cond=cond)

    def after(self, n: int) -> Generator[list[Batch]]:
        """The micro-batches of step after step, without end."""
        if not self.settings.workers:
            while True:
                yield [self.prepare(k) for k in self.split(n)]
                n += self.settings.batch
        pool = ThreadPoolExecutor(self.settings.workers, "oneprior-data")
        ahead: deque[list[Future[Batch]]] = deque()
        try:
            while True:
                while len(ahead) <= self.settings.workers:
                    ahead.append([pool.submit(self.prepare, k) for k in self.split(n)])
                    n += self.settings.batch
                yield [f.result() for f in ahead.popleft()]
        finally:
            pool.shutdown(cancel_futures=True)
