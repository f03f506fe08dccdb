"""The demo in the plane: three Gaussians, whose every answer is known, beside a small network that learned them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

from oneprior import demo
from oneprior.codecs import Standardise
from oneprior.data import toy_points
from oneprior.data.points import GAUSSIAN_MEANS, GAUSSIAN_STDS
from oneprior.demo.figures import row
from oneprior.exact import Mixture
from oneprior.metrics import energy_distance
from oneprior.nets import MLPConfig
from oneprior.report import raster
from oneprior.sampling import sample
from oneprior.training.settings import TrainSettings

SETTINGS = TrainSettings(
    samples=300_000, batch=512, lr=2e-3, warmup=5_000, decay="cosine", decay_from=75_000, log_every=8_192,
    save_minutes=None,
)  # fmt: skip
TIMES = (0.2, 0.4, 0.6, 0.8)


def toy(job: demo.DemoJob) -> int:
    """Train, then compare scores, samples and likelihoods with the exact ones; 0 when the report is written."""
    console = Console(stderr=True, highlight=False)
    source = toy_points("gaussians", count=20_000, labels=False)
    codec = Standardise.fit(source.batch(range(len(source)))["x"])
    began = time.perf_counter()
    network = MLPConfig((2,), width=96, depth=3)
    prior, log = demo.learn(job, source, codec, network, SETTINGS, console)
    seconds = {"train": time.perf_counter() - began}
    law = _law(codec)
    exact = law.denoiser(prior.den.schedule)
    rows: list[dict[str, Any]] = []
    began = time.perf_counter()
    x0 = law.sample(4000, seeds=range(10**6, 10**6 + 4000)).float()
    noise = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
    for t in TIMES:
        a, _, s = prior.den.schedule.at(t)
        x = a * x0 + s * noise
        with torch.no_grad():
            learned, true = prior.den(x, t).score, exact(x.double(), t).score.float()
        error = float((learned - true).square().mean() / true.square().mean())
        rows.append(row("score", f"relative squared error, t = {t}", [error], 1.0, 0.0, "<= 0.05", error <= 0.05))
    drawn = sample(prior.den, (4000, 2), seeds=range(4000), steps=30)
    z = torch.randn(4000, 2, generator=torch.Generator().manual_seed(1))
    one = x0.mean(0) + z @ torch.linalg.cholesky(torch.cov(x0.T)).T
    other = law.sample(4000, seeds=range(2 * 10**6, 2 * 10**6 + 4000)).float()
    distance, base, null = (energy_distance(x0, v) for v in (drawn, one, other))
    bar = "<= a tenth of one Gaussian's"
    rows.append(row("sample", "energy distance", [distance], base, null, bar, distance <= base / 10))
    held = law.sample(400, seeds=range(3 * 10**6, 3 * 10**6 + 400))
    nats = float(prior.likelihood(codec.decode(held.float()), dequantise=False).x.mean()) - 2 * codec.logdet
    true_nats = float(law.log_prob(held).mean())
    gauss = torch.distributions.MultivariateNormal(x0.mean(0), torch.cov(x0.T))
    base = float(gauss.log_prob(held.float()).mean())
    rows.append(row("likelihood", "nats", [nats], base, true_nats, "within 0.1 of exact", abs(nats - true_nats) <= 0.1))
    seconds["measure"] = time.perf_counter() - began
    words = "Left: data and samples. Right: the learned score (blue) over the exact one (orange) at t = 0.4."
    pictures = [
        ("Points and scores", _drawing(prior, exact, x0, drawn), words),
        ("Loss", demo.curve(*log, xlabel="samples seen", ylabel="loss", log=True), "Of the training run above."),
    ]
    demo.finish(job, Path(job.out), rows, pictures, seconds, prior, console)
    return 0


def _law(codec: Standardise) -> Mixture:
    """The mixture from which the points are drawn, in model range."""
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in (codec.mean, codec.std))
    means = (torch.as_tensor(GAUSSIAN_MEANS, dtype=torch.float64) - mean) / std
    variances = (torch.as_tensor(GAUSSIAN_STDS, dtype=torch.float64).reshape(-1, 1) / std) ** 2
    return Mixture(
        torch.full((len(means),), 1 / len(means), dtype=torch.float64), means, variances.expand(len(means), 2)
    )


def _drawing(prior: Any, exact: Any, data: Tensor, drawn: Tensor) -> Image.Image:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5), layout="constrained", dpi=120)
    left, right = figure.subplots(1, 2)
    left.scatter(*data[:1500].T.numpy(), s=4, alpha=0.4, linewidths=0, color="#d97706", label="data")
    left.scatter(*drawn[:1500].T.numpy(), s=4, alpha=0.4, linewidths=0, color="#3b6fd4", label="samples")
    left.legend(frameon=False)
    side = torch.linspace(-2.5, 2.5, 15)
    points = torch.cartesian_prod(side, side)
    with torch.no_grad():
        true, learned = exact(points.double(), 0.4).score, prior.den(points, 0.4).score
    right.quiver(*points.T.numpy(), *true.T.numpy(), color="#d97706", scale=60, width=0.006)
    right.quiver(*points.T.numpy(), *learned.T.numpy(), color="#3b6fd4", scale=60, width=0.003)
    for axes in (left, right):
        axes.set(xlim=(-2.6, 2.6), ylim=(-2.6, 2.6), aspect="equal")
    return raster(figure)
