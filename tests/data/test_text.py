"""Text files as windows of tokens: where they come from, how they are split, and what is refused."""

import gzip
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from oneprior.codecs import Bytes, Characters
from oneprior.data import text as module
from oneprior.data.text import is_text, text

LINES = [f"verse {i}: the word was with the reader, and the reader read it {i * i} times." for i in range(40)]
BOOK = "\n".join(LINES) + "\n"


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text(BOOK)
    return path


def test_a_window_at_every_place(book: Path) -> None:
    source = text(book, length=16)
    assert len(source) == len(BOOK) - 15 and source.facts.shape == (16,) and source.facts.name == "book"
    x = source.batch([0, 7, len(source) - 1])["x"]
    assert x.dtype == torch.int64
    assert source.text.decode(x) == [BOOK[:16], BOOK[7:23], BOOK[-16:]]
    with pytest.raises(IndexError):
        source.batch([len(source)])
    apart = source.apart()
    assert len(apart) == len(BOOK) // 16
    assert source.text.decode(apart.batch([2])["x"]) == [BOOK[32:48]]


def test_a_file_is_split_at_a_line_break_near_its_last_tenth(book: Path) -> None:
    train, test, both = (text(book, length=8, split=s, tokens="characters") for s in ("train", "test", "all"))
    assert train.text == test.text == both.text == Characters.of([BOOK])  # the alphabet of the whole in each
    said = [s.text.decode(torch.from_numpy(s.tokens[None].astype(np.int64)))[0] for s in (train, test, both)]
    assert said[0] + said[1] == said[2] == BOOK
    assert said[0].endswith("\n") and 0.85 * len(BOOK) < len(said[0]) <= 0.9 * len(BOOK)


@pytest.mark.parametrize("piece", [7, 64, 1 << 20])
def test_the_size_of_a_read_changes_nothing(book: Path, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE", piece)
    for split in ("train", "test", "all"):
        got = text(book, length=8, split=split)
        cut = BOOK.rfind("\n", 0, len(BOOK) * 9 // 10) + 1
        want = {"train": BOOK[:cut], "test": BOOK[cut:], "all": BOOK}[split]
        assert got.text.words(got.tokens.tolist()) == want
    book.write_text("x" * 1000)  # no line break at all
    assert [len(text(book, length=8, split=s).tokens) for s in ("train", "test")] == [900, 100]


def test_compressed_and_marked(book: Path, tmp_path: Path) -> None:
    packed = tmp_path / "book.txt.gz"
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbf" + BOOK.encode()))  # with the mark some editors put first
    got = text(packed, length=8)
    assert got.facts.name == "book" and got.text.words(got.tokens.tolist()) == BOOK
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(ValueError, match="damaged gzip file"):
        text(packed, length=8)


def test_a_folder_is_joined_in_order_and_split_by_name(tmp_path: Path) -> None:
    names = [f"{i:02d}.txt" for i in range(12)]
    for name in names:
        (tmp_path / name).write_text(f"this is file {name}")
    tested = {n for n in names if zlib.crc32(n.encode()) % 10 == 0}
    for split in ("train", "test", "all"):
        kept = [n for n in names if split == "all" or (n in tested) == (split == "test")]
        if not kept:  # by chance: then the last one
            kept = names[-1:]
        got = text(tmp_path, length=8, split=split)
        if tested or split == "all":
            assert got.text.words(got.tokens.tolist()) == "\n".join(f"this is file {n}" for n in kept)


def test_a_folder_of_two_has_a_test_part(tmp_path: Path) -> None:
    for name in ("a.md", "b.txt"):
        (tmp_path / name).write_text(f"words of {name}, long enough")
    parts = [text(tmp_path, length=8, split=s) for s in ("train", "test")]
    assert all(len(p.tokens) for p in parts)


def test_tokens_by_name(book: Path) -> None:
    assert text(book, length=8, tokens="bytes").text == Bytes()
    assert text(book, length=8, tokens=Bytes()).tokens.tolist() == list(BOOK.encode())
    pytest.importorskip("tokenizers")
    pieces = text(book, length=8, tokens="pieces:300")
    assert pieces.tokens.dtype == np.uint16 and len(pieces.tokens) < 0.6 * len(BOOK)
    assert pieces.text.words(pieces.tokens.tolist()) == BOOK
    train = text(book, length=8, tokens="pieces:300", split="train")
    assert train.text == pieces.text  # learned from the training part alone, whichever part is asked for
    with pytest.raises(ValueError, match="tokens 'words' is not known; characters, bytes or pieces:4096"):
        text(book, tokens="words")


def test_what_does_not_fit_in_memory_lies_on_disk(book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = text(book, length=16)
    monkeypatch.setattr(module, "MEMORY", 100)
    monkeypatch.setattr(module, "PIECE", 64)
    mapped = text(book, length=16, folder=tmp_path)
    assert isinstance(mapped.tokens, np.memmap) and not isinstance(whole.tokens, np.memmap)
    index = [0, 99, len(whole) - 1]
    assert len(mapped) == len(whole) and torch.equal(mapped.batch(index)["x"], whole.batch(index)["x"])


def test_text_and_pictures_are_told_apart(book: Path, tmp_path: Path) -> None:
    assert is_text(book) and is_text(tmp_path) and not is_text(tmp_path / "photo.png")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "photo.PNG").write_bytes(b"")
    assert not is_text(tmp_path)  # a folder of pictures with a readme
    (tmp_path / "b" / "deep").mkdir(parents=True)
    assert not is_text(tmp_path / "b")
    (tmp_path / "b" / "deep" / "note.md").write_text("x")
    assert is_text(tmp_path / "b")


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    path = tmp_path / "old.txt"
    path.write_bytes(b"first line \xef\xbf\xbd is fine\nsecond\nna\xefve and so on\n")
    with pytest.raises(ValueError, match=r"old.txt is not UTF-8: byte 0xef in line 3 .* iconv -f latin1 -t utf-8"):
        text(path, length=4)


@pytest.mark.parametrize("data", [None, "nowhere"])
def test_kjv_that_is_not_there(data: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONEPRIOR_DATA", raising=False)
    if data:
        monkeypatch.setenv("ONEPRIOR_DATA", str(tmp_path / data))
    said = f"{tmp_path / data / 'text'}" if data else "ONEPRIOR_DATA is not set"
    with pytest.raises(FileNotFoundError, match=re.escape(said)):
        text("kjv")


def test_kjv_without_its_references_split_by_books(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEPRIOR_DATA", str(tmp_path))
    books = [b for b in ("Ge", "Exo", "1Sam", "Psa", "Rev", "Jude", "Acts", "Rom", "Heb", "Mark", "Luke", "John")]
    (tmp_path / "text").mkdir()
    lines = [f"{b}{c}:{v} In {b} chapter {c} it says {v}." for b in books for c in (1, 2) for v in (1, 2, 3)]
    path = tmp_path / "text" / "kjv.txt.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    both = text("kjv", length=8)
    assert both.facts.name == "kjv" and "public domain" in both.facts.licence
    assert both.text.words(both.tokens.tolist()) == "\n".join(re.sub(r"^\S+ ", "", line) for line in lines)
    held = [b for b in books if zlib.crc32(b.encode()) % 10 == 0]
    if held:
        said = text("kjv", length=8, split="test")
        found = said.text.words(said.tokens.tolist())
        assert all(f"In {b} " in found for b in held) and found.count("In ") == 6 * len(held)
    path.write_bytes(gzip.compress(b"no reference here"))
    with pytest.raises(ValueError, match="a verse after its reference"):
        text("kjv")


def test_refused(book: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    calls: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"spec": tmp_path / "empty"}, ValueError, "holds no text"),
        ({"spec": tmp_path / "no.txt"}, FileNotFoundError, "no text at"),
        ({"spec": book, "length": 5000}, ValueError, "a window of 5000 or more"),
        ({"spec": book, "length": 1}, ValueError, "2 tokens or more"),
        ({"spec": book, "split": "dev"}, ValueError, "train, test or all"),
    ]
    for call, kind, said in calls:
        with pytest.raises(kind, match=said):
            text(**call)
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.txt").write_text("alone in its folder")
    with pytest.raises(ValueError, match="no text in its test part: 1 files"):
        text(tmp_path / "one", length=4, split="test")
    (tmp_path / "none.txt").write_text("")
    with pytest.raises(ValueError, match="has 0 tokens"):
        text(tmp_path / "none.txt", length=4)
