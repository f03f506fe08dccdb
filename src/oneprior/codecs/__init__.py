"""Codecs: where units live. `encode` takes the user's data to model range, `decode` brings it back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from oneprior.codecs.clips import ClipAutoencoder, ClipCodes
from oneprior.codecs.latent import Latent
from oneprior.codecs.levels import Levels
from oneprior.codecs.pixels import Pixels, Standardise
from oneprior.codecs.text import Bytes, Characters, Pieces, Text
from oneprior.codecs.vq import VQ, VQConfig

__all__ = [
    "VQ",
    "Bytes",
    "Characters",
    "ClipAutoencoder",
    "ClipCodes",
    "Codec",
    "Latent",
    "Levels",
    "Pieces",
    "Pixels",
    "Standardise",
    "Text",
    "VQConfig",
    "from_dict",
]


class Codec(Protocol):
    """What the library asks of a codec."""

    def encode(self, x: Tensor, check: bool = True) -> Tensor:
        """Data units -> model range."""
        ...

    def dequantise(self, x: Tensor, u: Tensor) -> Tensor:
        """`encode` for training and likelihood, with uniforms u like x where stored levels are to be spread."""
        ...

    def snap(self, x: Tensor) -> Tensor:
        """To the nearest stored level, where there are levels."""
        ...

    def decode(self, m: Tensor, clip: bool = False) -> Tensor:
        """Model range -> data units."""
        ...

    @property
    def logdet(self) -> float:
        """log |dm/dx|, nats per dimension."""
        ...

    @property
    def log_bin(self) -> float | None:
        """log of the width of one stored level in model range, nats per dimension; None if data is continuous."""
        ...

    def config(self) -> dict[str, Any]:
        """{"type": ..., fields}, for `from_dict`."""
        ...


CODECS = {
    "pixels": Pixels,
    "standardise": Standardise,
    "vq": VQ,
    "clip-codes": ClipCodes,
    "levels": Levels,
    "characters": Characters,
    "bytes": Bytes,
    "pieces": Pieces,
}


def from_dict(config: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> Codec:
    """The codec whose `config()` this is. tensors: the state dict of a codec that has weights, in any precision.

    Raises ValueError for a type it does not know, or weights that are missing or of another codec.
    """
    if config.get("type") not in CODECS:
        raise ValueError(f"no codec has type {config.get('type')!r}; known are {', '.join(CODECS)}")
    codec: Any = CODECS[config["type"]].from_config(dict(config))
    if hasattr(codec, "load_state_dict"):
        try:
            codec.load_state_dict({k: v.float() for k, v in (tensors or {}).items()})
        except RuntimeError as e:
            raise ValueError(f"the weights are not those of the codec {dict(config)}: {e}") from e
    return codec
