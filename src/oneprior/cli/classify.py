"""Which class explains each picture best: the one under which the prior removes noise best (log-likelihoods in nats).

oneprior classify digits unknown/ --calls 16
oneprior classify digits digits --split test --n 100

Where the data has classes of its own, the accuracy is said as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from oneprior.cli.settings import OnPictures


@dataclass(frozen=True, kw_only=True)
class ClassifySettings(OnPictures):
    calls: int = 16
    """network calls for each picture and class"""


SETTINGS = ClassifySettings


def run(s: ClassifySettings, command: list[str]) -> int:
    from oneprior.cli.work import Work

    if s.calls < 1:
        raise ValueError(f"--calls {s.calls}: at least one was expected")
    work = Work(s)
    work.prior._label()  # says so, if this prior knows no classes
    work.read("classify")
    truth, right = work.given.labels, 0
    for part, x in work.each("classifying"):
        out: Any = work.add(work.prior.classify(x, calls=s.calls, seed=s.seed))
        best = out.probabilities.topk(min(2, len(out.names)), 1)
        for i, k in enumerate(part):
            row = {"file": work.given.names[k], "label": out.labels[i], "probability": best.values[i, 0].item()}
            if best.values[i, -1] > 0 and len(out.names) > 1:
                row |= {"or": out.names[int(best.indices[i, 1])], "with": best.values[i, 1].item()}
            if truth is not None:
                row["true"] = out.names[int(truth[k])]
                right += row["true"] == row["label"]
            work.rows.append({**row, "nats": out.nats[i].tolist()})
    work.screen.table([{k: v for k, v in row.items() if k != "nats"} for row in work.rows])
    found = {}
    if truth is not None:
        share, n = right / len(work.rows), len(work.rows)
        found = {"accuracy": share, "stderr": (share * (1 - share) / n) ** 0.5}
        work.screen.say(f"accuracy {share:.4f} ± {found['stderr']:.4f} on {n}")
    return work.finish({"calls": s.calls}, **found)
