"""Diffusion Models Beat GANs on Image Classification (Mukhopadhyay et al. 2023): features of a prior without labels.

A network that was trained on pictures alone; a layer of it at a little noise; a linear head on few labels. Layer, time,
pooling and ridge are chosen on training pictures, by heads of five labels a class that are tested on the others, for
the trained network, the same one untrained and the pixels alike. Heads of so few labels differ much: figures are means
over draws of the labels, each draw for all alike. Attention and feedback between blocks are shown beside the linear
head where labels are many.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean

import torch
from torch import Tensor

from oneprior.codecs import Pixels
from oneprior.conditions import Conditions
from oneprior.data import Source, digits, in_memory, open_source
from oneprior.nets import UNetConfig
from oneprior.reproductions import Check, Kind, Scale
from oneprior.reproductions._learn import learn
from oneprior.uses.features import cka, extract, search, spatial, validated
from oneprior.uses.feedback import Feedback
from oneprior.uses.heads import Attention, linear

PAPER = "Diffusion Models Beat GANs on Image Classification (2023)"
CLAIM = (
    "Features of a prior trained without labels beat raw pixels by 5 points at 5 labels a class on digits, and are no "
    "worse than pixels and 2 points better than the untrained network on Fashion-MNIST; the best block is past the "
    "middle, at little noise."
)
SEEDS: dict[Scale, tuple[int, ...]] = {"quick": (0,), "desk": (0,)}
RIDGES = (0.001, 0.01, 0.1, 1.0)


@dataclass(frozen=True)
class Extent:
    """samples: the training sees; ts, pools: searched; labels: a class, each of `draws` draws, or 3 from 50 on; chosen:
    pictures a class that the choice is made on; epochs: of the heads that
    are shown beside, 0 for none."""

    samples: int
    ts: tuple[float, ...]
    pools: tuple[int, ...]
    labels: tuple[int, ...]
    draws: int
    chosen: int = 30
    count: int = 2000
    epochs: int = 20


EXTENTS: dict[Scale, Extent] = {
    "quick": Extent(1_280, (0.1,), (2,), (5,), 2, chosen=10, count=120, epochs=1),
    "desk": Extent(100_032, (0.05, 0.1, 0.2, 0.4), (2, 4), (5, 10, 20, 50, 120), 20),
}


def run(scale: Scale, device: str = "cpu") -> Iterator[Check]:
    """The figures, in the order of the claim."""
    extent, kind = EXTENTS[scale], "check" if scale == "desk" else "uncalibrated"
    small = UNetConfig((1, 8, 8), channels=(16, 32), dropout=0.1)
    yield from measured("digits", small, digits("train"), digits("test"), 17, extent, device, 0.05, 0.08, kind)
    if scale == "desk":
        a, b = (open_source("fashion-mnist", split=part) for part in ("train", "test"))
        large = UNetConfig((1, 28, 28), channels=(16, 32, 32))
        yield from measured(
            "Fashion-MNIST", large, a, b, 256, replace(extent, samples=54_400, epochs=0), device, 0.0, 0.02, kind
        )


def measured(
    name: str, config: UNetConfig, train: Source, test: Source, levels: int, e: Extent, device: str, over_pixels: float,
    over_untrained: float, kind: Kind,
) -> Iterator[Check]:  # fmt: skip
    codec = Pixels(levels)
    (x, y), (z, w) = (first(source, e.count) for source in (train, test))
    few = torch.cat([(y == c).nonzero()[: e.chosen, 0] for c in y.unique()])
    sides: dict[str, tuple[Tensor, Tensor]] = {"pixels": (x, z)}
    tables, dens = {}, {}
    for side, samples in (("trained", e.samples), ("untrained", 0)):
        den = learn(config, in_memory(train), codec, Conditions(), samples, device=device).den
        found = {
            p: search(den, codec.encode(x[few]), y[few], e.ts, folds=e.chosen // 5, few=True, pool=p) for p in e.pools
        }
        pool = max(found, key=lambda p: float(found[p].accuracy.max()))
        layer, t = found[pool].best
        a, b = (extract(den, codec.encode(v), [layer], t, noises=2, pool=pool)[layer] for v in (x, z))
        sides[side], tables[side], dens[side] = (a, b), (found[pool], pool), den
    chosen, pool = tables["trained"]
    layer, t = chosen.best
    ridges = {
        side: [ridge(a[few], y[few], e.chosen // 5, few_) for few_ in (True, False)] for side, (a, _) in sides.items()
    }
    for k in e.labels:
        score = {side: [] for side in sides}
        for draw in range(e.draws if k < 50 else 3):
            at = some(y, k, draw)
            for side, (a, b) in sides.items():
                score[side].append(linear(ridges[side][k > 10]).fit(a[at], y[at]).score(b, w))
        mean = {side: fmean(v) for side, v in score.items()}
        what, got = f"{name}, {k} labels a class, {layer} at t = {t:g}, pooled to {pool}", mean["trained"]
        kind_k = kind if k == 5 else "uncalibrated"
        for side, gain in (("pixels", over_pixels), ("untrained", over_untrained)):
            yield Check(what, got, f">= {side} + {gain:g}", mean[side], got >= mean[side] + gain, kind_k)
    if e.epochs:
        den, at, head = dens["trained"], some(y, e.labels[-1], 0), Attention(epochs=e.epochs)
        m, n = (codec.encode(v) for v in (x[at], z))
        maps = [extract(den, v, [layer], t, read=spatial)[layer] for v in (m, n)]
        plain = head.fit(maps[0], y[at]).score(maps[1], w)
        fed = Feedback(den, layer, t, head=head).fit(m, y[at]).score(n, w)
        what = f"{name}, {e.labels[-1]} labels a class, {layer} read by attention after feedback"
        yield Check(what, fed, "shown; baseline: by attention alone", plain, True, "uncalibrated")
    table = dict(zip(chosen.layers, chosen.accuracy.amax(1).tolist(), strict=True))
    ends = max(table[chosen.layers[0]], table[chosen.layers[-1]])
    yield Check(f"{name}, best block in validation", max(table.values()), "> first and last", ends, layer not in (
        chosen.layers[0], chosen.layers[-1]), "uncalibrated")  # fmt: skip
    alike = cka(sides["trained"][0], sides["untrained"][0])
    yield Check(f"{name}, CKA of the trained and the untrained layer", alike, "shown", 1.0, True, "uncalibrated")


def ridge(features: Tensor, y: Tensor, folds: int, few: bool) -> float:
    """The inverse ridge that does best on folds that it was not fitted to."""
    return max(RIDGES, key=lambda C: validated(features, y, partial(linear, C), folds, few))


def some(y: Tensor, k: int, seed: int) -> Tensor:
    """k samples of each class, drawn by a seed."""
    g, each = torch.Generator().manual_seed(seed), ((y == c).nonzero()[:, 0] for c in y.unique())
    return torch.cat([own[torch.randperm(len(own), generator=g)[:k]] for own in each])


def first(source: Source, count: int) -> tuple[Tensor, Tensor]:
    batch = source.batch(range(min(count, len(source))))
    return batch["x"], batch["label"]
