"""The codes of a frozen autoencoder: pictures in [0, 1] to (B, c, h, w) and back, with its frozen statistics.

    m = scale (E(lo + (hi - lo) x) - shift),      x = (D(m / scale + shift) - lo)/(hi - lo)

(Rombach et al. 2022.) A measurement of pictures becomes one of codes through the decoder, which is not linear. Codes
have no density in pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from oneprior.codecs.base import Codec
from oneprior.codecs.pixels import _check_pictures
from oneprior.operators.base import Local, Operator


class Latent(nn.Module, Codec):
    """model: the autoencoder, frozen. encoder, decoder: pictures in `range` to codes before scaling, and back; a mean
    where it has a law. channels: of the pictures. scale, shift: a number, or one a channel.

    Example:
        >>> codec = Latent(vae, lambda x: vae.encode(x).latent_dist.mode(), lambda z: vae.decode(z).sample, scale=0.18)
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        model: nn.Module,
        encoder: Callable[[Tensor], Tensor],
        decoder: Callable[[Tensor], Tensor],
        *,
        channels: int = 3,
        scale: Any = 1.0,
        shift: Any = 0.0,
        range: tuple[float, float] = (-1.0, 1.0),
        name: str = "",
    ) -> None:
        super().__init__()
        self.model, self.encoder, self.decoder = model, encoder, decoder
        self.channels, self.range, self.name = channels, range, name or type(model).__name__
        for key, v in (("scale", scale), ("shift", shift)):
            self.register_buffer(key, torch.as_tensor(v, dtype=torch.float32).reshape(-1, 1, 1), persistent=False)
        self._inside: dict[tuple[int, ...], tuple[int, ...]] = {}
        self.eval().requires_grad_(False)

    def inside(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the codes of one picture (C, H, W)."""
        if shape not in self._inside:
            blank = torch.full((1, *shape), 0.5, device=self.scale.device, dtype=self.scale.dtype)
            self._inside[shape] = tuple(self.encode(blank).shape[1:])
        return self._inside[shape]

    def encode(self, x: Tensor, check: bool = True) -> Tensor:
        """Pictures -> codes. Raises TypeError for integers, ValueError for other channels or values outside [0, 1]."""
        self._shaped(x)
        if check:
            _check_pictures(x)
        lo, hi = self.range
        return (self.encoder(lo + (hi - lo) * x) - self.shift) * self.scale

    def _shaped(self, x: Tensor) -> None:
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise ValueError(f"{self.name} takes pictures (B, {self.channels}, H, W); got {tuple(x.shape)}")

    def decode(self, m: Tensor, clip: bool = False) -> Tensor:
        """Codes -> pictures, differentiable; a little beyond [0, 1] unless clip."""
        lo, hi = self.range
        x = (self.decoder(m / self.scale + self.shift) - lo) / (hi - lo)
        return x.clamp(0, 1) if clip else x

    @property
    def operator(self) -> Operator:
        """m -> decode(m), for measurements of pictures."""
        return _Decoder(self)

    @property
    def logdet(self) -> float:
        raise TypeError(f"the codes of {self.name} have no density in pixels, so there is no likelihood of pictures")

    @property
    def log_bin(self) -> float | None:
        return self.logdet

    def config(self) -> dict[str, Any]:
        return {"type": "latent", "name": self.name, "scale": self.scale.flatten().tolist()}


@dataclass(frozen=True, eq=False)
class _Decoder(Operator):
    codec: Latent
    linear = False

    def forward(self, x: Tensor) -> Tensor:
        return self.codec.decode(x)

    def at(self, x: Tensor) -> Local:
        """J u as the transpose of w -> J^T w: not every layer has a forward derivative, nor the fused attention two."""
        with sdpa_kernel(SDPBackend.MATH):
            value, pull = torch.func.vjp(self.forward, x)[:2]
            push = torch.func.vjp(lambda w: pull(w)[0], torch.zeros_like(value))[1]
        return Local(value, lambda u: push(u)[0], lambda w: pull(w)[0])

    def domain(self, y: tuple[int, ...]) -> tuple[int, ...]:
        return (y[0], *self.codec.inside(tuple(y[1:])))

    def pinv(self, y: Tensor, iterations: int = 0) -> Tensor:
        return self.codec.encode(y.clamp(0, 1), check=False)
