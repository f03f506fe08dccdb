"""Pictures of few grey levels as tokens, one a pixel and channel: discrete diffusion without a learned codec (D3PM)."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from oneprior.codecs.base import Codec
from oneprior.codecs.pixels import _check_pictures


@dataclass(frozen=True)
class Levels(Codec):
    """Pictures (B, C, H, W) in [0, 1] <-> tokens (B, C H W) in [0, levels), the nearest of equally spaced levels.

    Example:
        >>> Levels(17, (1, 8, 8)).encode(torch.ones(1, 1, 8, 8)).unique()
        tensor([16])
    """

    levels: int
    shape: tuple[int, ...]
    type: ClassVar[str] = "levels"

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        if self.levels < 2 or len(self.shape) != 3:
            raise ValueError(f"2 levels or more and a shape (C, H, W) were expected; got {self.levels}, {self.shape}")

    @property
    def symbols(self) -> int:
        return self.levels

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens; the channels lie below one another."""
        c, h, w = self.shape
        return c * h, w

    def encode(self, x: Tensor, check: bool = True) -> Tensor:
        """Pictures -> tokens. Raises ValueError for another shape, or pictures outside [0, 1]."""
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"pictures (B, {', '.join(map(str, self.shape))}) were expected; got {tuple(x.shape)}")
        if check:
            _check_pictures(x)
        return (x.clamp(0, 1) * (self.levels - 1)).round().long().flatten(1)

    def snap(self, x: Tensor) -> Tensor:
        return (x * (self.levels - 1)).round() / (self.levels - 1)

    def decode(self, m: Tensor, clip: bool = False) -> Tensor:
        """Tokens -> pictures. Raises ValueError for tokens off the grid or outside [0, levels)."""
        if m.ndim != 2 or m.shape[1] != prod(self.shape) or not 0 <= int(m.min()) <= int(m.max()) < self.levels:
            raise ValueError(
                f"tokens (B, {prod(self.shape)}) in [0, {self.levels}) were expected; got {tuple(m.shape)} from "
                f"{int(m.min())} to {int(m.max())}"
            )
        return (m.to(torch.float32) / (self.levels - 1)).unflatten(1, self.shape)

    def hidden(self, hole: Tensor, reach: int = 0) -> Tensor:
        """Tokens (B, C H W), bool, of the pixels that a hole (B, 1, H, W) takes; none sees beyond its pixel."""
        return hole.expand(-1, self.shape[0], -1, -1).flatten(1)

    @property
    def log_bin(self) -> float:
        return 0.0
