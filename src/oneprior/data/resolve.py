"""From the name a user types to a source."""

import os
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from oneprior.data.arrays import array_file, is_zarr
from oneprior.data.clips import clip_folder
from oneprior.data.digits import digits
from oneprior.data.emoji import NAMES as EMOJI
from oneprior.data.emoji import emoji
from oneprior.data.folder import _images, image_folder
from oneprior.data.foreign import from_dataset, saved
from oneprior.data.idx import FASHION, idx_files, is_idx_folder
from oneprior.data.moving import MovingDigits, MovingScenes
from oneprior.data.points import POINTS, toy_points
from oneprior.data.scans import is_scan, scan_source
from oneprior.data.source import Source, split_of

MOVING = ("moving-digits", "moving-scenes")
NAMES = ("digits", "fashion-mnist", *MOVING, *EMOJI, *(f"points:{name}" for name in POINTS))
ENV = "ONEPRIOR_DATA"


def _locate(spec: str) -> Path:
    """A path as given, else inside the folder that $ONEPRIOR_DATA names."""
    here, base = Path(spec).expanduser(), os.environ.get(ENV)
    if here.exists():
        return here
    there = Path(base).expanduser() / spec if base else None
    if there is not None and there.exists():
        return there
    hint = f"; looked in {base} ({ENV}) too" if base else f"; {ENV} is not set (the folder where data sets live)"
    if spec == "fashion-mnist":
        hint += ": put its four idx files, as published, into a folder fashion-mnist there"
    if spec.startswith("emoji/"):
        hint += ": put the emoji files and their table emoji.json into a folder emoji there"
    close = get_close_matches(spec, NAMES, 1)
    hint += f". Did you mean {close[0]!r}?" if close and close[0] != spec else f". Names: {', '.join(NAMES)}"
    raise FileNotFoundError(f"no data at {spec!r}{hint}")


def holds_scans(path: Path) -> bool:
    """Whether a path is a scan, or a folder with scans and no picture."""
    if path.is_file():
        return is_scan(path)
    return path.is_dir() and any(is_scan(p) for p in path.rglob("*")) and not _images(path)


def is_pictures(path: Path) -> bool:
    """Whether a folder is taken as one of pictures: it is of nothing else that is known."""
    return path.is_dir() and not (is_idx_folder(path) or is_zarr(path) or holds_scans(path))


def open_source(
    spec: str | Path | Any,
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
    frames: int | None = None,
    rate: float | None = None,
    pack: bool = False,
) -> Source:
    """The source that a name or a path stands for.

        >>> open_source("digits", split="train")
        >>> open_source("photos/", size=64, skip_bad=True)

    "digits", "fashion-mnist" (its files lie in $ONEPRIOR_DATA/fashion-mnist), "emoji-google-32" (in
    $ONEPRIOR_DATA/emoji; also twitter, 64, and with -untoned at the end), "points:moons" and the like, "moving-digits"
    and "moving-scenes"; a folder of pictures, of clips (with `frames`), of scans (NIfTI, DICOM) or idx files; a zip of
    pictures; a `.npy`, `.npz` or idx file, a zarr folder; a folder of Hugging Face's `save_to_disk`, or a data set in
    memory (`data.foreign`). A relative path is looked for here, then in $ONEPRIOR_DATA. A name wins over a folder of
    that name (write ./digits for the folder).

    split: "train", "test" or "all"; sources without a split of their own hold out the fixed fifth of `held_out`. size,
    channels, labels, label, text, split_by, mixed, skip_bad: as for `image_folder`, refused elsewhere but for the last
    two. frames: of a clip, in a folder of clips (`clip_folder`) or what moves; refused elsewhere, as are rate and
    pack.

    Raises:
        FileNotFoundError: no such name or path.
        ValueError: a setting that does not apply, a kind of file that is not known, and what the sources raise.
    """
    if not isinstance(spec, str | Path):
        return split_of(from_dataset(spec, label=label, text=text, size=size, channels=channels), split)
    name = str(spec)
    asked = {"size": size, "channels": channels, "labels": labels, "label": label, "text": text, "split_by": split_by}
    asked = {key: value for key, value in asked.items() if value is not None}
    _, vendor, side, *untoned = name.split("-") if name in EMOJI else ("", "", "0")
    if pack and (frames is None or name in MOVING):
        raise ValueError(f"pack puts the clips of a folder in rows of frames=N; got {name!r}, frames={frames}")
    if name in MOVING:
        return _moving(name, split, size, frames)
    drawn = name == "digits" or name.startswith("points:")
    path = None if drawn else _locate(f"emoji/emoji-{vendor}-{side}.npz" if vendor else name)
    if frames is not None and path is not None and path.is_dir():
        how: Any = {"split": split, "size": size, "channels": channels, "rate": rate, "skip_bad": skip_bad}
        return clip_folder(path, frames, pack=pack, **how)
    if frames is not None or rate is not None or pack:
        raise ValueError(f"frames={frames} is for clips: a folder of them, or one of {', '.join(MOVING)}; got {name!r}")
    if path is not None and (path / "state.json").is_file() | (path / "dataset_dict.json").is_file():
        dataset, parted = saved(path, split)
        one = from_dataset(dataset, label=label, text=text, size=size, channels=channels)
        return one if parted else split_of(one, split)
    as_pictures = path is not None and (path.suffix.lower() == ".zip" if path.is_file() else is_pictures(path))
    if path is not None and as_pictures:
        return image_folder(path, split=split, mixed=mixed, skip_bad=skip_bad, **asked)
    if asked:
        given = ", ".join(f"{key}={value}" for key, value in asked.items())
        raise ValueError(f"{given} applies to folders of pictures; {name!r} is used as it is stored")
    if name == "digits":
        return digits(split)
    if path is None:
        return split_of(toy_points(name.removeprefix("points:")), split)
    if vendor:
        return emoji(path.parent, vendor, int(side), split=split, tones=not untoned)
    if holds_scans(path):
        return scan_source(path, split)
    if is_zarr(path):
        return split_of(array_file(path), split)
    if path.is_dir():
        return idx_files(path, split, FASHION if path.name == "fashion-mnist" else None)
    if path.suffix in (".npy", ".npz"):
        return split_of(array_file(path), split)
    if "idx" in path.name:
        return split_of(idx_files(path), split)
    raise ValueError(
        f"{path} is no data that is known: expected a folder of pictures or scans, .zip, .npy, .npz, idx or NIfTI files"
    )


def _moving(name: str, split: str, size: int | tuple[int, int] | None, frames: int | None) -> Source:
    how = {k: v for k, v in (("frames", frames), ("size", size)) if v is not None}
    if isinstance(size, tuple):
        raise ValueError(f"{name} is square: size is one number; got {size}")
    if name == "moving-digits":
        return MovingDigits(split=split, **how)  # type: ignore[arg-type]
    return MovingScenes(seed={"all": 0, "train": 0, "test": 1}[split], **how)  # type: ignore[arg-type]
