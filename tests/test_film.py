"""The walk that led to samples: which frames are kept, what they hold, and the film of them."""

from itertools import pairwise
from math import atan2, pi
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import Simple, draw
from oneprior.codecs import Standardise
from oneprior.conditions import Conditions
from oneprior.denoiser import Counted
from oneprior.exact import Gaussian
from oneprior.film import LAST, STRIP, Trace, checked, write
from oneprior.guidance import CFG
from oneprior.loading import load
from oneprior.paths import restart
from oneprior.prior import Prior
from oneprior.sampling import DDIM, Sampler, Step, sample
from oneprior.sampling.grids import cosine_time
from oneprior.schedules import Cosine, RectifiedFlow


@pytest.mark.parametrize("sampler", ["ddim", "2m", "heun", "ancestral"])
def test_every_frame_is_a_point_of_the_walk_and_its_exact_mean(sampler: str) -> None:
    """All frames of 6 steps: each mean is D(x_t, t), and DDIM's x_s follow from them by its own formula."""
    den = Gaussian(draw(5), 0.3).denoiser(Cosine())
    trace = Trace(7)
    x = sample(den, (3, 5), steps=6, sampler=sampler, seeds=range(3), watch=trace)
    times, xs, means = trace.end(x)
    torch.testing.assert_close(x, sample(den, (3, 5), steps=6, sampler=sampler, seeds=range(3)), rtol=0, atol=0)
    assert len(times) == 7 and list(times) == sorted(times, reverse=True) and times[-1] == 0
    assert torch.equal(xs[-1], x) and torch.equal(means[-1], x) and xs.shape == means.shape == (7, 3, 5)
    for t, x_t, mean in zip(times[:-1], xs, means, strict=False):
        torch.testing.assert_close(mean, den(x_t, t).mean)
    if sampler == "ddim":
        for i in range(5):
            (a, _, s), (a_s, _, s_s) = Cosine().at(times[i]), Cosine().at(times[i + 1])
            torch.testing.assert_close(xs[i + 1], a_s * means[i] + s_s * (xs[i] - a * means[i]) / s, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("steps", "frames"), [(200, 9), (37, 5), (10, 2), (3, 40)])
def test_frames_are_spread_evenly_in_bounded_memory(steps: int, frames: int) -> None:
    trace, most = Trace(frames), 0

    def watch(step: Step) -> None:
        nonlocal most
        trace(step)
        most = max(most, len(trace.kept))

    den = Simple(lambda x, t: 0 * x, RectifiedFlow())
    even = Sampler(DDIM(), cosine_time)
    times = trace.end(sample(den, (1, 2), steps=steps, seeds=[0], sampler=even, watch=watch)).times
    assert len(times) == min(frames, steps + 1) and times[0] == 1 and times[-1] == 0 and most <= 2 * frames
    taus = [2 / pi * atan2(t, 1 - t) for t in times]  # cosine time
    gaps = [round((a - b) * steps) for a, b in pairwise(taus)]
    assert (
        min(gaps) >= 1
        and max(gaps) <= 2 * steps / (len(times) - 1)
        and max(gaps[:-1] or gaps) <= 2 * min(gaps[:-1] or gaps)
    )


def test_a_trace_is_made_of_copies_and_looks_on() -> None:
    """The walk overwrites its x in place; counting below and guidance between change nothing."""
    den = Simple(lambda x, t, label: x * 0.5 + label[:, None], Cosine(), null={"label": 0.0})
    label = torch.ones(2)
    plain = sample(CFG(den, 2.0), (2, 3), steps=5, seeds=range(2), label=label)
    counted = Counted(den)
    trace = Trace(6)
    x = sample(CFG(counted, 2.0), (2, 3), steps=5, seeds=range(2), label=label, watch=trace)
    _, xs, means = trace.end(x)
    assert torch.equal(x, plain) and counted.calls == 5
    torch.testing.assert_close(means[:-1], 0.5 * xs[:-1] + 2.0)  # 2 (x/2 + 1) - x/2 + ... = x/2 + 2


def test_a_rise_with_fresh_noise_is_no_frame() -> None:
    """Restart asks nothing where it rises: as many frames as calls, each with its own mean."""
    den, trace = Gaussian(draw(3), 0.3).denoiser(Cosine()), Trace(30)
    path = restart([1.0, 0.8, 0.6, 0.4, 0.2, 0.0], 0.2, 0.6, 2)
    times, xs, means = trace.end(sample(den, (2, 3), path=path, sampler="ddim", seeds=range(2), watch=trace))
    assert times == (1.0, 0.8, 0.6, 0.4, 0.6, 0.4, 0.6, 0.4, 0.2, 0.0)
    for t, x_t, mean in zip(times[:-1], xs, means, strict=False):
        torch.testing.assert_close(mean, den(x_t, t).mean)


def test_a_prior_gives_its_walk_in_the_users_units() -> None:
    den = Gaussian([0.2, -0.1], 0.5).denoiser(RectifiedFlow())
    prior = Prior(den, Standardise((3.0, 3.0), (2.0, 2.0)), Conditions({}), {"shape": (2,)})
    out = prior.sample(seeds=range(5), steps=8, trajectory=4, batch=2)
    assert out.trajectory is not None and out.means is not None
    assert out.trajectory.shape == out.means.shape == (4, 5, 2) and len(out.times) == 4
    assert torch.equal(out.trajectory[-1], out.x) and torch.equal(out.means[-1], out.x) and out.nfe == 3 * 8
    start = (out.trajectory[0] - 3) / 2  # model range
    torch.testing.assert_close((out.means[0] - 3) / 2, prior.den(start, 1.0).mean.float(), atol=1e-5, rtol=0)
    plain = prior.sample(seeds=range(5), steps=8)
    assert torch.equal(plain.x, out.x) and plain.trajectory is None and plain.times == ()
    assert {"x", "trajectory", "means"}.isdisjoint(out.record()) and out.record()["times"][-1] == 0.0
    with pytest.raises(ValueError, match="no trajectory was kept"):
        plain.film("walk.gif")
    with pytest.raises(ValueError, match="at least 2 frames"):
        prior.sample(2, trajectory=1)


def test_films_of_digits(tmp_path: Path) -> None:
    out = load("digits").sample(seeds=range(4), label=[0, 1, 2, 3], steps=12, trajectory=10)
    with Image.open(out.film(tmp_path / "new" / "walk.gif")) as film:
        lengths = []
        for i in range(film.n_frames):  # type: ignore[attr-defined]
            film.seek(i)
            lengths.append(film.info["duration"])
        assert len(lengths) == 10 and lengths[-1] == LAST > 5 * lengths[0]
        last = torch.from_numpy(np.array(film.convert("L")))
        half = last.shape[1] - last.shape[1] // 2
        assert torch.equal(last[:, : half - 6], last[:, half + 6 :])  # at the end x is its own mean
    with Image.open(out.film(tmp_path / "strip.PNG")) as strip, Image.open(tmp_path / "new" / "walk.gif") as film:
        assert strip.width == STRIP * (film.height + 12) - 12 and strip.height == 2 * film.height + 12


def test_films_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.gif or \.png; .* ends in '\.mp4'"):
        checked(tmp_path / "walk.mp4", (1, 8, 8))
    with pytest.raises(ValueError, match="only pictures"):
        write(tmp_path / "walk.gif", torch.zeros(3, 2, 5), torch.zeros(3, 2, 5))
    (tmp_path / "folder.gif").mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        checked(tmp_path / "folder.gif", (1, 8, 8))
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError):
        checked(tmp_path / "file" / "walk.gif", (1, 8, 8))
    assert (tmp_path / "file").read_text() == "mine"
