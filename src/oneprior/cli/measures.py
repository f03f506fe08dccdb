"""The rows of `oneprior evaluate`. Each function returns its rows and the seconds that the prior worked for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from oneprior import metrics
from oneprior.cli.evaluate import EvaluateSettings
from oneprior.cli.inputs import Inputs, label_of, on_levels
from oneprior.metrics import flatten, null
from oneprior.prior import Prior
from oneprior.results import grid

Rows = tuple[list[dict[str, Any]], float]


def generation(prior: Prior, train: Inputs, test: Inputs, s: EvaluateSettings, pictures: list[Any]) -> Rows:
    """Samples against held-out data of equal size, in the space of pixels."""
    n = min(len(test), 500) if s.n is None else s.n
    if n > len(test):
        raise ValueError(f"--n {n}: only {len(test)} samples are held out")
    t, h = flatten(train.x()), flatten(test.x())
    pool = torch.cat([t, h])
    sets, seconds = [], 0.0
    for r in range(s.repeats):
        chosen = test.labels[torch.arange(r * n, (r + 1) * n) % len(test)] if test.labels is not None else None
        cond = {} if chosen is None else {_name(prior): chosen}
        out = prior.sample(seeds=range(s.seed + r * n, s.seed + (r + 1) * n), steps=s.steps, sampler=s.sampler, **cond)
        sets.append(flatten(out.x.cpu()))
        seconds += out.seconds
        if not r and len(prior.shape) == 3:
            pictures.append(("Samples", grid(out.x[:60], 10), f"{s.steps} steps, {s.sampler}"))
            pictures.append(("Held-out data", grid(test.x(range(min(60, len(test)))), 10)))

    def row(name: str, metric: Any) -> dict[str, Any]:
        each = [float(metric(h[_some(len(h), n, r)], g)) for r, g in enumerate(sets)]
        perfect = null(metric, pool, n)[0] if 2 * n <= len(pool) else None
        return {"use": "generate", "metric": name, **_mean(each), "null": perfect}

    copied = _mean([metrics.train_share(g, t, h) for g in sets])
    return [
        row("two-sample", metrics.two_sample_accuracy),
        row("frechet", metrics.frechet_distance),
        row("kid", metrics.kid),
        {"use": "generate", "metric": "copied", **copied, "null": metrics.train_share(None, t, h)},
    ], seconds


def classification(prior: Prior, train: Inputs, test: Inputs, s: EvaluateSettings) -> Rows:
    """Accuracy on held-out pictures, beside that of the nearest training picture."""
    assert test.labels is not None and train.labels is not None
    index = _some(len(test), min(s.classify, len(test)), 0).tolist()
    x, truth = test.x(index), test.labels[index]
    out = prior.classify(x, calls=s.calls, seed=s.seed)
    near = metrics.nearest(flatten(x).double(), flatten(train.x()).double())[1][:, 0]
    right, plain = (out.x.cpu() == truth).double(), (train.labels[near] == truth).double().mean().item()
    row = {"use": "classify", "metric": f"accuracy on {len(index)}", **_mean(right.tolist())}
    label = label_of(prior)
    chance = 1 / len(label.names) if label else None
    return [{**row, "baseline": {"nearest picture": plain}, "null": chance}], out.seconds


def likelihoods(prior: Prior, test: Inputs, s: EvaluateSettings) -> Rows:
    """log p of held-out samples, nats and bits per dimension."""
    index = _some(len(test), min(s.likelihood, len(test)), 0).tolist()
    many = {"probes": 8} if len(flatten(test.x(index[:1]))[0]) > 256 else {}  # the exact trace costs a pass a dimension
    out = prior.likelihood(on_levels(prior, test.x(index)), seed=s.seed, **many)
    rows = [{"use": "likelihood", "metric": f"nats on {len(index)}", **_mean(out.x.tolist())}]
    if out.bpd is not None:
        rows.append({"use": "likelihood", "metric": "bits per dimension", **_mean(out.bpd.tolist())})
    return rows, out.seconds


def _mean(values: list[float]) -> dict[str, Any]:
    v = torch.tensor(values, dtype=torch.float64)
    return {"value": v.mean().item(), "stderr": (v.std() / len(v) ** 0.5).item() if len(v) > 1 else None}


def _some(count: int, n: int, r: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(r))[:n].sort().values


def _name(prior: Prior) -> str:
    return prior._label()[0]
