"""`oneprior train DATA --net vq`: the codec that a run leaves, its figures, and going on."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from oneprior.codecs import ClipCodes
from oneprior.codecs.vq import VQ
from oneprior.data import MovingDigits, digits
from oneprior.loading import load
from oneprior.results import Result
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


def test_a_codec_of_clips_and_a_prior_of_its_codes(cli: Cli) -> None:
    clips = ("moving-digits", "--frames", 5, "--size", 12)
    small = ("--net-args", "channels=8", "dim=8", "r=2", "--batch", 16, "--warmup", 0)
    done = cli("train", *clips, "--name", "c", "--net", "clip-codes", *small, "--lr", 0.004, "--samples", 960, "--json")
    assert done.code == 0 and Path("runs/c/report.html").exists() and list(Path("runs/c/samples").iterdir()), done.err
    codec, facts = read_codec("runs/c")
    assert isinstance(codec, ClipCodes) and facts["shape"] == [5, 1, 12, 12]
    assert done.json["smaller"] == 5 * 12 * 12 / (3 * 4 * 3 * 3)
    x = MovingDigits(5, 12).batch(range(64))["x"]
    z = codec.encode(x)
    assert float((codec.decode(z) - x).square().mean()) < 0.9 * float((x - x.mean(0)).square().mean())
    torch.testing.assert_close(z.std((0, 1, 3, 4)), torch.ones(4), rtol=0.3, atol=0)

    learn = ("--net-args", "channels=8", "--samples", 32, "--batch", 16, "--warmup", 0, "--json")
    done = cli("train", *clips, "--name", "p", "--codec", "runs/c", *learn)
    assert done.code == 0, done.err
    prior = load("runs/p")
    net: Any = prior.den.net
    assert prior.shape == (5, 1, 12, 12) and net.config.shape == (3, 4, 3, 3)
    assert torch.equal(prior.codec.encode(x), z)
    assert prior.sample(1, seeds=[0], steps=2, frames=9).x.shape == (1, 9, 1, 12, 12)
    done = cli("train", *clips, "--name", "q", "--init", "runs/p", "--samples", 16, "--batch", 16, "--json")
    assert done.code == 0 and torch.equal(load("runs/q").codec.encode(x), z), done.err
    wrong = cli("train", "moving-digits", "--frames", 5, "--size", 16, "--codec", "runs/c", "--name", "w")
    assert wrong.code == 2 and "this codec of clips (B, F, 1, 12, 12) got (1, 5, 1, 16, 16)" in wrong.err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("points:moons", "--net", "vq"), "takes pictures"),
        (("digits", "--net", "vq", "--net-args", "factor=3"), "power of 2"),
        (("digits", "--net", "vq", "--net-args", "codez=3"), "codez"),
        (("digits", "--net", "vq", "--degrade", "noise:10"), "leave out --degrade"),
        (("digits", "--net", "clip-codes"), "takes clips; samples of"),
        (("moving-digits", "--net", "clip-codes", "--frames", 5, "--size", 12, "--pack"), "leave out --pack"),
        (("moving-digits", "--net", "clip-codes", "--frames", 6, "--size", 12), "such as 5 or 9 were expected; got 6"),
        (("moving-digits", "--net", "clip-codes", "--net-args", "r=3"), "a power of 2"),
    ],
)
def test_refused(cli: Cli, argv: tuple[str, ...], said: str) -> None:
    done = cli("train", *argv)
    assert done.code == 2 and said in done.err
    assert not Path("runs").exists()


def test_dry_run(cli: Cli) -> None:
    done = cli("train", "digits", *TINY, "--dry-run", "--json")
    assert done.code == 0 and done.json["parameters"] > 0 and not Path("runs").exists()


def pictures(folder: Path, count: int = 12) -> Path:
    folder.mkdir()
    x = digits("train").batch(range(count))["x"]
    for i in range(count):
        Result(x[i : i + 1], (i,)).save(folder / "aside")
        (folder / "aside" / f"{i:06d}.png").rename(folder / f"{i:04d}.png")
    shutil.rmtree(folder / "aside")
    return folder


def test_a_bad_picture_that_is_left_out_is_left_out_of_the_figures(cli: Cli, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "some")
    (folder / "bad.png").write_bytes(b"none")
    done = cli("train", folder, "--name", "s", *TINY, "--samples", 32, "--skip-bad", "--json")
    assert done.code == 0 and done.json["psnr"] > 0, done.err


def test_captions_of_a_column_are_measured_too(cli: Cli, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "told")
    rows = [f"{f.name},{'odd' if i % 2 else 'even'} one" for i, f in enumerate(sorted(folder.glob("*.png")))]
    (folder / "metadata.csv").write_text("\n".join(["file_name,said", *rows]) + "\n")
    tiny = ("--net-size", "tiny", "--net-args", "width=32", "depth=1", "heads=2", "--batch", 16, "--samples", 16)
    done = cli("train", folder, "--name", "t", "--codec", "levels", "--text", "said", *tiny, "--private", "--json")
    assert done.code == 0 and done.json["bits"] > 0, done.err
