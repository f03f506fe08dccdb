"""Paths: what they refuse, and the matrices that the named constructors make."""

from itertools import pairwise

import pytest
import torch

from helpers import Simple
from oneprior import paths
from oneprior.noise import Seeded
from oneprior.paths import INVERT, RENOISE, SOLVE, Hold, Path
from oneprior.sampling import DDIM, walk
from oneprior.schedules import VP


def matrix(*rows: float | tuple[float, ...]) -> torch.Tensor:
    return torch.tensor([r if isinstance(r, tuple) else (r,) for r in rows], dtype=torch.float64)


def test_a_rising_path_is_refused_and_the_constructors_named() -> None:
    with pytest.raises(ValueError, match=r"step 1 rises from \[0\.3\] to \[0\.6\].*restart, repaint or invert"):
        Path(matrix(1.0, 0.3, 0.6, 0.0))
    with pytest.raises(ValueError, match="step 0 rises"):
        Path(matrix((1.0, 0.2), (0.5, 0.3)))
    assert Path(matrix(0.0, 0.5), 0, (INVERT,)).steps == 1
    assert Path(matrix((1.0, 0.2), (1.0, 0.2))).steps == 1  # resting is not rising


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: Path(matrix(1.1, 0.0)), "0 to 1.*1.1"),
        (lambda: Path(matrix(1.0, -0.1)), "0 to 1"),
        (lambda: Path(matrix(1.0, float("nan"))), "0 to 1"),
        (lambda: Path(matrix(1.0)), r"at least one step; got shape \(1, 1\)"),
        (lambda: Path(torch.ones(3, dtype=torch.float64)), r"got shape \(3,\)"),
        (lambda: Path(matrix(1.0, 0.5, 0.0), 0, (SOLVE,)), "2 steps but 1 kinds"),
        (lambda: paths.pyramid(0, (1.0, 0.0), 1), "at least one frame"),
        (lambda: paths.pyramid(3, (1.0, 0.0), -1), "gap >= 0"),
        (lambda: paths.ranked([0, -1], (1.0, 0.0)), "ranks"),
        (lambda: paths.rolling(3, (1.0, 0.5, 0.0)), "a multiple of them: got 3 frames, 2 steps"),
        (lambda: paths.restart((1.0, 0.5, 0.0), 0.5, 0.5, 1), "restart between"),
        (lambda: paths.restart((1.0, 0.5, 0.0), 0.2, 0.7, -1), "repeats"),
        (lambda: paths.repaint((1.0, 0.5, 0.0), 0, 3), "jump_length = 0, resample = 3: at least 1"),
        (lambda: paths.recur((1.0, 0.5, 0.0), 0), "repeats = 0"),
        (lambda: Path(matrix(1.0, 0.0), {"a": 0}).track("b"), r"\['a'\].*'b'"),
    ],
)
def test_what_a_path_refuses(made, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made()


def test_sync_is_one_object_for_equal_times() -> None:
    assert paths.sync([1, 0.5, 0]) is paths.sync((1.0, 0.5, 0.0))
    path = paths.sync([1, 0.5, 0])
    assert path.matrix[:, 0].tolist() == [1.0, 0.5, 0.0] and path.kinds == (SOLVE, SOLVE)


@pytest.mark.parametrize(("count", "K", "gap"), [(4, 5, 0), (4, 5, 2), (3, 4, 4), (1, 3, 3)])
def test_pyramid_is_the_formula(count: int, K: int, gap: int) -> None:
    """level[m, f] = clip(K + gap f - m, 0, K) in K + (F - 1) gap calls (Chen et al. 2024)."""
    grid = [1.0, *(0.9 * (K - i) / K for i in range(1, K)), 0.0]
    path = paths.pyramid(count, grid, gap)
    assert path.steps == K + (count - 1) * gap
    for m in range(path.steps + 1):
        for f in range(count):
            assert path.matrix[m, f] == grid[K - min(max(K + gap * f - m, 0), K)]
    assert isinstance(path.which, torch.Tensor) and path.which.tolist() == [list(range(count))]


def test_autoregressive_finishes_a_frame_before_the_next() -> None:
    path = paths.autoregressive(3, [1.0, 0.4, 0.0])
    assert path.matrix.tolist() == [
        [1, 1, 1], [0.4, 1, 1], [0, 1, 1], [0, 0.4, 1], [0, 0, 1], [0, 0, 0.4], [0, 0, 0],
    ]  # fmt: skip


def test_key_frames_go_before_those_between() -> None:
    path = paths.keyframes(5, [1.0, 0.4, 0.0], 2)
    assert path.matrix.tolist() == [
        [1, 1, 1, 1, 1], [0.4, 1, 0.4, 1, 0.4], [0, 1, 0, 1, 0], [0, 0.4, 0, 0.4, 0], [0, 0, 0, 0, 0],
    ]  # fmt: skip
    pairs = paths.keyframes(7, [1.0, 0.0], 4, keys=2)
    assert pairs.matrix[1].tolist() == [0, 0, 1, 1, 0, 0, 0]


def test_a_stream_is_a_pyramid_in_pieces() -> None:
    grid = [1.0, 0.8, 0.6, 0.5, 0.2, 0.1, 0.0]
    begin, down = paths.rolling(3, grid)
    whole = paths.pyramid(5, grid, 2).matrix
    assert torch.equal(begin.matrix, whole[:5, :3])
    assert torch.equal(down.matrix, whole[4:7, :3]) and torch.equal(down.matrix, whole[6:9, 1:4])
    assert down.matrix[0].tolist() == [0.2, 0.6, 1.0] and down.matrix[-1].tolist() == [0.0, 0.2, 0.6]
    after = down.behind(2, 0.1)
    assert isinstance(after.which, torch.Tensor) and after.which.tolist() == [[3, 3, 0, 1, 2]]
    assert after.matrix[:, 3].tolist() == [0.1] * 3 and torch.equal(after.matrix[:, :3], down.matrix)


def test_invert_rises_along_the_ode() -> None:
    path = paths.invert([1.0, 0.5, 0.0])
    assert path.matrix[:, 0].tolist() == [0.0, 0.5, 1.0] and path.kinds == (INVERT, INVERT)


def test_restart_goes_back_up_with_fresh_noise() -> None:
    path = paths.restart([1.0, 0.8, 0.6, 0.4, 0.2, 0.0], low=0.2, high=0.6, repeats=2)
    assert path.matrix[:, 0].tolist() == [1.0, 0.8, 0.6, 0.4, 0.2, 0.6, 0.4, 0.2, 0.6, 0.4, 0.2, 0.0]
    assert path.kinds == (*[SOLVE] * 4, RENOISE, SOLVE, SOLVE, RENOISE, SOLVE, SOLVE, SOLVE)
    assert paths.restart([1.0, 0.5, 0.0], 0.0, 1.0, 0).matrix[:, 0].tolist() == [1.0, 0.5, 0.0]
    plan = DDIM().plan(VP(), path)
    assert sum(stage.call for stage in plan) == 9 and len(plan) == 11


def jumps(steps: int, jump_length: int, resample: int) -> list[int]:
    """The levels of Lugmayr et al. 2022, by their rule: up again at each multiple of the jump while any are left."""
    left = dict.fromkeys(range(0, steps - jump_length, jump_length), resample - 1)
    levels = [steps]
    while levels[-1] > 0:
        levels.append(levels[-1] - 1)
        if left.get(levels[-1], 0) > 0:
            left[levels[-1]] -= 1
            levels.append(levels[-1] + jump_length)
    return levels


@pytest.mark.parametrize(
    ("steps", "jump_length", "resample"), [(12, 3, 4), (10, 1, 2), (7, 2, 3), (5, 9, 2), (6, 3, 1)]
)
def test_repaint_jumps_as_published(steps: int, jump_length: int, resample: int) -> None:
    times = [i / steps for i in range(steps, -1, -1)]
    path, want = paths.repaint(times, jump_length, resample), jumps(steps, jump_length, resample)
    assert path.matrix[:, 0].tolist() == [i / steps for i in want]
    assert path.kinds == tuple(RENOISE if b > a else SOLVE for a, b in pairwise(want))


def test_recur_takes_every_step_again() -> None:
    path = paths.recur([1.0, 0.5, 0.0], 3)
    assert path.matrix[:, 0].tolist() == [1.0, 0.5, 1.0, 0.5, 1.0, 0.5, 0.0, 0.5, 0.0, 0.5, 0.0]
    assert path.kinds == (SOLVE, *(RENOISE, SOLVE) * 2) * 2
    assert paths.recur([1.0, 0.5, 0.0], 1).kinds == (SOLVE, SOLVE)


def test_hold_gives_the_known_a_track_of_their_own() -> None:
    mask = torch.tensor([[True, False, False]])
    held = paths.sync([1.0, 0.5, 0.0]).hold(mask)
    assert held.matrix.tolist() == [[1, 0], [0.5, 0], [0, 0]]
    assert isinstance(held.which, torch.Tensor) and held.which.tolist() == [[1, 0, 0]]
    given = paths.autoregressive(3, [1.0, 0.0]).hold(mask, 0.1)
    assert given.matrix[:, 3].tolist() == [0.1] * 4
    assert isinstance(given.which, torch.Tensor) and given.which.tolist() == [[3, 1, 2]]
    pixels = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    frames = paths.autoregressive(3, [1.0, 0.0]).hold(pixels.expand(2, 3, 4, 4))
    assert isinstance(frames.which, torch.Tensor) and frames.which.shape == (2, 3, 4, 4)
    parts = paths.sync([1.0, 0.0]).hold({"a": True, "b": False})
    assert parts.which == {"a": 1, "b": 0}


def test_a_map_to_no_track_is_refused() -> None:
    den, x = Simple(lambda x, t: x, VP(), 1), torch.zeros(1, 2)
    with pytest.raises(ValueError, match="the path has 1 tracks, its map asks for 1"):
        next(walk(den, x, Path(matrix(1.0, 0.0), torch.tensor([[0, 1]])), DDIM(), Seeded([0])))


def test_hold_is_a_value_with_defaults() -> None:
    hold = Hold(torch.zeros(2))
    assert hold.mask is True and hold.time == 0.0 and hold.clamp is False
