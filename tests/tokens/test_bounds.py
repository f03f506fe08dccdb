"""Bounds by enumeration of x_t and quadrature in t: with the exact denoiser they are -log p, else they agree."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from token_laws import exact, joint, product, states
from torch import Tensor, nn

from oneprior import tokens
from oneprior.tokens import Absorbing, Corruption, Hybrid, MaskReplace, TokenDenoiser, Uniform
from oneprior.tokens import bound as continuous

CORRUPTIONS: dict[str, Corruption] = {
    "absorbing": Absorbing(4),
    "absorbing, cosine": Absorbing(4, tokens.Cosine()),
    "uniform": Uniform(3),
    "hybrid": Hybrid(4, 0.2),
    "hybrid, smooth": Hybrid(4, 0.2, 2.0),
    "mask-and-replace": MaskReplace(4),
    "mask-and-replace, memoryless": MaskReplace(4, stay=False),
}
EVERY = pytest.mark.parametrize("corruption", CORRUPTIONS.values(), ids=CORRUPTIONS)
X0 = torch.tensor([[0, 2]])


class Fixed(nn.Module):
    """A network like any other: fixed random logits for each pair of tokens and a slope in t."""

    def __init__(self, vocab: int) -> None:
        super().__init__()
        made = np.random.default_rng(3).normal(size=(2, vocab, vocab, 2, vocab))
        self.table = torch.from_numpy(made)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        level, slope = self.table[:, x[:, 0], x[:, 1]]
        return level + 0.3 * slope * t[:, None, None]


def mean(corruption: Corruption, t: float, value: Callable[[Tensor], Tensor]) -> float:
    """E over z ~ q(x_t | x_0) of value(z), by enumeration."""
    z = states(corruption.vocab, 2)
    weight = product(corruption.q(X0, t), z)[0]
    z, weight = z[weight > 0], weight[weight > 0]
    return (weight * value(z)).sum().item()


def integral(den: TokenDenoiser, nodes: int = 96) -> float:
    """Gauss-Legendre in a time u with t = sin^2(pi u / 2), which smooths the square roots of the ends."""
    x, w = np.polynomial.legendre.leggauss(nodes)
    u = (x + 1) / 2
    t, dt = np.sin(np.pi / 2 * u) ** 2, np.pi / 2 * np.sin(np.pi * u) * w / 2
    c = den.corruption
    total = sum(
        b * mean(c, a, lambda z, a=a: continuous(den, X0.expand(len(z), -1), a, z)) for a, b in zip(t, dt, strict=True)
    )
    return total


@EVERY
def test_exact_denoiser_attains_the_bound(corruption: Corruption) -> None:
    law = joint(3, 2, concentration=1.0)
    nats = integral(exact(law, corruption)) + tokens.prior_term(corruption, X0).item()
    assert nats == pytest.approx(-law.log_prob(X0).item(), abs=1e-4)


# the levels of gamma = 1 start as sqrt(t), and a chain of T steps then converges slower than 1/T
@pytest.mark.parametrize("corruption", [c for n, c in CORRUPTIONS.items() if n != "hybrid"], ids=lambda c: repr(c))
def test_finite_steps_approach_the_bound(corruption: Corruption) -> None:
    """A fixed random network: |finite - continuous| falls as 1/T, so twice the finer minus the coarser is the limit.

    Its convention is loo: a fixed full posterior, doubting tokens at t -> 0 that no noise has met, costs infinitely.
    """
    den = TokenDenoiser(Fixed(corruption.vocab), corruption, "loo")

    def finite(steps: int) -> float:
        def nats(i: int) -> float:
            t = i / steps
            return mean(corruption, t, lambda z: tokens.finite_bound(den, X0.expand(len(z), -1), i, steps, z))

        return sum(map(nats, range(1, steps + 1))) / steps

    a, b, want = finite(64), finite(128), integral(den)
    assert 2 * b - a == pytest.approx(want, abs=2e-4)


def test_schedule_free_form() -> None:
    """A network without time: the mean over masked subsets is the integral under every schedule."""
    den = TokenDenoiser(Timeless(4), Absorbing(4), timed=False)
    z = torch.tensor([[3, 2], [0, 3], [3, 3]])  # n = 1 twice, n = 2 once
    nats = (tokens.masked_bound(den, X0.expand(3, -1), z) * torch.tensor([0.25, 0.25, 0.5])).sum().item()
    for keep in (tokens.Linear(), tokens.Cosine(), tokens.Power(2.0)):
        other = TokenDenoiser(Timeless(4), Absorbing(4, keep), timed=False)
        assert integral(other) == pytest.approx(nats, abs=1e-6)
    with pytest.raises(ValueError, match="masked token"):
        tokens.masked_bound(den, X0, X0)


class Timeless(Fixed):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, torch.zeros(len(x)))


@pytest.mark.parametrize("name", ["uniform", "hybrid", "mask-and-replace, memoryless", "absorbing"])
def test_collapsed_form_is_the_bound(name: str) -> None:
    """`dynamic` with the weight g / q, for each z whose two tokens are of two kinds, is the integrand of the bound."""
    corruption, t, seen = CORRUPTIONS[name], 0.4, 0
    den = TokenDenoiser(Fixed(corruption.vocab), corruption)
    for z in states(corruption.vocab, 2):
        q = corruption.q(X0, t).gather(-1, z[None, :, None])[0, :, 0]
        g = corruption.rates(z[None], t)[0].max(-1).values
        kept, masked = z == X0[0], z == (-1 if corruption.mask is None else corruption.mask)
        kinds = ["kept" if a else "masked" if b else "replaced" for a, b in zip(kept, masked, strict=True)]
        if kinds[0] == kinds[1] or (q <= 0).any():
            continue
        weights = {kind: (g / q)[i].item() for i, kind in enumerate(kinds)}
        want = continuous(den, X0, t, z[None]).item()
        assert tokens.dynamic(den, X0, t, z[None], **weights).item() == pytest.approx(want, abs=1e-12)
        seen += 1
    assert seen >= 2


def test_cross_entropy_and_gradients() -> None:
    """Losses reach the network with finite gradients, also where a symbol is impossible."""
    corruption = Absorbing(4)
    net = Learned(4)
    den = TokenDenoiser(net, corruption)
    z = torch.tensor([[3, 2]])
    for loss in (
        continuous(den, X0, 0.5, z),
        tokens.cross_entropy(den, X0, 0.5, z),
        tokens.dynamic(den, X0, 0.5, z),
        tokens.finite_bound(den, X0, 3, 8, z),
    ):
        (grad,) = torch.autograd.grad(loss.sum(), net.logits)
        assert grad.isfinite().all() and grad[0, :3].abs().sum() > 0 and (grad[1] == 0).all()
    assert tokens.cross_entropy(den, X0, 0.5, z).item() == pytest.approx(np.log(3), abs=1e-6)


class Learned(nn.Module):
    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(2, vocab))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1, -1)
