"""Turn pictures of one class into another, keeping what can be kept: the noise that explains a picture is decoded anew.

oneprior edit digits seven.png --source 7 --target 9
oneprior edit runs/photos cats/ --source cat --target dog --strength 0.6
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from oneprior.cli.options import Common


@dataclass(frozen=True)
class EditSettings(Common):
    prior: Positional[str]
    """a prior's folder, a run's folder, or the name of a shipped one"""
    files: Positional[tuple[str, ...]] = ()
    """pictures, folders of them, or a data set"""
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
    steps: int = 50
    """steps of the sampler"""
    n: int | None = None
    """at most this many pictures"""
    split: str = "all"
    """of a data set: train, test or all"""
    seed: int = 0
    """picture i takes seed + i"""
    out: Path | None = None
    """folder to write to (default: runs/edit, or the next free name)"""
    force: bool = field(default=False, kw_only=True)
    """write over what is there"""
    skip_bad: bool = field(default=False, kw_only=True)
    """leave out pictures that cannot be read"""
    batch: int = 64
    """pictures at a time"""
    device: str = "auto"
    """auto, cpu, cuda, mps ..."""


SETTINGS = EditSettings


def run(s: EditSettings, command: list[str]) -> int:
    from oneprior.cli import inputs
    from oneprior.cli.screen import Screen
    from oneprior.training.files import write_json

    screen = Screen(s.json)
    if s.target is None:
        raise ValueError("which class shall they become? give --target")
    if not 0 < s.strength <= 1:
        raise ValueError(f"--strength {s.strength:g}: a time above 0 (nothing changes) and up to 1 (all) was expected")
    prior = inputs.open_prior(s.prior, s.device)
    if not prior.conditions:
        raise ValueError("this prior has no conditions, so there is nothing to turn a picture into: train with classes")
    source, target = inputs.target(prior, s.source), inputs.target(prior, s.target)
    for value in (source, target):
        prior._ports(1, prior._said(value))  # says what is wrong before any work is done
    given = inputs.read(prior, s.files, screen, split=s.split, most=s.n, skip_bad=s.skip_bad)
    out, names = inputs.fresh(s.out, "edit"), inputs.stems(given.names)
    inputs.free([out / f"{n}.png" for n in names], s.force)
    rows: list[dict[str, Any]] = []
    nfe, seconds = 0, 0.0
    sheet = None
    with screen.steps(given.parts(s.batch), "editing", len) as each:
        for part in each:
            x = given.x(part)
            result = prior.edit(
                x, source=source, target=target, method=s.method, strength=s.strength, guidance=s.guidance,
                steps=s.steps, seeds=range(s.seed + part.start, s.seed + part.stop),
            )  # fmt: skip
            nfe, seconds, z = nfe + result.nfe, seconds + result.seconds, result.x.cpu()
            sheet = sheet or inputs.sheet([x[:16], z[:16]])
            out.mkdir(parents=True, exist_ok=True)
            change = (z - x).square().flatten(1).mean(1).sqrt()
            for i, image in enumerate(result.pil()):
                name = names[part[i]]
                inputs.write_picture(out / f"{name}.png", image)
                rows.append(
                    {"file": given.names[part[i]], "edited": str(out / f"{name}.png"), "change": change[i].item()}
                )
    if sheet is not None:
        inputs.write_picture(out / "sheet.png", sheet)
    settings = {"prior": s.prior, "source": source, "target": target, "strength": s.strength, "method": s.method}
    settings |= {"guidance": s.guidance, "steps": s.steps, "seed": s.seed}
    record = {"settings": settings, "pictures": rows, "nfe": nfe, "seconds": round(seconds, 3)}
    write_json(out / "result.json", record)
    screen.say(f"{len(rows)} edited: {out} (sheet.png: before, after)")
    screen.result({"command": "edit", "out": str(out), **record})
    return 0
