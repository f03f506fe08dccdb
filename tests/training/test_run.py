import json
import sys
from pathlib import Path

import pytest
import yaml

from oneprior.training.run import RunFolder


def test_a_run_is_described_and_never_written_over(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "r", {"seed": 3, "betas": (0.9, 0.99)}, command=["oneprior", "train", "a b"])
    assert yaml.safe_load((run.path / "config.yaml").read_text()) == {"seed": 3, "betas": [0.9, 0.99]}
    assert (run.path / "command.txt").read_text() == "oneprior train 'a b'\n"
    assert f"python {sys.version.split()[0]}" in (run.path / "environment.txt").read_text()
    with pytest.raises(FileExistsError, match="--resume continues it, --force"):
        RunFolder.create(tmp_path / "r")
    (run.path / "notes.txt").write_text("mine")
    run.log({"n": 1})
    assert RunFolder.create(tmp_path / "r", resume=True).lines() == [{"n": 1}]
    assert RunFolder.create(tmp_path / "r", force=True).lines() == []
    assert (run.path / "notes.txt").read_text() == "mine"  # force removes what a run writes, and nothing else


def test_a_folder_of_other_things_is_left_alone_even_by_force(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(FileExistsError, match=r"no run \(thesis.tex\)"):
        RunFolder.create(tmp_path, force=True)
    assert (tmp_path / "thesis.tex").exists()
    with pytest.raises(FileExistsError, match="is a file"):
        RunFolder.create(tmp_path / "thesis.tex")
    with pytest.raises(FileNotFoundError, match="without --resume"):
        RunFolder.create(tmp_path / "new", resume=True)


def test_the_log_is_cut_to_the_checkpoint(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "r")
    for n in (10, 20, 30):
        run.log({"n": n})
    with open(run.log_file, "a") as f:
        f.write('{"n": 4')  # killed while writing
    run.averages.mkdir()
    for n in (10, 30):
        (run.averages / f"0.050-{n:012d}.safetensors").touch()
    run.rewind(20)
    assert [json.loads(line)["n"] for line in run.log_file.read_text().splitlines()] == [10, 20]
    assert [p.name for p in run.averages.iterdir()] == ["0.050-000000000010.safetensors"]


def test_other_processes_leave_the_folder_to_the_main_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    RunFolder.create(tmp_path / "r")
    assert not (tmp_path / "r").exists()
