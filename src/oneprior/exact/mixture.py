"""Mixtures of Gaussians: every quantity of a diffusion model in closed form.

p(x_0) = sum_k w_k N(m_k, C_k); under x_t = a x_0 + b y + s eps the component k has the weight
w_k(x_t) prop. to w_k N(x_t; a m_k + b y, a^2 C_k + s^2 I), and with its posterior mean D_k and variance V_k
    D = sum_k w_k(x_t) D_k,    Var = sum_k w_k(x_t) (V_k + (D_k - D)^2).
A linear measurement y = A x_0 + noise leaves a mixture: Kalman's update of each component, and w_k' prop. to
w_k N(y; A m_k, A C_k A^T + R). One component is a Gaussian; a data set with C = h^2 I is a prior over real pictures.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from math import prod
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from oneprior.denoiser import Denoiser, Facts
from oneprior.exact.covariance import TINY, Covariance, Update
from oneprior.noise import Seeded, White, uniform
from oneprior.posterior import Posterior
from oneprior.schedules import Schedule
from oneprior.times import Time, align, axes_of

CHUNK = 1 << 22  # numbers of an array (samples, components, dimensions) held at once


class Linear(Protocol):
    """A linear (or affine) map of x (B, *shape), as `oneprior.operators` has them."""

    def __call__(self, x: Tensor) -> Tensor: ...


class Mixture(nn.Module):
    """p(x_0) = sum_k weights_k N(means_k, covariances_k), in float64 unless moved with `.to`.

    weights (K,), any positive numbers; means (K, *shape); covariances: a number or (K,) isotropic variances,
    (K, *shape) diagonal, (K, d, d) full with d the number of elements (1 for K: shared). labels (K,): the class of each
    component, for the condition `label` (B,); the number of classes is the null label.

    Example:
        >>> law = Mixture([0.5, 0.5], [[-1.0], [1.0]], 0.01)
        >>> den = law.denoiser(RectifiedFlow())
    """

    log_weights: Tensor
    means: Tensor
    floor: Tensor
    labels: Tensor | None

    def __init__(self, weights: Any, means: Any, covariances: Any, labels: Any = None) -> None:
        super().__init__()
        means = tensor(means)
        weights = tensor(weights)
        if means.ndim < 2 or tuple(weights.shape) != means.shape[:1]:
            shapes = f"weights {tuple(weights.shape)} and means {tuple(means.shape)}"
            raise ValueError(f"{shapes}: (K,) and (K, *shape) were expected")
        if not bool((weights > 0).all()):
            raise ValueError(f"weights must be positive; the smallest is {float(weights.min()):.3g}")
        self._set((weights / weights.sum()).log(), means, Covariance.read(covariances, means), labels)

    def _set(self, log_weights: Tensor, means: Tensor, cov: Covariance, labels: Any) -> None:
        if labels is not None:
            labels = torch.as_tensor(labels, dtype=torch.long)
            if labels.shape != means.shape[:1]:
                raise ValueError(f"labels have shape {tuple(labels.shape)}; expected: one a component, ({len(means)},)")
        self.shape, self.classes = tuple(means.shape[1:]), 0 if labels is None else int(labels.max()) + 1
        self.dim = prod(self.shape)
        self.register_buffer("log_weights", log_weights)
        self.register_buffer("means", means.reshape(len(means), self.dim))
        self.register_buffer("floor", cov.floor)
        self.register_buffer("basis", cov.basis)
        self.register_buffer("spread", cov.spread)
        self.register_buffer("labels", labels)

    def _with(self, means: Tensor, cov: Covariance, log_weights: Tensor | None = None) -> Self:
        twin = type(self).__new__(type(self))
        nn.Module.__init__(twin)
        weights = self.log_weights if log_weights is None else log_weights
        twin._set(weights, means.reshape(-1, *self.shape), cov, self.labels)
        return twin

    @property
    def covariances(self) -> Covariance:
        return Covariance(*(getattr(self, name) for name in ("floor", "basis", "spread")))

    @property
    def mean(self) -> Tensor:
        """E[x_0], (*shape)."""
        return (self.log_weights.exp() @ self.means).reshape(self.shape)

    @property
    def cov(self) -> Tensor:
        """Cov[x_0] of the flattened sample, (d, d)."""
        w, m = self.log_weights.exp(), self.means - self.mean.reshape(-1)
        inside = (w.sum() if len(self.floor) == 1 else w) * self.covariances.dense(self.dim).movedim(0, -1)
        return inside.sum(-1) + (w[:, None] * m).mT @ m

    def sample(self, n: int, *, seeds: Sequence[int] | None = None, generator: torch.Generator | None = None) -> Tensor:
        """(n, *shape); sample i depends on seeds[i] alone. Without seeds or a generator, fresh seeds are drawn."""
        like = self.means.new_empty((n, self.dim))
        if generator is not None:
            u = torch.rand(n, generator=generator, dtype=torch.float64, device=generator.device).to(like.device)
            z = torch.randn(n, self.dim, generator=generator, dtype=like.dtype, device=generator.device).to(like.device)
        else:
            seeds = [secrets.randbits(63) for _ in range(n)] if seeds is None else seeds
            u = torch.tensor([float(uniform(int(s), "exact component", 0)) for s in seeds], device=like.device)
            z = Seeded(seeds)(0, like, "exact")
        edges = self.log_weights.exp().cumsum(0)
        k = torch.searchsorted(edges, u.to(edges.dtype)).clamp(max=len(edges) - 1)
        cov, one = self.covariances, len(self.floor) == 1
        mine = cov if one else Covariance(cov.floor[k], *(v if v is None else v[k] for v in (cov.basis, cov.spread)))
        f, c = (v.sqrt() for v in mine.levels())
        x = mine.scale(z[:, None] if one else z[None], f, c)  # the symmetric root of C_k
        return (self.means[k] + x.reshape(n, self.dim)).reshape(n, *self.shape)

    def log_prob(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """log p(x), (B,), in nats; x (B, *shape). Raises ValueError where a covariance is singular: no density."""
        f, c = self.covariances.levels()
        if not (bool((c > 0).all()) and (c.shape[-1] == self.dim or bool((f > 0).all()))):
            raise ValueError("a covariance is singular, so there is no density: add a floor, or use .at(schedule, t)")
        one, zero = (self.means.new_full((1, 1), v) for v in (1.0, TINY))
        return self._moments(self.flat(x), one, zero, self._log_prior(label))[2].to(x.dtype)

    def at(self, schedule: Schedule, t: float | Tensor, y: Tensor | None = None) -> Self:
        """The law of x_t. t: a float, or a tensor that aligns with one sample as a batch of one, such as (1, F).

        y (*shape): the anchor, where the schedule has one.
        """
        one = self.means[:1].reshape(1, *self.shape)
        a, b, s = (None if v is None else _spread(v, one).to(one) for v in schedule.at(_times(t)))
        assert a is not None and s is not None
        if a.shape[1] == 1 or self.basis is None:
            cov = self.covariances.noisy(a, s)
        else:
            cov = Covariance.full(a.mT * self.covariances.dense(self.dim) * a + torch.diag_embed(s * s))
        means = a * self.means
        return self._with(means if y is None or b is None else means + b * y.reshape(1, self.dim).to(means), cov)

    def condition(self, operator: Linear, y: Tensor, noise: float | Tensor) -> Self:
        """p(x_0 | y) for y = operator(x_0) + noise n, exactly; in Kalman's form, so singular laws and noise 0 are fine.

        operator: linear or affine on (B, *shape); y: one measurement, with or without a batch axis of 1; noise: the
        standard deviation in the units of y, a number or like y.
        """
        eye = torch.eye(self.dim, dtype=self.means.dtype, device=self.means.device).reshape(self.dim, *self.shape)
        offset = operator(torch.zeros_like(eye[:1])).reshape(1, -1)
        A = (operator(eye).reshape(self.dim, -1) - offset).mT
        seen = y.to(A).reshape(1, -1)
        if seen.shape[1] != A.shape[0]:
            raise ValueError(f"y has shape {tuple(y.shape)}; one measurement of {len(A)} elements was expected")
        R = torch.diag((torch.as_tensor(noise).to(A) * torch.ones_like(y.to(A))).reshape(-1).square())
        C = self.covariances.dense(self.dim)
        w, Q = torch.linalg.eigh(A @ C @ A.mT + R)
        lost = w <= 1e-13 * w[:, -1:]
        inverse = torch.where(lost, 0.0, 1 / w)
        gain = (C @ A.mT @ Q * inverse[:, None]) @ Q.mT
        rest = seen - offset - self.means @ A.mT
        means = self.means + torch.einsum("kde,ke->kd", gain.expand(len(rest), -1, -1), rest)
        keep = torch.eye(self.dim).to(A) - gain @ A
        z = torch.einsum("ke,kef->kf", rest, Q.expand(len(rest), -1, -1))
        logp = -0.5 * ((z.square() * inverse).sum(-1) + torch.where(lost, 0.0, w.log()).sum(-1))
        cov = Covariance.full(keep @ C @ keep.mT + gain @ R @ gain.mT)
        return self._with(means, cov, (self.log_weights + logp).log_softmax(0))

    def denoiser(self, schedule: Schedule, time_axes: int | None = None) -> ExactDenoiser:
        """The exact denoiser under a schedule; times may vary over `time_axes` axes beyond the batch (default: all)."""
        return ExactDenoiser(self, schedule, time_axes)

    def flat(self, x: Tensor) -> Tensor:
        """x (B, *shape) as (B, d), in the law's type; raises ValueError for samples of another shape."""
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"x has shape {tuple(x.shape)}; expected: (B, *shape) with shape {self.shape}")
        return x.reshape(len(x), self.dim).to(self.means.dtype)

    def _log_prior(self, label: Tensor | None) -> Tensor:
        """log weights, (1, K), or (B, K) given labels."""
        if label is None:
            return self.log_weights[None]
        if self.labels is None:
            raise ValueError("a label was given, but the components of this law have none: Mixture(..., labels=)")
        if bool(((label < 0) | (label > self.classes)).any()):
            raise ValueError(f"labels run from 0 to {self.classes - 1}, {self.classes} for none; got {label.tolist()}")
        fits = (label[:, None] == self.labels) | (label[:, None] == self.classes)
        return torch.where(fits, self.log_weights, -torch.inf).log_softmax(1)

    def _moments(self, x: Tensor, a: Tensor, v: Tensor, prior: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, d) less the anchor; a, v = s^2 (B | 1, 1 | d), v > 0 -> mean (B, d), variance, log p(x_t) (B,)."""
        if self.basis is None and len(self.floor) == 1:
            return self._shared(x, a, v, prior)
        rows = max(1, CHUNK // self.means.numel())
        if len(x) <= rows:
            return self._mixed(x, a, v, prior)
        cuts = [u.split(rows) if len(u) > 1 else [u] * -(-len(x) // rows) for u in (x, a, v, prior)]
        mean, var, logp = zip(*(self._mixed(*cut) for cut in zip(*cuts, strict=True)), strict=True)
        return torch.cat(mean), torch.cat([u.expand_as(m) for u, m in zip(var, mean, strict=True)]), torch.cat(logp)

    def _mixed(self, x: Tensor, a: Tensor, v: Tensor, prior: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        R = x[:, None] - a[:, None] * self.means
        up: Update = self.covariances.update(R, a, v)
        logits = prior + up.logp
        w, each = logits.softmax(1)[..., None], self.means + up.shift
        mean = (w * each).sum(1)
        return mean, (w * (up.var + (each - mean[:, None]).square())).sum(1), logits.logsumexp(1)

    def _shared(self, x: Tensor, a: Tensor, v: Tensor, prior: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # one diagonal covariance for all, as for a data set: products of matrices, never (B, K, d)
        f, m = self.floor, self.means
        n = (a * a * f + v).expand(-1, self.dim)
        first, base = Covariance(f).update(x[:, None], a, v).logp, a * x / n
        logits = prior + first + base @ m.mT - 0.5 * (a * a / n) @ m.square().mT
        w = logits.softmax(1)
        E, E2, share = w @ m, w @ m.square(), v / n
        var = f * share + share.square() * (E2 - E * E).clamp(min=0)
        return a * f / n * x + share * E, var, logits.logsumexp(1)


class ExactDenoiser(Denoiser):
    """E[x_0 | x_t] and Var[x_0 | x_t] of a law, for a time of any alignment; differentiable in x.

    Work happens in the law's type (float64), answers have the type of x.
    """

    def __init__(self, law: Mixture, schedule: Schedule, time_axes: int | None = None) -> None:
        super().__init__()
        if not isinstance(schedule.color, White):
            raise ValueError(f"exact laws are known for white noise; this schedule has {schedule.color}")
        null = {"label": law.classes} if law.classes else {}
        self.law, self.schedule = law, schedule
        self.facts = Facts(time_axes=len(law.shape) if time_axes is None else time_axes, null=null)

    def posterior(self, x: Tensor, t: Time, **cond: Any) -> Posterior:
        mean, var, _ = self._at(x, t, **cond)
        return Posterior(mean, x, self.schedule, t, var, cond.get("y"))

    def log_prob(self, x: Tensor, t: Time, **cond: Any) -> Tensor:
        """log p(x_t), (B,), in nats, for t > 0 of any alignment; its gradient is the posterior's score."""
        return self._at(x, t, **cond)[2]

    def _at(
        self, x: Tensor, t: Any, *, label: Tensor | None = None, y: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        law = self.law
        flat = law.flat(x)
        a, b, s = self.schedule.at(_times(t))
        a, s = (_spread(v, x).to(flat) for v in (a, s))
        if b is not None and y is not None:
            flat = flat - _spread(b, x).to(flat) * y.reshape(len(y), -1).to(flat)
        mean, var, logp = law._moments(flat, a, s.square().clamp(min=TINY), law._log_prior(label))
        clean = (s == 0) & (a > 0)  # nothing left to guess
        mean, var = torch.where(clean, flat / torch.where(clean, a, 1.0), mean), torch.where(clean, 0.0, var)
        return mean.reshape(x.shape).to(x.dtype), var.expand_as(flat).reshape(x.shape).to(x.dtype), logp.to(x.dtype)


def _spread(v: Any, x: Tensor) -> Tensor:
    """A number of a schedule beside flat x: (B | 1, 1) for one time a sample, (B, d) for a time an element."""
    v = align(v if isinstance(v, Tensor) else torch.tensor(v, dtype=torch.float64), x)
    return v.reshape(-1, 1) if axes_of(v) == 0 else v.expand(x.shape).reshape(len(x), -1)


def _times(t: Any) -> Any:
    return t if not isinstance(t, Tensor) else t.double() if t.device.type != "mps" else t.float()


def tensor(v: Any) -> Tensor:
    return torch.as_tensor(v, dtype=torch.float64)
