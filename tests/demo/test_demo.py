"""The demo end to end, small; and the prior it leaves gives its report's figures again."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

import oneprior
from oneprior import demo
from oneprior.data import digits
from oneprior.demo.baselines import Digits
from oneprior.demo.figures import Bench, Extent, classify, density
from oneprior.training.run import RunFolder

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"


def bench(prior: oneprior.Prior, extent: Extent) -> Bench:
    return Bench(prior, Digits.of(digits("train"), digits("test")), extent)


def figure(report: dict, use: str, metric: str) -> float:
    return next(r["value"] for r in report["rows"] if (r["use"], r["metric"]) == (use, metric))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "demo"
    assert demo.run(demo.DemoJob(str(folder), quick=True, device="cpu")) == 0
    return folder


def test_it_leaves_a_report_and_a_prior(run: Path) -> None:
    report = json.loads((run / "report.json").read_text())
    assert {r["use"] for r in report["rows"]} == {"classify", "generate", "restore", "edit", "likelihood"}
    assert all({"use", "metric", "value", "baseline", "null"} <= r.keys() for r in report["rows"])
    assert set(report["seconds"]) == {"train", "sample", "restore", "classify", "edit", "likelihood"}
    page = (run / "report.html").read_text()
    assert "<script" not in page and 'src="http' not in page and 'href="http' not in page
    assert page.count("data:image/png;base64") >= 4


def test_its_prior_gives_two_rows_again(run: Path) -> None:
    report = json.loads((run / "report.json").read_text())
    b = bench(oneprior.load(run), demo.LITTLE)
    assert classify(b)[0][0]["value"] == pytest.approx(figure(report, "classify", "accuracy"), abs=1e-9)
    assert density(b)[0][0]["value"] == pytest.approx(figure(report, "likelihood", "nats"), abs=0.05)


def test_run_again_takes_up_what_is_there(run: Path) -> None:
    before = (run / "prior" / "model.safetensors").read_bytes()
    assert demo.run(demo.DemoJob(str(run), quick=True, device="cpu")) == 0
    assert (run / "prior" / "model.safetensors").read_bytes() == before


def test_the_shipped_prior_gives_the_recorded_figures() -> None:
    # the prior of a full demo run, its weights stored in half precision
    report = json.loads((RESULTS / "demo.json").read_text())
    b = bench(oneprior.load("digits"), Extent(seeds=(0, 1, 2)))
    accuracy = classify(b)[0][0]["value"]
    assert accuracy == pytest.approx(figure(report, "classify", "accuracy"), abs=0.003) and accuracy >= 0.985
    label = torch.arange(500) % 10
    read = (b.data.read(b.prior.sample(seeds=range(500), label=label).x) == label).double().mean().item()
    # 500 of the recorded 6,000: three standard errors of a share near 0.97
    assert read == pytest.approx(figure(report, "generate", "read right"), abs=0.025)


def test_the_plane_stopped_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal ends the demo, not its training alone; the same command goes on and measures."""
    from dataclasses import replace

    from oneprior.demo import toy

    run = RunFolder(tmp_path / "toy")
    monkeypatch.setattr(toy, "SETTINGS", replace(toy.SETTINGS, samples=60_000, decay_from=20_000))
    job = demo.DemoJob(str(run.path), toy=True, quick=True, device="cpu")

    def stop() -> None:
        end = time.monotonic() + 60
        while not run.path.exists() or not run.lines():
            assert time.monotonic() < end
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=stop).start()
    with pytest.raises(KeyboardInterrupt):
        demo.run(job)
    assert list(run.checkpoints.iterdir()) and not run.prior.exists() and not (run.path / "report.json").exists()
    assert demo.run(job) == 0 and run.lines()[-1]["n"] >= 60_000
    rows = json.loads((tmp_path / "toy" / "report.json").read_text())["rows"]
    score = [r["value"] for r in rows if r["use"] == "score"]
    assert len(score) == 4 and max(score[1:]) < 0.1  # of the exact score's square; predicting zero is 1
