"""The table of a comparison in Markdown and LaTeX, and BibTeX of what it compares."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

COLUMNS = {  # key of a row of `compare.summary`: head, decimals
    "psnr_draw": ("PSNR draw", 2),
    "psnr": ("PSNR mean [95 %]", 2),
    "against": ("difference [95 %]", 2),
    "ssim": ("SSIM", 3),
    "residual": ("residual / noise", 2),
    "cover50": ("in 50 %", 2),
    "cover90": ("in 90 %", 2),
    "seconds": ("s / draw", 3),
    "calls": ("calls", 0),
}


def bibtex(methods: Iterable[str], found: Callable[[str], Any]) -> str:
    """References of methods by name; of a function package.module:name, what its attribute `bibtex` holds."""
    known = Path(__file__).with_name("references.bib").read_text(encoding="utf-8").strip().split("\n\n")
    by_key = {entry.partition("{")[2].partition(",")[0]: entry for entry in known}
    own = [str(getattr(found(m), "bibtex", "")) if ":" in m else by_key.get(m, "") for m in methods]
    return "\n\n".join(entry for entry in own if entry) + "\n"


def cells(table: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Heads, and a summary as texts."""

    def text(v: Any, places: int) -> str:
        if isinstance(v, list):
            return "" if v[0] != v[0] else f"{v[0]:.{places}f} [{v[1]:.{places}f}, {v[2]:.{places}f}]"
        return "" if v is None else f"{v:.{places}f}"

    rows = [[r["operator"], r["method"], *(text(r[k], n) for k, (_, n) in COLUMNS.items())] for r in table]
    return [["operator", "method", *(head for head, _ in COLUMNS.values())], *rows]


def markdown(table: Sequence[dict[str, Any]]) -> str:
    heads, *rows = cells(table)
    line = ["---", "---", *["---:"] * len(COLUMNS)]
    return "".join(f"| {' | '.join(row)} |\n" for row in (heads, line, *rows))


def latex(table: Sequence[dict[str, Any]]) -> str:
    """For the package booktabs."""
    heads, *rows = (" & ".join(row).replace("_", r"\_").replace("%", r"\%") + r" \\" for row in cells(table))
    begin = rf"\begin{{tabular}}{{ll{'r' * len(COLUMNS)}}}"
    body = [begin, r"\toprule", heads, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}"]
    return "\n".join(body) + "\n"
