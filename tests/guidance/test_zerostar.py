"""CFG-zero*: the unconditional velocity scaled to fit, and the first steps taken at rest."""

from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import Simple, draw
from oneprior import paths
from oneprior.denoiser import Denoiser
from oneprior.guidance import CFG, CFGZero
from oneprior.noise import Seeded
from oneprior.sampling import DDIM, sample, walk
from oneprior.schedules import VP, Cosine, RectifiedFlow, Schedule
from oneprior.times import align

LABEL, X = torch.tensor([1.0, 2.0, 3.0]), draw(3, 2, 4)


def f(x: Tensor, t: Any, label: Tensor, **_: Any) -> Tensor:
    return torch.tanh(x + align(label.to(x), x))


def den(schedule: Schedule | None = None, axes: int = 0) -> Simple:
    return Simple(f, schedule or RectifiedFlow(), axes, {"label": 0})


def velocities(d: Denoiser, t: Any) -> tuple[Tensor, Tensor]:
    return d(X, t, label=LABEL).velocity, d(X, t, label=torch.zeros(3)).velocity


@pytest.mark.parametrize("schedule", [RectifiedFlow(), VP(), Cosine()], ids=["rf", "vp", "cosine"])
@pytest.mark.parametrize("w", [0.0, 4.0, torch.tensor([0.5, 1.0, 6.0])], ids=str)
def test_the_formula_on_the_velocity(schedule: Schedule, w: Any) -> None:
    weight = w[:, None, None].double() if isinstance(w, Tensor) else w
    for t in (0.3, 0.8, torch.tensor([0.2, 0.5, 0.9]).double(), draw(3, 2).sigmoid()):
        c, u = velocities(den(schedule, 1), t)
        fit = (c * u).flatten(1).sum(1) / u.square().flatten(1).sum(1)
        u = fit[:, None, None] * u
        assert ((c - u) * u).flatten(1).sum(1).abs().max() < 1e-9, "what is left is orthogonal: the nearest multiple"
        got = CFGZero(den(schedule, 1), w, zero=1)(X, t, label=LABEL)
        torch.testing.assert_close(got.velocity, u + weight * (c - u), rtol=1e-9, atol=1e-9)
    assert (got.mean - CFG(den(schedule, 1), w)(X, t, label=LABEL).mean).abs().max() > 1e-3, "another method"


@pytest.mark.parametrize("zero", [0, 1, 2, 9])
def test_the_first_steps_are_taken_at_rest(zero: int) -> None:
    d, times = den(), [1.0, 0.8, 0.5, 0.2, 0.0]
    x = X
    for i, out in enumerate(walk(CFGZero(d, 4.0, zero=zero), X, paths.sync(times), DDIM(), Seeded([0]), label=LABEL)):
        still = i < min(zero, 4)
        assert torch.allclose(out.x, x, atol=1e-12) == still
        if still:
            assert out.posterior.velocity.abs().max() < 1e-12
        x = out.x
    assert len(d.calls) == 4 - min(zero, 4), "a step at rest asks nobody"
    direct = CFGZero(d, 4.0, zero=2)(X, 1.0, label=LABEL)
    assert direct.velocity.abs().max() > 0.1, "outside a trajectory there is no first step"


def test_frames_rest_in_their_own_first_step() -> None:
    times, d = [1.0, 0.8, 0.5, 0.0], den(None, 1)
    begun = CFGZero(d, 4.0).begin(paths.pyramid(2, times, 1))
    t = torch.tensor([[0.8, 1.0]]).double()
    post = begun(X, t, label=LABEL)
    want = CFGZero(d, 4.0)(X, t, label=LABEL).velocity
    assert post.velocity[:, 1].abs().max() < 1e-12
    torch.testing.assert_close(post.velocity[:, 0], want[:, 0])


def test_every_sampler_takes_it() -> None:
    for name in ("ddim", "2m", "heun", "ancestral"):
        got = sample(CFGZero(den(), 3.0), (3, 4), steps=5, sampler=name, seeds=range(3), label=LABEL)
        assert got.isfinite().all()


def test_no_velocity_to_scale() -> None:
    still = Simple(
        lambda x, t, label: torch.where(label[:, None, None] == 0, x, 2 * x), RectifiedFlow(), 0, {"label": 0}
    )
    assert CFGZero(still, 3.0)(X, 0.5, label=LABEL).mean.isfinite().all()


@pytest.mark.parametrize("zero", [-1, 0.5])
def test_what_is_refused(zero: Any) -> None:
    with pytest.raises(ValueError, match="a number of steps >= 0"):
        CFGZero(den(), 3.0, zero=zero)
