"""The loop: seeds, assignable state, gradients, aliasing, and what it refuses."""

import re
from itertools import pairwise
from math import atan2, hypot
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import Normal, Simple, draw
from oneprior import paths
from oneprior.denoiser import wrap
from oneprior.noise import Fresh, Replay, Seeded, Shared, Spectral
from oneprior.paths import Hold, Path
from oneprior.sampling import DDIM, SAMPLERS, Heun, Multistep, Sampler, grids, sample, sampler, step, walk
from oneprior.schedules import VP, Cosine, RectifiedFlow

NAMES = [name for name, s in SAMPLERS.items() if not s.solver.variance]  # those that every denoiser serves
MIXED = lambda x, t, **_: torch.tanh(1.3 * x) * 0.8 + 0.1 * x.roll(1, -1)  # noqa: E731  nothing linear
SHAPE = (2, 5)


def mixed(schedule: Any = None, axes: int = 0) -> Simple:
    return Simple(MIXED, schedule or Cosine(), axes)


# seeds


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("split", [7, 32, 96])
def test_a_sample_is_a_function_of_its_seed(name: str, split: int) -> None:
    """The start is bit-identical (test_noise), the result equal to 1e-4, for any split and order; also with a net."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = torch.nn.Linear(5, 5)
    net = torch.nn.Module()
    net.forward = lambda x, t: torch.tanh(layer(x)) + t[:, None, None]  # type: ignore[method-assign]
    den, seeds = wrap(net, VP(), "v"), [7 * k - 20 for k in range(96)]
    whole = sample(den, (96, *SHAPE), steps=8, sampler=name, seeds=seeds)
    order = torch.randperm(96, generator=torch.Generator().manual_seed(split)).tolist()
    for start in range(0, 96, split):
        chosen = order[start : start + split]
        part = sample(den, (len(chosen), *SHAPE), steps=8, sampler=name, seeds=[seeds[i] for i in chosen])
        assert (part - whole[chosen]).abs().max() < 1e-4
    assert whole.unique(dim=0).shape[0] == 96


def test_fresh_seeds_differ_and_the_global_ones_do_not_matter() -> None:
    den = mixed()
    assert not torch.equal(sample(den, (2, 5), steps=2), sample(den, (2, 5), steps=2))
    state = torch.get_rng_state()
    a = sample(den, (2, 5), steps=2, sampler="ancestral", seeds=[1, 2])
    assert torch.equal(state, torch.get_rng_state())
    with torch.random.fork_rng():
        torch.manual_seed(5)
        assert torch.equal(a, sample(den, (2, 5), steps=2, sampler="ancestral", seeds=[1, 2]))


def test_noise_of_a_walk_may_be_given() -> None:
    den, path, x = mixed(VP()), paths.sync([0.9, 0.6, 0.3, 0.0]), draw(2, 5)
    tape = {(i, ""): draw(2, 5, seed=i) for i in range(1, 4)}
    *_, a = walk(den, x, path, DDIM(1.0), Replay(tape))
    want, rows = x, [st.rows[0] for st in DDIM(1.0).plan(VP(), path)]
    for i, (t, row) in enumerate(zip([0.9, 0.6, 0.3], rows, strict=True)):
        want = step(want, [den(want, t).mean], row) + row.std * tape[i + 1, ""]
    torch.testing.assert_close(a.x, want)
    with pytest.raises(KeyError, match="stage 2"):
        list(walk(den, x, path, DDIM(1.0), Replay({(1, ""): tape[1, ""]})))
    *_, b = walk(den, x, path, DDIM(1.0), Fresh(torch.Generator().manual_seed(1)))
    *_, c = walk(den, x, path, DDIM(1.0), Fresh(torch.Generator().manual_seed(1)))
    assert torch.equal(b.x, c.x) and not torch.equal(a.x, b.x)


@pytest.mark.parametrize("color", [Spectral(1.0), Shared(0.7)])
def test_coloured_noise_at_the_start_and_in_the_steps(color: Any) -> None:
    schedule = VP(color=color)
    seen = []
    den = Simple(lambda x, t: seen.append(x.clone()) or torch.zeros_like(x), schedule)
    sample(den, (2, 3, 4, 4), path=paths.sync([1.0, 0.5, 0.0]), sampler="ancestral", seeds=[4, 5])
    like, s = torch.empty(2, 3, 4, 4), schedule.at(1.0)[2]
    start = color(Seeded([4, 5])(0, like)) * s
    torch.testing.assert_close(seen[0], start)
    rho, std = schedule.transition(1.0, 0.5, 1.0)
    torch.testing.assert_close(seen[1], rho * start + std * color(Seeded([4, 5])(1, like)))


# aliasing and the caller's memory


@pytest.mark.parametrize("solver", [SAMPLERS[name].solver for name in NAMES], ids=NAMES)
@pytest.mark.parametrize("what", ["x", "view", "constant"])
def test_a_denoiser_may_return_its_input(solver: Any, what: str) -> None:
    """The walk reuses memory; a mean that is x itself, a view of it, or a stored tensor must not be overwritten."""
    stored = draw(3, 5)

    def aliased(x: Tensor, t: Any) -> Tensor:
        return {"x": x, "view": x.view_as(x), "constant": stored}[what]

    for path in (grids.cosine_time(VP(), 6), (0.9, 0.8, 0.5, 0.1)):
        fast = sample(
            Simple(aliased, VP()), (3, 5), path=paths.sync(path), sampler=solver, seeds=range(3), start=draw(3, 5)
        )
        copying = Simple(lambda x, t: aliased(x.clone(), t).clone(), VP())
        *_, slow = walk(copying, draw(3, 5), paths.sync(path), solver, Seeded(range(3)))
        torch.testing.assert_close(fast, slow.x, rtol=1e-12, atol=1e-12)
    assert torch.equal(stored, draw(3, 5))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("hold", [False, True])
def test_the_callers_start_is_not_touched(name: str, hold: bool) -> None:
    start, value, mask = draw(3, 5), draw(3, 5, seed=1), torch.zeros(3, 5, dtype=torch.bool)
    mask[:, 0] = True
    copies = start.clone(), value.clone()
    kept = Hold(value, mask) if hold else None
    den = Simple(lambda x, t: x, VP(), 1)
    x = sample(den, (3, 5), steps=4, sampler=name, seeds=range(3), start=start, hold=kept)
    assert torch.equal(start, copies[0]) and torch.equal(value, copies[1])
    x.zero_()
    assert torch.equal(start, copies[0]) and torch.equal(value, copies[1])


@pytest.mark.parametrize("name", NAMES)
def test_walk_leaves_every_x_it_yields(name: str) -> None:
    """Without `reuse` the states may be kept: a list of steps is the trajectory."""
    solver, path = SAMPLERS[name].solver, paths.sync(grids.cosine_time(VP(), 5))
    xs = [out.x for out in walk(mixed(VP()), draw(2, 5), path, solver, Seeded([1, 2]))]
    again = [out.x.clone() for out in walk(mixed(VP()), draw(2, 5), path, solver, Seeded([1, 2]))]
    assert all(torch.equal(a, b) for a, b in zip(xs, again, strict=True))


# the step in the hands of the caller


@pytest.mark.parametrize("solver", [DDIM(), Multistep()], ids=str)
def test_x_and_history_are_assignable(solver: Any) -> None:
    den, path = mixed(VP()), paths.sync([0.9, 0.6, 0.3, 0.1])
    steps = list(walk(den, draw(2, 5), path, solver, Seeded([1, 2])))
    assert [s.index for s in steps] == [0, 1, 2] and [(s.t, s.s) for s in steps] == [(0.9, 0.6), (0.6, 0.3), (0.3, 0.1)]
    assert all(torch.equal(s.mean, s.posterior.mean) for s in steps)
    assert all(torch.equal(s.history[0], s.mean) and len(s.history) <= solver.depth for s in steps)

    last = None
    for last in walk(den, draw(2, 5), path, solver, Seeded([1, 2])):
        if last.index == 0:
            last.x = draw(2, 5, seed=8)
            last.history = []
    # the rest of the way is that from the assigned x: 2M without its history begins anew with a first-order step
    *_, want = walk(den, draw(2, 5, seed=8), paths.sync([0.6, 0.3, 0.1]), solver, Seeded([1, 2]))
    assert last is not None
    torch.testing.assert_close(last.x, want.x)


def test_an_assigned_history_is_what_2m_extrapolates_from() -> None:
    schedule, times, x = VP(), [0.9, 0.6, 0.3], draw(2, 5)
    den, fake = mixed(schedule), draw(2, 5, seed=4)
    run = walk(den, x, paths.sync(times), Multistep(), Seeded([1, 2]))
    first = next(run)
    first.history, middle = [fake], first.x
    last = next(run)
    row = Multistep().plan(schedule, paths.sync(times))[1].rows[0]
    want = row.keep * middle + row.w[0] * den(middle, 0.6).mean + row.w[1] * fake
    torch.testing.assert_close(last.x, want)


def test_a_restart_forgets_the_history() -> None:
    """After fresh noise the last mean belongs to another trajectory: 2M takes a first-order step."""
    path = paths.restart([0.9, 0.6, 0.3, 0.1], low=0.3, high=0.6, repeats=1)
    plan = Multistep().plan(VP(), path)
    assert [(len(st.rows[0].w), int(st.call)) for st in plan] == [(1, 1), (2, 1), (1, 0), (1, 1), (2, 1)]
    den = mixed(VP())
    *_, out = walk(den, draw(2, 5), path, Multistep(), Seeded([1, 2]))
    assert len(den.calls) == 4 and bool(torch.isfinite(out.x).all())


def test_restart_keeps_the_law() -> None:
    """Up and down again on a Gaussian with the exact variance in every step: the law stays."""
    shape = (400, 50)
    den = Normal(torch.full((50,), 0.4, dtype=torch.float64), 0.25 * torch.eye(50), VP())
    path = paths.restart(grids.cosine_time(VP(), 6), low=0.1, high=0.6, repeats=2)
    x = sample(den, shape, path=path, sampler=DDIM(1.0, variance=True), seeds=range(400)).double()
    n = x.numel()
    assert abs(float(x.mean()) - 0.4) < 5 * (0.25 / n) ** 0.5 and abs(float(x.var()) - 0.25) < 5 * 0.25 * (2 / n) ** 0.5


def test_a_path_may_begin_with_fresh_noise() -> None:
    """Clean data, up to t, and down again: no mean exists yet when the noise is added."""
    up = Path(torch.tensor([[0.0], [0.5], [0.0]], dtype=torch.float64), 0, ("renoise", "solve"))
    x = draw(3, 5)
    for name in NAMES:
        got = sample(Simple(lambda x, t: 0.5 * x, VP()), (3, 5), path=up, sampler=name, seeds=range(3), start=x)
        a, _, s = VP().at(0.5)
        seen = a * x + s * Seeded(range(3))(1, x)
        if name == "angle3":  # Euler in phi: x/r + phi F, exact on N(0, sd^2) and not the mean
            r, phi = hypot(0.5 * a, s), atan2(s, 0.5 * a)
            want = 0.5 * (seen / r + phi * (0.5 * seen - a * 0.25 / r**2 * seen) * r / (0.5 * s))
        else:
            want = 0.5 * seen
        torch.testing.assert_close(got, want)


# gradients


def manual(den: Simple, x: Tensor, times: list[float], last: int, solver: Any) -> Tensor:
    plan, m, base = solver.plan(den.schedule, paths.sync(times)), [], x
    for i, stage in enumerate(plan):
        with torch.set_grad_enabled(i >= len(plan) - last):
            m = [den(x, stage.t).mean, *m][: solver.depth]
            for row in stage.rows:
                new = step(x, m, row, base)
                base, x = (base if row.back else x), new
    return x


@pytest.mark.parametrize(
    "solver", [DDIM(), Multistep(), Heun(), SAMPLERS["unipc3"].solver], ids=["1", "2m", "heun", "c"]
)
@pytest.mark.parametrize("last", [0, 1, 2, 99])
@pytest.mark.parametrize("checkpoint", [False, True])
def test_the_last_calls_keep_a_graph(solver: Any, last: int, checkpoint: bool) -> None:
    times, theta = [0.9, 0.6, 0.3, 0.1], torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    den = Simple(lambda x, t: torch.tanh(theta * x) + 0.2 * x.roll(1, -1), VP())
    calls = len(solver.plan(VP(), paths.sync(times)))
    results = []
    for go in (0, 1):
        x0, den.calls[:] = draw(2, 5).requires_grad_(), []
        if go:
            x = manual(den, x0, times, last, solver)
        else:
            *_, out = walk(den, x0, paths.sync(times), solver, Seeded([1, 2]), grad=last, checkpoint=checkpoint)
            x = out.x
            assert len(den.calls) == calls
        assert x.requires_grad == (last > 0)
        if last:
            grads = torch.autograd.grad(x.square().sum(), (theta, x0), allow_unused=True)
            results.append([g for g in grads if g is not None])
            if not go:  # recomputation costs a second forward pass of those calls, nothing else does
                assert len(den.calls) == calls + (min(last, calls) if checkpoint else 0)
            reach = last + (solver == SAMPLERS["unipc3"].solver)  # a corrector goes back to the x before its call
            assert (grads[1] is None) == (reach < calls)
    if last:
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_sample_keeps_a_graph_on_request_only() -> None:
    theta = torch.tensor(0.7, requires_grad=True)
    den = Simple(lambda x, t: torch.tanh(theta * x), VP())
    assert not sample(den, (2, 5), steps=3, seeds=[1, 2]).requires_grad
    x = sample(den, (2, 5), steps=3, seeds=[1, 2], grad=1)
    assert x.requires_grad and torch.is_grad_enabled()
    start = draw(2, 5, dtype=torch.float32).requires_grad_()
    y = sample(den, (2, 5), steps=3, sampler="ddim", seeds=[1, 2], start=start, grad=3)
    (g,) = torch.autograd.grad(y.sum(), start)
    assert bool((g != 0).any())
    with torch.no_grad():
        assert not sample(den, (2, 5), steps=3, seeds=[1, 2], grad=1).requires_grad


def test_a_walk_leaves_the_grad_mode_as_it_was() -> None:
    den, path = mixed(VP()), paths.sync([0.9, 0.5, 0.0])
    for mode in (True, False):
        with torch.set_grad_enabled(mode):
            for _ in walk(den, draw(2, 5), path, DDIM(), Seeded([1, 2]), grad=1):
                assert torch.is_grad_enabled() is mode
    broken = Simple(lambda x, t: x * (1 / 0), VP())
    with pytest.raises(ZeroDivisionError):
        list(walk(broken, draw(2, 5), path, DDIM(), Seeded([1, 2])))
    assert torch.is_grad_enabled()


# what goes wrong


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_non_finite_value_is_found_and_its_step_named(bad: float) -> None:
    den = Simple(lambda x, t: torch.where(x > -99, x, x) * (bad if t < 0.5 else 0.5), RectifiedFlow())
    path = paths.sync([1.0, 0.75, 0.5, 0.25, 0.0])
    with pytest.raises(FloatingPointError, match=r"network call 4 of 4.*from t = 0\.25 to 0"):
        sample(den, (2, 5), path=path, sampler="ddim", seeds=[1, 2])
    assert len(den.calls) == 8  # once for all, once more to find where
    for name in NAMES:
        with pytest.raises(FloatingPointError, match=r"t = 0\.25"):
            sample(den, (2, 5), path=path, sampler=name, seeds=[1, 2])
    with pytest.raises(FloatingPointError):  # without given seeds the repeated run still meets it
        sample(den, (2, 5), path=path)


def test_a_failure_that_does_not_come_back_is_said_to_be_so() -> None:
    calls = []

    def once(x: Tensor, t: Any) -> Tensor:
        calls.append(t)
        return x * (float("nan") if len(calls) == 2 else 0.5)

    with pytest.raises(FloatingPointError, match="not deterministic"):
        sample(Simple(once, VP()), (2, 5), steps=3, seeds=[1, 2])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"steps": 0}, "steps = 0: a whole number of at least 1"),
        ({"steps": -3}, "steps = -3"),
        ({"steps": 2.5}, r"steps = 2\.5"),
        ({"sampler": "dimm"}, r"'dimm' is not known; one of \['auto', 'ddim'"),
        ({"seeds": [1, 2, 3]}, "3 seeds for 2 samples"),
        ({"seeds": []}, "0 seeds for 2 samples"),
        ({"steps": 3, "path": paths.sync([1.0, 0.0])}, r"its own steps \(1\); give either"),
    ],
)
def test_bad_settings_are_named(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample(mixed(), (2, 5), **kwargs)


def test_a_path_of_the_wrong_shape_is_refused_with_both_shapes() -> None:
    den = mixed(axes=1)
    with pytest.raises(ValueError, match=rf"{re.escape('(1, 4)')}.*{re.escape('(2, 5)')}"):
        sample(den, (2, 5), path=paths.pyramid(4, [1.0, 0.5, 0.0], 1), seeds=[1, 2])


def test_a_path_finer_than_the_training_is_refused() -> None:
    with pytest.raises(ValueError, match="time_axes=0"):
        sample(mixed(), (2, 5), path=paths.pyramid(5, [1.0, 0.5, 0.0], 1), seeds=[1, 2])


# names and grids


def test_samplers_by_name_and_by_hand() -> None:
    assert sampler("auto") is SAMPLERS["2m"] and sampler(SAMPLERS["heun"]) is SAMPLERS["heun"]
    assert sampler(DDIM()) == Sampler(DDIM())
    den = mixed(VP())
    a = sample(den, (2, 5), steps=4, sampler="ancestral", seeds=[1, 2])
    assert torch.equal(a, sample(den, (2, 5), steps=4, sampler=DDIM(1.0), seeds=[1, 2]))
    b = sample(den, (2, 5), steps=4, sampler=Sampler(DDIM(), grids.karras), seeds=[1, 2])
    assert torch.equal(b, sample(den, (2, 5), path=paths.sync(grids.karras(VP(), 4)), sampler="ddim", seeds=[1, 2]))
    chosen = sampler("auto", den, 20)
    assert torch.equal(sample(den, (2, 5), seeds=[1, 2]), sample(den, (2, 5), steps=20, sampler=chosen, seeds=[1, 2]))


@pytest.mark.parametrize("grid", [grids.cosine_time, grids.uniform_time, grids.uniform_lam, grids.karras])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_grids_fall_from_high_to_zero(grid: grids.Grid, n: int) -> None:
    for schedule in (VP(), RectifiedFlow(), Cosine()):
        for high in (1.0, 0.8):
            times = grid(schedule, n, high)
            assert len(times) == n + 1 and times[0] == high and times[-1] == 0.0
            assert all(a > b for a, b in pairwise(times))
    with pytest.raises(ValueError, match="steps = 0"):
        grid(VP(), 0)


def test_grids_are_what_their_names_say() -> None:
    schedule = VP()
    lams = [schedule.lam(t) for t in grids.uniform_lam(schedule, 6)[:-1]]
    assert lams[-1] == pytest.approx(schedule.lam(schedule.t_min))
    assert all(b - a == pytest.approx(lams[1] - lams[0], rel=1e-6) for a, b in pairwise(lams))
    roots = [2.718281828459045 ** (-schedule.lam(t) / 7) for t in grids.karras(schedule, 6)[:-1]]
    assert all(b - a == pytest.approx(roots[1] - roots[0], rel=1e-6) for a, b in pairwise(roots))
    assert grids.uniform_time(schedule, 4) == (1.0, 0.75, 0.5, 0.25, 0.0)
    torch.testing.assert_close(
        torch.tensor(grids.cosine_time(Cosine(), 4)), torch.tensor(grids.uniform_time(Cosine(), 4))
    )
    assert grids.uniform_lam(VP(), 3, low=0.1)[2] == pytest.approx(0.1)


def test_a_denoiser_is_asked_where_it_was_trained() -> None:
    den = wrap(torch.nn.Identity(), VP(), "eps", t_range=(0.0, 0.7))
    assert Sampler(DDIM()).path(den, 3).matrix[0, 0] == 0.7


def test_plans_are_made_once() -> None:
    path = paths.sync([1.0, 0.5, 0.0])
    assert DDIM().plan(VP(), path) is DDIM().plan(VP(), path)
    assert DDIM().plan(VP(), path) is not DDIM(1.0).plan(VP(), path)


def test_step_is_the_mean_of_q_when_the_mean_is_x0() -> None:
    """`step(x, [x_0], row)` with numbers or with tensors a track, fresh memory or reused."""
    x, x0, y = draw(2, 5), draw(2, 5, seed=1), draw(2, 5, seed=2)
    (row,) = DDIM(1.0).plan(VP(), paths.sync([0.7, 0.4]))[0].rows
    want = row.keep * x + row.w[0] * x0
    torch.testing.assert_close(step(x, [x0], row), want)
    tensors = row._replace(keep=torch.tensor(row.keep), w=(torch.tensor(row.w[0]),), anchor=torch.tensor(2.0))
    torch.testing.assert_close(step(x, [x0], tensors), want)
    torch.testing.assert_close(step(x, [x0], tensors, y=y), want + 2 * y)
    mine = x.clone()
    out = step(mine, [x0], row, reuse=True)
    torch.testing.assert_close(out, want)
    assert out.data_ptr() == mine.data_ptr()


def test_progress_draws_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    plain = sample(mixed(VP()), (2, 5), steps=4, seeds=[1, 2])
    assert torch.equal(plain, sample(mixed(VP()), (2, 5), steps=4, seeds=[1, 2], progress=True))
    assert "sampling" in capsys.readouterr().err


def test_times_that_repeat_cost_nothing() -> None:
    den = mixed(VP())
    a = sample(den, (2, 5), path=paths.sync([0.9, 0.9, 0.5, 0.5, 0.0]), seeds=[1, 2], start=draw(2, 5))
    assert len(den.calls) == 2
    torch.testing.assert_close(a, sample(den, (2, 5), path=paths.sync([0.9, 0.5, 0.0]), seeds=[1, 2], start=draw(2, 5)))


@pytest.mark.parametrize("name", ["unipc3", "heun", "2m"])
def test_what_the_body_assigns_is_not_corrected_away(name: str) -> None:
    times, at, there = [1.0, 0.8, 0.6, 0.4, 0.2], SAMPLERS[name].solver, {}
    den = Simple(lambda x, t: torch.zeros_like(x), VP())
    for changed in (False, True):
        for out in walk(den, torch.ones(2, 3), paths.sync(times), at, Seeded(range(2))):
            if changed and out.s == 0.6:
                out.x = torch.full((2, 3), 7.0)
            there[changed] = out.x
    # of a mean of zero every x decays as sigma does, whatever the solver
    torch.testing.assert_close(there[True], torch.full((2, 3), 7.0 * VP().at(0.2)[2] / VP().at(0.6)[2]))
    torch.testing.assert_close(there[False], torch.full((2, 3), VP().at(0.2)[2] / VP().at(1.0)[2]))
