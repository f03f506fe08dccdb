"""Clips from the command line: train, sample, animate, interpolate, extend; what they refuse."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from oneprior.cli.work import read_clip
from oneprior.codecs import Pixels
from oneprior.conditions import Conditions, Label
from oneprior.data.clips import animation
from oneprior.data.moving import MovingDigits
from oneprior.denoiser import Facts, NetworkDenoiser
from oneprior.loading import load
from oneprior.nets import ClipConfig, UNetConfig, build
from oneprior.operators import Mask, Measurement
from oneprior.paths import autoregressive
from oneprior.prior import Prior
from oneprior.schedules import Cosine

Cli = Callable[..., Any]
SHAPE = (4, 1, 8, 8)


@pytest.fixture(scope="session")
def clip_prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny untrained prior of clips of four frames."""
    conditions = Conditions({"label": Label(("one", "two"))})
    frame = UNetConfig(SHAPE[1:], channels=(8,), **conditions.fields)
    net = build(ClipConfig(SHAPE, frame=frame), 0)
    with torch.no_grad():
        for p in net.parameters():
            p += 0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    facts = Facts(time_axes=1, null=conditions.null)
    prior = Prior(
        NetworkDenoiser(net, Cosine(), "v", facts=facts), Pixels(None), conditions,
        {"shape": list(SHAPE), "data": {"name": "tiny"}},
    )  # fmt: skip
    return prior.save(tmp_path_factory.mktemp("priors") / "clips")


def picture(name: str, seed: int = 0) -> torch.Tensor:
    a = (np.random.default_rng(seed).random((8, 8)) * 255).round().astype(np.uint8)
    Image.fromarray(a).save(name)
    return torch.from_numpy(a).float()[None] / 255


def test_a_prior_of_clips_keeps_what_it_is_given(clip_prior: Path) -> None:
    prior = load(clip_prior)
    x = torch.rand(2, 1, 8, 8)
    out = prior.animate(x, seeds=range(2), steps=3, label="one")
    assert out.x.shape == (2, *SHAPE) and (out.x[:, 0] - x).abs().max() < 1e-6 and out.seeds == (0, 1)
    longer = prior.animate(x[0], 6, seeds=range(3), steps=3)
    assert longer.x.shape == (3, 6, 1, 8, 8) and (longer.x[:, 0] - x[0]).abs().max() < 1e-6
    ends = prior.interpolate(x, x.flip(0), seeds=range(2), steps=3).x
    assert (ends[:, 0] - x).abs().max() < 1e-6 and (ends[:, -1] - x.flip(0)).abs().max() < 1e-6
    more = prior.extend(out, 5, context=2, steps=3, seeds=range(2), time=0.05)
    assert more.x.shape == (2, 9, 1, 8, 8) and torch.equal(more.x[:, :4], out.x) and more.nfe == 9
    alone = prior.extend(out.x[1:], 5, context=2, steps=3, seeds=[1], time=0.05).x
    torch.testing.assert_close(alone[0], more.x[1], rtol=0, atol=1e-4)
    route = prior.sample(seeds=range(2), path=autoregressive(4, [1.0, 0.5, 0.0]))
    assert route.x.shape == (2, *SHAPE) and route.nfe == 8 and route.grid().size[0] > route.grid().size[1]
    mask = Mask((torch.rand(1, 1, 1, 8, 8) > 0.3).float())
    seen = Measurement(mask(out.x), mask, 0.05)
    assert prior.restore(seen, steps=3, seeds=range(2)).x.shape == (2, *SHAPE)
    for wrong in (torch.rand(2, 3, 8, 8), torch.rand(2, 4, 1, 8, 8)):
        with pytest.raises(ValueError, match=r"shape \(B, 1, 8, 8\) was expected; got"):
            prior.animate(wrong)
    with pytest.raises(ValueError, match=r"clips \(F, C, H, W\) were expected"):
        load("digits").animate(x)


def test_sample_animate_interpolate_extend(cli: Cli, clip_prior: Path) -> None:
    done = cli("sample", clip_prior, "--n", 2, "--steps", 2, "--frames", 5, "--out", "s", "--json").json
    assert [Path(f).name for f in done["files"]] == ["000000.gif", "000001.gif"] and Path("s/grid.png").exists()
    assert read_clip(Path("s/000001.gif"), SHAPE[1:]).shape == (5, 1, 8, 8)
    a, b = picture("a.png"), picture("b.png", 1)
    done = cli(
        "animate", clip_prior, "a.png", "b.png", "--steps", 2, "--label", "two", "--out", "moving", "--json"
    ).json
    assert done["clips"][0]["frames"] == 4 and Path("moving/sheet.png").exists()
    assert (read_clip(Path("moving/b.gif"), SHAPE[1:])[0] - b).abs().max() < 1e-3
    assert cli("interpolate", clip_prior, "a.png", "b.png", "--steps", 2, "--frames", 6, "--out", "between").code == 0
    clip = read_clip(Path("between/a.gif"), SHAPE[1:])
    assert len(clip) == 6 and (clip[0] - a).abs().max() < 1e-3 and (clip[-1] - b).abs().max() < 1e-3
    done = cli(
        "extend", clip_prior, "between/a.gif", "--frames", 7, "--context", 3, "--steps", 2, "--out", "long", "--json"
    ).json
    assert done["clips"][0]["frames"] == 13
    assert (read_clip(Path("long/a.gif"), SHAPE[1:])[:6] - clip).abs().max() < 1e-3


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("animate", "digits", "a.png"), "is no prior of clips"),
        (("animate", "CLIPS"), "which pictures?"),
        (("animate", "CLIPS", "a.png", "--suffix", ".avi"), ".gif or .mp4"),
        (("interpolate", "CLIPS", "a.png"), "two or more were expected"),
        (("extend", "CLIPS"), "which clip?"),
        (("extend", "CLIPS", "short.gif", "--context", "3"), "the clip has 2 frames"),
        (("extend", "CLIPS", "broken.gif"), "broken.gif cannot be read as a clip"),
        (("extend", "CLIPS", "nothing.gif"), "no clip nothing.gif"),
        (("sample", "digits", "--frames", "3"), "of a prior of clips"),
        (("train", "mixed", "--frames", "2"), "several frame rates"),
        (("train", "mixed", "--frames", "9", "--rate", "5"), "shorter than the window of 9"),
        (("train", "moving-digits", "--net", "mlp"), "takes no samples of shape"),
    ],
)
def test_what_is_refused(cli: Cli, clip_prior: Path, argv: tuple[str, ...], message: str) -> None:
    picture("a.png")
    clip = animation(torch.rand(2, 1, 8, 8))
    Path("short.gif").write_bytes(clip)
    Path("broken.gif").write_bytes(clip[:30])
    Path("mixed").mkdir()
    for rate in (5, 10):
        Path(f"mixed/{rate}.gif").write_bytes(animation(torch.rand(4, 1, 8, 8), ".gif", rate))
    done = cli(*[str(clip_prior) if v == "CLIPS" else v for v in argv])
    assert done.code == 2 and message in done.err


def test_clips_are_trained(cli: Cli) -> None:
    Path("few").mkdir()
    for i, x in enumerate(MovingDigits(6, 12).batch(range(3))["x"]):
        Path(f"few/{i}.gif").write_bytes(animation(x))
    done = cli(
        "train", "few", "--frames", 3, "--split", "all", "--net-args", "channels=8,8", "--samples", 16, "--batch", 8,
        "--out", "run", "--frame-law", "nondecreasing", "--causal", "--variance", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    prior = load("run")
    assert prior.shape == (3, 1, 12, 12) and prior.den.facts.time_axes == 1
    assert prior.sample(1, steps=2).x.shape == (1, 3, 1, 12, 12)
    assert list(Path("run/samples").glob("*.png")), "a contact sheet as preview"


def test_clips_of_several_lengths_and_pictures_are_trained_in_one_batch(cli: Cli) -> None:
    Path("few").mkdir()
    for i, x in enumerate(MovingDigits(6, 12).batch(range(3))["x"]):
        Path(f"few/{i}.gif").write_bytes(animation(x[: 6 - 2 * i]))
        Image.fromarray((x[0, 0] * 255).byte().numpy()).save(f"few/{i}.png")
    how = ("--frames", 4, "--split", "all", "--net-args", "channels=8", "--samples", 16, "--batch", 8, "--out", "run")
    done = cli("train", "few", "--pack", *how)
    assert done.code == 0 and "few: 4 samples" in done.err, done.err
    prior = load("run")
    assert prior.shape == (4, 1, 12, 12) and not prior.conditions
    assert prior.sample(1, steps=2).x.shape == (1, 4, 1, 12, 12)
    done = cli("train", "few", "--pack", "--mirror", *how, "--force")
    assert done.code == 2 and "--mirror and --pack do not go together" in done.err
