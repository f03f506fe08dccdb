"""A tiny untrained prior of digits, one of points, pictures on disk, and the command line run in this process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

import oneprior
from oneprior.cli import main
from oneprior.codecs import Pixels, Standardise
from oneprior.conditions import Conditions, Label
from oneprior.data import digits
from oneprior.denoiser import Facts, NetworkDenoiser
from oneprior.nets import MLPConfig, build
from oneprior.prior import Prior
from oneprior.schedules import Cosine

SRC = str(Path(oneprior.__file__).resolve().parents[1])
NAMES = tuple(str(i) for i in range(10))


class Done(NamedTuple):
    """What a command left: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)  # fails if anything else is on the standard output


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("PYTHONPATH", SRC)  # for the processes that a test starts, wherever it stands
    monkeypatch.delenv("ONEPRIOR_DATA", raising=False)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    def run(*argv: object) -> Done:
        capsys.readouterr()
        code = main([str(a) for a in argv])
        seen = capsys.readouterr()
        return Done(code, seen.out, seen.err)

    return run


def prior_of(shape: tuple[int, ...], names: tuple[str, ...], codec: Any) -> Prior:
    conditions = Conditions({"label": Label(names)} if names else {})
    net = build(MLPConfig(shape, width=16, depth=1, **conditions.fields), 0)
    den = NetworkDenoiser(net, Cosine(), "v", facts=Facts(null=conditions.null))
    return Prior(den, codec, conditions, {"shape": list(shape), "data": {"name": "tiny"}})


@pytest.fixture(scope="session")
def digits_prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prior_of((1, 8, 8), NAMES, Pixels(17)).save(tmp_path_factory.mktemp("priors") / "digits")


@pytest.fixture(scope="session")
def plain_prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures without classes."""
    return prior_of((1, 8, 8), (), Pixels(17)).save(tmp_path_factory.mktemp("priors") / "plain")


@pytest.fixture(scope="session")
def colour_prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prior_of((3, 8, 8), (), Pixels(256)).save(tmp_path_factory.mktemp("priors") / "colour")


@pytest.fixture(scope="session")
def points_prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prior_of((2,), (), Standardise()).save(tmp_path_factory.mktemp("priors") / "points")


@pytest.fixture(scope="session")
def scans_prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    codec = Standardise(20.0, 40.0, "stored values")
    return prior_of((1, 8, 8), (), codec).save(tmp_path_factory.mktemp("priors") / "scans")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Six digits as PNG files, in two class folders."""
    x = digits("test").batch(range(6))["x"].numpy()
    folder = tmp_path / "pictures"
    for i, a in enumerate(x):
        (folder / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray((a[0] * 255).round().astype(np.uint8)).save(folder / "ab"[i % 2] / f"{i}.png")
    return folder
