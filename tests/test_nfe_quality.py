"""The benchmark of quality: its exact end points are exact, its counts are counts, its verdict can be no."""

import importlib
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from oneprior.schedules import VP

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def bench() -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module("nfe_quality")
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_the_fast_mean_is_the_laws_and_draws_are_those_of_the_seed(bench: Any) -> None:
    for seed in (100, 101):
        problem = bench.Problem(seed)
        bench._agrees(problem)
        assert torch.equal(problem.means, bench.Problem(seed).means)
        assert 4 <= len(problem.means) <= 12 and 0.3 < float(problem.means.std()) < 1.2


def test_end_points_are_exact(bench: Any) -> None:
    # one component is a Gaussian, whose end point is known: m + (x/a - m) sd / sqrt(sd^2 + sbar^2)
    problem = bench.Problem(101)
    problem.means, problem.var, problem.logw = problem.means[:1], problem.var[:1], torch.zeros(1, dtype=torch.float64)
    x = torch.randn(8, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    a, _, s = VP().at(1.0)
    want = problem.means + (x / a - problem.means) * (problem.var / (problem.var + (s / a) ** 2)).sqrt()
    torch.testing.assert_close(problem.end(x, a, s), want, rtol=0, atol=1e-5)
    torch.testing.assert_close(problem.end(x, 0.0, 1.0), problem.means + x * problem.var.sqrt(), rtol=0, atol=1e-5)
    whole = bench.Problem(100)
    torch.testing.assert_close(whole._end(x, 0.0, 1.0, 250), whole._end(x, 0.0, 1.0, 500), rtol=0, atol=1e-5)


def test_calls_are_counted_and_a_broken_budget_is_left_out(bench: Any, capsys: pytest.CaptureFixture[str]) -> None:
    problem, eps = bench.Problem(100), torch.randn(3 * 16, 16, dtype=torch.float64)
    got = bench.measure(problem, bench.ours(VP()), eps, 6)
    assert got["calls"] == 6 and 0 < got["median"] < got["rmse"] < 1 and 0 <= got["away"] <= 1

    def greedy(ask: Any, eps: Tensor, n: int) -> Tensor:
        for _ in range(n):
            ask(eps, 0.1, 1.0)
        return ask(eps, 0.1, 1.0)

    def broken(ask: Any, eps: Tensor, n: int) -> Tensor:
        raise RuntimeError("no such setting")

    assert bench.measure(problem, greedy, eps, 6) is None and bench.measure(problem, broken, eps, 6) is None
    assert "no such setting" in capsys.readouterr().err


def test_the_verdict_can_be_no(bench: Any) -> None:
    def rows(worse: float, cases: tuple[str, ...]) -> list[dict[str, Any]]:
        made = []
        for mixture in range(bench.MIXTURES):
            for case in bench.CASES:
                for n in bench.BUDGETS:
                    mine = worse if case in cases else 0.5
                    made += [
                        {"mixture": mixture, "case": case, "n": n, "what": k, "rmse": v, "median": v, "away": 0.0}
                        for k, v in ((bench.OURS, mine), ("peer a", 1.0), ("peer b", 2.0))
                    ]
        return made

    def verdict(all_rows: list[dict[str, Any]]) -> bool:
        return bench.passes([*bench.beside([r for r in all_rows if r["mixture"] == 0]), *bench.ranks(all_rows)])

    assert verdict(rows(0.9, ("VP", "EDM"))) and verdict(rows(1.5, ("EDM",)))
    assert not verdict(rows(1.5, ("EDM", "VP"))) and not verdict(rows(2.5, ("EDM",)))
    table = bench.beside([r for r in rows(1.5, ("EDM",)) if r["mixture"] == 0])
    assert len(table) == 32 and math.isclose(sum(not r["holds"] for r in table), 8) and table[0]["best"] == "peer a"


@pytest.mark.filterwarnings("ignore")  # what strangers warn of on import and in use is theirs
@pytest.mark.parametrize(
    ("library", "case", "name"),
    [
        ("diffusers", "VP", "UniPC-2 exponential"), ("diffusers", "flow", "FlowMatchEuler"),
        ("diffusers", "EDM", "DPM++ 2M karras"), ("diffusers", "cosine", "IPNDM"), ("diffusers", "VP", "Heun karras"),
        ("azula", "flow", "vAB-2 sigma_min 1e-05"), ("azula", "VP", "DDIM sigma_min 1e-05"),
        ("k-diffusion", "EDM", "dpmpp_2m exponential 0.002"), ("k-diffusion", "VP", "heun karras 0.0105"),
        ("smalldiffusion", "EDM", "DDIM"), ("flow_matching", "cosine", "midpoint"), ("deepinv", "flow", "DDIM"),
        ("deepinv", "VP", "Euler"), ("deepinv", "EDM", "Heun karras"),
    ],
)  # fmt: skip
def test_a_peer_asked_rightly_converges(bench: Any, library: str, case: str, name: str) -> None:
    # a wrong scale or time in our question would leave an error of order one at any number of calls
    sys.path.insert(0, str(BENCHMARKS))
    try:
        entries = importlib.import_module("quality_peers").entries(case, bench.CASES[case])
    finally:
        sys.path.remove(str(BENCHMARKS))
    if library not in entries:
        pytest.skip(f"{library} is not installed")
    problem, eps = bench.Problem(100), torch.randn(3 * 16, 16, generator=torch.Generator().manual_seed(3)).double()
    few, many = (bench.measure(problem, entries[library][name], eps, n) for n in (10, 160))
    assert many["median"] < 0.05 and many["median"] < 0.5 * few["median"], (few, many)


def test_the_record_gives_the_peers_rows_again_for_its_versions_alone(bench: Any, tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    row = [0, "VP", 6, "peer a", 0.1, 0.01, 0.0]
    columns = [*bench.NAMES, *bench.COLUMNS]
    made = {"versions": {"peer": "1"}, "columns": columns, "curves": [[*row[:3], bench.OURS, *row[4:]], row]}
    record.write_text(json.dumps(made))
    assert bench.kept(record, {"peer": "1"}) == [dict(zip(columns, row, strict=True))]
    with pytest.raises(SystemExit, match="without --keep"):
        bench.kept(record, {"peer": "2"})
