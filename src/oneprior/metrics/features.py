r"""What every metric shares: features in float64, blocks of pairs, and the value that equal distributions give.

A metric compares real features r_1..r_N with generated ones g_1..g_M, arrays of shape (N, D) and (M, D). None of the
estimators is zero for a perfect model, so a value means something only beside its null, the same metric between two
disjoint halves of real data at the same sizes: `null(metric, real, n)`.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

Array = Tensor | np.ndarray


class Estimate(NamedTuple):
    """A mean over repeats and the standard error of that mean."""

    mean: float
    error: float


def float64(x: Array) -> Tensor:
    """x as a float64 tensor on its own device (on the CPU where the device has no float64)."""
    if not isinstance(x, Tensor):
        return torch.from_numpy(np.array(x, dtype=np.float64))  # a copy: the array may be read-only
    x = x.detach()
    return x.cpu().double() if x.device.type == "mps" else x.double()


def flatten(x: Array) -> Array:
    """Images or clips (N, ...) as feature rows (N, D)."""
    return x.reshape(x.shape[0], -1)


def features(x: Array, name: str = "features", least: int = 2) -> Tensor:
    """x as a float64 tensor (N, D).

    Raises:
        ValueError: x is not two-dimensional, has fewer than `least` rows, or holds NaN or infinity (the row is named).
    """
    out = float64(x)
    if out.ndim != 2:
        raise ValueError(
            f"{name} has shape {tuple(out.shape)}; expected (N, D), one row per sample: flatten images first "
            "with oneprior.metrics.flatten(x)"
        )
    if len(out) < least:
        raise ValueError(f"{name} has {len(out)} rows; this metric needs at least {least}")
    bad = ~torch.isfinite(out).all(dim=1)
    if bad.any():
        rows = bad.nonzero().flatten().tolist()
        raise ValueError(f"{name} is not finite in {len(rows)} of {len(out)} rows, the first of them row {rows[0]}")
    return out


def pair(real: Array, generated: Array, least: int = 2) -> tuple[Tensor, Tensor]:
    """Both as float64 (N, D) and (M, D) on the device of `real`; a ValueError where D differs."""
    r, g = features(real, "real", least), features(generated, "generated", least)
    if r.shape[1] != g.shape[1]:
        raise ValueError(f"real has {r.shape[1]} features a row and generated {g.shape[1]}; both need the same D")
    return r, g.to(r.device)


def blocks(rows: int, width: int, budget: int = 2**23) -> Iterator[slice]:
    """Slices that cut `rows` so that slice x width stays near `budget` numbers (64 MB of float64)."""
    step = max(1, budget // max(width, 1))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j|^2, shape (n, m), by one matrix product: absolute error of order 1e-15 max(|x|^2, |y|^2)."""
    squares = x.square().sum(1)[:, None] + y.square().sum(1)[None, :]
    return torch.addmm(squares, x, y.T, alpha=-2).clamp_(min=0)


def null(
    metric: Callable[[Tensor, Tensor], float], real: Array, n: int | tuple[int, int], repeats: int = 10, seed: int = 0
) -> Estimate:
    """The metric between two disjoint random parts of real data: what a perfect model would score.

        >>> null(frechet_distance, real, n=360)
        >>> null(lambda r, g: prdc(r, g).density, real, n=(1000, 200))

    metric: of real and generated features. real: (N, D). n: size of both parts, or (real, generated). Partitions are a
    pure function of the seed. They share one pool of N samples, so the standard error leaves out the choice of the
    pool and is too small when the parts nearly exhaust it.

    Raises:
        ValueError: the two parts do not fit into N, or repeats < 1.
    """
    x = features(real, "real")
    sizes = (n, n) if isinstance(n, int) else n
    if min(sizes) < 1 or sum(sizes) > len(x):
        raise ValueError(
            f"a null of sizes {sizes} needs {sum(sizes)} disjoint samples; real has {len(x)}: "
            f"take n <= {len(x) // 2} or bring more real data"
        )
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}; expected at least 1")
    values = []
    for repeat in range(repeats):
        order = np.random.default_rng((seed, repeat)).permutation(len(x))
        first, second = order[: sizes[0]], order[sizes[0] : sum(sizes)]
        values.append(float(metric(x[torch.from_numpy(first)], x[torch.from_numpy(second)])))
    spread = np.std(values, ddof=1) / np.sqrt(repeats) if repeats > 1 else np.nan
    return Estimate(float(np.mean(values)), float(spread))
