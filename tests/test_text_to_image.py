"""The benchmark of text to image: its judge can judge, its cheats cheat, its verdicts can be no, and it runs whole."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from oneprior.codecs.vq import VQ, Autoencoder, VQConfig
from oneprior.conditions import Caption, Conditions
from oneprior.denoiser import Facts
from oneprior.nets import TokensConfig, build
from oneprior.noise import uniform
from oneprior.token_prior import TokenPrior
from oneprior.tokens import Absorbing, TokenDenoiser

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
COLOURS = {"red": (0.9, 0.1, 0.1), "green": (0.1, 0.8, 0.1), "blue": (0.1, 0.1, 0.9), "grey": (0.5, 0.5, 0.5)}
SHAPES = ("left", "right", "top", "bottom", "whole")
HELD = ("red top", "green left", "blue bottom", "grey right")


@pytest.fixture(scope="module")
def bench() -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module("text_to_image")
    finally:
        sys.path.remove(str(BENCHMARKS))


def picture(name: str, dark: float = 1.0) -> Tensor:
    """A part of a white square in a colour, 16 x 16."""
    colour, shape = name.split()
    where = {"left": (slice(None), slice(8)), "right": (slice(None), slice(8, 16)), "top": (slice(8),)}
    where |= {"bottom": (slice(8, 16),), "whole": (slice(None),)}
    x = torch.ones(3, 16, 16)
    x[(slice(None), *where[shape])] = dark * torch.tensor(COLOURS[colour]).reshape(3, 1, 1)
    return x


@pytest.fixture(scope="module")
def data(bench: Any) -> Any:
    """Of four colours in five places, four names held out."""
    names = [f"{c} {s}" for c in COLOURS for s in SHAPES]
    train = tuple(n for n in names if n not in HELD) * 3
    noise = 0.05 * torch.from_numpy(uniform(0, "x", range(2 * len(train)), (3, 16, 16))).float()
    x = torch.stack([picture(n) for n in train])
    other = torch.stack([picture(n, 0.8) for n in train])
    x, other = ((a + b - 0.05).clamp(0, 1) for a, b in zip((x, other), noise.chunk(2), strict=True))
    return bench.Data(x, train, torch.stack([picture(n) for n in HELD]), HELD, other, train)


@pytest.fixture(scope="module")
def judge(bench: Any, data: Any) -> Any:
    return bench.scorer(data.other, data.other_names, steps=60, batch=32)


@pytest.fixture(scope="module")
def prior(data: Any) -> TokenPrior:
    """Of an untrained codec and network."""
    codec = VQ.of(Autoencoder(VQConfig((3, 16, 16), factor=4, codes=16, channels=(8,), dim=4)))
    codec.codes.copy_(torch.from_numpy(uniform(0, "codes", 0, (16, 4))))
    conditions = Conditions({"text": Caption.of(data.train_names, length=2)})
    config = TokensConfig((16,), vocab=17, width=16, depth=1, heads=2, grid=(4, 4), conv=3, **conditions.fields)
    den = TokenDenoiser(build(config, 0), Absorbing(17), timed=False, facts=Facts(null=conditions.null))
    return TokenPrior(den, codec, conditions, {"shape": [16], "data": {"name": "squares"}})


def test_the_judge_knows_names_it_never_saw_together(bench: Any, data: Any, judge: Any) -> None:
    """Top tenth of 20 names are two; held-out pairs of a known colour and place are there, under other names not."""
    assert len(data.candidates) == 20 and data.candidates[:4] == tuple(sorted(HELD))
    assert bench.ranked(judge, data.test, HELD, data.candidates).mean() >= 0.75
    assert bench.ranked(judge, data.test.roll(2, 0), HELD, data.candidates).mean() == 0
    again = bench.scorer(data.other, data.other_names, steps=2, batch=8)
    same = bench.scorer(data.other, data.other_names, steps=2, batch=8)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), same.parameters(), strict=True))


def test_ties_count_half_a_place(bench: Any) -> None:
    class Same:
        def score(self, x: Tensor, names: Any) -> Tensor:
            return torch.zeros(len(x), len(names))

    names = [str(i) for i in range(10)]
    assert bench.ranked(Same(), torch.zeros(2, 3, 8, 8), ["0", "5"], names).sum() == 0  # a constant earns nothing


def test_the_nearest_name_shares_the_rarest_words(bench: Any) -> None:
    train = ("flag: Peru", "flag: Chile", "red apple", "green apple", "red heart")
    near = bench.nearest_name(["flag: Laos", "yellow apple", "red heart suit"], train)
    assert near[0] in (0, 1) and near[1] in (2, 3) and near[2] == 4


def test_figures_of_pictures(bench: Any, data: Any, judge: Any, prior: Any) -> None:
    """What draws the held-out pictures passes; what repeats one training picture is the copy it is."""
    found = bench.quality(prior, data, judge, {"good": data.test, "copy": data.train[:1].expand(4, -1, -1, -1)})
    rows = {r["what"]: r for r in found}
    top = "own name in the top tenth of 20: "
    assert rows[top + "good"]["holds"] and rows[top + "good"]["value"] == rows[top + "held-out"]["value"]
    assert rows[top + "pictures of other names"]["value"] == 0
    for space in ("features of the scorer", "32 principal components"):
        near = f"Frechet distance, {space}: "
        assert rows[near + "good"]["holds"] and rows[near + "good"]["value"] < 1e-6 < rows[near + "copy"]["value"]
    copies = "share within RMS 0.10 of a training picture: "
    assert rows[copies + "copy"]["value"] == 1 and rows[copies + "good"]["value"] == 0
    worse = {r["what"]: r for r in bench.quality(prior, data, judge, {"bad": data.test.roll(2, 0)})}
    assert not worse[top + "bad"]["holds"]


def test_strides(bench: Any, data: Any, judge: Any, prior: Any) -> None:
    """Against itself a chain has no excess; the interval holds the figure of a resample."""
    same, _ = bench.strides(prior, data, judge, 16, few=3, many=3)
    assert abs(same["value"]) < 1e-9 and same["holds"]
    row, ratio = bench.strides(prior, data, judge, 16, few=1, many=8)
    assert row["interval"][0] < row["interval"][1] and ratio["value"] > 1


def test_it_runs_whole(bench: Any, data: Any, prior: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, file, ar = prior.save(tmp_path / "p"), tmp_path / "r.json", tmp_path / "ar"
    argv = [str(folder), "--scorer-steps", "8", "--steps", "4", "--paired", "8", "--ar", str(ar), "--ar-samples", "128"]
    argv += ["--recipe", str(Path(__file__).parents[1] / "recipes" / "emoji-text.yaml")]
    bench.main([*argv, "--json", str(file)], data)
    report = json.loads(file.read_text())
    assert report["name"] == "text_to_image" and {"versions", "load", "rows", "settings"} <= report.keys()
    assert all({"what", "value", "floor", "ratio", "bar", "holds"} <= r.keys() for r in report["rows"])
    what = [r["what"] for r in report["rows"]]
    assert len(set(what)) == len(what) and any("causal" in w for w in what)
    barred = [r for r in report["rows"] if r["bar"]]
    assert len(barred) == 6 and not all(r["holds"] for r in barred)  # it was trained on nothing
    assert bench.table(report["rows"]) in capsys.readouterr().out
    marks = f"a\n<!-- table: begin ({bench.COMMAND}) -->\nstale\n<!-- table: end -->\nb"
    page = bench.between(marks, bench.COMMAND, bench.table(report["rows"]))
    assert "stale" not in page and page.startswith("a\n") and page.endswith("\nb")
    capsys.readouterr()
    again = bench.figures(prior, data, bench.arguments(argv))  # the twin is read, not trained again
    assert "samples/s" not in capsys.readouterr().out
    one, two = ([r["value"] for r in rows if "seconds" not in r["what"]] for rows in (report["rows"], again))
    assert one == two
    with pytest.raises(SystemExit, match="draws no pictures"):
        bench.main(["digits"])
