"""Fine-tuning: weights where they fit, low-rank updates, early stop, the line about copies; and no picture shown."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from oneprior.loading import load

Cli = Callable[..., Any]
SHORT = ("--batch", 32, "--warmup", 0, "--log-every", 64, "--save-minutes", "none")


def weights(name: Any) -> dict[str, torch.Tensor]:
    return dict(load(name).den.net.state_dict())  # type: ignore[union-attr]


def test_weights_where_they_fit(cli: Cli, digits_prior: Path, pictures: Path) -> None:
    """Two classes instead of ten: their embedding begins anew and is named, the rest is the prior's."""
    done = cli("train", pictures, "--name", "t", "--init", digits_prior, *SHORT, "--samples", 32, "--lr", 1e-9)
    assert done.code == 0, done.err
    a, b = weights(digits_prior), weights("runs/t")
    fresh = [k for k in b if a[k].shape != b[k].shape]
    assert len(fresh) == 1 and f"{len(b) - 1} of {len(b)} tensors fit" in done.err
    assert f"begun anew: {fresh[0]}" in done.err
    for k in set(b) - set(fresh):
        torch.testing.assert_close(a[k], b[k], atol=1e-6, rtol=0)
    prior: Any = load("runs/t")
    assert prior.facts["init"] == str(digits_prior) and prior.den.net.config.width == 16
    assert "schedule: cosine" in Path("runs/t/config.yaml").read_text()
    assert cli("train", "--name", "t", "--resume", "--samples", 64).code == 0


def test_low_rank(cli: Cli, plain_prior: Path) -> None:
    """Every matrix differs from the prior's by that rank, whatever is no matrix stays; and it goes on exactly."""
    job = ("train", "digits", "--init", plain_prior, "--lora", 2, *SHORT, "--lr", 0.01)
    done = cli(*job, "--name", "whole", "--samples", 128)
    assert done.code == 0 and "rank 2: " in done.err, done.err
    a, b = weights(plain_prior), weights("runs/whole")
    moved = {k: v - a[k] for k, v in b.items() if k in a and a[k].shape == v.shape and not torch.equal(v, a[k])}
    assert len(moved) >= 4 and all(k.endswith("weight") for k in moved)
    for k, change in moved.items():
        values = torch.linalg.svdvals(change.flatten(1).double())
        assert values[2] < 1e-5 * values[0], k
    assert cli(*job, "--name", "half", "--samples", 64).code == 0
    assert cli("train", "--name", "half", "--resume", "--samples", 128).code == 0
    assert all(torch.equal(v, b[k]) for k, v in weights("runs/half").items())


def test_it_stops_when_held_out_data_says_so(cli: Cli) -> None:
    """At a rate that spoils everything: after the best line, two more; prior/ is the best, and a resumed run agrees."""
    job = ("train", "digits", "--net", "mlp", "--net-size", "tiny", *SHORT, "--early-stop", 2, "--averages", 0.05)
    done = cli(*job, "--name", "s", "--samples", 100_000, "--lr", 0.3, "--json")
    assert done.code == 0 and done.json["stopped"] == "held-out" and done.json["samples"] < 5_000, done.err
    lines = [json.loads(line) for line in Path("runs/s/log.jsonl").read_text().splitlines()]
    seen = [line["held_out"] for line in lines]
    best = int(np.argmin(seen))
    assert len(seen) == best + 3
    assert load("runs/s").facts["training"]["samples"] == lines[best]["n"]
    assert "memorisation" not in done.out and 0 <= done.json["copied"] <= 1  # said on the screen
    refused = cli(*job, "--name", "no", "--samples", 64, "--split", "all")
    assert refused.code == 2 and "--early-stop looks at the held-out part" in refused.err


def test_copies_are_seen(cli: Cli) -> None:
    """The line at the end, of a network that has learned nothing."""
    job = ("train", "digits", "--net", "mlp", "--net-size", "tiny", *SHORT, "--samples", 64)
    done = cli(*job, "--name", "m")
    assert "memorisation: 0." in done.out and "without copying" in done.out
    done = cli(*job, "--name", "a", "--split", "all")
    assert done.code == 0 and "memorisation" not in done.out


@pytest.mark.parametrize("flags", [(), ("--degrade", "blur:1"), ("--net", "vq", "--net-args", "factor=2")])
def test_private(cli: Cli, pictures: Path, flags: tuple[str, ...]) -> None:
    net = () if "vq" in flags else ("--net", "mlp", "--net-size", "tiny")
    done = cli("train", pictures, "--name", "p", *net, *flags, *SHORT, "--samples", 32, "--private", "--size", 8)
    assert done.code == 0, done.err
    assert not [p for p in Path("runs/p").rglob("*.png")]
    page = Path("runs/p/report.html").read_text()
    assert "data:image/png" not in page
    for file in Path("runs/p").rglob("*"):
        assert file.is_dir() or b"\x89PNG" not in file.read_bytes()
    if not flags:
        assert not load("runs/p").save("again").joinpath("samples.png").exists()  # for good


def test_refused(cli: Cli, digits_prior: Path) -> None:
    for flags, said in (
        (["--lora", 2], "--lora adapts a prior that there is: give --init PRIOR"),
        (["--init", "nowhere"], "no folder 'nowhere'"),
        (["--init", digits_prior, "--lora", 0], "rank = 0: at least 1"),
        (["--init", digits_prior, "--lora", 500], "no matrix of this network is larger"),
        (["--init", digits_prior, "--early-stop", 0], "--early-stop 0: at least one line"),
    ):
        done = cli("train", "digits", *flags, *SHORT, "--name", "no", "--samples", 32)
        assert done.code == 2 and said in done.err, done.err


def test_a_prior_of_codes_keeps_its_codec(cli: Cli) -> None:
    Path("d").mkdir()
    for i in range(10):
        Image.new("L", (8, 8), 25 * i).save(f"d/{i}.png")
    base = ("train", "d", *SHORT, "--samples", 32)
    assert cli(*base, "--net", "vq", "--net-args", "factor=2", "--name", "vq").code == 0
    assert cli(*base, "--codec", "runs/vq", "--net-size", "tiny", "--name", "one").code == 0
    done = cli(*base, "--init", "runs/one", "--lora", 2, "--name", "two")
    assert done.code == 0 and "tensors fit" in done.err, done.err
    one, two = load("runs/one"), load("runs/two")
    assert one.codec.config() == two.codec.config()
    for k, v in one.codec.state_dict().items():  # type: ignore[union-attr]
        assert torch.equal(v, two.codec.state_dict()[k])  # type: ignore[union-attr]
