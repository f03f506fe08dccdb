"""Every command that uses a prior, on an untrained one: what it writes, what it prints, what it says of bad input."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from oneprior.cli import damage
from oneprior.cli.inputs import conditions
from oneprior.cli.work import read_picture
from oneprior.codecs import Pixels
from oneprior.loading import load
from oneprior.operators import Blur, Mask, Pool
from oneprior.operators.simulate import simulate

Cli = Callable[..., Any]


def test_sample_names_files_by_seed_and_goes_on(cli: Cli, digits_prior: Path) -> None:
    first = cli("sample", digits_prior, "--seeds", "3-5", "--label", "all", "--steps", 2, "--out", "s", "--json").json
    assert [Path(f).name for f in first["files"]] == ["000003.png", "000004.png", "000005.png"] and first["kept"] == 0
    x = load(digits_prior).sample(seeds=[4], steps=2, label=4).x
    assert (read_picture(Path("s/000004.png")) - x[0]).abs().max() <= 0.5 / 255 + 1e-5
    before = Path("s/000004.png").stat().st_mtime_ns
    Path("s/000005.png").unlink()
    again = cli("sample", digits_prior, "--seeds", "4-6", "--label", "all", "--steps", 2, "--out", "s", "--json").json
    assert again["kept"] == 1 and Path("s/000004.png").stat().st_mtime_ns == before
    assert Path("s/000005.png").exists() and Path("s/grid.png").exists()
    assert json.loads(Path("s/result.json").read_text())["seeds"] == [3, 4, 5, 6]


def test_samples_of_other_settings_are_not_mixed(cli: Cli, digits_prior: Path) -> None:
    assert cli("sample", digits_prior, "--n", 2, "--label", 1, "--steps", 2, "--out", "s").code == 0
    done = cli("sample", digits_prior, "--n", 4, "--label", 3, "--steps", 2, "--out", "s")
    assert done.code == 2 and "label '1', now '3'" in done.err and not Path("s/000002.png").exists()
    assert cli("sample", digits_prior, "--n", 1, "--label", 3, "--steps", 2, "--out", "s", "--force").code == 0
    assert sorted(p.name for p in Path("s").iterdir()) == ["000000.png", "grid.png", "result.json"]


def test_sample_picks_a_free_folder(cli: Cli, points_prior: Path) -> None:
    outs = [cli("sample", points_prior, "--n", 3, "--steps", 2, "--batch", 2, "--json").json["out"] for _ in range(2)]
    assert outs == ["runs/sample", "runs/sample-2"]
    x = np.load("runs/sample/samples.npy")
    assert x.shape == (3, 2) and np.array_equal(x, np.load("runs/sample-2/samples.npy"))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--steps", 0], "steps = 0"),
        (["--label", "cat"], "no class is called 'cat'; known are 0, 1"),
        (["--label", 12], "label must be in 0..9"),
        (["--cond", "colour=red"], "unknown condition colour; this prior knows label"),
        (["--cond", "label"], "NAME=VALUE"),
        (["--sampler", "magic"], "'magic' is not known"),
        (["--guidance", 2], "guidance needs one of the conditions"),
        (["--seeds", "a-b"], "0-63"),
        (["--n", 0], "at least one"),
        (["--device", "cuda:77"], "cannot be used here"),
    ],
)
def test_sample_refuses(cli: Cli, digits_prior: Path, flags: list, said: str) -> None:
    done = cli("sample", digits_prior, "--out", "s", *flags)
    assert done.code == 2 and said in done.err and done.err.count("\n") == 1 and not Path("s").exists()


def test_no_guidance_without_conditions(cli: Cli, plain_prior: Path) -> None:
    done = cli("sample", plain_prior, "--guidance", 3, "--out", "s")
    assert done.code == 2 and "guidance needs a conditional prior" in done.err
    assert "trained unconditionally" in cli("sample", plain_prior, "--label", 3).err
    assert "knows no classes" in cli("classify", plain_prior, "digits").err
    assert "trained unconditionally" in cli("edit", plain_prior, "digits", "--target", 3).err


def test_labels_are_dealt_out_by_seed(digits_prior: Path) -> None:
    prior = load(digits_prior)
    assert conditions(prior, "2,5", (), [0, 1, 7]) == {"label": ["2", "5", "5"]}
    assert conditions(prior, "all", (), [12]) == {"label": ["2"]}
    assert conditions(prior, None, ("label=none",), [0]) == {"label": None}


def test_restore(cli: Cli, digits_prior: Path, pictures: Path) -> None:
    args = ("--operator", "mask:half", "--noise", "12/255", "--draws", 2, "--steps", 2)
    done = cli("restore", digits_prior, pictures, *args, "--simulate", "--out", "r", "--json").json
    assert done["settings"]["noise"] == pytest.approx(12 / 255) and len(done["pictures"]) == 6
    assert set(done["mean"]) == {"psnr", "ssim", "baseline_psnr", "baseline_ssim"}
    assert {p.name for p in Path("r").glob("0*")} == {"0.png", "0-std.png", "0-draw-0.png", "0-draw-1.png"}
    row = done["pictures"][0]
    z, x = read_picture(Path(row["restored"])), read_picture(Path(row["file"]))
    assert row["psnr"] == pytest.approx(-10 * float((z - x).square().mean().log10()), abs=0.1)  # bytes on disk
    assert read_picture(Path("r/sheet.png")).shape == (1, 4 * 66 - 2, 6 * 66 - 2)  # measured, mean, spread, truth
    refused = cli("restore", digits_prior, pictures, *args, "--simulate", "--out", "r")
    assert refused.code == 2 and "would be written over" in refused.err


def test_restore_what_was_measured(cli: Cli, digits_prior: Path, pictures: Path) -> None:
    mask = np.full((8, 8), 255, np.uint8)
    mask[4:] = 0
    Image.fromarray(mask).save("mask.png")
    files = [pictures / "a" / "0.png", pictures / "b" / "1.png"]
    done = cli(
        "restore", digits_prior, *files, "--mask", "mask.png", "--draws", 1, "--steps", 2, "--out", "r", "--json"
    )
    assert [Path(p["restored"]).name for p in done.json["pictures"]] == ["0.png", "1.png"] and done.json["mean"] == {}
    Image.fromarray(mask[:3, :3]).save("small.png")
    small = cli("restore", digits_prior, "small.png", "--operator", "pool:2", "--out", "q")
    assert small.code == 2 and "small.png is 3 x 3; what this operator leaves of a picture is 4 x 4" in small.err
    Image.fromarray(mask[:6]).save("mask6.png")
    assert "6 x 8; pictures here are 8 x 8" in cli("restore", digits_prior, *files, "--mask", "mask6.png").err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--noise", "12"], "12/255"),
        (["--noise", "x"], "0.05 or 12/255"),
        (["--operator", "fog:3"], "not known; one such as these"),
        (["--operator", "pool:3"], "multiples of 3"),
        (["--operator", "mask:half,up"], "side 'up' is not known"),
        (["--operator", "mask:random,50"], "share of elements"),
        (["--mask", "m.png"], "--mask FILE, or --operator"),
        (["--draws", "0"], "at least one"),
        (["--method", "magic"], "magic"),
        (["--n", "0"], "at least one"),
    ],
)
def test_restore_refuses(cli: Cli, digits_prior: Path, flags: list, said: str) -> None:
    operator = [] if "--operator" in flags else ["--operator", "mask:half"]
    done = cli("restore", digits_prior, "digits", "--split", "test", "--simulate", "--out", "r", *operator, *flags)
    assert done.code == 2 and said in done.err and not Path("r").exists()


def test_operators_by_name() -> None:
    shape = (1, 8, 8)
    hidden = [damage.operator_of(s, None, shape) for s in ("mask:random,0.25", "mask:half,left", "mask:box,2,3")]
    assert [int((~o.mask).sum()) for o in hidden if isinstance(o, Mask)] == [16, 32, 6]
    assert damage.operator_of("pool:2", None, shape) == Pool(2)
    assert damage.operator_of("blur:1.0", None, shape) == Blur.gaussian(1.0)
    assert damage.operator_of("blur:box,3", None, shape) == Blur.box(3)
    assert damage.operator_of("blur:motion,5", None, shape) == Blur.motion(5)


def test_damage_and_its_baseline() -> None:
    x = torch.rand(400, 1, 8, 8)
    mask = Mask.half((1, 8, 8))
    y = simulate(mask, x, 0.1, 0, range(400))
    rest = (y - mask(x))[..., :4, :]
    assert (y[..., 4:, :] == 0).all() and abs(rest.std() - 0.1) < 0.1 * 5 / (2 * rest.numel()) ** 0.5
    z = damage.baseline(
        mask, y, 0.1
    )  # seen pixels shrink to the mean by 0.09 / (0.09 + 0.01); hidden ones are the mean
    middle = y.sum() / (400 * 32)
    want = middle + 0.9 * (y[..., :4, :] - middle)
    assert torch.allclose(z[..., :4, :], want.clamp(0, 1), atol=1e-5)
    assert torch.allclose(z[..., 4:, :], middle.expand(400, 1, 4, 8), atol=1e-5)


def test_classify(cli: Cli, digits_prior: Path, pictures: Path) -> None:
    done = cli(
        "classify", digits_prior, "digits", "--split", "test", "--n", 5, "--calls", 2, "--batch", 2, "--json"
    ).json
    assert len(done["pictures"]) == 5 and 0 <= done["accuracy"] <= 1
    assert done["accuracy"] == sum(r["true"] == r["label"] for r in done["pictures"]) / 5
    assert all(len(r["nats"]) == 10 and 0 < r["probability"] <= 1 for r in done["pictures"])
    mine = cli("classify", digits_prior, pictures, "--calls", 1, "--json").json  # classes a and b are not the prior's
    assert len(mine["pictures"]) == 6 and "accuracy" not in mine
    assert cli("classify", digits_prior, pictures, "--calls", 0).code == 2
    how = ("--stages", "1:4,3:1", "--classes", "1,7,3,9,0", "--margin", 99, "--curves", "why.svg")
    some = cli("classify", digits_prior, pictures, *how, "--json").json
    assert some["calls_each"] == (1 * 5 + 2 * 4) / 5 and {r["label"] for r in some["pictures"]} <= set("17390")
    assert Path("why.svg").read_text().startswith("<svg")
    assert "CALLS:KEEP" in cli("classify", digits_prior, pictures, "--stages", "4").err
    assert "no class is called 'x'" in cli("classify", digits_prior, pictures, "--classes", "1,x").err


def test_features(cli: Cli, digits_prior: Path, pictures: Path) -> None:
    args = ("features", digits_prior, "digits", "--split", "test", "--n", 60, "--batch", 25, "--out", "f")
    done = cli(*args, "--json").json
    assert np.load("f/features.npy").shape == (60, 16) and 0 <= done["accuracy"] <= 1
    assert done["settings"]["layer"].startswith("blocks.") and len(done["pictures"]) == 60
    assert "would be written over" in cli(*args).err and cli(*args, "--force").code == 0
    mine = cli("features", digits_prior, pictures, "--out", "g", "--layer", "blocks.0", "--json").json
    assert "accuracy" not in mine and np.load(mine["features"]).shape == (6, 16)
    assert "nearest are blocks.0" in cli("features", digits_prior, pictures, "--out", "h", "--layer", "block").err
    assert "--t 2" in cli("features", digits_prior, pictures, "--t", 2).err
    from oneprior.conditions import Conditions
    from oneprior.denoiser import NetworkDenoiser
    from oneprior.nets import UNetConfig, build
    from oneprior.prior import Prior
    from oneprior.schedules import Cosine

    net = build(UNetConfig((1, 8, 8), channels=(8, 8), head=8), 0)
    Prior(NetworkDenoiser(net, Cosine(), "v"), Pixels(17), Conditions(), {"shape": [1, 8, 8]}).save("unet")
    shown = cli("features", "unet", pictures, "--out", "maps", "--json").json
    assert read_picture(Path(shown["maps"])).shape[0] == 3


def test_edit(cli: Cli, digits_prior: Path, pictures: Path) -> None:
    args = ("--source", "3", "--target", "label=8", "--steps", 3)
    done = cli("edit", digits_prior, pictures / "a", *args, "--out", "e", "--json").json
    assert [Path(r["edited"]).name for r in done["pictures"]] == ["0.png", "2.png", "4.png"]
    assert done["settings"]["target"] == {"label": "8"} and Path("e/sheet.png").exists()
    for flags, said in (
        ([], "give --target"),
        (["--target", "x"], "'x'"),
        (["--target", 3, "--strength", 0], "above 0"),
        (["--target", 3, "--method", "magic"], "magic"),
    ):
        refused = cli("edit", digits_prior, pictures / "a", "--out", "f", *flags)
        assert refused.code == 2 and said in refused.err and not Path("f").exists()


def test_likelihood(cli: Cli, digits_prior: Path, points_prior: Path, pictures: Path) -> None:
    done = cli(
        "likelihood", digits_prior, pictures / "a" / "0.png", "--steps", 2, "--probes", 1, "--label", 3, "--json"
    )
    assert done.json["pictures"][0]["bpd"] > 0 and np.isfinite(done.json["mean"])
    points = cli("likelihood", points_prior, "points:moons", "--n", 4, "--steps", 4, "--json").json
    assert len(points["pictures"]) == 4 and points["pictures"][0]["bpd"] is None
    assert cli("likelihood", digits_prior, "digits", "--steps", 0).code == 2
    wrong = cli("likelihood", points_prior, pictures / "a" / "0.png")
    assert wrong.code == 2 and ".npy" in wrong.err


def test_a_folder_of_samples_is_read_without_its_grid(cli: Cli, digits_prior: Path) -> None:
    cli("sample", digits_prior, "--n", 3, "--steps", 1, "--out", "s")
    done = cli("classify", digits_prior, "s", "--calls", 1, "--json").json
    assert [Path(r["file"]).name for r in done["pictures"]] == ["000000.png", "000001.png", "000002.png"]


def test_evaluate(cli: Cli, digits_prior: Path) -> None:
    args = ("--n", 20, "--repeats", 2, "--steps", 2, "--classify", 6, "--calls", 1, "--likelihood", 2)
    done = cli("evaluate", digits_prior, "digits", *args, "--out", "e", "--json").json
    rows = {r["metric"]: r for r in done["rows"]}
    assert rows["two-sample"]["value"] > 0.9  # an untrained prior is told apart,
    assert abs(rows["two-sample"]["null"] - 0.5) < 5 * 0.5 / (10 * 40) ** 0.5  # real data from itself is not
    assert rows["frechet"]["value"] > 3 * rows["frechet"]["null"]
    assert rows["accuracy on 6"]["null"] == 0.1 and set(done["seconds"]) == {"generate", "classify", "likelihood"}
    assert "two-sample" in Path("e/report.html").read_text()
    assert cli("evaluate", digits_prior, "digits", "--n", 1000).code == 2
    assert cli("evaluate", digits_prior, "points:moons").code == 2


def test_info(cli: Cli, digits_prior: Path) -> None:
    assert cli("info", "--json").json["torch"] == torch.__version__
    facts = cli("info", digits_prior, "--json").json
    assert facts["shape"] == [1, 8, 8] and facts["conditions"]["label"][3] == "3" and facts["network"] == "mlp"
    assert "cosine" in cli("info", digits_prior).out.lower()
