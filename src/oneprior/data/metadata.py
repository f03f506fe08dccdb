"""The table beside pictures: metadata.csv or metadata.jsonl, a row a picture.

    file_name,breed,patient
    0001.png,terrier,p7

`file_name` is relative to the table's folder; any other column can give the class, the caption or the group.
"""

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

TABLES = ("metadata.csv", "metadata.jsonl")
Rows = dict[Path, dict[str, str]]


def rows(folder: Path) -> Rows:
    """The rows of a folder's table by the file they are about; {} where there is no table.

    Raises:
        ValueError: two tables, a damaged one, one without `file_name`, a file named twice, or files that are not there.
    """
    found = [folder / name for name in TABLES if (folder / name).is_file()]
    if not found:
        return {}
    if len(found) > 1:
        raise ValueError(f"{folder} holds {' and '.join(TABLES)}: which of the two? Keep one")
    path, out = found[0], Rows()
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.DictReader(file)) if path.suffix == ".csv" else [json.loads(s) for s in file if s.strip()]
    except (ValueError, csv.Error) as e:
        raise ValueError(f"{path} is no table in UTF-8 ({e})") from e
    for number, line in enumerate(lines, 1):
        if not isinstance(line, dict) or not line.get("file_name"):
            raise ValueError(f"row {number} of {path} has no file_name; a column of that name was expected")
        file = folder / str(line["file_name"])
        if file in out:
            raise ValueError(f"{path} names {line['file_name']} twice")
        out[file] = {str(k): str(v) for k, v in line.items() if k != "file_name" and v is not None}
    if absent := [file for file in out if not file.is_file()]:
        shown = "".join(f"\n  {file}" for file in absent[:10]) + ("\n  ..." if len(absent) > 10 else "")
        raise ValueError(f"{path} names {len(absent)} of {len(out)} files that are not there:{shown}")
    return out


def column(rows: Rows, name: str, files: Sequence[Path], root: Path) -> list[str]:
    """The values of a column for these files.

    Raises:
        ValueError: no table, no such column (those there are named), or files without a value (named).
    """
    if not rows:
        raise ValueError(f"'{name}' is a column of {' or '.join(TABLES)}, and {root} holds neither")
    known = sorted(set().union(*rows.values()))
    if name not in known:
        raise ValueError(f"the table in {root} has no column '{name}'; it has {', '.join(known) or 'file_name alone'}")
    if without := [file for file in files if not rows.get(file, {}).get(name)]:
        shown = "".join(f"\n  {file.relative_to(root)}" for file in without[:10])
        raise ValueError(f"{len(without)} of {len(files)} pictures have no value of '{name}' in the table:{shown}")
    return [rows[file][name] for file in files]


def numbered(values: Sequence[str], every: Iterable[str] = ()) -> tuple[list[int], tuple[str, ...]]:
    """Values as class numbers, and the names of the classes, those of `every` too, sorted (numbers as numbers)."""
    known = {*values, *every}
    numbers = all(v.lstrip("-").isdecimal() for v in known)
    names = tuple(sorted(known, key=(lambda v: (int(v), v)) if numbers else None))
    place = {name: i for i, name in enumerate(names)}
    return [place[v] for v in values], names
