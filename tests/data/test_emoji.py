"""Emoji: names, categories, the split by emoji; mirror images; and what is refused."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from oneprior.data import Mirrored, Source, digits, emoji, open_source
from oneprior.data.emoji import NAMES

TONES = ("1F3FB", "1F3FF")


def names_of(held: bool, count: int) -> list[str]:
    found = [f"emoji {i}" for i in range(200) if (zlib.crc32(f"emoji {i}".encode()) % 10 == 0) == held]
    return found[:count]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven emoji, three of them held out, one of these and one of the others with two skin tones each."""
    bases = names_of(True, 3) + names_of(False, 4)
    rows = [
        {"name": n, "category": "Food & Drink" if i % 2 else "Animals", "tone": "none"} for i, n in enumerate(bases)
    ]
    for base in (bases[0], bases[3]):
        rows += [{"name": f"{base}: skin", "category": "People", "tone": tone} for tone in TONES]
    folder = tmp_path / "emoji"
    folder.mkdir()
    (folder / "emoji.json").write_text(json.dumps(rows), encoding="utf-8")
    images = np.random.default_rng(0).integers(0, 256, (len(rows), 32, 32, 3), dtype=np.uint8)
    np.savez(folder / "emoji-google-32.npz", images=images)
    return folder


def test_pictures_names_and_categories(folder: Path) -> None:
    source = emoji(folder)
    assert isinstance(source, Source) and len(source) == 11
    facts = source.facts
    assert (facts.shape, facts.levels, facts.name) == ((3, 32, 32), 256, "emoji-google-32")
    assert facts.classes == ("Animals", "Food & Drink", "People") and "Apache-2.0" in facts.licence
    batch = source.batch([10, 1])
    with np.load(folder / "emoji-google-32.npz") as stored:
        want = stored["images"][[10, 1]].transpose(0, 3, 1, 2) / np.float32(255)
    np.testing.assert_array_equal(batch["x"].numpy(), want)
    assert set(batch) == {"x", "label"} and batch["label"].tolist() == [2, 1]
    assert source.tones[6:9] == ("none", *TONES[:2]) and len(source.tones) == 11
    assert source.captions[10] == f"{names_of(False, 1)[0]}: skin" and len(source.captions) == 11


def test_the_split_keeps_the_tones_of_an_emoji_together(folder: Path) -> None:
    train, test = emoji(folder, split="train"), emoji(folder, split="test")
    base = {n.split(":")[0] for n in train.captions}, {n.split(":")[0] for n in test.captions}
    assert base == (set(names_of(False, 4)), set(names_of(True, 3)))
    assert (len(train), len(test)) == (6, 5) and train.facts.classes == test.facts.classes
    assert torch.equal(train.batch([0])["x"], emoji(folder).batch([3])["x"])


def test_without_skin_tones(folder: Path) -> None:
    source = emoji(folder, tones=False)
    assert len(source) == 7 and source.facts.name == "emoji-google-32-untoned"
    assert source.facts.classes == ("Animals", "Food & Drink", "People")  # labels mean the same with and without


def test_by_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEPRIOR_DATA", str(folder.parent))
    assert len(open_source("emoji-google-32", split="test")) == 5
    assert len(open_source("emoji-google-32-untoned")) == 7
    with pytest.raises(FileNotFoundError, match=r"emoji-twitter-64.npz'; looked in .*: put the emoji files and"):
        open_source("emoji-twitter-64")
    monkeypatch.delenv("ONEPRIOR_DATA")
    monkeypatch.chdir(folder)
    with pytest.raises(FileNotFoundError, match="ONEPRIOR_DATA is not set"):
        open_source("emoji-google-32")
    with pytest.raises(ValueError, match="size=16 applies to folders"):
        monkeypatch.chdir(folder.parent)
        open_source("emoji-google-32", size=16)
    assert len(NAMES) == 8


def test_refused(folder: Path) -> None:
    for vendor, size, split in (("acme", 32, "all"), ("google", 48, "all"), ("google", 32, "val")):
        with pytest.raises(ValueError, match="expected"):
            emoji(folder, vendor, size, split=split)
    np.savez(folder / "emoji-twitter-32.npz", images=np.zeros((3, 32, 32, 3), np.uint8))
    with pytest.raises(ValueError, match=r"shape \(3, 32, 32, 3\); expected uint8 \(11, 32, 32, 3\)"):
        emoji(folder, "twitter")
    whole = (folder / "emoji-google-32.npz").read_bytes()
    (folder / "emoji-google-32.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cannot be read as emoji"):
        emoji(folder)
    (folder / "emoji.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"emoji-google-32.npz and emoji.json in one folder"):
        emoji(folder)


def test_mirror_images() -> None:
    source = digits("test")
    both = Mirrored(source)
    assert isinstance(both, Source) and len(both) == 720 and both.facts == source.facts
    batch, plain = both.batch([3, 363]), source.batch([3])
    assert torch.equal(batch["x"][0], plain["x"][0]) and torch.equal(batch["x"][1], plain["x"][0].flip(-1))
    assert batch["label"].tolist() == plain["label"].tolist() * 2
    with pytest.raises(IndexError, match="720"):
        both.batch([720])
    with pytest.raises(ValueError, match="pictures are mirrored"):
        Mirrored(open_source("points:moons"))
