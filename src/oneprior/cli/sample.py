"""Draw samples of a prior, in files named by seed. Sample i depends on seed i alone, so what is there is not redone.

oneprior sample digits --seeds 0-63 --label all
oneprior sample runs/photos --n 16 --label cat --guidance 2 --out cats
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import Positional, UseAppendAction

from oneprior.cli.options import Common, seeds_of


@dataclass(frozen=True)
class SampleSettings(Common):
    prior: Positional[str]
    """a prior's folder, a run's folder, or the name of a shipped one"""
    n: int | None = None
    """how many: seeds 0 to n - 1 (16 without --seeds)"""
    seeds: str | None = None
    """such as 0-63 or 1,5,9"""
    label: str | None = None
    """class name or number; several ("0,1,2", or "all") are dealt out by seed"""
    cond: UseAppendAction[tuple[str, ...]] = ()
    """NAME=VALUE of any condition"""
    steps: int = 20
    """steps of the sampler"""
    sampler: str = "auto"
    """auto, ddim, ancestral, 2m, sde2m or heun"""
    guidance: float = 1.0
    """scale of classifier-free guidance; 1 is none"""
    out: Path | None = None
    """folder to write to (default: runs/sample, or the next free name)"""
    force: bool = field(default=False, kw_only=True)
    """draw anew what is already there"""
    batch: int = 64
    """samples at a time"""
    device: str = "auto"
    """auto, cpu, cuda, mps ..."""


SETTINGS = SampleSettings


def run(s: SampleSettings, command: list[str]) -> int:
    import torch

    from oneprior.cli import inputs
    from oneprior.cli.screen import Screen
    from oneprior.results import grid
    from oneprior.training.files import write_json

    screen = Screen(s.json)
    seeds = seeds_of(s.seeds, s.n, 16)
    prior = inputs.open_prior(s.prior, s.device)
    cond = inputs.conditions(prior, s.label, s.cond, seeds)
    out = inputs.fresh(s.out, "sample")
    how = {"prior": s.prior, "steps": s.steps, "sampler": s.sampler, "guidance": s.guidance}
    how |= {"label": s.label, "cond": list(s.cond)}
    _agree(out, how, s.force)
    drawn = lambda **more: prior.sample(steps=s.steps, sampler=s.sampler, guidance=s.guidance, **more)  # noqa: E731

    if len(prior.shape) != 3:
        inputs.free([out / "samples.npy"], s.force)
        result = drawn(seeds=seeds, batch=s.batch, **cond)
        result.save(out)
        files, todo, nfe, seconds = [out / "samples.npy"], seeds, result.nfe, result.seconds
    else:
        files = [out / f"{seed:06d}.png" for seed in seeds]
        todo = [i for i, f in enumerate(files) if s.force or not f.exists()]
        nfe, seconds = 0, 0.0
        parts = [todo[i : i + s.batch] for i in range(0, len(todo), s.batch)]
        with screen.steps(parts, "drawing", len) as each:
            for part in each:
                own = {
                    k: [v[i] for i in part] if isinstance(v, list) and len(v) == len(seeds) else v
                    for k, v in cond.items()
                }
                result = drawn(seeds=[seeds[i] for i in part], **own)
                if not nfe:  # only now is it known that the settings work
                    out.mkdir(parents=True, exist_ok=True)
                    write_json(out / "result.json", {"settings": how})
                for i, image in zip(part, result.pil(), strict=True):
                    inputs.write_picture(files[i], image)
                nfe, seconds = nfe + result.nfe, seconds + result.seconds
        shown = torch.stack([inputs.read_picture(f, prior.shape[0]) for f in files[:256]])
        inputs.write_picture(out / "grid.png", grid(shown))
    record = {"settings": how, "seeds": seeds, "nfe": nfe, "seconds": round(seconds, 3)}
    write_json(out / "result.json", record)
    kept = len(seeds) - len(todo)
    screen.say(f"{len(todo)} samples drawn{f', {kept} kept as they were' if kept else ''}: {out}")
    screen.result({"command": "sample", "out": str(out), "files": [str(f) for f in files], "kept": kept, **record})
    return 0


def _agree(out: Path, how: dict, force: bool) -> None:
    """Samples of other settings in the same folder would be taken for these."""
    try:
        there = json.loads((out / "result.json").read_text(encoding="utf-8"))["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if not force and (other := [f"{k} {there.get(k)!r}, now {v!r}" for k, v in how.items() if there.get(k) != v]):
        raise FileExistsError(
            f"{out} holds samples of other settings ({'; '.join(other)}): give another --out, or --force"
        )
