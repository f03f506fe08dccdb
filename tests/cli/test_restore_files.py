"""Folders and large pictures through `oneprior restore`: windows, memory, refusals, what an interruption leaves."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from oneprior.cli import damage
from oneprior.cli.work import read_picture
from oneprior.operators import Poisson, Pool
from oneprior.operators.simulate import simulate
from oneprior.prior import Prior
from oneprior.training import files

Cli = Callable[..., Any]
FAST = ("--draws", 1, "--steps", 2)
HALF = ("--operator", "mask:half", "--noise", "0.05")


def save(name: str, h: int, w: int) -> str:
    row = np.linspace(40, 200, w, dtype=np.uint8)
    Image.fromarray(np.repeat(row[None], h, 0)).save(name)
    return name


@pytest.mark.parametrize(
    ("flags", "size", "found"),
    [
        (["--operator", "blur:1", "--simulate"], (12, 20), (12, 20)),
        (["--operator", "blur:1"], (12, 20), (12, 20)),
        (["--operator", "pool:2"], (6, 10), (12, 20)),
        (["--operator", "mask:random,0.3", "--simulate"], (12, 20), (12, 20)),
        (["--mask", "mask.png"], (12, 20), (12, 20)),
    ],
)
def test_larger_pictures_go_by_windows(cli: Cli, plain_prior: Path, flags: list, size: Any, found: Any) -> None:
    save("mask.png", 12, 20)
    done = cli("restore", plain_prior, save("big.png", *size), *flags, "--noise", "0.05", *FAST, "--out", "r", "--json")
    assert done.json["tile"] == [8, 8] and 2**24 < done.json["peak_memory"] < 2**36
    assert f"{found[0]} x {found[1]} by windows of 8 x 8" in done.err
    assert ("--simulate measures first" in done.err) == (size != found)
    assert read_picture(Path("r/big.png")).shape == (1, *found)


def test_a_mask_is_as_large_as_the_pictures(cli: Cli, plain_prior: Path) -> None:
    done = cli("restore", plain_prior, save("big.png", 12, 20), "--mask", save("m.png", 8, 8), *FAST, "--out", "r")
    assert done.code == 2 and "m.png is 8 x 8; pictures here are 12 x 20" in done.err and not Path("r").exists()


def test_sizes_that_differ(cli: Cli, plain_prior: Path) -> None:
    both = (save("a.png", 12, 20), save("b.png", 10, 10))
    measured = cli("restore", plain_prior, *both, *HALF, *FAST, "--out", "r")
    assert measured.code == 2 and "b.png is 10 x 10" in measured.err and not Path("r").exists()
    whole = cli("restore", plain_prior, *both, *HALF, *FAST, "--simulate", "--out", "r", "--json")
    assert whole.json["tile"] is None and "2 of 2 pictures cut to the middle and resized to 8 x 8" in whole.err


def test_a_broken_picture(cli: Cli, plain_prior: Path, pictures: Path) -> None:
    bad = pictures / "a" / "bad.png"
    bad.write_bytes((pictures / "a" / "0.png").read_bytes()[:-30])  # its head is whole
    done = cli("restore", plain_prior, pictures, *HALF, *FAST, "--out", "r")
    assert done.code == 2 and "bad.png" in done.err and "--skip-bad" in done.err and not Path("r").exists()
    done = cli("restore", plain_prior, pictures, *HALF, *FAST, "--out", "r", "--skip-bad", "--json")
    assert done.code == 0 and len(done.json["pictures"]) == 6 and "bad.png" in done.err


def stopped(kind: str, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Arrange that something ends the work on the third of six pictures; the exit code and the message to come."""
    name, true = sorted(pictures.glob("*/*.png"))[2], Prior.restore
    calls: list[int] = []

    def restore(self: Prior, *args: Any, **how: Any) -> Any:
        calls.append(1)
        if len(calls) == 2 and kind == "spoilt":
            name.write_bytes(b"no picture")
        if len(calls) == 3 and kind == "Ctrl-C":
            raise KeyboardInterrupt
        return true(self, *args, **how)

    def replace(a: Any, b: Any, put: Any = os.replace) -> None:
        if len(calls) == 3:
            code = errno.ENOSPC if kind == "full" else errno.EROFS
            raise OSError(code, os.strerror(code))
        put(a, b)

    monkeypatch.setattr(Prior, "restore", restore)
    if kind in ("full", "read-only"):
        monkeypatch.setattr(files.os, "replace", replace)
    return {
        "spoilt": (2, name.name),
        "Ctrl-C": (130, "what was saved stays"),
        "full": (1, "the disk is full"),
        "read-only": (1, "read-only"),
    }[kind]


@pytest.mark.parametrize("kind", ["spoilt", "Ctrl-C", "full", "read-only"])
def test_what_was_finished_stays(
    cli: Cli, plain_prior: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    code, said = stopped(kind, pictures, monkeypatch)
    done = cli("restore", plain_prior, pictures, *HALF, *FAST, "--batch", 1, "--out", "r")
    assert done.code == code and said in done.err and "Traceback" not in done.err
    assert sorted(p.name for p in Path("r").iterdir()) == ["0.png", "2.png", "result.json", "sheet.png"]
    assert read_picture(Path("r/2.png")).shape == (1, 8, 8)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--noise=-0.1"], "--noise -0.1: a standard deviation in [0, 1]"),
        (["--noise", "poisson:0"], "above 0"),
        (["--noise", "poisson:x"], "poisson:PEAK"),
        (["--operator", "clip:2", "--method", "diffpir"], "'diffpir' is for linear operators"),
        (["--operator", "blur:1", "--method", "repaint"], "repaint is for a Mask, not"),
        (["--operator", "blur:1", "--method", "twisted"], "noise > 0"),
    ],
)
def test_refused(cli: Cli, plain_prior: Path, pictures: Path, flags: list, said: str) -> None:
    operator = [] if "--operator" in flags else HALF[:2]
    done = cli("restore", plain_prior, pictures, "--simulate", *operator, *FAST, *flags, "--out", "r")
    assert done.code == 2 and said in done.err and done.err.count("\n") == 1 and not Path("r").exists()


def test_counted_light(cli: Cli, plain_prior: Path, pictures: Path) -> None:
    law = damage.noise_of("poisson:50")
    assert isinstance(law, Poisson)
    x = torch.full((200, 1, 8, 8), 0.3)
    y = simulate(Pool(2), x, law, 0, range(200))
    assert (
        torch.equal((50 * y).round(), (50 * y).round().clamp(min=0)) and (50 * y - (50 * y).round()).abs().max() < 1e-4
    )
    n = y.numel()  # mean and variance of y are 0.3 and 0.3 / 50, within five standard errors
    assert abs(y.mean() - 0.3) < 5 * (0.3 / 50 / n) ** 0.5
    assert abs(y.var() * 50 / 0.3 - 1) < 5 * ((2 + 1 / (0.3 * 50)) / n) ** 0.5
    flags = ("--noise", "poisson:50", "--operator", "pool:2", "--simulate")
    done = cli("restore", plain_prior, pictures, *flags, *FAST, "--out", "r", "--json")
    assert done.json["settings"]["noise"] == "poisson:50" and done.json["mean"]["baseline_psnr"] > 8


def test_the_baseline_says_what_it_is(cli: Cli, plain_prior: Path, pictures: Path) -> None:
    for operator, said in (("pool:2", "linear, pixel by pixel"), ("clip:2", "inverted as if clean")):
        done = cli("restore", plain_prior, pictures, "--operator", operator, "--simulate", *FAST, "--out", operator[:4])
        assert done.code == 0 and f"baseline: {said}" in done.out


def test_the_same_call_goes_on_where_it_was_interrupted(
    cli: Cli, plain_prior: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = ("restore", plain_prior, pictures, *HALF, "--simulate", "--steps", 2, "--draws", 2, "--batch", 1)
    assert cli(*call, "--out", "whole").code == 0
    with monkeypatch.context() as m:
        stopped("Ctrl-C", pictures, m)
        assert cli(*call).code == 130
    left = json.loads(Path("runs/restore/result.json").read_text())
    names = [Path(f).name for f in left["unfinished"]]
    assert names == ["0.png", "2.png", "4.png", "1.png", "3.png", "5.png"]
    assert [Path(row["restored"]).stem for row in left["pictures"]] == ["0", "2"]  # and nothing that is not there
    other = cli(*call, "--seed", 1, "--out", "runs/restore")
    assert other.code == 2 and "would be written over" in other.err
    os.utime(pictures / "a" / "2.png", (2**31, 2**31))  # it was changed since
    seen: list[int] = []
    true = Prior.restore
    monkeypatch.setattr(Prior, "restore", lambda self, y, **how: seen.extend(how["seeds"]) or true(self, y, **how))
    done = cli(*call, "--json")
    assert done.code == 0 and "1 of 6 are there from a call that was interrupted" in done.err
    assert seen == list(range(2, 12)) and done.json["out"] == str(Path("runs/restore"))
    whole = json.loads(Path("whole/result.json").read_text())
    assert [r["file"] for r in done.json["pictures"]] == [r["file"] for r in whole["pictures"]]
    assert done.json["mean"] == pytest.approx(whole["mean"]) and "unfinished" not in done.json
    for file in sorted(Path("whole").glob("*.png")):
        assert (file.name == "sheet.png") or file.read_bytes() == (Path("runs/restore") / file.name).read_bytes(), file
    assert cli(*call, "--json").json["out"] == str(Path("runs/restore-2"))  # a finished one is left alone


def test_pictures_of_every_kind(cli: Cli, plain_prior: Path, colour_prior: Path) -> None:
    Path("in").mkdir()
    a = np.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=np.uint8)
    Image.fromarray(a).save("in/rgba.png")
    Image.fromarray(a[..., :3]).save("in/rgb.png")
    Image.fromarray(a[..., 0]).save("in/grey.png")
    Image.fromarray(a[..., 0].astype(np.uint16) * 257).save("in/deep.png")
    Image.fromarray(a[..., 0] > 99).save("in/bits.png")
    Path("in/broken.png").write_bytes(b"no picture")
    for prior, channels in ((plain_prior, 1), (colour_prior, 3)):
        for flags in ((*HALF, "--simulate"), ("--operator", "inpaint:box,4,4", "--noise", 0.02)):
            out = f"{channels}{len(flags)}"
            done = cli("restore", prior, "in", *flags, *FAST, "--skip-bad", "--out", out, "--json")
            assert done.code == 0 and len(done.json["pictures"]) == 5 and "broken.png" in done.err, done.err
            modes = {}
            for r in done.json["pictures"]:
                with Image.open(r["restored"]) as image:
                    modes[Path(r["restored"]).stem] = image.mode
            own = {"rgb": "L", "rgba": "LA"} if channels == 1 else {"rgb": "RGB", "rgba": "RGBA"}
            assert modes == {**own, "grey": "L", "deep": "I;16", "bits": "1"}  # as the files were
            assert cli("restore", prior, "in", *flags, *FAST, "--out", f"{out}x").code == 2


def test_other_names_of_operators() -> None:
    shape = (1, 8, 8)
    for name, plain in (("inpaint:box,2,2", "mask:box,2,2"), ("sr:2", "bicubic:2"), ("blur:gaussian,1", "blur:1")):
        x = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
        assert torch.equal(damage.operator_of(name, None, shape)(x), damage.operator_of(plain, None, shape)(x))
    seen = damage.operator_of(f"inpaint:{save('m.png', 8, 8)}", None, shape)
    assert torch.equal(
        seen(torch.ones(1, *shape)), damage.operator_of(None, Path("m.png"), shape)(torch.ones(1, *shape))
    )
