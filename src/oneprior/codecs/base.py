"""What the library asks of a codec, and what most answer: a codec declares `encode` and `decode`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Protocol, Self

from torch import Tensor


class Codec(Protocol):
    """Data units <-> model range."""

    def encode(self, x: Any, check: bool = True) -> Tensor:
        """Data units -> model range."""
        ...

    def decode(self, m: Tensor, clip: bool = False) -> Any:
        """Model range -> data units."""
        ...

    def dequantise(self, x: Any, u: Tensor) -> Tensor:
        """`encode` for training and likelihood, with uniforms u like x where stored levels are to be spread."""
        return self.encode(x)

    def snap(self, x: Tensor) -> Tensor:
        """To the nearest stored level, where there are levels."""
        return x

    @property
    def logdet(self) -> float:
        """log |dm/dx|, nats per dimension."""
        return 0.0

    @property
    def log_bin(self) -> float | None:
        """log of the width of one stored level in model range, nats per dimension; None if data is continuous."""
        return None

    def config(self) -> dict[str, Any]:
        """{"type": ..., fields}, for `from_dict`: of a dataclass with a `type`."""
        own: Any = self
        return {"type": own.type, **asdict(own)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """What `config` said; of a codec with weights, these yet to be loaded."""
        return cls(**{k: v for k, v in config.items() if k != "type"})
