"""`oneprior compare` on the prior that ships: killed half way and resumed, the same table to the last digit."""

import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oneprior.cli import compare as command
from oneprior.uses.restore import comparison

Cli = Callable[..., Any]
STRANGER = '''
def mean(den, measurement, *, start, calls, seeds):
    """One call: what the network makes of pure noise, moved onto the data."""
    x0 = den(start, 1.0).mean
    A = measurement.operator
    return x0 + A.pinv(measurement.y - A(x0))

mean.bibtex = "@misc{mean, year = {2026}}"
'''
JOB = ("digits", "digits", "--operator", "mask:half", "--operator", "pool:2", "--methods", "ddrm", "diffpir")
JOB += ("stranger:mean", "--n", 2, "--draws", 2, "--calls", 4)


def table(out: str) -> tuple[list[dict[str, str]], list[list[str]]]:
    """Rows of per_image.csv and cells of table.md, but for the seconds, which no two runs share."""
    with (Path(out) / "per_image.csv").open() as file:
        rows = [{k: v for k, v in r.items() if k != "seconds"} for r in csv.DictReader(file)]
    lines = [line.split(" | ") for line in (Path(out) / "table.md").read_text().splitlines()]
    at = lines[0].index("s / draw")
    return sorted(rows, key=lambda r: tuple(r.values())[:3]), [line[:at] + line[at + 1 :] for line in lines]


def test_killed_and_resumed(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("stranger.py").write_text(STRANGER)
    whole = cli("compare", *JOB, "--out", "whole", "--json")
    assert whole.code == 0, whole.err
    assert {p.name for p in Path("whole").iterdir()} == {
        *("compare.json", "per_image.csv", "table.md", "table.tex", "references.bib", "contact.png", "pictures")
    }
    assert len(table("whole")[0]) == 2 * 2 * 5 and len(whole.json["rows"]) == 10
    assert {r["calls"] for r in whole.json["rows"]} == {4, 1, 0}
    assert "Kawar" in (Path("whole") / "references.bib").read_text()
    assert "@misc{mean" in (Path("whole") / "references.bib").read_text()

    true, count = comparison.measures, []

    def dies(*args: Any) -> Any:
        count.append(1)
        if len(count) == 8:
            raise KeyboardInterrupt
        return true(*args)

    monkeypatch.setattr(comparison, "measures", dies)
    assert cli("compare", *JOB, "--out", "half").code == 130
    assert len((Path("half") / "per_image.csv").read_text().splitlines()) == 8 and not Path("half/table.md").exists()
    monkeypatch.setattr(comparison, "measures", true)
    done = cli("compare", *JOB, "--out", "half")
    assert done.code == 0 and "7 rows are there from before" in done.err
    assert table("half") == table("whole")
    assert Path("half/contact.png").read_bytes() == Path("whole/contact.png").read_bytes()
    before = os.stat("half/pictures/mask-half/ddrm/0000.png").st_mtime_ns
    assert cli("compare", *JOB, "--out", "half").code == 0  # nothing left to do
    assert os.stat("half/pictures/mask-half/ddrm/0000.png").st_mtime_ns == before and table("half") == table("whole")
    other = cli("compare", *JOB, "--out", "half", "--seed", 1)
    assert other.code == 2 and "holds a comparison of other settings" in other.err


def test_private_writes_no_picture(cli: Cli) -> None:
    done = cli("compare", "digits", "digits", "--operator", "mask:half", "--methods", "ddrm", "--n", 1, "--draws", 1,
               "--calls", 2, "--private", "--out", "p")  # fmt: skip
    assert done.code == 0 and not list(Path("p").rglob("*.png")), done.err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "give --operator"),
        (["--operator", "jpeg:10", "--methods", "ddrm"], "'ddrm' is for linear operators"),
        (["--operator", "pool:2", "--noise", "poisson:9"], "a standard deviation was expected"),
        (["--operator", "pool:2", "--methods", "nowhere:fn"], "nowhere:fn: No module named"),
    ],
)
def test_refused(cli: Cli, flags: list[str], said: str) -> None:
    done = cli("compare", "digits", "digits", *flags, "--n", 1, "--out", "no")
    assert done.code == 2 and said in done.err and not Path("no").exists(), done.err


def test_scans_are_refused(cli: Cli, scans_prior: Path) -> None:
    done = cli("compare", scans_prior, "digits", "--operator", "pool:2")
    assert done.code == 2 and "pictures in [0, 1] are compared" in done.err


def test_names_of_pictures_are_safe() -> None:
    assert command._picture(Path("o"), "mask:box,4,4", "a.b:c", 3) == Path("o/pictures/mask-box-4-4/a.b-c/0003.png")
