"""The identity as operator: files survive a restoration and writing, bit for bit in geometry and depth."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from oneprior.loading import load
from scans_standins import dicom_series, nifti

Cli = Callable[..., Any]
SAME = ("--operator", "identity", "--steps", 2, "--out", "r")


def test_nifti_with_a_turned_affine(cli: Cli, scans_prior: Path) -> None:
    nibabel: Any = pytest.importorskip("nibabel")
    a = nifti(Path("a.nii.gz"))
    assert cli("inspect", a, "--json").json["spacing_mm"] == {"2.5 x 1.1 x 0.9": 1}
    done = cli("restore", scans_prior, a, *SAME, "--draws", 2, "--json")
    assert done.code == 0, done.err
    assert {r["restored"] for r in done.json["pictures"]} == {"r/a.nii.gz"} and len(done.json["pictures"]) == 4
    one, two, spread = (nibabel.load(p) for p in ("a.nii.gz", "r/a.nii.gz", "r/a-std.nii.gz"))
    np.testing.assert_array_equal(one.affine, two.affine)
    np.testing.assert_array_equal(one.affine, spread.affine)
    assert one.header["qform_code"] == two.header["qform_code"] and one.header["descrip"] == two.header["descrip"]
    assert two.get_data_dtype() == np.int16 and spread.get_data_dtype() == np.float32
    assert (two.dataobj.slope, two.dataobj.inter) == (0.5, -30.0)
    np.testing.assert_allclose(two.get_fdata(), one.get_fdata(), atol=0.5)  # a stored step: y has no noise
    assert Path("r/a-draw-1.nii.gz").exists() and Path("r/sheet.png").exists()


def test_a_dicom_series(cli: Cli, scans_prior: Path) -> None:
    pydicom: Any = pytest.importorskip("pydicom")
    folder, _ = dicom_series(Path("ct"), 3)
    assert cli("inspect", folder, "--json").json["sizes"] == {"3 x 8 x 8": 1}
    done = cli("restore", scans_prior, folder, *SAME, "--draws", 1, "--noise", "0")
    assert done.code == 0, done.err
    for file in folder.iterdir():
        a, b = pydicom.dcmread(file), pydicom.dcmread(Path("r/ct") / file.name)
        for name in (
            "PixelSpacing",
            "ImagePositionPatient",
            "ImageOrientationPatient",
            "BitsStored",
            "RescaleIntercept",
        ):
            assert a[name].value == b[name].value
        np.testing.assert_allclose(a.pixel_array, b.pixel_array, atol=1)


def test_pictures_of_three_kinds(cli: Cli, plain_prior: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (8, 8, 2)).astype(np.uint8)
    deep = (np.arange(64).reshape(8, 8) * 1024).astype(np.uint16)
    Image.fromarray(grey).save("alpha.png")
    Image.fromarray(deep).save("deep.tiff", dpi=(300, 300))
    for file, kind, ends in (("alpha.png", "LA, 8 bits", None), ("deep.tiff", "I;16, 16 bits", [0, 64512])):
        said = cli("inspect", file, "--json").json
        assert said["types"] == {kind: 1} and said["sizes"] == {"8 x 8": 1} and ends in (None, said["range"])
    done = cli("restore", plain_prior, "alpha.png", "deep.tiff", *SAME, "--draws", 1)
    assert done.code == 0, done.err
    with Image.open("r/alpha.png") as one, Image.open("r/deep.tiff") as two:
        assert one.mode == "LA" and two.mode == "I;16" and two.info["dpi"] == (300, 300)
        np.testing.assert_array_equal(np.asarray(one)[..., 1], grey[..., 1])
        seen = grey[..., 1] > 127
        assert np.abs(np.asarray(one)[..., 0].astype(float) - grey[..., 0])[seen].max() <= 2
        np.testing.assert_allclose(np.asarray(two), deep, atol=70)  # a thousandth
    assert cli("restore", plain_prior, "alpha.png", *SAME).code == 2  # would be written over


def test_scans_and_pictures_are_not_taken_for_each_other(cli: Cli, scans_prior: Path, plain_prior: Path) -> None:
    pytest.importorskip("nibabel")
    a = nifti(Path("a.nii"), shape=(4, 4, 2))
    Image.new("L", (8, 8)).save("a.png")
    for prior, file, said in (
        (plain_prior, a, "a scan in its own units, and this prior is of pictures in [0, 1]"),
        (scans_prior, "a.png", "this prior is of scans in stored values"),
        (scans_prior, a, "slices of a.nii are 4 x 4; 8 x 8 was expected"),
    ):
        done = cli("restore", prior, file, *SAME)
        assert done.code == 2 and said in done.err and not Path("r").exists()


def test_a_prior_of_scans(cli: Cli) -> None:
    pytest.importorskip("nibabel")
    for i in range(3):
        nifti(Path(f"scans/p{i}.nii.gz"), seed=i, shape=(8, 8, 4))
    flags = ("--net", "mlp", "--net-size", "tiny", "--batch", 16, "--samples", 64, "--name", "s")
    done = cli("train", "scans", *flags)
    assert done.code == 0, done.err
    prior: Any = load("runs/s")
    assert prior.codec.unit == "stored values" and prior.codec.mean[0] == pytest.approx(20, abs=3)
    assert prior.facts["data"]["count"] == 8  # two of three scans: slices of one are on one side
    assert cli("sample", "runs/s", "--n", 2, "--out", "drawn").code == 0
    assert np.load("drawn/samples.npy").shape == (2, 1, 8, 8)
    done = cli("restore", "runs/s", "scans", *SAME, "--draws", 1, "--noise", "5", "--n", 1)
    assert done.code == 0 and Path("r/p0.nii.gz").exists(), done.err


def test_classes_and_groups_from_a_table(cli: Cli) -> None:
    Path("d").mkdir()
    for i in range(12):
        Image.new("L", (8, 8), 20 * i).save(f"d/{i}.png")
    Path("d/metadata.csv").write_text(
        "file_name,k,who\n" + "".join(f"{i}.png,{'ab'[i % 2]},{i // 2}\n" for i in range(12))
    )
    flags = ("--net", "mlp", "--net-size", "tiny", "--batch", 8, "--samples", 32, "--name", "t")
    assert cli("train", "d", *flags, "--label", "k", "--split-by", "who").code == 0
    prior = load("runs/t")
    assert list(prior.conditions) == ["label"] and prior.facts["data"]["count"] == 8
    done = cli("train", "d", *flags, "--label", "kind", "--force")
    assert done.code == 2 and "has no column 'kind'; it has k, who" in done.err
    done = cli("train", "d", *flags, "--text", "k", "--force")
    assert done.code == 2 and "--text: captions are learned by priors of codes" in done.err
