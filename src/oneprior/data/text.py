"""Text as a source of token windows: every run of L tokens of the files is a sample, so nothing is padded or lost.

    source = text("kjv", length=256)
    source.batch([0, 5])["x"]        # int64 (2, 256)

Files are read and turned into tokens piece by piece; beyond `MEMORY` tokens they lie in a file on disk, mapped, so
memory is bounded by a piece. A folder is read in the order of names, files joined by a line break.
"""

from __future__ import annotations

import gzip
import os
import re
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from oneprior.codecs.text import Bytes, Characters, Pieces, Text
from oneprior.data.folder import SUFFIXES as PICTURES
from oneprior.data.source import Batch, DataFacts, checked

SUFFIXES = (".txt", ".txt.gz", ".md")
PIECE = 1 << 20  # characters read at a time
MEMORY = 1 << 28  # tokens kept in memory
TOKENS = "characters, bytes or pieces:4096"
KJV = "text/kjv.txt.gz"


@dataclass(frozen=True, eq=False)
class TextSource:
    """Windows of `facts.shape[0]` tokens, one at every place of `tokens`; text: its tokeniser."""

    facts: DataFacts
    tokens: np.ndarray
    text: Text

    def __len__(self) -> int:
        return self.facts.count

    def batch(self, indices: Sequence[int]) -> Batch:
        """x: int64 (B, L). See `Source.batch`."""
        import torch

        first = checked(indices, len(self), self.facts.name)
        at = first[:, None] + np.arange(self.facts.shape[0])
        return {"x": torch.from_numpy(self.tokens[at].astype(np.int64))}

    def apart(self) -> TextSource:
        """The windows that do not overlap: what a figure over a whole text is measured on."""
        L = self.facts.shape[0]
        whole = self.tokens[: len(self.tokens) // L * L].reshape(-1, L)
        return _Apart(replace(self.facts, count=len(whole)), whole, self.text)


class _Apart(TextSource):
    def batch(self, indices: Sequence[int]) -> Batch:
        import torch

        rows = checked(indices, len(self), self.facts.name)
        return {"x": torch.from_numpy(self.tokens[rows].astype(np.int64))}


def text(
    spec: str | Path,
    *,
    length: int = 256,
    tokens: str | Text = "characters",
    split: str = "all",
    folder: str | Path | None = None,
) -> TextSource:
    """Text from a file, a folder of files or "kjv" (`$ONEPRIOR_DATA/text/kjv.txt.gz`, without its references).

    spec: a `.txt`, `.md` or `.txt.gz` file in UTF-8, a folder of them, or a name. length: tokens in a window. tokens:
    "characters" (the alphabet of the whole text, also where a part is asked for), "bytes", "pieces:4096" (byte-pair
    encoding learned from the training part) or a tokeniser. split: "train", "test" or "all"; a file's last tenth is its
    test part, of a folder every tenth file (by the checksum of its name), of "kjv" books whose checksum ten divides.
    folder: where tokens that do not fit in memory are kept; a temporary one by default.

    Raises:
        FileNotFoundError: no such file.
        ValueError: bytes that are not UTF-8 (their place is named), or a text shorter than a window.
    """
    if split not in ("train", "test", "all"):
        raise ValueError(f"split {split!r} is not known; train, test or all was expected")
    if length < 2:
        raise ValueError(f"length = {length}: a window of 2 tokens or more was expected")
    parts, licence = _parts(spec)
    chosen = [p for p in parts if split == "all" or p.test == (split == "test")]
    if not chosen:
        raise ValueError(f"{spec} has no text in its {split} part: {len(parts)} files")
    learned = _tokeniser(tokens, parts)
    array = _tokens(chosen, learned, folder)
    if len(array) < length:
        raise ValueError(
            f"{spec} has {len(array)} tokens ({split}): a window of {length} or more was expected; take a smaller "
            "length, or split all"
        )
    name = "kjv" if str(spec) == "kjv" else Path(spec).name.removesuffix(".gz").removesuffix(".txt")
    facts = DataFacts((length,), None, None, name, licence, len(array) - length + 1)
    return TextSource(facts, array, learned)


def is_text(path: Path) -> bool:
    """Whether a path is a text file, or a folder that holds text files and no pictures."""
    if not path.is_dir():
        return path.name.endswith(SUFFIXES)
    found = False
    for p in path.rglob("*"):
        if p.suffix.lower() in PICTURES:
            return False
        found |= p.name.endswith(SUFFIXES)
    return found


@dataclass(frozen=True)
class _Part:
    name: str
    test: bool
    pieces: Iterable[str]
    apart: bool = True  # a line break stands before it


def _parts(spec: str | Path) -> tuple[list[_Part], str]:
    if str(spec) == "kjv":
        return _books(), "King James text, public domain"
    path = Path(spec)
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and p.name.endswith(SUFFIXES))
        if not files:
            raise ValueError(f"{path} holds no text: files ending in {', '.join(SUFFIXES)} were expected")
        rows = [_Part(p.name, zlib.crc32(p.name.encode()) % 10 == 0, _File(p)) for p in files]
        if not any(r.test for r in rows):  # a handful of files may miss it by chance
            rows[-1] = replace(rows[-1], test=len(rows) > 1)
        return rows, ""
    if not path.is_file():
        raise FileNotFoundError(f"no text at {str(path)!r}: a file, a folder or kjv was expected")
    cut = _cut(path)
    return [_Part(path.name, False, _File(path, 0, cut)), _Part(path.name, True, _File(path, cut), False)], ""


def _cut(path: Path) -> int:
    """The place of the last line break in the first nine tenths of a file, in characters; without one, their end."""
    limit = sum(map(len, _File(path))) * 9 // 10
    last = at = 0
    for piece in _File(path, 0, limit):
        last, at = at + found + 1 if (found := piece.rfind("\n")) >= 0 else last, at + len(piece)
    return last or limit


def _books() -> list[_Part]:
    base = os.environ.get("ONEPRIOR_DATA")
    path = Path(base).expanduser() / KJV if base else None
    if path is None or not path.is_file():
        said = f"{path} is not there" if path else "ONEPRIOR_DATA is not set (the folder where data sets live)"
        raise FileNotFoundError(f"no data at 'kjv': {said}; it holds {KJV}")
    books: dict[str, list[str]] = {}
    for line in "".join(_File(path)).splitlines():
        found = re.match(r"(\d?[A-Za-z]+)\d+:\d+ (.*)", line)
        if found is None:
            raise ValueError(
                f"{path}: a verse after its reference, such as 'Ge1:1 In', was expected; got {line[:40]!r}"
            )
        books.setdefault(found[1], []).append(found[2])
    return [_Part(b, zlib.crc32(b.encode()) % 10 == 0, ["\n".join(v)]) for b, v in books.items()]


@dataclass(frozen=True)
class _File:
    """Pieces of a file's text from character `first` to `last`, without reading it whole; can be walked again."""

    path: Path
    first: int = 0
    last: int | None = None

    def __iter__(self) -> Iterator[str]:
        at = 0
        for piece in self._pieces():
            part = piece[max(0, self.first - at) : None if self.last is None else max(0, self.last - at)]
            at += len(piece)
            if part:
                yield part

    def _pieces(self) -> Iterator[str]:
        opened = gzip.open if self.path.suffix == ".gz" else open
        try:
            with opened(self.path, "rt", encoding="utf-8-sig", newline=None) as file:  # type: ignore[operator]
                while piece := file.read(PIECE):
                    yield piece
        except UnicodeDecodeError as e:
            with opened(self.path, "rb") as file:
                line = next(i for i, row in enumerate(file, 1) if _bad(row))
            raise ValueError(
                f"{self.path} is not UTF-8: byte 0x{e.object[e.start]:02x} in line {line} cannot be read ({e.reason}). "
                "Convert it first, as with iconv -f latin1 -t utf-8"
            ) from e
        except (EOFError, zlib.error, gzip.BadGzipFile) as e:
            raise ValueError(f"{self.path} is a damaged gzip file ({e}); fetch it again") from e


def _bad(row: bytes) -> bool:
    try:
        row.decode()
    except UnicodeDecodeError:
        return True
    return False


def _tokeniser(tokens: str | Text, parts: Sequence[_Part]) -> Text:
    if isinstance(tokens, Text):
        return tokens
    kind, _, count = tokens.partition(":")
    if kind == "characters" and not count:
        return Characters.of(_joined(parts))
    if kind == "bytes" and not count:
        return Bytes()
    if kind == "pieces" and count.isdigit():
        return Pieces.of((piece for p in parts if not p.test for piece in p.pieces), int(count))
    raise ValueError(f"tokens {tokens!r} is not known; {TOKENS} was expected")


def _tokens(parts: Sequence[_Part], learned: Text, folder: str | Path | None) -> np.ndarray:
    """The tokens of all parts, in memory or, beyond `MEMORY`, in a file that is mapped."""
    dtype = np.uint8 if learned.symbols <= 256 else np.uint16 if learned.symbols <= 65536 else np.uint32
    held: list[np.ndarray] = []
    kept, file = 0, None
    for piece in _joined(parts):
        held.append(np.asarray(learned.ids(piece), dtype))
        kept += len(held[-1])
        if kept > MEMORY:
            file = file or tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (closed below, once it is mapped)
            for rows in held:
                file.write(rows.tobytes())
            file.flush()
            held, kept = [], 0
    if file is None:
        return np.concatenate(held) if held else np.zeros(0, dtype)
    for rows in held:
        file.write(rows.tobytes())
    file.flush()
    with file:  # the map holds what it needs
        return np.memmap(file, dtype, "r")


def _joined(parts: Sequence[_Part]) -> Iterator[str]:
    # cut at line breaks, so that a learned piece never spans two reads
    rest = ""
    for i, part in enumerate(parts):
        rest = f"{rest}\n" if i and part.apart else rest
        for piece in part.pieces:
            head, line, rest = (rest + piece).rpartition("\n")
            if line:
                yield head + line
            if len(rest) > PIECE:  # a text without lines
                yield rest
                rest = ""
    if rest:
        yield rest
