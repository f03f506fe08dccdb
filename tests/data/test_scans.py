"""Scans: slices in one orientation whatever the file's, and back into files of the same geometry, bit for bit."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oneprior.data import open_source, scans
from oneprior.data.scans import Slices
from scans_standins import dicom_series, nifti

nibabel: Any = pytest.importorskip("nibabel")
pydicom: Any = pytest.importorskip("pydicom")


def same_geometry(a: Path, b: Path) -> None:
    """Affine, codes, spacing and number type of two NIfTI files, bit for bit."""
    one, two = nibabel.load(a), nibabel.load(b)
    assert one.get_data_dtype() == two.get_data_dtype() and one.shape == two.shape
    np.testing.assert_array_equal(one.affine, two.affine)
    for name in ("pixdim", "srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d", "qoffset_x"):
        assert one.header[name].tobytes() == two.header[name].tobytes(), name
    for name in ("qform_code", "sform_code", "xyzt_units", "descrip"):
        assert one.header[name] == two.header[name]
    assert (one.dataobj.slope, one.dataobj.inter) == (two.dataobj.slope, two.dataobj.inter)


@pytest.mark.parametrize("kind", [np.int16, np.uint8, np.float32])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_nifti_round_trip(tmp_path: Path, kind: Any, ending: str) -> None:
    path = nifti(tmp_path / f"a{ending}", kind)
    (scan,) = scans(path)
    ((out, data),) = scan.encode(scan.read().astype(float), tmp_path / f"b{ending}")
    out.write_bytes(data)
    same_geometry(path, out)
    a, b = (np.asanyarray(nibabel.load(p).dataobj.get_unscaled()) for p in (path, out))
    np.testing.assert_array_equal(a, b)


def test_the_sample_of_nibabel(tmp_path: Path) -> None:
    """4-D, with an affine that rotates."""
    path = Path(nibabel.__file__).parent / "tests" / "data" / "example4d.nii.gz"
    (scan,) = scans(path)
    assert scan.shape == (48, 96, 128) and scan.spacing == pytest.approx((2.2, 2.0, 2.0), abs=1e-3)
    x = scan.read()
    whole = np.asanyarray(nibabel.load(path).dataobj)  # its axes run to L, A and S
    np.testing.assert_array_equal(x[24 + 3], whole[:, ::-1, 3, 1].T)
    ((out, data),) = scan.encode(x.astype(float), tmp_path / "b.nii.gz")
    out.write_bytes(data)
    same_geometry(path, out)
    np.testing.assert_array_equal(whole, np.asanyarray(nibabel.load(out).dataobj))


def test_orientations_agree(tmp_path: Path) -> None:
    """One body stored in four ways gives the same slices."""
    body = np.arange(4 * 5 * 6).reshape(4, 5, 6).astype(np.int16)
    ways = {
        "LPS": body,
        "RAS": body[::-1, ::-1],
        "PSR": body[::-1].transpose(1, 2, 0),
        "SAL": body[:, ::-1].transpose(2, 1, 0),
    }
    found = []
    for codes, stored in ways.items():
        affine = np.eye(4)
        affine[:3, :3] = 0
        for axis, code in enumerate(codes):
            affine["LPSRAI".index(code) % 3, axis] = 1.0 if code in "RAS" else -1.0
        assert "".join(nibabel.aff2axcodes(affine)) == codes
        nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(stored), affine), tmp_path / f"{codes}.nii")
        found.append(scans(tmp_path / f"{codes}.nii")[0].read())
    for one in found:
        np.testing.assert_array_equal(one, body.transpose(2, 1, 0))


def test_a_dicom_series(tmp_path: Path) -> None:
    """Sorted by position though the names run otherwise; every tag but the identity stays."""
    folder, heights = dicom_series(tmp_path / "ct", 3)
    (scan,) = scans(folder)
    assert (scan.shape, scan.unit, scan.dtype) == ((3, 8, 8), "HU", "int16") and scan.path == folder
    assert [heights[f.name] for f in scan.files] == sorted(heights.values())
    assert scan.spacing == pytest.approx((5.0, 0.661468, 0.661468))
    x = scan.read()
    first = pydicom.dcmread(scan.files[0])
    np.testing.assert_array_equal(x[0], first.pixel_array * first.RescaleSlope + first.RescaleIntercept)
    written = scan.encode(x.astype(float), tmp_path / "out")
    assert {p.name for p, _ in written} == set(heights)
    (tmp_path / "out").mkdir()
    series = set()
    for path, data in written:
        path.write_bytes(data)
        a, b = pydicom.dcmread(folder / path.name), pydicom.dcmread(path)
        np.testing.assert_array_equal(a.pixel_array, b.pixel_array)
        assert a.pixel_array.dtype == b.pixel_array.dtype and b.SOPInstanceUID != a.SOPInstanceUID
        changed = {e.keyword for e in a if e.tag not in b or b[e.tag].value != e.value}
        assert changed <= {"ImageType", "SOPInstanceUID", "SeriesInstanceUID", "DataSetTrailingPadding"}
        assert b.ImageType[0] == "DERIVED"
        series.add(b.SeriesInstanceUID)
    assert len(series) == 1 and scans(tmp_path / "out")[0].spacing == scan.spacing


def test_scans_as_a_source(tmp_path: Path) -> None:
    for i in range(5):
        nifti(tmp_path / f"p{i}.nii.gz", seed=i)
    source = open_source(tmp_path)
    assert isinstance(source, Slices) and source.facts.unit == "stored values" and source.facts.levels is None
    assert source.facts.shape == (1, *source.scans[0].shape[1:]) and len(source) == 5 * source.scans[0].count
    batch = source.batch([source.scans[0].count + 2])["x"]
    np.testing.assert_array_equal(batch[0, 0].numpy(), source.scans[1].read()[2])
    parts = [open_source(tmp_path, split=s) for s in ("train", "test")]
    names = [{s.path for s in p.scans} for p in parts]  # type: ignore[attr-defined]
    assert not names[0] & names[1] and len(names[1]) == 1


def test_scans_that_cannot_be_used(tmp_path: Path) -> None:
    path = nifti(tmp_path / "flat.nii")
    raw = bytearray(path.read_bytes())
    raw[80:92] = np.array([0, 0, 0], "<f4").tobytes()  # pixdim of the three axes
    raw[252:256] = bytes(4)  # no qform, no sform
    path.write_bytes(bytes(raw))
    with pytest.raises(ValueError, match=r"flat\.nii: a scan without spacing"):
        scans(path)
    folder, _ = dicom_series(tmp_path / "ct", 2)
    for file in folder.iterdir():
        ds = pydicom.dcmread(file)
        del ds.PixelSpacing
        ds.save_as(file)
    with pytest.raises(ValueError, match="a scan without spacing"):
        scans(folder)
    good, _ = dicom_series(tmp_path / "twice", 2)
    shutil.copy(next(good.iterdir()), good / "copy.dcm")
    with pytest.raises(ValueError, match="two slices of one series lie in one place"):
        scans(good)
    mixed, _ = dicom_series(tmp_path / "mixed", 2)
    ds = pydicom.dcmread(file := next(mixed.iterdir()))
    ds.BitsStored, ds.HighBit = 12, 11
    ds.save_as(file)
    with pytest.raises(ValueError, match="differ in size or depth"):
        scans(mixed)
    (tmp_path / "junk.nii").write_text("no scan")
    with pytest.raises(ValueError, match=r"junk\.nii"):
        open_source(tmp_path / "junk.nii")
    whole = scans(nifti(tmp_path / "whole.nii"))[0]
    with pytest.raises(ValueError, match="keeps no geometry"):
        whole.encode(np.zeros((1, 2, 2)), tmp_path / "x.nii")
