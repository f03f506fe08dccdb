"""What a step may cost: benchmarks/step_overhead.py, each row against its own bar, and what needs no clock.

The floors must be the same methods as ours, the peers must be asked for as many network calls, a deterministic sampler
draws once, and coefficients of a path take no room for each pixel.
"""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import oneprior.noise
from oneprior.noise import Seeded
from oneprior.paths import sync
from oneprior.sampling import DDIM, SAMPLERS, Multistep, Solver, grids, sample
from oneprior.schedules import Cosine

ROOT = Path(__file__).resolve().parent.parent
ROWS = ("DDIM", "2M", "Heun", "UniPC-2", "guided DDIM", "half held DDIM")


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    """benchmarks/ as a script there sees it: its modules by their own names."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield importlib.import_module
    sys.path.pop(0)


@pytest.mark.timing
def test_every_row_holds_its_bar(bench: Any) -> None:
    """The fastest of each side: what others do on the machine can only make a round slower."""
    slow: dict[str, str] | None = None
    for _ in range(5):  # what was too slow once more
        rows = bench("step_overhead").rows(rounds=30, beside=False, only=slow)
        assert len(rows) == (2 * len(ROWS) if slow is None else len(slow))
        slow = {row["what"]: f"{row['fastest']:.2f} > {row['bar']}" for row in rows if row["fastest"] > row["bar"]}
        if not slow:
            break
    assert not slow, slow


@pytest.mark.parametrize("what", ROWS)
def test_the_floor_is_the_same_method(bench: Any, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """From the same noise both sides end in the same place, up to 100 roundings of float32."""
    shape = (2, 3, 8, 8)
    case = bench("step_overhead").cases(shape)[what]
    ours = case.ours()
    monkeypatch.setattr(torch, "randn", lambda shape: Seeded(range(shape[0]))(0, torch.empty(shape)))
    torch.testing.assert_close(case.hand(), ours, rtol=1e-4, atol=1e-5 * ours.abs().max().item())


# numpy 2 asks for an argument of Tensor.__array__ that torch has not, where a peer makes an array of a tensor
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_peers_make_as_many_calls(bench: Any) -> None:
    calls, steps = [0], 10

    def network(x: Tensor) -> Tensor:
        calls[0] += 1
        return x * 0.5

    # Heun may leave out the correction of its last step; guidance may double the batch or the calls
    expected = {"Heun": (2 * steps - 1, 2 * steps), "guided DDIM": (steps, 2 * steps)}
    for row, loops in bench("peer_loops").loops((2, 3, 8, 8), steps, network).items():
        for name, loop in loops.items():
            calls[0] = 0
            x = loop()
            assert calls[0] in expected.get(row, (steps,)), f"{name}, {row}: {calls[0]} calls"
            assert x.shape == (2, 3, 8, 8) and bool(torch.isfinite(x).all()), f"{name}, {row}"


@pytest.mark.parametrize("name", [name for name, s in SAMPLERS.items() if not s.solver.variance])
def test_noise_is_drawn_where_the_plan_has_it_and_once_at_the_start(
    bench: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    draws: list[int] = []
    inner = oneprior.noise._draws

    def counted(keys: Any, shape: Any, gaussian: bool) -> Any:
        draws.append(len(keys))
        return inner(keys, shape, gaussian)

    monkeypatch.setattr(oneprior.noise, "_draws", counted)
    den = bench("step_overhead").Trivial()
    sample(den, (2, 3, 4, 4), steps=10, sampler=name, seeds=range(2))
    plan = SAMPLERS[name].solver.plan(den.schedule, SAMPLERS[name].path(den, 10))
    noisy = sum(row.std != 0.0 for stage in plan for row in stage.rows)
    kappa: Any = getattr(SAMPLERS[name].solver, "kappa", 0.0)
    assert noisy == 0 or kappa != 0.0
    assert draws == [2] * (1 + noisy)


@pytest.mark.parametrize("solver", [DDIM(), Multistep()])
def test_coefficients_of_held_pixels_take_no_room_for_each_pixel(solver: Solver) -> None:
    def size(side: int) -> int:
        mask = torch.zeros(1, 1, side, side, dtype=torch.bool)
        mask[..., ::2] = True
        plan = solver.plan(Cosine(), sync(grids.cosine_time(Cosine(), 100)).hold(mask))
        numbers = [v for stage in plan for r in stage.rows for v in (stage.t, stage.s, r.keep, *r.w, r.anchor, r.std)]
        numbers += [stage.moved for stage in plan]
        tensors = {id(v): v.untyped_storage() for v in numbers if isinstance(v, Tensor)}
        return sum({s.data_ptr(): s.nbytes() for s in tensors.values()}.values())

    assert 0 < size(8) == size(256) < 64 * 1024  # 100 steps, two tracks, at most a dozen float64 numbers each


def test_a_stand_in_lasts_as_long_as_an_import(bench: Any) -> None:
    with bench("peers")._without(("nowhere_to_be_found",)):
        inside: Any = importlib.import_module("nowhere_to_be_found.deep")
        assert isinstance(inside.Base, type) and isinstance(inside.Mode.NEAREST, type)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("nowhere_to_be_found.deep")


def test_a_peer_that_cannot_be_imported_is_left_out_aloud(
    bench: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    peers = bench("peers")
    monkeypatch.setitem(peers.PEERS, "gone", peers.Recipe("nowhere_to_be_found", ("sampling",)))
    assert peers.peer("gone") is None
    assert "gone is left out: ModuleNotFoundError" in capsys.readouterr().err


def test_the_table_is_that_of_the_recorded_run(bench: Any) -> None:
    page = (ROOT / "docs" / "speed.md").read_text()
    report = json.loads((ROOT / "docs" / "results" / "step_overhead.json").read_text())
    module = bench("step_overhead")
    assert bench("peers").between(page, module.COMMAND, module.table(report)) == page
