"""Turn pictures of one class into another, keeping what can be kept: the noise that explains a picture is decoded anew.
Of texts a span, or a share of the tokens, is drawn anew.

oneprior edit digits seven.png --source 7 --target 9
oneprior edit kjv verse.txt --span 20,60
oneprior edit runs/photos cats/ --source cat --target dog --strength 0.6
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from oneprior.cli.settings import OnPictures, Writing


@dataclass(frozen=True, kw_only=True)
class EditSettings(Writing, OnPictures):
    source: str | None = None
    """class of the pictures (or NAME=VALUE); left out: the prior is told nothing about them"""
    target: str | None = None
    """class to turn them into (or NAME=VALUE)"""
    strength: float = 0.7
    """time from which on things may change, above 0 (nothing) to 1 (all)"""
    method: str = "cycle"
    """cycle, ddib or sdedit"""
    guidance: float = 1.0
    """scale of guidance towards the target; 1 is none"""
    steps: int | None = None
    """steps of the sampler (50; of text: as many as it takes)"""
    span: str | None = None
    """of a text: FIRST,LAST, the tokens to be drawn anew given all others"""


SETTINGS = EditSettings


def run(s: EditSettings, command: list[str]) -> int:
    from oneprior.cli import inputs
    from oneprior.cli.work import Work, sheet

    if inputs.of_text(s.prior):
        from oneprior.cli import texts

        return texts.edit(s)
    if s.target is None or s.span is not None:
        raise ValueError("which class shall they become? give --target (--span is for text)")
    if not 0 < s.strength <= 1:
        raise ValueError(f"--strength {s.strength:g}: a time above 0 (nothing changes) and up to 1 (all) was expected")
    work = Work(s)
    how: dict[str, Any] = {"source": inputs.target(work.prior, s.source), "target": inputs.target(work.prior, s.target)}
    how |= {
        "method": s.method,
        "strength": s.strength,
        "guidance": s.guidance,
        "steps": 50 if s.steps is None else s.steps,
    }
    work.read("edit")
    shown = None
    for part, x in work.each("editing"):
        result = work.add(work.prior.edit(x, seeds=range(s.seed + part.start, s.seed + part.stop), **how))
        z = result.x.cpu()
        shown = shown or sheet([x[:16], z[:16]])
        change = (z - x).square().flatten(1).mean(1).sqrt().tolist()
        for i in range(len(part)):
            path = work.keep(part[i], z[i])
            work.rows.append({"file": work.given.names[part[i]], "edited": path, "change": change[i]})
    if shown is not None:
        work.picture("sheet", shown)
    work.screen.say(f"{len(work.rows)} edited: {work.out} (sheet.png: before, after)")
    return work.finish(how)
