"""`oneprior sample`: samplers, grids and guidance by name, the film of the walk, and what cannot be."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from oneprior.cli.sampling import GRIDS
from oneprior.cli.work import read_picture
from oneprior.guidance import APG, CFG, CFGpp, CFGZero, Threshold, sigma
from oneprior.loading import load
from oneprior.prior import Prior
from oneprior.sampling import DDIM, SAMPLERS, Multistep, Sampler, grids
from oneprior.schedules import Eta

Cli = Callable[..., Any]
LABEL = ("--label", "3", "--steps", 3, "--seeds", "0-1", "--out", "s")


def drawn() -> torch.Tensor:
    return torch.stack([read_picture(Path(f"s/00000{i}.png")) for i in range(2)])


@pytest.mark.parametrize(
    ("flags", "call"),
    [
        (["--sampler", "ddim", "--kappa", 0.7], {"sampler": DDIM(0.7)}),
        (["--sampler", "ddim", "--eta", 0.5], {"sampler": DDIM(Eta(0.5))}),
        (["--sampler", "2m", "--kappa", 1, "--grid", "karras"], {"sampler": Sampler(Multistep(1.0), grids.karras)}),
        (["--sampler", "ancestral", "--temperature", 0.5], {"sampler": "ancestral", "temperature": 0.5}),
        (["--guidance", 3], {"guidance": 3.0}),
        (["--guidance", 3, "--guide", "apg"], {"guidance": lambda d: APG(d, 3.0)}),
        (["--guidance", 0.6, "--guide", "cfg++"], {"guidance": lambda d: CFGpp(d, 0.6)}),
        (["--guidance", 2, "--guide", "cfg-zero"], {"guidance": lambda d: CFGZero(d, 2.0)}),
        (
            ["--guidance", 3, "--interval", "0.2,4", "--rescale", 0.7],
            {"guidance": lambda d: CFG(d, 3.0, interval=sigma(0.2, 4.0), rescale=0.7)},
        ),
        (
            ["--guidance", 3, "--negative", "label=5"],
            {"guidance": lambda d: CFG(d, 3.0, negative={"label": torch.tensor([5])})},
        ),
        (
            ["--guidance", 3, "--threshold", 0.9, "--sampler", "ddim"],
            {"sampler": "ddim", "guidance": lambda d: Threshold(CFG(d, 3.0), 0.9)},
        ),
        (["--threshold", 0.5], {"guidance": lambda d: Threshold(d, 0.5)}),
    ],
    ids=lambda v: " ".join(map(str, v)) if isinstance(v, list) else "",
)
def test_flags_are_what_they_say(cli: Cli, flags: list, call: dict) -> None:
    """To half a level of a byte, on the shipped prior, whose samples every one of these changes by more than that."""
    done = cli("sample", "digits", *LABEL, *flags)
    assert done.code == 0, done.err
    prior = load("digits")
    want = prior.sample(seeds=range(2), label=3, steps=3, **call).x
    assert (drawn() - want).abs().max() <= 0.5 / 255 + 1e-5
    assert (want - prior.sample(seeds=range(2), label=3, steps=3).x).abs().max() > 1.5 / 255


@pytest.mark.parametrize("name", [n for n in SAMPLERS if n != "ancestral-optimal"])
def test_every_sampler_by_name(cli: Cli, digits_prior: Path, name: str) -> None:
    assert cli("sample", digits_prior, *LABEL, "--sampler", name).code == 0
    assert json.loads(Path("s/result.json").read_text())["settings"]["sampler"] == name


def test_every_grid_by_name(cli: Cli) -> None:
    drawn = set()
    for name in GRIDS:
        how = ("--label", 3, "--n", 1, "--steps", 5, "--sampler", "ddim", "--grid", name)
        done = cli("sample", "digits", *how, "--out", name)
        assert done.code == 0, done.err
        drawn.add(Path(name, "000000.png").read_bytes())
    assert len(drawn) >= 7  # some agree on some schedules


def test_a_trained_variance_by_name(cli: Cli) -> None:
    net = ("--net", "mlp", "--net-size", "tiny", "--batch", 32, "--samples", 128, "--warmup", 0)
    assert cli("train", "digits", "--name", "v", "--variance", *net).code == 0
    done = cli("sample", "runs/v", *LABEL, "--sampler", "ancestral-optimal")
    assert done.code == 0 and load("runs/v").den.variance is True, done.err
    x = drawn()
    assert cli("sample", "runs/v", *LABEL, "--sampler", "ancestral", "--force").code == 0
    assert (drawn() - x).abs().max() > 2 / 255
    guided = ("--sampler", "ancestral-optimal", "--guidance", 2, "--threshold", 0.9)
    assert cli("sample", "runs/v", *LABEL, *guided, "--force").code == 0


def test_the_film_of_a_walk(cli: Cli, digits_prior: Path) -> None:
    done = cli("sample", digits_prior, *LABEL, "--batch", 1, "--trajectory", "film/walk.gif", "--json")
    assert done.json["trajectory"] == "film/walk.gif"
    with Image.open("film/walk.gif") as film:
        assert film.n_frames == 4 and film.format == "GIF"  # type: ignore[attr-defined]
    before = Path("film/walk.gif").read_bytes()
    again = cli("sample", digits_prior, *LABEL, "--trajectory", "film/walk.gif")
    assert again.code == 2 and "would be written over" in again.err and Path("film/walk.gif").read_bytes() == before
    assert cli("sample", digits_prior, *LABEL, "--trajectory", "strip.png").code == 0  # all are drawn again, the same
    with Image.open("strip.png") as strip:
        assert strip.format == "PNG" and strip.width > 3 * strip.height / 2


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--steps", -1], "steps = -1"),
        (["--guidance", "nan"], "guidance = nan"),
        (["--guidance", "inf"], "guidance = inf"),
        (["--sampler", "magic"], "one of ['auto', 'ddim', 'ancestral'"),
        (["--sampler", "ancestral-optimal"], "does not tell"),
        (["--sampler", "heun", "--kappa", 1], "no stochasticity to set; these have: ddim"),
        (["--sampler", "ddim", "--kappa", 1, "--eta", 1], "give one of them"),
        (["--sampler", "ddim", "--kappa", -1], "at least 0"),
        (["--sampler", "ddim", "--kappa", "nan"], "at least 0"),
        (["--sampler", "ddim", "--eta", 1.5], "in [0, 1]"),
        (["--eta", 0.5], "auto chooses"),
        (["--grid", "karras"], "auto chooses"),
        (["--sampler", "ddim", "--grid", "magic"], "one of cosine"),
        (["--temperature", -1], "at least 0"),
        (["--guide", "magic"], "one of cfg, cfg++, apg, cfg-zero"),
        (["--guide", "apg"], "give --guidance SCALE"),
        (["--interval", "0.3,5"], "give --guidance SCALE"),
        (["--guidance", 2, "--interval", "5,0.3"], "0.3,5"),
        (["--guidance", 2, "--interval", "5"], "0.3,5"),
        (["--guidance", 2, "--rescale", 2], "in [0, 1]"),
        (["--guidance", 2, "--guide", "apg", "--rescale", 0.5], "belongs to --guide cfg"),
        (["--guidance", 2, "--negative", "label"], "NAME=VALUE"),
        (["--guidance", 2, "--negative", "label=cat"], "no class is called 'cat'"),
        (["--guidance", 2, "--negative", "colour=red"], "unknown condition colour"),
        (["--threshold", 1.5], "share in (0, 1)"),
        (["--trajectory", "walk.mp4"], ".gif or .png"),
        (["--trajectory", "walk"], ".gif or .png"),
        (["--trajectory", "mine/walk.gif"], "mine"),
    ],
    ids=lambda v: " ".join(map(str, v)) if isinstance(v, list) else "",
)
def test_sample_refuses(cli: Cli, digits_prior: Path, flags: list, said: str) -> None:
    Path("mine").write_text("a file")
    done = cli("sample", digits_prior, *LABEL, *flags)
    assert done.code == 2 and said in done.err and done.err.count("\n") == 1, (done.code, done.err)
    assert not Path("s").exists() and Path("mine").read_text() == "a file"


@pytest.mark.parametrize("guide", ["cfg", "cfg++", "apg", "cfg-zero"])
def test_no_guidance_of_an_unconditional_prior(cli: Cli, plain_prior: Path, guide: str) -> None:
    done = cli("sample", plain_prior, "--guidance", 3, "--guide", guide, "--out", "s")
    assert done.code == 2 and "guidance needs a conditional prior" in done.err and not Path("s").exists()


def test_points_make_no_film(cli: Cli, points_prior: Path) -> None:
    done = cli("sample", points_prior, "--n", 2, "--trajectory", "walk.gif", "--out", "s")
    assert done.code == 2 and "only pictures" in done.err and not Path("s").exists()


def test_rare_settings_make_a_sample_what_it_is(cli: Cli, digits_prior: Path) -> None:
    """Neither added nor left out between two calls that fill one folder."""
    assert cli("sample", digits_prior, *LABEL, "--sampler", "ddim", "--eta", 0.5).code == 0
    for flags, said in (([], "eta 0.5, now None"), (["--eta", 0.6], "eta 0.5, now 0.6"), (["--kappa", 1], "kappa")):
        done = cli("sample", digits_prior, *LABEL, "--sampler", "ddim", *flags)
        assert done.code == 2 and said in done.err
    assert cli("sample", digits_prior, *LABEL, "--sampler", "ddim", "--eta", 0.5).code == 0


def test_no_likelihood_of_a_guided_denoiser(digits_prior: Path) -> None:
    prior = load(digits_prior)
    x = torch.zeros(1, 1, 8, 8)
    for den in (CFG(prior.den, 2.0), APG(prior.den, 2.0), Threshold(prior.den)):
        guided = Prior(den, prior.codec, prior.conditions, prior.facts)
        with pytest.raises(ValueError, match="density"):
            guided.likelihood(x, steps=2, label=3)
