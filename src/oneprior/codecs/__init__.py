"""Codecs: where units live. `encode` takes the user's data to model range, `decode` brings it back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from oneprior.codecs.base import Codec
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
