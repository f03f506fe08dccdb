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
        return _texts(s)
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


def _texts(s: EditSettings) -> int:
    """Every file drawn anew in part: a span, or a share of its tokens."""
    import torch

    from oneprior.cli import inputs, work
    from oneprior.cli.screen import Screen
    from oneprior.data.text import text
    from oneprior.training.files import write_json

    screen = Screen(s.json)
    prior: Any = inputs.open_prior(s.prior, s.device, tokens=True)
    try:
        span = None if s.span is None else tuple(int(v) for v in s.span.split(","))
    except ValueError:
        span = ()
    if span is not None and len(span) != 2:
        raise ValueError(f"--span {s.span}: FIRST,LAST in tokens was expected, such as 10,42")
    files = inputs.texts(s.files, apart=True)[: s.n]
    out = work.fresh(s.out, "edit")
    made = [out / f"{name}.txt" for name in work.stems(files)]
    work.free(made, s.force)
    how: dict[str, Any] = {"strength": s.strength, "span": span, "steps": s.steps}
    cond, rows = inputs.target(prior, s.target), list[dict[str, Any]]()
    with screen.steps(list(zip(files, made, strict=True)), "editing") as each:
        for i, (file, path) in enumerate(each):
            before = torch.from_numpy(text(file, length=2, tokens=prior.codec).tokens.astype("int64"))
            result = prior.edit(before[None], seeds=[s.seed + i], guidance=s.guidance, **how, **cond)
            work.write(path, result.texts[0])
            change = float((result.x[0].cpu() != before).double().mean())
            rows.append({"file": file, "edited": str(path), "change": change})
            screen.say(result.texts[0])
    settings = {"prior": s.prior, **how, "seed": s.seed}
    write_json(out / "result.json", {"settings": settings, "texts": rows})
    screen.say(f"{len(rows)} edited: {out}")
    screen.result({"command": "edit", "out": str(out), "settings": settings, "texts": rows})
    return 0
