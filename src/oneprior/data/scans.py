"""Scans: NIfTI files and DICOM series as slices in the units of the scan, and back into files of the same geometry.

Slices run from foot to head; rows to the back of the patient, columns to the patient's left (LPS+), whatever way a file
stores them: so slices of two files agree. A 4-D scan gives the slices of each of its volumes in turn. Nothing is
resampled, windowed or clipped. What goes back is the input's file with other values: affine, orientation, number type,
slope and, of DICOM, every tag but those that must name a derived image.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from oneprior.data.source import Batch, DataFacts, Source, apart, checked

SUFFIXES = (".nii", ".nii.gz", ".dcm", ".ima", ".dicom")
UNSTATED = "stored values"


def is_scan(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".")


@dataclass(frozen=True)
class Scan:
    """A NIfTI file, or a series of DICOM files.

    shape: (slices, rows, columns); dtype: as stored; spacing: mm between slices, rows and columns; unit: of the values;
    group: what may not be on both sides of a split, the patient or the file.
    """

    path: Path
    shape: tuple[int, int, int]
    dtype: str
    spacing: tuple[float, ...]
    unit: str
    group: str
    files: tuple[Path, ...] = ()
    """of a series, from foot to head"""

    @property
    def count(self) -> int:
        return self.shape[0]

    @property
    def suffix(self) -> str:
        return "" if self.files else ".nii.gz" if self.path.name.lower().endswith(".gz") else ".nii"

    def read(self) -> np.ndarray:
        """Slices in the units of the scan, float32 (slices, rows, columns)."""
        if self.files:
            return np.stack([_values(_dicom(f)) for f in self.files])
        import nibabel

        img: Any = nibabel.load(self.path)
        a = nibabel.apply_orientation(_solid(np.asanyarray(img.dataobj)), _turn(img.affine))
        return np.ascontiguousarray(a.reshape(*a.shape[:2], -1, order="F").T, dtype=np.float32)

    def encode(self, x: np.ndarray, out: Path, exact: bool = False) -> list[tuple[Path, bytes]]:
        """Slices (slices, rows, columns) as a file like this one, by where it goes; of a series, one each in a folder.

        exact: not rounded to the stored number type (spreads), where the format can hold that: NIfTI. Raises ValueError
        for slices of another size.
        """
        if x.shape != self.shape:
            raise ValueError(f"{self.path} has slices of shape {self.shape}; got {x.shape}, which keeps no geometry")
        if self.files:
            return [(out / f.name, _derived(_dicom(f), v)) for f, v in zip(self.files, x, strict=True)]
        import nibabel

        img: Any = nibabel.load(self.path)
        stored = _solid(np.empty(img.shape, np.uint8)).shape
        turned = nibabel.apply_orientation(np.empty(stored[:3], np.uint8), _turn(img.affine)).shape
        a = nibabel.apply_orientation(x.T.reshape(*turned, *stored[3:], order="F"), _turn(img.affine, back=True))
        header, slope, inter = img.header.copy(), img.dataobj.slope, img.dataobj.inter
        if exact:
            header.set_data_dtype(np.float32)
            slope, inter = 1.0, 0.0
        made = type(img)(_stored(a.reshape(img.shape), header.get_data_dtype(), slope, inter), img.affine, header)
        made.header.set_slope_inter(slope, inter)
        data = made.to_bytes()
        return [(out, gzip.compress(data, mtime=0) if self.suffix == ".nii.gz" else data)]


def scans(path: Path) -> list[Scan]:
    """The scans in a folder and below it, or the one of a file (of a DICOM file: itself alone), by name.

    Raises:
        ValueError: a file that cannot be read, that states no spacing, or is of a kind that is not known here; what is
            wrong with each is listed.
    """
    found, bad = survey([path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file() and is_scan(p)))
    if bad:
        raise ValueError(
            f"{len(bad)} files of scans cannot be used:" + "".join(f"\n  {p}: {w}" for p, w in bad.items())
        )
    return found


def survey(paths: Sequence[Path]) -> tuple[list[Scan], dict[Path, str]]:
    """The scans among files, and why others are none."""
    found: list[Scan] = []
    series: dict[tuple[Path, str], list[tuple[float, Path, Any]]] = {}
    bad: dict[Path, str] = {}
    for path in paths:
        try:
            if path.name.lower().endswith((".nii", ".nii.gz")):
                found.append(_nifti(path))
            else:
                head = _dicom(path, pixels=False)
                series.setdefault((path.parent, str(head.SeriesInstanceUID)), []).append((_height(head), path, head))
        except ImportError as e:
            raise ImportError(f"{path} needs the extra medical, pip install 'oneprior[medical]': {e}") from e
        except Exception as e:  # each reader raises its own
            bad[path] = " ".join(str(e).split()) or type(e).__name__
    alone = {folder: sum(f == folder for f, _ in series) == 1 for folder, _ in series}
    for (folder, uid), slices in series.items():
        slices.sort(key=lambda s: s[0])
        try:
            name = (
                folder
                if alone[folder] and len(slices) > 1
                else folder / (slices[0][1].stem if len(slices) == 1 else f"series-{uid.rpartition('.')[2]}")
            )
            found.append(_series(name, slices))
        except ValueError as e:
            bad[slices[0][1]] = str(e)
    return sorted(found, key=lambda s: s.path), bad


def _spaced(spacing: Sequence[float]) -> tuple[float, ...]:
    if not all(np.isfinite(v) and v > 0 for v in spacing):
        raise ValueError("a scan without spacing: its header states no size of a voxel in mm; set it (pixdim, sform)")
    return tuple(round(float(v), 6) for v in spacing)


def _nifti(path: Path) -> Scan:
    import nibabel
    from nibabel.openers import ImageOpener

    img: Any = nibabel.load(path)
    if img.ndim < 2 or np.iscomplexobj(np.empty(0, img.get_data_dtype())) or img.get_data_dtype().names:
        raise ValueError(f"{img.ndim}-D {img.get_data_dtype()}: a scan of real numbers was expected")
    zooms = [*img.header.get_zooms()[:3], 1.0][:3]
    with ImageOpener(str(path)) as file:  # loading takes a size that is not stated for 1 mm
        _spaced(type(img.header).from_fileobj(file, check=False)["pixdim"][1 : 1 + min(img.ndim, 3)])
    _spaced(np.linalg.norm(img.affine[:3, :3], axis=0)[: min(img.ndim, 3)])
    shape = _solid(np.empty(img.shape, np.uint8)).shape
    order = _turn(img.affine)[:, 0].astype(int)
    sides, steps = [0] * 3, [0.0] * 3
    for axis, to in enumerate(order):
        sides[to], steps[to] = shape[axis], float(zooms[axis])
    slices = sides[2] * int(np.prod(shape[3:], dtype=int))
    name = path.name.split(".nii")[0]
    return Scan(path, (slices, sides[1], sides[0]), str(img.get_data_dtype()), _spaced(steps[::-1]), UNSTATED, name)


def _solid(a: np.ndarray) -> np.ndarray:
    return a[..., None] if a.ndim == 2 else a


def _turn(affine: np.ndarray, back: bool = False) -> np.ndarray:
    from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

    stored, ours = io_orientation(affine), axcodes2ornt(("L", "P", "S"))
    return ornt_transform(ours, stored) if back else ornt_transform(stored, ours)


def _stored(values: np.ndarray, dtype: np.dtype, slope: float, inter: float) -> np.ndarray:
    """Values in units as numbers of the file: rounded, and inside what its type can hold."""
    raw = (values.astype(np.float64) - inter) / slope
    if np.issubdtype(dtype, np.integer):
        raw = np.rint(raw).clip(np.iinfo(dtype).min, np.iinfo(dtype).max)
    return raw.astype(dtype)


def _dicom(path: Path, pixels: bool = True) -> Any:
    import pydicom

    return pydicom.dcmread(path, stop_before_pixels=not pixels)


def _rescale(ds: Any) -> tuple[float, float]:
    return float(ds.get("RescaleSlope", 1) or 1), float(ds.get("RescaleIntercept", 0) or 0)


def _values(ds: Any) -> np.ndarray:
    slope, inter = _rescale(ds)
    return (ds.pixel_array.astype(np.float64) * slope + inter).astype(np.float32)


def _height(head: Any) -> float:
    """Where a slice lies along the normal of its plane, mm."""
    if "Rows" not in head:
        raise ValueError("a DICOM file without a picture")
    if int(head.get("NumberOfFrames", 1) or 1) > 1 or int(head.get("SamplesPerPixel", 1)) > 1:
        raise ValueError("several frames or colours in one DICOM file: one grey slice a file was expected")
    if "ImagePositionPatient" not in head or "ImageOrientationPatient" not in head:
        return float(head.get("InstanceNumber", 0) or 0)
    along = np.array(head.ImageOrientationPatient, float)
    return float(np.cross(along[:3], along[3:]) @ np.array(head.ImagePositionPatient, float))


def _series(path: Path, slices: list[tuple[float, Path, Any]]) -> Scan:
    heads = [head for _, _, head in slices]
    kinds = {(int(h.Rows), int(h.Columns), int(h.BitsAllocated), int(h.BitsStored)) for h in heads}
    if len(kinds) > 1:
        said = ", ".join(f"{r} x {c} of {b} bits" for r, c, _, b in sorted(kinds))
        raise ValueError(f"slices of one series differ in size or depth: {said}")
    first, heights = heads[0], np.array([h for h, _, _ in slices])
    steps = np.diff(heights)
    if len(steps) and not steps.min() > 0:
        raise ValueError("two slices of one series lie in one place: several volumes in one folder, or copies")
    between = float(np.median(steps)) if len(steps) else float(first.get("SliceThickness") or 1.0)
    spacing = _spaced((between, *map(float, first.get("PixelSpacing") or first.get("ImagerPixelSpacing") or (0, 0))))
    shape = (len(slices), int(first.Rows), int(first.Columns))
    sign = "int" if int(first.PixelRepresentation) else "uint"
    unit = "HU" if first.get("Modality") == "CT" else UNSTATED
    group = str(first.get("PatientID") or path)
    return Scan(path, shape, f"{sign}{first.BitsAllocated}", spacing, unit, group, tuple(p for _, p, _ in slices))


def _derived(ds: Any, values: np.ndarray) -> bytes:
    """A slice with other values: a derived image, which by the standard has an identity of its own."""
    from io import BytesIO

    from pydicom.uid import generate_uid

    stored = np.dtype(ds.pixel_array.dtype)
    slope, inter = _rescale(ds)
    raw = _stored(values, stored, slope, inter)
    top = 2 ** (int(ds.BitsStored) - int(ds.PixelRepresentation))
    raw = raw.clip(-top if ds.PixelRepresentation else 0, top - 1).astype(stored)
    ds.set_pixel_data(raw, ds.PhotometricInterpretation, int(ds.BitsStored), generate_instance_uid=False)
    ds.ImageType = ["DERIVED", "SECONDARY", *list(ds.get("ImageType") or [])[2:]]
    for name in ("SOPInstanceUID", "SeriesInstanceUID"):  # the same for every slice of a series
        setattr(ds, name, generate_uid(entropy_srcs=[str(ds.get(name)), "oneprior"]))
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    out = BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


@lru_cache(maxsize=2)
def _volume(scan: Scan) -> np.ndarray:
    return scan.read()


@dataclass(frozen=True, eq=False)
class Slices:
    """Slices (1, rows, columns) of scans, in their units; built by `scan_source`."""

    facts: DataFacts
    scans: tuple[Scan, ...]

    def __len__(self) -> int:
        return self.facts.count

    def place(self, i: int) -> tuple[Scan, int]:
        """The scan of slice i, and its number in it."""
        for scan in self.scans:
            if i < scan.count:
                return scan, i
            i -= scan.count
        raise IndexError(i)

    def batch(self, indices: Sequence[int]) -> Batch:
        """See `Source.batch`."""
        import torch

        index = checked(indices, len(self), self.facts.name)
        every = [_volume(scan)[k] for scan, k in (self.place(int(i)) for i in index)]
        return {"x": torch.from_numpy(np.stack(every)[:, None].astype(np.float32))}


def scan_source(path: Path, split: str = "all", found: Sequence[Scan] | None = None) -> Source:
    """A source over all slices of the scans in a folder; in a split, a patient (or a file) is on one side.

    Raises:
        FileNotFoundError: no scan.
        ValueError: slices of different sizes or units, and what `scans` and `apart` raise.
    """
    every = list(scans(path) if found is None else found)
    if not every:
        raise FileNotFoundError(f"no scans in {path}; expected {', '.join(SUFFIXES)}")
    sizes, units = {s.shape[1:] for s in every}, {s.unit for s in every}
    if len(sizes) > 1 or len(units) > 1:
        shown = "; ".join(f"{s.path.name} {s.shape[1]} x {s.shape[2]}, {s.unit}" for s in every[:5])
        raise ValueError(
            f"scans in {path} differ in the size or unit of their slices ({shown}): bring them to one grid"
        )
    if split != "all":
        both = apart([s.group for s in every])
        every = [every[i] for i in both[split == "test"]]
    count = sum(s.count for s in every)
    facts = DataFacts((1, *sizes.pop()), None, None, path.resolve().name, "unknown", count, unit=units.pop())
    return Slices(facts, tuple(every))
