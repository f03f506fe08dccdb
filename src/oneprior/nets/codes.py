"""U-Net over codes of a picture (Hu et al. 2022, VQ-DDM): indices say nothing of nearness, so they are embedded first;
the grid is spatial, so convolutions and few parameters do."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from oneprior.nets.config import CodesConfig
from oneprior.nets.unet import UNet


class CodeUNet(nn.Module):
    """x (B, h w) integers, t (B,) or None -> logits (B, h w, vocab); ports as of `UNet`."""

    def __init__(self, config: CodesConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab, config.shape[0])
        self.unet = UNet(config)

    def forward(self, x: Tensor, t: Tensor | None = None, **ports: Any) -> Tensor:
        h, w = self.config.shape[1:]
        if x.ndim != 2 or x.shape[1] != h * w:
            raise ValueError(f"this net was built for codes (B, {h * w}), a grid of {h} x {w}; got {tuple(x.shape)}")
        at = x.new_zeros(len(x), dtype=torch.float32) if t is None else t
        if at.ndim > 1:
            at = at.expand(x.shape).unflatten(1, (h, w))[:, None]
        return self.unet(self.embed(x).unflatten(1, (h, w)).movedim(-1, 1), at, **ports).flatten(2).transpose(1, 2)
