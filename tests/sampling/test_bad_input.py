"""Bad input to sampling is refused, saying what was expected and what came."""

from typing import Any

import pytest
import torch

from oneprior import paths
from oneprior.denoiser import wrap
from oneprior.exact import Mixture
from oneprior.guidance import CFG
from oneprior.paths import Hold, Path
from oneprior.sampling import sample
from oneprior.schedules import Cosine
from oneprior.uses.likelihood import likelihood

DEN = Mixture([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.5]], 0.1).denoiser(Cosine())
VALUE = torch.zeros(3, 2)


def draw(**how: Any) -> Any:
    return sample(DEN, (3, 2), seeds=range(3), **how)


@pytest.mark.parametrize("steps", [0, -1, 2.5])
def test_steps(steps: Any) -> None:
    with pytest.raises(ValueError, match=f"steps = {steps}.*at least 1"):
        draw(steps=steps)


def test_a_grid_that_rises() -> None:
    with pytest.raises(ValueError, match=r"step 1 rises from \[0.3\] to \[0.5\]"):
        draw(path=paths.sync([1.0, 0.3, 0.5, 0.0]))
    draw(path=paths.restart([1.0, 0.5, 0.3, 0.0], 0.3, 0.5, 1))  # a named constructor may


@pytest.mark.parametrize("times", [[1.2, 0.3, 0.0], [1.0, float("nan"), 0.0], [1.0, -0.1]])
def test_times_of_a_path(times: list[float]) -> None:
    with pytest.raises(ValueError, match="times run from 0 to 1"):
        Path(torch.tensor(times, dtype=torch.float64)[:, None])


@pytest.mark.parametrize("t", [1.5, -0.1, float("nan"), torch.tensor([0.5, 0.2, 1.5]), torch.tensor([0.5, -0.2, 0.1])])
def test_times_of_a_call(t: Any) -> None:
    with pytest.raises(ValueError, match="time runs from 0"):
        DEN(VALUE, t)


@pytest.mark.parametrize("clamp", [False, True])
def test_the_mask_of_a_hold(clamp: bool) -> None:
    wrong = {"shape": torch.ones(3, 3, dtype=torch.bool), "axes": torch.ones(3, 2, 1, dtype=torch.bool)}
    for mask in wrong.values():
        with pytest.raises(ValueError, match=r"mask of a hold has shape .*\(3, 2\)"):
            draw(steps=4, hold=Hold(VALUE, mask, clamp=clamp))
    with pytest.raises(TypeError, match="bool"):
        draw(steps=4, hold=Hold(VALUE, torch.ones(3, 2), clamp=clamp))
    with pytest.raises(ValueError, match=r"value of a hold has shape \(3, 5\)"):
        draw(steps=4, hold=Hold(torch.zeros(3, 5), torch.ones(3, 2, dtype=torch.bool), clamp=clamp))


def test_a_network_that_gives_nan() -> None:
    class Broken(torch.nn.Module):
        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return x * (float("nan") if t[0] < 0.5 else 1.0)

    with pytest.raises(FloatingPointError, match="after network call 6 of 8"):
        sample(wrap(Broken(), Cosine(), "v"), (2, 2), steps=8, sampler="ddim", seeds=range(2))


def test_a_likelihood_of_a_guided_denoiser() -> None:
    guided = CFG(DEN, 2.0, negative={"label": torch.zeros(3)})
    with pytest.raises(ValueError, match="no model of a density"):
        likelihood(guided, VALUE, label=torch.zeros(3))
    with pytest.raises(ValueError, match="finite"):
        CFG(DEN, float("nan"), negative={"label": torch.zeros(3)})
