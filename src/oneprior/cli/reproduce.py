"""Measure what papers claim: each figure beside its bar and its baseline, and a verdict that can be no.

oneprior reproduce principles --scale quick
oneprior reproduce principles --json

quick takes seconds, desk minutes. In a folder with docs/results, desk writes docs/results/NAME.json.
Exit codes here: 0 only where every claim holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from oneprior.cli.settings import Common

RESULTS = Path("docs") / "results"


@dataclass(frozen=True, kw_only=True)
class ReproduceSettings(Common):
    name: Positional[str]
    """of the system; one that is none lists them all"""
    scale: Literal["quick", "desk"] = "desk"
    """how much is measured"""
    out: Path | None = None
    """file to write the record to"""
    keep: Path | None = None
    """folder to keep trainings in, of systems that take long: the same command goes on after a stop"""
    device: str = "cpu"
    """cpu, cuda, mps ...; recorded figures are of the CPU"""


SETTINGS = ReproduceSettings


def run(s: ReproduceSettings, command: list[str]) -> int:
    from oneprior.cli.inputs import usable
    from oneprior.cli.screen import Screen
    from oneprior.reproductions import reproduce, reproduction
    from oneprior.training.files import explained, write_json

    screen, work = Screen(s.json), reproduction(s.name)
    out = s.out or (RESULTS / f"{s.name}.json" if s.scale == "desk" and RESULTS.is_dir() else None)
    if out is not None:
        with explained(out):
            out.parent.mkdir(parents=True, exist_ok=True)
    screen.note(work.CLAIM)
    device = str(usable(s.device))
    record = reproduce(
        s.name, s.scale, device, command=command, seen=lambda c: screen.note(f"{c.what}: {c.measured:.4g}"), keep=s.keep
    )
    rows = [
        {
            "": "" if c.kind == "uncalibrated" else "ok" if c.holds else "no",
            "figure": c.what,
            "measured": c.measured,
            "bar": c.bar,
            "baseline": c.baseline,
            "kind": c.kind,
        }
        for c in record.checks
    ]
    screen.table(rows)
    screen.say(f"{s.name}: {record.verdict} ({record.seconds:.0f} s){f'; {record.why}' if record.why else ''}")
    if out is not None:
        write_json(out, record.json())
    screen.result(record.json())
    return 0 if record.verdict == "yes" else 1
