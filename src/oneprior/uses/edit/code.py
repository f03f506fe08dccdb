"""A sample as the noise of a stochastic sampler: x_0 = G(x_T, z_1, ..., z_N), and the way back.

DPM-Encoder (Wu and De la Torre 2022, "Unifying Diffusion Models' Latent Space", CycleDiffusion): draw
x_T ~ q(x_T | x_0) and x_s ~ q(x_s | x_t, x_0) of the eta family; then z = (x_s - mean of the model) / std. A step is
linear in the mean, mean_s(D) = keep x_t + c D, and q is the same step with x_0 in the place of D, so with w ~ N(0, I)
    x_s = mean_s(x_0) + std w = [mean_s(D) + std w] + c (x_0 - D),      z = w + (c / std)(x_0 - D):
an ordinary walk whose state is moved by c (x_0 - D). For eta = 1, (c / std)^2 = SNR_s - SNR_t, so the energy of z in
excess of its dimension is twice the diffusion part of the bound, in nats. The last step has std = 0; there c = 1 and
x_0 - D is kept as the residual, which makes decoding exact to rounding. eta = 0 has no noise to hold the sample: its
code is the end point of the probability-flow ODE (DDIM inversion; a decoder of another model: DDIB, Su et al. 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from oneprior import paths
from oneprior.denoiser import Denoiser
from oneprior.noise import Noise, Replay, Seeded, White
from oneprior.paths import Path
from oneprior.sampling import DDIM, Step, grids, walk
from oneprior.schedules import Eta, Schedule

Tape = dict[tuple[int, str], Tensor]


@dataclass(frozen=True, eq=False)
class Code:
    """What reproduces a sample: all that the decoder must have in common with the encoder is in here.

    start: x at the first time of the path, (B, *). noises: z by (stage, ""), empty for eta = 0. residual: x_0 minus
    the last mean, (B, *). path, eta, schedule: what start and noises refer to.
    """

    start: Tensor
    noises: Tape
    residual: Tensor
    path: Path
    eta: float
    schedule: Schedule

    @property
    def energy(self) -> Tensor:
        """(B,): sum over stages of |z|^2 - dim; half of it is the diffusion part of the bound at eta = 1, in nats."""
        each = [z.double().square().flatten(1).sum(1) - z[0].numel() for z in self.noises.values()]
        return torch.stack(each).sum(0) if each else self.start.new_zeros(len(self.start), dtype=torch.float64)


def encode(
    x0: Tensor,
    den: Denoiser,
    *,
    steps: int = 50,
    eta: float = 0.1,
    start: float | None = None,
    seeds: Sequence[int] | None = None,
    **cond: Any,
) -> Code:
    """The code of samples under a model: with `decode` of the same model and conditions it gives them back.

    x0: (B, *) in model range. steps: network calls, on the cosine-time grid. eta: in (0, 1], the noise of a step as
    DDIM's eta: small keeps more of the sample; 0 inverts the ODE. start: time at which the code begins (the model's
    noisiest by default); earlier keeps more of the sample. seeds: one a sample, range(B) by default. cond: of x0.

    Example:
        >>> code = encode(x, den, label=three)
        >>> decode(code, den, label=eight)

    Raises:
        ValueError: for eta outside [0, 1], a start outside (0, 1], an anchored or coloured schedule.
    """
    path = _path(den, steps, eta, start)
    noise, tape, residual = _noise(seeds, len(x0)), {}, torch.zeros_like(x0)
    if eta == 0:
        return Code(_inverted(x0, den, path, cond), {}, residual, path, eta, den.schedule)
    begin = _noised(x0, den, path, noise)
    for stage, rest, z in _encoding(x0, begin, den, path, eta, noise, cond):
        residual = rest
        if z is not None:
            tape[stage, ""] = z
    return Code(begin, tape, residual, path, eta, den.schedule)


def decode(code: Code, den: Denoiser, *, residual: bool = True, **cond: Any) -> Tensor:
    """The sample of a code under a model: the encoder's own gives x_0 back, another (or another condition) an edit.

    residual: add what the encoder's last mean had left over; without it, its model is off by exactly that.

    Raises:
        ValueError: when the model has another schedule than the code (`with_schedule` gives it the code's).
    """
    _same(code.schedule, den)
    x = _end(walk(den, code.start, code.path, DDIM(Eta(code.eta)), Replay(code.noises), **cond))
    return x + code.residual if residual else x


def translate(
    x0: Tensor,
    den_a: Denoiser,
    den_b: Denoiser | None = None,
    *,
    method: str = "cycle",
    steps: int = 50,
    eta: float = 0.1,
    start: float | None = None,
    cond_a: Mapping[str, Any] | None = None,
    cond_b: Mapping[str, Any] | None = None,
    seeds: Sequence[int] | None = None,
) -> Tensor:
    """From the domain of one model (or condition) to that of another; neither was trained for it.

    method: "cycle" encodes with a and decodes with b in one pass, keeping no code; "ddib" inverts the ODE of a and
    follows that of b (eta is not used); "sdedit" noises to `start` and samples b (Meng et al. 2022). den_b is den_a by
    default, and may be guided. steps, eta, start, seeds: as in `encode`; seeds also give SDEdit's noise.

    Raises:
        ValueError: for an unknown method, or two models with different schedules.
    """
    if method not in METHODS:
        raise ValueError(f"method '{method}' is not known; one of {sorted(METHODS)} was expected")
    den_b = den_a if den_b is None else den_b
    _same(den_a.schedule, den_b)
    path = _path(den_a, steps, eta, start)
    return METHODS[method](x0, den_a, den_b, path, eta, _noise(seeds, len(x0)), dict(cond_a or {}), dict(cond_b or {}))


Move = Callable[[Tensor, Denoiser, Denoiser, Path, float, Noise, dict[str, Any], dict[str, Any]], Tensor]


def _cycle(x0: Tensor, a: Denoiser, b: Denoiser, path: Path, eta: float, noise: Noise, ca: Any, cb: Any) -> Tensor:
    if eta == 0:
        return _ddib(x0, a, b, path, eta, noise, ca, cb)
    begin, tape = _noised(x0, a, path, noise), {}
    target = walk(b, begin, path, DDIM(Eta(eta)), Replay(tape), **cb)  # reads the tape as it is written
    y = begin
    for stage, rest, z in _encoding(x0, begin, a, path, eta, noise, ca):
        tape.clear()
        if z is not None:
            tape[stage, ""] = z
        y = next(target).x + (rest if z is None else 0)
    return y


def _ddib(x0: Tensor, a: Denoiser, b: Denoiser, path: Path, eta: float, noise: Noise, ca: Any, cb: Any) -> Tensor:
    return _end(walk(b, _inverted(x0, a, path, ca), path, DDIM(), noise, **cb))


def _sdedit(x0: Tensor, a: Denoiser, b: Denoiser, path: Path, eta: float, noise: Noise, ca: Any, cb: Any) -> Tensor:
    return _end(walk(b, _noised(x0, b, path, noise), path, DDIM(Eta(eta)), noise, **cb))


METHODS: dict[str, Move] = {"cycle": _cycle, "ddib": _ddib, "sdedit": _sdedit}


def _encoding(
    x0: Tensor, begin: Tensor, den: Denoiser, path: Path, eta: float, noise: Noise, cond: Mapping[str, Any]
) -> Iterator[tuple[int, Tensor, Tensor | None]]:
    """Per network call: its noise stage, x_0 - D, and z (None where the step has no noise)."""
    solver = DDIM(Eta(eta))
    plan = solver.plan(den.schedule, path)
    for out in walk(den, begin, path, solver, noise, **cond):
        row, rest = plan[out.index].rows[0], x0 - out.mean
        out.x = out.x + row.w[0] * rest
        z = noise(out.index + 1, x0) + (row.w[0] / row.std) * rest if row.std else None
        yield out.index + 1, rest, z


def _inverted(x0: Tensor, den: Denoiser, path: Path, cond: Mapping[str, Any]) -> Tensor:
    return _end(walk(den, x0, paths.invert(path.matrix[:, 0].tolist()), DDIM(), Replay({}), **cond))


def _end(steps: Iterator[Step]) -> Tensor:
    *_, last = steps
    return last.x


def _path(den: Denoiser, steps: int, eta: float, start: float | None) -> Path:
    schedule = den.schedule
    if not 0 <= eta <= 1:
        raise ValueError(f"eta = {eta}: 0 (the ODE) to 1 (ancestral) was expected")
    if not isinstance(schedule.color, White) or schedule.at(0.5)[1] is not None:
        raise ValueError(f"codes are defined for white noise and no anchor; the schedule is {schedule}")
    high = den.facts.t_range[1] if start is None else float(start)
    if not 0 < high <= 1:
        raise ValueError(f"start = {start}: a time in (0, 1] was expected, 1 is pure noise")
    return paths.sync(grids.cosine_time(schedule, steps, high))


def _noised(x0: Tensor, den: Denoiser, path: Path, noise: Noise) -> Tensor:
    a, _, s = den.schedule.at(path.matrix[0, 0].item())
    return a * x0 + s * noise(0, x0)


def _noise(seeds: Sequence[int] | None, count: int) -> Seeded:
    return Seeded(range(count) if seeds is None else seeds)


def _same(schedule: Schedule, den: Denoiser) -> None:
    if den.schedule != schedule:
        raise ValueError(f"the code is under {schedule}, the model under {den.schedule}: use with_schedule(model, ...)")
