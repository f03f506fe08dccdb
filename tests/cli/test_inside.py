"""`oneprior match` and `oneprior dimension`: what they write and say, and what they refuse."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

Cli = Callable[..., Any]


@pytest.fixture
def pictures(cli: Cli) -> list[Path]:
    assert cli("sample", "digits", "--seeds", "1-3", "--label", 3, "--steps", 4, "--out", "s").code == 0
    return [Path(f"s/00000{i}.png") for i in (1, 2, 3)]


def test_match(cli: Cli, pictures: list[Path]) -> None:
    done = cli("match", "digits", *pictures, "--noises", 1, "--out", "m", "--json").json
    assert [Path(r["file"]).stem for r in done["pictures"]] == ["000002", "000003"]
    other = done["pictures"][0]
    assert len(other["found"]) == 64 and 0 < other["lead back"] <= 1 and 0.2 < other["score"] < 1
    with Image.open(other["picture"]) as image:
        assert image.size[0] > 2 * image.size[1] and image.mode == "RGB"
    assert json.loads(Path("m/result.json").read_text())["settings"]["t"] == 0.1
    one = cli("match", "digits", *pictures[:2], "--point", "3,4", "--layer", "up.0", "--out", "n", "--json").json
    assert one["pictures"][0]["points"] == [[3.0, 4.0]]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--t", 1.5], "a time between 0 and 1"),
        (["--point", "a,b"], "X,Y was expected"),
        (["--point", "3"], "X,Y was expected"),
        (["--point", "9,3"], "within the picture"),
        (["--layer", "up.9"], "no layer 'up.9'"),
    ],
)
def test_match_refuses(cli: Cli, pictures: list[Path], flags: list[object], said: str) -> None:
    done = cli("match", "digits", *pictures[:2], *flags, "--out", "m")
    assert done.code == 2 and said in done.err
    if flags[0] == "--t":
        assert cli("match", "digits", pictures[0]).code == 2


def test_dimension(cli: Cli, pictures: list[Path]) -> None:
    done = cli("dimension", "digits", *pictures[:2], "--probes", 2, "--out", "d", "--json").json
    rows = done["pictures"]
    assert len(rows) == 2 and all(len(r["curve"]) == len(done["settings"]["t"]) == 8 for r in rows)
    assert all(0 < r["dimension"] < 64 for r in rows)
    assert Path("d/curve.svg").read_text().startswith("<svg")
    assert cli("dimension", "digits", pictures[0], "--method", "mle").code == 2
