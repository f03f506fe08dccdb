"""The priors that ship: whole, licensed, small, offline; and what tools/ship.py lets in."""

import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import oneprior
from oneprior import storage
from oneprior.cli import main
from oneprior.cli.job import TrainJob
from oneprior.cli.options import from_file
from oneprior.codecs import Characters
from oneprior.conditions import Conditions
from oneprior.nets import TokensConfig, build
from oneprior.token_prior import TokenPrior
from oneprior.tokens import Absorbing, TokenDenoiser

ROOT = Path(__file__).resolve().parent.parent


def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ship", ROOT / "tools" / "ship.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe, and the run it made, of 64 samples."""
    root = tmp_path_factory.mktemp("ship")
    tiny = "data: digits\nname: tiny\nnet: mlp\nnet_size: tiny\nbatch: 32\nwarmup: 0\nsamples: 64\n"
    (root / "tiny.yaml").write_text(tiny)
    assert main(["train", "--config", str(root / "tiny.yaml"), "--out", str(root / "run")]) == 0
    return root


@pytest.mark.parametrize("name", storage.shipped())
def test_a_shipped_prior_draws(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    prior = oneprior.load(name)
    x = prior.sample(4, steps=3, seeds=range(4)).x.double()
    assert len(x) == 4 and bool(x.isfinite().all()) and x.std() > 0.05
    data, card = prior.facts["data"], (storage.SHIPPED / name / "README.md").read_text()
    assert data["licence"] != "unknown" and data["licence"] in card and f'oneprior.load("{name}")' in card
    assert next(iter(storage.load_tensors(storage.SHIPPED / name / "model.safetensors")[0].values())).itemsize == 2


def test_they_are_small_and_listed(capsys: pytest.CaptureFixture[str]) -> None:
    ship = tool()
    assert "digits" in storage.shipped() and ship.together(storage.SHIPPED) <= ship.BUDGET
    for name, most in ship.BUDGETS.items():
        assert ship.size(storage.SHIPPED / name) <= most
    assert main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["shipped_priors"] == storage.shipped()


def test_recipes_are_settings_of_train() -> None:
    for file in sorted((ROOT / "recipes").glob("*.yaml")):
        assert from_file(TrainJob, file).name == file.stem, file


def test_shipping(finished: Path, tmp_path: Path) -> None:
    ship = tool()
    folder = ship.ship(finished / "run", "tiny", recipes=finished, shipped=tmp_path)
    assert folder == tmp_path / "tiny" and {p.name for p in tmp_path.iterdir()} == {"tiny"}
    before, after = oneprior.load(finished / "run"), oneprior.load(folder)
    assert after.facts["weights"] in ("float16", "bfloat16") and 0 < after.facts["weights_rms"] < 0.01
    card = (folder / "README.md").read_text()
    assert 'oneprior.load("tiny")' in card and "CC BY 4.0" in card and "make tiny" in card
    x, t = torch.zeros(2, 1, 8, 8), torch.tensor([0.3, 0.6])
    off = (before.den(x, t).mean - after.den(x, t).mean).abs().max()
    assert off < 0.05
    assert ship.ship(finished / "run", "tiny", recipes=finished, shipped=tmp_path) == folder  # takes its own place


def test_what_half_precision_does_to_a_law_of_tokens(tmp_path: Path) -> None:
    text = Characters(" abcdefgh")
    net: Any = build(TokensConfig((12,), vocab=10, width=16, depth=1, heads=2), 0)
    with torch.no_grad():
        torch.nn.init.normal_(net.out.weight, generator=torch.Generator().manual_seed(0))
    den = TokenDenoiser(net, Absorbing(10), timed=False)
    prior, ship = TokenPrior(den, text, Conditions({}), {"shape": [12]}), tool()
    folder = prior.save(tmp_path / "p")
    exact, half, worse = (ship.deviation(prior, folder, d) for d in (torch.float32, torch.float16, torch.bfloat16))
    assert exact == 0 < half < worse < 0.01


def test_what_is_not_shipped(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ship = tool()

    def refused(said: str, run: Path = finished / "run", recipes: Path = finished) -> None:
        with pytest.raises(ValueError, match=said):
            ship.ship(run, "tiny", recipes=recipes, shipped=tmp_path / "shipped")
        assert not (tmp_path / "shipped" / "tiny").exists()

    (tmp_path / "tiny.yaml").write_text((finished / "tiny.yaml").read_text() + "lr: 0.5\n")
    refused("which says lr: 0.5, not 0.0003", recipes=tmp_path)
    half = Path(shutil.copytree(finished / "run", tmp_path / "half"))
    config = json.loads((half / "prior" / "config.json").read_text())
    for change, said in (
        ({"training": {"samples": 32}}, "not finished: 32 of 64 samples"),
        ({"data": {"licence": "unknown"}}, "licence is not stated"),
    ):
        (half / "prior" / "config.json").write_text(json.dumps(config | {"facts": config["facts"] | change}))
        refused(said, run=half)
    (tmp_path / "shipped" / "other").mkdir(parents=True)
    (tmp_path / "shipped" / "other" / "weights").write_bytes(bytes(1000))
    monkeypatch.setattr(ship, "BUDGET", 2000)
    refused("the others 1,000; all may take 2,000")
