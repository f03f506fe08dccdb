"""Every closed form in O(V) against products of V x V matrices written out, and the numbers of the papers' cards."""

import itertools

import pytest
import torch
from torch import Tensor

from oneprior import schedules, tokens
from oneprior.tokens import Absorbing, Hybrid, Marginal, MaskReplace, Shares, Uniform

CORRUPTIONS: dict[str, Shares] = {
    "absorbing": Absorbing(5),
    "absorbing, cosine": Absorbing(5, tokens.Cosine()),
    "uniform": Uniform(5),
    "uniform, cosine amplitude": Uniform(5, tokens.Amplitude(schedules.Cosine())),
    "marginal": Marginal(5, tokens.Power(2.0), (1.0, 2.0, 3.0, 4.0, 0.5)),
    "hybrid": Hybrid(5, 0.2),
    "mask-and-replace": MaskReplace(5),
    "mask-and-replace, memoryless": MaskReplace(5, stay=False),
}
EVERY = pytest.mark.parametrize("corruption", CORRUPTIONS.values(), ids=CORRUPTIONS)
ALL = torch.arange(5)[None]  # one sequence that holds every symbol


def close(a: Tensor, b: Tensor, tol: float = 1e-12) -> None:
    torch.testing.assert_close(a, b, atol=tol, rtol=0)


def step(corruption: Shares, t: float, s: float) -> Tensor:
    """The matrix q(x_t = column | x_s = row)."""
    return corruption.forward(ALL, t, s)[0].T


@EVERY
def test_steps_multiply_to_the_marginals(corruption: Shares) -> None:
    times = [0.0, 0.1, 0.25, 0.55, 0.9]
    total = torch.eye(5, dtype=torch.float64)
    for s, t in itertools.pairwise(times):
        one = step(corruption, t, s)
        assert one.min() >= 0
        close(one.sum(1), torch.ones(5, dtype=torch.float64))
        total = total @ one
        data = slice(None) if corruption.mask is None else slice(0, 4)
        close(total[data], corruption.q(ALL, t)[0][data])
        close(corruption.likelihood(ALL, t)[0].T[data], total[data])
    close(step(corruption, 0.55, 0.1) @ step(corruption, 0.9, 0.55), step(corruption, 0.9, 0.1))


@EVERY
def test_reverse_step_is_bayes_rule(corruption: Shares) -> None:
    K = 5 if corruption.mask is None else 4
    p = torch.rand(1, 5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    t, s = 0.7, 0.3
    p = p * (corruption.likelihood(ALL, t) > 0)  # what a denoiser may believe of x_0 given x_t
    p = p / p.sum(-1, keepdim=True)
    first, second = corruption.q(ALL, s)[0], step(corruption, t, s)
    want = torch.zeros(5, 5, dtype=torch.float64)
    for z in range(5):
        for j in range(K):
            joint = first[j] * second[:, z]
            if joint.sum() > 0:
                want[z] += p[0, z, j] * joint / joint.sum()
                close(corruption.bridge(torch.tensor([[j]]), torch.tensor([[z]]), t, s)[0, 0], joint / joint.sum())
    close(corruption.reverse(p, ALL, t, s)[0], want)
    close(corruption.reverse(p, ALL, t, 0.0), p)  # at time 0 the step law is the posterior itself
    close(corruption.reverse(p, ALL, t, t), torch.eye(5, dtype=torch.float64)[None])  # a rest does not move


@EVERY
def test_conversions_return(corruption: Shares) -> None:
    p = torch.rand(1, 5, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    p = p * (corruption.likelihood(ALL, 0.6) > 0)
    p = p / p.sum(-1, keepdim=True)
    l = corruption.to_loo(p, ALL, 0.6)  # noqa: E741
    close(corruption.from_loo(l, ALL, 0.6), p)
    a, c, m = corruption.at(0.6, ALL)
    marginal = a * l + corruption.mass(c, m)
    close(corruption.score(p, ALL, 0.6), marginal / marginal.gather(-1, ALL[..., None]))


@EVERY
def test_rates_are_the_slope_of_a_step(corruption: Shares) -> None:
    h, t = 1e-6, 0.4
    q = (step(corruption, t + h, t) - torch.eye(5, dtype=torch.float64)) / h
    want = q - torch.diag(q.diagonal())
    close(corruption.rates(ALL, t)[0].T, want, 2e-5)  # O(h) with slopes of at most 20


@EVERY
def test_corrupt_draws_the_marginal(corruption: Shares) -> None:
    """The uniform numbers run over a fine grid, so the frequencies are the law to the width of a cell."""
    n = 10000
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    x0 = torch.full((1, n), 2)
    x = corruption.corrupt(x0, 0.6, u[None])
    close(torch.bincount(x[0], minlength=5) / n, corruption.q(x0[:, :1], 0.6)[0, 0].float(), 2 / n)
    assert torch.equal(corruption.corrupt(x0, 0.0, u[None]), x0)


@EVERY
def test_time_a_token(corruption: Shares) -> None:
    t = torch.tensor([[0.0, 0.2, 0.5, 0.7, 0.9]], dtype=torch.float64)
    p = torch.full((1, 5, 5), 0.2, dtype=torch.float64)
    for name in ("likelihood", "q"):
        one_by_one = [getattr(corruption, name)(ALL[:, i : i + 1], t[0, i].item()) for i in range(5)]
        close(getattr(corruption, name)(ALL, t), torch.cat(one_by_one, 1))
    one_by_one = [corruption.reverse(p[:, :1], ALL[:, i : i + 1], t[0, i].item(), t[0, i].item() / 2) for i in range(5)]
    close(corruption.reverse(p, ALL, t, t / 2), torch.cat(one_by_one, 1))


def test_the_two_conventions_differ() -> None:
    """V = 3, alpha .8 -> .4, p = (.5, .3, .2), z = 0: the exact step, and what plugging p in as l gives instead."""
    corruption, z = Uniform(3), torch.tensor([[0]])
    p = torch.tensor([[[0.5, 0.3, 0.2]]], dtype=torch.float64)
    exact = corruption.reverse(p, z, 0.6, 0.2)
    close(exact[0, 0], torch.tensor([16 / 27, 0.2370370370370, 0.1703703703704], dtype=torch.float64))
    close(corruption.to_loo(p, z, 0.6)[0, 0], torch.tensor([0.25, 0.45, 0.30], dtype=torch.float64))
    mixed = corruption.reverse(corruption.from_loo(p, z, 0.6), z, 0.6, 0.2)
    close(mixed[0, 0], torch.tensor([0.7778, 0.1278, 0.0944], dtype=torch.float64), 5e-5)


class Worked(MaskReplace):
    """The levels of VQ-Diffusion's worked example at two times."""

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        kept, masked = torch.where(t > 0.5, 0.3, 0.6).double(), torch.where(t > 0.5, 0.6, 0.3).double()
        return kept, 1 - kept - masked, masked


def test_vq_diffusion_worked_example() -> None:
    p = torch.tensor([0.8, 0.2, 0.0], dtype=torch.float64).expand(1, 3, 3)
    got = Worked(3).reverse(p, torch.arange(3)[None], 1.0, 0.25)[0]
    want = [[0.903061, 0.096939, 0], [0.372449, 0.627551, 0], [0.378571, 0.121429, 0.5]]
    close(got, torch.tensor(want, dtype=torch.float64), 1e-6)


@pytest.mark.parametrize("keep", [tokens.Linear(), tokens.Linear(1e-3), tokens.Power(2.0), tokens.Cosine()])
def test_keep_and_its_inverse(keep: tokens.Keep) -> None:
    t = torch.linspace(0, 1, 21, dtype=torch.float64)
    close(keep.time(keep.alpha(t)), t, 1e-7)  # the cosine is flat at one end
    close(tokens.Keep.time(keep, keep.alpha(t)), t, 1e-7)
    assert keep.alpha(t)[0] == 1


def test_hybrid_share_of_uniform_noise() -> None:
    assert Hybrid(9, 0.2).at(0.5, ALL)[1].item() == pytest.approx(0.2, abs=1e-12)


def test_frequencies_are_counted() -> None:
    with pytest.raises(ValueError, match="5 numbers"):
        Marginal(5, frequencies=(1.0, 2.0))
