"""The command line as such: help without torch, what is not known, exit codes, errors in one line."""

import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from oneprior import __version__
from oneprior.cli import COMMANDS, INTERRUPTED

Cli = Callable[..., Any]


def test_overview(cli: Cli) -> None:
    done = cli("--help")
    assert done.code == 0 and all(name in done.out for name in COMMANDS) and "130 interrupted" in done.out
    assert cli().code == 2
    assert __version__ in cli("--version").out


def test_unknown_command(cli: Cli) -> None:
    done = cli("smaple", "digits")
    assert done.code == 2 and done.err.count("\n") == 1 and "did you mean sample?" in done.err and not done.out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command(cli: Cli, name: str) -> None:
    done = cli(name, "--help")
    flat = " ".join(done.out.split())
    assert done.code == 0 and f"oneprior {name}" in flat and "Exit codes: 0 done" in flat
    device = ("--device",) if name != "inspect" else ()  # which computes nothing
    assert all(flag in flat for flag in ("--json", "--config", "--debug", *device))


def test_help_brings_no_torch() -> None:
    names = list(COMMANDS)
    code = f"""
import sys, io, contextlib
from oneprior.cli import main
for name in {names}:
    with contextlib.redirect_stdout(io.StringIO()):
        assert main([name, "--help"]) == 0
    heavy = {{"torch", "numpy", "PIL", "matplotlib"}} & set(sys.modules)
    assert not heavy, (name, heavy)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_unknown_flag(cli: Cli, name: str) -> None:
    given = {"demo": [], "evaluate": ["digits", "digits"], "compare": ["digits", "digits"]}.get(name, ["digits"])
    done = cli(name, *given, "--stepz", "3")
    assert done.code == 2 and "stepz" in done.err and "Traceback" not in done.err and not done.out


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ValueError("b has shape 3"), 2, "error: b has shape 3\n"),
        (KeyError("no such array"), 2, "error: no such array\n"),
        (OSError(28, "the disk is full", "f"), 1, "error: the disk is full: f\n"),
        (RuntimeError("odd"), 1, "error: RuntimeError: odd (--debug shows where)\n"),
        (KeyboardInterrupt(), INTERRUPTED, "interrupted; what was saved stays\n"),
    ],
)
def test_an_error_is_one_line(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, said: str
) -> None:
    def run(*_: object) -> int:
        raise error

    monkeypatch.setattr(import_module("oneprior.cli.info"), "run", run)
    done = cli("info")
    assert (done.code, done.err, done.out) == (code, said, "")
    if not isinstance(error, KeyboardInterrupt):
        assert "Traceback" in cli("info", "--debug").err


def test_demo_is_wired(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = []
    monkeypatch.setattr(import_module("oneprior.demo"), "run", lambda job: seen.append(job) or 0)
    assert cli("demo", "--toy", "--quick", "--out", tmp_path / "x", "--force", "--json").code == 0
    (job,) = seen
    assert (job.toy, job.quick, job.force, job.json, job.device) == (True, True, True, True, "auto")
    assert Path(job.out) == tmp_path / "x"
