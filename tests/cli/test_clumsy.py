"""What people do: a damaged prior, a pickle, an empty folder, an unreadable picture, a full disk."""

import errno
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oneprior.training import files

Cli = Callable[..., Any]


def ruin(folder: Path, how: str) -> None:
    weights, config = folder / "model.safetensors", folder / "config.json"
    if how == "weights missing":
        weights.unlink()
    elif how == "weights truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "weights altered":
        data = bytearray(weights.read_bytes())
        data[-1] ^= 255
        weights.write_bytes(data)
    elif how == "weights pickled":
        weights.write_bytes(pickle.dumps({"a": 1}))
    elif how == "config truncated":
        config.write_text(config.read_text()[:-20])
    elif how == "config missing":
        config.unlink()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("weights missing", "model.safetensors is missing"),
        ("weights truncated", "model.safetensors"),
        ("weights altered", "hash differs"),
        ("weights pickled", "pickles"),
        ("config truncated", "config.json is not whole"),
        ("config missing", "config.json is missing"),
    ],
)
@pytest.mark.parametrize("command", ["sample", "info"])
def test_a_damaged_prior(cli: Cli, digits_prior: Path, tmp_path: Path, command: str, how: str, said: str) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(digits_prior, folder)
    ruin(folder, how)
    done = cli(command, folder)
    assert done.code == 2 and said in done.err and done.err.count("\n") == 1 and not Path("runs").exists()


def test_no_prior_at_all(cli: Cli, tmp_path: Path) -> None:
    assert "no folder 'nowhere'" in cli("sample", "nowhere").err
    (tmp_path / "model.pt").write_bytes(pickle.dumps([1]))
    done = cli("sample", "model.pt")
    assert done.code == 2 and "Pickles are never read" in done.err


@pytest.mark.parametrize("command", ["classify", "likelihood", "train"])
def test_an_empty_folder(cli: Cli, digits_prior: Path, command: str) -> None:
    Path("empty").mkdir()
    prior = [digits_prior] if command != "train" else []
    done = cli(command, *prior, "empty")
    assert done.code == 2 and "no pictures in empty" in done.err and not Path("runs").exists()


def test_no_pictures_named(cli: Cli, digits_prior: Path) -> None:
    assert "which pictures?" in cli("classify", digits_prior).err
    assert "gone.png" in cli("classify", digits_prior, "gone.png").err
    assert "gone" in cli("classify", digits_prior, "gone").err


def test_an_unreadable_picture_is_named_counted_and_skipped(cli: Cli, digits_prior: Path, pictures: Path) -> None:
    (pictures / "a" / "bad.png").write_bytes(b"no picture")
    for given in ([pictures], sorted(pictures.glob("*/*.png"))):
        done = cli("classify", digits_prior, *given, "--calls", 1)
        assert done.code == 2 and "1 of 7 pictures" in done.err and "bad.png" in done.err and "--skip-bad" in done.err
        done = cli("classify", digits_prior, *given, "--calls", 1, "--skip-bad", "--json")
        assert len(done.json["pictures"]) == 6 and "1 of 7 pictures left out" in done.err


def test_other_sizes_are_said(cli: Cli, digits_prior: Path, pictures: Path) -> None:
    from PIL import Image

    Image.new("RGB", (20, 12), "red").save("wide.png")
    done = cli("classify", digits_prior, "wide.png", pictures / "a" / "0.png", "--calls", 1)
    assert done.code == 0 and "1 of 2 pictures cut to the middle and resized to 8 x 8" in done.err


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_folder_that_takes_nothing(cli: Cli, digits_prior: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Full after the first picture; read-only from the start. (Tests may run as root, for whom no folder is closed.)"""
    assert cli("sample", digits_prior, "--n", 1, "--steps", 1, "--out", "s").code == 0
    there = Path("s/000000.png").read_bytes()

    def full(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.os, "replace", full)
    reason = {errno.ENOSPC: "the disk is full", errno.EROFS: "read-only", errno.EACCES: "not writable"}[code]
    for argv in (
        ["sample", digits_prior, "--n", 2, "--steps", 1, "--out", "s"],
        ["train", "digits", "--net-size", "tiny", "--samples", 64, "--batch", 32, "--name", "t"],
    ):
        done = cli(*argv)
        assert done.code == 1 and reason in done.err and "Traceback" not in done.err
    assert Path("s/000000.png").read_bytes() == there and not list(Path("s").glob("*.tmp"))


def test_out_is_a_file(cli: Cli, digits_prior: Path, pictures: Path) -> None:
    Path("f").write_text("mine")
    for argv in (["sample", digits_prior], ["edit", digits_prior, pictures, "--target", 3], ["train", "digits"]):
        assert cli(*argv, "--out", "f").code == 2
    assert Path("f").read_text() == "mine"
