"""Codes of clips: 1 + r k frames to 1 + k codes and back, the first code that of a picture: the contract of the video
autoencoders of HunyuanVideo and CogVideoX (Melnik et al. 2024 survey them).

Frames pass the networks of a picture codec (`codecs.vq.networks`) one by one; on its grid log2 r layers halve time,
    h'_j = h_{2j} + conv(h_{2j-2}, h_{2j-1}, h_{2j}),      h_f = h_0 for f < 0,
and log2 r layers give two frames for one, of which the first of all is left out:
    (h_{2j-1}, h_{2j}) = (h'_j, h'_j) + conv(h'_{j-2}, h'_{j-1}, h'_j).
Code j sees frames up to r j and no later one; a picture has the code that it has as a first frame; a long clip passes
piece by piece, exactly, each layer keeping the few frames that it needs again. No norm looks beyond a frame. The
convolutions are zero at first: code j is that of frame r j, and is decoded to r equal frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any, Self

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from oneprior.codecs.latent import Latent
from oneprior.codecs.vq.config import VQConfig
from oneprior.codecs.vq.networks import Decoder, Encoder
from oneprior.codecs.vq.quantise import Quantised
from oneprior.nets.layers import zero
from oneprior.nets.unet import norm

Past = dict[nn.Module, Tensor]  # of each layer over time, the last frames it saw


class OverTime(nn.Module):
    """One layer over three frames, (B, F, width, h, w): halves time (F odd, or even behind others), or doubles it."""

    def __init__(self, width: int, doubles: bool) -> None:
        super().__init__()
        self.norm, self.doubles = norm(width), doubles
        stride, out = (1, 2 * width) if doubles else (2, width)
        self.conv = zero(nn.Conv3d(width, out, 3, (stride, 1, 1), padding=(0, 1, 1)))

    def forward(self, x: Tensor, past: Past) -> Tensor:
        known = past.get(self)
        seen = torch.cat([x[:, :1].expand(-1, 2, -1, -1, -1) if known is None else known, x], 1)
        past[self] = seen[:, -2:] if self.doubles else seen[:, -1:]
        h = nnf.silu(self.norm(seen.flatten(0, 1))).unflatten(0, seen.shape[:2])
        h = self.conv(h.transpose(1, 2)).transpose(1, 2)
        if not self.doubles:
            return h + seen[:, 2::2]
        h = torch.stack(h.chunk(2, 2), 2) + x[:, :, None]
        return h.flatten(1, 2)[:, 1 if known is None else 0 :]


class Unbound(nn.Module):
    """Stands where a VQ codec has its quantiser: codes as they are, held near zero by `weight` of their square."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, z: Tensor) -> Quantised:
        return Quantised(z, z.new_empty(0, dtype=torch.long), self.weight * z.square())

    def update(self, n: int) -> None:
        """There is nothing to learn."""


class ClipAutoencoder(nn.Module):
    """Clips (B, 1 + r k, C, H, W) in [0, 1] <-> codes (B, 1 + k, d, h, w); `Reconstruction` trains it, as a VQ codec.

    config: of the networks for frames; its `dim` is the width of what passes over time. d: numbers of a code at a
    place. r: a power of 2. seed: makes the initial weights a function of it; the global generator stays as it was.

    Example:
        >>> model = ClipAutoencoder(VQConfig((1, 16, 16), dim=32, channels=(16, 32)), d=4, r=4)
        >>> for state in Trainer(model, Reconstruction(), MovingDigits(9), settings=settings).fit(): ...

    Raises:
        ValueError: for an r that is no power of 2.
    """

    def __init__(self, config: VQConfig, d: int = 4, r: int = 4, seed: int = 0, weight: float = 1e-3) -> None:
        super().__init__()
        if r < 1 or r & (r - 1):
            raise ValueError(f"r = {r} frames for a code: a power of 2 was expected")
        self.config, self.d, self.r, self.quantiser = config, d, r, Unbound(weight)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.encoder, self.decoder = Encoder(config), Decoder(config)
            self.narrow, self.widen = nn.Conv2d(config.dim, d, 1), nn.Conv2d(d, config.dim, 1)
            count = r.bit_length() - 1
            self.shrink = nn.ModuleList(OverTime(config.dim, doubles=False) for _ in range(count))
            self.grow = nn.ModuleList(OverTime(config.dim, doubles=True) for _ in range(count))

    def encode(self, x: Tensor, past: Past | None = None) -> Tensor:
        """Codes of clips in [0, 1]. past: an empty dict with a first piece, the same one with those that follow, whose
        frames are multiples of r.

        Raises:
            ValueError: for another number of frames than 1 + r k (r k behind others).
        """
        past, r, F = {} if past is None else past, self.r, x.shape[1]
        first = not past
        if F < 1 or (F - first) % r:
            said = f"1 + {r} k frames, such as {F - (F - 1) % r} or {F + (1 - F) % r}" if first else f"{r} k frames"
            raise ValueError(f"clips of {said} were expected; got {F}")
        h = self.encoder(2 * x.flatten(0, 1) - 1).unflatten(0, x.shape[:2])
        for layer in self.shrink:
            h = layer(h, past)
        past.setdefault(self, h[:, :0])  # of r = 1, too, something has begun
        return self.narrow(h.flatten(0, 1)).unflatten(0, h.shape[:2])

    def decode(self, z: Tensor, past: Past | None = None) -> Tensor:
        """Clips of codes, not clipped; pieces as of `encode`."""
        h, past = self.widen(z.flatten(0, 1)).unflatten(0, z.shape[:2]), {} if past is None else past
        for layer in self.grow:
            h = layer(h, past)
        return (self.decoder(h.flatten(0, 1)).unflatten(0, h.shape[:2]) + 1) / 2

    def forward(self, x: Tensor) -> tuple[Tensor, Quantised]:
        q = self.quantiser(self.encode(x))
        return self.decode(q.out), q


class ClipCodes(Latent):
    """The frozen codec: clips (B, 1 + r k, C, H, W) in [0, 1] to codes (B, 1 + k, d, h, w) of zero mean and unit
    variance a channel, and back.

    Example:
        >>> codec = ClipCodes.of(model, (source.batch([i])["x"] for i in range(256)))
        >>> codec.decode(codec.encode(x)).shape == x.shape
        True
    """

    def __init__(self, model: ClipAutoencoder, scale: Any = 1.0, shift: Any = 0.0) -> None:
        shape = model.config.shape
        super().__init__(
            model, model.encode, model.decode, channels=shape[0], scale=scale, shift=shift, range=(0.0, 1.0),
            name=f"this codec of clips (B, F, {', '.join(map(str, shape))})",
        )  # fmt: skip

    @classmethod
    @torch.no_grad()
    def of(cls, model: ClipAutoencoder, clips: Iterable[Tensor]) -> ClipCodes:
        """The codec that was trained, with the statistics of batches of clips."""
        z = torch.cat([model.encode(x).movedim(2, 0).flatten(1) for x in clips], 1)
        return cls(model, 1 / z.std(1), z.mean(1))

    def encode(self, x: Tensor, check: bool = True) -> Tensor:
        """Clips -> codes; pictures (B, C, H, W) -> their codes (B, d, h, w). Errors as of `Latent`, and of
        `ClipAutoencoder.encode`."""
        return super().encode(x[:, None], check)[:, 0] if x.ndim == 4 else super().encode(x, check)

    def _shaped(self, x: Tensor) -> None:
        shape = self.model.config.shape  # type: ignore[union-attr]
        if x.ndim != 5 or tuple(x.shape[2:]) != shape:
            raise ValueError(f"{self.name} got {tuple(x.shape)}")

    @torch.no_grad()
    def stream(self, pieces: Iterable[Tensor], back: bool = False) -> Iterator[Tensor]:
        """Piece by piece what `encode` says of the whole, or, back, `decode`: memory is that of a piece."""
        model: Any = self.model
        past: Past = {}
        for piece in pieces:
            if back:
                yield model.decode(piece / self.scale + self.shift, past)
            else:
                self._shaped(piece)
                yield (model.encode(piece, past) - self.shift) * self.scale

    def config(self) -> dict[str, Any]:
        model: Any = self.model
        statistics = {k: getattr(self, k).flatten().tolist() for k in ("scale", "shift")}
        return {"type": "clip-codes", "d": model.d, "r": model.r, "frame": asdict(model.config), **statistics}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """A codec with weights yet to be loaded."""
        model = ClipAutoencoder(VQConfig(**config["frame"]), config["d"], config["r"])
        return cls(model, config["scale"], config["shift"])
