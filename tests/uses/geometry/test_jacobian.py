"""The Jacobian of a denoiser against matrices that are known: products, trace, asymmetry, singular vectors."""

from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import Simple, draw
from oneprior.denoiser import Denoiser, NetworkDenoiser
from oneprior.exact import Mixture
from oneprior.loading import load
from oneprior.nets import DiTConfig, MLPConfig, build
from oneprior.schedules import Cosine
from oneprior.uses.geometry import FORMS, Jacobian, Potential, conservativity, divergence, numerical_rank, top_svd

M = draw(10, 10, seed=3)


def linear(M: Tensor) -> Denoiser:
    return Simple(lambda x, t: (x.flatten(1) @ M.mT.to(x)).reshape(x.shape), Cosine())


def test_products_and_trace() -> None:
    x, v = draw(3, 2, 5), draw(3, 2, 5, seed=1)
    J = Jacobian(linear(M), x, 0.5)
    assert torch.allclose(J.forward(v).flatten(1), v.flatten(1) @ M.mT)
    assert torch.allclose(J.adjoint(v).flatten(1), v.flatten(1) @ M)
    assert torch.allclose(J.dense(), M.expand(3, 10, 10))
    assert torch.allclose(divergence(linear(M), x, 0.5), M.trace().expand(3))
    rows = torch.zeros(2, 5)
    rows[1] = 1
    masked = Jacobian(linear(M), x, 0.5, rows=rows).dense()
    assert torch.equal(masked[:, :5], torch.zeros(3, 5, 10, dtype=x.dtype)) and torch.allclose(masked[0, 5:], M[5:])


def test_hutchinson_within_its_error() -> None:
    many = draw(1, 10).expand(4000, 10)
    drawn = divergence(linear(M), many, 0.5, count=1)
    S = (M + M.mT) / 2
    std = (2 * (S.square().sum() - S.diagonal().square().sum())).sqrt()  # of v^T M v for signs
    assert abs(drawn.mean() - M.trace()) < 4 * std / 4000**0.5
    assert drawn.std() == pytest.approx(float(std), rel=0.05)
    with pytest.raises(ValueError, match="0 probes"):
        divergence(linear(M), many, 0.5, count=0)


def test_conservativity_of_known_maps() -> None:
    """Card: 4,000 probes within 3 % of the exact number; 0 for symmetric maps, 1 for antisymmetric ones."""
    exact = float((M - M.mT).square().sum() / (4 * M.square().sum()))
    found = conservativity(linear(M), draw(40, 10), 0.5, count=100)
    assert abs(found.x.mean() - exact) < 0.03 * exact
    assert found.stderr.mean() == pytest.approx(float(found.x.std()), rel=0.4)  # 40 draws: 1/sqrt(80) each
    assert conservativity(linear(M + M.mT), draw(1, 10), 0.5).x.item() < 1e-20
    assert conservativity(linear(M - M.mT), draw(1, 10), 0.5).x.item() == pytest.approx(1, abs=1e-12)
    assert conservativity(linear(0 * M), draw(1, 10), 0.5).x.item() == 0
    with pytest.raises(ValueError, match="at least two probes"):
        conservativity(linear(M), draw(1, 10), 0.5, count=1)


@pytest.mark.parametrize("form", FORMS)
def test_a_potential_is_a_gradient(form: str) -> None:
    """Card: below 1e-10 for any weights; an unconstrained network of the same weights is none."""
    net = build(MLPConfig((6,), width=32, depth=2), seed=0).double()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.3 * draw(*p.shape, seed=p.numel()))
    x = draw(4, 6)
    den = NetworkDenoiser(Potential(net, form), Cosine())
    assert conservativity(den, x, 0.5, count=8).x.max() < 1e-10
    assert conservativity(NetworkDenoiser(net, Cosine()), x, 0.5, count=8).x.min() > 1e-3
    den.net(x, torch.full((4,), 0.5)).square().sum().backward()  # it can be trained
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())


def test_form_that_is_not_known() -> None:
    with pytest.raises(ValueError, match="form 'norm3' is not known"):
        Potential(torch.nn.Identity(), "norm3")


def test_top_singular_vectors() -> None:
    x = draw(2, 2, 5)
    s, V, U = top_svd(J := Jacobian(linear(M), x, 0.5), 3, iterations=60, tol=0.0)
    exact = torch.linalg.svd(M)
    assert torch.allclose(s, exact.S[:3].expand(2, 3), rtol=1e-6)
    assert (V.flatten(2) @ exact.Vh[:3].mT).abs().diagonal(dim1=1, dim2=2).min() > 1 - 1e-6
    assert torch.allclose(J.forward(V[:, 0]), s[:, 0, None, None] * U[:, 0])
    assert top_svd(J, 10).V.shape == (2, 10, 2, 5)
    with pytest.raises(ValueError, match="k = 11"):
        top_svd(J, 11)


def test_rank() -> None:
    s = torch.tensor([[3.0, 1.0, 0.1, 0.0], [1.0, 1.0, 1.0, 1.0]])
    assert numerical_rank(s).tolist() == [2, 4]


def networks() -> dict[str, Any]:
    dit = build(DiTConfig((1, 8, 8), patch=4, width=24, depth=1, heads=2), seed=0)
    return {"unet": load("digits").den, "dit": NetworkDenoiser(dit, Cosine())}


@pytest.mark.parametrize("name", ["unet", "dit"])
def test_networks(name: str) -> None:
    """J v of forward mode is that of finite differences, through attention and groups; J^T is its transpose."""
    den = networks()[name].double()
    with torch.no_grad():
        for p in den.parameters():
            p.add_(0.02 * draw(*p.shape, seed=p.numel()))
    x, v, w = (draw(2, 1, 8, 8, seed=i) for i in range(3))
    J, h = Jacobian(den, x, 0.5), 1e-5
    with torch.no_grad():
        slope = (den(x + h * v, 0.5).mean - den(x - h * v, 0.5).mean) / (2 * h)
    assert torch.allclose(J.forward(v), slope, atol=1e-6)
    left, right = (w * J.forward(v)).flatten(1).sum(1), (v * J.adjoint(w)).flatten(1).sum(1)
    assert torch.allclose(left, right) and left.abs().min() > 1e-3


def test_trained_digits_are_neither_conservative_nor_not() -> None:
    """Card: 0.005 to 0.3 at t = 0.5, and an untrained network of random weights more asymmetric."""
    den: Any = load("digits").den
    x = draw(2, 1, 8, 8, dtype=torch.float32)
    trained = conservativity(den, x, 0.5, count=6).x.mean()
    wild: Any = NetworkDenoiser(build(den.net.config, seed=0), den.schedule, den.prediction).eval()
    torch.nn.init.normal_(wild.net.out.weight, std=0.05, generator=torch.Generator().manual_seed(0))
    for k, p in enumerate(p for n, p in wild.named_parameters() if "conv2.weight" in n):
        torch.nn.init.normal_(p, std=0.05, generator=torch.Generator().manual_seed(k))
    assert 0.005 < trained < 0.3 and conservativity(wild, x, 0.5, count=6).x.mean() > trained


def test_an_exact_denoiser_is_a_gradient() -> None:
    den = Mixture([0.5, 0.5], draw(2, 6), 0.3).denoiser(Cosine())
    x = draw(3, 6)
    assert conservativity(den, x, 0.4, count=4).x.max() < 1e-20
    a, _, s = Cosine().at(0.4)
    assert torch.allclose(divergence(den, x, 0.4), a / s**2 * den(x, 0.4).var.sum(1))  # Tweedie's second formula
