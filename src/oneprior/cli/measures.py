"""The rows of `oneprior evaluate`, and the seconds that the prior worked for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from oneprior import metrics
from oneprior.cli.inputs import Inputs
from oneprior.cli.settings import EvaluateSettings
from oneprior.metrics import null
from oneprior.prior import Prior
from oneprior.results import grid, visible

Rows = tuple[list[dict[str, Any]], float]


def generation(prior: Prior, train: Inputs, test: Inputs, s: EvaluateSettings, pictures: list[Any]) -> Rows:
    """Samples against held-out data of equal size, in the space of pixels; of the classes of the held-out data."""
    n = min(len(test), 500) if s.n is None else s.n
    if n > len(test):
        raise ValueError(f"--n {n}: only {len(test)} samples are held out")
    t, h = train.x().flatten(1), test.x().flatten(1)
    sets, held, seconds = [], [], 0.0
    for r in range(s.repeats):
        index = _some(len(h), n, r)
        own: dict[str, Any] = {"steps": s.steps, "sampler": s.sampler, "batch": s.batch}
        if test.labels is not None:
            own[prior._label()[0]] = test.labels[index]
        out = prior.sample(seeds=range(s.seed + r * n, s.seed + (r + 1) * n), **own)
        seconds += out.seconds
        sets.append(out.x.cpu().flatten(1))
        held.append(h[index])
        if not r and len(prior.shape) == 3:
            pictures.append(("Samples", grid(visible(out.x[:60], out.window), 10), f"{s.steps} steps, {s.sampler}"))
            pictures.append(("Held-out data", grid(visible(test.x(index[:60].tolist()), out.window), 10)))

    def row(name: str, metric: Callable[[Any, Any], float]) -> dict[str, Any]:
        pool = torch.cat([t, h])
        perfect = null(metric, pool, n).mean if 2 * n <= len(pool) else None
        return {
            "metric": name,
            **_mean([float(metric(a, b)) for a, b in zip(held, sets, strict=True)]),
            "null": perfect,
        }

    copied = _mean([metrics.train_share(g, t, h) for g in sets])
    return [
        row("two-sample", metrics.two_sample_accuracy),
        row("frechet", metrics.frechet_distance),
        row("kid", metrics.kid),
        {"metric": "copied", **copied, "null": metrics.train_share(None, t, h)},
    ], seconds


def classification(prior: Prior, train: Inputs, test: Inputs, s: EvaluateSettings, pictures: list[Any]) -> Rows:
    """Accuracy on held-out pictures, beside that of the nearest training picture and of chance."""
    assert test.labels is not None and train.labels is not None
    index = _some(len(test), s.classify, 0)
    x, truth = test.x(index.tolist()), test.labels[index]
    out = prior.classify(x, calls=s.calls, seed=s.seed)
    near = metrics.nearest(x.double().flatten(1), train.x().double().flatten(1))[1][:, 0]
    plain = float((train.labels[near] == truth).double().mean())
    found = _mean((out.x.cpu() == truth).double().tolist())
    row = {
        "metric": f"accuracy on {len(x)}",
        **found,
        "baseline": {"nearest picture": plain},
        "null": 1 / len(out.names),
    }
    return [row], out.seconds


def likelihoods(prior: Prior, train: Inputs, test: Inputs, s: EvaluateSettings, pictures: list[Any]) -> Rows:
    """log p of held-out samples, in nats and bits per dimension."""
    x = test.x(_some(len(test), s.likelihood, 0).tolist())
    many: dict[str, Any] = {"probes": 8} if x[0].numel() > 256 else {}  # the exact trace costs a pass a dimension
    out = prior.likelihood(x, seed=s.seed, **many)
    rows = [{"metric": f"nats on {len(x)}", **_mean(out.x.tolist())}]
    rows += [] if out.bpd is None else [{"metric": "bits per dimension", **_mean(out.bpd.tolist())}]
    return rows, out.seconds


def _mean(values: list[float]) -> dict[str, Any]:
    v = torch.tensor(values, dtype=torch.float64)
    return {"value": v.mean().item(), "stderr": (v.std() / len(v) ** 0.5).item() if len(v) > 1 else None}


def _some(count: int, n: int, r: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(r))[:n].sort().values
