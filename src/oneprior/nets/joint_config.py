"""What a network of several parts is, as data: its parts and the settings of its backbone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, ClassVar

from oneprior.nets.config import CONFIGS, NetConfig


@dataclass(frozen=True)
class JointConfig:
    """One network of several parts, see `nets.joint`.

    shapes: of each part, without the batch: (C, H, W), (d,), or (L,) of tokens. vocab: symbols of parts of tokens, the
    mask included. net: the backbone, "mlp" for all parts as one vector, "unet" or "dit" for pictures of one size and
    whatever stands beside them. size, fields: as of its own config. clock: width of a part's time embedding.
    """

    shapes: Mapping[str, tuple[int, ...]]
    vocab: Mapping[str, int]
    net: str = "mlp"
    size: str = "small"
    fields: Mapping[str, Any] = field(default_factory=dict)
    clock: int = 32

    type: ClassVar[str] = "joint"

    def __post_init__(self) -> None:
        object.__setattr__(self, "shapes", {k: tuple(v) for k, v in self.shapes.items()})  # JSON gives lists
        lists = {k: tuple(v) if isinstance(v, list) else v for k, v in self.fields.items()}
        object.__setattr__(self, "fields", lists)
        if len(self.shapes) < 2 or set(self.vocab) - set(self.shapes) or self.net not in ("mlp", "unet", "dit"):
            known = f"parts {sorted(self.shapes)}, vocab of {sorted(self.vocab)}, net={self.net}"
            raise ValueError(f"JointConfig wants two parts or more, vocab of some, net mlp, unet or dit; got {known}")
        sizes = {self.shapes[k][1:] for k in self.pictures}
        if not self.flat and len(sizes) != 1:
            raise ValueError(f"JointConfig: net={self.net} wants pictures of one size; got {sizes or 'none'}: say mlp")

    @property
    def flat(self) -> bool:
        return self.net == "mlp"

    @property
    def pictures(self) -> list[str]:
        return [k for k, s in self.shapes.items() if len(s) == 3]

    @property
    def outputs(self) -> dict[str, int]:
        """Numbers of each part's answer."""
        return {k: prod(s) * self.vocab.get(k, 1) for k, s in self.shapes.items()}

    @property
    def pool(self) -> int:
        """Channels from which parts that are no pictures are answered."""
        return 0 if self.flat or len(self.pictures) == len(self.shapes) else 64

    @property
    def backbone(self) -> NetConfig:
        kind: Any = CONFIGS[self.net]
        clocks, own = self.clock * len(self.shapes), dict(self.fields)
        if self.flat:  # what a part shows has as many numbers as its answer
            total = sum(self.outputs.values())
            return kind.sized((total,), self.size, vector=clocks, **own)
        beside = sum(n for k, n in self.outputs.items() if k not in self.pictures)
        channels, grid = sum(self.shapes[k][0] for k in self.pictures), self.shapes[self.pictures[0]][1:]
        own |= {"vector": clocks + beside, "out_channels": channels + self.pool}
        return kind.sized((channels, *grid), self.size, **own)
