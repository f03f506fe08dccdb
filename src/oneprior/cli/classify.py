"""Which class explains each picture best: the one under which the prior removes noise best (log-likelihoods in nats).

oneprior classify digits unknown/ --calls 16
oneprior classify digits digits --split test --n 100 --stages 4:5,8:3,32:1 --margin 10 --curves why.svg

Where the data has classes of its own, the accuracy is said as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oneprior.cli.settings import OnPictures


@dataclass(frozen=True, kw_only=True)
class ClassifySettings(OnPictures):
    calls: int = 16
    """network calls for each picture and class"""
    classes: str | None = None
    """names of the classes to choose from, with commas between (default: all)"""
    stages: str | None = None
    """CALLS:KEEP,CALLS:KEEP ..., such as 4:5,8:3,32:1: after so many calls only so many classes are looked at"""
    margin: float | None = None
    """after a stage a picture whose best class leads by this many nats is decided"""
    curves: Path | None = None
    """an SVG file to draw into: by how much the runners-up of the first picture lose, at each level of noise"""


SETTINGS = ClassifySettings


def run(s: ClassifySettings, command: list[str]) -> int:
    from oneprior.cli.work import Work
    from oneprior.report import curve
    from oneprior.training.files import write_text

    if s.calls < 1:
        raise ValueError(f"--calls {s.calls}: at least one was expected")
    work = Work(s)
    _, label = work.prior._label()  # says so, if this prior knows no classes
    work.read("classify")
    classes = None if s.classes is None else [c.strip() for c in s.classes.split(",")]
    how: dict[str, Any] = {"calls": s.calls, "classes": classes, "stages": stages(s.stages), "margin": s.margin}
    truth, right, spent = work.given.labels, 0, 0.0
    for part, x in work.each("classifying", inner=True):
        out: Any = work.add(work.prior.classify(x, seed=s.seed, progress=work.inner, **how))
        spent += out.each * len(part)
        if s.curves is not None and part.start == 0:
            lam, lines = out.curves()
            write_text(s.curves, curve(lam, lines, xlabel="half log-SNR", ylabel="nats lost per unit"))
        best = out.probabilities.topk(min(2, len(out.names)), 1)
        for i, k in enumerate(part):
            row = {"file": work.given.names[k], "label": out.labels[i], "probability": best.values[i, 0].item()}
            if best.values[i, -1] > 0 and len(out.names) > 1:
                row |= {"or": out.names[int(best.indices[i, 1])], "with": best.values[i, 1].item()}
            if truth is not None:
                row["true"] = label.names[int(truth[k])]
                right += row["true"] == row["label"]
            work.rows.append({**row, "nats": out.nats[i].tolist()})
    work.screen.table([{k: v for k, v in row.items() if k != "nats"} for row in work.rows])
    found = {"calls_each": spent / len(work.rows)}
    if truth is not None:
        share, n = right / len(work.rows), len(work.rows)
        found |= {"accuracy": share, "stderr": (share * (1 - share) / n) ** 0.5}
        work.screen.say(f"accuracy {share:.4f} ± {found['stderr']:.4f} on {n}")
    return work.finish(how, **found)


def stages(text: str | None) -> tuple[tuple[int, int], ...] | None:
    """((4, 5), (32, 1)) from "4:5,32:1"."""
    try:
        pairs = [tuple(map(int, part.split(":"))) for part in text.split(",")] if text else []
        return tuple((n, keep) for n, keep in pairs) or None
    except ValueError as e:
        raise ValueError(f"--stages {text}: CALLS:KEEP with commas between was expected, such as 4:5,32:1") from e
