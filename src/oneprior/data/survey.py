"""What lies in a folder, before anything is trained on it: counts, sizes, types, ranges, doubles, groups."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from oneprior.data import metadata, zips
from oneprior.data.arrays import is_zarr
from oneprior.data.folder import SUFFIXES, TEST_NAMES, _images, _split_folders, _visible, is_deep, upright
from oneprior.data.idx import is_idx_folder
from oneprior.data.resolve import open_source
from oneprior.data.scans import is_scan, survey

GROUPS = ("patient", "subject", "group", "person", "speaker", "scene", "case")
CLASSES = ("label", "class", "category", "kind", "target")
CLEAN = ("clean", "gt", "sharp", "high", "target", "truth", "norain")


class Picture(NamedTuple):
    size: str
    kind: str
    low: float
    high: float
    digest: str


def look_over(root: Path) -> dict[str, Any]:
    """Facts of a folder, an archive, an array file or a scan, as JSON holds them; `suggest` is the `train` line.

    Raises:
        FileNotFoundError: nothing there. ValueError: a table beside the pictures that does not fit them.
    """
    if not root.exists():
        raise FileNotFoundError(f"no folder or file {root} (from {Path.cwd()})")
    if is_zarr(root) or root.suffix in (".npy", ".npz") or (root.is_dir() and is_idx_folder(root)):
        return _array(root)
    packed = root.suffix.lower() == ".zip"
    every = zips.members(root, SUFFIXES) if packed else [root] if root.is_file() else _all(root)
    pictures = [p for p in every if p.suffix.lower() in SUFFIXES]
    found, bad = survey([p for p in every if is_scan(p)])
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        looks = dict(zip(pictures, pool.map(_look, pictures), strict=True))
    bad |= {p: look for p, look in looks.items() if isinstance(look, str)}
    good = {p: look for p, look in looks.items() if isinstance(look, Picture)}
    same: defaultdict[str, list[str]] = defaultdict(list)
    for p, look in good.items():
        same[look.digest].append(str(p.relative_to(root)) if p != root else p.name)
    values = [v for look in good.values() for v in (look.low, look.high)]
    for scan in found:
        x = scan.read()
        values += [float(x.min()), float(x.max())]
    facts: dict[str, Any] = {
        "files": len(every),
        "pictures": len(good),
        "scans": len(found),
        "slices": sum(s.count for s in found),
        "endings": _counted(p.suffix.lower() for p in every),
        "sizes": _counted([x.size for x in good.values()] + [" x ".join(map(str, s.shape)) for s in found]),
        "types": _counted([x.kind for x in good.values()] + [f"{s.dtype}, {s.unit}" for s in found]),
        "range": [min(values), max(values)] if values else None,
        "spacing_mm": _counted(" x ".join(f"{v:g}" for v in s.spacing) for s in found),
        "unreadable": {str(p): why for p, why in bad.items()},
        "duplicates": [names for names in same.values() if len(names) > 1],
    }
    if root.is_dir():
        facts |= _order(root, list(good))
    if found:
        facts["groups"] = {"patient or file": len({s.group for s in found})}
    return facts | {"suggest": _suggest(root, facts)}


def _all(root: Path) -> list[Path]:
    tables = {root / name for name in metadata.TABLES}
    return [p for q in _visible(root) for p in (_all(q) if q.is_dir() else [q]) if p not in tables]


def _look(path: Path) -> Picture | str:
    from PIL import Image

    try:
        with zips.stream(path) as raw, Image.open(raw) as file:
            kind = f"{file.mode}, {16 if is_deep(file) else 8} bits"
            image = upright(file)
        ends: Any = image.getextrema()
        flat = [v for pair in (ends if isinstance(ends[0], tuple) else [ends]) for v in pair]
        if image.mode == "F":  # 16 bits, brought to [0, 1] in float32
            flat = [round(v * 65535) for v in flat]
        with zips.stream(path) as raw:
            digest = hashlib.sha256(raw.read()).hexdigest()
        return Picture(f"{image.height} x {image.width}", kind, min(flat), max(flat), digest)
    except Exception as error:  # each decoder raises its own
        return str(error) or type(error).__name__


def _array(path: Path) -> dict[str, Any]:
    source: Any = open_source(path)
    f = source.facts
    types = {str(source.array.dtype): f.count}
    said = {"samples": f.count, "sizes": {" x ".join(map(str, f.shape)): f.count}, "types": types, "levels": f.levels}
    return {**said, "classes": f.classes and list(f.classes), "suggest": shlex.join(["oneprior", "train", str(path)])}


def _counted(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common(12))


def _order(root: Path, pictures: list[Path]) -> dict[str, Any]:
    """How pictures lie in the folder: splits, classes, columns of the table, twins."""
    train, test = _split_folders(root)
    top = train or root
    folders = {p.name: len(_images(p)) for p in _visible(top) if p.is_dir() and p.name not in (*TEST_NAMES, "train")}
    folders = {name: n for name, n in folders.items() if n}
    out: dict[str, Any] = {}
    if train and test:
        out["splits"] = {p.name: len(_images(p)) for p in (train, test)}
    rows: metadata.Rows = {}
    for folder in (root, train, test):
        rows |= metadata.rows(folder) if folder else {}
    if rows:
        names = sorted(set().union(*rows.values()))
        out["columns"] = {name: len({row[name] for row in rows.values() if name in row}) for name in names}
        out["without_a_row"] = sum(p not in rows for p in pictures)
        out["groups"] = {k: n for k, n in out["columns"].items() if any(g in k.lower() for g in GROUPS)}
    if len(folders) == 2 and any(c in f.lower() for c in CLEAN for f in folders):  # two classes may share their names
        stems = [{p.relative_to(top / f).with_suffix("") for p in _images(top / f)} for f in folders]
        both = stems[0] & stems[1]
        if 2 * len(both) > max(map(len, stems)):
            lonely = [f"{f}/{s}" for f, own in zip(folders, stems, strict=True) for s in sorted(own - both)]
            return out | {"twins": {"folders": list(folders), "pairs": len(both), "unmatched": lonely}}
    return out | ({"classes": folders} if len(folders) > 1 else {})


def _suggest(root: Path, facts: dict[str, Any]) -> str | None:
    if not facts["pictures"] and not facts["scans"]:
        return None
    words = ["oneprior", "train", str(root)]
    if twins := facts.get("twins"):
        one, two = twins["folders"]
        clean, other = (two, one) if any(c in two.lower() for c in CLEAN) else (one, two)
        words = ["oneprior", "train", str(root / clean), "--pairs", str(root / other)]
    if facts["pictures"] and len(facts["sizes"]) > 1:
        least = min(int(n) for size in facts["sizes"] for n in size.split(" x "))
        words += ["--size", str(max(s for s in (8, 16, 32, 64) if s <= max(8, least)))]
    columns = facts.get("columns", {})
    label = next((k for c in CLASSES for k, n in columns.items() if c in k.lower() and 1 < n <= 1000), None)
    group = next((k for k, n in facts.get("groups", {}).items() if k in columns and n > 1), None)
    words += ["--label", label] if label else []
    words += ["--split-by", group] if group else []
    words += ["--skip-bad"] if facts["unreadable"] or (twins and twins["unmatched"]) else []
    return shlex.join(words)
