"""What a VQ codec is, as data: frozen settings that import no torch."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from math import prod
from typing import Any

# levels of FSQ by the number of codes they make (Mentzer et al. 2023)
PRESETS = {64: (8, 8), 125: (5, 5, 5), 240: (8, 6, 5), 1000: (8, 5, 5, 5), 4375: (7, 5, 5, 5, 5)}
WIDTHS = {"tiny": (16, 32), "small": (64, 128), "base": (128, 192)}  # at the two resolutions before the tokens


@dataclass(frozen=True)
class VQConfig:
    """Pictures (C, H, W) to a grid of H / factor x W / factor tokens of `codes` symbols, and back.

    factor: side of a token in pixels, a power of 2. codes, dim: size of the codebook and of a code. levels: of FSQ,
    which needs no codebook; they set codes and dim.
    channels: of each resolution of the encoder, halved from one to the next and last that of the tokens; what is left
    of the factor is a patch. blocks: residual blocks at each.
    cosine: codes of length 1. decay: of the running means that are the codes (None: trained by their gradient instead).
    commit: weight of |z - code|^2. reset: a code chosen less often than this share of the mean becomes a vector of the
    step (0: never). rotate: gradient by the rotation trick, not straight through. seed: of replacements.

    Raises:
        ValueError: for a field out of range, or a picture that the factor does not divide.
    """

    shape: tuple[int, int, int]
    factor: int = 4
    codes: int = 256
    dim: int = 8
    levels: tuple[int, ...] = ()
    channels: tuple[int, ...] = WIDTHS["small"]
    blocks: int = 1
    cosine: bool = False
    decay: float | None = 0.95
    commit: float = 0.25
    reset: float = 0.25
    rotate: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):  # JSON and YAML give lists
            if isinstance(value := getattr(self, field.name), list):
                object.__setattr__(self, field.name, tuple(value))
        if self.levels:
            object.__setattr__(self, "codes", prod(self.levels))
            object.__setattr__(self, "dim", len(self.levels))
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(f"VQConfig wants shape (C, H, W) of one picture, without the batch; got {self.shape}")
        (_, h, w), f = self.shape, self.factor
        if f < 1 or f & (f - 1) or h % f or w % f:
            raise ValueError(f"VQConfig: factor must be a power of 2 that divides {h} x {w}; got {f}")
        if not self.channels or self.blocks < 1 or any(c < 4 or c % 4 for c in self.channels):
            raise ValueError(f"VQConfig: channels must be multiples of 4; got {self.channels}, blocks={self.blocks}")
        if self.patch < 1:
            raise ValueError(f"VQConfig: {len(self.channels)} resolutions halve more often than factor={self.factor}")
        if self.codes < 2 or self.dim < 1 or any(n < 2 for n in self.levels):
            raise ValueError(f"VQConfig: codes and levels >= 2, dim >= 1; got {self.codes}, {self.levels}, {self.dim}")
        if self.decay is not None and not 0 <= self.decay < 1:
            raise ValueError(f"VQConfig: decay must be in [0, 1), or None; got {self.decay}")

    @property
    def patch(self) -> int:
        """Side in pixels of what the first resolution sees."""
        return self.factor >> (len(self.channels) - 1)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return self.shape[1] // self.factor, self.shape[2] // self.factor

    @classmethod
    def sized(cls, shape: tuple[int, ...], size: str = "small", **fields: Any) -> VQConfig:
        """A preset, "tiny", "small" or "base"; further fields as in the class.

        Example:
            >>> VQConfig.sized((3, 32, 32), codes=512).grid
            (8, 8)
        """
        if size not in WIDTHS:
            raise ValueError(f"VQConfig knows {', '.join(map(repr, WIDTHS))}; got {size!r}")
        given = cls(shape, **{"channels": WIDTHS[size][-1:], **fields})  # type: ignore[arg-type]
        two = given.factor > 1 and "channels" not in fields
        return replace(given, channels=WIDTHS[size]) if two else given
