"""What the commands of clips share: settings, and writing clips by name. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from oneprior.cli.settings import OnPictures, Writing


@dataclass(frozen=True, kw_only=True)
class ClipSettings(Writing, OnPictures):
    frames: int | None = None
    """frames of a clip (default: as many as in training); of extend: how many more"""
    steps: int = 20
    """steps of the sampler"""
    sampler: str = "auto"
    """auto, ddim, 2m, heun, ..."""
    guidance: float = 1.0
    """scale of guidance; 1 is none"""
    label: str | None = None
    """class name or number, of priors that know classes"""
    suffix: str = ".gif"
    """.gif, or .mp4 with the extra `video`"""


def opened(s: ClipSettings) -> tuple[Any, dict[str, Any]]:
    """The prior, which must be one of clips, and what its verbs take."""
    from oneprior.cli import inputs

    prior = inputs.open_prior(s.prior, s.device)
    if len(prior.shape) != 4:
        raise ValueError(f"{s.prior} is no prior of clips (F, C, H, W): its samples are {prior.shape}")
    if s.suffix not in (".gif", ".mp4"):
        raise ValueError(f"--suffix {s.suffix}: .gif or .mp4 was expected")
    how = {"steps": s.steps, "sampler": s.sampler, "guidance": s.guidance}
    return prior, how | inputs.conditions(prior, s.label, (), [s.seed])


def pictures(s: ClipSettings, prior: Any) -> tuple[list[str], Any]:
    """Names and pictures (N, C, H, W) of the files given."""
    from oneprior.cli import inputs
    from oneprior.cli.screen import Screen

    given = inputs.read(prior, s.files, Screen(s.json), split=s.split, most=s.n, skip_bad=s.skip_bad)
    return given.names, given.x()


def write(s: ClipSettings, command: str, names: Sequence[str], results: Sequence[Any]) -> int:
    """NAME.gif of each result of one clip, sheet.png and result.json."""
    import torch

    from oneprior.cli import work
    from oneprior.cli.screen import Screen
    from oneprior.results import contact
    from oneprior.training.files import write_json

    out, screen = work.fresh(s.out, command), Screen(s.json)
    files, made = [out / f"{name}{s.suffix}" for name in work.stems(names)], [r.x[0].cpu() for r in results]
    work.free(files, s.force)
    for file, x in zip(files, made, strict=True):
        work.write(file, x)
    work.write_picture(out / "sheet.png", contact(torch.stack([x for x in made[:16] if len(x) == len(made[0])])))
    rows = [{"file": n, "clip": str(f), "frames": len(x)} for n, f, x in zip(names, files, made, strict=True)]
    record: dict[str, Any] = {"settings": {"prior": s.prior, "seed": s.seed, **dict(results[0].settings)}}
    record |= {"clips": rows, "nfe": sum(r.nfe for r in results), "seconds": round(sum(r.seconds for r in results), 3)}
    write_json(out / "result.json", record)
    screen.say(f"{len(files)} clips: {out} (sheet.png: a row a clip)")
    screen.result({"command": command, "out": str(out), **record})
    return 0
