"""What a data source is: a length, batches by index, and facts. Nothing here imports torch until a batch is asked for.

    source = digits("train")
    source.batch([3, 1, 4])     # {"x": float32 (3, 1, 8, 8) in [0, 1], "label": int64 (3,)}

A batch is a pure function of its indices: order, shuffling, epochs and noise belong to training. A split of a source is
a source. Random choices made here come from numpy's Philox counter, whose raw stream is fixed for all versions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Batch = dict[str, "Tensor"]


@dataclass(frozen=True)
class DataFacts:
    """What is known about a data set; it travels with every prior trained on it.

    shape: of one sample, (C, H, W) for pictures, (d,) for vectors. classes: names in the order of the labels, None
    without labels. levels: number of equally spaced values in [0, 1] that x takes (256 for bytes), None for continuous
    data; vectors are continuous and unbounded. licence: and origin, where known. count: of samples. unit: None for
    pictures in [0, 1] and vectors; of scans, what a value is ("HU", or "stored values").
    """

    shape: tuple[int, ...]
    classes: tuple[str, ...] | None
    levels: int | None
    name: str
    licence: str
    count: int
    unit: str | None = None

    def __post_init__(self) -> None:  # lists, as JSON gives them back, become tuples
        object.__setattr__(self, "shape", tuple(self.shape))
        if self.classes is not None:
            object.__setattr__(self, "classes", tuple(self.classes))


@runtime_checkable
class Source(Protocol):
    """Anything with a length, facts and batches; picklable, so that worker processes can hold it."""

    @property
    def facts(self) -> DataFacts: ...

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int]) -> Batch:
        """The samples at `indices`, in that order.

        Returns:
            `x`, float32 with shape (B, *facts.shape), in [0, 1] for pictures; `label`, int64 with shape (B,), where
            there are classes.

        Raises:
            IndexError: an index outside 0 .. len - 1.
        """
        ...


def checked(indices: Sequence[int], count: int, name: str) -> np.ndarray:
    """Indices as an int64 array, refused outside 0 .. count - 1."""
    index = np.asarray(indices, dtype=np.int64).reshape(-1)
    if index.size and not 0 <= index.min() <= index.max() < count:
        bad = index[(index < 0) | (index >= count)][0]
        raise IndexError(f"index {bad} is outside 0 .. {count - 1} of {name}")
    return index


def batch_of(x: np.ndarray, labels: np.ndarray | None, index: np.ndarray) -> Batch:
    """Samples as float32, with their labels where there are any."""
    import torch

    out = {"x": torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))}
    return out if labels is None else out | {"label": torch.from_numpy(labels[index].astype(np.int64))}


@dataclass(frozen=True, eq=False)
class ArraySource:
    """A source over an array, in memory or memory-mapped.

    array: (N, *facts.shape), any real dtype; also what is read by rows, as `arrays.Chunked`. labels: int64 (N,), or
    None. low, high: stored values that become x = 0 and x = 1.
    """

    facts: DataFacts
    array: Any
    labels: np.ndarray | None = None
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        expected = (self.facts.count, *self.facts.shape)
        if self.array.shape != expected:
            raise ValueError(f"array has shape {self.array.shape}; its facts say {expected}")
        if (self.labels is None) != (self.facts.classes is None):
            raise ValueError("labels and class names come together: one of them is missing")
        if self.labels is not None and self.labels.shape != expected[:1]:
            raise ValueError(f"labels have shape {self.labels.shape}; expected {expected[:1]}, one per sample")

    def __len__(self) -> int:
        return self.facts.count

    def batch(self, indices: Sequence[int]) -> Batch:
        """See `Source.batch`."""
        index = checked(indices, len(self), self.facts.name)
        x = self.array[index].astype(np.float32)
        if (self.low, self.high) != (0, 1):
            x = (x - np.float32(self.low)) / np.float32(self.high - self.low)
        return batch_of(x, self.labels, index)


@dataclass(frozen=True, eq=False)
class Over:
    """Abstract: a source over another, of the same facts and length unless it says otherwise."""

    source: Source

    @property
    def facts(self) -> DataFacts:
        return self.source.facts

    def __len__(self) -> int:
        return len(self.source)


@dataclass(frozen=True, eq=False)
class Subset(Over):
    """Chosen samples of a source, in the order given; class names stay those of the whole."""

    indices: np.ndarray

    @property
    def facts(self) -> DataFacts:
        return replace(self.source.facts, count=len(self.indices))

    def __len__(self) -> int:
        return len(self.indices)

    def batch(self, indices: Sequence[int]) -> Batch:
        """See `Source.batch`."""
        chosen = self.indices[checked(indices, len(self), f"a subset of {self.source.facts.name}")]
        return self.source.batch(chosen.tolist())


@dataclass(frozen=True, eq=False)
class Captioned(Over):
    """A source whose batches carry captions as well: "text", a list of strings."""

    captions: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.source) % max(1, len(self.captions)):
            raise ValueError(f"{len(self.captions)} captions for {len(self.source)} samples: one a sample was expected")

    def batch(self, indices: Sequence[int]) -> Batch:
        """See `Source.batch`; where a source repeats itself (mirrored), so do the captions."""
        own = [self.captions[int(i) % len(self.captions)] for i in indices]
        return {**self.source.batch(indices), "text": own}  # type: ignore[dict-item]


def subset(source: Source, indices: Sequence[int] | np.ndarray) -> Subset:
    """The samples of a source at `indices`, itself a source.

    Raises:
        IndexError: an index outside the source.
        ValueError: no index at all.
    """
    index = checked(indices, len(source), source.facts.name)  # pyright: ignore[reportArgumentType]
    if not index.size:
        raise ValueError(f"a subset of {source.facts.name} without any sample")
    return Subset(source, index)


def held_out(count: int, seed: int = 1, groups: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The fixed split into training and held-out indices, both ascending: a fifth is held out.

    Samples are ranked by the raw Philox stream keyed by `seed`; the first fifth by rank (rounded up) is held out, and
    with `groups` (labels, shape (count,)) an equal number round(count / 5 / groups) from each group instead.
    """
    if count < 2:
        raise ValueError(f"a source of {count} sample cannot be split in two")
    order = np.argsort(np.random.Philox(key=seed).random_raw(count), kind="stable")
    if groups is None:
        test = order[: -(-count // 5)]
    else:
        names = np.unique(groups)
        each = round(count / 5 / len(names))
        test = np.concatenate([order[groups[order] == name][:each] for name in names])
    return np.setdiff1d(np.arange(count), test), np.sort(test)


def apart(groups: Sequence[str], seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """As `held_out`, with whole groups on one side (slices of a scan, pictures of a patient): groups are held out in
    the order of their rank until they make up a fifth of the samples. Values that say it, train and test, are obeyed.

    Raises:
        ValueError: fewer than two groups.
    """
    names, which = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"a split by groups wants two of them or more; all {len(which)} samples are of '{names[0]}'")
    said = {"train": False, "test": True, "val": True, "valid": True, "validation": True}
    if all(name.lower() in said for name in names):
        out = np.array([said[name.lower()] for name in names])
    else:
        order = np.argsort(np.random.Philox(key=seed).random_raw(len(names)), kind="stable")
        before = np.cumsum(np.bincount(which)[order]) - np.bincount(which)[order]
        out = np.zeros(len(names), dtype=bool)
        out[order[before < len(which) / 5]] = True
        out[order[-1]] = False
    return np.flatnonzero(~out[which]), np.flatnonzero(out[which])


def check_split(split: str) -> None:
    if split not in ("train", "test", "all"):
        raise ValueError(f"split is {split!r}; expected 'train', 'test' or 'all'")


def split_of(source: Source, split: str, groups: np.ndarray | None = None) -> Source:
    """`"all"`: the source; `"train"` or `"test"`: its part of the `held_out` split."""
    check_split(split)
    return source if split == "all" else subset(source, held_out(len(source), groups=groups)[split == "test"])


def in_memory(source: Source, chunk: int = 256) -> ArraySource:
    """The source read once into an array with the same batches to the last bit; bytes where `levels` <= 256."""
    facts = source.facts
    compact = facts.levels is not None and facts.levels <= 256
    high = facts.levels - 1 if facts.levels is not None and compact else 1
    array = np.empty((facts.count, *facts.shape), dtype=np.uint8 if compact else np.float32)
    labels = None if facts.classes is None else np.empty(facts.count, dtype=np.int64)
    for start in range(0, facts.count, chunk):
        rows = slice(start, min(start + chunk, facts.count))
        batch = source.batch(range(rows.start, rows.stop))
        x = batch["x"].numpy()
        array[rows] = np.rint(x * high) if compact else x
        if labels is not None:
            labels[rows] = batch["label"].numpy()
    return ArraySource(facts, array, labels, 0, high)
