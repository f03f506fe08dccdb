"""docs/samplers.md: whatever stands in a column *here* exists, and no scheduler of diffusers is forgotten."""

import re
from pathlib import Path

import pytest

from oneprior import paths
from oneprior.paths import Path as Route
from oneprior.sampling import SAMPLERS, Solver, grids, solvers
from oneprior.schedules import VE, VP, Eta, RectifiedFlow, Schedule

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "samplers.md").read_text()
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| ")]
NAMES = {
    **{name: getattr(solvers, name) for name in solvers.__all__},
    **{"paths": paths, "grids": grids, "Eta": Eta, "RectifiedFlow": RectifiedFlow, "VE": VE, "VP": VP},
}
QUOTED = sorted({code for row in ROWS for cell in row[1:] for code in re.findall(r"`([^`]+)`", cell)})
WORDS = {"predict_x0", "shift", "eta=", "dpmsolver++", "Eta", "temperature=", "Hold(clamp=True)", "paths.churn"}


@pytest.mark.parametrize("code", [c for c in QUOTED if c not in WORDS])
def test_every_entry_exists(code: str) -> None:
    made = eval(code, dict(NAMES))
    if isinstance(made, str):
        assert made in SAMPLERS
    else:
        assert isinstance(made, Solver | Route | Schedule) or callable(made)


def test_every_name_of_ours_is_on_the_page() -> None:
    assert {code.strip('"') for code in QUOTED if code.startswith('"')} == set(SAMPLERS)


def test_every_scheduler_of_diffusers_is_on_the_page() -> None:
    diffusers = pytest.importorskip("diffusers")
    schedulers = {name for name in dir(diffusers) if name.endswith("Scheduler")}
    listed = {name for row in ROWS for name in re.findall(r"\w+Scheduler\b", row[0])}
    assert schedulers <= listed, schedulers - listed
