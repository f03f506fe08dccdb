"""What asking for help costs, against a floor measured in the same run: importing torch."""

import statistics
import subprocess
import sys
import time

import pytest

BAR = 0.15
ROUNDS = 7
CODE = {
    "bare interpreter": "pass",
    "import torch": "import torch",
    # What the installed script does.
    "oneprior --help": "import sys; sys.argv = ['oneprior', '--help']; from oneprior.cli import main; sys.exit(main())",
}


def wall(code: str) -> float:
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    seconds = time.perf_counter() - begin
    assert done.returncode == 0, done.stderr
    return seconds


@pytest.mark.timing
def test_help_costs_a_fraction_of_importing_torch() -> None:
    for code in CODE.values():
        wall(code)  # byte code written, files in memory
    # Interleaved, so that a busy minute of the machine falls on all alike.
    rounds = [{name: wall(code) for name, code in CODE.items()} for _ in range(ROUNDS)]
    median = {name: statistics.median(r[name] for r in rounds) for name in CODE}
    ratio = median["oneprior --help"] / median["import torch"]
    figures = ", ".join(f"{name} {1000 * seconds:.0f} ms" for name, seconds in median.items())
    assert ratio < BAR, f"oneprior --help costs {ratio:.3f} of import torch, bar {BAR}; medians of {ROUNDS}: {figures}"
