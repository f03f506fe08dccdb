"""Measure a prior on held-out data, each figure beside its null: the same between two parts of real data of equal size.

oneprior evaluate digits digits
oneprior evaluate runs/photos photos/ --n 500 --out evaluated

two-sample: accuracy of telling samples from data by their nearest neighbour; 0.5 is perfect. copied: share of samples
nearer to training than to held-out data. Distances are taken between pixels; compare them at equal n only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from oneprior.cli.options import Common


@dataclass(frozen=True)
class EvaluateSettings(Common):
    prior: Positional[str]
    """a prior's folder, a run's folder, or the name of a shipped one"""
    data: Positional[str]
    """what it was trained on: a folder, file or name, with a held-out part"""
    n: int | None = None
    """samples in each comparison (default: as many as are held out, at most 500)"""
    repeats: int = 3
    """comparisons with fresh samples, for the standard error"""
    steps: int = 20
    """steps of the sampler"""
    sampler: str = "auto"
    """auto, ddim, ancestral, 2m, sde2m or heun"""
    classify: int = 200
    """held-out pictures to classify, where there are classes; 0 for none"""
    calls: int = 16
    """network calls for each of them and each class"""
    likelihood: int = 64
    """held-out samples whose likelihood is taken; 0 for none"""
    seed: int = 0
    """of samples and noise"""
    out: Path | None = None
    """folder for report.html and result.json (default: runs/evaluate, or the next free name)"""
    force: bool = field(default=False, kw_only=True)
    """write over what is there"""
    skip_bad: bool = field(default=False, kw_only=True)
    """leave out pictures that cannot be read"""
    device: str = "auto"
    """auto, cpu, cuda, mps ..."""


SETTINGS = EvaluateSettings


def run(s: EvaluateSettings, command: list[str]) -> int:
    from oneprior.cli import inputs, measures
    from oneprior.cli.screen import Screen
    from oneprior.report import write_report
    from oneprior.training.files import write_json

    screen = Screen(s.json)
    if s.repeats < 1 or (s.n is not None and s.n < 2):
        raise ValueError(f"--n {s.n} --repeats {s.repeats}: at least 2 samples, and 1 comparison, were expected")
    prior = inputs.open_prior(s.prior, s.device)
    train, test = (
        inputs.read(prior, [s.data], screen, split=split, skip_bad=s.skip_bad) for split in ("train", "test")
    )
    out = inputs.fresh(s.out, "evaluate")
    inputs.free([out / "report.html", out / "result.json"], s.force)
    rows: list[dict[str, Any]] = []
    seconds: dict[str, float] = {}
    pictures: list[Any] = []
    tasks = [lambda: measures.generation(prior, train, test, s, pictures)]
    if s.classify and test.labels is not None:
        tasks.append(lambda: measures.classification(prior, train, test, s))
    if s.likelihood:
        tasks.append(lambda: measures.likelihoods(prior, test, s))
    with screen.steps(tasks, "measuring") as each:
        for task in each:
            found, spent = task()
            rows += found
            seconds[found[0]["use"]] = spent
    screen.table(rows)
    record = {"prior": s.prior, "data": s.data, "rows": rows, "seconds": seconds}
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "result.json", record)
    write_report(
        out / "report.html",
        title=f"{s.prior} on {s.data}",
        lead=f"{len(test):,} held-out samples; figures are means over {s.repeats} sets of fresh samples.",
        rows=rows,
        pictures=pictures,
        seconds=seconds,
        notes=[
            "The null of a figure is what two parts of real data of the same size give: a perfect prior would score it."
        ],
        prior_card=dict(prior.facts),
    )
    screen.say(f"report: {out / 'report.html'}")
    screen.result({"command": "evaluate", "out": str(out), **record})
    return 0
