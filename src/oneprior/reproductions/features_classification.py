"""Diffusion Models Beat GANs on Image Classification (Mukhopadhyay et al. 2023): features of a prior without labels.

A network that was trained on pictures alone; a layer of it at a little noise; a linear head on few labels. Layer, time
and ridge are chosen by cross-validation on training pictures, for the trained network, the same one untrained and the
pixels alike. Heads of so few labels differ much: figures are means over draws of the labels, each draw for all alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
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
from oneprior.uses.features import cka, extract, search, validated
from oneprior.uses.heads import linear

PAPER = "Diffusion Models Beat GANs on Image Classification (2023)"
CLAIM = (
    "Features of a prior trained without labels beat raw pixels by 5 points at 5 labels a class on digits, and are no "
    "worse than pixels and 2 points better than the untrained network on Fashion-MNIST; the best block is past the "
    "middle, at little noise."
)
SEEDS: dict[Scale, tuple[int, ...]] = {"quick": (0,), "desk": (0,)}
RIDGES = (0.01, 0.1, 1.0)


@dataclass(frozen=True)
class Extent:
    """samples: the training sees; ts: times searched; chosen: pictures a class that the choice is made on."""

    samples: int
    ts: tuple[float, ...]
    labels: tuple[int, ...]
    draws: int
    chosen: int = 30
    count: int = 2000


EXTENTS: dict[Scale, Extent] = {
    "quick": Extent(1_280, (0.1,), (5,), 2, chosen=9, count=120),
    "desk": Extent(100_032, (0.02, 0.05, 0.1, 0.2, 0.4, 0.8), (5, 10, 100), 20),
}


def run(scale: Scale, device: str = "cpu") -> Iterator[Check]:
    """The figures, in the order of the claim."""
    extent, kind = EXTENTS[scale], "check" if scale == "desk" else "uncalibrated"
    small = UNetConfig((1, 8, 8), channels=(16, 32), dropout=0.1)
    yield from measured("digits", small, digits("train"), digits("test"), 17, extent, device, 0.05, 0.08, kind)
    if scale == "desk":
        a, b = (open_source("fashion-mnist", split=part) for part in ("train", "test"))
        large = UNetConfig((1, 28, 28), channels=(16, 32, 32))
        yield from measured("Fashion-MNIST", large, a, b, 256, extent, device, 0.0, 0.02, kind)


def measured(
    name: str, config: UNetConfig, train: Source, test: Source, levels: int, e: Extent, device: str, over_pixels: float,
    over_untrained: float, kind: Kind,
) -> Iterator[Check]:  # fmt: skip
    codec = Pixels(levels)
    (x, y), (z, w) = (first(source, e.count) for source in (train, test))
    few = torch.cat([(y == c).nonzero()[: e.chosen, 0] for c in y.unique()])
    sides: dict[str, tuple[Tensor, Tensor, float]] = {"pixels": (x, z, ridge(x[few], y[few]))}
    tables = {}
    for side, samples in (("trained", e.samples), ("untrained", 0)):
        den = learn(config, in_memory(train), codec, Conditions(), samples, device=device).den
        tables[side] = found = search(den, codec.encode(x[few]), y[few], e.ts)
        layer, t = found.best
        a, b = (extract(den, codec.encode(v), [layer], t, noises=2)[layer] for v in (x, z))
        sides[side] = (a, b, ridge(a[few], y[few]))
    chosen = tables["trained"]
    layer, t = chosen.best
    for k in e.labels:
        score = {side: [] for side in sides}
        for draw in range(e.draws if k < 100 else 3):
            g = torch.Generator().manual_seed(draw)
            own = [c[torch.randperm(len(c), generator=g)[:k]] for c in ((y == v).nonzero()[:, 0] for v in y.unique())]
            at = torch.cat(own)
            for side, (a, b, C) in sides.items():
                score[side].append(linear(C).fit(a[at], y[at]).score(b, w))
        mean = {side: fmean(v) for side, v in score.items()}
        what, got = f"{name}, {k} labels a class, {layer} at t = {t:g}", mean["trained"]
        kind_k = kind if k == 5 else "uncalibrated"
        for side, gain in (("pixels", over_pixels), ("untrained", over_untrained)):
            yield Check(what, got, f">= {side} + {gain:g}", mean[side], got >= mean[side] + gain, kind_k)
    table = dict(zip(chosen.layers, chosen.accuracy.amax(1).tolist(), strict=True))
    ends = max(table[chosen.layers[0]], table[chosen.layers[-1]])
    yield Check(f"{name}, best block in validation", max(table.values()), "> first and last", ends, layer not in (
        chosen.layers[0], chosen.layers[-1]), "uncalibrated")  # fmt: skip
    alike = cka(sides["trained"][0], sides["untrained"][0])
    yield Check(f"{name}, CKA of the trained and the untrained layer", alike, "shown", 1.0, True, "uncalibrated")


def ridge(features: Tensor, y: Tensor) -> float:
    """The inverse ridge that does best on left-out folds."""
    return max(RIDGES, key=lambda C: validated(features, y, partial(linear, C)))


def first(source: Source, count: int) -> tuple[Tensor, Tensor]:
    batch = source.batch(range(min(count, len(source))))
    return batch["x"], batch["label"]
