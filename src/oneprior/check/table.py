"""What a check returns: rows of figures beside their bars, a verdict, and advice."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of a check: `measured` must not exceed `bar`."""

    what: str
    measured: float
    bar: float

    @property
    def holds(self) -> bool:
        return self.measured <= self.bar  # false for NaN


@dataclass(frozen=True)
class Checked:
    """The rows of a check, its verdict `ok`, and advice where something fails. `str()` is a table."""

    name: str
    rows: tuple[Row, ...]
    advice: str = ""

    @property
    def ok(self) -> bool:
        return all(r.holds for r in self.rows)

    def __str__(self) -> str:
        lines = [f"{self.name}: {'passes' if self.ok else 'FAILS'}"]
        lines += [
            f"  {'ok  ' if r.holds else 'FAIL'} {r.what}: {r.measured:.3g} (at most {r.bar:.3g})" for r in self.rows
        ]
        return "\n".join(lines + ([f"  {self.advice}"] if self.advice else []))


def _verdict(checked: Checked, strict: bool) -> Checked:
    if strict and not checked.ok:
        raise ValueError(str(checked))
    return checked
