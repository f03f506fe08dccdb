"""log p(x) of each picture in nats, a density where white is 1, and bits per dimension of the stored levels.

oneprior likelihood digits digits --split test --n 64
oneprior likelihood runs/photos suspicious.png --probes 4
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tyro.conf import Positional, UseAppendAction

from oneprior.cli.options import Common


@dataclass(frozen=True)
class LikelihoodSettings(Common):
    prior: Positional[str]
    """a prior's folder, a run's folder, or the name of a shipped one"""
    files: Positional[tuple[str, ...]] = ()
    """pictures, folders of them, or a data set"""
    steps: int = 30
    """steps of the ODE; double them to see how much is left of its error"""
    probes: int | None = None
    """random probes of the divergence; none: exact, one backward pass a dimension"""
    label: str | None = None
    """class: the likelihood under it"""
    cond: UseAppendAction[tuple[str, ...]] = ()
    """NAME=VALUE of any condition"""
    n: int | None = None
    """at most this many pictures"""
    split: str = "all"
    """of a data set: train, test or all"""
    seed: int = 0
    """of the spread within levels, and of the probes"""
    skip_bad: bool = field(default=False, kw_only=True)
    """leave out pictures that cannot be read"""
    batch: int = 64
    """pictures at a time"""
    device: str = "auto"
    """auto, cpu, cuda, mps ..."""


SETTINGS = LikelihoodSettings


def run(s: LikelihoodSettings, command: list[str]) -> int:
    from oneprior.cli import inputs
    from oneprior.cli.screen import Screen

    screen = Screen(s.json)
    if s.steps < 1:
        raise ValueError(f"--steps {s.steps}: at least one was expected")
    prior = inputs.open_prior(s.prior, s.device)
    given = inputs.read(prior, s.files, screen, split=s.split, most=s.n, skip_bad=s.skip_bad)
    cond = inputs.conditions(prior, s.label, s.cond, range(len(given)))
    more = {} if s.probes is None else {"probes": s.probes}
    rows: list[dict[str, Any]] = []
    nfe, seconds = 0, 0.0
    with screen.steps(given.parts(s.batch), "log p", len) as each:
        for part in each:
            x = inputs.on_levels(prior, given.x(part))
            own = inputs.part(cond, part)
            out = prior.likelihood(x, steps=s.steps, seed=s.seed + part.start, **own, **more)
            nfe, seconds = nfe + out.nfe, seconds + out.seconds
            bits = [None] * len(part) if out.bpd is None else out.bpd.tolist()
            nats = out.x.tolist()
            rows += [{"file": given.names[k], "nats": a, "bpd": b} for k, a, b in zip(part, nats, bits, strict=True)]
    screen.table(rows)
    mean = sum(r["nats"] for r in rows) / len(rows)
    spread = (sum((r["nats"] - mean) ** 2 for r in rows) / max(len(rows) - 1, 1) / len(rows)) ** 0.5
    screen.say(f"mean {mean:.2f} ± {spread:.2f} nats over {len(rows)}")
    record = {"command": "likelihood", "prior": s.prior, "steps": s.steps, "probes": s.probes, "pictures": rows}
    screen.result({**record, "mean": mean, "stderr": spread, "nfe": nfe, "seconds": round(seconds, 3)})
    return 0
