"""Draw samples of a prior, in files named by seed. Sample i depends on seed i alone, so what is there is not redone.

oneprior sample digits --seeds 0-63 --label all
oneprior sample runs/photos --n 16 --label cat --guidance 2 --out cats
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import UseAppendAction

from oneprior.cli.options import seeds_of
from oneprior.cli.settings import Using, Writing


@dataclass(frozen=True, kw_only=True)
class SampleSettings(Writing, Using):
    n: int | None = None
    """how many: seeds --seed, --seed + 1, ... (16 without --seeds)"""
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


SETTINGS = SampleSettings


def run(s: SampleSettings, command: list[str]) -> int:
    import torch

    from oneprior.cli import inputs
    from oneprior.cli.screen import Screen
    from oneprior.cli.work import fresh, read_picture, write_picture
    from oneprior.results import Result, grid
    from oneprior.training.files import write_json

    screen, seeds = Screen(s.json), seeds_of(s.seeds, s.n, s.seed)
    prior = inputs.open_prior(s.prior, s.device)
    cond = inputs.conditions(prior, s.label, s.cond, seeds)
    out = fresh(s.out, "sample")
    how: dict[str, Any] = {"prior": s.prior, "steps": s.steps, "sampler": s.sampler, "guidance": s.guidance}
    how |= {"label": s.label, "cond": list(s.cond)}
    there = _there(out, how, s.force)
    pictures = len(prior.shape) == 3
    files = [out / f"{seed:06d}.png" for seed in seeds] if pictures else [out / "samples.npy"]
    todo = [i for i in range(len(seeds)) if s.force or not pictures or not files[i].exists()]
    nfe, seconds, drawn = 0, 0.0, []
    with screen.steps([todo[i : i + s.batch] for i in range(0, len(todo), s.batch)], "drawing", len) as parts:
        for part in parts:
            own = inputs.part_of(cond, part, len(seeds))
            own |= {"steps": s.steps, "sampler": s.sampler, "guidance": s.guidance}
            result = prior.sample(seeds=[seeds[i] for i in part], **own)
            nfe, seconds = nfe + result.nfe, seconds + result.seconds
            if not pictures:
                drawn.append(result.x.cpu())
                continue
            for i, image in zip(part, result.pil(), strict=True):
                write_picture(files[i], image)
                if i == todo[0]:  # now it is known that the settings work, and what is in this folder
                    write_json(out / "result.json", {"settings": how, "seeds": sorted({*there, *seeds})})
    every = sorted({*there, *seeds}) if pictures else seeds
    if pictures:
        shown = [f for seed in every[:256] if (f := out / f"{seed:06d}.png").exists()]
        write_picture(out / "grid.png", grid(torch.stack([read_picture(f) for f in shown])))
    else:
        Result(torch.cat(drawn), tuple(seeds)).save(out)
    record = {"settings": how, "nfe": nfe, "seconds": round(seconds, 3)}
    write_json(out / "result.json", {**record, "seeds": every})
    kept = len(seeds) - len(todo)
    screen.say(f"{len(todo)} samples drawn{f', {kept} kept as they were' if kept else ''}: {out}")
    screen.result(
        {"command": "sample", "out": str(out), "files": [str(f) for f in files], "kept": kept, "seeds": seeds, **record}
    )
    return 0


def _there(out: Path, how: dict[str, Any], force: bool) -> list[int]:
    """Seeds drawn into this folder before. Those of other settings would be taken for ours: refused, or removed."""
    try:
        before = json.loads((out / "result.json").read_text(encoding="utf-8"))
        settings, seeds = before["settings"], [int(seed) for seed in before["seeds"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    other = [f"{k} {settings.get(k)!r}, now {v!r}" for k, v in how.items() if settings.get(k) != v]
    if other and not force:
        raise FileExistsError(f"{out} holds samples of other settings ({'; '.join(other)}): another --out, or --force")
    for seed in seeds if other else ():
        (out / f"{seed:06d}.png").unlink(missing_ok=True)
    return [] if other else seeds
