"""`oneprior train DATA --net vq`: the codec that a run leaves, its figures, and going on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from oneprior.codecs.vq import VQ
from oneprior.data import digits
from oneprior.storage import read_codec
from oneprior.training.files import digest

Cli = Callable[..., Any]
TINY = ("--net", "vq", "--net-args", "factor=2", "codes=32", "channels=8", "dim=4", "--batch", 32, "--warmup", 0)


def test_a_codec_from_the_command_line(cli: Cli) -> None:
    done = cli("train", "digits", "--name", "d", *TINY, "--lr", 0.003, "--samples", 1920, "--json")
    run = Path("runs/d")
    assert done.code == 0 and done.json["codec"] == str(run / "codec"), done.err
    assert (run / "report.html").exists() and list((run / "samples").iterdir()) and not (run / "prior").exists()
    codec, facts = read_codec(run)
    assert isinstance(codec, VQ) and codec.symbols == done.json["codes"] <= 32 == done.json["codes_trained"]
    assert facts["data"]["name"] == "digits" and facts["training"]["samples"] == 1920
    held = digits("test").batch(range(360))["x"]
    assert len(torch.unique(codec.encode(held))) / codec.symbols == pytest.approx(done.json["usage"])
    mse = float((codec.decode(codec.encode(held)) - held).square().mean())
    assert 10 ** (-done.json["psnr_of_mean_error"] / 10) == pytest.approx(mse, rel=1e-4)
    assert mse < 0.6 * float((held - held.mean(0)).square().mean())


def test_a_codec_goes_on_exactly(cli: Cli) -> None:
    assert cli("train", "digits", "--name", "whole", *TINY, "--samples", 256).code == 0
    cli("train", "digits", "--name", "half", *TINY, "--samples", 128)
    assert cli("train", "--name", "half", "--resume", "--samples", 256).code == 0
    one, two = (Path("runs") / n / "codec" / "codec.safetensors" for n in ("whole", "half"))
    assert digest(one) == digest(two)
    assert cli("train", "digits", "--name", "half", *TINY, "--samples", 32, "--force", "--mirror").code == 0
    assert json.loads(Path("runs/half/codec/config.json").read_text())["facts"]["training"]["samples"] == 32


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("points:moons", "--net", "vq"), "takes pictures"),
        (("digits", "--net", "vq", "--net-args", "factor=3"), "power of 2"),
        (("digits", "--net", "vq", "--net-args", "codez=3"), "codez"),
        (("digits", "--net", "vq", "--degrade", "noise:10"), "leave out --pairs and --degrade"),
    ],
)
def test_refused(cli: Cli, argv: tuple[str, ...], said: str) -> None:
    done = cli("train", *argv)
    assert done.code == 2 and said in done.err
    assert not Path("runs").exists()


def test_dry_run(cli: Cli) -> None:
    done = cli("train", "digits", *TINY, "--dry-run", "--json")
    assert done.code == 0 and done.json["parameters"] > 0 and not Path("runs").exists()
