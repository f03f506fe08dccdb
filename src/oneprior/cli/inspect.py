"""Look over a folder before training on it: counts, sizes, types, ranges, spacing, unreadable files, doubles, groups.

oneprior inspect photos/
oneprior inspect scans/ --json

The last line is the `oneprior train` that would fit. Exit code 1 where something cannot be read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from oneprior.cli.settings import Common


@dataclass(frozen=True, kw_only=True)
class InspectSettings(Common):
    path: Positional[Path]
    """folder, zip, array file or scan"""


SETTINGS = InspectSettings


def run(s: InspectSettings, command: list[str]) -> int:
    from oneprior.cli.screen import Screen
    from oneprior.data.survey import look_over
    from oneprior.report import words

    screen, facts = Screen(s.json), look_over(s.path)
    bad, line = facts.get("unreadable") or {}, facts["suggest"]
    short = {k: f"{len(v)} (below)" if k in ("unreadable", "duplicates") else words(v) for k, v in facts.items() if v}
    screen.table([{"fact": k.replace("_", " "), "value": v} for k, v in short.items() if k != "suggest"])
    for file, why in list(bad.items())[:20]:
        screen.say(f"unreadable: {file}: {why}")
    for names in facts.get("duplicates", [])[:20]:
        screen.say(f"the same file: {', '.join(names)}")
    screen.say(f"\n{line}" if line else "\nnothing here to train on")
    screen.result({"command": "inspect", "path": str(s.path), **facts})
    return 1 if bad else 0
