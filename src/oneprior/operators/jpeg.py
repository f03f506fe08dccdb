"""JPEG (ITU-T T.81): 8 x 8 blocks of cosines, each divided by a table, rounded, and multiplied again.

`forward` is a model of it in tensors whose rounding has slope 1 (straight through; Shin and Song 2017 discuss others),
within a level or two of the real encoder; `encoded` is the real one, by Pillow, and has no gradient. Pictures in
[0, 1], one channel or three (YCbCr of BT.601, chroma at half the resolution unless told).
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from math import cos, pi, sqrt

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from oneprior.operators.svd import along
from oneprior.operators.tones import Tone

# tables K.1 and K.2 of T.81, by rows
LUMA = """16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"""
CHROMA = "17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99 " + "99 " * 32
YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


@dataclass(frozen=True)
class JPEG(Tone):
    """quality: 1 to 100, in the scale of libjpeg; halved: chroma at half resolution (4:2:0)."""

    quality: int = 10
    halved: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality = {self.quality}: a whole number from 1 to 100 was expected")

    def forward(self, x: Tensor) -> Tensor:
        _channels(x)
        v = 255 * x.clamp(0, 1)
        if x.shape[-3] == 1:
            return _levels(self._coded(v - 128, LUMA) + 128)
        turn = torch.tensor(YCC, dtype=torch.float64)
        luma, chroma = along(turn, _round(v), -3).split((1, 2), -3)
        luma = self._coded(luma - 128, LUMA) + 128
        if self.halved:
            even = _padded(chroma, 2)
            small = self._coded(F.avg_pool2d(even.flatten(0, -4), 2), CHROMA)
            large = F.interpolate(small, scale_factor=2, mode="bilinear")  # libjpeg's weights, 3 to 1
            chroma = large.reshape(even.shape)[..., : x.shape[-2], : x.shape[-1]]
        else:
            chroma = self._coded(chroma, CHROMA)
        return _levels(along(turn.inverse(), torch.cat([luma, chroma], -3), -3))

    @torch.no_grad()
    def encoded(self, x: Tensor) -> Tensor:
        """x through a file in memory, picture by picture; x (B, C, H, W) of one channel or three."""
        from PIL import Image

        _channels(x)
        levels = (255 * x.clamp(0, 1)).round().to(torch.uint8).movedim(-3, -1).cpu().numpy()
        out = []
        for picture in levels:
            file = io.BytesIO()
            image = Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)
            image.save(file, "JPEG", quality=self.quality, subsampling=2 if self.halved else 0)
            out.append(np.asarray(Image.open(file)).reshape(picture.shape))
        return torch.from_numpy(np.stack(out)).movedim(-1, -3).to(x) / 255

    def _coded(self, v: Tensor, table: str) -> Tensor:
        H, W = v.shape[-2:]
        D, Q = _cosines().to(v), _table(table, self.quality).to(v)
        blocks = _padded(v, 8).unflatten(-1, (-1, 8)).unflatten(-3, (-1, 8)).movedim(-2, -3)  # (*, rows, cols, 8, 8)
        blocks = D.T @ (_round(D @ blocks @ D.T / Q) * Q) @ D
        return blocks.movedim(-3, -2).flatten(-2).flatten(-3, -2)[..., :H, :W]


def _round(v: Tensor) -> Tensor:
    return v + (v.round() - v).detach()


def _levels(v: Tensor) -> Tensor:
    return _round(v.clamp(0, 255)) / 255


def _padded(v: Tensor, n: int) -> Tensor:
    H, W = v.shape[-2:]
    flat = F.pad(v.flatten(0, -4), (0, -W % n, 0, -H % n), "replicate")
    return flat.reshape(*v.shape[:-2], *flat.shape[-2:])


@lru_cache
def _cosines() -> Tensor:
    D = torch.tensor([[cos(pi * (2 * j + 1) * i / 16) / 2 for j in range(8)] for i in range(8)], dtype=torch.float64)
    D[0] /= sqrt(2)
    return D


@lru_cache
def _table(numbers: str, quality: int) -> Tensor:
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    table = [min(max((int(q) * scale + 50) // 100, 1), 255) for q in numbers.split()]
    return torch.tensor(table, dtype=torch.float64).reshape(8, 8)


def _channels(x: Tensor) -> None:
    if x.ndim < 4 or x.shape[-3] not in (1, 3):
        raise ValueError(f"x has shape {tuple(x.shape)}: pictures of 1 or 3 channels, (B, C, H, W), were expected")
