"""Encoder and decoder around a quantiser, and their loss: |x - y|, (x - y)^2, what the quantiser adds.

Small residual convolutions, h + conv(silu(norm(conv(silu(norm(h)))))). The picture enters in patches and leaves by
convolutions that yield 2 x 2 cells from one (Shi et al. 2016).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oneprior.codecs.vq.config import VQConfig
from oneprior.codecs.vq.quantise import Quantised, quantiser
from oneprior.nets.layers import zero
from oneprior.nets.unet import norm
from oneprior.times import TimeLaw, Uniform


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm(channels), norm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = zero(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, h: Tensor) -> Tensor:
        return h + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(h))))))


class Encoder(nn.Sequential):
    """(B, C, H, W) in [-1, 1] -> (B, d, H / f, W / f)."""

    def __init__(self, c: VQConfig) -> None:
        ch = c.channels
        layers = [nn.PixelUnshuffle(c.patch), nn.Conv2d(c.shape[0] * c.patch**2, ch[0], 3, padding=1)]
        for i, width in enumerate(ch):
            layers += [nn.Conv2d(ch[i - 1], width, 4, stride=2, padding=1)] if i else []
            layers += [Block(width) for _ in range(c.blocks)]
        super().__init__(*layers, norm(ch[-1]), nn.SiLU(), nn.Conv2d(ch[-1], c.dim, 1))


class Decoder(nn.Sequential):
    """(B, d, H / f, W / f) -> (B, C, H, W) in [-1, 1], or a little beyond."""

    def __init__(self, c: VQConfig) -> None:
        ch = c.channels[::-1]
        layers: list[nn.Module] = [nn.Conv2d(c.dim, ch[0], 3, padding=1), *(Block(ch[0]) for _ in range(c.blocks))]
        for a, b in pairwise(ch):
            layers += [nn.Conv2d(a, 4 * b, 3, padding=1), nn.PixelShuffle(2), *(Block(b) for _ in range(c.blocks))]
        out = nn.Conv2d(ch[-1], c.shape[0] * c.patch**2, 3, padding=1)
        super().__init__(*layers, norm(ch[-1]), nn.SiLU(), out, nn.PixelShuffle(c.patch))


class Autoencoder(nn.Module):
    """Pictures (B, C, H, W) in [0, 1] -> (the same decoded, `Quantised` on the grid (B, h, w)).

    seed: makes the initial weights a function of it; the global generator is as before afterwards.
    """

    def __init__(self, config: VQConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quantiser = quantiser(config)

    def features(self, x: Tensor) -> Tensor:
        """What the quantiser is given for pictures, (B, h, w, d)."""
        return self.encoder(2 * x - 1).movedim(1, -1)

    def decode(self, e: Tensor) -> Tensor:
        """Codes (B, h, w, d) -> pictures, not clipped."""
        return (self.decoder(e.movedim(-1, 1)) + 1) / 2

    def forward(self, x: Tensor) -> tuple[Tensor, Quantised]:
        q = self.quantiser(self.features(x))
        return self.decode(q.out), q


class Reconstruction(nn.Module):
    """objective(autoencoder, x, t, noise) -> (B,) loss, for `Trainer`: a codec is trained as a prior is.

    x in [0, 1], so without a codec of its own. l1, l2: weights of |error| and error^2, errors in [-1, 1] range as the
    quantiser's loss. perceptual: perceptual(y, x) -> (B,), added as it is.

    Example:
        >>> trainer = Trainer(Autoencoder(VQConfig.sized((3, 32, 32))), Reconstruction(), source)
    """

    def __init__(
        self, l1: float = 0.1, l2: float = 1.0, perceptual: Callable[[Tensor, Tensor], Tensor] | None = None
    ) -> None:
        super().__init__()
        self.l1, self.l2, self.perceptual = l1, l2, perceptual
        self.law: TimeLaw = Uniform()  # there is no time; batches ask for one

    def forward(self, den: Autoencoder, x0: Tensor, t: Tensor, noise: Tensor, **cond: Any) -> Tensor:
        y, q = den(x0)
        error = 2 * (y.float() - x0)
        loss = self.l1 * error.abs().flatten(1).mean(1) + self.l2 * error.square().flatten(1).mean(1)
        loss = loss + q.loss.flatten(1).mean(1)
        return loss if self.perceptual is None else loss + self.perceptual(y, x0)

    def after(self, den: Autoencoder, n: int) -> None:
        """The codebook's own step; `Trainer` calls it behind the optimiser's."""
        den.quantiser.update(n)
