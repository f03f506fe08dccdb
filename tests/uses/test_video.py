"""Uses of a model of clips where the law is known: AR sequences, and a finite world of blobs on a ring."""

from itertools import islice
from math import sqrt
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import Normal, Simple, affine, ar1, draw, wasserstein2
from oneprior import paths
from oneprior.denoiser import Denoiser, Facts
from oneprior.guidance import History
from oneprior.noise import Seeded, Shared, derived
from oneprior.paths import Hold
from oneprior.posterior import Posterior
from oneprior.sampling import sample
from oneprior.schedules import Cosine
from oneprior.uses import video


def ar2(count: int) -> Tensor:
    """Covariance of the stationary x_i = 1.6 x_{i-1} - 0.8 x_{i-2} + e of unit variance."""
    r = [1.0, 1.6 / 1.8]
    while len(r) < count:
        r.append(1.6 * r[-1] - 0.8 * r[-2])
    i = torch.arange(count)
    return torch.tensor(r, dtype=torch.float64)[(i[:, None] - i).abs()]


INNOVATION = float(1 - 1.6 * ar2(3)[0, 1] + 0.8 * ar2(3)[0, 2])  # 0.0756


class Sequence(Denoiser):
    """Exact for clips of any length, (B, F), and frames at given places, under noise of covariance
    (1 - rho) I + rho 11^T across frames; untold, it takes the noise for white."""

    def __init__(self, covariance: Any, rho: float = 0.0, told: bool = True) -> None:
        super().__init__()
        self.covariance, self.rho, self.facts, self.longest = covariance, rho if told else 0.0, Facts(time_axes=1), 0
        self.schedule = Cosine(color=Shared(rho)) if rho else Cosine()

    def posterior(self, x: Tensor, t: Any, *, places: Tensor | None = None, **more: Any) -> Posterior:
        F = x.shape[1]
        self.longest = max(self.longest, F)
        at = torch.arange(F) if places is None else places[0]
        K = self.covariance(int(at.max()) + 1)[at][:, at]
        a, _, s = (torch.as_tensor(0.0 if v is None else v).double().expand(1, F)[0] for v in self.schedule.at(t))
        noise = (1 - self.rho) * torch.eye(F).double() + self.rho
        gain = torch.linalg.solve(a[:, None] * K * a + s[:, None] * noise * s, a[:, None] * K)
        return Posterior((x.double() @ gain).to(x), x, self.schedule, t)


def autocovariance(x: Tensor, lags: int = 16) -> Tensor:
    return torch.stack([(x[:, lag:] * x[:, : x.shape[1] - lag]).mean() for lag in range(lags + 1)])


def innovation(x: Tensor, i: int) -> float:
    return float((x[:, i] - 1.6 * x[:, i - 1] + 0.8 * x[:, i - 2]).var())


@pytest.mark.parametrize(("context", "least", "most"), [(1, 0.15, 1.0), (2, 0.0, 0.08), (4, 0.0, 0.08)])
def test_windows_need_as_much_context_as_the_law_remembers(context: int, least: float, most: float) -> None:
    """video-fvdm, proof 3: 33 frames of AR(2) by windows of 8; one frame of context must fail at the seam."""
    den, n = Sequence(ar2), 2000
    how: Any = {"steps": 100, "sampler": "ddim"}
    first = sample(den, (n, 8), seeds=range(n), **how)
    rest = list(video.extend(den, first, 25, window=8, context=context, seeds=range(n), **how))
    x = torch.cat([first, *rest], 1).double()
    assert x.shape == (n, 33) and den.longest == 8
    error = float((autocovariance(x) - ar2(17)[0]).abs().max())
    assert least < error < most, error
    seam = innovation(x, 8)
    assert seam == pytest.approx(0.34, abs=0.05) if context == 1 else seam == pytest.approx(INNOVATION, rel=0.2)


@pytest.mark.parametrize("keys", [1, 2])
def test_pairs_of_key_frames_are_exact_and_single_ones_are_not(keys: int) -> None:
    """video-survey, proof 6: key frames (0, 1, 8, 9, ...) in one call, gaps given both ends; 32 + keys frames."""
    den, n = Sequence(ar2), 2000
    x = video.hierarchy(den, (n, 32 + keys), stride=8, keys=keys, steps=100, sampler="ddim", seeds=range(n)).double()
    error = float((autocovariance(x[:, :33]) - ar2(17)[0]).abs().max())
    if keys == 2:
        assert error < 0.08 and innovation(x, 10) == pytest.approx(INNOVATION, rel=0.25)
    else:
        assert error == pytest.approx(0.189, abs=0.06) and innovation(x, 9) == pytest.approx(0.343, abs=0.05)


@pytest.mark.parametrize(("context", "holds"), [(0, False), (2, True)])
def test_a_stream_has_the_law_of_the_sequence(context: int, holds: bool) -> None:
    """A ladder rolling over AR(2): with the two frames before it in sight it is exact, without them it is not."""
    den, n = Sequence(ar2), 2000
    frames = video.stream(den, (n, 6), context=context, steps=96, seeds=range(n))
    x = torch.stack(list(islice(frames, 24)), 1).double()
    assert den.longest == 6 + context
    error = float((autocovariance(x, 8) - ar2(9)[0]).abs().max())
    assert (error < 0.08) == holds and (holds or innovation(x, 8) > 2 * INNOVATION), error
    if holds:
        assert innovation(x, 12) == pytest.approx(INNOVATION, rel=0.25)


def test_a_longer_result_begins_as_the_shorter_one_and_depends_on_its_seed_alone() -> None:
    den, clip = Sequence(ar1), draw(4, 5, dtype=torch.float32)
    how: Any = {"window": 6, "context": 2, "steps": 5}
    short, long = (torch.cat([*video.extend(den, clip, n, seeds=range(4), **how)], 1) for n in (7, 13))
    assert short.shape == (4, 7) and long.shape == (4, 13) and torch.equal(short, long[:, :7])
    alone = torch.cat([*video.extend(den, clip[2:3], 13, seeds=[2], **how)], 1)
    torch.testing.assert_close(alone, long[2:3], rtol=1e-5, atol=1e-6)
    a, b = (torch.stack(list(islice(video.stream(den, (3, 4), seeds=s), 5)), 1) for s in (range(3), [1, 2, 0]))
    torch.testing.assert_close(a[[1, 2, 0]], b, rtol=1e-5, atol=1e-6)
    assert len({*derived([3, 4], "w", 0), *derived([3, 4], "w", 1)}) == 4
    assert derived([~3], "w", 0) == (~derived([3], "w", 0)[0],)


def test_noisy_context_is_shown_noisy_and_not_kept() -> None:
    den, clip = Normal(torch.zeros(6), ar1(6), Cosine(), 1), draw(3, 4, dtype=torch.float32)
    (new,) = video.extend(den, clip, 4, window=6, context=2, time=0.1, seeds=range(3), steps=4)
    assert new.shape == (3, 4)
    assert all(isinstance(t, Tensor) and bool((t[:, :2] == 0.1).all() & (t[:, 2:] > 0).any()) for t in den.calls)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda den: video.given({4: torch.zeros(2, 3)}, 4), r"frames \[4\] of a clip of 4"),
        (lambda den: video.given({}, 4), "one or more"),
        (lambda den: next(video.extend(den, torch.zeros(2, 3), 5, window=8, context=4)), "the clip has 3 frames"),
        (lambda den: next(video.extend(den, torch.zeros(2, 8), 5, window=8, context=8)), "of both kinds"),
        (lambda den: video.hierarchy(den, (2, 30), stride=8), "30 frames are not 1 key frames"),
        (lambda den: next(video.stream(den, (2, 5), steps=12)), "a multiple of them: got 5 frames, 12 steps"),
        (lambda den: History(den, [], 2.0), "a frame or more"),
        (lambda den: History(den, [5], 2.0)(torch.zeros(2, 5), 0.5), "history of frames"),
    ],
)
def test_what_cannot_be_is_refused(made: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(Sequence(ar1))


# history guidance


@pytest.mark.parametrize("drop", [1.0, 0.4])
def test_history_guidance_is_a_contrast_of_two_exact_means(drop: float) -> None:
    F, t, w = 6, 0.7, 2.5
    K, x = ar1(F), draw(5, F)
    den, times = Normal(torch.zeros(F), K, Cosine(), 1), torch.tensor([[0.0, 0.0, t, t, t, t]], dtype=torch.float64)
    assert torch.equal(History(den, [0, 1], 1.0)(x, times).mean, den(x, times).mean)
    got = History(den, [0, 1], w, drop=drop)(x, times).mean[:, 2:]
    full = den(x, times).mean[:, 2:]
    if drop == 1.0:  # the rest alone: a smaller Gaussian
        less = Normal(torch.zeros(F - 2), K[2:, 2:], Cosine(), 1)(x[:, 2:], t).mean
        torch.testing.assert_close(got, less + w * (full - less), rtol=1e-12, atol=1e-12)
    else:  # the history noised up to that time, by the noise of the seed
        up = torch.tensor([[drop, drop, t, t, t, t]], dtype=torch.float64)
        a, _, s = Cosine().at(drop)
        seen = torch.cat([a * x[:, :2] + s * Seeded([0])(0, x[:1], "history")[:, :2], x[:, 2:]], 1)
        torch.testing.assert_close(got, torch.lerp(den(seen, up).mean[:, 2:], full, w), rtol=1e-12, atol=1e-12)


def test_history_guidance_follows_the_history_more() -> None:
    """The mean of the frame after a held one moves away from the unconditional mean 0, monotonically in the scale."""
    F, n = 4, 400
    den, hold = Normal(torch.zeros(F), ar1(F, 0.7), Cosine(), 1), video.given({0: torch.full((n,), 1.0)}, F)
    means = [
        float(sample(History(den, [0], w), (n, F), hold=hold, seeds=range(n), steps=30)[:, 1].mean())
        for w in (1.0, 1.5, 2.5)
    ]
    assert means[0] == pytest.approx(0.7, abs=4 * sqrt(0.51 / n)) and means[0] < means[1] < means[2]


# noise that frames share, as a field of the schedule


@pytest.mark.parametrize("route", ["sync", "pyramid"])
def test_shared_noise_is_followed_on_every_path(route: str) -> None:
    """alpha' D + sigma' E[eps | x] moves a frame whatever the noise of the others: the law is reached with the
    covariance of training, and missed by a denoiser that takes the noise for white."""
    F, K, rho, n = 5, ar1(5), 0.5, 160
    grid = [(n - i) / n for i in range(n + 1)]
    path = paths.sync(grid) if route == "sync" else paths.pyramid(F, grid, n // 4)

    def law(den: Denoiser) -> Tensor:
        color = den.schedule.color
        run = lambda x: sample(den, x.shape, path=path, sampler="ddim", seeds=range(len(x)), start=color(x))  # noqa: E731
        M = affine(run, (F,))[1]
        return M @ M.mT

    assert wasserstein2(law(Sequence(ar1, rho)), K) < 2e-3
    assert wasserstein2(law(Sequence(ar1, rho, told=False)), K) > 0.05


# video-fvdm, proof 5: 48 clips of a blob on a ring of 12 pixels, six frames, 12 starts, velocities -2, -1, 1, 2


def ring() -> Tensor:
    start, speed, f = torch.meshgrid(torch.arange(12), torch.tensor([-2, -1, 1, 2]), torch.arange(6), indexing="ij")
    at = (start + speed * f).remainder(12).reshape(48, 6, 1)
    d = (torch.arange(12) - at).abs()
    return 2 * torch.exp(-0.5 * torch.minimum(d, 12 - d).double() ** 2) - 1


RING = ring()


class World(Denoiser):
    """E[x_0 | x_t] for any times: a softmax over the 48 clips."""

    def __init__(self, time_axes: int = 1) -> None:
        super().__init__()
        self.schedule, self.facts = Cosine(), Facts(time_axes=time_axes)

    def posterior(self, x: Tensor, t: Any, **more: Any) -> Posterior:
        a, _, s = (torch.as_tensor(0.0 if v is None else v).double() for v in self.schedule.at(t))
        a, s = (v.expand(1, 6).reshape(1, 1, 6, 1) for v in (a, s.clamp(min=1e-2)))
        far = ((x[:, None] - a * RING) / s).square()
        w = (-0.5 * far.flatten(2).sum(2)).softmax(1)
        return Posterior((w @ RING.flatten(1)).reshape(x.shape).to(x), x, self.schedule, t)


def which(x: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest clip of each sample, and whether it is that clip."""
    d = (x.double()[:, None] - RING).square().flatten(2).mean(2)
    return d.argmin(1), d.min(1).values < 1e-3


def test_a_finite_world_is_valid_on_every_path() -> None:
    den, n = World(), 200
    grid = [(20 - i) / 20 for i in range(21)]
    for path in (
        paths.sync(grid),
        paths.pyramid(6, grid, 5),
        paths.autoregressive(6, grid),
        paths.keyframes(6, grid, 2),
    ):
        found, valid = which(sample(den, (n, 6, 12), path=path, seeds=range(n)))
        assert bool(valid.all()) and len(found.unique()) > 40
    clips = RING[torch.arange(n) % 48].float()
    how: Any = {"seeds": range(n), "path": paths.sync(grid)}
    hold = video.given({0: clips[:, 0], 1: clips[:, 1]}, 6)
    found, valid = which(sample(den, clips.shape, hold=hold, **how))
    assert bool(valid.all()) and torch.equal(found, torch.arange(n) % 48), "two frames tell the velocity"
    found, valid = which(video.animate(den, clips[:, 0], 6, **how))
    assert bool(valid.all()) and torch.equal(found // 4, torch.arange(n) % 48 // 4)
    found, valid = which(video.interpolate(den, clips[:, 0], clips[:, 5], 6, **how))
    assert bool(valid.all())
    assert torch.equal(RING[found][:, 5].float(), clips[:, 5]), "the ends are those that were given"


def test_replacement_is_at_chance_where_time_per_frame_is_exact() -> None:
    """Held frames re-noised and pasted in at one time for all: 25 %, as many as there are velocities."""
    n = 400
    den = World(0)
    clips = RING[torch.arange(n) % 48].float()
    mask = torch.tensor([[True, True, False, False, False, False]])
    x = sample(den, clips.shape, hold=Hold(clips, mask, clamp=True), seeds=range(n), steps=30, sampler="ddim")
    right = float((which(x)[0] == torch.arange(n) % 48).double().mean())
    assert right < 0.25 + 4 * sqrt(0.25 * 0.75 / n), right
    speeds = which(video.animate(World(), clips[:, 0], 6, seeds=range(n)))
    share = torch.bincount(speeds[0] % 4, minlength=4) / n
    assert (share - 0.25).abs().max() < 4 * sqrt(0.25 * 0.75 / n)


def test_clips_of_other_denoisers_are_asked_in_windows_alone() -> None:
    """Memory: whatever the length, no call is larger than a window."""
    den = Simple(lambda x, t: torch.tanh(x), Cosine(), 1)
    shapes = [tuple(v.shape) for v in video.extend(den, torch.zeros(2, 4, 3), 50, window=8, context=4, steps=2)]
    assert {s for s, _ in den.calls} == {(2, 8, 3)} and shapes == [(2, 4, 3)] * 12 + [(2, 2, 3)]
