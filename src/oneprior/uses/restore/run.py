"""restore: draws of p(x_0 | y) from a denoiser and a measurement. Each method is a function of its settings."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from oneprior.denoiser import Denoiser
from oneprior.guidance.mmps import MMPS
from oneprior.operators import Measurement
from oneprior.sampling import sample, sampler
from oneprior.uses.restore.red_diff import red_diff
from oneprior.uses.restore.settings import METHODS, MMPSSettings, RedDiffSettings


class Restored(NamedTuple):
    """x (B, *shape) the first draw of each sample; mean and std over its draws (std 0 of one; for RED-diff it is not a
    posterior standard deviation); nfe: network calls a draw; draws (B, draws, *shape)."""

    x: Tensor
    mean: Tensor
    std: Tensor
    nfe: int
    draws: Tensor


def restore(
    den: Denoiser,
    measurement: Measurement,
    *,
    method: str | MMPSSettings | RedDiffSettings = "auto",
    draws: int = 1,
    steps: int | None = None,
    seeds: Sequence[int] | None = None,
    progress: bool = False,
    **cond: Any,
) -> Restored:
    """Restore what was measured; everything in model range (`Measurement.to_model(codec)`).

    method: `auto` (= mmps), `mmps`, `red_diff`, or settings such as RedDiffSettings(lr=0.25). draws: how many answers a
    sample. steps: instead of the settings' own. seeds: B * draws of them, the draws of sample 0 first. **cond: to the
    denoiser, tensors over the batch of the measurement.

    Example:
        >>> out = restore(den, Measurement(y, Pool(2), 0.05), draws=8)
        >>> out.mean, out.std

    Raises:
        ValueError: for an unknown method, draws or steps below 1, or as many seeds as there are not draws.
    """
    chosen = _settings(method)
    if draws < 1 or (steps is not None and steps < 1):
        raise ValueError(f"draws = {draws}, steps = {steps}: at least 1 of each was expected")
    if steps is not None:
        chosen = replace(chosen, steps=steps)
    B = len(measurement.y)
    seeds = [secrets.randbits(63) for _ in range(B * draws)] if seeds is None else list(seeds)
    if len(seeds) != B * draws:
        raise ValueError(f"{len(seeds)} seeds for {B} samples of {draws} draws each: {B * draws} were expected")
    many, cond = measurement.repeat(draws), {k: _repeated(v, B, draws) for k, v in cond.items()}
    if isinstance(chosen, RedDiffSettings):
        x, nfe = red_diff(den, many, chosen, seeds=seeds, progress=progress, **cond), chosen.steps
    else:
        x, nfe = _mmps(den, many, chosen, seeds, progress, cond)
    every = x.reshape(B, draws, *x.shape[1:])
    std = every.std(1) if draws > 1 else torch.zeros_like(every[:, 0])
    return Restored(every[:, 0], every.mean(1), std, nfe, every)


def _mmps(
    den: Denoiser, many: Measurement, s: MMPSSettings, seeds: Sequence[int], progress: bool, cond: dict[str, Any]
) -> tuple[Tensor, int]:
    given, by = MMPS(den, many, iterations=s.iterations, tol=s.tol), sampler(s.sampler)
    path = by.path(den, s.steps)
    shape = many.operator.domain(tuple(many.y.shape))
    x = sample(given, shape, path=path, sampler=by, seeds=seeds, progress=progress, **cond)
    return x, sum(stage.call for stage in by.solver.plan(den.schedule, path))


def _settings(method: str | MMPSSettings | RedDiffSettings) -> MMPSSettings | RedDiffSettings:
    if not isinstance(method, str):
        return method
    name = "mmps" if method == "auto" else method
    if name not in METHODS:
        raise ValueError(f"method '{method}' is not known; one of {['auto', *METHODS]} was expected")
    return METHODS[name]


def _repeated(v: Any, B: int, n: int) -> Any:
    return v.repeat_interleave(n, 0) if isinstance(v, Tensor) and v.ndim and len(v) == B else v
