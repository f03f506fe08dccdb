"""A folder or a zip archive of pictures: classes by subfolder or by a column of `metadata.csv`, or none.

What happens to a picture, in this order:
    turn       the EXIF orientation is applied
    depth      bytes are divided by 255, 16-bit grey by 65535 (16-bit colour is reduced to bytes by pillow)
    alpha      transparent pictures are composited on white, palettes are expanded, CMYK is converted
    channels   1 or 3 as asked: colour becomes grey by luma (ITU-R 601), grey is repeated
    size       the largest centred rectangle of the wanted shape is resized with an antialiased bicubic filter
Of an animation, the first frame. Files and folders whose names begin with a dot are passed over, and so are files that
do not end in one of `SUFFIXES`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from oneprior.data import metadata, zips
from oneprior.data.source import Batch, Captioned, DataFacts, Source, apart, batch_of, check_split, checked, held_out

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
TEST_NAMES = ("test", "val", "valid", "validation")


class UnreadableImages(ValueError):
    """Some pictures (or clips) of a folder cannot be decoded; `.files` maps each path to the reason."""

    def __init__(self, folder: Path, files: dict[Path, str], count: int, what: str = "pictures") -> None:
        self.folder, self.files, self.count, self.what = folder, files, count, what
        listed = [f"  {path.relative_to(folder)}: {reason}" for path, reason in list(files.items())[:10]]
        if len(files) > 10:
            listed.append(f"  and {len(files) - 10} more")
        super().__init__(
            f"{len(files)} of {count} {what} in {folder} cannot be read; repair or remove them, "
            "or pass skip_bad=True (--skip-bad) to leave them out:\n" + "\n".join(listed)
        )

    def __reduce__(self) -> tuple:  # so that it crosses from a worker process
        return type(self), (self.folder, self.files, self.count, self.what)


@dataclass(frozen=True)
class _Look:
    """What one pass over a picture tells: its size after the turn, whether it has colour, its depth in bits."""

    size: tuple[int, int]
    colour: bool
    bits: int


def _open(path: Path) -> Image:
    """The decoded picture, as `upright` gives it."""
    from PIL import Image

    with zips.stream(path) as raw, Image.open(raw) as file:
        return upright(file)


def is_deep(file: Image) -> bool:
    """Whether a picture is grey of 16 bits."""
    return file.mode.startswith("I;16") or (file.mode == "I" and file.format in ("PNG", "PPM"))


def upright(file: Image) -> Image:
    """The picture turned as EXIF says, in mode L, RGB, RGBA, LA or (16-bit) F with values in [0, 1]."""
    from PIL import Image, ImageOps

    sixteen = is_deep(file)
    if file.mode in ("I", "F") and not sixteen:
        raise ValueError(f"32-bit pixels (mode {file.mode}) state no range; store such data as .npy")
    file.load()
    image = ImageOps.exif_transpose(file)
    if sixteen:
        return Image.fromarray(np.asarray(image).astype(np.float32) / np.float32(65535))
    if "transparency" in image.info:
        return image.convert("LA" if image.mode in ("1", "L") else "RGBA")
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in ("L", "RGB", "RGBA", "LA") else image.convert("RGB")


def _look(path: Path) -> _Look | str:
    """Decodes the whole picture, or says why it cannot be."""
    try:
        image = _open(path)
    except Exception as error:  # each decoder raises its own: OSError, SyntaxError, struct.error, zlib.error, ...
        return str(error) or type(error).__name__
    return _Look((image.height, image.width), image.mode in ("RGB", "RGBA"), 16 if image.mode == "F" else 8)


def _pixels(image: Image, channels: int, size: tuple[int, int]) -> np.ndarray:
    """float32 (channels, *size) in [0, 1]."""
    from PIL import Image

    if image.mode in ("RGBA", "LA"):
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image).convert("RGB")
    deep = image.mode == "F"
    if not deep:
        image = image.convert("L" if channels == 1 else "RGB")
    height, width = size
    if (image.height, image.width) != size:
        scale = min(image.height / height, image.width / width)
        h, w = height * scale, width * scale
        left, top = (image.width - w) / 2, (image.height - h) / 2
        image = image.resize((width, height), Image.Resampling.BICUBIC, box=(left, top, left + w, top + h))
    array = np.asarray(image, dtype=np.float32)
    array = np.clip(array, 0, 1) if deep else array / np.float32(255)
    array = array[None] if array.ndim == 2 else np.moveaxis(array, 2, 0)
    return np.broadcast_to(array, (channels, height, width))


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """Pictures read from their files at every batch (`in_memory` reads them once); built by `image_folder`."""

    facts: DataFacts
    files: tuple[Path, ...]
    labels: np.ndarray | None

    def __len__(self) -> int:
        return len(self.files)

    def batch(self, indices: Sequence[int]) -> Batch:
        """See `Source.batch`. A file that has become unreadable raises `UnreadableImages`."""
        channels, height, width = self.facts.shape
        index = checked(indices, len(self), self.facts.name)
        x = np.empty((len(index), channels, height, width), dtype=np.float32)
        for row, i in enumerate(index):
            path = self.files[i]
            try:
                x[row] = _pixels(_open(path), channels, (height, width))
            except Exception as error:
                raise UnreadableImages(path.parent, {path: str(error) or type(error).__name__}, 1) from error
        return batch_of(x, self.labels, index)


def _visible(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if not p.name.startswith("."))


def _images(folder: Path, deep: bool = True) -> list[Path]:
    found = []
    for path in _visible(folder):
        if path.is_dir():
            found += _images(path) if deep else []
        elif path.suffix.lower() in SUFFIXES:
            found.append(path)
    return found


def _classes(root: Path, labels: bool | None) -> tuple[str, ...] | None:
    """Names of the subfolders with pictures, or None where they are not classes."""
    names = tuple(p.name for p in _visible(root) if p.is_dir() and _images(p))
    loose = len(_images(root, deep=False))
    if labels is False or (labels is None and len(names) < 2 and not (names and loose)):
        return None
    if loose and names:
        raise ValueError(
            f"{root} holds {loose} pictures beside the subfolders {', '.join(names[:5])}: move them into a class, "
            "or pass labels=False to use all without classes"
        )
    if not names:
        raise ValueError(f"labels were asked for, and {root} has no subfolder with pictures: one per class is expected")
    return names


def _split_folders(root: Path) -> tuple[Path | None, Path | None]:
    """The folders root/train and root/test (or val, ...), where the tree is split on disk."""
    train = root / "train"
    test = next((root / name for name in TEST_NAMES if (root / name).is_dir()), None)
    return (train, test) if train.is_dir() and test is not None else (None, None)


def image_folder(
    path: str | Path,
    *,
    split: str = "all",
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    labels: bool | None = None,
    label: str | None = None,
    text: str | None = None,
    split_by: str | None = None,
    mixed: bool = False,
    skip_bad: bool = False,
) -> Source:
    """A source over a folder (or a .zip) of pictures; the policy is at the head of this module.

    Every file is decoded once here, so that a damaged one is found now and not in the middle of training.

    path: with `train/` and `test/` (or `val/`) inside, these are its splits. split: "train", "test" or "all"; without
    such folders the fixed `held_out` fifth is "test". size: side or (height, width); None where all have one size.
    channels: 1 or 3; None: 3 if any picture has colour. labels: whether subfolders are classes, in the order of their
    names; None: yes, if there are two. label, text, split_by: columns of the folder's table (`data.metadata`) of the
    class, the caption, and of groups, such as the patient, that are never on both sides of a split. mixed: take 8 and
    16 bits together, each by its own range. skip_bad: leave out what cannot be read instead of raising.

    Raises:
        FileNotFoundError: no such folder, or no picture in it.
        NotADirectoryError: the path is a file.
        UnreadableImages: pictures that cannot be read, named and counted.
        ValueError: pictures of different depths, or of different sizes without `size`; pictures beside class folders;
            a table that names absent files or has no such column; a bad setting.
    """
    root = Path(path)
    if not root.exists():
        raise FileNotFoundError(f"no folder {root} (from {Path.cwd()})")
    packed = root.is_file() and root.suffix.lower() == ".zip"
    if not root.is_dir() and not packed:
        raise NotADirectoryError(f"{root} is a file; expected a folder of pictures")
    if channels not in (None, 1, 3):
        raise ValueError(f"channels is {channels}; expected 1 (grey) or 3 (colour)")
    if size is not None and min((size,) if isinstance(size, int) else size) < 1:
        raise ValueError(f"size is {size}; expected a positive number of pixels or (height, width)")
    check_split(split)

    train, test = _split_folders(root)
    on_disk = train is not None and test is not None
    if on_disk and split_by:
        raise ValueError(f"{root} is split on disk, into {train} and {test}: leave out split_by")
    parts = [folder for name, folder in (("train", train), ("test", test)) if folder and split in (name, "all")]
    parts = parts if on_disk else [root]
    rows: metadata.Rows = {}
    for folder in (root, train, test):
        rows |= metadata.rows(folder) if folder and not packed else {}
    classes = None if packed or label else _classes(train or root, labels)
    files = zips.members(root, SUFFIXES) if packed else [file for part in parts for file in _images(part)]
    if not files:
        inside = () if packed else root.rglob("*")
        others = Counter(p.suffix or "no suffix" for p in inside if p.is_file() and p.name[0] != ".")
        held = ", ".join(f"{n} {suffix}" for suffix, n in others.most_common(3)) or "nothing"
        raise FileNotFoundError(f"no pictures in {root}: it holds {held}; expected {', '.join(sorted(SUFFIXES))}")

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        looks = list(pool.map(_look, files))
    bad = {file: look for file, look in zip(files, looks, strict=True) if isinstance(look, str)}
    if bad and (not skip_bad or len(bad) == len(files)):
        raise UnreadableImages(root, bad, len(files))
    good = [(file, look) for file, look in zip(files, looks, strict=True) if isinstance(look, _Look)]

    depths = Counter(look.bits for _, look in good)
    if len(depths) > 1 and not mixed:
        held = " and ".join(f"{n} of {bits} bits" for bits, n in sorted(depths.items()))
        raise ValueError(f"pictures of different depths in {root} ({held}): bring them to one, or train on one kind")
    sizes = Counter(look.size for _, look in good)
    if size is None and len(sizes) > 1:
        common = ", ".join(f"{n} of {h} x {w}" for (h, w), n in sizes.most_common(3))
        raise ValueError(f"pictures of {len(sizes)} sizes in {root} ({common}, ...); pass size= to bring them to one")
    height, width = next(iter(sizes)) if size is None else (size, size) if isinstance(size, int) else size
    channels = channels or (3 if any(look.colour for _, look in good) else 1)
    kept = tuple(file for file, _ in good)
    numbers, chosen = None, range(len(kept))
    if label:
        numbers, classes = metadata.numbered(
            metadata.column(rows, label, kept, root), (row[label] for row in rows.values() if label in row)
        )
    elif packed and labels is not False and (listed := zips.labels(root)) is not None:
        numbers, classes = metadata.numbered([listed[file] for file in kept])
    elif classes is not None:
        numbers = [_label(file, parts, classes) for file in kept]
    if split != "all" and not on_disk:
        groups = metadata.column(rows, split_by, kept, root) if split_by else None
        both = held_out(len(kept)) if groups is None else apart(groups)
        chosen = both[split == "test"].tolist()
    captions = metadata.column(rows, text, kept, root) if text else None
    facts = DataFacts(
        shape=(channels, height, width),
        classes=classes,
        levels=256 if set(depths) == {8} else None,
        name=root.resolve().name,
        licence="unknown",
        count=len(chosen),
    )
    own = None if numbers is None else np.array([numbers[i] for i in chosen], dtype=np.int64)
    source = ImageFolder(facts, tuple(kept[i] for i in chosen), own)
    return source if captions is None else Captioned(source, tuple(captions[i] for i in chosen))


def _label(file: Path, parts: list[Path], classes: tuple[str, ...]) -> int:
    part = next(p for p in parts if file.is_relative_to(p))
    name = file.relative_to(part).parts[0]
    if name not in classes:
        raise ValueError(f"{file} is of the class {name!r}, which training does not have: {', '.join(classes[:10])}")
    return classes.index(name)
