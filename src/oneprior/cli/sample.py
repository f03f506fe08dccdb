"""Draw samples of a prior, in files named by seed. Sample i depends on seed i alone, so what is there is not redone.

oneprior sample digits --seeds 0-63 --label all
oneprior sample runs/photos --n 16 --label cat --guidance 2 --out cats
oneprior sample digits --n 16 --label all --sampler ancestral --trajectory walk.gif
oneprior sample runs/pairs --given label=7          of a prior of several parts; --given image=seven.png: its label
oneprior sample kjv --prompt "In the beginning [32] light" --n 4 --steps 64
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from oneprior.cli.options import seeds_of
from oneprior.cli.settings import SampleSettings

SETTINGS = SampleSettings


def run(s: SampleSettings, command: list[str]) -> int:
    import torch

    from oneprior import film
    from oneprior.cli import inputs, sampling, work
    from oneprior.cli.screen import Screen
    from oneprior.joint_prior import JointPrior
    from oneprior.results import Result, window_of
    from oneprior.token_prior import TokenPrior
    from oneprior.training.files import write_json

    screen, seeds = Screen(s.json), seeds_of(s.seeds, s.n, s.seed)
    prior: Any = inputs.open_prior(s.prior, s.device, tokens=True)
    cond = inputs.conditions(prior, s.label, (*s.cond, *([] if s.text is None else [f"text={s.text}"])), seeds)
    several = isinstance(prior, JointPrior)
    cond |= inputs.given(prior, s.given, seeds, s.trajectory is not None, screen)
    if s.steps is None and not isinstance(prior, TokenPrior):
        s = replace(s, steps=20)
    call = sampling.arguments(prior, s)
    out = work.fresh(s.out, "sample")
    if s.trajectory is not None:
        work.free([film.checked(s.trajectory, prior.shape)], s.force)
    how: dict[str, Any] = {"prior": s.prior, "steps": s.steps, "sampler": s.sampler, "guidance": s.guidance}
    how |= {"label": s.label, "cond": list(s.cond), **sampling.further(s)}
    suffix = work.kind(prior)
    there = _there(out, how, s.force, suffix or ".png")
    files = [out / f"{seed:06d}{suffix}" for seed in seeds] if suffix else [out / "samples.npy"]
    every = s.force or not suffix or several or s.trajectory is not None  # a film shows them all, a table lists them
    todo = [i for i in range(len(seeds)) if every or not files[i].exists()]
    nfe, seconds, drawn, walks, labels = 0, 0.0, [], [], dict[str, list[int]]()
    with screen.steps([todo[i : i + s.batch] for i in range(0, len(todo), s.batch)], "drawing", len) as parts:
        for part in parts:
            result: Any = prior.sample(seeds=[seeds[i] for i in part], **call, **inputs.part_of(cond, part, len(seeds)))
            nfe, seconds = nfe + result.nfe, seconds + result.seconds
            for k, v in result.record().get("parts", {}).items() if several else ():
                labels.setdefault(k, []).extend(v)
            if s.trajectory is not None:
                walks.append((result.trajectory, result.means))
            if not suffix:
                drawn.append(result.x.cpu())
                continue
            each = result.texts if suffix == ".txt" else result.pil() if suffix == ".png" else result.x
            for i, one in zip(part, each, strict=True):
                work.write(files[i], one)
                if i == todo[0]:  # now it is known that the settings work, and what is in this folder
                    write_json(out / "result.json", {"settings": how, "seeds": sorted({*there, *seeds})})
    known = sorted({*there, *seeds}) if suffix else seeds
    if suffix == ".txt":
        screen.say(
            "\n\n".join(f"{seed}: {f.read_text(encoding='utf-8')}" for seed, f in zip(seeds, files, strict=True))
        )
    elif suffix:
        shown = [f for seed in known[: 256 if suffix == ".png" else 16] if (f := out / f"{seed:06d}{suffix}").exists()]
        every_x = [work.read_picture(f) if suffix == ".png" else work.read_clip(f, prior.shape[1:]) for f in shown]
        work.write_picture(out / "grid.png", Result(torch.stack(every_x)).grid())
    else:
        Result(torch.cat(drawn), tuple(seeds), window=window_of(prior.codec)).save(out)
    record: dict[str, Any] = {"settings": how, "nfe": nfe, "seconds": round(seconds, 3)}
    for k, v in labels.items():
        names: Any = prior.conditions[k]
        record[k] = [names.names[i] for i in v]
        screen.say(f"{k}: {', '.join(record[k])}")
    if s.trajectory is not None:
        film.write(s.trajectory, *(torch.cat(v, 1) for v in zip(*walks, strict=True)))
        record["trajectory"] = str(s.trajectory)
    write_json(out / "result.json", {**record, "seeds": known})
    kept = len(seeds) - len(todo)
    screen.say(f"{len(todo)} samples drawn{f', {kept} kept as they were' if kept else ''}: {out}")
    screen.result(
        {"command": "sample", "out": str(out), "files": [str(f) for f in files], "kept": kept, "seeds": seeds, **record}
    )
    return 0


def _there(out: Path, how: dict[str, Any], force: bool, suffix: str) -> list[int]:
    """Seeds drawn into this folder before. Those of other settings would be taken for ours: refused, or removed."""
    from oneprior.cli.work import recorded

    before = recorded(out / "result.json")
    if not isinstance(settings := before.get("settings"), dict) or not isinstance(seeds := before.get("seeds"), list):
        return []
    names = dict.fromkeys([*how, *settings])
    other = [f"{k} {settings.get(k)!r}, now {how.get(k)!r}" for k in names if settings.get(k) != how.get(k)]
    if other and not force:
        raise FileExistsError(f"{out} holds samples of other settings ({'; '.join(other)}): another --out, or --force")
    for seed in seeds if other else ():
        (out / f"{seed:06d}{suffix}").unlink(missing_ok=True)
    return [] if other else seeds
