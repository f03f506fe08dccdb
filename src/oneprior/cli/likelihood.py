"""log p(x) of each picture in nats, a density where white is 1, and bits per dimension of the stored levels; of a text,
the bound on it, and bits a character.

oneprior likelihood digits digits --split test --n 64
oneprior likelihood kjv kjv --split test --n 64
oneprior likelihood runs/photos suspicious.png --probes 4
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tyro.conf import UseAppendAction

from oneprior.cli.settings import OnPictures


@dataclass(frozen=True, kw_only=True)
class LikelihoodSettings(OnPictures):
    steps: int = 24
    """steps of the ODE; double them to see how much is left of its error"""
    probes: int | None = None
    """random probes of the divergence; none: exact, one backward pass a dimension"""
    draws: int = 8
    """of a text: levels of corruption, stratified"""
    label: str | None = None
    """class: the likelihood under it"""
    cond: UseAppendAction[tuple[str, ...]] = ()
    """NAME=VALUE of any condition"""


SETTINGS = LikelihoodSettings


def run(s: LikelihoodSettings, command: list[str]) -> int:
    from oneprior.cli import inputs
    from oneprior.cli.work import Work

    if s.steps < 1 or s.draws < 1 or (s.n is not None and s.n < 1):
        raise ValueError(f"--steps {s.steps} --draws {s.draws} --n {s.n}: at least one was expected")
    if inputs.of_text(s.prior):
        from oneprior.cli import texts

        return texts.likelihood(s)
    work = Work(s)
    work.read("likelihood")
    total = len(work.given)
    cond = inputs.conditions(work.prior, s.label, s.cond, range(total))
    for part, x in work.each("log p"):
        own: dict[str, Any] = inputs.part_of(cond, part, total) | {"steps": s.steps, "probes": s.probes}
        out: Any = work.add(work.prior.likelihood(x, seed=s.seed + part.start, **own))
        bits = [None] * len(part) if out.bpd is None else out.bpd.tolist()
        values = zip(part, out.x.tolist(), bits, strict=True)
        work.rows += [{"file": work.given.names[k], "nats": nats, "bpd": b} for k, nats, b in values]
    work.screen.table(work.rows)
    mean = sum(r["nats"] for r in work.rows) / total
    error = (sum((r["nats"] - mean) ** 2 for r in work.rows) / max(total - 1, 1) / total) ** 0.5
    work.screen.say(f"mean {mean:.2f} ± {error:.2f} nats over {total}")
    settings = {"steps": s.steps, "probes": s.probes, "label": s.label, "cond": list(s.cond)}
    return work.finish(settings, mean=mean, stderr=error)
