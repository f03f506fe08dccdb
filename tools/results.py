"""Writes the tables of README.md from docs/results: python tools/results.py

The figures of the demo come from demo.json, one row a claim from every record of `oneprior reproduce`.
"""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- results: begin (tools/results.py) -->", "<!-- results: end -->"
CLAIMS, CLAIMS_END = "<!-- reproductions: begin (tools/results.py) -->", "<!-- reproductions: end -->"


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


def records(folder: Path) -> list[dict[str, Any]]:
    """What `oneprior reproduce` wrote into a folder, by name."""
    found = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    return [r for r in found if "verdict" in r and "checks" in r]


SHOWN = 3  # figures that hold, in a row of README; those missed are all there


def claims(found: list[dict[str, Any]]) -> str:
    """One row a reproduction, in Markdown: its claim, its verdict, what was missed and the first figures that hold."""
    lines = ["| system | claim | verdict | measured | minutes |", "| --- | --- | --- | --- | --- |"]
    for r in found:
        checks = [c for c in r["checks"] if c["kind"] == "check"]
        held = [c for c in checks if c["holds"]]
        figures = [f"[{len(held)} of {len(checks)} hold](docs/results/{r['name']}.json)"]
        for c in [*(c for c in checks if not c["holds"]), *held[:SHOWN]]:
            beside = "" if c["baseline"] is None else f", {words(c['baseline'])}"
            figures.append(
                ("" if c["holds"] else "missed: ") + f"{c['what']} {words(c['measured'])} ({c['bar']}{beside})"
            )
        cells = [r["name"], r["claim"], r["verdict"], "<br>".join(figures), f"{r['seconds'] / 60:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def claimed(text: str, found: list[dict[str, Any]]) -> str:
    """README with its table of reproductions replaced, where it has one."""
    if CLAIMS not in text:
        return text
    head, rest = text.split(CLAIMS)
    return f"{head}{CLAIMS}\n{claims(found)}\n{CLAIMS_END}{rest.split(CLAIMS_END)[1]}"


if __name__ == "__main__":
    readme, results = ROOT / "README.md", ROOT / "docs" / "results"
    text = written(readme.read_text(), json.loads((results / "demo.json").read_text()))
    readme.write_text(claimed(text, records(results)))
