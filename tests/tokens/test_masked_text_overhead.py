"""benchmarks/masked_text.py: its floor is the same method and its bar holds; what is as good; bits of silent nets."""

import importlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from oneprior.metrics import NGrams
from oneprior.nets import TokensConfig, build
from oneprior.tokens import Ancestral, FirstHitting


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
    yield importlib.import_module("masked_text")
    sys.path.pop(0)


def test_the_floor_is_ancestral(bench: Any) -> None:
    """From the same uniform numbers the same tokens, at every step."""
    net = bench.Table(32, 50)
    ours = Ancestral(16)(bench.denoiser(net), (1, 32), seeds=[3])
    hand = bench.by_hand(net, 1, 16, 16, bench.same_numbers(3, 32))
    assert torch.equal(hand, ours)


def test_as_many_calls_as_the_floor_has_steps(bench: Any) -> None:
    net = bench.Table(256, 20)
    x = FirstHitting(4)(bench.denoiser(net), (2, 256), seeds=range(2))
    assert net.calls == bench.STEPS and int(x.max()) < 19


def test_text_as_good_is_found(bench: Any, tmp_path: Path) -> None:
    """A table of logits has the same law in any number of calls: the fewest are as good, and a wrong law is not."""
    net, g = bench.Table(24, 8), torch.Generator().manual_seed(0)
    model = NGrams.of(torch.randint(7, (2000,), generator=g), 7, 2)
    keep = tmp_path / "kept.json"
    found, exact, *rows = bench.speed(
        bench.denoiser(net), model, 24, 48, [200, 400], [24, 12], kept=bench.Kept(keep, "a")
    )
    assert "24 tokens a call" in found["what"] and "beside cached ancestral, 200 steps" in found["what"]
    assert (found["value"], found["floor"]) == (rows[0]["value"], rows[1]["value"]) and exact["ratio"] == 1
    assert len(rows) == 2  # more calls are not tried
    calls = net.calls  # an interrupted table goes on from its file, of the same prior
    again = bench.speed(bench.denoiser(net), model, 24, 48, [200, 400], [24, 12], kept=bench.Kept(keep, "a"))
    assert again == [found, exact, *rows] and net.calls == calls
    with pytest.raises(SystemExit, match="is of the prior a, this is b"):
        bench.Kept(keep, "b")
    with pytest.MonkeyPatch.context() as m:  # one symbol again and again: another entropy
        m.setattr(bench, "Ancestral", lambda n, draw: lambda den, shape, seeds: torch.zeros(shape, dtype=torch.long))
        m.setattr(bench, "FirstHitting", lambda k=1: FirstHitting() if k == 1 else bench.Ancestral(k, ""))
        found = bench.speed(bench.denoiser(net), model, 24, 4, [2], [12])[0]["what"]
        assert "1 token a call" in found and "no number" in found


def test_bits_of_nets_that_know_nothing(bench: Any) -> None:
    """Uniform logits, masked and causal: log2 of the number of symbols, on every text, no gap between the two."""
    net, g = bench.Table(24, 8), torch.Generator().manual_seed(0)
    net.table.zero_()
    tokens, train = torch.randint(7, (40, 24), generator=g), torch.randint(7, (2000,), generator=g)
    silent = build(TokensConfig((24,), vocab=8, width=16, depth=1, heads=2, causal=True)).eval()  # zero at first
    bound, *grams, exact, gap = bench.bits(bench.denoiser(net), tokens, train, 7, ar=silent)
    assert bound["value"] == pytest.approx(math.log2(7), rel=1e-5) and bound["error"] < 1e-6
    assert exact["value"] == pytest.approx(math.log2(7), rel=1e-5) and abs(gap["value"]) < 1e-5
    assert len(grams) == 3 and all(row["value"] > 2.6 for row in grams)  # random text: they can only lose


@pytest.mark.timing
def test_first_hitting_holds_its_bar(bench: Any) -> None:
    """The fastest of each side; what was too slow once more."""
    rows: list[dict[str, Any]] = []
    for _ in range(3):
        rows = bench.overhead(rounds=1, cases=((1, 8192),), part=4)
        assert len(rows) == len(bench.SAMPLERS)
        if all(row["fastest"] <= row["bar"] for row in rows):
            break
    assert all(row["fastest"] <= row["bar"] for row in rows), rows
