"""Residual multilayer perceptron with time modulation, for points, vectors and small pictures taken as vectors.

h <- h + W2 silu(W1 (scale(e) * norm(h) + shift(e))), with W2 and the last layer zero at first.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oneprior.nets.config import MLPConfig
from oneprior.nets.layers import Embedding, check_input, check_port, with_image, zero


class Block(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        nn.init.ones_(self.modulation.bias[:width])
        nn.init.zeros_(self.modulation.bias[width:])
        self.inner = nn.Linear(width, 2 * width)
        self.dropout = nn.Dropout(dropout)
        self.outer = zero(nn.Linear(2 * width, width))

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        scale, shift = self.modulation(e).chunk(2, -1)
        return h + self.outer(self.dropout(F.silu(self.inner(torch.addcmul(shift, self.norm(h), scale)))))


class MLP(nn.Module):
    """Layers to tap: `blocks.0`, `blocks.1`, ... each (B, width)."""

    def __init__(self, config: MLPConfig) -> None:
        super().__init__()
        self.config = config
        size, grid = math.prod(config.shape), math.prod(config.shape[1:])
        self.per_element = config.time_axes > 0
        self.embedding = Embedding(
            config, config.width, 32 if self.per_element else config.width, size if self.per_element else 1
        )
        self.inp = nn.Linear(size + config.image * grid, config.width)
        self.blocks = nn.ModuleList(Block(config.width, config.dropout) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.out = zero(nn.Linear(config.width, config.channels_out * grid))

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        *,
        label: Tensor | None = None,
        vector: Tensor | None = None,
        tokens: Tensor | None = None,
        token_mask: Tensor | None = None,
        image: Tensor | None = None,
        second_time: Tensor | None = None,
    ) -> Tensor:
        """x (B, *shape), t (B,) or, with `time_axes`, up to x's own axes -> (B, out_channels, ...)."""
        config = self.config
        check_input(config, x, t)
        if x.shape[1:] != config.shape:
            raise ValueError(f"this MLP takes samples of shape {config.shape} and no other; got {tuple(x.shape)}")
        for port, value in (("tokens", tokens), ("token_mask", token_mask)):
            if value is not None:
                raise TypeError(f"an MLP has no port {port!r}: use UNetConfig or DiTConfig with tokens=...")
        if image is not None:
            check_port(config, "image", "image", image, (len(x), config.image, *x.shape[2:]))
        if second_time is not None:
            check_input(config, x, second_time)
            second_time = self._times(second_time, x)
        e = self.embedding(self._times(t, x), second_time, label, vector, self._join if self.per_element else None)
        h = self.inp((with_image(config, x, image) if config.image else x).flatten(1))
        for block in self.blocks:
            h = block(h, e)
        return self.out(F.silu(self.norm(h))).reshape(len(x), config.channels_out, *x.shape[2:])

    def _times(self, t: Tensor, x: Tensor) -> Tensor:
        # A vector has no neighbourhoods to share weights over: each element's time gets weights of its own.
        return t.reshape(*t.shape, *[1] * (x.ndim - t.ndim)).expand_as(x).flatten(1) if self.per_element else t

    @staticmethod
    def _join(features: Tensor) -> Tensor:
        return features.flatten(1)
