"""The table of docs/restore.md is that of the recorded run of benchmarks/restore.py, and that run keeps its bars."""

import json
from pathlib import Path

from oneprior.uses.restore import METHODS

DOCS = Path(__file__).resolve().parent.parent / "docs"
ROWS = {row["method"]: row for row in json.loads((DOCS / "results" / "restore.json").read_text())["rows"]}


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
