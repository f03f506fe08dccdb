"""Two Frechet distances of clips (N, F, C, H, W): how frames look, and how they move.

One distance of clip features hides which of the two is wrong, and prefers broken motion to blurred frames (Ge et al.
2024, "On the Content Bias in Frechet Video Distance"). Here no network is asked:
    appearance   one frame a clip, chosen at random: its grey levels and gradients by cells of a 4 x 4 grid
    motion       each pair of frames: the displacement v that explains it best, g_t + v . grad g = 0 in least squares
                 (Lucas and Kanade 1981), and the share of g_t^2 that it leaves unexplained
Order cannot move the first. Features of one's own go to `frechet_distance`, and `responses` says whether they see what
they should: a distance that frame shuffling leaves at its null is blind to motion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as nnf
from torch import Tensor

from oneprior.metrics.features import Array, Estimate, float64, null
from oneprior.metrics.frechet import frechet_distance
from oneprior.noise import normal, uniform

CELLS = 4


class VideoScore(NamedTuple):
    """Frechet distances of frames and of motion, and what two halves of real clips of that size give (at most as many
    as half of them)."""

    appearance: float
    motion: float
    null_appearance: Estimate
    null_motion: Estimate


def frechet_video(real: Array, generated: Array, seed: int = 0) -> VideoScore:
    """Both distances of `generated` (M, F, C, H, W) to `real` (N, F, C, H, W), in [0, 1], beside their nulls.

    Raises:
        ValueError: for clips of different shapes: neither distance compares across lengths or sizes.
    """
    r, g = clips(real), clips(generated)
    if r.shape[1:] != g.shape[1:]:
        raise ValueError(f"real clips are {tuple(r.shape[1:])}, generated ones {tuple(g.shape[1:])}: bring them to one")
    both, n = [(appearance(r, seed), appearance(g, seed)), (motion(r), motion(g))], min(len(g), len(r) // 2)
    (looks, moves), nulls = (
        (frechet_distance(*v) for v in both),
        [null(frechet_distance, v, n, seed=seed) for v, _ in both],
    )
    return VideoScore(looks, moves, nulls[0], nulls[1])


def clips(x: Array) -> Tensor:
    """x as a float64 tensor (N, F, C, H, W) of two frames or more. Raises ValueError for anything else."""
    out = float64(x)
    if out.ndim != 5 or out.shape[1] < 2:
        raise ValueError(f"clips (N, F, C, H, W) of two frames or more were expected; got {tuple(out.shape)}")
    return out


def appearance(x: Array, seed: int = 0) -> Tensor:
    """Features (N, D) of one random frame a clip."""
    c = clips(x)
    at = torch.from_numpy(uniform(seed, "frame of a clip", range(len(c)), ()) * c.shape[1]).long()
    frame = c[torch.arange(len(c)), at]
    steep = frame.diff(dim=-1).square()[..., :-1, :] + frame.diff(dim=-2).square()[..., :-1]
    cells = [nnf.adaptive_avg_pool2d(v, (CELLS, CELLS)).flatten(1) for v in (frame, steep.sqrt())]
    return torch.cat(cells, 1)


def motion(x: Array) -> Tensor:
    """Features (N, 3 (F - 1)): the displacement in pixels of each pair of frames, and the share left unexplained."""
    c = clips(x).mean(2)
    taps = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=c.dtype, device=c.device) / 16
    g = nnf.pad(c, (2, 2, 2, 2), mode="replicate")
    g = (g.unfold(-1, 5, 1) * taps).sum(-1).unfold(-2, 5, 1).mul(taps).sum(-1)
    middle, dt = (g[:, 1:] + g[:, :-1]) / 2, (g[:, 1:] - g[:, :-1])[..., 1:-1, 1:-1]
    dy = (middle[..., 2:, 1:-1] - middle[..., :-2, 1:-1]) / 2
    dx = (middle[..., 1:-1, 2:] - middle[..., 1:-1, :-2]) / 2
    pairs = (dy, dy), (dx, dx), (dx, dy), (dy, dt), (dx, dt), (dt, dt)
    yy, xx, xy, yt, xt, tt = ((a * b).sum((-1, -2)) for a, b in pairs)
    floor = 1e-9 + 1e-3 * (yy + xx)
    det = (yy + floor) * (xx + floor) - xy * xy
    v, u = ((xy * xt - (xx + floor) * yt) / det, (xy * yt - (yy + floor) * xt) / det)
    left = (tt + v * yt + u * xt) / (tt + 1e-6 * g[0, 0].numel())
    return torch.stack([v, u, left], 2).flatten(1)


def corruptions(seed: int = 0) -> dict[str, Callable[[Tensor], Tensor]]:
    """What is done to held-out clips to see what a distance sees: to their order, their steadiness, their frames."""

    def order(c: Tensor) -> Tensor:
        u = torch.from_numpy(uniform(seed, "shuffle", range(len(c)), (c.shape[1],))).argsort(1)
        return c[torch.arange(len(c))[:, None], u]

    def jitter(c: Tensor) -> Tensor:
        by = torch.from_numpy(uniform(seed, "jitter", range(len(c)), (c.shape[1], 2)) * 5).long() - 2
        moved = [f.roll(at, (-2, -1)) for f, at in zip(c.flatten(0, 1), by.flatten(0, 1).tolist(), strict=True)]
        return torch.stack(moved).reshape(c.shape)

    def noise(c: Tensor) -> Tensor:
        return c + 0.05 * torch.from_numpy(normal(seed, "noise", range(len(c)), tuple(c.shape[1:])))

    def blur(c: Tensor) -> Tensor:
        return nnf.avg_pool2d(c.flatten(0, 1), 3, 1, 1).unflatten(0, c.shape[:2])

    def independent(c: Tensor) -> Tensor:
        return torch.stack([c[:, f].roll(f, 0) for f in range(c.shape[1])], 1)

    return {
        "shuffle": order,
        "freeze": lambda c: c[:, :1].expand_as(c).contiguous(),
        "reverse": lambda c: c.flip(1),
        "jitter": jitter,
        "blur": blur,
        "noise": noise,
        "independent frames": independent,
    }


def responses(
    features: Callable[[Tensor], Tensor],
    real: Array,
    kinds: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Frechet distance of one half of real clips to the other half corrupted, in units of its null ("null": 1).

    Motion features are to be trusted where shuffle, freeze and jitter are above 10, and blur below all three.
    """
    c = clips(real)
    half = len(c) // 2
    first, second = features(c[:half]), c[half : 2 * half]
    base = frechet_distance(first, features(second))
    floor = max(base, 1e-12)
    found = {k: frechet_distance(first, features(f(second))) / floor for k, f in (kinds or corruptions(seed)).items()}
    return {"null": base / floor, **found}
