"""The demo's figures: each use measured on the fixed held-out digits, for several noise seeds, beside its baseline.

A figure is {"use", "metric", "value", "stderr", "baseline", "null"}: the mean over seeds with its standard error, the
same without a diffusion model, and what real data (or chance) gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from oneprior.demo.baselines import Digits, blended, class_gaussian_samples, gaussian_nats, spread, wiener
from oneprior.metrics import frechet_distance, null, psnr, train_share, two_sample_accuracy
from oneprior.noise import normal, uniform
from oneprior.operators import Mask, Measurement
from oneprior.prior import Prior
from oneprior.results import grid
from oneprior.uses.likelihood import likelihood
from oneprior.uses.restore.settings import MMPSSettings

NOISE = 0.05  # of the measurements, in units of [0, 1]
MMPS = MMPSSettings(steps=12, iterations=3, sampler="ancestral")


@dataclass(frozen=True)
class Extent:
    """How much is measured."""

    seeds: tuple[int, ...] = (0, 1, 2)
    generate: int = 2000
    images: int = 360
    restored: int = 120
    draws: int = 16
    edits: int = 360


@dataclass(frozen=True)
class Bench:
    """What every figure is measured on."""

    prior: Prior
    data: Digits
    extent: Extent


Rows = list[dict[str, Any]]
Pictures = list[tuple[str, Any, str]]


def row(
    use: str, metric: str, values: Sequence[float], baseline: Any, null: Any, bar: str, holds: bool
) -> dict[str, Any]:
    """One figure: the mean of `values` over seeds, with the standard error of that mean."""
    v = torch.tensor(values, dtype=torch.float64)
    error = float(v.std() / len(v) ** 0.5) if len(v) > 1 else None
    mean = float(v.mean())
    return {
        "use": use, "metric": metric, "value": mean, "stderr": error, "baseline": baseline, "null": null, "bar": bar,
        "verdict": None if bar == "shown" else bool(holds),
    }  # fmt: skip


def flatten(x: Tensor) -> Tensor:
    return x.flatten(1)


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def classify(b: Bench) -> tuple[Rows, Pictures]:
    x, y = b.data.test[: b.extent.images], b.data.label[: b.extent.images]
    right = [float((b.prior.classify(x, calls=16, seed=s).x == y).double().mean()) for s in b.extent.seeds]
    chance = float(torch.bincount(y).max() / len(y))
    return [row("classify", "accuracy", right, b.data.logistic, chance, ">= 0.985", mean(right) >= 0.985)], []


def drawn(b: Bench, x: Tensor, label: Tensor) -> tuple[float, ...]:
    """Of samples x: read right, told from held-out digits, nearer to training ones, Frechet distance."""
    x, train, test = (flatten(v) for v in (x, b.data.train, b.data.test))
    parts = [p for p in x.split(len(test)) if len(p) == len(test)]
    right = (b.data.read(x) == label).double().mean()
    two = mean([two_sample_accuracy(test, p) for p in parts])
    return float(right), two, train_share(x, train, test), mean([frechet_distance(test, p) for p in parts])


def generate(b: Bench) -> tuple[Rows, Pictures]:
    n, size, snap, seeds = b.extent.generate, len(b.data.test), b.prior.codec.snap, b.extent.seeds
    label = torch.arange(n) % b.data.classes
    ours = [b.prior.sample(seeds=range(s * n, (s + 1) * n), label=label, steps=20).x for s in seeds]
    read, two, share, distance = zip(*(drawn(b, snap(x), label) for x in ours), strict=True)
    other = [drawn(b, snap(class_gaussian_samples(b.data, label, s)), label) for s in seeds]
    base = [mean(v) for v in zip(*other, strict=True)]
    real = float((b.data.read(b.data.test) == b.data.label).double().mean())
    train, test = flatten(b.data.train), flatten(b.data.test)
    pool, near = torch.cat([train, test]), train_share(None, train, test)
    same, fd = (null(f, pool, size, repeats=5) for f in (two_sample_accuracy, frechet_distance))
    rows = [
        row("generate", "read right", read, base[0], real, ">= 0.97", mean(read) >= 0.97),
        row("generate", "two-sample", two, base[1], same.mean, "<= 0.62", mean(two) <= 0.62),
        row("generate", "nearer to training", share, base[2], near, "<= null + 0.05", mean(share) <= near + 0.05),
        row("generate", "frechet", distance, base[3], fd.mean, "shown", True),
    ]
    shown = b.prior.sample(seeds=range(100), label=[i // 10 for i in range(100)], steps=20)
    words = f"Ten of each class, 20 network calls each; {shown.seconds:.1f} s."
    return rows, [("Generate", grid(shown.x, 10, 32), words)]


def masks(kind: str, x: Tensor, seed: int) -> Tensor:
    """(B, 1, 8, 8), true where a pixel is seen: a random half of the pixels of each picture, or the top half of all."""
    if kind == "bottom half":
        return (torch.arange(x.shape[2]) < x.shape[2] // 2)[:, None].expand(len(x), 1, *x.shape[2:])
    u = torch.from_numpy(uniform(seed, "mask", range(len(x)), tuple(x.shape[2:]))).flatten(1)
    rank = u.argsort(1).argsort(1)
    return (rank < u.shape[1] // 2).reshape(len(x), 1, *x.shape[2:])


def quality(v: Tensor, x: Tensor) -> float:
    """PSNR in dB, peak 1, the mean over pictures."""
    return float(psnr(v.clamp(0, 1), x, data_range=1.0).mean())


def restore(b: Bench) -> tuple[Rows, Pictures]:
    rows: Rows = []
    pictures: Pictures = []
    for kind, bar in (("random half", 2.0), ("bottom half", 0.7)):
        found = []
        for k, s in enumerate(b.extent.seeds):
            x = b.data.test[k :: len(b.extent.seeds)][: b.extent.restored]
            mask = masks(kind, x, s)
            n = torch.from_numpy(normal(s, "measurement", range(len(x)), tuple(x.shape[1:])))
            y = torch.where(mask, x + NOISE * n, 0.0)
            measured = Measurement(y, Mask(mask), NOISE)
            seeds = range(s * 10**6, s * 10**6 + len(x) * b.extent.draws)
            out = b.prior.restore(measured, method=MMPS, draws=b.extent.draws, seeds=seeds, clip=False)
            exactly = replace(measured, noise=0.0)  # the published loss has no place for the noise
            paper = b.prior.restore(exactly, method="red_diff", seeds=seeds[: len(x)]).x
            w, draws = wiener(b.data, y, mask, NOISE), out.draws
            assert draws is not None and out.std is not None
            off = torch.where(mask[:, None], draws - y[:, None], 0.0)
            rest = float((off.square().sum() / mask.sum() / b.extent.draws).sqrt()) / NOISE
            filled = torch.where(mask, y, b.data.train.mean(0))
            found.append((*(quality(v, x) for v in (out.x, draws[:, 0], paper, w, filled)), rest))
            if k == 0:
                seen = (x, torch.where(mask, y, 0.5), w, draws[:, 0], draws[:, 1], out.x, 3 * out.std)
                words = (
                    "From top to bottom: the truth; what was measured (grey: hidden); Wiener filter; two draws of the "
                    "posterior; the mean of sixteen; three times their standard deviation."
                )
                pictures.append((f"Restore, {kind}", grid(torch.cat([v[:12] for v in seen]), 12, 40), words))
        best, one, paper, filtered, pinv, residual = zip(*found, strict=True)
        base, fill, name = mean(filtered), mean(pinv), "psnr" if kind == "random half" else f"psnr, {kind}"
        rows += [
            row("restore", name, best, base, fill, f">= Wiener + {bar} dB", mean(best) - base >= bar),
            row("restore", f"psnr of RED-diff, {kind}", paper, base, fill, "shown", True),
        ]
        if kind == "random half":
            rows += [
                row("restore", "psnr of one draw", one, base, fill, ">= Wiener", mean(one) >= base),
                row("restore", "residual / noise", residual, None, 1.0, "0.7 to 1.3", 0.7 <= mean(residual) <= 1.3),
            ]
    return rows, pictures


def edit(b: Bench) -> tuple[Rows, Pictures]:
    x, source = b.data.test[: b.extent.edits], b.data.label[: b.extent.edits]
    real = flatten(b.data.train)
    ours, other, shown = [], [], x
    for s in b.extent.seeds:  # every seed asks other digits of each
        target = (source + 1 + (torch.arange(len(x)) + 3 * s) % (b.data.classes - 1)) % b.data.classes
        seeds = range(s * 10**6, s * 10**6 + len(x))
        fresh = b.prior.sample(seeds=seeds, label=target).x
        far = _distance(fresh, x)
        out = b.prior.edit(x, source=source, target=target, seeds=seeds, **EDIT)
        ours.append(_edited(b, out.x, x, target, far, real))
        other.append(_equal_flips(b, x, target, seeds, ours[-1][0], far, real))
        shown = out.x
    flips, ratio, distance = zip(*ours, strict=True)
    target = (source + 1 + torch.arange(len(x)) % (b.data.classes - 1)) % b.data.classes
    blend = blended(b.data, x, source, target)
    blend_flips = float((b.data.read(blend) == target).double().mean())
    noise = [mean(v) for v in zip(*other, strict=True)]
    less = [own[2] - theirs[2] for own, theirs in zip(ours, other, strict=True)]
    beside = {"class means": blend_flips, "SDEdit": noise[0]}
    fd = null(frechet_distance, torch.cat([real, flatten(b.data.test)]), (len(real), len(x)), repeats=5)
    rows = [
        row("edit", "flip rate", flips, beside, 0.0, ">= 0.93", mean(flips) >= 0.93),
        row("edit", "distance / fresh", ratio, {"SDEdit": noise[1]}, 1.0, "<= 0.82", mean(ratio) <= 0.82),
        row("edit", "frechet", distance, {"SDEdit": noise[2]}, fd.mean, "< SDEdit", mean(distance) < noise[2]),
        row("edit", "frechet less SDEdit's", less, None, 0.0, "shown", True),
    ]
    words = "Top: held-out digits; below: each turned into another digit, told only the two labels."
    return rows, [("Edit", grid(torch.cat([x[:12], shown[:12]]), 12, 40), words)]


EDIT: dict[str, Any] = {"method": "cycle", "strength": 0.7, "steps": 25, "guidance": 1.5, "eta": 0.7}


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).flatten(1).norm(dim=1).mean())


def _edited(b: Bench, y: Tensor, x: Tensor, target: Tensor, far: float, real: Tensor) -> tuple[float, ...]:
    """Of x turned into y: flip rate, distance in units of `far`, Frechet distance to real digits."""
    right = (b.data.read(y) == target).double().mean()
    return float(right), _distance(y, x) / far, frechet_distance(real, flatten(y))


def _equal_flips(
    b: Bench, x: Tensor, target: Tensor, seeds: range, wanted: float, far: float, real: Any
) -> tuple[float, ...]:
    """SDEdit at the strength at which as many digits flip: flip rate, distance, Frechet distance, interpolated."""
    found = []
    for strength in (0.65, 0.75, 0.85):
        how: dict[str, Any] = {"method": "sdedit", "strength": strength, "steps": 20, "guidance": EDIT["guidance"]}
        found.append(_edited(b, b.prior.edit(x, target=target, seeds=seeds, **how).x, x, target, far, real))
        if found[-1][0] >= wanted:
            break
    if len(found) == 1 or found[-1][0] <= wanted:
        return found[-1]
    low, high = found[-2], found[-1]
    share = (wanted - low[0]) / max(high[0] - low[0], 1e-9)
    return tuple(p + share * (q - p) for p, q in zip(low, high, strict=True))


def density(b: Bench) -> tuple[Rows, Pictures]:
    x = b.data.test[: b.extent.images]
    nats, move, base = [], [], []
    null_label: dict[str, Any] = {"label": b.prior.conditions.null["label"].expand(len(x))}
    for s in b.extent.seeds:
        m = spread(x, b.prior.codec, s)
        seeds = range(s * 10**6, s * 10**6 + len(x))
        found = [
            float(likelihood(b.prior.den, m, steps=k, probes=1, seeds=seeds, **null_label).x.mean()) for k in (16, 32)
        ]
        nats.append(found[1])
        move.append(abs(found[1] - found[0]))
        base.append(gaussian_nats(b.data, b.prior.codec, s))
    one, many = (mean(v) for v in zip(*base, strict=True))
    both = {"one Gaussian": one, "one per class": many}
    rows = [
        row("likelihood", "nats", nats, both, None, ">= Gaussian + 25", mean(nats) >= one + 25 and mean(nats) > many),
        row("likelihood", "nats moved by doubling steps", move, None, 0.0, "< 0.5", max(move) < 0.5),
    ]
    return rows, []


FIGURES: dict[str, Callable[[Bench], tuple[Rows, Pictures]]] = {
    "sample": generate,
    "restore": restore,
    "classify": classify,
    "edit": edit,
    "likelihood": density,
}
