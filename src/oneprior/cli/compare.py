"""Compare restorations of the same pictures: for each, one measurement, one start noise, one budget of network calls.

oneprior compare fashion fashion-mnist --operator mask:half --operator pool:2 --noise 0.05
oneprior compare runs/mine photos/ --operator blur:1.5 --methods mmps dps my.module:fn

A function of yours is fn(den, measurement, *, start, calls, seeds) -> draws (docs/compare.md). Writes per_image.csv,
table.md, table.tex, references.bib, contact.png and pictures/; the same command goes on where it stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional, UseAppendAction

from oneprior.cli.settings import Using, Writing


@dataclass(frozen=True, kw_only=True)
class CompareSettings(Writing, Using):
    data: Positional[str]
    """data set or folder; held-out pictures are restored, the others tell the Wiener filter what pictures are like"""
    operator: UseAppendAction[tuple[str, ...]] = ()
    """what is done to the pictures, as of `oneprior restore`; may be given several times"""
    noise: str = "0.05"
    """standard deviation of the noise, where white is 1: 0.05, or 12/255"""
    methods: tuple[str, ...] = ("mmps", "pigdm", "dps", "daps", "diffpir", "ddrm")
    """names of methods, and functions package.module:name; differences are to the first"""
    n: int = 16
    """pictures"""
    draws: int = 8
    """draws of each"""
    calls: int = 50
    """network calls a draw"""
    private: bool = False
    """write no pictures"""


SETTINGS = CompareSettings


def run(s: CompareSettings, command: list[str]) -> int:
    import csv
    import io
    import json
    import sys

    import torch

    from oneprior.cli import damage, inputs, work
    from oneprior.cli.options import flat
    from oneprior.cli.screen import Screen
    from oneprior.cli.work import fresh, read_picture, sheet, write_picture
    from oneprior.operators.simulate import simulate
    from oneprior.results import picture, window_of
    from oneprior.storage import find
    from oneprior.training.files import write_json, write_text
    from oneprior.uses.restore.comparison import METRICS, compare, foreign, summary
    from oneprior.uses.restore.table import bibtex, latex, markdown

    if not s.operator or min(s.draws, s.calls, s.n) < 1 or not s.methods:
        raise ValueError("give --operator, one or several, --methods, and at least 1 of --n, --draws and --calls")
    if not isinstance(noise := damage.noise_of(s.noise), float):
        raise ValueError(f"--noise {s.noise}: a standard deviation was expected")
    screen, prior = Screen(s.json), inputs.open_prior(s.prior, s.device)
    if len(prior.shape) != 3 or window_of(prior.codec) is not None:
        raise ValueError(f"pictures in [0, 1] are compared; {s.prior} is a prior of other things")
    private = s.private or bool(prior.facts.get("private"))
    given = inputs.read(prior, [s.data], screen, split="test", most=s.n)
    x = given.x().to(prior.device)
    train = inputs.read(prior, [s.data], screen, split="train", most=2000)
    apart = not any(n in train.names and Path(n).exists() for n in given.names)  # loose files have no two parts
    known = train.x().to(prior.device) if apart else None
    if known is None:
        screen.note(f"{s.data} has no part to learn from: no Wiener filter beside")
    scenes = {o: (damage.operator_of(o, None, prior.shape, s.seed), noise) for o in s.operator}
    said = {k: v for k, v in flat(s).items() if k not in ("config", "json", "debug", "out", "force", "device", "batch")}
    config = json.loads((find(s.prior) / "config.json").read_text(encoding="utf-8"))
    said = json.loads(json.dumps({**said, "weights": config["sha256"][:16], "pictures": given.names}))
    out = fresh(s.out, "compare", lambda folder: work.recorded(folder / "compare.json") == said)
    before = work.recorded(out / "compare.json")
    if before not in ({}, said) and not s.force:
        raise FileExistsError(f"{out} holds a comparison of other settings: give another --out, or --force")
    keys = ("operator", "method", "image")
    rows: list[dict[str, Any]] = []
    if before == said and (out / "per_image.csv").exists():
        with (out / "per_image.csv").open(encoding="utf-8", newline="") as file:
            rows = [{k: _value(k, v) for k, v in row.items()} for row in csv.DictReader(file)]
        screen.note(f"{out}: {len(rows)} rows are there from before")
    sys.path.insert(0, str(Path.cwd()))  # functions are looked for here
    each = compare(
        prior.den,
        x,
        scenes,
        s.methods,
        codec=prior.codec,
        train=known,
        draws=s.draws,
        calls=s.calls,
        seed=s.seed,
        done={(r["operator"], r["method"], r["image"]) for r in rows},
    )
    beside = [m for m in ("pinv", "wiener") if m == "pinv" or known is not None]
    names = [*s.methods, *beside]
    total = len(x) * len(scenes) * len(names) - len(rows)
    write_json(out / "compare.json", said)
    with screen.steps(range(max(total, 0)), "restoring") as bar:
        for row, mean in each:
            if not private:
                write_picture(_picture(out, row["operator"], row["method"], row["image"]), picture(mean.cpu()))
            rows.append(row)
            text = io.StringIO()
            table = csv.DictWriter(text, [*keys, *METRICS, "steps"], lineterminator="\n")
            table.writeheader()
            table.writerows(rows)
            write_text(out / "per_image.csv", text.getvalue())
            next(bar, None)
    place = {name: i for i, name in enumerate((*scenes, *names))}
    rows.sort(key=lambda r: (place[r["operator"]], place[r["method"]], r["image"]))
    means = summary(rows, s.methods[0])
    write_text(out / "table.md", markdown(means))
    write_text(out / "table.tex", latex(means))
    write_text(out / "references.bib", bibtex(s.methods, foreign))
    if not private:
        shown = []
        for o, (operator, _) in scenes.items():
            y = simulate(operator, x[:8], noise, s.seed, range(len(x[:8])))
            files = [[_picture(out, o, m, i) for i in range(len(y))] for m in names]
            made = [torch.stack([read_picture(f) for f in row]) for row in files if row[0].exists()]
            shown += [x[:8].cpu(), y.cpu(), *made]
        write_picture(out / "contact.png", sheet(shown))
    screen.table([{k: r[k] for k in keys[:2]} | {m: r[m] for m in METRICS} for r in means])
    screen.say(f"{len(rows)} rows: {out} (table.md, per_image.csv{'' if private else ', contact.png'})")
    screen.result({"command": "compare", "out": str(out), "settings": said, "rows": means})
    return 0


def _picture(out: Path, operator: str, method: str, image: int) -> Path:
    clean = ["".join(c if c.isalnum() or c in "._-" else "-" for c in name) for name in (operator, method)]
    return out / "pictures" / clean[0] / clean[1] / f"{image:04d}.png"


def _value(key: str, text: str) -> Any:
    if key in ("operator", "method"):
        return text
    return None if not text else int(text) if key in ("image", "calls", "steps") else float(text)
