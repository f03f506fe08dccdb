"""Adaptive projected guidance: plain guidance in the limit, its parts, and its momentum (guidance, proof 4)."""

from math import inf, nan
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import Simple, draw
from oneprior import paths
from oneprior.guidance import APG, CFG, time
from oneprior.noise import Seeded
from oneprior.sampling import Heun, sample, walk
from oneprior.schedules import VP
from oneprior.times import align


def f(x: Tensor, t: Any, label: Tensor, **_: Any) -> Tensor:
    return torch.tanh(x + align(label.to(x), x))


def den(axes: int = 0) -> Simple:
    return Simple(f, VP(), axes, {"label": 0})


LABEL, X = torch.tensor([1.0, 2.0, 3.0]), draw(3, 2, 4)


def halves(x: Tensor, t: Any = 0.4) -> tuple[Tensor, Tensor]:
    return f(x, t, LABEL), f(x, t, torch.zeros(3))


def dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)


@pytest.mark.parametrize("w", [0.5, 8.0, torch.tensor([0.0, 3.0, 8.0])], ids=str)
def test_with_everything_kept_it_is_plain_guidance(w: Any) -> None:
    got = APG(den(), w, eta=1.0, norm=inf, momentum=0.0)
    want = CFG(den(), w)
    for t in (0.4, torch.tensor([0.2, 0.5, 0.9])):
        assert (got(X, t, label=LABEL).mean - want(X, t, label=LABEL).mean).abs().max() < 1e-12
    kwargs: Any = {"steps": 6, "seeds": range(3), "start": X, "label": LABEL}
    assert (sample(got, X.shape, **kwargs) - sample(want, X.shape, **kwargs)).abs().max() < 1e-11


def test_without_the_parallel_part_the_update_is_orthogonal_to_the_mean() -> None:
    c, u = halves(X)
    every: Any = ({}, {"norm": 0.5}, {"norm": 0.5, "momentum": -0.5})
    for settings in every:
        update = APG(den(), 8.0, **settings)(X, 0.4, label=LABEL).mean - c
        assert (dot(update, c).abs() < 1e-12 * update.flatten(1).norm(dim=1) * c.flatten(1).norm(dim=1)).all()
        assert update.flatten(1).norm(dim=1).min() > 0.1
    assert dot(7 * (c - u), c).abs().min() > 0.1, "the control: that of plain guidance is not"
    half = APG(den(), 8.0, eta=0.5)(X, 0.4, label=LABEL).mean - c
    torch.testing.assert_close(dot(half, c), 0.5 * dot(7 * (c - u), c))


def test_long_updates_are_cut_a_sample() -> None:
    c, u = halves(X)
    length = (c - u).flatten(1).norm(dim=1)
    r = float(length.sort().values[1])  # one is shorter, one longer
    update = (APG(den(), 3.0, eta=1.0, norm=r)(X, 0.4, label=LABEL).mean - c).flatten(1).norm(dim=1)
    torch.testing.assert_close(update, 2 * length.clamp(max=r))
    assert (length > r).any() and (length < r).any()


@pytest.mark.parametrize("solver", [Heun(), None], ids=["heun", "2m"])
def test_momentum_is_of_one_trajectory(solver: Any) -> None:
    """Each call adds m times what the one before had; a second run begins anew."""
    guided = APG(den(), 4.0, eta=1.0, momentum=-0.5)
    times = [0.9, 0.6, 0.3, 0.1]
    run, calls = None, 0
    for out in walk(guided, X, paths.sync(times), solver or Heun(), Seeded(range(3)), label=LABEL):
        c, u = halves(out.posterior.x_t)
        run = c - u if run is None else c - u - 0.5 * run
        torch.testing.assert_close(out.posterior.mean, c + 3 * run, rtol=1e-12, atol=1e-12)
        calls += 1
    assert calls >= 3
    kwargs: Any = {"steps": 6, "seeds": range(3), "start": X, "label": LABEL}
    first = sample(guided, X.shape, **kwargs)
    assert torch.equal(first, sample(guided, X.shape, **kwargs))
    assert not torch.allclose(first, sample(APG(den(), 4.0, eta=1.0), X.shape, **kwargs))
    c, u = halves(X)
    for _ in range(2):  # asked outside a trajectory there is nothing to remember
        torch.testing.assert_close(guided(X, 0.4, label=LABEL).mean, c + 3 * (c - u))
    one, other = guided.begin(), guided.begin()  # two trajectories at once
    one(X, 0.4, label=LABEL)
    torch.testing.assert_close(other(X, 0.4, label=LABEL).mean, c + 3 * (c - u))
    torch.testing.assert_close(one(X, 0.4, label=LABEL).mean, c + 1.5 * (c - u))


def test_where_nothing_is_called_nothing_is_remembered() -> None:
    guided = APG(den(), 4.0, eta=1.0, momentum=-0.5, interval=time(0.3, 0.5)).begin()
    c, u = halves(X)
    for t, want in ((0.4, c + 3 * (c - u)), (0.9, c), (0.4, c + 1.5 * (c - u))):
        torch.testing.assert_close(guided(X, t, label=LABEL).mean, want)


def test_a_mean_of_zero_has_no_direction() -> None:
    def only_without(x: Tensor, t: Any, label: Tensor) -> Tensor:
        return torch.zeros_like(x) + align((label == 0).to(x), x)

    assert APG(Simple(only_without, VP(), 0, {"label": 0}), 4.0)(X, 0.4, label=LABEL).mean.isfinite().all()


@pytest.mark.parametrize("name, bad", [("norm", 0.0), ("norm", nan), ("eta", nan), ("momentum", inf)])
def test_what_is_refused(name: str, bad: float) -> None:
    settings: Any = {name: bad}
    with pytest.raises(ValueError, match=name):
        APG(den(), 4.0, **settings)
