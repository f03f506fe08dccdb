"""`oneprior train --modalities image,label` and `oneprior sample --given`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oneprior.loading import load

Cli = Callable[..., Any]
TINY = ("--net", "mlp", "--net-size", "tiny", "--batch", 32, "--warmup", 0, "--log-every", 64)


def test_train_and_sample(cli: Cli, digits_prior: Path, pictures: Path) -> None:
    done = cli("train", "digits", "--name", "pairs", "--modalities", "image,label", *TINY, "--samples", 64, "--json")
    assert done.code == 0, done.err
    prior: Any = load("runs/pairs")
    assert prior.joint.parts == ("image", "label") and prior.facts["training"]["samples"] == 64
    assert cli("train", "--name", "pairs", "--resume", "--samples", 96).code == 0
    done = cli("sample", "runs/pairs", "--n", 3, "--given", "label=7", "--out", "sevens", "--steps", 2, "--json")
    assert done.code == 0 and done.json["label"] == ["7", "7", "7"] and done.json["settings"]["given"] == ["label=7"]
    assert sorted(f.name for f in Path("sevens").glob("0*.png")) == ["000000.png", "000001.png", "000002.png"]
    file = next(pictures.rglob("*.png"))
    done = cli("sample", "runs/pairs", "--n", 4, "--given", f"image={file}", "--out", "read", "--steps", 2, "--json")
    assert done.code == 0 and len(done.json["label"]) == 4 and set(done.json["label"]) <= set("0123456789")
    assert json.loads(Path("read/result.json").read_text())["label"] == done.json["label"]
    both = cli("sample", "runs/pairs", "--n", 2, "--out", "both", "--steps", 2, "--guidance", 2)
    assert both.code == 0 and "label: " in both.out
    assert cli("classify", "runs/pairs", file, "--calls", 2).code == 0
    known = cli("info", "runs/pairs", "--json")
    assert known.code == 0 and known.json["network"] == "joint" and known.json["conditions"]["label"][7] == "7"
    for argv, said in (
        (("runs/pairs", "--given", "sound=3"), "PART=VALUE was expected, of the parts image, label"),
        (("runs/pairs", "--given", "label=12"), "label must be in 0..9"),
        (("runs/pairs", "--trajectory", "walk.gif"), "--trajectory is for a prior of one part"),
        ((digits_prior, "--given", "label=3"), "--given is for a prior of several parts"),
    ):
        done = cli("sample", *argv, "--n", 1, "--steps", 2)
        assert done.code == 2 and said in done.err, done.err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("digits", "--modalities", "image"), "digits has NAME,label"),
        (("digits", "--modalities", "image,sound"), "digits has NAME,label"),
        (("points:moons", "--modalities", "image,label", "--unconditional"), "do not go together"),
        (("digits", "--modalities", "image,label", "--variance"), "--variance and --modalities do not go together"),
        (("digits", "--modalities", "image,label", "--codec", "levels"), "not of tokens"),
    ],
)
def test_what_training_refuses(cli: Cli, argv: tuple[str, ...], said: str) -> None:
    done = cli("train", *argv, *([] if "--codec" in argv else TINY), "--name", "no")
    assert done.code == 2 and said in done.err and not Path("runs/no").exists(), done.err
