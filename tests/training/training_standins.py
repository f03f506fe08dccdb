"""The smallest objects that obey the contracts of a denoiser, an objective and a source; with dropout and state."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from oneprior.conditions import Conditions, Label
from oneprior.times import TimeLaw, Uniform
from oneprior.training.settings import TrainSettings
from oneprior.training.trainer import Trainer


class TinySource:
    def __init__(self, count: int = 101, bad: bool = False) -> None:
        g = torch.Generator().manual_seed(1)
        self.x, self.label = torch.rand(count, 1, 4, 4, generator=g), torch.randint(3, (count,), generator=g)
        if bad:
            self.x[0] = torch.nan

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        return {"x": self.x[list(indices)], "label": self.label[list(indices)]}


class TinyDenoiser(nn.Module):
    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(2)
        self.inp, self.out, self.embed = nn.Linear(17, 32), nn.Linear(32, 16), nn.Embedding(4, 32)
        for p in self.parameters():
            p.data = torch.randn(p.shape, generator=g) * 0.2
        self.drop = nn.Dropout(dropout)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        h = torch.cat([x.flatten(1), t[:, None]], 1)
        return self.out(self.drop(torch.tanh(self.inp(h) + self.embed(label)))).reshape(x.shape)


class TinyObjective(nn.Module):
    """x_t = (1 - t) x_0 + t eps, the network tells the velocity; one learned number weighs the loss."""

    def __init__(self, law: TimeLaw | None = None) -> None:
        super().__init__()
        self.law, self.log_weight = law or Uniform(), nn.Parameter(torch.zeros(()))

    def forward(self, den: nn.Module, x0: Tensor, t: Tensor, noise: Tensor, **cond: Tensor) -> Tensor:
        at = t[:, None, None, None]
        error = den((1 - at) * x0 + at * noise, t, **cond) - (noise - x0)
        return error.square().flatten(1).mean(1) * (-self.log_weight).exp() + self.log_weight


class Unit:
    """A codec of 17 levels."""

    def dequantise(self, x: Tensor, u: Tensor) -> Tensor:
        return ((x * 16).round() + u) * (2 / 17) - 1


def tiny(run: Path | None = None, *, bad: bool = False, dropout: float = 0.1, **settings: Any) -> Trainer:
    """A trainer of the stand-ins: 20 steps of 12 unless said otherwise."""
    base: dict[str, Any] = {"samples": 240, "batch": 12, "lr": 1e-2, "warmup": 24, "drop": 0.2, "log_every": 60}
    base |= {"device": "cpu", **settings}
    conditions = Conditions({"label": Label(("a", "b", "c"))})
    source = TinySource(bad=bad)
    return Trainer(TinyDenoiser(dropout), TinyObjective(), source, Unit(), conditions, TrainSettings(**base), run)
