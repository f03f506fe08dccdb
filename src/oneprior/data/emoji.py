"""Emoji, drawn by two vendors at 32 and 64 pixels: small colour pictures with categories and names.

A folder holds `emoji-VENDOR-SIZE.npz`, key `images`, uint8 (N, S, S, 3) on white, and `emoji.json`, a list of N rows
with `name`, `category` and `tone`; row i is the same emoji in every file. Skin tones repeat a picture up to 25 times,
so the split goes by the emoji without its tone, never by row: base = the name before a colon, held out where
crc32(base) mod 10 = 0.
"""

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from oneprior.data.source import ArraySource, DataFacts, check_split

LICENCES = {
    "google": "Apache-2.0, Google (Noto Emoji); names and categories: MIT (emoji-datasource)",
    "twitter": "CC BY 4.0, Twitter, Inc and other contributors (Twemoji); names and categories: MIT (emoji-datasource)",
}
SIZES = (32, 64)
NAMES = tuple(f"emoji-{v}-{s}{tones}" for v in LICENCES for s in SIZES for tones in ("", "-untoned"))


@dataclass(frozen=True, eq=False)
class Emoji(ArraySource):
    """An array source that also knows the English name of each sample, `captions`, and its skin tone, "none" or a code
    such as "1F3FB" (light) to "1F3FF" (dark), two of them where two people are drawn; batches leave them out."""

    captions: tuple[str, ...] = ()
    tones: tuple[str, ...] = ()


def emoji(
    folder: str | Path, vendor: str = "google", size: int = 32, *, split: str = "all", tones: bool = True
) -> Emoji:
    """Emoji on white, x = value / 255, label = category ("Activities", "Animals & Nature", ...).

        >>> emoji("data/emoji", "google", 32, split="test").captions[0]
        'hash key'

    folder: where `emoji-VENDOR-SIZE.npz` and `emoji.json` lie. vendor: "google" or "twitter". size: 32 or 64 pixels.
    split: "train", "test" (a tenth of the emoji, each with all its skin tones) or "all". tones: whether those of a
    stated skin tone take part.

    Raises:
        FileNotFoundError: one of the files is not there.
        ValueError: an unknown vendor, size or split, a damaged file, or files that do not belong together.
    """
    if vendor not in LICENCES or size not in SIZES:
        raise ValueError(f"no emoji of vendor {vendor!r} at {size} pixels; expected one of {', '.join(NAMES)}")
    check_split(split)
    file, table = Path(folder) / f"emoji-{vendor}-{size}.npz", Path(folder) / "emoji.json"
    for path in (file, table):
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}; emoji are {file.name} and {table.name} in one folder")
    try:
        with file.open("rb") as raw:
            images = np.load(raw, allow_pickle=False)["images"]
        rows = json.loads(table.read_text(encoding="utf-8"))
        name, category, tone = (np.array([row[k] for row in rows]) for k in ("name", "category", "tone"))
    except Exception as error:  # numpy, zipfile, zlib and json each raise their own on a damaged file
        raise ValueError(f"{file} with {table.name} cannot be read as emoji ({error!r})") from error
    if images.dtype != np.uint8 or images.shape != (len(name), size, size, 3):
        raise ValueError(
            f"{file} holds {images.dtype} of shape {images.shape}; expected uint8 ({len(name)}, {size}, {size}, 3), "
            f"a picture for each row of {table.name}"
        )
    chosen = (tone == "none") | tones
    if split != "all":
        chosen &= held_out_names(name) == (split == "test")
    classes, label = np.unique(category, return_inverse=True)
    captions = tuple(name[chosen].tolist())
    title, shape = file.stem + ("" if tones else "-untoned"), (3, size, size)
    facts = DataFacts(shape, tuple(classes.tolist()), 256, title, LICENCES[vendor], len(captions))
    said = captions, tuple(tone[chosen].tolist())
    return Emoji(facts, images.transpose(0, 3, 1, 2)[chosen], label[chosen].astype(np.int64), 0, 255, *said)


def held_out_names(names: Sequence[str] | np.ndarray) -> np.ndarray:
    """Which names are held out, bool (N,): the same answer for all skin tones of an emoji."""
    return np.array([zlib.crc32(str(n).split(":")[0].strip().encode()) % 10 == 0 for n in names], dtype=bool)
