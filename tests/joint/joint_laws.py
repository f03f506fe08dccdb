"""Exact joint denoisers: a Gaussian over two vectors, and a label beside a Gaussian a class."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from helpers import ar1
from oneprior.denoiser import Denoiser, Facts
from oneprior.joint import Categorical
from oneprior.posterior import Posterior
from oneprior.schedules import Cosine, RectifiedFlow, Schedule
from oneprior.tokens import Absorbing, Corruption

K5, M5 = ar1(5, 0.8) * torch.outer(*[torch.linspace(0.7, 1.3, 5, dtype=torch.float64)] * 2), torch.linspace(-1, 1, 5)


class Gaussians(Denoiser):
    """(x, y) in 3 + 2 dimensions, jointly Gaussian: E[. | x_s, y_t] under an alpha and a sigma a part."""

    schedule: Any

    def __init__(self) -> None:
        super().__init__()
        self.schedule, self.facts = {"x": Cosine(), "y": RectifiedFlow()}, Facts()
        self.shapes = {"x": (3,), "y": (2,)}

    def posterior(self, x: Any, t: Any, **cond: Any) -> dict[str, Posterior]:
        rows = []
        for k, v in x.items():
            a, _, s = (torch.as_tensor(c, dtype=torch.float64).reshape(-1, 1) for c in coefs(self.schedule[k], t[k]))
            rows.append((a.expand(-1, v.shape[1]), s.expand(-1, v.shape[1])))
        n = max(len(a) for a, _ in rows)  # one matrix serves the whole batch where there is one time
        A, S = (torch.cat([v.expand(n, -1) for v in c], 1) for c in zip(*rows, strict=True))
        flat, m = torch.cat([v.double() for v in x.values()], 1), M5.double()
        gain = torch.linalg.solve(A[:, :, None] * K5 * A[:, None] + torch.diag_embed(S * S), A[:, :, None] * K5)
        D = m + ((flat - A * m)[:, None] @ gain)[:, 0]
        parts = zip(D.split([3, 2], 1), x.items(), strict=True)
        return {k: Posterior(d.to(v), v, self.schedule[k], t[k]) for d, (k, v) in parts}


PI = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
MEANS = torch.tensor([[1.2, 0.0], [-0.6, 1.0], [-0.6, -1.0]], dtype=torch.float64)
COVS = torch.tensor([[[0.3, 0.1], [0.1, 0.2]], [[0.2, 0], [0, 0.4]], [[0.5, -0.2], [-0.2, 0.3]]], dtype=torch.float64)
VALUES, VECTORS = torch.linalg.eigh(COVS)


def coefs(schedule: Schedule, t: Any) -> tuple[Any, ...]:
    return tuple(0.0 if v is None else v for v in schedule.at(t.double() if isinstance(t, Tensor) else t))


class Labelled(Denoiser):
    """A label c ~ PI and a point ~ N(MEANS[c], COVS[c]): every posterior by enumeration of the classes."""

    schedule: Any

    def __init__(self, schedule: Schedule | None = None, corruption: Corruption | None = None) -> None:
        super().__init__()
        self.schedule = {"point": schedule or Cosine(), "label": corruption or Absorbing(4)}
        self.facts, self.shapes = Facts(), {"point": (2,), "label": (1,)}
        self.calls: list[dict[str, Any]] = []

    def classes(self, x: Tensor, t: Any) -> tuple[Tensor, Tensor]:
        """log N(x_t; class) (B, 3) and E[x_0 | x_t, class] (B, 3, 2)."""
        a, _, s = (torch.as_tensor(v, dtype=torch.float64).reshape(-1, 1, 1) for v in coefs(self.schedule["point"], t))
        total = a**2 * VALUES + s**2  # the eigenvalues of each class's covariance of x_t
        turned = ((x.double()[:, None] - a * MEANS)[:, :, None] @ VECTORS)[:, :, 0]
        log = -0.5 * (turned**2 / total + total.log()).sum(-1)
        return log, MEANS + (VECTORS @ (a * VALUES / total * turned)[..., None])[..., 0]

    def posterior(self, x: Any, t: Any, **cond: Any) -> dict[str, Any]:
        self.calls.append(dict(t))
        v, z, c = x["point"], x["label"], self.schedule["label"]
        log, means = self.classes(v, t["point"])
        q = c.likelihood(z, t["label"])[:, 0, :3]
        logp = (PI.log() + log + q.clamp(min=1e-300).log()).log_softmax(1)
        D = (logp.exp()[..., None] * means).sum(1)
        if c.mask is not None:
            logp = torch.cat([logp, torch.full_like(logp[:, :1], -2e4)], 1)
        return {
            "point": Posterior(D.to(v), v, self.schedule["point"], t["point"]),
            "label": Categorical(logp[:, None], z),
        }


class OfClass(Denoiser):
    """The point alone, of one class or (None) of the mixture, written without the joint denoiser."""

    def __init__(self, label: int | None, schedule: Schedule | None = None) -> None:
        super().__init__()
        self.label, self.schedule, self.facts = label, schedule or Cosine(), Facts()
        self.every = Labelled(self.schedule)

    def posterior(self, x: Tensor, t: Any, **cond: Any) -> Posterior:
        log, means = self.every.classes(x, t)
        w = (PI.log() + log).softmax(1) if self.label is None else torch.eye(3).double()[self.label].expand(len(x), 3)
        return Posterior((w[..., None] * means).sum(1).to(x), x, self.schedule, t)
