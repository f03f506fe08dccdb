"""Step by step with diffusers' schedulers: DDIM, 2M, UniPC-2 and Heun on the same grid, and where diffusers differs.

A trained table of 1000 steps, `trailing` times, a network of eps that is nothing linear and known to both sides by the
table's sigma/alpha. Where diffusers differs, each with a test below:
    its DDIM ends at abar of step 0 unless set_alpha_to_one (we end at sigma = 0, which returns D), and steps by the
        whole number T // n, past or short of the next time it is asked at where n does not divide T;
    its 2M and UniPC take the last step to first order even where it ends at a sigma that is not 0 (below 15 steps for
        2M; `lower_order_final`, our `taper`);
    `final_sigmas_type="sigma_min"` leaves the noise of the last trained step in the sample;
    its UniPC is NaN on the step to sigma = 0 with bh1, or in eps;
    its tables are float32, and its 2M and UniPC round sigmas and times to that too.
"""

from collections.abc import Callable
from math import log
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import Simple, draw
from oneprior import paths
from oneprior.noise import Seeded
from oneprior.sampling import DDIM, Adams, Heun, Multistep, Solver, walk
from oneprior.sampling.solvers import Data, Eps, Form, Sbar, bh1, bh2, exact, halved
from oneprior.sampling.solvers.adams import Rule
from oneprior.schedules import Eta, LinearBetas, ScaledLinearBetas

diffusers = pytest.importorskip("diffusers")
pytestmark = [  # of its numpy calls
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
]

SCHEDULE = LinearBetas()
STEPS = 10  # divides T: see above
TRAILING: dict[str, Any] = {"timestep_spacing": "trailing", "beta_schedule": "linear"}


def network(x: Tensor, clock: float) -> Tensor:
    """eps(x, trained step): bounded and smooth, so that trajectories of the size of data stay there."""
    return 0.6 * torch.tanh(x + 0.2 * x.roll(1, -1)) + 0.3 * x - 0.1 * clock / 1000


def ours(solver: Solver, times: list[float], x: Tensor, schedule: Any = SCHEDULE) -> list[Tensor]:
    def mean(x: Tensor, t: float) -> Tensor:
        a, _, s = schedule.at(t)
        return (x - s * network(x, 1000 * t - 1)) / a

    return [out.x for out in walk(Simple(mean, schedule), x, paths.sync(times), solver, Seeded(range(len(x))))]


def theirs(
    scheduler: Any, x: Tensor, feed: Callable[[Tensor, Any], Tensor] = lambda x, t: x, **more: Any
) -> list[Tensor]:
    out = []
    for t in scheduler.timesteps:
        x = scheduler.step(network(feed(x, t), float(t)), t, x, return_dict=False, **more)[0]
        out.append(x)
    return out


def grid(scheduler: Any, end: float = 0.0) -> list[float]:
    """Trained index k is our t = (k + 1) / 1000."""
    return [*((float(t) + 1) / 1000 for t in scheduler.timesteps), end]


def close(mine: list[Tensor], yours: list[Tensor], bar: float = 1e-5) -> None:
    assert len(mine) == len(yours)
    for i, (a, b) in enumerate(zip(mine, yours, strict=True)):
        assert (a - b).abs().max() < bar * max(1.0, float(b.abs().max())), f"step {i}: {(a - b).abs().max():.2e}"


def made(name: str, steps: int = STEPS, **settings: Any) -> Any:
    scheduler = getattr(diffusers, name)(**{**TRAILING, **settings})
    scheduler.set_timesteps(steps)
    return scheduler


@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
def test_ddim(eta: float) -> None:
    scheduler, x = made("DDIMScheduler", clip_sample=False), draw(4, 6)
    noise = Seeded(range(4))
    got = ours(DDIM(Eta(eta) if eta else 0.0), grid(scheduler), x)
    want = []
    for i, t in enumerate(scheduler.timesteps):
        z = noise(i + 1, x)
        now = want[-1] if want else x
        want.append(scheduler.step(network(now, float(t)), t, now, eta=eta, variance_noise=z, return_dict=False)[0])
    close(got, want)
    assert (got[-1] - got[-2]).abs().max() > 0.01


@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear"])
def test_2m(beta_schedule: str) -> None:
    betas = {"linear": (0.0001, 0.02), "scaled_linear": (0.00085, 0.012)}[beta_schedule]
    schedule = {"linear": LinearBetas(), "scaled_linear": ScaledLinearBetas()}[beta_schedule]
    scheduler = made("DPMSolverMultistepScheduler", beta_schedule=beta_schedule, beta_start=betas[0], beta_end=betas[1])
    x = draw(4, 6)
    close(ours(Multistep(), grid(scheduler), x, schedule), theirs(scheduler, x))


@pytest.mark.parametrize("kind", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [2, 3])
def test_unipc(kind: str, order: int) -> None:
    """diffusers corrects when the next call is made and yields what it then predicts, as we do."""
    scheduler, x = made("UniPCMultistepScheduler", solver_type=kind, solver_order=order), draw(4, 6)
    rule = {"bh1": bh1, "bh2": bh2}[kind]
    got, want = ours(Adams(order, corrector=True, rule=rule, taper=True), grid(scheduler), x), theirs(scheduler, x)
    if kind == "bh1":  # diffusers multiplies B = h, infinite there, by nothing
        assert bool(want.pop().isnan().all()) and bool(torch.isfinite(got.pop()).all())
    close(got, want)


def low(order: int, form: Form, rule: Rule = exact) -> Adams:
    return Adams(order, form, rule=rule, taper=True)


@pytest.mark.parametrize(
    ("name", "settings", "solver", "end"),
    [
        ("DPMSolverMultistepScheduler", {"solver_type": "heun"}, low(2, Data()), 0.0),
        ("DPMSolverMultistepScheduler", {"solver_type": "heun", "solver_order": 3}, low(3, Data(), halved), 0.0),
        ("DEISMultistepScheduler", {"solver_order": 2}, low(2, Eps()), 0.001),
        ("DEISMultistepScheduler", {"solver_order": 3}, low(3, Eps()), 0.001),
        (
            "UniPCMultistepScheduler", {"predict_x0": False, "final_sigmas_type": "sigma_min"},
            Adams(2, Eps(), corrector=True, rule=bh2, taper=True), 0.001,
        ),
    ],
)  # fmt: skip
def test_settings_of_adams_are_their_multistep_methods(name: str, settings: Any, solver: Solver, end: float) -> None:
    """Exact weights are their "heun", and the form in eps ends at the first trained level."""
    scheduler, x = made(name, **settings), draw(4, 6)
    close(ours(solver, grid(scheduler, end), x), theirs(scheduler, x))


def test_sde_2m() -> None:
    scheduler, x, noise = (
        made("DPMSolverMultistepScheduler", algorithm_type="sde-dpmsolver++"),
        draw(4, 6),
        Seeded(range(4)),
    )
    now, want = x, []
    for i, t in enumerate(scheduler.timesteps):
        given = {"variance_noise": noise(i + 1, x), "return_dict": False}
        now = scheduler.step(network(now, float(t)), t, now, **given)[0]
        want.append(now)
    close(ours(Multistep(1.0), grid(scheduler), x), want)


@pytest.mark.parametrize(
    ("name", "solver"),
    [("HeunDiscreteScheduler", Heun()), ("EulerDiscreteScheduler", DDIM()), ("LMSDiscreteScheduler", Adams(4, Sbar()))],
)
def test_schedulers_over_sigma(name: str, solver: Solver) -> None:
    """Their x is ours over alpha, and Heun's timesteps list every call."""
    scheduler, x = made(name, beta_start=0.0001, beta_end=0.02), draw(4, 6)
    sigmas = [float(s) for s in scheduler.sigmas]
    stride = 2 if isinstance(solver, Heun) else 1
    levels = [sigmas[0], *sigmas[1:-1:stride], 0.0]
    times = [SCHEDULE.time(-log(s)) if s else 0.0 for s in levels]
    state, want = x / SCHEDULE.at(times[0])[0], []
    for t, level in zip(scheduler.timesteps, sigmas, strict=False):
        fed = scheduler.scale_model_input(state, t)
        torch.testing.assert_close(fed, state / (level**2 + 1) ** 0.5)
        clock = 1000 * SCHEDULE.time(-log(level)) - 1
        state = scheduler.step(network(fed, clock), t, state, return_dict=False)[0]
        want.append(state)
    got = ours(solver, times, x)
    assert len(got) == len(want) == stride * STEPS - (stride - 1)
    ends = [times[1 + k // stride] for k in range(len(got))]
    close([g / SCHEDULE.at(t)[0] for g, t in zip(got, ends, strict=True)], want)


# where diffusers differs


def test_the_last_step_of_ddim_ends_at_the_first_trained_level() -> None:
    scheduler, x = made("DDIMScheduler", clip_sample=False, set_alpha_to_one=False), draw(4, 6)
    want = theirs(scheduler, x)
    close(ours(DDIM(), grid(scheduler, 0.001), x), want)
    assert (ours(DDIM(), grid(scheduler), x)[-1] - want[-1]).abs().max() > 1e-3


def test_ddim_strides_by_whole_steps() -> None:
    scheduler, x = made("DDIMScheduler", 12, clip_sample=False), draw(4, 6)
    want = theirs(scheduler, x)
    assert (ours(DDIM(), grid(scheduler), x)[-1] - want[-1]).abs().max() > 1e-3
    # its rows are ours on the times it really steps between: from the time it is asked at, down by 1000 // 12
    state = x
    for i, k in enumerate(scheduler.timesteps.tolist()):
        down = max(k - 83, -1)
        (state,) = ours(DDIM(), [(k + 1) / 1000, (down + 1) / 1000], state)
        assert (state - want[i]).abs().max() < 1e-5 * max(1.0, float(want[i].abs().max()))


def test_the_last_step_to_sigma_min_is_first_order_there_and_noisy() -> None:
    for name, solver, tapered in (
        ("DPMSolverMultistepScheduler", Multistep(), Adams(2, rule=bh2, taper=True)),
        (
            "UniPCMultistepScheduler", Adams(2, corrector=True, rule=bh2),
            Adams(2, corrector=True, rule=bh2, taper=True),
        ),
    ):  # fmt: skip
        scheduler, x = made(name, final_sigmas_type="sigma_min"), draw(4, 6)
        want = theirs(scheduler, x)
        plain, taper = (ours(s, grid(scheduler, 0.001), x) for s in (solver, tapered))
        close(taper, want)  # `lower_order_final`
        close(plain[:-1], want[:-1])
        assert (plain[-1] - want[-1]).abs().max() > 1e-4
        clean = ours(solver, grid(scheduler), x)
        assert (clean[-1] - want[-1]).abs().max() > 1e-3  # and sigma_min of noise is left in it


def test_the_last_step_of_order_three_is_lowered_twice() -> None:
    scheduler, x = made("UniPCMultistepScheduler", solver_order=3), draw(4, 6)
    want = theirs(scheduler, x)
    plain = ours(Adams(3, corrector=True, rule=bh2), grid(scheduler), x)
    close(plain[:-2], want[:-2])
    assert (plain[-2] - want[-2]).abs().max() > 1e-5


def test_leading_and_linspace_times_are_paths_too() -> None:
    """Their first times are not the noisiest trained level (leading), or their steps are not whole (linspace)."""
    x = draw(4, 6)
    leading = made("DDIMScheduler", clip_sample=False, timestep_spacing="leading")
    assert float(leading.timesteps[0]) < 999
    # its last step goes on by a whole stride from step 0, that is to sigma = 0
    close(ours(DDIM(), grid(leading), x), theirs(leading, x))
    linspace = made("DPMSolverMultistepScheduler", timestep_spacing="linspace")
    assert float(linspace.timesteps[0]) == 999 and float(linspace.timesteps[-1]) > 1
    close(ours(Multistep(), grid(linspace), x), theirs(linspace, x))


def test_float32_tables_are_the_rest_of_the_difference() -> None:
    """In float64 our alpha is the product of (1 - beta); diffusers' float32 product is off by up to 1e-6."""
    scheduler = made("DDIMScheduler")
    index = torch.arange(1000)
    mine = torch.tensor([SCHEDULE.at((k + 1) / 1000)[0] ** 2 for k in index.tolist()], dtype=torch.float64)
    yours = scheduler.alphas_cumprod.double()
    off = ((mine - yours) / mine).abs()
    assert scheduler.alphas_cumprod.dtype == torch.float32 and 1e-7 < off.max() < 1e-4
