"""Which fields may be added to a score: exact laws with exact likelihoods, and controls that must fail."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import draw
from oneprior.denoiser import Denoiser, Wrapper
from oneprior.exact import Gaussian, Mixture
from oneprior.metrics import energy_distance
from oneprior.sampling import sample
from oneprior.schedules import VE, Cosine, Schedule
from oneprior.uses.geometry import Gauge, Jacobian, conservativity, divergence
from oneprior.uses.likelihood import likelihood


def law() -> Mixture:
    """The card's: 3-d, four Gaussians of full covariance."""
    F = 0.5 * draw(4, 3, 3, seed=2)
    return Mixture([0.1, 0.2, 0.3, 0.4], 1.5 * draw(4, 3, seed=1), F @ F.mT + 0.1 * torch.eye(3, dtype=torch.float64))


A = torch.zeros(3, 3, dtype=torch.float64)
A[0, 1], A[1, 0] = 1.0, -1.0  # |A| = sqrt 2
LAW = law()


def constant(a: Tensor, s: Tensor) -> float:
    return 1.0


class Bent(Wrapper):
    """The score of `inner` plus f(x): D + f s^2 / a."""

    def __init__(self, inner: Denoiser, f: Callable[[Tensor], Tensor]) -> None:
        super().__init__(inner)
        self.f = f

    def posterior(self, x: Tensor, t: Any, **cond: Any) -> Any:
        post = self.inner(x, t, **cond)
        a, _, s = self.schedule.at(t)
        return post.replace(post.mean + s * s / a * self.f(x))


def marched(den: Denoiser, x: Tensor, steps: int, t0: float = 0.02, t1: float = 0.98) -> tuple[Tensor, Tensor]:
    """The ODE in t by RK4, and the integral of its divergence: an implementation of its own."""

    def rate(x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        (a, _, s), (da, _, ds) = Cosine().at(t), Cosine().slope(t)
        J = Jacobian(den, x, t)
        trace = sum((e * J.adjoint(e.expand_as(x))).sum(1) for e in torch.eye(3, dtype=x.dtype))
        # dx/dt = a' D + s' (x - a D) / s
        return da * J.mean + ds / s * (x - a * J.mean), 3 * ds / s + (da - ds * a / s) * trace

    total, h = torch.zeros(len(x), dtype=torch.float64), (t1 - t0) / steps
    for i in range(steps):
        t = t0 + i * h
        k1 = rate(x, t)
        k2 = rate(x + h / 2 * k1[0], t + h / 2)
        k3 = rate(x + h / 2 * k2[0], t + h / 2)
        k4 = rate(x + h * k3[0], t + h)
        x, total = (
            v + h / 6 * (p + 2 * q + 2 * r + w) for v, p, q, r, w in zip((x, total), k1, k2, k3, k4, strict=True)
        )
    return x, total


def off(den: Denoiser, steps: int = 50) -> float:
    """Largest error of log p(x_t) at t = 0.02, in nats, of 20 points."""
    inner: Any = LAW.denoiser(Cosine())
    x = LAW.at(Cosine(), 0.02).sample(20, seeds=range(20))
    end, total = marched(den, x, steps)
    return float((inner.log_prob(end, 0.98) + total - inner.log_prob(x, 0.02)).abs().max())


def test_likelihood_under_a_gauge_and_controls() -> None:
    """Card: A grad log p is exact (3e-4 in the trial), A x off by over a nat, a wrong gradient by over 0.3."""
    inner, w = LAW.denoiser(Cosine()), torch.tensor([1.0, -0.5, 0.7], dtype=torch.float64)
    assert off(inner) < 2e-6
    assert off(Gauge(inner, A, constant), 100) < 3e-4
    assert off(Bent(inner, lambda x: x @ A.mT)) > 1
    assert off(Bent(inner, lambda x: -0.3 * (x @ w).sin()[:, None] * w)) > 0.3  # the gradient of 0.3 cos(w x)


@pytest.mark.parametrize("schedule", [Cosine(), VE()], ids=lambda s: type(s).__name__)
def test_likelihood_of_the_library(schedule: Schedule) -> None:
    """From the data to its own reference at the noisy end."""
    x = LAW.sample(20, seeds=range(20))
    den = LAW.denoiser(schedule)
    plain = (likelihood(den, x, steps=40).x - LAW.log_prob(x)).abs().max()
    turned = (likelihood(Gauge(den, A), x, steps=40).x - LAW.log_prob(x)).abs().max()
    assert plain < 1e-3 and turned < 2e-3
    assert conservativity(Gauge(den, A), x[:4], 0.3, count=8).x.min() > 1e-4
    assert divergence(Gauge(den, A), x, 0.3) == pytest.approx(divergence(den, x, 0.3))


def test_samples_keep_their_law_and_lose_their_noise() -> None:
    """Card: 1,000 draws within noise of the others, though single ends move by more than 1; few steps cost more."""
    den = LAW.denoiser(Cosine())
    plain, turned = (
        sample(d, (1000, 3), steps=60, sampler="heun", seeds=range(1000)).double() for d in (den, Gauge(den, 2 * A))
    )
    assert (plain - turned).norm(dim=1).mean() > 1
    data = LAW.sample(1000, seeds=range(10**6, 10**6 + 1000))
    assert energy_distance(turned, data) < 0.02 and energy_distance(plain, data) < 0.02
    few = sample(Gauge(den, 2 * A), (1000, 3), steps=8, sampler="ddim", seeds=range(1000)).double()
    assert energy_distance(few, data) > 3 * energy_distance(turned, data)


def test_orthogonal_to_gradients() -> None:
    """Card (Pythagoras): E[A s . grad h] = 0 within 4 standard errors; E[A x . grad h] is far from it."""
    x = LAW.at(Cosine(), 0.3).sample(50_000, generator=torch.Generator().manual_seed(0))
    w = torch.tensor([1.0, -0.5, 0.7], dtype=torch.float64)
    s = LAW.denoiser(Cosine())(x, 0.3).score
    grad = (x @ w).cos()[:, None] * w  # of sin(w x)

    def z(r: Tensor) -> float:
        each = (r * grad).sum(1)
        return float(each.mean() / each.std() * len(each) ** 0.5)

    assert abs(z(s @ A.mT)) < 4 and abs(z(x @ A.mT)) > 20


def test_a_gauge_at_the_noisy_end_and_per_element_times() -> None:
    den = Gaussian(torch.zeros(3), 0.4).denoiser(Cosine())
    x = draw(2, 3)
    assert torch.equal(Gauge(den, A)(x, 1.0).mean, den(x, 1.0).mean)
    t = torch.tensor([0.2, 0.7], dtype=torch.float64)
    each = torch.cat([Gauge(den, A)(x[i : i + 1], float(t[i])).mean for i in range(2)])
    assert torch.allclose(Gauge(den, A)(x, t).mean, each)
    with pytest.raises(ValueError, match="antisymmetric"):
        Gauge(den, torch.eye(3))
