"""Features: what a layer of the network says of a lightly noised picture, h_b(x_t, t), pooled over the grid.

x_t = alpha x_0 + sigma eps, one network call, nothing trained (Mukhopadhyay et al. 2023, "Diffusion Models Beat GANs on
Image Classification"; Xiang et al. 2023, "DDAE"). Blocks past the middle at little noise say most, but which block and
time do depends on the data: `search` looks on labels that are not tested on. Similarity of two layers (Kornblith et
al. 2019), for centred X (n, d) and Y (n, d'):
    CKA = |X^T Y|_F^2 / (|X^T X|_F |Y^T Y|_F).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oneprior.times import Time
from oneprior.training.files import write_bytes
from oneprior.uses.errors import Model, asked
from oneprior.uses.heads import Head, linear
from oneprior.uses.taps import blocks, network, still, tapped

PREFIX = 8  # tokens beside those of the grid (class, registers) at most


def spatial(h: Tensor) -> Tensor:
    """(B, C, *grid) of a layer's output: tokens (B, N, C) become a square where N has one after its prefix tokens."""
    if h.ndim != 3:
        return h
    n, h = h.shape[1], h.transpose(1, 2)
    for prefix in range(min(PREFIX, n - 1) + 1):
        side = round((n - prefix) ** 0.5)
        if side * side == n - prefix and side > 1:
            return h[:, :, prefix:].unflatten(2, (side, side))
    return h


def pooled(h: Tensor, pool: int) -> Tensor:
    """(B, C pool^k) float32: the mean over a grid of pool cells an axis, or fewer where the grid is smaller."""
    h = spatial(h.float())
    if h.ndim == 2:
        return h
    size = [min(pool, n) for n in h.shape[2:]]
    average: Any = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[h.ndim - 3]
    return average(h, size if len(size) > 1 else size[0]).flatten(1)


def shapes(den: Model, x0: Tensor, t: float = 0.1, **cond: Any) -> dict[str, tuple[int, ...]]:
    """The blocks of the network in the order in which they run, each with its output's shape for x0[:1]."""
    found = extract(den, x0[:1], blocks(network(den)), t, read=lambda h: h, **cond)
    return {name: tuple(h.shape) for name, h in found.items()}


def ask(den: Model, x0: Tensor, t: Time, seeds: Sequence[int], draw: int = 0, **cond: Any) -> None:
    """One call of the network at x0 (B, *) noised to t, for what its layers say; a condition left out is its null."""
    null = {k: torch.as_tensor(v) for k, v in den.facts.null.items() if k not in cond}
    null = {k: v if v.ndim else v[None] for k, v in null.items() if v.ndim < 4}  # a field has no grid to be null on
    at, (noise, measure) = torch.as_tensor(t, dtype=torch.float32, device=x0.device), asked(den)
    cond |= {k: v.to(x0.device).expand(len(x0), *v.shape[1:]) for k, v in null.items()}
    measure(x0, at if at.ndim else at.expand(len(x0)), noise(seeds, "features", draw, x0), **cond)


def extract(
    den: Model,
    x0: Tensor,
    layers: Sequence[str],
    t: Time = 0.1,
    *,
    pool: int = 2,
    noises: int = 1,
    seeds: Sequence[int] | None = None,
    read: Callable[[Tensor], Tensor] | None = None,
    max_batch: int = 256,
    cache: str | Path | None = None,
    **cond: Any,
) -> dict[str, Tensor]:
    """Features of images (B, *) in model range, or of tokens (B, L): {layer: (B, C pool^2)}, float32.

    t: the library's time, a float or a tensor with the first axes of x0; `den.schedule.time(lam)` carries a noise level
    from one schedule to another. noises: draws that features are averaged over. seeds: one an image, range(B) by
    default: a row does not depend on its batch. read: what is kept of a layer's output instead of its pooled mean.
    cache: a folder for results, found again by weights, images and settings. cond: (B, ...); what is not said is the
    denoiser's null.

    Raises:
        KeyError: for a layer that is not there, with the nearest names.
        ValueError: for pool or noises below 1, a denoiser without a network, or a layer that the call does not reach.
    """
    if pool < 1 or noises < 1:
        raise ValueError(f"pool = {pool}, noises = {noises}: at least 1 was expected")
    net, B = network(den), len(x0)
    seeds = range(B) if seeds is None else seeds
    if len(seeds) != B:
        raise ValueError(f"{len(seeds)} seeds for {B} images: one seed an image")
    file = None
    if cache is not None and read is None:
        said = (tuple(layers), t if isinstance(t, float) else torch.as_tensor(t).tolist(), pool, noises, tuple(seeds))
        file = Path(cache) / f"features-{_key(net, x0, cond, said)}.safetensors"
        if file.exists():
            from safetensors.torch import load_file

            return load_file(file)
    parts: dict[str, list[Tensor]] = {name: [] for name in layers}
    times = torch.as_tensor(t)
    with still(net), tapped(net, layers, read or (lambda h: pooled(h, pool))) as seen:
        for i in range(0, B, max_batch):
            x, total = x0[i : i + max_batch], dict[str, Tensor]()
            at = times[i : i + max_batch] if times.ndim and len(times) == B else times
            own = {k: v[i : i + max_batch] if isinstance(v, Tensor) and v.ndim else v for k, v in cond.items()}
            for j in range(noises):
                ask(den, x, at, seeds[i : i + max_batch], j, **own)
                if lost := set(layers) - seen.keys():
                    raise ValueError(f"layers {sorted(lost)} gave no tensor in this call; blocks are {blocks(net)}")
                total = {k: h if k not in total else total[k] + h for k, h in seen.items()}
            parts = {k: [*parts.get(k, ()), total[k] / noises] for k in total}
    found = {k: torch.cat(v) for k, v in parts.items()}
    if file is not None:
        from safetensors.torch import save

        file.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(file, save({k: v.cpu().contiguous() for k, v in found.items()}))
    return found


class Read(NamedTuple):
    """x: (B, d). layer: that was read. shapes: of all blocks. maps: (B, C, *grid), where they were asked for."""

    x: Tensor
    layer: str
    shapes: dict[str, tuple[int, ...]]
    maps: Tensor | None


def read(
    den: Model, x0: Tensor, layer: str = "auto", t: Time = 0.1, *, pool: int = 2, maps: bool = False, **how: Any
) -> Read:
    """One layer, by name or, with "auto", a block past the middle; the rest as of `extract`."""
    first: dict[str, Any] = {k: v[:1] for k, v in how.items() if isinstance(v, Tensor)}
    known = shapes(den, x0, **first)
    layer = list(known)[round(0.6 * (len(known) - 1))] if layer == "auto" and known else layer
    found = extract(den, x0, [layer], t, pool=pool, read=spatial if maps else None, **how)[layer]
    return Read(pooled(found, pool), layer, known, found) if maps else Read(found, layer, known, None)


def _key(net: nn.Module, x0: Tensor, cond: Mapping[str, Any], said: Any) -> str:
    every = {**net.state_dict(), "x0": x0, **{k: torch.as_tensor(v) for k, v in cond.items()}}
    digest = blake2b(repr(said).encode(), digest_size=12)
    for name, v in every.items():
        digest.update(f"{name} {v.dtype} {tuple(v.shape)}".encode())
        digest.update(v.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class Search(NamedTuple):
    """accuracy: [layers, times], means over validation folds. best: the layer and time of the highest."""

    layers: tuple[str, ...]
    ts: tuple[float, ...]
    accuracy: Tensor

    @property
    def best(self) -> tuple[str, float]:
        i, j = divmod(int(self.accuracy.argmax()), len(self.ts))
        return self.layers[i], self.ts[j]


def search(
    den: Model,
    x0: Tensor,
    y: Tensor,
    ts: Sequence[float] = (0.02, 0.05, 0.1, 0.2, 0.4),
    *,
    layers: Sequence[str] | None = None,
    head: Callable[[], Head] = linear,
    folds: int = 3,
    few: bool = False,
    **how: Any,
) -> Search:
    """Which block at which time serves a head best, by cross-validation on (x0, y) alone: no test label is needed.

    y (B,): classes. layers: all blocks by default. folds, few: as of `validated`. how: as of `extract`.
    """
    layers = tuple(shapes(den, x0)) if layers is None else tuple(layers)
    table = torch.zeros(len(layers), len(ts), dtype=torch.float64)
    for j, t in enumerate(ts):
        found = extract(den, x0, layers, t, **how)
        for i, name in enumerate(layers):
            table[i, j] = validated(found[name], y, head, folds, few)
    return Search(layers, tuple(ts), table)


def validated(
    features: Tensor, y: Tensor, head: Callable[[], Head] = linear, folds: int = 3, few: bool = False
) -> float:
    """Accuracy of a head on (N, ...) features: trained on all folds but one and tested on that, or, for choices that
    must hold at few labels, trained on one and tested on the others. A fold is every folds-th sample of a class."""
    if folds < 2 or len(features) != len(y):
        raise ValueError(f"{len(features)} features, {len(y)} labels, {folds} folds: two folds or more were expected")
    fold = torch.empty(len(y), dtype=torch.long)
    for c in y.unique():
        own = (y == c).nonzero()[:, 0]
        fold[own] = torch.arange(len(own)) % folds
    split = [((fold == k) == few, (fold == k) != few) for k in range(folds)]
    return float(np.mean([head().fit(features[a], y[a]).score(features[b], y[b]) for a, b in split]))


def cka(X: Tensor, Y: Tensor) -> float:
    """Linear CKA of features (n, d) and (n, d') of the same n samples: 1 for the same up to rotation and scale."""
    if len(X) != len(Y) or len(X) < 2:
        raise ValueError(f"features of the same samples, two or more, were expected; got {len(X)} and {len(Y)}")
    a, b = ((v.flatten(1) - v.flatten(1).mean(0)).double() for v in (X, Y))
    shared, own = (a.mT @ b).square().sum(), (a.mT @ a).norm() * (b.mT @ b).norm()
    return float(shared / own.clamp(min=1e-300))


def pca_maps(h: Tensor) -> Tensor:
    """The three leading principal components over all places of h (B, C, H, W) as colours, (B, 3, H, W) in [0, 1]."""
    flat = h.float().movedim(1, -1).flatten(0, -2)
    flat = flat - flat.mean(0)
    _, axes = torch.linalg.eigh(flat.mT @ flat)
    axes = axes.flip(1)[:, :3]
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()  # an axis has no sign of its own
    z = flat @ axes
    low, high = torch.quantile(z[:: len(z) // 10**6 + 1], torch.tensor([0.01, 0.99]).to(z), dim=0)
    z = ((z - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    z = F.pad(z, (0, 3 - z.shape[1]))
    return z.reshape(len(h), *h.shape[2:], 3).movedim(-1, 1)
