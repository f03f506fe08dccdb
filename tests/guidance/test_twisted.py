"""Twisted SMC against exact posteriors, Feynman-Kac corrected CFG against its product (guidance, proof 2).

Errors are root mean squares over `GROUPS` independent groups of particles, so they are known to 1 / sqrt(2 GROUPS).
"""

from math import log, pi, sqrt
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import Simple, draw, propagate
from oneprior import paths
from oneprior.exact import Gaussian, Mixture
from oneprior.guidance import CFG, corrected, twisted
from oneprior.noise import Seeded, Spectral
from oneprior.operators import Mask, Measurement, Operator
from oneprior.sampling import DDIM, walk
from oneprior.sampling.grids import cosine_time, uniform_lam
from oneprior.sampling.particles import Grouped, Particles
from oneprior.schedules import EDM, VP

A = torch.tensor([1.0, 0.7]).double()
GROUPS = 100
EXACT = DDIM(1.0, variance=True)  # on a Gaussian its chain has the right law at any number of steps


class Dot(Operator):
    """y = a.x."""

    def forward(self, x: Tensor) -> Tensor:
        return (x @ A.to(x))[:, None]

    def domain(self, y: tuple[int, ...]) -> tuple[int, ...]:
        return y[0], 2


GAUSSIAN = Gaussian([0.5, -0.2], torch.tensor([1.0, 0.3]).double())
MIXTURE = Mixture([0.3, 0.7], [[-1.0, 1.0], [1.0, 0.0]], 0.04 * torch.tensor([[4.0, 1.0], [1.0, 4.0]]))


def moments(out: Particles) -> tuple[Tensor, Tensor]:
    w, x = out.weights[..., None], out.x.double()
    mean = (w * x).sum(1)
    return mean, (w * (x - mean[:, None]).square()).sum(1)


def rms(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().sum(1).mean().sqrt())


def likelihood(y: float, noise: float) -> Any:
    return lambda x: -(x.double() @ A - y).square() / (2 * noise**2) - log(noise * sqrt(2 * pi))


def nothing(post: Any) -> Tensor:
    return 0.0 * post.mean.sum(1)


@pytest.mark.parametrize("noise", [0.5, 0.1])
def test_twisted_particles_come_to_the_exact_posterior_of_a_gaussian(noise: float) -> None:
    y = 1.4
    post = GAUSSIAN.condition(Dot(), torch.tensor([y]), noise)
    seen, den = Measurement(torch.full((GROUPS, 1), y), Dot(), noise), GAUSSIAN.denoiser(VP())
    total = noise**2 + float((A * A * GAUSSIAN.cov.diagonal()).sum())
    log_z = -0.5 * (log(2 * pi * total) + (y - float(A @ GAUSSIAN.mean)) ** 2 / total)

    def run(K: int, target: Any, **kw: Any) -> tuple[float, float, Particles]:
        out = twisted(den, (GROUPS, 2), target, count=K, steps=15, sampler=EXACT, seeds=range(GROUPS), **kw)
        mean, var = moments(out)
        return rms(mean, post.mean), rms(var, post.cov.diagonal()), out

    few, many, plain = run(8, seen), run(128, seen), run(128, likelihood(y, noise), twist=nothing)
    print(
        f"noise {noise}: mean {few[0]:.3f} -> {many[0]:.3f} (plain {plain[0]:.3f}), var {few[1]:.3f} -> {many[1]:.3f}"
    )
    assert many[0] < few[0] / 2.5 and many[1] < few[1] / 2.5, "sixteen times the particles, a quarter of the error"
    assert many[0] < plain[0] / 1.25 and many[1] < plain[1] / 1.1, "the control: the same weights without a twist"
    mean, var = moments(many[2])
    assert (mean.mean(0) - post.mean).norm() < 4 * many[0] / sqrt(GROUPS)
    assert (var.mean(0) - post.cov.diagonal()).norm() < 4 * many[1] / sqrt(GROUPS) + post.cov.trace() / 128
    z = (many[2].log_z - log_z).exp()
    assert abs(float(z.mean()) - 1) < 4 * float(z.std()) / sqrt(GROUPS) and float(z.std()) < 0.3


def test_of_few_ancestral_steps_the_law_of_those_steps_is_conditioned() -> None:
    """Four steps have a law of their own, N(M, V), and the last of them no noise: weights are exact for that law."""
    law, y, noise, groups = Gaussian([0.5], 0.64), 1.6, 0.4, 40
    path = paths.sync(cosine_time(VP(), 4))
    M, V, _ = propagate(DDIM(1.0).plan(VP(), path), VP(), (0.5, 0.64), (0.0, VP().at(1.0)[2] ** 2))
    assert V < 0.6
    seen = Measurement(torch.full((groups, 1), y), Mask(torch.ones(1, 1)), noise)
    out = twisted(law.denoiser(VP()), (groups, 1), seen, count=1000, path=path, seeds=range(groups))
    mean, var = moments(out)
    want = (M / V + y / noise**2) / (1 / V + 1 / noise**2), 1 / (1 / V + 1 / noise**2)
    for got, exact in zip((mean, var), want, strict=True):
        assert abs(float(got.mean()) - exact) < 4 * float(got.std()) / sqrt(groups) + exact / 1000
        assert float(got.std()) < 0.1


def test_a_black_box_likelihood_is_corrected_too() -> None:
    y, noise = 1.4, 0.5
    post = GAUSSIAN.condition(Dot(), torch.tensor([y]), noise)
    out = twisted(
        GAUSSIAN.denoiser(VP()), (GROUPS, 2), likelihood(y, noise), count=128, steps=15, sampler=EXACT,
        seeds=range(GROUPS),
    )  # fmt: skip
    mean, var = moments(out)
    assert (mean.mean(0) - post.mean).norm() < 4 * rms(mean, post.mean) / sqrt(GROUPS) and rms(mean, post.mean) < 0.15
    assert (var.mean(0) - post.cov.diagonal()).norm() < 4 * rms(var, post.cov.diagonal()) / sqrt(GROUPS) + 0.01


def test_twisted_particles_on_a_mixture_of_two_answers() -> None:
    y, noise = 0.4, 0.1
    post = MIXTURE.condition(Dot(), torch.tensor([y]), noise)
    assert post.log_weights.exp().min() > 0.25
    seen, den = Measurement(torch.full((GROUPS, 1), y), Dot(), noise), MIXTURE.denoiser(VP())
    got: dict[tuple[int, bool], float] = {}
    plain: dict[str, Any] = {"twist": nothing}
    for K, target, kw in ((8, seen, {}), (128, seen, {}), (128, likelihood(y, noise), plain)):
        out = twisted(den, (GROUPS, 2), target, count=K, steps=30, sampler=EXACT, seeds=range(GROUPS), **kw)
        got[K, "twist" in kw] = rms(moments(out)[0], post.mean)
    print(got)
    assert got[128, False] < got[8, False] / 2.5 and got[128, False] < got[128, True] / 1.25


def test_shares_of_two_components_that_explain_y_alike() -> None:
    """Restoration, proof 3: of three components y fits two. The control's twist takes x_0 given x_t for a point."""
    y, noise, groups = 0.4, 0.1, 6
    law = Mixture([0.3, 0.2, 0.5], [[-1.0, 2.0], [1.1, -1.0], [1.5, 1.0]], 0.04)
    want = law.condition(Dot(), torch.tensor([y]), noise).log_weights.exp()
    assert torch.allclose(want, torch.tensor([0.6, 0.4, 0.0]).double(), atol=1e-3)
    seen, at = Measurement(torch.full((groups, 1), y), Dot(), noise), likelihood(y, noise)
    runs: dict[str, tuple[Any, dict[str, Any]]] = {
        "twisted": (seen, {}),
        "point": (at, {"twist": lambda p: at(p.mean)}),
    }
    off = {}
    for name, (target, kw) in runs.items():
        out = twisted(
            law.denoiser(VP()), (groups, 2), target, count=1024, steps=100, sampler=EXACT, seeds=range(groups), **kw
        )
        near = torch.cdist(out.x.double(), law.means).argmin(2)
        shares = torch.stack([(out.weights * (near == k)).sum(1) for k in range(3)], 1)
        off[name] = float((shares.mean(0) - want).abs().max())
    print(off)
    assert off["twisted"] < 0.06 < 0.2 < off["point"], off


def test_the_twist_of_a_mask_is_the_exact_likelihood_of_a_gaussian() -> None:
    """With the variance that x_0 still has, the weights of independent elements hardly vary; a mask a sample."""
    law = Gaussian(torch.zeros(6), 1.0)
    mask = Mask(torch.tensor([[1, 1, 0, 0, 1, 0], [0, 1, 0, 1, 0, 1]]).bool())
    y = mask(draw(2, 6, seed=4))
    out = twisted(
        law.denoiser(VP()), (2, 6), Measurement(y, mask, 0.5), count=64, steps=100, sampler=EXACT, seeds=[0, 1]
    )
    assert out.ess.min() > 32 and out.ess[:-1].min() > 48, "never resampled"
    n = mask.mask.sum(1)
    log_p = -0.5 * y.square().sum(1) / 1.25 - 0.5 * n * log(2 * pi * 1.25)
    assert (out.log_z - log_p).abs().max() < 0.15
    mean = (out.weights[..., None] * out.x).sum(1)
    assert (mean - y / 1.25).abs().max() < 5 / sqrt(64)


def two(x: Tensor, t: Any, *, label: Tensor) -> Tensor:
    """Label 1: N(0.8, 0.25); 0, the null: N(0, 1)."""
    s = EDM().at(t)[2]
    m, v = 0.8 * label[:, None], 1 - 0.75 * label[:, None]
    return m + v / (v + s * s) * (x - m)


def test_feynman_kac_correctors_sample_the_product() -> None:
    """Proof 2: p_u^-2 p_c^3 is N(.96, .1); plain guidance along the same SDE is far from its variance."""
    den, count, label = Simple(two, EDM(), null={"label": 0}), 20_000, torch.ones(1)
    path = paths.sync(uniform_lam(EDM(), 2000, 1.0, 1e-3 / 80))
    out = corrected(den, (1, 1), 3.0, count=count, path=path, seeds=[0], label=label)
    (mean,), (var,) = (v[0].tolist() for v in moments(out))
    noise = Grouped(Seeded([0]), count)
    x = 80 * noise(0, torch.empty(count, 1))
    short = paths.sync(uniform_lam(EDM(), 500, 1.0, 1e-3 / 80))
    for step in walk(CFG(den, 3.0), x, short, DDIM(1.0), noise, label=torch.ones(count)):
        x = step.x
    print(f"corrected: mean {mean:.3f}, var {var:.4f}; plain: mean {x.mean():.3f}, var {x.var():.4f}")
    assert mean == pytest.approx(0.96, rel=0.12) and var == pytest.approx(0.1, rel=0.12)
    assert abs(float(x.var()) / 0.1 - 1) > 0.25


def test_a_scale_a_sample_and_scale_one_is_the_conditional_law() -> None:
    den, seeds, label = Simple(two, EDM(), null={"label": 0}), [3, 4, 5], torch.ones(3)
    out = corrected(den, (3, 1), torch.tensor([1.0, 2.0, 3.0]), count=4000, steps=150, seeds=seeds, label=label)
    assert torch.allclose(out.log_weights[0], torch.zeros(4000).double()), "w (w - 1) = 0"
    for i, w in enumerate((1.0, 2.0, 3.0)):
        precision = w / 0.25 + 1 - w
        mean, var = (float(v[i, 0]) for v in moments(out))
        assert mean == pytest.approx(w * 0.8 / 0.25 / precision, rel=0.1)
        assert var == pytest.approx(1 / precision, rel=0.2)
    alone = corrected(den, (1, 1), 2.0, count=4000, steps=150, seeds=[4], label=label[:1])
    assert torch.equal(alone.x[0], out.x[1]) and torch.equal(alone.ess[:, 0], out.ess[:, 1])


def test_what_they_refuse() -> None:
    den = GAUSSIAN.denoiser(VP())
    seen = Measurement(torch.zeros(2, 1), Dot(), 0.5)
    with pytest.raises(ValueError, match=r"adds no noise.*kappa = 1"):
        twisted(den, (2, 2), seen, sampler="ddim", seeds=[0, 1])
    with pytest.raises(ValueError, match="more than one mean"):
        twisted(den, (2, 2), seen, sampler="sde2m", seeds=[0, 1])
    with pytest.raises(ValueError, match="noise > 0"):
        twisted(den, (2, 2), Measurement(torch.zeros(2, 1), Dot()), seeds=[0, 1])
    with pytest.raises(ValueError, match=r"the twist gave \(2, 32\) for a batch of 32"):
        twisted(den, (2, 2), lambda x: x.T, count=16, steps=2, seeds=[0, 1])
    coloured = Simple(lambda x, t: x, VP(color=Spectral()), null={"label": 0})
    with pytest.raises(ValueError, match="noise to be white"):
        twisted(coloured, (1, 1, 4, 4), lambda x: x.flatten(1).sum(1), seeds=[0])
    with pytest.raises(ValueError, match="noise to be white"):
        corrected(coloured, (1, 1, 4, 4), 2.0, seeds=[0], label=torch.ones(1))
    with pytest.raises(ValueError, match="null"):
        corrected(den, (1, 2), 2.0)
