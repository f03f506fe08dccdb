"""Measure a prior on held-out data, each figure beside its null: the same between two parts of real data of equal size.

oneprior evaluate digits digits
oneprior evaluate runs/photos photos/ --n 500 --out evaluated

two-sample: accuracy of telling samples from data by their nearest neighbour; 0.5 is perfect. copied: share of samples
nearer to training than to held-out data. Distances are taken between pixels; compare them at equal n only.
"""

from __future__ import annotations

from typing import Any

from oneprior.cli.settings import EvaluateSettings

SETTINGS = EvaluateSettings


def run(s: EvaluateSettings, command: list[str]) -> int:
    from oneprior.cli import inputs, measures, work
    from oneprior.cli.screen import Screen
    from oneprior.report import write_report
    from oneprior.training.files import write_json

    if s.repeats < 1 or (s.n is not None and s.n < 2):
        raise ValueError(f"--n {s.n} --repeats {s.repeats}: at least 2 samples, and 1 comparison, were expected")
    screen, prior = Screen(s.json), inputs.open_prior(s.prior, s.device)
    train, test = (inputs.read(prior, [s.data], screen, split=k, skip_bad=s.skip_bad) for k in ("train", "test"))
    out = work.fresh(s.out, "evaluate")
    work.free([out / "report.html", out / "result.json"], s.force)
    tasks = {"generate": measures.generation}
    tasks |= {"classify": measures.classification} if s.classify and test.labels is not None else {}
    tasks |= {"likelihood": measures.likelihoods} if s.likelihood else {}
    rows, seconds, pictures = [], {}, []
    with screen.steps(list(tasks), "measuring") as each:
        for use in each:
            found: list[dict[str, Any]]
            found, seconds[use] = tasks[use](prior, train, test, s, pictures)
            rows += [{"use": use, **row} for row in found]
    screen.table(rows)
    record = {"prior": s.prior, "data": s.data, "rows": rows, "seconds": seconds}
    write_json(out / "result.json", record)
    write_report(
        out / "report.html",
        title=f"{s.prior} on {s.data}",
        lead=f"{len(test):,} held-out samples; samples are drawn anew {s.repeats} times.",
        rows=rows,
        pictures=[] if s.private or prior.facts.get("private") else pictures,
        seconds=seconds,
        notes=["A null is what two parts of real data of the same size give: the score of a perfect prior."],
        prior_card=dict(prior.facts),
    )
    screen.say(f"report: {out / 'report.html'}")
    screen.result({"command": "evaluate", "out": str(out), **record})
    return 0
