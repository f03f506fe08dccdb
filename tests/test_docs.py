"""Every Python block of README and docs runs as written.

The blocks of one page share their names, in order, as a reader would type them; each page begins in an empty folder.
Shell blocks are not run here.
"""

import importlib.util
import json
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser

ROOT = Path(__file__).resolve().parent.parent
PAGES = ["README.md", *(str(file.relative_to(ROOT)) for file in sorted((ROOT / "docs").glob("*.md")))]
SYBIL = Sybil(parsers=[PythonCodeBlockParser()])


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for example in SYBIL.parse(ROOT / page).examples():
        example.evaluate()  # a traceback names the page and the line


def test_the_readme_has_python() -> None:
    assert len(list(SYBIL.parse(ROOT / "README.md").examples())) >= 1


def test_a_wrong_block_fails(tmp_path: Path) -> None:
    """Pages without Python pass above; this one must not, and a later block must see the names of an earlier one."""
    page = tmp_path / "page.md"
    page.write_text("```python\na = 1\n```\n\n```bash\nfalse\n```\n\n```python\nassert a == 2\n```\n")
    first, second = SYBIL.parse(page).examples()
    first.evaluate()
    with pytest.raises(AssertionError):
        second.evaluate()


def test_the_table_of_figures_is_that_of_the_recorded_run() -> None:
    spec = importlib.util.spec_from_file_location("results", ROOT / "tools" / "results.py")
    assert spec is not None and spec.loader is not None
    results = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(results)
    readme = (ROOT / "README.md").read_text()
    folder = ROOT / "docs" / "results"
    assert results.written(readme, json.loads((folder / "demo.json").read_text())) == readme
    assert results.claimed(readme, results.records(folder)) == readme and results.records(folder)
