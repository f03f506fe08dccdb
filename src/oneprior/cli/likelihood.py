"""log p(x) of each picture in nats, a density where white is 1, and bits per dimension of the stored levels; of a text,
the bound on it, and bits a character.

oneprior likelihood digits digits --split test --n 64
oneprior likelihood kjv kjv --split test --n 64
oneprior likelihood runs/photos suspicious.png --probes 4
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from oneprior.cli.settings import OnPictures, Told


@dataclass(frozen=True, kw_only=True)
class LikelihoodSettings(Told, OnPictures):
    steps: int = 24
    """steps of the ODE; double them to see how much is left of its error"""
    probes: int | None = None
    """random probes of the divergence; none: exact, one backward pass a dimension"""
    draws: int = 8
    """of a text: levels of corruption, stratified"""


SETTINGS = LikelihoodSettings


def run(s: LikelihoodSettings, command: list[str]) -> int:
    from oneprior.cli import inputs
    from oneprior.cli.work import Work

    if s.steps < 1 or s.draws < 1 or (s.n is not None and s.n < 1):
        raise ValueError(f"--steps {s.steps} --draws {s.draws} --n {s.n}: at least one was expected")
    if inputs.of_text(s.prior):
        return _of_texts(s)
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


def _of_texts(s: LikelihoodSettings) -> int:
    """The bound on every window of texts that does not overlap another: nats, and bits a character."""
    from itertools import groupby
    from math import log

    import torch

    from oneprior.cli import inputs
    from oneprior.cli.screen import Screen
    from oneprior.data.text import text

    prior: Any = inputs.open_prior(s.prior, s.device, tokens=True)
    screen, names, rows = Screen(s.json), list[str](), list[torch.Tensor]()
    for spec in inputs.texts(s.files):  # of a folder the split is by files, as in training
        found = torch.from_numpy(text(spec, length=2, tokens=prior.codec, split=s.split).tokens.astype("int64"))
        size = min(len(found), prior.shape[0])
        rows += (cut := found[: len(found) // size * size].reshape(-1, size))
        names += [f"{spec}:{i * size}" for i in range(len(cut))]
    most = min(s.n or len(rows), len(rows))
    chosen = torch.linspace(0, len(rows) - 1, most).long().tolist()
    cond = inputs.conditions(prior, s.label, s.cond, chosen)
    alike = [list(g) for _, g in groupby(range(most), lambda i: len(rows[chosen[i]]))]
    parts = [g[i : i + s.batch] for g in alike for i in range(0, len(g), s.batch)]
    out, seconds, nfe = list[dict[str, Any]](), 0.0, 0
    with screen.steps(parts, "log p", len) as each:
        for part in each:
            x, own = torch.stack([rows[chosen[i]] for i in part]), dict[str, Any](inputs.part_of(cond, part, most))
            got = prior.likelihood(x, draws=s.draws, seed=s.seed + part[0], **own)
            for i, nats, said in zip(part, got.x.tolist(), prior.codec.decode(x), strict=True):
                out.append({"file": names[chosen[i]], "nats": nats, "characters": max(len(said), 1)})
            seconds, nfe = seconds + got.seconds, nfe + got.nfe
    bits, size = torch.tensor([[-row["nats"] / log(2), row["characters"]] for row in out], dtype=torch.float64).T
    mean = float(bits.sum() / size.sum())
    error = float((bits - mean * size).std() / size.mean() / most**0.5) if most > 1 else None
    screen.table(out)
    screen.say(f"at most {mean:.4f}{f' ± {error:.4f}' if error else ''} bits a character over {most} windows")
    settings = {"prior": s.prior, "draws": s.draws, "label": s.label, "cond": list(s.cond), "seed": s.seed}
    record = {"settings": settings, "texts": out, "mean": mean, "stderr": error, "nfe": nfe}
    screen.result({"command": "likelihood", **record, "seconds": round(seconds, 3)})
    return 0
