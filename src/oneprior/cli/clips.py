"""What the commands of clips share: settings, and writing clips by name. Their `run` import torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
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

    @property
    def how(self) -> dict[str, Any]:
        return {"steps": self.steps, "sampler": self.sampler, "guidance": self.guidance}


def opened(s: ClipSettings) -> tuple[Any, dict[str, Any]]:
    """The prior, which must be one of clips, and its conditions for one sample."""
    from oneprior.cli import inputs

    prior = inputs.open_prior(s.prior, s.device)
    if len(prior.shape) != 4:
        raise ValueError(f"{s.prior} is no prior of clips (F, C, H, W): its samples are {prior.shape}")
    if s.suffix not in (".gif", ".mp4"):
        raise ValueError(f"--suffix {s.suffix}: .gif or .mp4 was expected")
    return prior, inputs.conditions(prior, s.label, (), [s.seed])


def write(s: ClipSettings, command: str, names: Sequence[str], results: Sequence[Any]) -> int:
    """NAME.gif of each result of one clip, sheet.png and result.json."""
    from oneprior.cli.screen import Screen
    from oneprior.cli.texts import write as put
    from oneprior.cli.work import free, fresh, stems, write_picture
    from oneprior.results import Result
    from oneprior.training.files import write_json

    out, screen = fresh(s.out, command), Screen(s.json)
    files = [out / f"{name}{s.suffix}" for name in stems(names)]
    free(files, s.force)
    for file, result in zip(files, results, strict=True):
        put(file, result.x[0].cpu())
    if len({len(r.x[0]) for r in results}) == 1:
        write_picture(out / "sheet.png", Result(_stacked(results)).grid())
    record: dict[str, Any] = {"settings": {"prior": s.prior, "seed": s.seed, **dict(results[0].settings)}}
    rows = [{"file": n, "clip": str(f), "frames": len(r.x[0])} for n, f, r in zip(names, files, results, strict=True)]
    record |= {"clips": rows, "nfe": sum(r.nfe for r in results), "seconds": round(sum(r.seconds for r in results), 3)}
    write_json(out / "result.json", record)
    screen.say(f"{len(files)} clips: {out} (sheet.png: a row a clip)")
    screen.result({"command": command, "out": str(out), **record})
    return 0


def _stacked(results: Sequence[Any]) -> Any:
    import torch

    return torch.cat([r.x[:1].cpu() for r in results[:16]])


def pictures(s: ClipSettings, prior: Any) -> tuple[list[str], Any]:
    """Names and pictures (N, C, H, W) of the files given."""
    from oneprior.cli import inputs
    from oneprior.cli.screen import Screen

    given = inputs.read(prior, s.files, Screen(s.json), split=s.split, most=s.n, skip_bad=s.skip_bad)
    return [str(Path(n)) for n in given.names], given.x()
