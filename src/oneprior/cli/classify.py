"""Which class explains each picture best: the one under which the prior removes noise best (log-likelihoods in nats).

oneprior classify digits unknown/ --calls 16
oneprior classify digits digits --split test --n 100

Where the data has classes of its own, the accuracy is said as well.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tyro.conf import Positional

from oneprior.cli.options import Common


@dataclass(frozen=True)
class ClassifySettings(Common):
    prior: Positional[str]
    """a prior's folder, a run's folder, or the name of a shipped one"""
    files: Positional[tuple[str, ...]] = ()
    """pictures, folders of them, or a data set"""
    calls: int = 16
    """network calls for each picture and class"""
    n: int | None = None
    """at most this many pictures"""
    split: str = "all"
    """of a data set: train, test or all"""
    seed: int = 0
    """of the noise, which is the same for all classes"""
    skip_bad: bool = field(default=False, kw_only=True)
    """leave out pictures that cannot be read"""
    batch: int = 64
    """pictures at a time"""
    device: str = "auto"
    """auto, cpu, cuda, mps ..."""


SETTINGS = ClassifySettings


def run(s: ClassifySettings, command: list[str]) -> int:
    from oneprior.cli import inputs
    from oneprior.cli.screen import Screen

    screen = Screen(s.json)
    if s.calls < 1:
        raise ValueError(f"--calls {s.calls}: at least one was expected")
    prior = inputs.open_prior(s.prior, s.device)
    prior._label()  # says so, if this prior knows no classes
    given = inputs.read(prior, s.files, screen, split=s.split, most=s.n, skip_bad=s.skip_bad)
    rows: list[dict[str, Any]] = []
    right, nfe, seconds = 0, 0, 0.0
    with screen.steps(given.parts(s.batch), "classifying", len) as each:
        for part in each:
            out = prior.classify(given.x(part), calls=s.calls, seed=s.seed)
            chance = out.probabilities
            second = chance.topk(min(2, chance.shape[1]), 1)
            nfe, seconds = nfe + out.nfe, seconds + out.seconds
            for i, k in enumerate(part):
                row = {"file": given.names[k], "label": out.labels[i], "probability": second.values[i, 0].item()}
                if chance.shape[1] > 1 and second.values[i, 1] > 0:
                    row |= {"or": out.names[int(second.indices[i, 1])], "with": second.values[i, 1].item()}
                if given.labels is not None:
                    row["true"] = out.names[int(given.labels[k])]
                    right += row["true"] == row["label"]
                rows.append({**row, "nats": out.nats[i].tolist()})
    screen.table([{k: v for k, v in row.items() if k != "nats"} for row in rows])
    record: dict[str, Any] = {"command": "classify", "prior": s.prior, "calls": s.calls, "pictures": rows}
    if given.labels is not None:
        share = right / len(rows)
        record |= {"accuracy": share, "stderr": (share * (1 - share) / len(rows)) ** 0.5}
        screen.say(f"accuracy {share:.4f} ± {record['stderr']:.4f} on {len(rows)}")
    screen.result({**record, "nfe": nfe, "seconds": round(seconds, 3)})
    return 0
