"""Killed, stopped and split runs, in processes of their own: see `processes.py`."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    command = [sys.executable, str(HERE / "processes.py"), str(tmp_path_factory.mktemp("runs")), "--kills", "10"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_killed_runs_end_byte_equal_to_unbroken_ones(outcome: dict[str, Any]) -> None:
    kills = outcome["kills"]
    assert sum(kills["moments"].values()) == 10
    assert len(kills["equal"]) == 4
    assert all(kills["equal"].values()), kills
    assert kills["moments"]["during a save"] >= 1, kills
    assert not kills["control"], "runs on a global generator came out equal too: this test sees nothing"


def test_sigterm_to_one_process_stops_all_with_a_checkpoint(outcome: dict[str, Any]) -> None:
    assert outcome["term"]["stopped"] in ("step-000008", "step-000009")  # struck after 7, known to all a step later
    assert outcome["term"]["equal"]


def test_processes_and_micro_batches_only_split_the_sum(outcome: dict[str, Any]) -> None:
    worlds = outcome["worlds"]
    assert worlds["rows"] == 40 * 13
    assert all(worlds["same numbers"].values()), worlds["same numbers"]
    assert len(worlds["far"]) == 6
    assert max(worlds["far"].values()) < 1e-5, worlds["far"]  # float32 sums in another order; measured 1e-7
