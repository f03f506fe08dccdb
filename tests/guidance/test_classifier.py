"""Classifier guidance: with the exact classifier of a mixture, gamma = 1 is Bayes' rule and nothing else."""

from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import draw
from oneprior.exact import Mixture
from oneprior.guidance import CFG, ClassifierGuidance
from oneprior.sampling import sample
from oneprior.schedules import EDM, VP, Cosine, Schedule

LAW = Mixture([0.2, 0.5, 0.3], draw(3, 4), 0.3, labels=[0, 1, 2])
LABEL = torch.tensor([0, 1, 2, 1, 0])
PIXELS = 0.1 + 0.8 * torch.rand(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def classifier(schedule: Schedule, label: Tensor = LABEL) -> Any:
    """log p(c | x_t) = log p(x_t | c) - log p(x_t) + log p(c)."""
    den = LAW.denoiser(schedule)
    prior = torch.tensor([0.2, 0.5, 0.3]).double().log()[label]
    return lambda x, t: den.log_prob(x, t, label=label) - den.log_prob(x, t) + prior


@pytest.mark.parametrize("schedule", [VP(), EDM(), Cosine()], ids=["vp", "edm", "cosine"])
@pytest.mark.parametrize("t", [0.01, 0.4, 0.9, torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9]).double(), PIXELS], ids=str)
def test_the_exact_classifier_gives_the_conditional_denoiser(schedule: Schedule, t: Any) -> None:
    x = draw(5, 4, seed=1) * (1 + schedule.at(0.5)[2])
    den = LAW.denoiser(schedule)
    guided = ClassifierGuidance(den, classifier(schedule))
    want = den(x, t, label=LABEL).mean
    with torch.no_grad():
        torch.testing.assert_close(guided(x, t).mean, want, rtol=1e-9, atol=1e-9)
    assert (den(x, t).mean - want).abs().max() > 1e-3
    assert not guided.facts.density and guided.begin(None) is guided


def test_where_alpha_is_zero_the_shift_keeps_its_limit() -> None:
    """At t = 1 of the cosine schedule D_c is the mean of the class; s^2/a times a vanishing gradient goes there."""
    schedule, x = Cosine(), draw(5, 4, seed=1)
    got = ClassifierGuidance(LAW.denoiser(schedule), classifier(schedule))(x, 1.0).mean
    assert (got - LAW.means[LABEL]).abs().max() < 0.05, "an error of the order of alpha = 0.01"
    assert (LAW.denoiser(schedule)(x, 1.0).mean - LAW.means[LABEL]).abs().max() > 0.5


@pytest.mark.parametrize("scale", [0.0, 3.0, torch.tensor([0.0, 1.0, 2.0, 5.0, 10.0])], ids=str)
def test_scale(scale: Any) -> None:
    den, x = LAW.denoiser(VP()), draw(5, 4, seed=1)
    u, c = den(x, 0.4).mean, den(x, 0.4, label=LABEL).mean
    w = scale[:, None].double() if isinstance(scale, Tensor) else scale
    got = ClassifierGuidance(den, classifier(VP()), scale)(x, 0.4).mean
    torch.testing.assert_close(got, u + w * (c - u), rtol=1e-9, atol=1e-9)


def test_a_sample_does_not_see_the_others() -> None:
    guided, x = ClassifierGuidance(LAW.denoiser(VP()), classifier(VP()), 4.0), draw(5, 4, seed=1)
    other = torch.cat([x[:1], 10 * x[1:]])
    assert torch.equal(guided(x, 0.4).mean[0], guided(other, 0.4).mean[0])


def test_it_samples_what_cfg_samples() -> None:
    """The same guided score by two ways, along a whole trajectory."""
    a = sample(ClassifierGuidance(LAW.denoiser(VP()), classifier(VP()), 2.0), (5, 4), steps=12, seeds=range(5))
    b = sample(CFG(LAW.denoiser(VP()), 2.0), (5, 4), steps=12, seeds=range(5), label=LABEL)
    assert (a - b).abs().max() < 0.01, "float32, and t = 1, where alpha = 0.007 is asked as 0.01"


def test_what_it_refuses() -> None:
    den, x = LAW.denoiser(VP()), draw(5, 4)
    with pytest.raises(ValueError, match=r"the classifier gave \(5, 3\) for a batch of 5: one number a sample, \(5,\)"):
        ClassifierGuidance(den, lambda x, t: x[:, :3])(x, 0.4)
    with pytest.raises(ValueError, match="scale = nan"):
        ClassifierGuidance(den, classifier(VP()), float("nan"))
    constant = ClassifierGuidance(den, lambda x, t: torch.zeros(len(x)))
    assert torch.equal(constant(x, 0.4).mean, den(x, 0.4).mean)
