"""Known values by replacement and RePaint's jumps: the pasted have their time's law, jumps bring the rest nearer."""

from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import Normal, ar1, wasserstein2
from oneprior import paths
from oneprior.paths import Hold, Path
from oneprior.sampling import sample
from oneprior.sampling.grids import cosine_time
from oneprior.schedules import VP, Cosine, Schedule

D, HELD, FREE = 8, [0, 1, 5], [2, 3, 4, 6, 7]
K = ar1(D)
VALUE = torch.tensor([1.3, 1.0, 0, 0, 0, -0.5, 0, 0])
MASK = torch.zeros(1, D, dtype=torch.bool)
MASK[0, HELD] = True


class Watched(Normal):
    """Keeps what it was shown of the held elements."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__(torch.zeros(D), K, schedule, time_axes=0)
        self.seen: list[tuple[float, Tensor]] = []

    def posterior(self, x: Tensor, t: Any, *, y: Tensor | None = None, **_: Any) -> Any:
        self.seen.append((t, x[:, HELD].clone()))
        return super().posterior(x, t, y=y)


def draws(path: Path, schedule: Schedule, n: int = 700) -> tuple[Tensor, Watched]:
    den, hold = Watched(schedule), Hold(VALUE.expand(n, D), MASK, clamp=True)
    return sample(den, (n, D), path=path, sampler="ancestral", seeds=range(n), hold=hold), den


@pytest.mark.parametrize("schedule", [VP(), Cosine()], ids=["vp", "cosine"])
def test_after_a_rise_the_known_are_as_noisy_as_their_time(schedule: Schedule) -> None:
    n, path = 1500, paths.repaint(cosine_time(schedule, 6), 2, 2)
    x, den = draws(path, schedule, n)
    assert torch.equal(x[:, HELD], VALUE[HELD].expand(n, 3))
    asked = [t for t, kind in zip(path.matrix[:-1, 0].tolist(), path.kinds, strict=True) if kind == paths.SOLVE]
    assert [t for t, _ in den.seen] == asked and len(asked) > 6
    for t, known in den.seen:
        a, _, s = schedule.at(t)
        assert (known.mean(0) - a * VALUE[HELD]).abs().max() < 5 * s / n**0.5
        assert (known.std(0) / s - 1).abs().max() < 5 / (2 * n) ** 0.5
    visits: dict[float, list[Tensor]] = {}
    for t, known in den.seen:
        visits.setdefault(t, []).append((known - schedule.at(t)[0] * VALUE[HELD]) / schedule.at(t)[2])
    twice = [v for v in visits.values() if len(v) > 1]
    assert twice
    for one, other, *_ in twice:
        assert abs(float((one * other).mean())) < 5 / (3 * n) ** 0.5, "noise of their own at every visit"
    part = Hold(VALUE.expand(2, D), MASK, clamp=True)
    alone = sample(Watched(schedule), (2, D), path=path, sampler="ancestral", seeds=[4, 7], hold=part)
    torch.testing.assert_close(alone, x[[4, 7]], rtol=1e-5, atol=1e-5)


def test_jumps_bring_the_conditional_law_nearer_where_more_steps_do_not() -> None:
    gain = K[FREE][:, HELD] @ torch.linalg.inv(K[HELD][:, HELD])
    mean, cov = gain @ VALUE[HELD].double(), K[FREE][:, FREE] - gain @ K[HELD][:, FREE]
    times = cosine_time(Cosine(), 20)

    def error(path: Path) -> tuple[float, float, int]:
        x, den = draws(path, Cosine())
        free = x[:, FREE].double()
        off = (free.mean(0) - mean) / cov.diagonal().sqrt()
        return float(off.norm()), wasserstein2(torch.cov(free.T), cov), len(den.seen)

    plain, more = error(paths.sync(times)), error(paths.sync(cosine_time(Cosine(), 96)))
    jumped = error(paths.repaint(times, 5, 6))
    print(f"(mean in standard deviations, W2^2 of covariances, calls): {plain}, {more}, with jumps {jumped}")
    assert jumped[2] <= more[2]
    assert jumped[0] < 0.65 * min(plain[0], more[0]) and jumped[1] < 0.25 * min(plain[1], more[1])
    assert jumped[0] > 0.2, "nearer is not exact: with one time a sample use hold without clamp, or restore"
