"""Gauge freedom and local dimension on a trained network (Horvat and Pfister 2024; Kamkari et al. 2024).

What can be held against exact laws are tests of `uses.geometry`. Here a network learns an equal mixture of a circle
(d = 1) and a sphere S^3 (d = 3), 3 apart on a ninth axis of R^10, turned at random. FLIPD must read both dimensions off
it; the paper predicts that the flow map does so for a network that is a gradient, and not for a free one.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from oneprior.denoiser import NetworkDenoiser
from oneprior.exact import empirical
from oneprior.nets import MLPConfig, build
from oneprior.reproductions import Check, Kind, Scale
from oneprior.reproductions._small import held, learn
from oneprior.schedules import Cosine
from oneprior.uses.geometry import Potential, conservativity, dimension

PAPER = "On gauge freedom, conservativity and intrinsic dimensionality estimation in diffusion models (2024)"
CLAIM = (
    "A network that learned a circle and a three-sphere tells the dimension of each within 0.6 at every t_0 from 0.1 "
    "to 0.2, and 95 % of pairs in the right order; it is no gradient, and need not be."
)
SEEDS: dict[Scale, tuple[int, ...]] = {"quick": (0,), "desk": (0,)}
STEPS: dict[Scale, int] = {"quick": 60, "desk": 4000}
TIMES, EACH = (0.1, 0.15, 0.2), 100


def drawn(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """n points (n, 10) and the dimension of the part each is on."""
    g = torch.Generator().manual_seed(seed)
    z = torch.nn.functional.normalize(torch.randn(n, 4, generator=g), dim=1)
    ring = torch.nn.functional.normalize(torch.randn(n, 2, generator=g), dim=1)
    three, x = torch.arange(n) % 2 == 1, torch.zeros(n, 10)
    x[:, :2], x[:, 2:6], x[:, 8] = ring * ~three[:, None], z * three[:, None], 3.0 * three - 1.5
    turn = torch.linalg.qr(torch.randn(10, 10, generator=torch.Generator().manual_seed(1))).Q
    return x @ turn, 1 + 2 * three


def run(scale: Scale, device: str = "cpu") -> Iterator[Check]:
    """The figures, in the order of the claim."""
    kind: Kind = "check" if scale == "desk" else "uncalibrated"
    seed = SEEDS[scale][0]
    (data, _), (x, d) = drawn(20_000, seed), drawn(2 * EACH, seed + 1)
    net = build(MLPConfig((10,), width=192, depth=3), seed)
    den = learn(NetworkDenoiser(net, Cosine()), held(data), STEPS[scale], seed=seed)
    flat = dimension(empirical(data[:4000], 0.05).denoiser(Cosine()), x.double(), t0=TIMES)
    found = dimension(den, x, t0=TIMES)
    for t, row, base in zip(TIMES, found.curve, flat.curve, strict=True):
        for k in (1, 3):
            now, plain = (float(v[d == k].median()) for v in (row, base))
            what = f"median FLIPD where d = {k}, t_0 = {t:g}; baseline: a kernel density of the data"
            yield Check(what, now, f"within 0.6 of {k}", plain, abs(now - k) <= 0.6, kind)
    right = float((found.curve[1][d == 1][:, None] < found.curve[1][d == 3]).double().mean())
    yield Check("pairs in the right order, t_0 = 0.15", right, "> 0.95", 0.5, right > 0.95, kind)
    pca = local_pca(data, x)
    for k in (1, 3):
        value = float(pca[d == k].median())
        yield Check(f"local PCA, 90 % of 50 neighbours, where d = {k}", value, "shown", None, True, "uncalibrated")

    potential = NetworkDenoiser(Potential(build(MLPConfig((10,), width=192, depth=3), seed)), Cosine())
    potential = learn(potential, held(data), STEPS[scale], seed=seed)
    for name, each in (("free", den), ("gradient", potential)):
        curl = float(conservativity(each, x[:20], 0.5, count=16).x.mean())
        bar, holds = ("> 1e-4", curl > 1e-4) if name == "free" else ("< 1e-10", curl < 1e-10)
        yield Check(f"asymmetry at t = 0.5, {name} network", curl, bar, None, holds, "control")
        if scale == "quick":
            continue
        few = torch.cat([x[d == k][:10] for k in (1, 3)])
        count = dimension(each, few, "flow_map", t0=(0.05, 0.1)).curve[0]
        hits = float((count.reshape(2, 10) == torch.tensor([[1.0], [3.0]])).double().mean())
        what = f"flow map: points whose dimension is read right, {name} network"
        yield Check(what, hits, "shown", None, True, "uncalibrated")


def local_pca(data: Tensor, x: Tensor, k: int = 50, share: float = 0.9) -> Tensor:
    """How many axes hold `share` of the variance of the k nearest neighbours."""
    near = data[torch.cdist(x, data).topk(k, largest=False).indices]
    part = torch.linalg.svdvals(near - near.mean(1, keepdim=True)).square().cumsum(1)
    return (part < share * part[:, -1:]).sum(1) + 1.0
