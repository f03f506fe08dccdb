"""The tables of docs/restore.md are those of the recorded runs of benchmarks/restore.py, and these keep their bars."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from oneprior.uses.restore import METHODS

DOCS = Path(__file__).resolve().parent.parent / "docs"
ROWS = {row["method"]: row for row in json.loads((DOCS / "results" / "restore.json").read_text())["rows"]}

RECORDS = sorted(p for p in (DOCS / "results").glob("restore_*.json") if p.stem != "restore_speed")


def test_the_page_shows_the_recorded_figures() -> None:
    page = (DOCS / "restore.md").read_text()
    assert set(METHODS) - set(ROWS) == {"score_distillation"}
    for name, row in ROWS.items():
        figures = f"{row['one draw']:.2f} | {row['mean of 16']:.2f} | {row['covariance']:.2f}"
        assert figures in page or name == "exact mean", f"{name}: {figures}"


def test_exact_methods_lie_beside_exact_draws() -> None:
    exact = ROWS["exact draws"]
    for name in ("mmps", "twisted", "daps"):
        for figure in ("one draw", "mean of 16"):
            assert abs(ROWS[name][figure] - exact[figure]) < 0.3, (name, figure)
        assert ROWS[name]["covariance"] < exact["covariance"] + 0.05


def test_methods_without_backprop_cost_little_beside_the_network() -> None:
    rows = json.loads((DOCS / "results" / "restore_speed.json").read_text())["rows"]
    assert {"diffpir", "ddrm", "ddnm", "repaint", "red_diff"} <= {row["method"] for row in rows}
    assert all(row["ratio"] <= row["bar"] == 1.3 for row in rows)
    ends = f"{min(row['ratio'] for row in rows):.2f} to {max(row['ratio'] for row in rows):.2f}"
    assert ends in (DOCS / "restore.md").read_text()


@pytest.fixture(scope="module")
def bench() -> Any:
    sys.path.insert(0, str(DOCS.parent / "benchmarks"))
    try:
        return importlib.import_module("restore")
    finally:
        sys.path.remove(str(DOCS.parent / "benchmarks"))


MISSED = {  # figures of `auto` that a peer beats
    "fashion": {("x4", 0.1, 0.05, "mean")},
    "emoji32": {("blur", 0.02, 0.02, "mean"), ("blur", 0.1, 0.05, "mean")},
}


@pytest.mark.parametrize("prior", [p.stem.removeprefix("restore_") for p in RECORDS])
def test_trained_priors(bench: Any, prior: str) -> None:
    report = json.loads((DOCS / "results" / f"restore_{prior}.json").read_text())
    assert bench.verdicts(report["rows"]) == report["verdicts"]
    assert bench.table(report) in (DOCS / "restore.md").read_text()
    cases: dict[Any, set[str]] = {}
    for row in report["rows"]:
        cases.setdefault((row["task"], row["noise"], row["told"]), set()).add(row["method"])
    assert len(set(map(frozenset, cases.values()))) == 1, "every case has every method"
    assert len(cases) == len(bench.TASKS) * len(bench.LEVELS)
    missed = {(v["task"], v["noise"], v["told"], v["figure"]) for v in report["verdicts"] if not v["holds"]}
    assert missed == MISSED[prior]  # the page names them; another one, or one less, is news


def test_a_peer_that_is_better_is_named(bench: Any) -> None:
    case = {"task": "x4", "noise": 0.1, "told": 0.1}
    rows = [
        case | {"method": m, "peer": m != "auto", "mean": p, "energy distance": e}
        for m, p, e in (("auto", 20.0, 3.0), ("a", 20.5, 3.5), ("b", 19.0, 3.1))
    ]
    assert [(v["of"], v["holds"]) for v in bench.verdicts(rows)] == [("a", False), ("b", True)]
    assert bench.verdicts(rows[1:]) == []
