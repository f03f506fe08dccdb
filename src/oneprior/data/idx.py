r"""Files in idx format, plain or gzipped, as MNIST, Fashion-MNIST, KMNIST and EMNIST come.

Big-endian: two zero bytes, one byte for the type, one for the number of axes, a 4-byte size per axis, then the values.
"""

import gzip
import zlib
from math import prod
from pathlib import Path

import numpy as np

from oneprior.data.source import ArraySource, DataFacts, check_split

TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
FASHION = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


def read_idx(path: str | Path) -> np.ndarray:
    """The array in an idx or idx.gz file.

    Raises:
        ValueError: not an idx file, or shorter or longer than its header says.
    """
    path = Path(path)
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is a damaged gzip file ({error}); fetch it again") from error
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in TYPES or len(raw) < 4 + 4 * raw[3]:
        raise ValueError(f"{path} is not an idx file: it begins with the bytes {raw[:4].hex(' ')}")
    dtype, start = np.dtype(TYPES[raw[2]]), 4 + 4 * raw[3]
    shape = tuple(int(n) for n in np.frombuffer(raw[4:start], dtype=">u4"))
    expected = start + prod(shape) * dtype.itemsize
    if len(raw) != expected:
        raise ValueError(f"{path} holds {len(raw)} bytes; its header, shape {shape}, says {expected}: a partial copy?")
    return np.frombuffer(raw, dtype, offset=start).reshape(shape)


def _find(folder: Path, prefix: str, kind: str) -> Path | None:
    hits = [p for p in sorted(folder.iterdir()) if p.name.startswith(prefix) and kind in p.name and "idx" in p.name]
    return hits[0] if hits else None


def is_idx_folder(folder: Path) -> bool:
    """Whether a folder holds idx files of images."""
    return any(_find(folder, prefix, "images") for prefix in ("train", "t10k", "test"))


def idx_files(path: str | Path, split: str = "all", classes: tuple[str, ...] | None = None) -> ArraySource:
    """Grey pictures in idx format, x = value / 255.

    path: a folder with `train-images-idx3-ubyte[.gz]`, `t10k-labels-idx1-ubyte[.gz]` and so on, or one file of images
    (its labels are looked for under the same name with `labels` and `idx1`). split: "train", "test" (files `t10k` or
    `test`) or "all" (training first); one file is always whole. classes: names; by default the digits of the labels.

    Raises:
        FileNotFoundError: no such files.
        ValueError: a damaged file, images that are not bytes (N, H, W), or labels that do not match.
    """
    path = Path(path)
    check_split(split)
    if path.is_file():
        other = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
        pairs = [(path, other if other != path and other.is_file() else None)]
    else:
        prefixes = {"train": [("train",)], "test": [("t10k", "test")], "all": [("train",), ("t10k", "test")]}[split]
        pairs = []
        for names in prefixes:
            found = [(_find(path, n, "images"), _find(path, n, "labels")) for n in names] if path.is_dir() else []
            hit = next(((images, labels) for images, labels in found if images), None)
            if hit is None:
                raise FileNotFoundError(f"no {' or '.join(names)}-images-idx3-ubyte(.gz) in {path}")
            pairs.append(hit)
    images = [read_idx(image) for image, _ in pairs]
    for (file, _), x in zip(pairs, images, strict=True):
        if x.ndim != 3 or x.dtype != np.uint8 or not len(x):
            raise ValueError(f"{file} holds {x.dtype} of shape {x.shape}; expected bytes of shape (N, H, W), N > 0")
    if len({x.shape[1:] for x in images}) > 1:
        raise ValueError(f"pictures of different sizes in {path}: {[x.shape[1:] for x in images]}")
    array = np.concatenate(images)[:, None]
    labels = None
    if all(file for _, file in pairs):
        labels = np.concatenate([read_idx(file) for _, file in pairs if file]).astype(np.int64)
        if labels.shape != array.shape[:1]:
            raise ValueError(f"{len(array)} pictures and labels of shape {labels.shape} in {path}")
        classes = classes or tuple(str(i) for i in range(int(labels.max()) + 1))
        if labels.min() < 0 or labels.max() >= len(classes):
            raise ValueError(f"labels in {path} run from {labels.min()} to {labels.max()}, for {len(classes)} classes")
    name = path.name.split(".")[0]
    fashion = name == "fashion-mnist"
    facts = DataFacts(
        shape=array.shape[1:],
        classes=None if labels is None else classes,
        levels=256,
        name=name,
        licence="MIT, Zalando Research (Xiao et al., 2017)" if fashion else "unknown",
        count=len(array),
    )
    return ArraySource(facts, array, labels, 0, 255)
