"""`oneprior train`: the run folder, resuming, repeating, stopping; and what it refuses."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from oneprior.loading import load
from oneprior.training.files import digest

Cli = Callable[..., Any]
TINY = ("--net", "mlp", "--net-size", "tiny", "--batch", 32, "--warmup", 0, "--log-every", 64)


def test_the_run_folder(cli: Cli) -> None:
    done = cli("train", "digits", "--name", "d", *TINY, "--samples", 128, "--preview-every", 64, "--json")
    run = Path("runs/d")
    assert done.code == 0 and done.json["samples"] == 128 and done.json["stopped"] == "samples"
    expected = {"config.yaml", "command.txt", "environment.txt", "log.jsonl", "samples", "checkpoints", "prior"}
    assert {p.name for p in run.iterdir()} == expected | {"report.html"}
    assert sorted(p.name for p in (run / "samples").iterdir()) == ["000000064.png", "000000128.png"]
    assert [json.loads(line)["n"] for line in (run / "log.jsonl").read_text().splitlines()] == [64, 128]
    assert "train digits --name d" in (run / "command.txt").read_text()
    prior = load(run)
    assert prior.shape == (1, 8, 8) and prior.facts["training"]["samples"] == 128
    assert prior.facts["data"]["name"] == "digits" and prior.facts["data"]["count"] == 1437  # the rest is held out
    assert "http" not in (run / "report.html").read_text().replace("http://www.w3.org", "")


def test_config_repeats_the_run(cli: Cli) -> None:
    assert cli("train", "digits", "--name", "one", *TINY, "--samples", 96, "--schedule", "rf", "--seed", 5).code == 0
    assert cli("train", "--config", "runs/one/config.yaml", "--name", "two").code == 0
    one, two = (Path("runs") / n / "prior" / "model.safetensors" for n in ("one", "two"))
    assert digest(one) == digest(two)
    assert cli("train", "--config", "runs/one/config.yaml", "--name", "three", "--seed", 6).code == 0
    assert digest(one) != digest(Path("runs/three/prior/model.safetensors"))
    assert "prediction: velocity" in Path("runs/one/config.yaml").read_text()  # "auto" resolved


def test_fields_of_the_network_and_the_schedule(cli: Cli) -> None:
    own = ("--net-args", "width=12", "depth=1", "--schedule-args", "scale=0.5", "--mirror")
    assert cli("train", "digits", "--name", "own", *TINY, *own, "--samples", 64).code == 0
    den = load("runs/own").den
    assert den.net.config.width == 12 and den.schedule.scale == 0.5  # type: ignore[union-attr]
    assert cli("train", "--name", "own", "--resume", "--samples", 96).code == 0
    for flags, said in (
        (["--net-args", "with=12"], "MLPConfig takes width, depth"),
        (["--schedule-args", "scale"], "--schedule-args scale: NAME=VALUE was expected; Cosine takes t_min, scale"),
    ):
        done = cli("train", "digits", "--name", "no", *TINY, *flags)
        assert done.code == 2 and said in done.err and not Path("runs/no").exists()


def test_resume_is_exact_and_needs_no_settings(cli: Cli) -> None:
    cli("train", "digits", "--name", "whole", *TINY, "--samples", 192)
    cli("train", "digits", "--name", "half", *TINY, "--samples", 96)
    done = cli("train", "--name", "half", "--resume", "--samples", 192)
    assert done.code == 0 and "resumed from step-000003" in done.err
    assert digest(Path("runs/half/prior/model.safetensors")) == digest(Path("runs/whole/prior/model.safetensors"))
    for flags, said in ((["--schedule", "vp"], "schedule: 'cosine' -> 'vp'"), (["--lr", "0.5"], "lr: 0.0003 -> 0.5")):
        done = cli("train", "--name", "half", "--resume", *flags)
        assert done.code == 2 and said in done.err
    for own in ("config.yaml", "command.txt"):  # a refused call leaves no trace in the run
        assert "0.5" not in Path("runs/half", own).read_text()
    assert cli("train", "--name", "half", "--resume").code == 0


def test_another_average_goes_into_the_prior_afterwards(cli: Cli) -> None:
    weights = Path("runs/d/prior/model.safetensors")
    cli("train", "digits", "--name", "d", *TINY, "--samples", 128, "--averages", "0.05", "0.2")
    done = cli("train", "--name", "d", "--resume", "--averages", "0.2", "0.05")
    assert done.code == 0, done.err
    kept, average = load_file(weights), load_file("runs/d/checkpoints/step-000004/ema-0.050.safetensors")
    assert kept and all(torch.equal(v, average[f"net.{k}"]) for k, v in kept.items())
    cli("train", "digits", "--name", "once", *TINY, "--samples", 128, "--averages", "0.2", "0.05")
    assert digest(weights) == digest(Path("runs/once/prior/model.safetensors"))
    done = cli("train", "--name", "d", "--resume", "--averages", "0.1", "0.05")
    assert done.code == 2 and "averages: [0.05, 0.2] -> [0.1, 0.05]" in done.err


def test_what_is_there_stays(cli: Cli) -> None:
    cli("train", "digits", "--name", "d", *TINY, "--samples", 32)
    before = digest(Path("runs/d/prior/model.safetensors"))
    done = cli("train", "digits", "--name", "d", *TINY, "--samples", 64)
    assert done.code == 2 and "--resume continues it, --force starts it anew" in done.err
    assert digest(Path("runs/d/prior/model.safetensors")) == before
    assert cli("train", "digits", "--name", "d", *TINY, "--samples", 64, "--force").code == 0
    assert digest(Path("runs/d/prior/model.safetensors")) != before
    done = cli("train", "digits", "--name", "other", "--resume")
    assert done.code == 2 and "no checkpoints to resume from" in done.err and not Path("runs/other").exists()
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("x")
    done = cli("train", "digits", "--out", "mine", "--force", *TINY, "--samples", 32)
    assert done.code == 2 and "no run" in done.err and Path("mine/thesis.txt").exists()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_leaves_a_good_checkpoint(cli: Cli, name: str) -> None:
    def stop() -> None:
        end = time.monotonic() + 60
        while not Path("runs/d/log.jsonl").exists() or not Path("runs/d/log.jsonl").read_text():
            assert time.monotonic() < end
            time.sleep(0.01)
        os.kill(os.getpid(), getattr(signal, name))

    threading.Thread(target=stop).start()
    done = cli("train", "digits", "--name", "d", *TINY, "--samples", 10_000_000)
    assert done.code == 130 and f"stopped by {name}" in done.err and "oneprior train --name d --resume" in done.err
    n = load("runs/d").facts["training"]["samples"]
    assert 64 <= n < 10_000_000 and Path("runs/d/report.html").exists()
    done = cli("train", "--name", "d", "--resume", "--samples", n + 32, "--json")
    assert done.code == 0 and done.json["samples"] == n + 32


def test_minutes(cli: Cli) -> None:
    done = cli("train", "points:moons", "--name", "m", *TINY, "--samples", "none", "--minutes", 0.005, "--json")
    assert done.code == 0 and done.json["stopped"] == "minutes" and "the time is up" in done.err
    assert load("runs/m").shape == (2,) and list(Path("runs/m/samples").glob("*.png"))


def test_dry_run_writes_nothing(cli: Cli) -> None:
    done = cli("train", "digits", "--dry-run", "--json", *TINY).json
    assert done["parameters"] > 1000 and done["memory"] > 12 * done["parameters"]
    assert done["seconds"] == pytest.approx(1_000_000 / done["rate"], rel=1e-6) and not Path("runs").exists()


@pytest.mark.parametrize("schedule", ["vp", "edm", "laplace"])
def test_schedules_and_variance(cli: Cli, schedule: str) -> None:
    flags = ("--schedule", schedule, "--samples", 32, "--split", "all")
    assert cli("train", "digits", "--name", "s", *TINY, *flags, "--variance", "--unconditional").code == 0
    prior = load("runs/s")
    assert not prior.conditions and prior.sample(2, seeds=range(2), steps=2).x.shape == (2, 1, 8, 8)


def test_eps_keeps_away_from_pure_noise(cli: Cli) -> None:
    assert cli("train", "digits", "--name", "e", *TINY, "--prediction", "eps", "--samples", 32).code == 0
    prior = load("runs/e")
    assert prior.den.facts.t_range == (0.0, 0.999) and prior.sample(1, seeds=[0], steps=2).x.isfinite().all()


def test_pictures_from_a_folder(cli: Cli, pictures: Path) -> None:
    (pictures / "a" / "bad.png").write_bytes(b"no picture")
    done = cli("train", pictures, *TINY, "--samples", 32)
    assert done.code == 2 and "bad.png" in done.err and "--skip-bad" in done.err and not Path("runs").exists()
    done = cli("train", pictures, *TINY, "--samples", 32, "--skip-bad", "--channels", 3)
    assert done.code == 0 and "1 of 7 pictures left out, unreadable:" in done.err and "2 classes" in done.err
    assert load("runs/pictures").shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "which data?"),
        (["nowhere"], "no data at 'nowhere'"),
        (["digits", "--size", "16"], "applies to folders of pictures"),
        (["digits", "--lr", "0"], "learning rate above 0"),
        (["digits", "--net", "cnn"], "cnn"),
        (["points:moons", "--net", "unet"], "shape"),
        (["--resume", "--name", "nothing"], "which data?"),
    ],
)
def test_refused(cli: Cli, argv: list, said: str) -> None:
    done = cli("train", *argv)
    assert done.code == 2 and said in done.err and "Traceback" not in done.err and not Path("runs").exists()


def test_two_processes(tmp_path: Path) -> None:
    run = tmp_path / "p"
    argv = ["digits", "--out", str(run), *map(str, TINY), "--samples", "64", "--processes", "2", "--device", "cpu"]
    command = [sys.executable, "-m", "oneprior", "train", *argv, "--json"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["samples"] == 64  # one of them speaks
    state = json.loads(next(run.glob("checkpoints/step-*/state.json")).read_text())
    assert state["world"] == 2 and load(run).shape == (1, 8, 8)
