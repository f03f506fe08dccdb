"""The frozen codec: pictures in [0, 1] to tokens and back, with its weights and codes inside the prior's folder.

    tokens = argmin_k |project(encoder(x)) - e_k|^2,     x = decoder(e_tokens)

A trained codebook has codes that no picture uses; `VQ.of` leaves them out and numbers the rest anew, so that a code
model's vocabulary is what the data needs (Gu et al. 2022). All quantisers end as such a table.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import asdict
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oneprior.codecs.base import Codec
from oneprior.codecs.pixels import _check_pictures
from oneprior.codecs.vq.config import VQConfig
from oneprior.codecs.vq.networks import Autoencoder
from oneprior.codecs.vq.quantise import nearest, project

PART = 256  # pictures at a time


class VQ(nn.Module, Codec):
    """Pictures (B, C, H, W) <-> tokens (B, h w), int64 in [0, symbols), the grid read row by row.

    symbols: number of codes. grid: (h, w). The weights follow the data to its device.

    Example:
        >>> codec = VQ.of(autoencoder, (source.batch([i])["x"] for i in range(len(source))))
        >>> codec.decode(codec.encode(x)).shape == x.shape
        True
    """

    codes: Tensor

    def __init__(self, config: VQConfig, codes: Tensor) -> None:
        super().__init__()
        self.vq = config
        model = Autoencoder(config)
        self.encoder, self.decoder = model.encoder, model.decoder
        self.register_buffer("codes", codes.detach().clone())
        self.eval().requires_grad_(False)

    @property
    def symbols(self) -> int:
        return len(self.codes)

    @property
    def grid(self) -> tuple[int, int]:
        return self.vq.grid

    @classmethod
    def of(cls, model: Autoencoder, pictures: Iterable[Tensor] | None = None) -> VQ:
        """The codec that was trained; with pictures (batches of what it was trained on), of the codes they use."""
        codec = cls(model.config, model.quantiser.table())
        codec.encoder.load_state_dict(model.encoder.state_dict())
        codec.decoder.load_state_dict(model.decoder.state_dict())
        return codec if pictures is None else codec.keep(torch.cat([codec.encode(x).cpu() for x in pictures]))

    def keep(self, tokens: Tensor) -> VQ:
        """A codec of the codes that occur in an array of tokens, numbered anew in their order."""
        out = deepcopy(self)
        out.codes = self.codes[torch.unique(tokens).to(self.codes.device)]
        return out

    @torch.no_grad()
    def encode(self, x: Tensor, check: bool = True) -> Tensor:
        """Pictures -> tokens.

        Raises TypeError for integers, ValueError for pictures of another shape, outside [0, 1] or not finite.
        """
        if tuple(x.shape[1:]) != self.vq.shape or x.ndim != 4:
            grey = x.ndim == 4 and x.shape[1] == 1 and self.vq.shape[0] == 3
            fix = "grey pictures become colour by x.expand(-1, 3, -1, -1)" if grey else "resize, or train another codec"
            wanted = ", ".join(map(str, self.vq.shape))
            raise ValueError(f"this VQ codec takes pictures of shape (B, {wanted}); got {tuple(x.shape)}: {fix}")
        if check:
            _check_pictures(x)
        own = self.to(x.device)
        parts = [project(own.encoder(2 * p.float() - 1).movedim(1, -1), own.vq) for p in x.split(PART)]
        return torch.cat([nearest(z, own.codes).flatten(1) for z in parts])

    @torch.no_grad()
    def decode(self, m: Tensor, clip: bool = True) -> Tensor:
        """Tokens -> pictures in [0, 1] (clip=False: as the decoder gives them, or a little beyond).

        Raises TypeError for tokens that are no integers, ValueError for tokens off the grid or outside [0, symbols).
        """
        h, w = self.grid
        if m.is_floating_point() or m.is_complex() or m.dtype == torch.bool:
            raise TypeError(f"tokens are integers in [0, {self.symbols}); got {m.dtype}")
        if m.ndim != 2 or m.shape[1] != h * w:
            raise ValueError(f"tokens must have shape (B, {h * w}), a grid of {h} x {w}; got {tuple(m.shape)}")
        if m.numel() and not 0 <= int(m.min()) <= int(m.max()) < self.symbols:
            mask = " (a mask? decode when all tokens are drawn)" if int(m.max()) == self.symbols else ""
            raise ValueError(f"tokens must be in [0, {self.symbols}); got {int(m.min())} to {int(m.max())}{mask}")
        own = self.to(m.device)
        grids = own.codes[m.long()].unflatten(1, (h, w)).movedim(-1, 1).split(PART)
        x = (torch.cat([own.decoder(g) for g in grids]) + 1) / 2
        return x.clamp(0, 1) if clip else x

    def hidden(self, hole: Tensor, reach: int = 1) -> Tensor:
        """`touched` for this codec's factor."""
        return touched(hole, self.vq.factor, reach)

    @property
    def logdet(self) -> float:
        raise TypeError("tokens have no density in pixels: ask the code model for nats per token")

    @property
    def log_bin(self) -> float | None:
        return self.logdet

    def config(self) -> dict[str, Any]:
        return {"type": "vq", "symbols": self.symbols, **asdict(self.vq)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        fields = {k: v for k, v in config.items() if k not in ("type", "symbols")}
        return cls(made := VQConfig(**fields), torch.zeros(config["symbols"], made.dim))


def touched(hole: Tensor, factor: int, reach: int = 1) -> Tensor:
    """Tokens (B, h w), bool, that a hole in the pixels, bool (B, 1, H, W), changes.

    reach: tokens around the hole taken in as well: an encoder sees beyond the pixels of its token. Further away it sees
    something still, as its norms look at the whole picture: a 12 x 12 hole in 32 x 32 emoji changed a fifth of the
    tokens beyond reach 1 (a sixth when filled with the mean before encoding).
    Raises ValueError for a mask of another shape, or sides that the factor does not divide.
    """
    if hole.ndim != 4 or hole.shape[1] != 1 or hole.shape[2] % factor or hole.shape[3] % factor:
        raise ValueError(f"a mask (B, 1, H, W) with sides divisible by {factor} was expected; got {tuple(hole.shape)}")
    grid = F.max_pool2d(hole.float(), factor)
    return F.max_pool2d(grid, 2 * reach + 1, stride=1, padding=reach).flatten(1) > 0
