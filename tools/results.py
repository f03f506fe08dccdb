"""Writes the table of measured figures in README.md from docs/results/demo.json: python tools/results.py"""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- results: begin (tools/results.py) -->", "<!-- results: end -->"


def words(value: Any) -> str:
    """A figure as the table shows it."""
    if value is None:
        return ""
    if isinstance(value, dict):
        return ", ".join(f"{k} {words(v)}" for k, v in value.items())
    return f"{value:.3f}" if abs(value) < 2 else f"{value:.1f}"


def table(report: dict[str, Any]) -> str:
    """The rows of a report in Markdown, and how long each use took."""
    lines = [
        "| use | figure | measured | without a diffusion model | null | bar |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for r in report["rows"]:
        error = "" if r.get("stderr") is None else f" ± {words(r['stderr'])}"
        met = " (missed)" if r["verdict"] is False else ""
        cells = [
            r["use"],
            r["metric"],
            words(r["value"]) + error,
            words(r["baseline"]),
            words(r["null"]),
            r["bar"] + met,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    seconds = report["seconds"]
    parts = ", ".join(f"{k} {v:.0f}" for k, v in seconds.items())
    lines += ["", f"Seconds on two CPU cores: {parts}; {sum(seconds.values()):.0f} in all."]
    return "\n".join(lines)


def written(text: str, report: dict[str, Any]) -> str:
    """README with its table replaced."""
    head, rest = text.split(BEGIN)
    return f"{head}{BEGIN}\n{table(report)}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    readme = ROOT / "README.md"
    report = json.loads((ROOT / "docs" / "results" / "demo.json").read_text())
    readme.write_text(written(readme.read_text(), report))
