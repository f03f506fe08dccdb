"""Exact laws against independent answers: torch.distributions, plain linear algebra, quadrature, autograd, RK4."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from oneprior.anchored import ResShift
from oneprior.exact import ExactDenoiser, Gaussian, Mixture, empirical, low_rank_mixture
from oneprior.noise import Spectral
from oneprior.schedules import VE, VP, RectifiedFlow, Schedule
from oneprior.times import align

D, K = 6, 3
SHAPES = [(6,), (1, 2, 3), (2, 1, 1, 3)]


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def spd(k: int, seed: int = 1) -> Tensor:
    L = rand(k, D, D, seed=seed)
    return L @ L.mT / D + 0.05 * torch.eye(D)


W = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
M, C = rand(K, D, seed=2), spd(K)
LAWS: dict[str, Callable[[tuple[int, ...]], Mixture]] = {
    "gaussian": lambda s: Gaussian(M[0].reshape(s), C[0]),
    "isotropic": lambda s: Gaussian(M[0].reshape(s), 0.3),
    "diagonal": lambda s: Gaussian(M[0].reshape(s), C[0].diagonal().reshape(s)),
    "mixture": lambda s: Mixture(W, M.reshape(K, *s), C),
    "shared": lambda s: Mixture(W, M.reshape(K, *s), C[:1]),
    "diagonals": lambda s: Mixture(W, M.reshape(K, *s), C.diagonal(dim1=1, dim2=2).reshape(K, *s)),
    "low rank": lambda s: low_rank_mixture(W, M.reshape(K, *s), rand(K, D, 2, seed=3), [0.1, 0.2, 0.3]),
    "empirical": lambda s: empirical(rand(20, *s, seed=4), 0.4),
}


def dense(law: Mixture) -> tuple[Tensor, Tensor, Tensor]:
    k = len(law.means)
    return law.log_weights.exp(), law.means, law.covariances.dense(law.dim).expand(k, -1, -1)


def times(shape: tuple[int, ...], B: int) -> list[Any]:
    """A float, one a sample, one a frame, one a pixel, one an element."""
    out: list[Any] = [0.3, torch.linspace(0.05, 0.95, B).double()]
    finer = {1: [(B, 6)], 3: [(B, 1, 2, 3), (1, 1, 2), (B, 1, 2, 1)], 4: [(B, 2), (B, 1, 1, 1, 3), (B, 2, 1, 1, 3)]}
    return out + [0.02 + 0.9 * rand(*s, seed=5).sigmoid() for s in finer[len(shape)]]


def brute(law: Mixture, schedule: Schedule, x: Tensor, t: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Sample by sample from dense matrices: mean, variance, log p(x_t)."""
    w, m, c = dense(law)
    a, _, s = (None if v is None else align(v, x) * torch.ones_like(x) for v in schedule.at(t))
    assert a is not None and s is not None
    out = []
    for xi, ai, si in zip(x.flatten(1), a.flatten(1), s.flatten(1), strict=True):
        N = c * ai[:, None] * ai + torch.diag(si**2)
        gain = torch.linalg.solve(N, c * ai[:, None]).mT
        each = m + ((xi - ai * m)[:, None] @ gain.mT)[:, 0]
        var = (c - gain @ (ai[:, None] * c)).diagonal(dim1=1, dim2=2)
        logs = w.log() + MultivariateNormal(ai * m, N).log_prob(xi)
        r = logs.softmax(0)[:, None]
        mean = (r * each).sum(0)
        out.append((mean, (r * (var + each**2)).sum(0) - mean**2, logs.logsumexp(0)))
    mean, var, logp = (torch.stack(v) for v in zip(*out, strict=True))
    return mean.reshape(x.shape), var.reshape(x.shape), logp


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", LAWS)
def test_mean_variance_density_and_score(name: str, shape: tuple[int, ...]) -> None:
    law, schedule = LAWS[name](shape), VP()
    den = law.denoiser(schedule)
    x = rand(4, *shape, seed=6).requires_grad_()
    for t in times(shape, 4):
        post, logp = den(x, t), den.log_prob(x, t)
        mean, var, expected = brute(law, schedule, x.detach(), t)
        assert torch.allclose(post.mean, mean, rtol=0, atol=1e-10)
        assert torch.allclose(post.var, var, rtol=0, atol=1e-10)
        assert torch.allclose(logp, expected, rtol=0, atol=1e-9)
        score = torch.autograd.grad(logp.sum(), x)[0]
        assert torch.allclose(post.score, score, rtol=1e-9, atol=1e-9)
        # Var[x_0 | x_t] = (s^2 / a) diag J, with J by autograd
        rows = [torch.autograd.grad(post.mean.flatten(1)[:, i].sum(), x, retain_graph=True)[0] for i in range(D)]
        diagonal = torch.stack([row.flatten(1)[:, i] for i, row in enumerate(rows)], 1).reshape(x.shape)
        a, _, s = post.coefs
        assert torch.allclose(post.var, s * s / a * diagonal, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", LAWS)
def test_constant_times_equal_the_float(name: str, shape: tuple[int, ...]) -> None:
    den = LAWS[name](shape).denoiser(RectifiedFlow())
    x = rand(4, *shape)
    plain = den(x, 0.4)
    for t in times(shape, 4)[1:]:
        post = den(x, torch.full_like(t, 0.4))
        assert torch.allclose(post.mean, plain.mean, rtol=0, atol=1e-12)
        assert torch.allclose(post.var, plain.var, rtol=0, atol=1e-12)
        assert torch.allclose(den.log_prob(x, torch.full_like(t, 0.4)), den.log_prob(x, 0.4), rtol=0, atol=1e-10)


def test_wrong_times_and_shapes_are_refused() -> None:
    law = LAWS["mixture"]((1, 2, 3))
    with pytest.raises(ValueError, match=r"\(3, 2\).*\(4, 1, 2, 3\)"):
        law.denoiser(VP())(rand(4, 1, 2, 3), torch.rand(3, 2))
    with pytest.raises(ValueError, match=r"\(1, 3\).*\(4, 6\)"):
        Gaussian(M[0], 1.0).denoiser(VP()).log_prob(rand(4, 6), torch.rand(1, 3))
    with pytest.raises(ValueError, match="time_axes=0"):
        law.denoiser(VP(), time_axes=0)(rand(4, 1, 2, 3), torch.rand(4, 1, 2))
    with pytest.raises(ValueError, match=r"\(4, 6\).*\(1, 2, 3\)"):
        law.denoiser(VP())(rand(4, 6), 0.5)
    with pytest.raises(TypeError, match="tokens"):
        law.denoiser(VP())(rand(4, 1, 2, 3), 0.5, tokens=None)
    with pytest.raises(ValueError, match="white"):
        law.denoiser(VP(color=Spectral()))


def test_against_quadrature_in_one_dimension() -> None:
    w, m, sd = [0.3, 0.7], [-1.0, 0.8], [0.2, 0.5]
    den = Mixture(w, [[v] for v in m], [v * v for v in sd]).denoiser(VP())
    grid = torch.linspace(-8, 8, 200001, dtype=torch.float64)
    prior = sum(a * torch.exp(-0.5 * ((grid - b) / c) ** 2) / c for a, b, c in zip(w, m, sd, strict=True))
    for t, x in ((0.1, 0.3), (0.4, -0.2), (0.8, 1.0)):
        a, _, s = VP().at(t)
        p = prior * torch.exp(-0.5 * ((x - a * grid) / s) ** 2)
        p = p / p.sum()
        mean = (p * grid).sum()
        post = den(torch.tensor([[x]], dtype=torch.float64), t)
        assert abs(post.mean.item() - mean) < 1e-9
        assert abs(post.var.item() - (p * (grid - mean) ** 2).sum()) < 1e-9


@pytest.mark.parametrize("name", [*LAWS, "points"])
def test_the_two_ends_of_time(name: str) -> None:
    law = empirical(rand(9, 6)) if name == "points" else LAWS[name]((6,))
    den = law.denoiser(RectifiedFlow())
    x = rand(4, 6, seed=7).requires_grad_()
    for t in (0.0, torch.zeros(4), torch.zeros(4, 6)):
        post = den(x, t)
        assert torch.equal(post.mean, x) and torch.equal(post.var, torch.zeros_like(x))
    post = den(x, 1.0)
    assert torch.allclose(post.mean, law.mean.expand_as(x), atol=1e-12)
    assert torch.allclose(post.var, law.cov.diagonal().expand_as(x), atol=1e-12)
    mixed = torch.tensor([0.0, 0.0, 0.3, 0.3, 1.0, 1.0]).expand(4, 6)
    if name != "points":
        assert torch.allclose(den(x, mixed).mean[:, :2], x[:, :2], atol=1e-12)
    for t in (0.0, 1.0, mixed):
        assert torch.autograd.grad(den(x, t).mean.sum(), x)[0].isfinite().all()


def test_points_are_a_softmax_over_the_data() -> None:
    data, x = rand(30, 2, 3, seed=8), rand(5, 2, 3, seed=9)
    a, _, s = VP().at(0.2)
    w = (-(x[:, None] - a * data).square().flatten(2).sum(2) / (2 * s * s)).softmax(1)
    post = empirical(data).denoiser(VP())(x, 0.2)
    mean = torch.einsum("bk,kij->bij", w, data)
    assert torch.allclose(post.mean, mean, atol=1e-12)
    assert torch.allclose(post.var, torch.einsum("bk,kij->bij", w, data**2) - mean**2, atol=1e-12)


def test_pieces_of_a_batch_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    den, x, t = LAWS["mixture"]((6,)).denoiser(VP()), rand(7, 6), torch.rand(7, dtype=torch.float64)
    whole = [(p.mean, p.var) for p in (den(x, 0.3), den(x, t))]
    monkeypatch.setattr("oneprior.exact.mixture.CHUNK", 2 * K * D)
    for (mean, var), time in zip(whole, (0.3, t), strict=True):
        post = den(x, time)
        assert torch.allclose(post.mean, mean, atol=1e-13) and torch.allclose(post.var, var, atol=1e-13)


def test_the_anchor_shifts_and_nothing_else() -> None:
    law, schedule = LAWS["mixture"]((6,)), ResShift()
    x, y = rand(4, 6), rand(4, 6, seed=10)
    for t in (0.5, torch.rand(4, 6).double()):
        a, b, s = schedule.at(t)
        moved = brute(law, schedule, x - b * y, t)
        post = law.denoiser(schedule)(x, t, y=y)
        assert torch.allclose(post.mean, moved[0], atol=1e-10) and torch.allclose(post.var, moved[1], atol=1e-10)
        assert torch.allclose(post.eps, (x - a * post.mean - b * y) / s)


def test_labels_choose_components() -> None:
    law = Mixture(W, M, C, labels=[0, 1, 1])
    den, x = law.denoiser(VP()), rand(3, 6)
    assert den.facts.null == {"label": 2}
    each = [den, Gaussian(M[0], C[0]).denoiser(VP()), Mixture(W[1:], M[1:], C[1:]).denoiser(VP())]
    label = torch.tensor([2, 0, 1])
    post, logp = den(x, 0.4, label=label), den.log_prob(x, 0.4, label=label)
    for i, own in enumerate(each):
        assert torch.allclose(post.mean[i], own(x, 0.4).mean[i], atol=1e-12)
        assert torch.allclose(post.var[i], own(x, 0.4).var[i], atol=1e-12)
        assert torch.allclose(logp[i], own.log_prob(x, 0.4)[i], atol=1e-12)
    some = empirical(rand(8, 6), 0.2, labels=[0, 1] * 4)
    alone = empirical(rand(8, 6)[1::2], 0.2).denoiser(VP())
    assert torch.allclose(some.denoiser(VP())(x, 0.4, label=torch.ones(3).long()).mean, alone(x, 0.4).mean, atol=1e-12)
    with pytest.raises(ValueError, match="0 to 1, 2 for none"):
        den(x, 0.4, label=torch.tensor([0, 1, 3]))
    with pytest.raises(ValueError, match="labels="):
        each[1](x, 0.4, label=label)


@pytest.mark.parametrize("name", LAWS)
def test_density_moments_and_samples(name: str) -> None:
    law = LAWS[name]((2, 3))
    w, m, c = dense(law)
    both = MixtureSameFamily(Categorical(w), MultivariateNormal(m, c))
    x = rand(5, 2, 3)
    assert torch.allclose(law.log_prob(x), both.log_prob(x.flatten(1)), atol=1e-9)
    n = 20000
    got = law.sample(n, seeds=range(n)).flatten(1)
    sd = law.cov.diagonal().sqrt()
    assert ((got.mean(0) - law.mean.flatten()).abs() < 4.5 * sd / math.sqrt(n)).all()
    # |cov error| of an element: its standard error is at most sqrt(kurtosis) sd sd / sqrt(n), and kurtosis < 4 here
    assert ((got.mT.cov() - law.cov).abs() < 4.5 * 2 * sd[:, None] * sd / math.sqrt(n)).all()
    assert torch.equal(law.sample(3, seeds=[5, 6, 7])[1:], law.sample(2, seeds=[6, 7]))
    by = [law.sample(4, generator=torch.Generator().manual_seed(0)) for _ in range(2)]
    assert torch.equal(*by) and law.sample(2).shape == (2, 2, 3)


def test_a_law_without_density_says_so() -> None:
    for law in (empirical(rand(4, 6)), low_rank_mixture([1.0], M[:1], rand(1, D, 2), 0.0)):
        with pytest.raises(ValueError, match="singular"):
            law.log_prob(rand(2, 6))
        assert law.at(VP(), 0.5).log_prob(rand(2, 6)).isfinite().all()


@pytest.mark.parametrize("name", LAWS)
def test_law_of_x_t(name: str) -> None:
    law, x = LAWS[name]((2, 3)), rand(4, 2, 3)
    for t in (0.3, torch.rand(1, 2).double(), torch.rand(1, 2, 3).double()):
        assert torch.allclose(law.at(VP(), t).log_prob(x), law.denoiser(VP()).log_prob(x, t), atol=1e-8)
    y = rand(2, 3)
    shifted = law.at(ResShift(), 0.5, y).log_prob(x)
    assert torch.allclose(shifted, law.denoiser(ResShift()).log_prob(x, 0.5, y=y.expand_as(x)), atol=1e-9)


def test_posterior_under_a_measurement() -> None:
    A, sd = rand(4, D, seed=11), 0.3
    y = rand(4, seed=12)

    def operator(x: Tensor) -> Tensor:
        return x.flatten(1) @ A.mT

    post = Gaussian(M[0].reshape(2, 3), C[0]).condition(operator, y, sd)
    cov = torch.linalg.inv(torch.linalg.inv(C[0]) + A.mT @ A / sd**2)  # the information form
    mean = cov @ (torch.linalg.solve(C[0], M[0]) + A.mT @ y / sd**2)
    assert torch.allclose(post.mean.flatten(), mean, atol=1e-10) and torch.allclose(post.cov, cov, atol=1e-10)
    assert isinstance(post, Gaussian)

    each = torch.tensor([0.1, 0.5, 0.2, 0.3], dtype=torch.float64)
    affine = Mixture(W, M, C).condition(lambda x: operator(x) + 1.0, y + 1.0, each)
    evidence = W.log() + MultivariateNormal(M @ A.mT, A @ C @ A.mT + torch.diag(each**2)).log_prob(y)
    assert torch.allclose(affine.log_weights, evidence.log_softmax(0), atol=1e-10)
    for k in range(K):
        alone = Gaussian(M[k], C[k]).condition(operator, y[None], each)
        assert torch.allclose(affine.means[k], alone.mean, atol=1e-10)
    with pytest.raises(ValueError, match=r"\(3,\).*4"):
        Gaussian(M[0], C[0]).condition(operator, y[:3], sd)


def test_measurement_without_noise_of_a_singular_law() -> None:
    law = low_rank_mixture([1.0], M[:1], rand(1, D, 2, seed=3), 0.0)
    truth = law.sample(1, seeds=[0])
    post = law.condition(lambda x: x[:, :4], truth[:, :4], 0.0)  # two directions, four numbers: all is known
    assert torch.allclose(post.mean, truth[0], atol=1e-8) and post.cov.abs().max() < 1e-8
    again = post.condition(lambda x: x[:, :4], truth[:, :4], 0.1)
    assert torch.allclose(again.mean, truth[0], atol=1e-8)


@pytest.mark.parametrize("schedule", [VP(), VE(), RectifiedFlow(), ResShift()], ids=lambda s: type(s).__name__)
def test_end_of_the_ode(schedule: Schedule) -> None:
    law = Gaussian(M[0].reshape(2, 3), C[0])
    x0, y = rand(3, 2, 3), rand(3, 2, 3, seed=13)
    anchored = {"y": y} if isinstance(schedule, ResShift) else {}
    den = law.denoiser(schedule)
    t, s, n = 0.9, 0.3, 60
    x, h = x0, (s - t) / n
    for i in range(n):
        u = t + i * h
        k1 = den(x, u, **anchored).velocity
        k2 = den(x + h / 2 * k1, u + h / 2, **anchored).velocity
        k3 = den(x + h / 2 * k2, u + h / 2, **anchored).velocity
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + den(x + h * k3, u + h, **anchored).velocity)
    end = law.ode_end(schedule, x0, t, s, **anchored)
    assert torch.allclose(end, x, atol=1e-5 * x.abs().max().item())
    assert torch.allclose(law.ode_end(schedule, end, s, t, **anchored), x0, atol=1e-9)


def test_types_and_refusals() -> None:
    den = LAWS["gaussian"]((6,)).denoiser(VP())
    post = den(rand(2, 6).float(), torch.rand(2))
    assert post.mean.dtype == post.var.dtype == torch.float32
    single = ExactDenoiser(LAWS["mixture"]((6,)).to(torch.float32), VP())
    double = LAWS["mixture"]((6,)).denoiser(VP())
    assert torch.allclose(single(rand(2, 6), 0.5).mean, double(rand(2, 6), 0.5).mean, atol=1e-5)
    for bad, match in (
        (lambda: Mixture([1.0, -1.0], M[:2], 1.0), "positive"),
        (lambda: Mixture([1.0], M[:2], 1.0), r"\(1,\).*\(2, 6\)"),
        (lambda: Mixture(W, M, torch.ones(3, 5)), r"\(3, 5\)"),
        (lambda: Mixture(W, M, C + torch.triu(C)), "symmetric"),
        (lambda: Gaussian(M[0], -1.0), "negative"),
        (lambda: Gaussian(M[0], C[0] - torch.eye(D)), "negative"),
        (lambda: Mixture(W, M, C, labels=[0, 1]), "labels"),
        (lambda: low_rank_mixture(W, M, rand(3, 5, 2), 0.1), "factors"),
        (lambda: empirical(rand(4, 6), -0.1), "bandwidth"),
    ):
        with pytest.raises(ValueError, match=match):
            bad()
