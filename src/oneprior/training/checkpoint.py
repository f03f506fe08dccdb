"""Checkpoints: folders `step-000123` with a SHA-256 per file, written aside and renamed, read back whole or not at all.

A folder holds model.safetensors, ema-WIDTH.safetensors, optimiser.safetensors, objective.safetensors (if the objective
has state) and state.json, which lists the others' hashes and ends in its own. `latest` names the newest; it is
replaced after the folder stands, and older folders go only after that. A reader takes the newest folder that is
whole, and says which it passed over.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from oneprior.training.files import atomic_folder, digest, load_tensors, save_tensors, write_json, write_text

FORMAT = 1


class CheckpointError(RuntimeError):
    """No checkpoint of a folder can be used."""


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint. `passed` says which newer ones were not, and why."""

    path: Path
    state: dict[str, Any]
    passed: tuple[str, ...] = field(default=())

    def tensors(self, name: str) -> dict[str, Tensor]:
        return load_tensors(self.path / f"{name}.safetensors")[0]


def _own_hash(state: Mapping[str, Any]) -> str:
    rest = {k: v for k, v in state.items() if k != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def write(
    root: Path, step: int, files: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any], keep: int = 2
) -> Path:
    """Write one checkpoint, point `latest` at it, then remove all but the newest `keep`.

    Raises:
        OSError: when it cannot be written (full or read-only disk); earlier checkpoints are untouched.
    """
    path = root / f"step-{step:06d}"
    with atomic_folder(path) as aside:
        for name, tensors in files.items():
            save_tensors(aside / f"{name}.safetensors", tensors)
        hashes = {p.name: digest(p) for p in sorted(aside.iterdir())}
        whole = json.loads(json.dumps({"format": FORMAT, "step": step, **state, "files": hashes}))
        write_json(aside / "state.json", {**whole, "sha256": _own_hash(whole)})
    write_text(root / "latest", path.name + "\n")
    older = [p for p in folders(root) if _step(p) < step]
    for old in older[keep - 1 :]:
        shutil.rmtree(old, ignore_errors=True)
    return path


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def folders(root: Path) -> list[Path]:
    """Checkpoint folders, the newest first; those being written (`.tmp`) are not among them."""
    return sorted((p for p in root.glob("step-*") if p.is_dir() and not p.suffix), key=_step, reverse=True)


def tidy(root: Path, step: int) -> None:
    """After a resume from `step`: remove what was cut short, and rename the later folders, which were found damaged.

    Renamed (NAME.damaged) they no longer count among those to keep, and whoever wants to can look at them.
    """
    for path in root.glob("step-*.tmp"):
        shutil.rmtree(path, ignore_errors=True)
    for path in folders(root):
        if _step(path) > step:
            shutil.rmtree(target := path.with_name(path.name + ".damaged"), ignore_errors=True)
            path.rename(target)


def check(path: Path) -> dict[str, Any]:
    """The state of a checkpoint folder, after testing every hash.

    Raises:
        ValueError: naming the file that is missing, truncated or altered.
    """
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        if not isinstance(state, dict) or state.get("sha256") != _own_hash(state):
            raise ValueError
    except FileNotFoundError as e:
        raise ValueError("state.json is missing") from e
    except ValueError as e:
        raise ValueError("state.json is truncated or altered") from e
    if state["format"] != FORMAT:
        raise ValueError(f"its format is {state['format']}, this version reads {FORMAT}")
    for name, sha in state["files"].items():
        if not (path / name).is_file():
            raise ValueError(f"{name} is missing")
        if digest(path / name) != sha:
            raise ValueError(f"{name} is truncated or altered")
    return state


def newest(root: Path) -> Checkpoint | None:
    """The newest whole checkpoint of a folder; None when there is none at all.

    Raises:
        CheckpointError: when there are checkpoints but every one is damaged.
    """
    passed = []
    for path in folders(root):
        try:
            return Checkpoint(path, check(path), tuple(passed))
        except ValueError as e:
            passed.append(f"{path.name} was passed over: {e}")
    if passed or (root / "latest").exists():
        raise CheckpointError(
            f"no checkpoint in {root} is whole: {'; '.join(passed) or 'the folder that `latest` names is gone'}. "
            "Restore one from a copy, or start again with --force"
        )
    return None


Optimisers = Sequence[tuple[torch.optim.Optimizer, list[str]]]
"""optimisers, each with the names of the parameters that it moves"""


def pack_optimisers(optimisers: Optimisers) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimisers' state as tensors named PARAMETER/KEY, and the rest as JSON."""
    tensors: dict[str, Tensor] = {}
    rest: dict[str, Any] = {}
    for optimiser, names in optimisers:
        for index, state in optimiser.state_dict()["state"].items():
            for key, value in state.items():
                (tensors if isinstance(value, Tensor) else rest)[f"{names[index]}/{key}"] = value
    return tensors, rest


def unpack_optimisers(optimisers: Optimisers, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
    """Put back what `pack_optimisers` took; hyperparameters stay those of the settings."""
    state: dict[str, dict[str, Any]] = {}
    for address, value in {**tensors, **rest}.items():
        name, _, key = address.rpartition("/")
        state.setdefault(name, {})[key] = value
    for optimiser, names in optimisers:
        own = {i: state.pop(name) for i, name in enumerate(names) if name in state}
        optimiser.load_state_dict({"state": own, "param_groups": optimiser.state_dict()["param_groups"]})
    if state:
        raise KeyError(f"state of parameters that are not trained: {', '.join(state)}")
