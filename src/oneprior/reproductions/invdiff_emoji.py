"""InvDiff (Hou et al. 2024) on skin tones of emoji: 95 % of the people and hands are light, and two vendors draw them.

Noto Emoji and Twemoji at 16 pixels, the vendor being the class; each picture is the light or, one time in twenty, the
dark one of a pair that differs in nothing else. What is drawn is told apart by a classifier of histograms of colours,
fitted on pictures of both tones and checked on emoji that neither it nor the network saw.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

import torch
import torch.nn.functional as F
from torch import Tensor

from oneprior.data import open_source
from oneprior.data.emoji import Emoji
from oneprior.metrics import frechet_distance
from oneprior.nets import UNetConfig
from oneprior.noise import uniform
from oneprior.reproductions import Check, Scale
from oneprior.reproductions._small import held
from oneprior.reproductions.invdiff import RARE, Planted, debiased, drawn
from oneprior.uses.debias import share
from oneprior.uses.heads import linear

PAPER = "InvDiff: Invariant Guidance for Bias Mitigation in Diffusion Models (2024)"
CLAIM = (
    "A model of emoji of whom 5 % have dark skin draws as few; groups from its losses raise them to 25 %, known groups "
    "to 45 %, and drawings of each tone stay as near to real ones (Frechet within 15 %)."
)
SEEDS: dict[Scale, tuple[int, ...]] = {"quick": (0,), "desk": (0,)}
LIGHT, DARK, SIDE = ("1F3FB", "1F3FC"), ("1F3FE", "1F3FF"), 16


def run(scale: Scale, device: str = "cpu") -> Iterator[Check]:
    """The figures: the probe, the base, then each way to find groups."""
    desk, seed = scale == "desk", SEEDS[scale][0]
    vendors = [[pictures(v, part) for part in ("train", "test")] for v in ("google", "twitter")] if desk else [
        [squares(40, k), squares(12, 2 + k)] for k in range(2)
    ]  # fmt: skip
    (light, dark), (z_light, z_dark) = (
        [torch.cat([v[part][tone] for v in vendors]) for tone in range(2)] for part in range(2)
    )
    y = torch.cat([torch.full((len(v[0][0]),), k) for k, v in enumerate(vendors)])
    probe = linear(100.0).fit(histogram(torch.cat((light, dark))), torch.arange(2).repeat_interleave(len(light)))
    told = probe.score(histogram(torch.cat((z_light, z_dark))), torch.arange(2).repeat_interleave(len(z_light)))
    yield Check("tone of held-out emoji read right by the probe", told, ">= 0.9", 0.5, told >= 0.9, "control")
    rare = torch.from_numpy(uniform(seed, "rare", range(len(y)))) < RARE
    x = torch.where(rare[:, None, None, None], dark, light)
    steps, draws, count, width = (1500, 32, 600, 12) if desk else (2, 2, 4, 4)
    wide, small = (UNetConfig((3, SIDE, SIDE), classes=2, channels=(k * width, 2 * k * width)) for k in (2, 1))
    base, models = debiased(Planted(held(x, y), rare, wide, small, steps, draws), seed, ("oracle", "quantile"))
    label, axes = torch.arange(count) % 2, torch.pca_lowrank(torch.cat((light, dark)).flatten(1), 32, niter=4)[2]

    def measured(den: object) -> tuple[float, float]:
        out = drawn(den, (3, SIDE, SIDE), label).clamp(-1, 1)  # type: ignore[arg-type]
        is_dark = probe.predict(histogram(out)) == 1
        gaps = [
            frechet_distance(real.flatten(1) @ axes, out[own].flatten(1) @ axes)
            for real, own in ((light, ~is_dark), (dark, is_dark))
            if own.sum() > 1
        ]
        return share(is_dark).x, fmean(gaps)

    first, near = measured(base)
    yield Check("share of dark skin, biased base", first, "<= 0.1", RARE, first <= 0.1, "control")
    for name, den in models.items():
        now, gap = measured(den)
        bar, kind = 0.45 if name == "oracle" else 0.25, "check" if desk else "uncalibrated"
        yield Check(f"share of dark skin, {name} groups", now, f">= {bar:g}", first, now >= bar, kind)
        what = f"Frechet distance on 32 axes, mean over tones, {name} groups"
        yield Check(what, gap, "<= 1.15 times the base", near, gap <= 1.15 * near, kind)


def pictures(vendor: str, split: str) -> tuple[Tensor, Tensor]:
    """Emoji of light skin and their like of dark skin, (N, 3, SIDE, SIDE) in [-1, 1] each, row by row."""
    source = open_source(f"emoji-{vendor}-32", split=split)
    if not isinstance(source, Emoji):
        raise ValueError(f"emoji with their tones were expected, not {type(source).__name__}")
    both = [[i for i, tone in enumerate(source.tones) if tone in of] for of in (LIGHT, DARK)]
    light, dark = (F.avg_pool2d(2 * source.batch(at)["x"] - 1, 32 // SIDE) for at in both)
    return light, dark


def squares(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """The like of `pictures` without data: squares on white in a light and a dark brown."""
    g = torch.Generator().manual_seed(seed)
    where = (torch.rand(n, 1, SIDE, SIDE, generator=g) < 0.3).float()
    tones = torch.tensor([[1.0, 0.6, 0.4], [0.0, -0.3, -0.5]])[:, None, :, None, None]
    light, dark = (1 - where * (1 - tone) for tone in tones)
    return light, dark


def histogram(x: Tensor, cells: int = 5) -> Tensor:
    """Shares of the colours of pictures (N, 3, H, W) in [-1, 1], (N, cells^3)."""
    at = ((x + 1) / 2 * cells).long().clamp(0, cells - 1)
    at = (at[:, 0] * cells + at[:, 1]) * cells + at[:, 2]
    return F.one_hot(at.flatten(1), cells**3).float().mean(1)
