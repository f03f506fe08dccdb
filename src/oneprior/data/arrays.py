"""Arrays in `.npy` and `.npz` files and zarr folders: pictures (N, H, W[, C]) or (N, C, H, W), vectors (N, d)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from oneprior.data.source import ArraySource, DataFacts

IMAGE_KEYS = ("images", "image", "x", "data", "arr_0")
LABEL_KEYS = ("labels", "label", "y")
CHANNELS = (1, 3, 4)
PIECE = 2**22  # numbers checked at a time


def array_file(
    path: str | Path,
    *,
    key: str | None = None,
    labels: str | Path | np.ndarray | None = None,
    classes: tuple[str, ...] | None = None,
    layout: str | None = None,
    value_range: tuple[float, float] | None = None,
) -> ArraySource:
    """A source over an array file.

    Bytes are divided by 255 (256 levels), uint16 by 65535 (65,536 levels), bool is {0, 1}; float pictures must lie in
    [0, 1] or in `value_range`. Vectors (N, d) are unbounded and kept as they are. A `.npy` file is memory-mapped;
    of zarr (with the extra `large`) the chunks that a batch needs are read.

    path: a `.npy` or `.npz` file, or a zarr array or group; no pickled objects. key: of the samples in a `.npz`
    file; by default the first of `IMAGE_KEYS`, or the only array besides the labels. labels: (N,) integers or names, a
    `.npy` file of them, or a key; by default the first of `LABEL_KEYS`. classes: names; by default the sorted ones, or
    "0", "1", ... layout: "NHWC" or "NCHW", where the shape does not tell. value_range: stored values that become 0 and
    1, e.g. (-1, 1).

    Raises:
        FileNotFoundError: no such file.
        KeyError: no such array in the file.
        ValueError: NaN or infinity (the samples are named), values outside the range, an unclear layout, a dtype that
            states no range, labels that do not match.
    """
    path = Path(path)
    zarr = is_zarr(path)
    if not path.is_file() and not zarr:
        raise FileNotFoundError(f"no file {path}")
    try:
        if zarr:
            found = _zarr(path)
        elif path.suffix == ".npz":
            with path.open("rb") as file:  # numpy leaves a damaged archive open
                found = dict(np.load(file, allow_pickle=False))
        else:
            found = {"arr_0": np.load(path, mmap_mode="r", allow_pickle=False)}
    except Exception as error:  # numpy, zipfile and zlib each raise their own on a damaged file
        raise ValueError(f"{path} cannot be read as a plain array file ({error})") from error
    if isinstance(labels, str) and labels in found:
        label = found.pop(labels)
    elif isinstance(labels, str | Path):
        if not Path(labels).is_file():
            raise KeyError(f"labels={str(labels)!r} is neither an array of {path.name} ({', '.join(found)}) nor a file")
        label = np.load(labels, allow_pickle=False)
    elif labels is None:
        name = next((k for k in LABEL_KEYS if k in found and k != key), None)
        label = None if name is None else found.pop(name)
    else:
        label = np.asarray(labels)
    label = None if label is None else label[:]
    array = found[_key(path, found, key)]
    array, levels, (low, high) = _pictures(path, array, layout, value_range)
    if label is not None:
        label, classes = _labels(path, label, len(array), classes)
    facts = DataFacts(array.shape[1:], classes if label is not None else None, levels, path.stem, "unknown", len(array))
    return ArraySource(facts, array, label, low, high)


def is_zarr(path: Path) -> bool:
    """Whether a folder is a zarr array or group, of format 2 or 3."""
    return any((path / name).is_file() for name in ("zarr.json", ".zarray", ".zgroup"))


@dataclass(frozen=True, eq=False)
class Chunked:
    """A zarr array as (N, C, H, W), or as stored (last is None); rows are read when asked for."""

    stored: Any
    last: bool | None = None

    def __getitem__(self, rows: Any) -> np.ndarray:
        a = np.asarray(self.stored[rows] if isinstance(rows, slice | int) else self.stored.oindex[rows])
        return a if self.last is None else np.moveaxis(a, -1, -3) if self.last else np.expand_dims(a, -3)

    def __len__(self) -> int:
        return self.stored.shape[0]

    @property
    def dtype(self) -> np.dtype:
        return self.stored.dtype

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return self.stored.size

    @property
    def shape(self) -> tuple[int, ...]:
        n, *rest = self.stored.shape
        return (n, *rest) if self.last is None else (n, rest[2], *rest[:2]) if self.last else (n, 1, *rest)


def _zarr(path: Path) -> dict[str, Any]:
    """The arrays of a group, or the one array."""
    try:
        import zarr
    except ImportError as e:
        raise ImportError(f"{path} needs the extra large, pip install 'oneprior[large]': {e}") from e
    node: Any = zarr.open(str(path), mode="r")
    arrays = {name: array for name, array in node.arrays()} if hasattr(node, "arrays") else {"arr_0": node}
    return {name: Chunked(array) for name, array in arrays.items()}


def _key(path: Path, found: dict[str, np.ndarray], key: str | None) -> str:
    if key is not None and key in found:
        return key
    if key is None:
        if len(found) == 1:
            return next(iter(found))
        name = next((k for k in IMAGE_KEYS if k in found), None)
        if name is not None:
            return name
    listed = ", ".join(f"{k} {a.shape}" for k, a in found.items())
    raise KeyError(f"{path} holds {listed}; name the samples with key=" + (f" ({key!r} is not there)" if key else ""))


def _pictures(
    path: Path, array: Any, layout: str | None, value_range: tuple[float, float] | None
) -> tuple[Any, int | None, tuple[float, float]]:
    """The array as (N, C, H, W) or (N, d), its levels, and the stored values of 0 and 1; checked."""
    shape = array.shape
    if array.ndim not in (2, 3, 4) or 0 in shape:
        raise ValueError(f"{path} has shape {shape}; expected (N, d), (N, H, W), (N, H, W, C) or (N, C, H, W)")
    if layout not in (None, "NHWC", "NCHW"):
        raise ValueError(f"layout is {layout!r}; expected 'NHWC' or 'NCHW'")
    if array.ndim == 4 and layout is None:
        first, last = shape[1] in CHANNELS, shape[3] in CHANNELS
        if first == last:
            raise ValueError(f"{path} has shape {shape}: say where the channels are with layout='NHWC' or 'NCHW'")
        layout = "NCHW" if first else "NHWC"
    kind: np.dtype = array.dtype
    if not (kind in (np.uint8, np.uint16, np.bool_) or np.issubdtype(kind, np.floating)):
        raise ValueError(
            f"{path} holds {kind}, which states no range of values; store uint8, uint16 or float "
            "(for integers 0 to 255: array.astype(numpy.uint8))"
        )
    bounds = _scan(path, array) if np.issubdtype(kind, np.floating) else None
    if array.ndim == 2:
        if value_range is not None:
            raise ValueError(f"{path} holds vectors of shape {shape}, kept as they are; value_range is for pictures")
        return array, None, (0, 1)
    if array.ndim == 3 or layout == "NHWC":
        last = array.ndim == 4
        if isinstance(array, Chunked):
            array = Chunked(array.stored, last)
        else:
            array = np.moveaxis(array, 3, 1) if last else array[:, None]
    if bounds is None:
        levels = {"uint8": 256, "uint16": 65536, "bool": 2}[str(kind)]
        if value_range is not None:
            raise ValueError(f"{path} holds {kind}, from 0 to {levels - 1}; value_range is for float pictures")
        return array, levels, (0, levels - 1)
    low, high = value_range or (0, 1)
    if bounds[0] < low or bounds[1] > high:
        raise ValueError(
            f"{path} holds values from {bounds[0]:g} to {bounds[1]:g}, outside {low:g} to {high:g}; "
            "pass the stored range, e.g. value_range=(-1, 1) or (0, 255)"
        )
    return array, None, (low, high)


def _scan(path: Path, array: np.ndarray) -> tuple[float, float]:
    """Smallest and largest value; NaN and infinity refused, the samples named. Read in pieces: it may not fit."""
    low, high, bad = np.inf, -np.inf, []
    step = max(1, PIECE // array[0].size)
    for start in range(0, len(array), step):
        part = np.asarray(array[start : start + step]).reshape(-1, array[0].size)
        finite = np.isfinite(part).all(axis=1)
        bad += (np.flatnonzero(~finite) + start).tolist()
        low, high = min(low, part.min()), max(high, part.max())
    if bad:
        raise ValueError(
            f"{path} holds NaN or infinity in {len(bad)} of {len(array)} samples: index "
            f"{', '.join(map(str, bad[:10]))}{' ...' if len(bad) > 10 else ''}; remove or repair them"
        )
    return float(low), float(high)


def _labels(
    path: Path, label: np.ndarray, count: int, classes: tuple[str, ...] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    if label.shape != (count,):
        hint = "; one-hot rows become labels by argmax(axis=1)" if label.ndim == 2 else ""
        raise ValueError(f"labels of {path} have shape {label.shape}; expected ({count},), one per sample{hint}")
    if label.dtype.kind in "US":
        text = label.astype(str)
        classes = classes or tuple(np.unique(text).tolist())
        unknown = sorted(set(text.tolist()) - set(classes))
        if unknown:
            raise ValueError(f"labels of {path} name {', '.join(unknown[:5])}; the classes are {', '.join(classes)}")
        return np.array([classes.index(name) for name in text], dtype=np.int64), classes
    if label.dtype.kind not in "iu":
        raise ValueError(f"labels of {path} are {label.dtype}; expected integers 0, 1, ... or names")
    classes = classes or tuple(str(i) for i in range(int(label.max()) + 1))
    if label.min() < 0 or label.max() >= len(classes):
        raise ValueError(f"labels of {path} run from {label.min()} to {label.max()}; expected 0 to {len(classes) - 1}")
    return label.astype(np.int64), classes
