"""One process: resuming, damage, signals, gradients that are not finite, full disks, budgets."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training_standins import TinyDenoiser, TinyObjective, TinySource, tiny

from oneprior.times import LogitNormal, PerElement
from oneprior.training import checkpoint
from oneprior.training.dryrun import dry_run
from oneprior.training.run import RunFolder
from oneprior.training.settings import TrainSettings
from oneprior.training.trainer import State, Trainer


def states(trainer: Trainer) -> list[State]:
    return list(trainer.fit())


def hashes(run: Path, step: int = 20) -> dict[str, str]:
    return json.loads((run / "checkpoints" / f"step-{step:06d}" / "state.json").read_text())["files"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unbroken run with checkpoints at steps 10, 15 and 20."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    states(tiny(run, save_every=60, keep=3, halflife=60))
    return run


def copy(run: Path, to: Path) -> Path:
    return Path(shutil.copytree(run, to / "copy"))


def test_what_a_run_yields_and_leaves(whole: Path, tmp_path: Path) -> None:
    trainer = tiny(tmp_path / "r", save_every=120, preview_every=60)
    seen = states(trainer)
    assert [s.step for s in seen] == list(range(1, 21))
    assert [s.n for s in seen if s.preview] == [60, 120, 180, 240]
    assert [s.saved.name for s in seen if s.saved] == ["step-000010", "step-000020"]
    assert [s.line["n"] for s in seen if s.line] == [60, 120, 180, 240]
    assert trainer.stopped == "samples" and seen[-1].left == 0
    first, last = (s.line["loss"] for s in (seen[4], seen[-1]) if s.line)
    assert last < first
    assert RunFolder(tmp_path / "r").lines()[-1] == seen[-1].line
    names = {p.name for p in (whole / "checkpoints" / "step-000020").iterdir()}
    averages = {"ema-0.050.safetensors", "ema-0.100.safetensors", "ema-halflife-60.safetensors"}
    assert names == {"model.safetensors", "optimiser.safetensors", "objective.safetensors", "state.json", *averages}
    assert (whole / "checkpoints" / "latest").read_text() == "step-000020\n"
    assert not states(tiny(tmp_path / "r", save_every=120))  # it has ended


def test_a_run_in_memory_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trainer = tiny()
    assert len(states(trainer)) == 20
    assert trainer.save() is None and not list(tmp_path.iterdir())


def test_stopping_anywhere_and_going_on_changes_nothing(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "r"
    for stop in (3, 4, 11, 17):
        trainer = tiny(run, halflife=60, workers=stop % 3, keep=3)
        with closing(trainer.fit()) as fit:  # type: ignore[type-var]
            for state in fit:
                torch.rand(3)  # whatever the caller draws
                with trainer.averages.applied():
                    torch.rand(1)
                if state.step == stop:
                    trainer.save()
                    break
    states(tiny(run, halflife=60, keep=3))
    assert hashes(run) == hashes(whole)


def test_fit_goes_on_where_the_caller_broke_off() -> None:
    trainer, twin = tiny(), tiny()
    for state in trainer.fit():
        if state.step == 7:
            break
    assert [s.step for s in trainer.fit()] == list(range(8, 21))
    states(twin)
    assert all(torch.equal(a, b) for a, b in zip(trainer.den.parameters(), twin.den.parameters(), strict=True))


def test_the_global_generator_is_given_back() -> None:
    trainer = tiny(samples=36)
    before = torch.get_rng_state()
    states(trainer)
    assert torch.equal(torch.get_rng_state(), before)


def damage(how: str, file: Path) -> None:
    data = file.read_bytes()
    match how:
        case "truncated":
            file.write_bytes(data[: len(data) // 2])
        case "emptied":
            file.write_bytes(b"")
        case "altered":
            middle = len(data) * 2 // 3
            file.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
        case "missing":
            file.unlink()


FILES = ["model", "optimiser", "objective", "ema-0.050", "ema-0.100", "ema-halflife-60"]


@pytest.mark.parametrize("how", ["truncated", "emptied", "altered", "missing"])
@pytest.mark.parametrize("name", [*(f"{f}.safetensors" for f in FILES), "state.json"])
def test_a_damaged_newest_checkpoint_is_passed_over(whole: Path, tmp_path: Path, how: str, name: str) -> None:
    run = copy(whole, tmp_path)
    damage(how, run / "checkpoints" / "step-000020" / name)
    trainer = tiny(run, halflife=60, keep=3)
    assert trainer.resume()
    assert trainer.step == 15
    assert name in trainer.messages[0] and "step-000020 was passed over" in trainer.messages[0]
    assert trainer.messages[1] == "resumed from step-000015 at 180 samples"
    assert not [line for line in RunFolder(run).lines() if line["n"] > 180]


def test_after_damage_the_run_still_ends_the_same_and_keeps_whole_ones(whole: Path, tmp_path: Path) -> None:
    run = copy(whole, tmp_path)
    damage("altered", run / "checkpoints" / "step-000020" / "model.safetensors")
    states(tiny(run, halflife=60, keep=2))
    assert hashes(run) == hashes(whole)
    assert [p.name for p in checkpoint.folders(run / "checkpoints")] == ["step-000020", "step-000015"]
    assert (run / "checkpoints" / "step-000020.damaged").is_dir()


def test_with_none_left_the_load_refuses(whole: Path, tmp_path: Path) -> None:
    run = copy(whole, tmp_path)
    for folder in checkpoint.folders(run / "checkpoints"):
        damage("truncated", folder / "model.safetensors")
    with pytest.raises(checkpoint.CheckpointError, match=r"is whole: step-000020 was passed over: model"):
        states(tiny(run, halflife=60))
    for folder in checkpoint.folders(run / "checkpoints"):
        shutil.rmtree(folder)
    with pytest.raises(checkpoint.CheckpointError, match="latest"):
        states(tiny(run, halflife=60))


def test_leftovers_of_a_cut_save_are_ignored_and_removed(whole: Path, tmp_path: Path) -> None:
    run = copy(whole, tmp_path)
    shutil.copytree(run / "checkpoints" / "step-000020", run / "checkpoints" / "step-000025.tmp")
    trainer = tiny(run, halflife=60)
    assert trainer.resume() and trainer.step == 20
    assert not list((run / "checkpoints").glob("*.tmp"))


def test_another_run_is_refused_with_the_reason(whole: Path, tmp_path: Path) -> None:
    run = copy(whole, tmp_path)
    with pytest.raises(ValueError, match=r"other settings \(lr: 0.01 -> 0.1\)"):
        tiny(run, halflife=60, lr=0.1).resume()
    trainer = tiny(run, halflife=60)
    trainer.source = TinySource(50)
    with pytest.raises(ValueError, match=r"'count': 101.*'count': 50"):
        trainer.resume()
    settings, net = tiny(halflife=60).settings, TinyDenoiser()
    net.out = nn.Linear(32, 15)
    with pytest.raises(ValueError, match=r"another network (.|\n)*out\.weight"):
        Trainer(net, TinyObjective(), TinySource(), settings=settings, run=run).resume()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_run_with_a_checkpoint(whole: Path, tmp_path: Path, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    trainer = tiny(tmp_path / "r", halflife=60, keep=3)
    seen = []
    for state in trainer.fit():
        seen.append(state)
        if state.step == 7:
            os.kill(os.getpid(), number)
    assert trainer.stopped == number.name
    assert seen[-1].step == 8 and seen[-1].saved and seen[-1].line
    assert signal.getsignal(number) is before
    states(tiny(tmp_path / "r", halflife=60, keep=3))
    assert hashes(tmp_path / "r") == hashes(whole)


def test_a_second_ctrl_c_ends_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        for state in tiny().fit():
            if state.step == 3:
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


class Spoiled(TinyObjective):
    """Gives a NaN loss in chosen calls."""

    def __init__(self, bad: Callable[[int], bool]) -> None:
        super().__init__()
        self.bad, self.count = bad, 0

    def forward(self, den: nn.Module, x0: Tensor, t: Tensor, noise: Tensor, **cond: Tensor) -> Tensor:
        self.count += 1
        return super().forward(den, x0, t, noise, **cond) * (torch.nan if self.bad(self.count) else 1)


def spoiled(bad: Callable[[int], bool], run: Path | None = None, **settings: Any) -> Trainer:
    b = tiny(**settings).batches
    return Trainer(TinyDenoiser(), Spoiled(bad), TinySource(), b.codec, b.conditions, b.settings, run)


def test_steps_with_bad_gradients_are_skipped_and_counted(tmp_path: Path) -> None:
    run = tmp_path / "r"
    trainer = spoiled(lambda i: i in (4, 5, 9), run)
    moved = []
    before = {k: v.clone() for k, v in trainer.den.state_dict().items()}
    for state in trainer.fit():
        moved.append(any(not torch.equal(v, before[k]) for k, v in trainer.den.state_dict().items()))
        before = {k: v.clone() for k, v in trainer.den.state_dict().items()}
        assert torch.isfinite(state.grad_norm).item() == (state.step not in (4, 5, 9))
    last = RunFolder(run).lines()[-1]
    assert [i for i, m in enumerate(moved, 1) if not m] == [4, 5, 9]
    assert last["skipped"] == 3
    assert all(torch.isfinite(v).all() for v in trainer.averages.state("0.100").values())


def test_too_many_bad_gradients_in_a_row_stop_the_run() -> None:
    trainer = spoiled(lambda i: i > 6, patience=5)
    with pytest.raises(FloatingPointError, match=r"5 steps in a row, up to step 11 \(5 in all\).*lr=0.01"):
        states(trainer)
    assert all(torch.isfinite(p).all() for p in trainer.den.parameters())


def test_a_full_disk_stops_the_run_and_earlier_checkpoints_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, run = tiny(tmp_path / "r", save_every=60, halflife=60), tmp_path / "r"
    real = os.fsync

    def full(handle: int) -> None:
        if trainer.step == 15:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="the disk is full; what was there before is unchanged"):
        states(trainer)
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["latest", "step-000005", "step-000010"]
    checkpoint.check(run / "checkpoints" / "step-000010")
    assert (run / "checkpoints" / "latest").read_text() == "step-000010\n"


def test_a_read_only_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *args: Any, **kw: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(PermissionError, match=r"runs/r was not written, the folder is not writable"):
        RunFolder.create(tmp_path / "runs" / "r")


def test_minutes_end_a_run_that_can_go_on_exactly(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "r"
    trainer = tiny(run, halflife=60, keep=3, minutes=1e-9)
    assert [s.step for s in trainer.fit()] == [1]
    assert trainer.stopped == "minutes"
    states(tiny(run, halflife=60, keep=3))
    assert hashes(run) == hashes(whole)


def test_saves_by_the_clock(tmp_path: Path) -> None:
    assert all(s.saved for s in tiny(tmp_path / "r", save_minutes=1e-9, samples=36).fit())


def test_snapshots_rebuild_another_width(tmp_path: Path) -> None:
    from oneprior.training.ema import rebuild

    trainer = tiny(tmp_path / "r", snapshot_every=48)
    states(trainer)
    assert len(list((tmp_path / "r" / "averages").iterdir())) == 2 * 5
    trainer.den.load_state_dict(rebuild(tmp_path / "r" / "averages", 0.08))


def test_hidden_conditions_and_times_are_what_the_settings_say() -> None:
    trainer = tiny(drop=0.3, batch=1000, samples=1000)
    batch = trainer.batches.prepare(trainer.batches.split(0)[0])
    share = (batch.cond["label"] == 3).double().mean().item()
    assert abs(share - 0.3) < 5 * (0.3 * 0.7 / 1000) ** 0.5
    assert batch.x0.min() >= -1 and batch.x0.max() < 1
    assert (batch.t.sort().values - (torch.arange(1000) + 0.5) / 1000).abs().max() < 2e-3


def test_laws_over_elements_get_a_grid_of_uniforms() -> None:
    base = tiny(batch=200)
    base.batches.law = PerElement(LogitNormal(), axes=(1, 2), p=0.5)
    t = base.batches.prepare(base.batches.split(0)[0]).t
    assert t.shape == (200, 1, 4, 4)
    own = (t.flatten(1).std(1) > 0).double().mean().item()
    assert abs(own - 0.5) < 5 * 0.5 / 200**0.5


def test_a_batch_without_what_a_condition_needs_is_refused() -> None:
    class Bare(TinySource):
        def batch(self, indices: Any) -> dict[str, Tensor]:
            return {"x": super().batch(indices)["x"]}

    b = tiny().batches
    with pytest.raises(KeyError, match="label"):
        Trainer(TinyDenoiser(), TinyObjective(), Bare(), b.codec, b.conditions, b.settings)


def test_an_objective_that_averages_is_refused() -> None:
    class Mean(TinyObjective):
        def forward(self, den: nn.Module, x0: Tensor, t: Tensor, noise: Tensor, **cond: Tensor) -> Tensor:
            return super().forward(den, x0, t, noise, **cond).mean()

    b = tiny().batches
    trainer = Trainer(TinyDenoiser(), Mean(), TinySource(), b.codec, b.conditions, b.settings)
    with pytest.raises(ValueError, match=r"returned \(\), expected \(12,\)"):
        states(trainer)


def test_bf16_keeps_weights_and_loss_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oneprior.training.engine.bf16_speed", lambda device: 2.0)
    trainer = tiny(precision="bf16")
    assert not trainer.messages
    last = states(trainer)[-1]
    assert last.loss.dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in trainer.den.parameters())
    plain = states(tiny())[-1]
    assert last.loss != plain.loss
    assert last.loss.item() == pytest.approx(plain.loss.item(), rel=0.1)


def test_bf16_is_float32_on_a_cpu_without_units_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oneprior.training.engine.bf16_speed", lambda device: 0.01)
    trainer = tiny(precision="bf16")
    assert trainer.messages == ["precision: fp32, as bf16 has 0.01x its speed on this CPU"]
    assert states(trainer)[-1].loss == states(tiny())[-1].loss


def test_a_dry_run_measures_and_leaves_no_trace() -> None:
    trainer = tiny(micro_batch=6)
    forecast = dry_run(trainer, steps=2)
    count = sum(p.numel() for p in trainer.den.parameters())
    assert forecast.parameters == count
    # weights, gradients, two moments, two averages in float32, and more for activations
    assert 6 * 4 * count < forecast.memory < 12 * 4 * count
    assert forecast.seconds == pytest.approx(240 / forecast.rate)
    twin = tiny(micro_batch=6)
    states(trainer)
    states(twin)
    assert all(torch.equal(a, b) for a, b in zip(trainer.den.parameters(), twin.den.parameters(), strict=True))


def test_reads_ahead_and_errors_in_a_worker_reach_the_caller() -> None:
    class Breaks(TinySource):
        def batch(self, indices: Any) -> dict[str, Tensor]:
            if 0 in indices:
                raise RuntimeError("picture 0 is unreadable")
            return super().batch(indices)

    b = tiny(workers=2).batches
    trainer = Trainer(TinyDenoiser(), TinyObjective(), Breaks(), b.codec, b.conditions, b.settings)
    with pytest.raises(RuntimeError, match="picture 0"):
        states(trainer)


def test_training_without_fabric() -> None:
    code = "import sys; sys.modules['lightning_fabric'] = None; from training_standins import tiny; list(tiny().fit())"
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr


def test_the_real_parts_train(tmp_path: Path) -> None:
    from oneprior.codecs.pixels import Pixels
    from oneprior.conditions import Conditions, Label
    from oneprior.data.digits import digits
    from oneprior.denoiser import NetworkDenoiser
    from oneprior.nets import build
    from oneprior.nets.config import MLPConfig
    from oneprior.objective import Objective
    from oneprior.schedules import Cosine

    source = digits("train")
    conditions = Conditions({"label": Label(source.facts.classes or ())})
    settings = TrainSettings(samples=60 * 64, batch=64, lr=2e-3, warmup=640, log_every=640, save_minutes=None)
    torch.manual_seed(0)
    begin = build(MLPConfig(source.facts.shape, width=64, depth=2, **conditions.fields)).state_dict()

    def trainer(run: Path) -> Trainer:
        net = build(MLPConfig(source.facts.shape, width=64, depth=2, **conditions.fields))
        net.load_state_dict(begin)
        return Trainer(NetworkDenoiser(net, Cosine(), "v"), Objective(), source, Pixels(17), conditions, settings, run)

    lines = [s.line["loss"] for s in trainer(tmp_path / "a").fit() if s.line]
    assert lines[-1] < 0.8 * lines[0]
    broken = trainer(tmp_path / "b")
    for state in broken.fit():
        if state.step == 31:
            broken.save()
            break
    states(trainer(tmp_path / "b"))
    assert hashes(tmp_path / "a", 60) == hashes(tmp_path / "b", 60)
