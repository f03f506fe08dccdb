"""Samples of several parts as one row of numbers, which is what a trainer orders, noises and resumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from oneprior.data.source import Batch, DataFacts, Source

if TYPE_CHECKING:
    from torch import Tensor


class Packed:
    """A source whose "x" holds all parts of a sample, flattened behind one another, (B, D); its codec as well.

    keys: {part: key of the source's batches}, in the order of the denoiser's parts. codec: of the parts that are no
    integers, element by element; none: they are in model range.

    Example:
        >>> data = Packed(digits("train"), {"image": "x", "label": "label"}, Pixels(17))
        >>> trainer = Trainer(den, objective, data, data)

    Raises:
        KeyError: for a key that the source's batches have not.
    """

    def __init__(self, source: Source, keys: Mapping[str, str], codec: Any = None) -> None:
        self.source, self.keys, self.codec = source, dict(keys), codec
        one = source.batch([0])
        if lacking := [k for k in self.keys.values() if k not in one]:
            raise KeyError(f"parts of {lacking} were asked for; {source.facts.name} has {sorted(one)}")
        self.sizes = [prod(one[k].shape[1:]) for k in self.keys.values()]
        self.smooth = [one[k].is_floating_point() for k in self.keys.values()]

    @property
    def facts(self) -> DataFacts:
        return self.source.facts

    def __len__(self) -> int:
        return len(self.source)

    def batch(self, indices: Sequence[int]) -> Batch:
        """{"x": (B, D)}."""
        import torch  # importing a source need not bring it

        found = self.source.batch(indices)
        return {"x": torch.cat([found[k].reshape(len(found[k]), -1).float() for k in self.keys.values()], 1)}

    def dequantise(self, x: Tensor, u: Tensor) -> Tensor:
        """Parts with units to model range, u uniform like x; integers as they are."""
        import torch

        if self.codec is None:
            return x
        rows = zip(x.split(self.sizes, 1), u.split(self.sizes, 1), self.smooth, strict=True)
        return torch.cat([self.codec.dequantise(v, w) if smooth else v for v, w, smooth in rows], 1)
