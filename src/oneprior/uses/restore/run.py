"""restore: draws of p(x_0 | y) from a denoiser and a measurement. Each method is a function of its settings."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor

from oneprior.denoiser import Counted, Denoiser
from oneprior.guidance.tiles import Tiled
from oneprior.noise import antithetic
from oneprior.operators import Compose, Measurement, Operator
from oneprior.times import repeated
from oneprior.uses.restore.settings import METHODS, WINDOWS, Method
from oneprior.uses.restore.steps import first

OTHERS = "use " + ", ".join(name for name, method in METHODS.items() if not method.linear)


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
    method: Any = "auto",
    draws: int = 1,
    steps: int | None = None,
    seeds: Sequence[int] | None = None,
    progress: bool = False,
    **cond: Any,
) -> Restored:
    """Restore what was measured; everything in model range (`Measurement.to_model(codec)`).

    method: `auto` (see `choose`), a name of METHODS, or settings such as RedDiffSettings(lr=0.25). draws: how many
    answers a sample. steps: instead of the settings' own. seeds: B * draws of them, the draws of sample 0 first; none:
    antithetic pairs from three draws on, whose mean is nearer to the posterior's (`noise.antithetic`).
    **cond: to the denoiser, tensors over the batch of the measurement.

    Example:
        >>> out = restore(den, Measurement(y, Pool(2), 0.05), draws=8)
        >>> out.mean, out.std

    Raises:
        ValueError: for an unknown method, draws or steps below 1, or as many seeds as there are not draws.
    """
    name, (chosen, where, linear) = _method(method, den, measurement, cond)
    module, function = where.split(":")
    if linear and not measurement.operator.linear:
        raise ValueError(
            f"method '{name}' is for linear operators, which {_say(measurement.operator)} is not: {OTHERS}"
        )
    if draws < 1 or (steps is not None and steps < 1):
        raise ValueError(f"draws = {draws}, steps = {steps}: at least 1 of each was expected")
    if steps is not None:
        chosen = replace(chosen, steps=steps)
    B = len(measurement.y)
    seeds = paired_off([secrets.randbits(62) for _ in range(B * draws)], draws) if seeds is None else list(seeds)
    if len(seeds) != B * draws:
        raise ValueError(f"{len(seeds)} seeds for {B} samples of {draws} draws each: {B * draws} were expected")
    many, cond = measurement.repeat(draws), {k: repeated(v, B, draws) for k, v in cond.items()}
    run: Any = import_module(f"oneprior.uses.restore.{module}")
    counted = Counted(den)
    x = getattr(run, function)(counted, many, chosen, seeds=seeds, progress=progress, **cond)
    every = x.reshape(B, draws, *x.shape[1:])
    return Restored(every[:, 0], every.mean(1), spread(every, seeds), counted.asked // len(x), every)


def paired_off(seeds: Sequence[int], draws: int) -> tuple[int, ...]:
    """Antithetic seeds from three draws a sample on; two alone would not tell their spread."""
    return antithetic(seeds, draws if draws > 2 else 1)


def spread(draws: Tensor, seeds: Sequence[int]) -> Tensor:
    """Standard deviation over draws (B, n, *shape), from the pairs of them that are independent: antithetic ones lie
    further apart. 0 of one draw."""
    n = draws.shape[1]
    pairs = [j for j in range(n - 1) if seeds[j + 1] == ~seeds[j]]
    independent = n * (n - 1) // 2 - len(pairs)
    if not independent:
        return draws.std(1) if n > 1 else torch.zeros_like(draws[:, 0])
    apart = n * (draws - draws.mean(1, keepdim=True)).square().sum(1)
    for j in pairs:
        apart = apart - (draws[:, j + 1] - draws[:, j]).square()
    return (apart / (2 * independent)).clamp(min=0).sqrt()


def _method(method: Any, den: Denoiser, seen: Measurement, cond: dict[str, Any]) -> tuple[str, Method]:
    if not isinstance(method, str):
        for name, known in METHODS.items():
            if type(known.settings) is type(method):
                return name, known._replace(settings=method)
        raise ValueError(f"{method!r} are the settings of no method; a name of {['auto', *METHODS]} was expected")
    name = choose(den, seen, **cond) if method == "auto" else method
    if name not in METHODS:
        raise ValueError(f"method '{method}' is not known; one of {['auto', *METHODS]} was expected")
    if method == "auto" and name == "mmps" and isinstance(den, Tiled):
        return name, METHODS[name]._replace(settings=WINDOWS)
    return name, METHODS[name]


def choose(den: Denoiser, seen: Measurement, **cond: Any) -> str:
    """The rule of `auto`: mmps for linear operators and daps for others, whose levels forget a wrong linearisation;
    where a trial on one sample shows that the network cannot be differentiated, diffpir and red_diff. By windows mmps
    takes the settings WINDOWS."""
    linear = seen.operator.linear
    without = "diffpir" if linear else "red_diff"
    if torch.is_inference_mode_enabled():
        return without
    with torch.enable_grad():
        x, post = first(den, seen, cond)  # what is wrong with the call itself is the caller's to know
        try:
            torch.autograd.grad(post.mean.sum(), x)
        except torch.OutOfMemoryError:  # says nothing of the network: another method would hide it
            raise
        except (RuntimeError, NotImplementedError):
            return without
    return "mmps" if linear else "daps"


def _say(A: Operator) -> str:
    return f"{_say(A.outer)} @ {_say(A.inner)}" if isinstance(A, Compose) else type(A).__name__
