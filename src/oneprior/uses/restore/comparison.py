r"""A fair table of restorations: for each picture one measurement, one start noise and one budget of network calls.

    for row, mean in compare(den, x, {"half": (Mask.half(shape), 0.05)}, ["mmps", "dps", "my.module:fn"]): ...
    summary(rows)                              # means, and differences with paired bootstrap intervals

A stranger's method has one signature, everything in model range, and is free in what it does with its calls:
    fn(den, measurement, *, start, calls, seeds) -> Tensor
    den(x, t).mean     E[x_0 | x_t], x of (B, *shape), t in [0, 1]; den.schedule.at(t) = (alpha, None, sigma)
    measurement        .y (B, *), .operator (adjoint, pinv, prox ...), .noise: as `oneprior.Measurement`
    start (B, *shape)  standard normal, what our samplers begin with; returns draws (B, *shape) of p(x_0 | y)

Of draws z_1..z_D sorted, the truth lies in [z_r, z_{D+1-r}] with probability (D + 1 - 2r) / (D + 1) if it is one more
draw of the same law. `coverage` mixes two neighbouring r so that this is p exactly, whatever the law and D.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from math import sqrt
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from oneprior.codecs import Codec, Pixels
from oneprior.denoiser import Counted, Denoiser, Wrapper
from oneprior.metrics import psnr, ssim
from oneprior.noise import Seeded
from oneprior.operators import Measurement, Operator
from oneprior.operators.simulate import simulate
from oneprior.operators.solve import cg
from oneprior.posterior import Posterior
from oneprior.times import Time, align
from oneprior.uses.restore.run import restore
from oneprior.uses.restore.settings import METHODS, RedDiffSettings

METRICS = ("psnr_draw", "psnr_mean", "ssim", "residual", "cover50", "cover90", "seconds", "calls")
Row = dict[str, Any]
Scene = tuple[Operator, float]
Run = Callable[[Measurement, list[int]], tuple[Tensor, int]]  # draws in the user's units, and the calls for each


def compare(
    den: Denoiser,
    x: Tensor,
    scenes: Mapping[str, Scene],
    methods: Sequence[str],
    *,
    codec: Codec | None = None,
    train: Tensor | None = None,
    draws: int = 8,
    calls: int = 50,
    seed: int = 0,
    done: Collection[tuple[str, str, int]] = (),
) -> Iterator[tuple[Row, Tensor]]:
    """Row by row (scene, method, picture), with the mean over draws (*shape); the rows of `done` are left out.

    x: pictures (N, *shape) in [0, 1]. scenes: operator and noise by name, in the user's units. methods: names of
    METHODS or "package.module:function"; pseudo-inverse and, with `train` (M, *shape), Wiener filter stand beside.
    calls: of the network for a draw; methods take as many steps as that allows.

    A row holds the key, `METRICS` (None where there is none) and `steps`. PSNR and SSIM are of what is clipped to
    [0, 1], SSIM of the mean over draws; residual: root mean square of (A z - y) / noise, 1 for draws of the posterior.

    Raises:
        ValueError: unknown methods, and those that refuse an operator, before any work is done.
        TypeError: a function that returns something else than draws.
    """
    codec = codec or Pixels(None)
    plans: dict[tuple[str, str], tuple[Run, int]] = {}
    for s, scene in scenes.items():
        for m in methods:
            plans[s, m] = (_theirs if ":" in m else _ours)(den, x[:1], scene, m, codec, draws, calls)
        plans[s, "pinv"] = (lambda seen, _: (seen.operator.pinv(seen.y), 0)), 0
        if train is not None and scene[0].linear:
            plans[s, "wiener"] = (lambda seen, _: (wiener(seen, train), 0)), 0

    def rows() -> Iterator[tuple[Row, Tensor]]:
        for (s, m), (run, steps) in plans.items():
            for i in (i for i in range(len(x)) if (s, m, i) not in done):
                seen = Measurement(simulate(scenes[s][0], x[i : i + 1], scenes[s][1], seed, [i]), *scenes[s])
                began = time.perf_counter()
                z, asked = run(seen, list(range(seed + i * draws, seed + (i + 1) * draws)))
                z, took = z.detach(), (time.perf_counter() - began) / len(z)
                row = {"operator": s, "method": m, "image": i, **measures(z, x[i], seen)}
                yield {**row, "seconds": took, "calls": asked, "steps": steps}, z.clamp(0, 1).mean(0)

    return rows()


def _ours(
    den: Denoiser, like: Tensor, scene: Scene, method: str, codec: Codec, draws: int, calls: int
) -> tuple[Run, int]:
    """A method of METHODS at as many steps as make no more calls, found by trial on a network that costs nothing."""
    if method not in METHODS:
        raise ValueError(f"method '{method}' is not known; one of {', '.join(METHODS)}, or package.module:function")
    settings = METHODS[method].settings
    if isinstance(settings, RedDiffSettings) and scene[1] > 0:
        settings = replace(settings, mode="map")  # the mode that uses the noise
    trial = Measurement(scene[0](like), *scene).to_model(codec)
    steps, asked = calls + 1, calls + 1
    while asked > calls and steps > 1:
        steps = max(1, min(steps - 1, steps * calls // asked))
        asked = restore(_Free(den), trial, method=settings, steps=steps, seeds=[0]).nfe

    def run(seen: Measurement, seeds: list[int]) -> tuple[Tensor, int]:
        out = restore(den, seen.to_model(codec), method=settings, draws=draws, steps=steps, seeds=seeds)
        return codec.decode(out.draws[0]), out.nfe

    return run, steps


def _theirs(
    den: Denoiser, like: Tensor, scene: Scene, method: str, codec: Codec, draws: int, calls: int
) -> tuple[Run, int]:
    """A function of the signature above; the steps are its own affair."""
    fn, shape = foreign(method), (draws, *like.shape[1:])

    def run(seen: Measurement, seeds: list[int]) -> tuple[Tensor, int]:
        counted, start = Counted(den), Seeded(seeds)(0, like.new_empty(shape))
        out = fn(counted, seen.to_model(codec).repeat(draws), start=start, calls=calls, seeds=seeds)
        if not isinstance(out, Tensor) or tuple(out.shape) != shape:
            said = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise TypeError(f"{method} returned {said}; draws of shape {shape} were expected")
        return codec.decode(out), counted.asked // draws

    return run, 0


class _Free(Wrapper):
    """Of N(0, I) in place of the network: costs nothing, and is asked as often."""

    def posterior(self, x: Tensor, t: Time, **cond: Any) -> Posterior:
        a, _, s = self.schedule.at(t)
        return Posterior(x * align(a / (a * a + s * s), x), x, self.schedule, t)


def foreign(name: str) -> Callable[..., Tensor]:
    """The function of "package.module:function". Raises ValueError where there is none."""
    module, _, function = name.partition(":")
    try:
        found = getattr(import_module(module), function)
    except (ImportError, AttributeError) as e:
        raise ValueError(f"{name}: {e}; package.module:function was expected, importable from here") from e
    if not callable(found):
        raise ValueError(f"{name} is a {type(found).__name__}, no function")
    return cast(Callable[..., Tensor], found)


def measures(draws: Tensor, x: Tensor, seen: Measurement) -> Row:
    """The figures of draws (D, *shape) of x (*shape); None for those that one draw, or no noise, does not tell."""
    clipped, D = draws.clamp(0, 1), len(draws)
    mean, side = clipped.mean(0, keepdim=True), min(11, *x.shape[-2:]) - 1 | 1
    noise = torch.as_tensor(seen.noise)
    residual = None
    if bool((noise > 0).all()):
        many = seen.repeat(D)
        off = ((seen.operator.repeat(D)(draws) - many.y) / noise).square().flatten(1).sum(1)
        residual = float((off / seen.operator.count(seen.y)).sqrt().mean())
    return {
        "psnr_draw": float(psnr(clipped, x.expand_as(clipped), data_range=1).mean()),
        "psnr_mean": float(psnr(mean, x[None], data_range=1)),
        "ssim": float(ssim(mean, x[None], data_range=1, window=side)),
        "residual": residual,
        "cover50": coverage(draws, x, 0.5) if D > 1 else None,
        "cover90": coverage(draws, x, 0.9) if D > 1 else None,
    }


def coverage(draws: Tensor, x: Tensor, p: float) -> float:
    """Share of the elements of x (*shape) in the central p-interval of draws (D, *shape); p if x is such a draw."""
    z, D = draws.sort(0).values, len(draws)
    r = (D + 1) * (1 - p) / 2
    k = int(r)

    def inside(k: int) -> float:
        return 1.0 if k < 1 else float(((z[k - 1] <= x) & (x <= z[D - k])).double().mean())

    return (1 - (r - k)) * inside(k) + (r - k) * inside(k + 1)


def wiener(seen: Measurement, train: Tensor) -> Tensor:
    """The best linear guess m + S A^T (A S A^T + R)^-1 (y - A m), m and S of pictures `train` (M, *shape)."""
    m = train.mean(0, keepdim=True)
    Z, A = (train - m).flatten(1) / sqrt(len(train) - 1), seen.operator

    def S(v: Tensor) -> Tensor:
        return (v.flatten(1) @ Z.mT @ Z).reshape(v.shape)

    R = torch.as_tensor(seen.variance).to(seen.y).clamp(min=1e-6)
    u = cg(lambda u: A(S(A.adjoint(u))) + R * u, seen.y - A(m), 200, 1e-5)
    return m + S(A.adjoint(u))


def summary(rows: Sequence[Row], reference: str | None = None, resamples: int = 2000) -> list[Row]:
    """Means over pictures by operator and method, 95 % intervals of PSNR, and of its difference to the reference.

    The same pictures are drawn for all methods of a resample, so a difference is known better than either figure.
    reference: a method, by default the first.
    """
    keys = dict.fromkeys((r["operator"], r["method"]) for r in rows)
    n = 1 + max(r["image"] for r in rows)
    index = np.random.Generator(np.random.Philox(key=0)).integers(0, n, (resamples, n))
    reference = reference or rows[0]["method"]
    value = {(*k, m): np.full(n, np.nan) for k in keys for m in METRICS}
    for r in rows:
        for m in METRICS:
            if r[m] is not None:
                value[r["operator"], r["method"], m][r["image"]] = r[m]
    out = []
    for operator, method in keys:
        row: Row = {"operator": operator, "method": method}
        row |= {m: None if np.isnan(v := value[operator, method, m]).any() else float(v.mean()) for m in METRICS}
        own = value[operator, method, "psnr_mean"]
        for name, v in (("psnr", own), ("against", own - value.get((operator, reference, "psnr_mean"), own * np.nan))):
            row[name] = [float(v.mean()), *np.quantile(v[index].mean(1), (0.025, 0.975)).tolist()]
        out.append(row)
    return out
