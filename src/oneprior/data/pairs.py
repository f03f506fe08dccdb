"""Pairs of pictures, clean and degraded, from two folders with the same names (endings may differ)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from oneprior.data.folder import ImageFolder, _split_folders, image_folder
from oneprior.data.source import Batch, DataFacts, Source, split_of


@dataclass(frozen=True, eq=False)
class Pairs:
    """{"x": clean, "y": degraded} from two sources of one length and shape."""

    clean: Source
    degraded: Source

    def __post_init__(self) -> None:
        a, b = self.clean.facts, self.degraded.facts
        if (a.shape, len(self.clean)) != (b.shape, len(self.degraded)):
            raise ValueError(
                f"pairs have one shape: {len(self.clean)} of {a.shape} and {len(self.degraded)} of {b.shape}; "
                "channels= and size= bring both to one"
            )

    @property
    def facts(self) -> DataFacts:
        return self.clean.facts

    def __len__(self) -> int:
        return len(self.clean)

    def batch(self, indices: Sequence[int]) -> Batch:
        """See `Source.batch`."""
        return {**self.clean.batch(indices), "y": self.degraded.batch(indices)["x"]}


def image_pairs(
    clean: str | Path,
    degraded: str | Path,
    *,
    split: str = "all",
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    skip_bad: bool = False,
) -> Source:
    """A source over two folders, each opened by `image_folder` without classes; partners have the same name and size.

    skip_bad: leave out pictures that cannot be read, and those without a partner.

    Raises:
        ValueError: pictures without a partner, or partners of different sizes, all named.
        UnreadableImages, FileNotFoundError: as `image_folder`.
    """
    roots = Path(clean), Path(degraded)
    how = "all" if any(_split_folders(r)[0] is None for r in roots) else split
    found: list[ImageFolder] = []
    for root in roots:
        one = image_folder(root, split=how, size=size, channels=channels, labels=False, skip_bad=skip_bad)
        assert isinstance(one, ImageFolder)
        found.append(one)
    names = [
        {f.relative_to(r).with_suffix("").as_posix(): f for f in s.files} for r, s in zip(roots, found, strict=True)
    ]
    for root, one, own in zip(roots, found, names, strict=True):
        if len(own) < len(one):
            raise ValueError(f"{root} holds pictures that differ in their ending alone: a name has one partner")
    common = sorted(names[0].keys() & names[1].keys())
    lonely = [str(own[n]) for own in names for n in sorted(own.keys() - set(common))]
    if not common or (lonely and not skip_bad):
        raise ValueError(_list(f"{len(lonely)} pictures have no partner of the same name in the other folder", lonely))
    other = [f"{n}: {a} and {b}" for n in common if (a := _size(names[0][n])) != (b := _size(names[1][n]))]
    if other:
        raise ValueError(_list("partners differ in size (bring a smaller one to the size of the clean one)", other))
    pairs = Pairs(*(_only(s, tuple(own[n] for n in common)) for s, own in zip(found, names, strict=True)))
    return pairs if how == split else split_of(pairs, split)


def _only(source: ImageFolder, files: tuple[Path, ...]) -> ImageFolder:
    return ImageFolder(replace(source.facts, count=len(files)), files, None)


def _size(path: Path) -> tuple[int, int]:
    """(height, width) after the EXIF turn, from the head of the file."""
    from PIL import Image

    with Image.open(path) as file:
        w, h = file.size
        return (w, h) if file.getexif().get(0x0112, 1) >= 5 else (h, w)


def _list(what: str, items: list[str]) -> str:
    more = [f"and {len(items) - 10} more"] if len(items) > 10 else []
    return f"{what}:\n  " + "\n  ".join([*items[:10], *more])
