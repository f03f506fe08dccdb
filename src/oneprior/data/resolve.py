"""From the name a user types to a source."""

import os
from difflib import get_close_matches
from pathlib import Path

from oneprior.data.arrays import array_file
from oneprior.data.digits import digits
from oneprior.data.emoji import NAMES as EMOJI
from oneprior.data.emoji import emoji
from oneprior.data.folder import image_folder
from oneprior.data.idx import FASHION, idx_files, is_idx_folder
from oneprior.data.points import POINTS, toy_points
from oneprior.data.source import Source, split_of

NAMES = ("digits", "fashion-mnist", *EMOJI, *(f"points:{name}" for name in POINTS))
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


def open_source(
    spec: str | Path,
    *,
    split: str = "all",
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    labels: bool | None = None,
    skip_bad: bool = False,
) -> Source:
    """The source that a name or a path stands for.

        >>> open_source("digits", split="train")
        >>> open_source("photos/", size=64, skip_bad=True)

    "digits", "fashion-mnist" (its files lie in $ONEPRIOR_DATA/fashion-mnist), "emoji-google-32" (in
    $ONEPRIOR_DATA/emoji; also twitter, 64, and with -untoned at the end), "points:moons" and the like; a folder of
    pictures or of idx files; a `.npy`, `.npz` or idx file. A relative path is looked for here, then in $ONEPRIOR_DATA.
    A name wins over a folder of that name (write ./digits for the folder).

    Args:
        spec: Name or path.
        split: "train", "test" or "all"; sources without a split of their own hold out the fixed fifth of `held_out`.
        size: As for `image_folder`; refused elsewhere, as are `channels` and `labels`.
        channels: As for `image_folder`.
        labels: As for `image_folder`.
        skip_bad: As for `image_folder`; nothing to skip elsewhere.

    Raises:
        FileNotFoundError: no such name or path.
        ValueError: a setting that does not apply, a kind of file that is not known, and what the sources raise.
    """
    name = str(spec)
    asked = {"size": size, "channels": channels, "labels": labels}
    asked = {key: value for key, value in asked.items() if value is not None}
    _, vendor, side, *untoned = name.split("-") if name in EMOJI else ("", "", "0")
    drawn = name == "digits" or name.startswith("points:")
    path = None if drawn else _locate(f"emoji/emoji-{vendor}-{side}.npz" if vendor else name)
    if path is not None and path.is_dir() and not is_idx_folder(path):
        return image_folder(path, split=split, size=size, channels=channels, labels=labels, skip_bad=skip_bad)
    if asked:
        given = ", ".join(f"{key}={value}" for key, value in asked.items())
        raise ValueError(f"{given} applies to folders of pictures; {name!r} is used as it is stored")
    if name == "digits":
        return digits(split)
    if path is None:
        return split_of(toy_points(name.removeprefix("points:")), split)
    if vendor:
        return emoji(path.parent, vendor, int(side), split=split, tones=not untoned)
    if path.is_dir():
        return idx_files(path, split, FASHION if path.name == "fashion-mnist" else None)
    if path.suffix in (".npy", ".npz"):
        return split_of(array_file(path), split)
    if "idx" in path.name:
        return split_of(idx_files(path), split)
    raise ValueError(f"{path} is no data that is known: expected a folder of pictures, .npy, .npz or idx files")
