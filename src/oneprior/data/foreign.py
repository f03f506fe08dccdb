"""Hugging Face `datasets` and any map-style torch `Dataset`, as they are: items by index, a picture and a class.

>>> source = from_dataset(datasets.load_dataset("cifar10", split="train"))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from oneprior.data.folder import _pixels, upright
from oneprior.data.source import Batch, Captioned, DataFacts, Source, batch_of, checked

USUAL = {"image": ("image", "img", "x", "pixel_values"), "label": ("label", "labels", "y", "fine_label"), "text": ()}


@dataclass(frozen=True, eq=False)
class Items:
    """Items of a data set, each read when asked for; built by `from_dataset`. keys: of the picture and of the class."""

    facts: DataFacts
    dataset: Any
    keys: tuple[Any, Any]
    labels: np.ndarray | None

    def __len__(self) -> int:
        return self.facts.count

    def batch(self, indices: Sequence[int]) -> Batch:
        """See `Source.batch`."""
        index = checked(indices, len(self), self.facts.name)
        c, *size = self.facts.shape
        x = [_picture(_part(self.dataset[int(i)], self.keys[0]), c, (size[0], size[1])) for i in index]
        return batch_of(np.stack(x), self.labels, index)


def from_dataset(
    dataset: Any,
    *,
    image: Any = None,
    label: Any = None,
    text: Any = None,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
) -> Source:
    """A source over a data set with `len` and `[i]`: items are mappings, tuples (picture, class), or pictures alone.

    A picture is a PIL image, bytes (H, W, C) or (C, H, W), or floats (C, H, W) in [0, 1]. image, label, text: keys of
    an item, found by their usual names; classes are named by the data set's features or its `classes`.

    Raises:
        TypeError: a stream without items by index, or items that hold no picture.
        KeyError: no such key in an item (those there are named).
        ValueError: floats outside [0, 1]; classes that are no integers.
    """
    name = getattr(getattr(dataset, "info", None), "dataset_name", None) or type(dataset).__name__
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__") or not len(dataset):
        raise TypeError(f"{name} has no items by index: of a stream, take a part into memory first")
    first = dataset[0]
    keys = _key(first, image, "image", 0), _key(first, label, "label", 1)
    array = _array(_part(first, keys[0]))
    side = (size, size) if isinstance(size, int) else size or array.shape[1:]
    labels, names = _classes(dataset, keys[1])
    levels = 256 if array.dtype == np.uint8 else None
    shape = (channels or (1 if array.shape[0] in (1, 2) else 3), *side)
    facts = DataFacts(shape, names, levels, name, "see the data set's own card", len(dataset))
    source, said = Items(facts, dataset, keys, labels), _key(first, text, "text", None)
    return source if said is None else Captioned(source, tuple(map(str, _column(dataset, said))))


def saved(path: Path, split: str) -> tuple[Any, bool]:
    """What `datasets.save_to_disk` wrote to a folder; or the wanted split, and True, where it holds splits."""
    datasets: Any = import_module("datasets")
    found = datasets.load_from_disk(str(path))
    if not isinstance(found, datasets.DatasetDict):
        return found, False
    test = [k for k in ("test", "validation", "valid", "val") if k in found][:1]
    chosen = {"train": ["train"], "test": test, "all": list(found)}[split]
    if not chosen or not set(chosen) <= set(found):
        raise ValueError(f"{path} holds {', '.join(found)}, and nothing that is '{split}'")
    return datasets.concatenate_datasets([found[k] for k in chosen]), True


def _key(item: Any, asked: Any, what: str, place: int | None) -> Any:
    if not isinstance(item, Mapping):
        return place if isinstance(item, tuple | list) and place is not None and place < len(item) else None
    key = next((k for k in USUAL[what] if k in item), None) if asked is None else asked
    if (key is None and what == "image") or (key is not None and key not in item):
        raise KeyError(f"{what}={asked!r}: an item holds {', '.join(map(str, item))}; give {what}= with one of these")
    return key


def _part(item: Any, key: Any) -> Any:
    return item if key is None else item[key]


def _column(dataset: Any, key: Any) -> list[Any]:
    if hasattr(dataset, "column_names"):  # of Hugging Face: the pictures stay undecoded
        return list(dataset[key])
    return [_part(dataset[i], key) for i in range(len(dataset))]


def _classes(dataset: Any, key: Any) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
    if key is None:
        return None, None
    values = np.asarray(_column(dataset, key))
    if values.ndim != 1 or values.dtype.kind not in "iu" or values.min() < 0:
        raise ValueError(f"classes are integers 0, 1, ...; the items hold {values.dtype} of shape {values.shape[1:]}")
    names = getattr((getattr(dataset, "features", None) or {}).get(key), "names", None)
    names = names or getattr(dataset, "classes", None) or [str(i) for i in range(int(values.max()) + 1)]
    return values.astype(np.int64), tuple(map(str, names))


def _array(value: Any) -> np.ndarray:
    """(C, H, W), bytes or floats, of a PIL image or an array."""
    a = np.asarray(upright(value) if hasattr(value, "getbands") else value)
    if a.ndim not in (2, 3):
        raise TypeError(f"an item holds {type(value).__name__} of shape {a.shape}; a picture was expected")
    last = a.ndim == 3 and a.shape[2] in (1, 3, 4) and a.shape[0] not in (1, 3)
    return a[None] if a.ndim == 2 else np.moveaxis(a, 2, 0) if last else a


def _picture(value: Any, channels: int, size: tuple[int, int]) -> np.ndarray:
    from PIL import Image

    a = _array(value)
    if a.dtype == np.uint8 and not hasattr(value, "getbands"):
        value = Image.fromarray(a[0] if a.shape[0] == 1 else np.ascontiguousarray(np.moveaxis(a, 0, 2)))
    if hasattr(value, "getbands"):
        return _pixels(upright(value), channels, size)
    if a.shape != (channels, *size) or a.dtype.kind != "f" or not (a.min() >= 0 and a.max() <= 1):
        wanted = f"bytes, or floats in [0, 1] of shape ({channels}, {size[0]}, {size[1]}), were expected"
        raise ValueError(f"items hold {a.dtype} {a.shape} from {a.min():g} to {a.max():g}; {wanted}")
    return a.astype(np.float32)
