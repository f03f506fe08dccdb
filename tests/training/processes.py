"""Runs in several processes that get killed, stopped, resumed and compared; prints one JSON object.

    python tests/training/processes.py FOLDER --kills 10 --seed 0

Imports torch once and forks every run, so that a run costs a fraction of a second.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, NamedTuple

import lightning_fabric  # noqa: F401  (imported once, before the forks)
import numpy as np
import torch
from training_standins import tiny

from oneprior.training import order
from oneprior.training.batches import Batch
from oneprior.training.files import load_tensors

STEPS = 60


def careless(seed: int, stream: str, k: np.ndarray, shape: tuple[int, ...] = ()) -> np.ndarray:
    return torch.randn(len(k), *shape).numpy()


class Doom(NamedTuple):
    """When a process signals itself: `delay` seconds after its own `nth` step, or system call of a save."""

    what: str
    nth: int
    delay: float = 0.0
    number: signal.Signals = signal.SIGKILL
    rank: int = 0

    def strike(self, seen: int) -> None:
        if seen == self.nth and self.delay:
            threading.Timer(self.delay, os.kill, (os.getpid(), self.number)).start()
        elif seen == self.nth:
            os.kill(os.getpid(), self.number)


def job(
    run: Path, rank: int, world: int, port: int, doom: Doom | None, control: bool, settings: dict[str, Any]
) -> None:
    if world > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        os.environ |= {"LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        os.environ |= {"TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0"}
    if control:
        order.normal = careless  # type: ignore[assignment]
        torch.default_generator.manual_seed(0)
    trainer = tiny(run, **settings)
    prepare, fsync, seen, calls = trainer.batches.prepare, os.fsync, [], itertools.count(1)

    def recorded(k: np.ndarray) -> Batch:
        b = prepare(k)
        first = b.noise.flatten(1)[:, 0]
        rows = zip(k.tolist(), b.x0.sum((1, 2, 3)).tolist(), b.t.tolist(), first.tolist(), strict=True)
        seen.extend((*row, label) for row, label in zip(rows, b.cond["label"].tolist(), strict=True))
        return b

    def counted(handle: int) -> None:
        if doom and doom.what == "save":
            doom.strike(next(calls))
        fsync(handle)

    trainer.batches.prepare, os.fsync = recorded, counted
    for i, _ in enumerate(trainer.fit(), 1):
        if doom and doom.what == "step":
            doom.strike(i)
    (run.parent / f"{run.name}-seen-{rank}.json").write_text(json.dumps(seen))


def start(run: Path, world: int, doom: Doom | None = None, control: bool = False, **settings: Any) -> list[int]:
    run.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    pids = []
    for rank in range(world):
        if pid := os.fork():
            pids.append(pid)
            continue
        code = 1
        try:
            log = os.open(run.parent / f"{run.name}-{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            job(run, rank, world, port, doom if doom and doom.rank == rank else None, control, settings)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return pids


def finish(run: Path, pids: list[int]) -> None:
    for rank, pid in enumerate(pids):
        if os.waitpid(pid, 0)[1]:
            raise SystemExit(f"{run} failed:\n{(run.parent / f'{run.name}-{rank}.txt').read_text()}")


def kill(run: Path, world: int, doom: Doom, **settings: Any) -> str:
    """Start a run that is doomed; says where it was struck."""
    (pid, *others) = start(run, world, doom, **settings)
    if os.WTERMSIG(os.waitpid(pid, 0)[1]) != signal.SIGKILL:
        raise SystemExit(f"{run} was not killed:\n{(run.parent / f'{run.name}-0.txt').read_text()}")
    for other in others:
        os.kill(other, signal.SIGKILL)
        os.waitpid(other, 0)
    return "during a save" if list((run / "checkpoints").glob("*.tmp")) else "between saves"


def complete(run: Path, world: int, **settings: Any) -> None:
    finish(run, start(run, world, **settings))


def hashes(run: Path, step: int = STEPS) -> dict[str, str]:
    return json.loads((run / "checkpoints" / f"step-{step:06d}" / "state.json").read_text())["files"]


def kills(folder: Path, count: int, chance: random.Random) -> dict[str, Any]:
    """Byte equality of killed and resumed runs with unbroken ones, over processes and workers."""
    plan: dict[str, Any] = {"samples": STEPS * 12, "save_every": 60, "save_minutes": None}
    twins = {}
    for world in (1, 2):
        complete(folder / f"twin-{world}", world, **plan)
        twins[world] = hashes(folder / f"twin-{world}")
    moments: list[str] = []
    equal = {}
    for i, (world, workers) in enumerate([(1, 0), (1, 2), (2, 0), (2, 2)]):
        run = folder / f"killed-{world}-{workers}"
        for j in range(count // 4 + (i < count % 4)):
            if j % 2:  # within two saves of some 20 calls each; half of the blows land in the middle of a call
                doom = Doom("save", chance.randint(1, 40), chance.choice([0, 0.002]))
            else:
                doom = Doom("step", chance.randint(1, 15), chance.uniform(0, 0.02))
            moments.append(kill(run, world, doom, workers=workers, **plan))
        complete(run, world, workers=workers, **plan)
        equal[f"{world} processes, {workers} workers"] = hashes(run) == twins[world]
    for run in (folder / "control-twin", folder / "control"):
        if run.name == "control":
            kill(run, 1, Doom("step", 32), control=True, **plan)
        complete(run, 1, control=True, **plan)
    control = hashes(folder / "control-twin") == hashes(folder / "control")
    return {"moments": {m: moments.count(m) for m in sorted(set(moments))}, "equal": equal, "control": control}


def term(folder: Path) -> dict[str, Any]:
    """SIGTERM to one of two processes: both end well, with a checkpoint, and the run can go on to the same end."""
    plan: dict[str, Any] = {"samples": STEPS * 12, "save_every": 60, "save_minutes": None}
    run = folder / "term"
    finish(run, start(run, 2, Doom("step", 7, number=signal.SIGTERM, rank=1), **plan))
    stopped = (run / "checkpoints" / "latest").read_text()
    complete(run, 2, **plan)
    return {"stopped": stopped.strip(), "equal": hashes(run) == hashes(folder / "twin-2")}


def worlds(folder: Path) -> dict[str, Any]:
    """The same run split in other ways; 13 samples a step do not divide evenly. Relative distances of the weights."""
    plan: dict[str, Any] = {"batch": 13, "dropout": 0.0, "save_minutes": None}
    ways = {"1": (1, None), "1, micro 4": (1, 4), "2": (2, None), "2, micro 4": (2, 4)}
    model, seen = {}, {}
    for name, (world, micro) in ways.items():
        run = folder / f"world-{world}-{micro}"
        complete(run, world, samples=40 * 13, micro_batch=micro, **plan)
        model[name] = weights(run)
        files = folder.glob(f"{run.name}-seen-*.json")
        seen[name] = sorted(tuple(row) for file in files for row in json.loads(file.read_text()))
    for name, (first, second) in {"2, then 1": (2, 1), "1, then 2": (1, 2)}.items():
        run = folder / f"moved-{first}-{second}"
        complete(run, first, samples=20 * 13, **plan)
        complete(run, second, samples=40 * 13, **plan)
        model[name] = weights(run)
    far = {name: ((w - model["1"]).norm() / model["1"].norm()).item() for name, w in model.items()}
    return {"far": far, "same numbers": {k: v == seen["1"] for k, v in seen.items()}, "rows": len(seen["1"])}


def weights(run: Path) -> torch.Tensor:
    tensors, _ = load_tensors(run / "checkpoints" / "step-000040" / "ema-0.050.safetensors")
    return torch.cat([v.double().flatten() for k, v in sorted(tensors.items()) if k != "calls"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    out: dict[str, Any] = {"kills": kills(args.folder, args.kills, random.Random(args.seed))}
    out |= {"term": term(args.folder), "worlds": worlds(args.folder)}
    print(json.dumps(out))


if __name__ == "__main__":
    main()
