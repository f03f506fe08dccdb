"""Likelihood against closed forms, on every schedule; Hutchinson and the bound within their own standard errors."""

from math import log, pi
from typing import Any

import pytest
import torch
from torch import Tensor

from oneprior.codecs import Pixels, Standardise
from oneprior.denoiser import Denoiser, Facts
from oneprior.exact import Gaussian, Mixture
from oneprior.guidance import CFG
from oneprior.posterior import Posterior
from oneprior.schedules import EDM, VE, VP, Cosine, LinearBetas, RectifiedFlow, Schedule, SubVP
from oneprior.uses.likelihood import bound, likelihood

GAUSSIAN = Gaussian([0.7, -0.4], [[1.0, 0.6], [0.6, 0.5]])
THREE = Mixture([0.3, 0.3, 0.4], [[0.0, 1.2], [-1.04, -0.6], [1.04, -0.6]], [0.1225, 0.0625, 0.0225])
SCHEDULES = [VP(), SubVP(), VE(), RectifiedFlow(), Cosine(), EDM(), LinearBetas()]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_gaussian_and_mixture(schedule: Schedule) -> None:
    """Card: anisotropic Gaussian < 1e-3 nats, mixture of three < 1e-2, without being told mean or variance."""
    x = GAUSSIAN.sample(50, seeds=range(50))
    found = likelihood(GAUSSIAN.denoiser(schedule), x)
    assert (found.x - GAUSSIAN.log_prob(x)).abs().max() < 1e-3
    assert found.nfe == 4 * 32 + 4
    x = THREE.sample(50, seeds=range(50))
    found = likelihood(THREE.denoiser(schedule), x, steps=48)
    assert (found.x - THREE.log_prob(x)).abs().max() < 1e-2


def test_the_noisy_end_needs_no_reference() -> None:
    """Data far from N(0, 1) under a schedule whose end is not pure noise: N(0, sigma^2) there would be off by nats."""
    law = Gaussian([30.0, -20.0], [[4.0, 1.0], [1.0, 9.0]])
    x = law.sample(20, seeds=range(20))
    assert (likelihood(law.denoiser(VE()), x, steps=64).x - law.log_prob(x)).abs().max() < 5e-3
    with pytest.raises(ValueError, match="-2 or less was expected"):
        likelihood(law.denoiser(EDM(smax=3.0)), x)


def test_below_t_min() -> None:
    """Data as narrow as ten times the earliest noise: the tail below t_min counts."""
    law = Gaussian([0.2], 2.5e-4)
    den, x = law.denoiser(Cosine()), law.sample(50, seeds=range(50))  # sbar = 1.6e-3, standard deviation 1.6e-2
    assert (likelihood(den, x, steps=64).x - law.log_prob(x)).abs().max() < 2e-3  # without it 5e-3 (x^2 - 1)


def test_steps_converge_fast() -> None:
    x = GAUSSIAN.sample(50, seeds=range(50))
    den, exact = GAUSSIAN.denoiser(RectifiedFlow()), GAUSSIAN.log_prob(x)
    gaps = [(likelihood(den, x, steps=n).x - exact).square().mean().sqrt().item() for n in (8, 16, 32)]
    assert gaps[0] / gaps[1] > 12 and gaps[1] / gaps[2] > 12  # fourth order: 16


def test_hutchinson_is_unbiased_and_its_noise_is_keyed() -> None:
    law = Gaussian(torch.zeros(6), 0.7 ** torch.cdist(i := torch.arange(6.0)[:, None], i, p=1))
    den, x = law.denoiser(Cosine()), law.sample(1, seeds=[3]).expand(400, 6)
    exact = likelihood(den, x[:1]).x
    drawn = likelihood(den, x, probes=1, seeds=range(400)).x
    error = drawn.std() / 20
    assert drawn.std() > 0.1 and abs(drawn.mean() - exact) < 3 * error
    two = likelihood(den, x, probes=2, seeds=range(400)).x
    assert (two.var() / drawn.var()).item() == pytest.approx(0.5, rel=0.3)
    part = likelihood(den, x[:7], probes=1, seeds=range(40, 47)).x
    assert torch.allclose(part, drawn[40:47])


@pytest.mark.parametrize("schedule", [Cosine(), VE()], ids=["Cosine", "VE"])
def test_bound(schedule: Schedule) -> None:
    """Tight for an exact denoiser; its standard error is that of its scatter, and no smaller."""
    x = THREE.sample(400, seeds=range(400))
    found, exact = bound(THREE.denoiser(schedule), x, n=128, max_batch=8192), THREE.log_prob(x)
    assert found.stderr is not None
    gap = found.x - exact
    assert abs(gap.mean()) < 3 * gap.std() / 20 + 5e-3
    claimed = found.stderr.square().mean().sqrt()
    assert 0.9 < claimed / gap.std() < 1.3
    again = bound(THREE.denoiser(schedule), x[5:8], n=128, seeds=range(5, 8))
    assert torch.allclose(again.x, found.x[5:8])


def test_bits_per_dimension() -> None:
    law = Gaussian(torch.zeros(1, 2, 2), 1.0)
    den, m = law.denoiser(Cosine()), torch.zeros(3, 1, 2, 2)
    nats = -2 * log(2 * pi)
    units = ((None, 0.0), (Pixels(256), log(2 / 256)), (Pixels(None), log(2)), (Standardise(0.0, 3.0), -log(3)))
    for codec, unit in units:
        found = likelihood(den, m, codec=codec)
        assert torch.allclose(found.x, torch.full((3,), nats).double(), atol=1e-4)
        assert torch.allclose(found.bpd, torch.full((3,), -(nats / 4 + unit) / log(2)).double(), atol=1e-4)


class Conditional(Denoiser):
    """N(image, v) given the port `image`."""

    def __init__(self, v: float) -> None:
        super().__init__()
        self.v, self.schedule, self.facts = v, Cosine(), Facts(null={"image": None})

    def posterior(self, x: Tensor, t: Any, *, image: Tensor, **cond: Any) -> Posterior:
        a, _, s = self.schedule.at(t)
        return Posterior(image + a * self.v / (a * a * self.v + s * s) * (x - a * image), x, self.schedule, t)


def test_conditions_and_refusals() -> None:
    x, image = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)).double()
    den = Conditional(0.5)
    exact = -0.5 * ((x - image).square().sum(1) / 0.5 + 3 * log(2 * pi * 0.5))
    assert torch.allclose(likelihood(den, x, image=image).x, exact, atol=1e-3)
    for use in (likelihood, bound):
        with pytest.raises(ValueError, match="no model of a density"):
            use(CFG(THREE.denoiser(Cosine()), negative={"label": 0}), x[:, :2])
    with pytest.raises(ValueError, match="steps = 0"):
        likelihood(den, x, steps=0, image=image)
