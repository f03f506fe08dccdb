"""Mirror images as further training data."""

from collections.abc import Sequence
from dataclasses import dataclass

from oneprior.data.source import Batch, Over, checked


@dataclass(frozen=True, eq=False)
class Mirrored(Over):
    """A source of pictures and their mirror images, left for right: sample N + i is sample i mirrored.

        >>> len(Mirrored(digits("train")))
        2874

    Right where a mirrored picture is as likely as the picture; wrong for letters. Facts stay those of the source.
    """

    def __post_init__(self) -> None:
        if len(self.source.facts.shape) != 3:
            raise ValueError(f"pictures are mirrored; samples here have shape {self.source.facts.shape}")

    def __len__(self) -> int:
        return 2 * len(self.source)

    def batch(self, indices: Sequence[int]) -> Batch:
        """See `Source.batch`."""
        index, n = checked(indices, len(self), self.facts.name), len(self.source)
        out = self.source.batch((index % n).tolist())
        for i in (index >= n).nonzero()[0].tolist():
            for pictures in (v for v in out.values() if v.ndim == 4):  # x, and y of pairs
                pictures[i] = pictures[i].flip(-1)
        return out
