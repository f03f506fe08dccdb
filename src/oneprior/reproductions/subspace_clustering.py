"""Training a denoiser of low rank is subspace clustering (Wang et al. 2024), and LOCO Edit (Chen et al. 2024).

Exact recovery at the sample threshold and the exact denoiser are tests of `uses.geometry`. Here the low-rank denoiser
is trained: against PCA, below and above the threshold, with two subspaces; and digits are edited in their lower half.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from statistics import fmean

import torch
from sklearn.cluster import KMeans
from torch import Tensor

from oneprior.data import digits
from oneprior.denoiser import Denoiser, NetworkDenoiser
from oneprior.loading import load
from oneprior.noise import Seeded
from oneprior.reproductions import Check, Kind, Scale
from oneprior.reproductions._small import held, learn
from oneprior.schedules import Cosine
from oneprior.uses.edit import decode, encode
from oneprior.uses.geometry import LowRank, assign, directions, k_subspaces, matched, projector_distance

PAPER = "Diffusion Models Learn Low-Dimensional Distributions via Subspace Clustering (2024)"
CLAIM = (
    "A trained low-rank denoiser ends at PCA; below the sample threshold its error is that of arbitrary directions; of "
    "two subspaces it finds the clusters where k-means guesses; edits along its Jacobian stay in their region."
)
SEEDS: dict[Scale, tuple[int, ...]] = {"quick": (0,), "desk": (0, 1, 2)}
STEPS: dict[Scale, int] = {"quick": 20, "desk": 1500}
D, R = 48, 6
# of the training of two subspaces: about one in three ends where some directions are exchanged
STARTS: dict[Scale, int] = {"quick": 2, "desk": 6}


def run(scale: Scale, device: str = "cpu") -> Iterator[Check]:
    """The figures, in the order of the claim."""
    kind: Kind = "check" if scale == "desk" else "uncalibrated"
    steps, seeds = STEPS[scale], SEEDS[scale]
    x, truth = planted(300, 1, 0, noise=0.05)
    off = float(projector_distance(fitted(x, 1, steps, 0), k_subspaces(x, 1, R))[0])
    wild = float(projector_distance(orthonormal(1, 9), truth)[0])
    yield Check("distance to PCA, 300 samples; baseline: a random subspace", off, "< 0.1", wild, off < 0.1, kind)
    for n in (2, 4, 30):
        data = [planted(n, 1, s) for s in seeds]
        found = fmean(float(projector_distance(fitted(x, 1, steps, s), U)[0]) for s, (x, U) in enumerate(data))
        pca = fmean(float(projector_distance(k_subspaces(x, 1, R), U)[0]) for x, U in data)
        m = max(R - n, 0)
        exact = (2 * (m - m * m / (D - n))) ** 0.5
        what, holds = f"projector error, {n} samples of rank {R}; baseline: PCA", abs(found - exact) <= 0.05 * exact
        bar = f"within 5 % of {exact:.2f}" if m else "< 0.1"
        yield Check(what, found, bar, pca, holds if m else found < 0.1, kind)

    for n in (300, 6):
        x, truth = planted(n, 2, 11)
        which = torch.arange(2 * n) % 2
        runs = [fitted(x, 2, steps, s) for s in range(STARTS[scale])]
        U = max(runs, key=lambda U: float(torch.einsum("bd,bdr->br", x, U[assign(U, x)]).square().sum()))
        order = torch.tensor(matched(U, truth))
        right = float((order.argsort()[assign(U, x)] == which).double().mean())
        base = KMeans(2, random_state=0).fit_predict(x.numpy()) == which.numpy()
        plain = max(float(base.mean()), 1 - float(base.mean()))
        if n == 300:
            yield Check(
                "clusters found, 300 samples each; baseline: k-means", right, "> 0.97", plain, right > 0.97, kind
            )
            worst = float(projector_distance(U[order], truth).max())
            yield Check("projector error, the worse subspace", worst, "< 0.15", None, worst < 0.15, kind)
        else:
            yield Check("clusters found, 6 samples each", right, "< 0.9", plain, right < 0.9, "control")

    local, plain, wild = edits(load("digits").den, 20 if scale == "desk" else 2)
    what = "change outside over inside, lower half of digits, LOCO"
    yield Check(what, local, "<= 0.6 of the plain singular vector", plain, local <= 0.6 * plain, kind)
    yield Check(what, local, "<= 0.3 of a random direction", wild, local <= 0.3 * wild, kind)


def orthonormal(k: int, seed: int) -> Tensor:
    """k bases (k, D, R) that are orthogonal to one another."""
    Q = torch.linalg.qr(torch.randn(D, k * R, generator=torch.Generator().manual_seed(seed))).Q
    return Q.reshape(D, k, R).movedim(1, 0)


def planted(n: int, k: int, seed: int, noise: float = 0.0) -> tuple[Tensor, Tensor]:
    """n samples of each of k subspaces, taking turns, and the bases."""
    U, g = orthonormal(k, 100 + seed), torch.Generator().manual_seed(200 + seed)
    x = torch.einsum("bdr,br->bd", U[torch.arange(k * n) % k], torch.randn(k * n, R, generator=g))
    return x + noise * torch.randn(x.shape, generator=g), U


def fitted(x: Tensor, k: int, steps: int, seed: int) -> Tensor:
    """Bases of a low-rank denoiser trained from random ones, whose columns are of length 1: a step of Adam turns longer
    ones less, and from those of length sqrt(D) 1,000 steps missed the clusters of three starts in four."""
    start = torch.linalg.qr(torch.randn(k, D, R, generator=torch.Generator().manual_seed(300 + seed))).Q
    den = learn(NetworkDenoiser(LowRank(start, Cosine()), Cosine(), "x0"), held(x), steps, lr=2e-2, seed=seed)
    assert isinstance(den.net, LowRank)
    return den.net.bases.detach()


def edits(den: Denoiser, count: int, t: float = 0.5, push: float = 3.0) -> tuple[float, float, float]:
    """Median over digits of (squared change outside)/(inside): LOCO, the same without its projection, a random push."""
    x = 2 * digits("test").batch(range(0, 360, 360 // count))["x"][:count] - 1
    mask = torch.zeros(1, 1, 8, 8)
    mask[:, :, 4:] = 1
    code = encode(x, den, steps=50, eta=0.0, start=t)
    before = decode(code, den)
    noise = Seeded(range(count), "push")(0, x)
    ways = [directions(den, code.start, t, mask, keep=keep)[:, 0] for keep in (5, 0)]
    ways.append(noise / noise.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1))
    out = []
    for v in ways:
        change = (decode(replace(code, start=code.start + push * v), den) - before).square()
        inside, outside = ((change * m).flatten(1).sum(1) for m in (mask, 1 - mask))
        out.append(float((outside / inside).median()))
    return out[0], out[1], out[2]
