"""Settings: defaults < file < flags; a file that does not fit is refused by the name of the key."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from oneprior.anchored import ResShift
from oneprior.cli import sample, train
from oneprior.cli.options import arguments, flat, from_file, parse, seeds_of
from oneprior.nets.config import UNetConfig


@pytest.mark.parametrize(
    ("text", "n", "expected"),
    [("0-3", None, [0, 1, 2, 3]), ("1,5,9", 3, [1, 5, 9]), ("0-2,10", None, [0, 1, 2, 10]), (None, 2, [0, 1])],
)
def test_seeds(text: str | None, n: int | None, expected: list[int]) -> None:
    assert seeds_of(text, n) == expected


@pytest.mark.parametrize(
    ("text", "n"), [("a", None), ("3-1", None), ("", None), ("1,1", None), ("0-3", 5), (None, 0), ("-3", None)]
)
def test_seeds_refused(text: str | None, n: int | None) -> None:
    with pytest.raises(ValueError, match="--"):
        seeds_of(text, n)


def read(tmp_path: Path, module: Any, text: str, *argv: str) -> Any:
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    return parse(module, "x", [*argv, "--config", str(file)])


def test_precedence(tmp_path: Path) -> None:
    text = "data: digits\nlr: 1e-3\nnet-size: tiny\naverages: [0.07]\nsamples: null\nminutes: 2\n"
    job = read(tmp_path, train, text, "--net-size", "base", "--minutes", "3")
    assert (job.data, job.train.lr, job.net_size) == ("digits", 1e-3, "base")
    assert (job.train.averages, job.train.samples, job.train.minutes) == ((0.07,), None, 3.0)
    assert job.train.batch == 128 and job.net == "auto"


def test_a_required_flag_may_come_from_either(tmp_path: Path) -> None:
    assert read(tmp_path, sample, "steps: 5", "digits").prior == "digits"
    assert read(tmp_path, sample, "prior: digits\nlabel: 7").label == "7"
    with pytest.raises(SystemExit):
        read(tmp_path, sample, "steps: 5")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("netsize: tiny", "unknown key netsize .did you mean net_size"),
        ("qqq: 1", "unknown key qqq; known are averages"),
        ("net_size: huge", "net_size: 'huge' does not fit"),
        ("batch: many", "batch: 'many' does not fit; int"),
        ("batch: 1.5", "batch: 1.5 does not fit"),
        ("compile: 1", "compile: 1 does not fit"),
        ("betas: [0.9]", "betas"),
        ("lr: 0", "lr=0.0: expected a learning rate above 0"),
        ("[1, 2]", "holds list"),
        ("a: [", "is not YAML"),
        ("json: true", "unknown key json"),
    ],
)
def test_a_file_that_does_not_fit(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as e:
        read(tmp_path, train, text)
    assert str(tmp_path) in str(e.value)


def test_no_such_file() -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        parse(train, "train", ["digits", "--config", "nowhere.yaml"])


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    job = parse(train, "train", ["digits", "--lr", "0.002", "--samples", "none", "--minutes", "1", "--channels", "3"])
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in flat(job).items() if k not in ("json", "config", "debug")}))
    assert from_file(train.TrainJob, path) == job


def test_arguments_of_a_dataclass() -> None:
    given = ["kappa=1", "T=30", "min-noise=2e-2"]
    assert arguments("--a", ResShift, given) == {"kappa": 1.0, "T": 30, "min_noise": 0.02}
    assert arguments("--a", UNetConfig, ["channels=32,64", "out_channels=none"]) == {
        "channels": (32, 64),
        "out_channels": None,
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (["kapa=1"], "ResShift takes t_min, kappa, min_noise, power, last, T"),
        (["kappa"], "--a kappa: NAME=VALUE was expected"),
        (["kappa=1", "kappa=2"], "comes twice"),
        (["kappa=big"], "'big' does not fit; float was expected"),
        (["T=1.5"], "int was expected"),
        (["color=white"], "NAME=VALUE was expected"),
    ],
)
def test_arguments_refused(text: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        arguments("--a", ResShift, text, taken=("color",))
