"""benchmarks/clip_tasks.py at a size that teaches nothing: rows by use, tables of what is there, going on."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from oneprior.nets import ClipConfig, UNetConfig

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = importlib.import_module("clip_tasks")
    net = ClipConfig((8, 1, 12, 12), frame=UNetConfig((1, 12, 12), channels=(8,), attention=()))
    for name, value in (("NET", net), ("STEPS", 1), ("LENGTH", 128)):
        monkeypatch.setattr(module, name, value)
    return module


def test_rows_are_kept_by_seed_and_model(
    tasks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    base = ["clip_tasks.py", "--runs", str(tmp_path), "--samples", "32", "--clips", "4", "--long", "2", "--seeds", "3"]

    def go(*models: str) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", [*base, "--models", *models])
        tasks.main()
        return json.loads((tmp_path / "rows.json").read_text())

    try:
        found = go("p = 1")
        assert [r["use"] for r in found["rows"]] == list(tasks.ALONE)
        capsys.readouterr()
        again = go("p = 1", "extension")
        said = capsys.readouterr().out
    finally:
        torch.set_num_threads(threads)
    assert again["rows"][:4] == found["rows"] and "seed 3, p = 1" not in said
    last = again["rows"][-1]
    assert last["model"] == last["use"] == "extension" and abs(last["MB more"]) < 50
    assert {"appearance", "motion 17-48", "motion 97-128", "null motion"} <= last.keys()
    row = next(line for line in said.splitlines() if line.startswith("| extension | p = 1 | 1 |"))
    of = max(found["rows"][3][k] / last[k] for k in tasks.FIGURES)
    assert row.endswith("| yes |" if of <= tasks.BAR else "| no |")
    assert (tmp_path / "extension-extension-3.png").exists()
    base[base.index("--clips") + 1] = "5"
    with pytest.raises(SystemExit, match="of other settings"):
        go("p = 1")


def test_the_page_shows_the_record(tasks: Any) -> None:
    page, record = (ROOT / "docs" / "video.md").read_text(), ROOT / "docs" / "results" / "clip_tasks.json"
    assert "benchmarks/clip_tasks.py --docs" in page
    if record.exists():
        assert tasks.table(json.loads(record.read_text())["rows"]) in page
