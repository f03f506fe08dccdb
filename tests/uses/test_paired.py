"""Restorers from pairs: the command line from training to restored pictures, and what travels with the prior."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from oneprior.anchored import BrownianBridge, MeanReverting, Residual, ResShift
from oneprior.cli import main
from oneprior.codecs import Pixels
from oneprior.conditions import Anchor, Conditions, Field, Label
from oneprior.denoiser import Facts, NetworkDenoiser
from oneprior.exact import Gaussian
from oneprior.loading import load
from oneprior.nets import UNetConfig, build
from oneprior.operators import Mask, Measurement
from oneprior.prior import Prior
from oneprior.sampling import DDIM
from oneprior.schedules import Cosine, Own, Schedule
from oneprior.uses.restore.paired import paired

HALF = 0.5 / 255


def restorer(schedule: Schedule, prediction: str = "x0", variance: bool = False) -> Prior:
    """An untrained one, on 8 x 8 pictures."""
    anchored = schedule.at(0.5)[1] is not None
    conditions = Conditions({"y": (Anchor if anchored else Field)(1, -HALF, 1 + HALF)})
    net = build(UNetConfig((1, 8, 8), channels=(8,), out_channels=2 if variance else 1, **conditions.fields), 0)
    torch.nn.init.normal_(net.out.weight, std=0.1, generator=torch.Generator().manual_seed(0))  # pyright: ignore
    den = NetworkDenoiser(net, schedule, prediction, facts=Facts(null=conditions.null), variance=variance)
    return Prior(den, Pixels(256), conditions, {"shape": [1, 8, 8], "data": {"name": "pairs"}})


def pictures(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def test_the_anchor_is_in_the_range_of_the_codec() -> None:
    """Else x_0 and y would differ where nothing was done to the picture."""
    y = (pictures(2, 1, 8, 8) * 255).round() / 255
    ports = Conditions({"y": Anchor(1, -HALF, 1 + HALF)}).encode(2, y=y)
    torch.testing.assert_close(ports["y"], Pixels(256).encode(y), atol=1e-6, rtol=0)
    assert set(ports) == {"y"} and Anchor(1).fields == {"image": 1}
    both = Conditions({"y": Anchor(3), "label": Label(("a", "b"))})
    again = Conditions.from_dict(json.loads(json.dumps(both.to_dict())))
    assert again["y"] == both["y"] and type(again["y"]) is Anchor
    dropped = both.drop({"y": y, "label": torch.tensor([0, 1])}, torch.zeros(2), 0.5)
    assert dropped["y"] is y and dropped["label"].tolist() == [2, 2]  # the path's end cannot be hidden


@pytest.mark.parametrize("schedule", [ResShift(1.5, T=4), BrownianBridge(0.2, 0.4), MeanReverting(0.3), Residual(0.7)])
def test_the_path_travels_with_the_prior(schedule: Schedule, tmp_path: Path) -> None:
    """Proof 5: saved, loaded and asked for other numbers of steps, the constants are those of the file."""
    prior, y = restorer(schedule), pictures(2, 1, 8, 8)
    again = load(prior.save(tmp_path / "p"))
    assert again.den.schedule == schedule
    for steps in (1, 3, 7):
        a, b = (p.restore(y, steps=steps, seeds=range(2)) for p in (prior, again))
        assert torch.equal(a.x, b.x) and a.nfe == steps and a.x.shape == y.shape
    config = json.loads((tmp_path / "p/config.json").read_text())
    config["schedule"]["no such constant"] = 1.0
    (tmp_path / "p/config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="no such constant"):
        load(tmp_path / "p")


def test_draws_depend_on_their_seeds_alone() -> None:
    prior, y = restorer(ResShift()), pictures(3, 1, 8, 8)
    whole = prior.restore(y, draws=2, seeds=range(6), steps=3)
    part = prior.restore(y[1:2], draws=2, seeds=[2, 3], steps=3)
    assert whole.draws is not None and part.draws is not None and whole.std is not None
    torch.testing.assert_close(whole.draws[1:2], part.draws)
    torch.testing.assert_close(whole.x, whole.draws.mean(1))
    assert float(whole.std.mean()) > 0.01


def test_the_chain_is_the_published_one_and_uses_the_variance() -> None:
    """`auto` is the schedule's own rho; exact on Gaussians at 4 steps where the denoiser tells its variance."""
    mean, law, n = torch.full((1, 10, 10), 0.4), 0.2, 40_000

    class Telling(NetworkDenoiser):  # the exact answer in the place of a network with a variance head
        def posterior(self, x: Tensor, t: Any, **cond: Any) -> Any:
            return Gaussian(mean, law).denoiser(self.schedule)(x, t, **cond)

    y = torch.full((n // 100, 1, 10, 10), 0.3)
    for schedule in (ResShift(), BrownianBridge(), MeanReverting(), Cosine()):
        den = Telling(torch.nn.Identity(), schedule, "x0", variance=True)
        cond: dict[str, Any] = {} if schedule.at(0.5)[1] is None else {"y": y}
        method = "auto" if cond else DDIM(Own(), variance=True)
        x = paired(den, tuple(y.shape), method=method, steps=4, seeds=range(len(y)), **cond).x.double()
        slack = 0.02 * law if isinstance(schedule, ResShift) else 0.0  # alpha(1) x_0 is left out of the start
        assert abs(float(x.var()) / law - 1) < 5 * (2 / n) ** 0.5 + slack / law
        assert abs(float(x.mean()) - 0.4) < 5 * (law / n) ** 0.5 + 0.02 * (law**0.5) * bool(slack)


def test_large_pictures_go_by_windows() -> None:
    prior, y = restorer(ResShift()), pictures(1, 1, 20, 13)
    out = prior.restore(y, steps=2, seeds=[5])
    assert out.x.shape == y.shape and torch.equal(out.x, prior.restore(y, steps=2, seeds=[5]).x)
    with pytest.raises(ValueError, match=r"windows of \(8, 8\) do not fit into x of shape \(1, 1, 4, 9\)"):
        prior.restore(pictures(1, 1, 4, 9), steps=2)
    plain = unpaired(prior)
    big = Measurement(y, Mask.random((1, 20, 13), 0.5), 0.05)
    assert plain.restore(big, steps=2, seeds=[0]).x.shape == y.shape


def unpaired(prior: Prior) -> Prior:
    den = NetworkDenoiser(build(UNetConfig((1, 8, 8), channels=(8,)), 0), Cosine(), "v")
    return Prior(den, prior.codec, Conditions(), prior.facts)


def test_refusals() -> None:
    prior, y = restorer(ResShift()), pictures(2, 1, 8, 8)
    with pytest.raises(ValueError, match="ends at y: give the degraded picture"):
        prior.sample(2, steps=2)
    with pytest.raises(ValueError, match="ends at y: give the degraded picture"):
        prior.restore(Measurement(y, Mask.half((1, 8, 8)), 0.1), steps=2)
    with pytest.raises(ValueError, match="image must be in"):
        prior.restore(y * 255, steps=2)
    with pytest.raises(ValueError, match=r"image wants shape \(1, H, W\)"):
        prior.restore(y.expand(-1, 3, -1, -1), steps=2)
    with pytest.raises(ValueError, match="was not trained on pairs: say what was done"):
        unpaired(prior).restore(y, steps=2)
    with pytest.raises(ValueError, match="draws = 0"):
        paired(prior.den, (2, 1, 8, 8), draws=0, seeds=[], y=y)
    assert prior.sample(2, y=y, steps=2, seeds=[0, 1]).x.shape == y.shape


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    monkeypatch.chdir(tmp_path)

    def run(*argv: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(a) for a in argv])
        seen = capsys.readouterr()
        return code, seen.out, seen.err

    return run


TINY = ("--net-size", "tiny", "--batch", 16, "--warmup", 0, "--samples", 32, "--json")


@pytest.mark.parametrize("schedule", ["cosine", "resshift", "i2sb", "irsde", "goub", "rddm", "indi"])
def test_from_pairs_to_restored_pictures(cli: Callable[..., Any], tmp_path: Path, schedule: str) -> None:
    for i in range(5):
        for folder in ("clean", "rainy"):
            (tmp_path / folder).mkdir(exist_ok=True)
            a = (pictures(8, 8) * 200 + (folder == "rainy") * 50).byte().numpy()
            Image.fromarray(np.roll(a, i)).save(tmp_path / folder / f"{i}.png")
    code, out, err = cli("train", "clean", "--pairs", "rainy", "--schedule", schedule, "--name", "r", *TINY)
    assert code == 0 and "5 pairs" not in err and "4 pairs, 1 x 8 x 8" in err, err
    assert list((tmp_path / "runs/r/samples").iterdir())
    prior = load("runs/r")
    assert type(prior.conditions["y"]) is (Field if schedule == "cosine" else Anchor)
    code, out, err = cli("restore", "runs/r", "rainy", "--steps", 2, "--draws", 2, "--out", "o", "--json")
    assert code == 0 and len(json.loads(out)["pictures"]) == 5, err
    assert (tmp_path / "o/3.png").exists() and (tmp_path / "o/3-std.png").exists()
    code, out, err = cli("restore", "runs/r", "clean", "--simulate")
    assert code == 2 and "learned from given pairs" in err


def test_from_a_recipe(cli: Callable[..., Any], tmp_path: Path) -> None:
    recipe = ("--degrade", "blur:1,noise:10")
    code, _, err = cli("train", "digits", *recipe, "--schedule", "resshift", "--name", "r", *TINY)
    assert code == 0, err
    assert load("runs/r").facts["degrade"] == "blur:1,noise:10"
    code, out, err = cli("restore", "runs/r", "digits", "--n", 3, "--simulate", "--steps", 2, "--json")
    found = json.loads(out)
    assert code == 0 and found["mean"]["baseline_psnr"] > 10 and found["settings"]["operator"] is None
    big = (pictures(12, 20) * 255).byte().numpy()  # a picture of another size goes by windows
    Image.fromarray(big).save(tmp_path / "big.png")
    assert cli("restore", "runs/r", "big.png", "--steps", 2, "--draws", 1, "--out", "b")[0] == 0
    with Image.open(tmp_path / "b/big.png") as image:
        assert image.size == (20, 12)
    for flags, said in (
        (["--schedule", "i2sb"], "--schedule i2sb ends at degraded pictures: give --pairs FOLDER or --degrade"),
        ([*recipe, "--pairs", "x"], "give one of the two"),
        (["--degrade", "fog:1"], "a step 'fog' is not known"),
    ):
        code, _, err = cli("train", "digits", "--name", "x", *flags, *TINY)
        assert code == 2 and said in err and not (tmp_path / "runs/x").exists()
    code, _, err = cli("train", "--name", "r", "--resume", "--schedule", "irsde")
    assert code == 2 and "schedule: 'resshift' -> 'irsde'" in err
