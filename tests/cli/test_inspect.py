"""`oneprior inspect`: what it finds in a folder, and that the line it suggests does run."""

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scans_standins import dicom_series, nifti

Cli = Callable[..., Any]
TINY = ("--net", "mlp", "--net-size", "tiny", "--batch", 8, "--samples", 16, "--name", "t")


def put(file: str, value: int, size: tuple[int, int] = (8, 8)) -> Path:
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).save(path)
    return path


def runs(cli: Cli, line: str) -> None:
    done = cli(*shlex.split(line)[1:], *TINY)
    assert done.code == 0, done.err


def test_a_clumsy_folder(cli: Cli) -> None:
    for i in range(8):
        put(f"d/{i}.png", 10 + 20 * i, (8, 8) if i % 2 else (12, 10))
    shutil.copy("d/3.png", "d/copy.png")
    (Path("d/bad.png")).write_bytes(Path("d/1.png").read_bytes()[:40])
    rows = [f"{p.name},{'ab'[i % 2]},w{i // 2}" for i, p in enumerate(sorted(Path("d").glob("*.png")))]
    Path("d/metadata.csv").write_text("\n".join(["file_name,label,patient_id", *rows]))
    done = cli("inspect", "d", "--json")
    said = done.json
    assert done.code == 1 and (said["files"], said["pictures"]) == (10, 9)
    assert said["sizes"] == {"8 x 8": 5, "10 x 12": 4}
    assert said["types"] == {"L, 8 bits": 9} and said["range"] == [10, 150]
    assert list(said["unreadable"]) == ["d/bad.png"] and said["duplicates"] == [["3.png", "copy.png"]]
    assert said["columns"] == {"label": 2, "patient_id": 5} and said["groups"] == {"patient_id": 5}
    assert said["suggest"] == "oneprior train d --size 8 --label label --split-by patient_id --skip-bad"
    runs(cli, said["suggest"])
    screen = cli("inspect", "d")
    assert "unreadable: d/bad.png" in screen.out and "the same file: 3.png, copy.png" in screen.out
    assert screen.out.strip().endswith(said["suggest"])


def test_classes_splits_and_twins(cli: Cli) -> None:
    for i in range(6):
        put(f"c/{'ab'[i % 2]}/{i}.png", i)
        put(f"s/train/{'ab'[i % 2]}/{i}.png", i)
        put(f"s/validation/{'ab'[i % 2]}/{i}.png", i + 50)
        put(f"t/rain/{i}.png", i)
        put(f"t/clean/{i}.png", i)
    put("t/rain/lonely.png", 9)
    assert cli("inspect", "c", "--json").json["classes"] == {"a": 3, "b": 3}
    split = cli("inspect", "s", "--json").json
    assert split["splits"] == {"train": 6, "validation": 6} and split["classes"] == {"a": 3, "b": 3}
    twins = cli("inspect", "t", "--json").json
    assert twins["twins"] == {"folders": ["clean", "rain"], "pairs": 6, "unmatched": ["rain/lonely"]}
    assert twins["suggest"] == "oneprior train t/clean --pairs t/rain --skip-bad"
    runs(cli, twins["suggest"])
    done = cli("train", "t/clean", "--pairs", "t/rain", *TINY, "--force")
    assert done.code == 2 and "1 pictures have no partner" in done.err and "lonely.png" in done.err


def test_scans_and_arrays(cli: Cli) -> None:
    pytest.importorskip("nibabel")
    pytest.importorskip("pydicom")
    for i in range(3):
        nifti(Path(f"n/p{i}.nii.gz"), seed=i, shape=(8, 8, 4))
    said = cli("inspect", "n", "--json").json
    assert (said["scans"], said["slices"], said["groups"]) == (3, 12, {"patient or file": 3})
    assert said["spacing_mm"] == {"2.5 x 1.1 x 0.9": 3} and said["types"] == {"int16, stored values": 3}
    assert said["range"][0] >= -30 and said["range"][1] <= 70
    runs(cli, said["suggest"])
    dicom_series(Path("ct/one"), 3)
    ct = cli("inspect", "ct", "--json").json
    assert ct["sizes"] == {"3 x 8 x 8": 1} and ct["types"] == {"int16, HU": 1}
    Path("ct/junk.dcm").write_text("none")
    assert cli("inspect", "ct", "--json").json["unreadable"].keys() == {"ct/junk.dcm"}
    np.save("a.npy", np.zeros((5, 8, 8), np.uint8))
    assert cli("inspect", "a.npy", "--json").json["suggest"] == "oneprior train a.npy"


def test_nothing_there(cli: Cli) -> None:
    Path("empty").mkdir()
    done = cli("inspect", "empty")
    assert done.code == 0 and "nothing here to train on" in done.out
    assert cli("inspect", "gone").code == 2
