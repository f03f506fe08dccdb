"""A chain given as matrices is the closed forms where there are any, and D3PM's ordinal noise behaves as published."""

import pytest
import torch
from token_laws import ancestral_law, distance, exact, joint, product, states
from torch import Tensor

from oneprior.tokens import (
    Absorbing,
    Ancestral,
    Corruption,
    Hybrid,
    MaskReplace,
    MatrixCorruption,
    TokenDenoiser,
    Uniform,
    bound,
    discretised_gaussian,
    finite_bound,
    prior_term,
)

T = 8
EVERY = torch.arange(4)[None]


def matrices(corruption: Corruption) -> MatrixCorruption:
    every = torch.arange(corruption.vocab)[None]
    steps = [corruption.forward(every, i / T, (i - 1) / T)[0].T for i in range(1, T + 1)]
    return MatrixCorruption(corruption.vocab, torch.stack(steps), corruption.mask is not None)


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


@pytest.mark.parametrize("corruption", [Absorbing(4), Uniform(4), Hybrid(4, 0.2), MaskReplace(4)], ids=repr)
def test_matrices_of_a_closed_form_are_it(corruption: Corruption) -> None:
    chain = matrices(corruption)
    x = torch.arange(chain.vocab - (chain.mask is not None))[None]
    each = torch.tensor([[0.125, 0.5, 0.75, 1.0]], dtype=torch.float64)
    later, p = torch.full((1, 4), 1.0), torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    p = p * (corruption.likelihood(EVERY, 0.5) > 0)
    close(chain.start(), corruption.start())
    for t in (0.125, 0.5, 0.875):
        close(chain.q(x, t), corruption.q(x, t))
        close(chain.likelihood(EVERY, t), corruption.likelihood(EVERY, t))
    close(chain.likelihood(EVERY, each), corruption.likelihood(EVERY, each))
    close(chain.push(p, each), corruption.push(p, each))
    for t, s in ((0.5, 0.375), (0.75, 0.125), (0.5, 0.0), (0.5, 0.5)):
        close(chain.forward(EVERY, t, s), corruption.forward(EVERY, t, s))
        close(chain.reverse(p, EVERY, t, s), corruption.reverse(p, EVERY, t, s))
    close(chain.forward(EVERY, later, each), corruption.forward(EVERY, later, each))
    u = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    drawn = torch.bincount(chain.corrupt(torch.full((1, 4000), 1), 0.5, u[None])[0], minlength=4) / 4000
    torch.testing.assert_close(drawn.double(), corruption.q(torch.tensor([[1]]), 0.5)[0, 0], atol=1e-3, rtol=0)


def test_ordinal_noise_moves_to_near_symbols_and_ends_uniform() -> None:
    Q = discretised_gaussian(9, 20, 0.005, 1.0)
    assert Q.min() >= 0
    close(Q.sum(-1), torch.ones(20, 9, dtype=torch.float64))
    close(Q, Q.mT)
    k = torch.arange(9, dtype=torch.float64)
    weigh = torch.exp(-4 * (k[:, None] - k) ** 2 / (64 * 0.005))
    every = torch.exp(-4 * torch.arange(-8, 9, dtype=torch.float64) ** 2 / (64 * 0.005)).sum()
    close(Q[0] - torch.diag(Q[0].diagonal()), (weigh / every) * (1 - torch.eye(9, dtype=torch.float64)))
    assert (Q[5, 4, 5:].diff() < 0).all()  # the farther the rarer
    chain = MatrixCorruption(9, Q)
    assert (chain.q(torch.tensor([[0]]), 1.0) - 1 / 9).abs().max() < 0.01


def test_the_exact_chain_converges_and_its_bound_holds() -> None:
    """Every step of the chain is nearer the law than strides of it; finite_bound and prior term are above -log p."""
    law, chain = joint(3, 2, concentration=1.0), MatrixCorruption(3, discretised_gaussian(3, 32, 0.3, 3.0))
    den = exact(law, chain)
    far, near = (distance(ancestral_law(den, 2, [1 - i / n for i in range(n + 1)]), law) for n in (4, 32))
    assert near < far / 6  # as one over the steps: 1 / 8
    z, model = states(3, 2), ancestral_law(den, 2, [1 - i / 32 for i in range(33)])
    mean = 0.0
    for x0, share in zip(z, law.table.flatten(), strict=True):
        nats = prior_term(chain, x0[None]).item()
        for i in range(1, 33):
            p = product(chain.q(x0[None], i / 32), z)[0]
            nats += (p * finite_bound(den, x0.expand(len(z), -1), i, 32, z)).sum().item() / 32
        assert nats >= -model[tuple(x0)].log().item() - 1e-9  # of what the chain of 32 steps draws
        mean += share.item() * nats
    entropy = torch.special.entr(law.table).sum().item()
    assert entropy <= mean < entropy + 0.1
    x = Ancestral(32)(den, (50, 2), seeds=range(50))
    assert x.shape == (50, 2) and int(x.max()) <= 2


def test_what_is_refused() -> None:
    Q = discretised_gaussian(4, 8)
    chain = MatrixCorruption(4, Q)
    assert chain != MatrixCorruption(4, Q) and chain == chain
    for steps in (Q[0], Q[:, :3], Q * 2):
        with pytest.raises(ValueError, match="expected"):
            MatrixCorruption(4, steps)
    with pytest.raises(ValueError, match="times i / 8"):
        chain.q(EVERY, 0.3)
    den = TokenDenoiser(joint(4, 2).net(chain), chain)
    with pytest.raises(ValueError, match="finite_bound with 8 steps"):
        bound(den, torch.tensor([[0, 1]]), 0.5, torch.tensor([[0, 1]]))
