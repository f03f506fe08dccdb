"""sample(den, shape): start noise, a path, a solver, a walk; and the names by which people know samplers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from oneprior import paths
from oneprior.denoiser import Denoiser, schedule_of
from oneprior.noise import Noise, Seeded
from oneprior.paths import Hold, Path
from oneprior.sampling import grids, solvers
from oneprior.sampling import hold as known
from oneprior.sampling.auto import auto
from oneprior.sampling.solvers import Solver
from oneprior.sampling.walk import Step, walk
from oneprior.schedules import Schedule
from oneprior.times import aligned


@dataclass(frozen=True)
class Sampler:
    """A solver and the grid it walks by default."""

    solver: Solver
    grid: grids.Grid = grids.cosine_time

    def path(self, den: Denoiser, steps: int) -> Path:
        schedule = _first(den.schedule)
        return paths.sync(self.grid(schedule, steps, den.facts.t_range[1]))


SAMPLERS: dict[str, Sampler] = {
    "ddim": Sampler(solvers.DDIM()),
    "ancestral": Sampler(solvers.DDIM(1.0)),
    "ancestral-optimal": Sampler(solvers.DDIM(1.0, variance=True)),  # of a denoiser that tells its variance
    "2m": Sampler(solvers.Multistep()),
    "sde2m": Sampler(solvers.Multistep(1.0)),
    "heun": Sampler(solvers.Heun()),
    "3m": Sampler(solvers.Adams(3, rule=solvers.halved)),
    "sde3m": Sampler(solvers.Adams(3, kappa=1.0, rule=solvers.halved)),
    "unipc2": Sampler(solvers.Adams(2, corrector=True, rule=solvers.bh2)),
    "unipc3": Sampler(solvers.Adams(3, corrector=True, rule=solvers.bh2)),
    "unipc3-bh1": Sampler(solvers.Adams(3, corrector=True, rule=solvers.bh1)),
    "ipndm4": Sampler(solvers.Adams(4, solvers.Sbar(), rule=solvers.fixed)),
    "lms4": Sampler(solvers.Adams(4, solvers.Sbar())),
    "eab3": Sampler(solvers.Adams(3, solvers.Data())),
    "deis3": Sampler(solvers.Adams(3, solvers.Eps())),
    "angle3": Sampler(solvers.Adams(3, solvers.Angle())),
    "sa3": Sampler(solvers.Adams(3, kappa=solvers.Band(), corrector=True)),
    "langevin": Sampler(solvers.Langevin()),
}
DEFAULT_STEPS = 20


def sampler(name: str | Sampler | Solver, den: Denoiser | None = None, steps: int | None = None) -> Sampler:
    """The sampler of a name. `auto` follows the rule of `oneprior.sampling.auto` for this denoiser and number of steps;
    where these are not known it is 2M, second-order multistep in the data form, safe for all.

    Raises:
        ValueError: for a name that is not known.
    """
    if isinstance(name, Sampler):
        return name
    if isinstance(name, Solver):
        return Sampler(name)
    if name == "auto":
        return SAMPLERS["2m"] if den is None else Sampler(*auto(den, DEFAULT_STEPS if steps is None else steps))
    if name == "own":
        raise ValueError("this prior came with no sampler that is known here: name one, or leave it to 'auto'")
    if name not in SAMPLERS:
        raise ValueError(f"sampler '{name}' is not known; one of {['auto', *SAMPLERS]} was expected")
    return SAMPLERS[name]


def sample(
    den: Denoiser,
    shape: Any,
    *,
    steps: int | None = None,
    sampler: str | Sampler | Solver = "auto",
    path: Path | None = None,
    seeds: Sequence[int] | None = None,
    start: Any = None,
    hold: Hold | None = None,
    temperature: float = 1.0,
    progress: bool = False,
    grad: int = 0,
    watch: Callable[[Step], None] | None = None,
    **cond: Any,
) -> Any:
    """Draw samples of a denoiser.

    shape: (B, *), or a dict of shapes for a sample of parts. seeds: one a sample; the result of sample i depends on
    seed i alone (fresh ones are drawn without). start: x at the first time of the path instead of noise. path: instead
    of `steps` on the sampler's grid. hold: elements to keep, see `Hold`. temperature: scales the noise of the steps.
    watch: shown every finished `Step` (x at s, the mean at t), to look at or to plot.

    Example:
        >>> x = sample(den, (8, 1, 28, 28), steps=20, seeds=range(8))

    Raises:
        ValueError: for steps < 1, an unknown sampler, or as many seeds as there are not samples.
        FloatingPointError: when the result is not finite, naming the step where it happened.
    """
    chosen, made = _resolve(den, steps, sampler, path, hold is None or not hold.clamp)
    y = cond.get("y")

    def run(seeds: Sequence[int] | None, check: bool) -> tuple[Any, Seeded]:
        x, noise = _begin(den, shape, made, seeds, start, y)
        clamped, along = None, made
        if hold is not None:
            known.check(hold, x)
        if hold is not None and hold.clamp:
            if made.matrix.shape[1] > 1:
                raise ValueError(
                    "clamp=True is for samples of one time; on a path of several tracks hold without clamp"
                )
            clamped = known.Clamp(hold, _first(den.schedule), noise)
            x = clamped(x, made.matrix[0, 0].item(), 0)
        elif hold is not None:
            along, x = known.begin(den, hold, made, x, noise)
        own = watch is None  # then nobody sees the steps, and each may overwrite the one before
        steps = walk(
            den, x, along, chosen.solver, noise, temperature=temperature, grad=grad, check=check, reuse=own, **cond
        )
        for out in shown(steps, made.steps) if progress and not check else steps:
            if clamped is not None:
                out.x = clamped(out.x, out.s, out.index + 1)
            if watch is not None and not check:
                watch(out)
            x = out.x
        return x, noise

    with torch.set_grad_enabled(torch.is_grad_enabled() and grad > 0):
        x, noise = run(seeds, False)
        if not _is_finite(x):
            run(noise.seeds, True)
            raise FloatingPointError("the result is not finite, a repeated run was: the denoiser is not deterministic")
    return x


def shown(steps: Iterable[Any], total: int, what: str = "sampling") -> Any:
    """The same under a bar of progress."""
    from tqdm.auto import tqdm

    return tqdm(steps, total=total, desc=what, leave=False)


def _resolve(
    den: Denoiser, steps: int | None, name: Any, path: Path | None, alone: bool = True
) -> tuple[Sampler, Path]:
    if path is not None:
        if steps is not None:
            raise ValueError(f"a path has its own steps ({path.steps}); give either path or steps")
        return globals()["sampler"](name), path
    n = DEFAULT_STEPS if steps is None else steps
    chosen = Sampler(*auto(den, n, alone)) if name == "auto" else globals()["sampler"](name)
    return chosen, chosen.path(den, n)


def _begin(
    den: Denoiser, shape: Any, path: Path, seeds: Sequence[int] | None, start: Any, y: Tensor | None
) -> tuple[Any, Seeded]:
    several = isinstance(shape, Mapping)
    batch = next(iter(shape.values()))[0] if several else shape[0]
    noise = Seeded.of(seeds, batch)
    if len(noise.seeds) != batch:
        raise ValueError(f"{len(noise.seeds)} seeds for {batch} samples: one seed a sample")
    if start is not None:  # a copy: the walk may overwrite it
        return ({k: v.clone() for k, v in start.items()} if isinstance(start, Mapping) else start.clone()), noise
    like = partial(torch.empty, device=device_of(den))
    if not several:
        return _start(den.schedule, like(tuple(shape)), path, noise, "", y), noise
    return {k: _start(schedule_of(den, k), like(tuple(v)), path, noise, k, None) for k, v in shape.items()}, noise


def _start(schedule: Any, like: Tensor, path: Path, noise: Noise, key: str, y: Tensor | None) -> Tensor:
    """anchor y + sigma eps at the first time of each element; alpha x_0, which nobody knows, is left out."""
    if not isinstance(schedule, Schedule):
        return schedule.begin(like, noise, key)
    n, which = schedule.color(noise(0, like, key)), path.track(key)
    if isinstance(which, int):
        _, b, s = schedule.at(path.begins[which])
    else:
        t = path.matrix[0].to(n.device, n.dtype if n.device.type == "mps" else torch.float64)
        _, b, s = aligned(schedule.at(t[which.to(n.device)]), n)
    n = n if isinstance(s, float) and s == 1.0 else n * s
    return n if b is None or y is None else n + b * y


def _first(schedule: Any) -> Schedule:
    if not isinstance(schedule, dict):
        return schedule
    found = next((s for s in schedule.values() if isinstance(s, Schedule)), None)
    if found is None:
        raise ValueError("every part of this sample is of tokens: give a path, or sample with oneprior.tokens")
    return found


def _is_finite(x: Any) -> bool:
    if isinstance(x, dict):
        return all(map(_is_finite, x.values()))
    return not x.is_floating_point() or isfinite(x.sum().item())


def device_of(den: Denoiser) -> torch.device:
    return _found(den) or torch.device("cpu")


def _found(den: nn.Module) -> torch.device | None:
    # by hand: looking through named tensors, module by module, costs as much as two steps
    for v in chain(den._parameters.values(), den._buffers.values()):
        if v is not None:
            return v.device
    return next(filter(None, map(_found, filter(None, den._modules.values()))), None)
