"""Small scans for tests, made with the libraries that own the formats."""

from pathlib import Path
from typing import Any

import numpy as np


def nifti(path: Path, kind: Any = np.int16, seed: int = 0, shape: tuple[int, ...] = (8, 10, 4)) -> Path:
    """A volume whose affine turns by 30 degrees, flips an axis, has three spacings; integers with slope and offset."""
    import nibabel

    c, s = np.cos(np.pi / 6), np.sin(np.pi / 6)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, -1]]) * np.array([0.9, 1.1, 2.5])
    affine[:3, 3] = -7.25, 3.5, 11.0
    values = np.random.default_rng(seed).integers(0, 200, shape).astype(kind)
    image: Any = nibabel.Nifti1Image(values, affine)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = b"a test"
    if np.issubdtype(kind, np.integer):
        image.header.set_slope_inter(0.5, -30.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path


def dicom_series(folder: Path, count: int, side: int = 8) -> tuple[Path, dict[str, float]]:
    """Slices of the CT that pydicom ships, cut to a corner, 5 mm apart, under names that run against their heights."""
    import pydicom
    from pydicom.data import get_testdata_file
    from pydicom.uid import generate_uid

    folder.mkdir(parents=True)
    heights = {}
    for i in range(count):
        ds: Any = pydicom.dcmread(str(get_testdata_file("CT_small.dcm")))
        corner = np.ascontiguousarray(ds.pixel_array[20 + i : 20 + i + side, 30 : 30 + side])
        ds.Rows = ds.Columns = side
        ds.PixelData = corner.tobytes()
        ds.ImagePositionPatient = [*ds.ImagePositionPatient[:2], -100 + 5.0 * i]
        ds.SOPInstanceUID = generate_uid(entropy_srcs=[folder.name, str(i)])
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        name = f"IM{(7 * i + 5) % count:03d}.dcm"
        ds.save_as(folder / name)
        heights[name] = -100 + 5.0 * i
    return folder, heights
