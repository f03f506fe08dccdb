"""What `oneprior sample`, `likelihood` and `edit` do where the prior is one of tokens. Imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from oneprior.cli import inputs, work
from oneprior.cli.edit import EditSettings
from oneprior.cli.likelihood import LikelihoodSettings
from oneprior.cli.sample import SampleSettings
from oneprior.cli.screen import Screen
from oneprior.codecs import Text
from oneprior.data.clips import animation
from oneprior.data.text import SUFFIXES, text
from oneprior.token_prior import TokenPrior
from oneprior.training.files import explained, write_bytes, write_json, write_text

PICTURES_ONLY = ("kappa", "eta", "grid", "interval", "rescale", "threshold", "trajectory")
OWN = ("prompt", "length", "top_p")
BIT = 0.6931471805599453


def arguments(prior: TokenPrior, s: SampleSettings) -> dict[str, Any]:
    """What `TokenPrior.sample` takes beside seeds and conditions. Raises ValueError for flags of pictures."""
    wrong = [k for k in PICTURES_ONLY if getattr(s, k) is not None]
    wrong += ["guide"] * (s.guide != "cfg") + ["negative"] * bool(s.negative)
    if wrong:
        raise ValueError(f"--{wrong[0]} is not for a prior of tokens; these are: --{', --'.join(OWN)}, --temperature")
    own = {k: v for k in (*OWN, "temperature") if (v := getattr(s, k)) is not None}
    return {"steps": s.steps, "sampler": s.sampler, "guidance": s.guidance, **own}


def likelihood(s: LikelihoodSettings) -> int:
    """The bound on every window of texts that does not overlap another: nats, and bits a character."""
    prior, screen = inputs.open_prior(s.prior, s.device, tokens=True), Screen(s.json)
    assert isinstance(prior, TokenPrior)
    names, rows = list[str](), list[torch.Tensor]()
    for spec in _some(s.files):  # of a folder the split is by files, as in training
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
    bits, size = torch.tensor([[-row["nats"] / BIT, row["characters"]] for row in out], dtype=torch.float64).T
    mean = float(bits.sum() / size.sum())
    error = float((bits - mean * size).std() / size.mean() / most**0.5) if most > 1 else None
    screen.table(out)
    screen.say(f"at most {mean:.4f}{f' ± {error:.4f}' if error else ''} bits a character over {most} windows")
    settings = {"prior": s.prior, "draws": s.draws, "label": s.label, "cond": list(s.cond), "seed": s.seed}
    record = {"settings": settings, "texts": out, "mean": mean, "stderr": error, "nfe": nfe}
    screen.result({"command": "likelihood", **record, "seconds": round(seconds, 3)})
    return 0


def edit(s: EditSettings) -> int:
    """Every file drawn anew in part: a span, or a share of its tokens."""
    prior, screen = inputs.open_prior(s.prior, s.device, tokens=True), Screen(s.json)
    assert isinstance(prior, TokenPrior)
    try:
        span = None if s.span is None else tuple(int(v) for v in s.span.split(","))
    except ValueError:
        span = ()
    if span is not None and len(span) != 2:
        raise ValueError(f"--span {s.span}: FIRST,LAST in tokens was expected, such as 10,42")
    files = _given(s.files)[: s.n]
    out = work.fresh(s.out, "edit")
    made = [out / f"{name}.txt" for name in work.stems(files)]
    work.free(made, s.force)
    cond: dict[str, Any] = inputs.target(prior, s.target)
    rows = list[dict[str, Any]]()
    with screen.steps(list(zip(files, made, strict=True)), "editing") as each:
        for i, (file, path) in enumerate(each):
            before = text(file, length=2, tokens=prior.codec).tokens.astype("int64")
            how: dict[str, Any] = {
                "strength": s.strength,
                "span": span,
                "steps": s.steps,
                "guidance": s.guidance,
                **cond,
            }
            result = prior.edit(torch.from_numpy(before)[None], seeds=[s.seed + i], **how)
            write(path, result.texts[0])  # type: ignore[attr-defined]
            change = float((result.x[0].cpu() != torch.from_numpy(before)).double().mean())
            rows.append({"file": file, "edited": str(path), "change": change})
            screen.say(result.texts[0])  # type: ignore[attr-defined]
    settings = {"prior": s.prior, "strength": s.strength, "span": span, "steps": s.steps, "seed": s.seed}
    write_json(out / "result.json", {"settings": settings, "texts": rows})
    screen.say(f"{len(rows)} edited: {out}")
    screen.result({"command": "edit", "out": str(out), "settings": settings, "texts": rows})
    return 0


def kind(prior: Any) -> str | None:
    """What a sample is written as: .txt, .png, .gif, or one array for all."""
    if isinstance(prior, TokenPrior):
        return ".txt" if isinstance(prior.codec, Text) else ".png"
    return {3: ".png", 4: ".gif"}.get(len(prior.shape)) if not getattr(prior.codec, "unit", "") else None


def write(path: Path, one: Any) -> None:
    """A text, a picture or a clip to a file, whose folder is made."""
    if isinstance(one, Image.Image):
        work.write_picture(path, one)
        return
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(one, str):
        write_text(path, one)
    else:
        write_bytes(path, animation(one, path.suffix))


def _some(specs: Sequence[str]) -> Sequence[str]:
    if not specs:
        raise ValueError("which text? give files, a folder, or kjv")
    return specs


def _given(specs: Sequence[str]) -> list[str]:
    return [str(f) for p in _some(specs) for f in (_inside(Path(p)) if Path(p).is_dir() else [p])]


def _inside(folder: Path) -> list[Path]:
    return sorted(f for f in folder.rglob("*") if f.name.endswith(SUFFIXES))
