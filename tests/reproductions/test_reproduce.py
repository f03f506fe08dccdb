"""`oneprior reproduce`: what a verdict is made of, what a record holds, and every reproduction at its quick scale."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oneprior import reproductions
from oneprior.cli import main
from oneprior.reproductions import Check, Kind, Record, Scale, names, reproduction
from oneprior.reproductions import principles as module

ROOT = Path(__file__).resolve().parents[2]
FIELDS = {"name", "paper", "claim", "scale", "command", "versions", "seeds", "seconds", "checks", "verdict", "why"}
FIGURE = {"what", "measured", "bar", "baseline", "holds", "kind"}


def record(*checks: tuple[bool, Kind]) -> Record:
    made = tuple(Check(f"figure {i}", 0.5, "< 1", None, holds, kind) for i, (holds, kind) in enumerate(checks))
    return Record("toy", "paper", "claim", "quick", "oneprior reproduce toy", (0,), 1.0, made)


@pytest.mark.parametrize(
    ("checks", "verdict"),
    [
        ([(True, "check"), (True, "check")], "yes"),
        ([(True, "check"), (False, "check")], "part"),
        ([(False, "check"), (False, "check")], "no"),
        ([(True, "check"), (True, "control")], "yes"),
        ([(True, "check"), (False, "control")], "part"),  # nobody knows what the check means then
        ([(False, "check"), (True, "control")], "no"),
        ([(True, "check"), (False, "uncalibrated")], "yes"),
        ([(True, "control"), (True, "uncalibrated")], "no"),  # nothing was claimed
        ([], "no"),
    ],
)
def test_verdicts(checks: list[tuple[bool, Kind]], verdict: str) -> None:
    made = record(*checks)
    assert made.verdict == verdict and (made.why == "") == (verdict == "yes")
    missed = [
        f"figure {i}: 0.5, < 1 was expected" for i, (ok, kind) in enumerate(checks) if not ok and kind != "uncalibrated"
    ]
    assert made.why == "; ".join(missed) or (not missed and made.why in ("", "nothing was claimed"))
    written = json.loads(json.dumps(made.json()))
    assert set(written) == FIELDS and all(set(c) == FIGURE for c in written["checks"])


@pytest.mark.parametrize(("holds", "code"), [(True, 0), (False, 1)])
def test_the_exit_code_is_the_verdict(
    holds: bool, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And desk writes into docs/results where that is; quick only where it is told to."""

    def run(scale: Scale, device: str) -> Iterator[Check]:
        yield Check("a figure", 1.0, "< 2", 2.0, holds)

    monkeypatch.setattr(module, "run", run)
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", "principles", "--json"]) == code
    shown = json.loads(capsys.readouterr().out)
    assert shown["verdict"] == ("yes" if holds else "no") and not list(tmp_path.iterdir())
    (tmp_path / "docs" / "results").mkdir(parents=True)
    assert main(["reproduce", "principles", "--scale", "quick"]) == code
    assert not list((tmp_path / "docs" / "results").iterdir())
    assert main(["reproduce", "principles"]) == code
    assert "oneprior reproduce principles" in capsys.readouterr().err + shown["command"]
    written = json.loads((tmp_path / "docs" / "results" / "principles.json").read_text())
    assert written["scale"] == "desk" and written["checks"] == shown["checks"]
    assert main(["reproduce", "principles", "--scale", "quick", "--out", "mine/q.json"]) == code
    assert json.loads((tmp_path / "mine" / "q.json").read_text())["scale"] == "quick"


def test_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert "principles" in names()
    for name in names():
        work = reproduction(name)
        assert work.PAPER and work.CLAIM and work.SEEDS.keys() == {"quick", "desk"} and callable(work.run)
    assert main(["reproduce", "principels"]) == 2
    assert "did you mean principles?); there are" in capsys.readouterr().err
    assert main(["reproduce", "principles", "--scale", "huge"]) == 2
    assert main(["reproduce", "principles", "--scale", "quick", "--device", "cuda:77"]) == 2


def test_principles_quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The claims at a size that takes seconds; what needs the trained bad network is shown only."""
    monkeypatch.chdir(tmp_path)
    code = main(["reproduce", "principles", "--scale", "quick", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert set(found) == FIELDS and all(set(c) == FIGURE for c in found["checks"]) and found["seeds"] == [0]
    assert {c["kind"] for c in found["checks"]} == {"check", "control", "uncalibrated"}
    assert all(c["holds"] for c in found["checks"] if c["kind"] == "control"), found["why"]
    assert (code == 0) == (found["verdict"] == "yes") and code in (0, 1)
    assert found["verdict"] in ("yes", "part"), found["why"]
    assert os.listdir(tmp_path) == []


def test_recorded_runs_are_whole() -> None:
    for file in sorted((ROOT / "docs" / "results").glob("*.json")):
        found: dict[str, Any] = json.loads(file.read_text())
        if "checks" in found:
            assert set(found) == FIELDS and found["scale"] == "desk" and found["name"] == file.stem in names()
            rest: dict[str, Any] = {k: v for k, v in found.items() if k not in ("verdict", "why", "checks")}
            again = Record(**rest, checks=tuple(Check(**c) for c in found["checks"]))
            assert (again.verdict, again.why) == (found["verdict"], found["why"])


def test_importing_the_machinery_brings_no_torch() -> None:
    import subprocess
    import sys

    code = f"import sys, {reproductions.__name__}; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_the_table_of_reproductions() -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location("results", ROOT / "tools" / "results.py")
    assert spec is not None and spec.loader is not None
    results = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(results)
    made = record((True, "check"), (False, "check"), (True, "control")).json()
    table = results.claims([made])
    told = "[1 of 2 hold](docs/results/toy.json)<br>missed: figure 1 0.500 (< 1)<br>figure 0 0.500 (< 1)"
    assert f"| toy | claim | part | {told} | 0 |" in table
    page = f"before\n{results.CLAIMS}\nold\n{results.CLAIMS_END}\nafter\n"
    assert results.claimed(page, [made]) == page.replace("old", table) and results.claimed("none", [made]) == "none"
    readme = (ROOT / "README.md").read_text()
    assert results.claimed(readme, results.records(ROOT / "docs" / "results")) == readme
