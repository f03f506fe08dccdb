"""The law of each sampler on joints that can be enumerated: exact ones within Monte-Carlo error, others measured."""

import math

import pytest
import torch
from token_laws import ancestral_law, distance, exact, frequencies, joint, product, states
from torch import Tensor, nn

from oneprior import tokens
from oneprior.denoiser import Facts
from oneprior.exact import TokenLaw
from oneprior.paths import Hold
from oneprior.tokens import (
    Absorbing,
    Ancestral,
    Confidence,
    Corruption,
    FirstHitting,
    Flow,
    Hybrid,
    Loop,
    MaskReplace,
    Remask,
    TauLeap,
    TokenDenoiser,
    TokenSampler,
    Uniform,
)
from oneprior.tokens.samplers import GRIDS

N = 10000


def spread(p: Tensor) -> float:
    """Five standard deviations above the mean of the total variation of N draws from p (McDiarmid's bound)."""
    return (0.5 * (2 * p * (1 - p) / (math.pi * N)).sqrt()).sum().item() + 5 * 0.5 / math.sqrt(N)


def measured(sampler: TokenSampler, den: TokenDenoiser, length: int) -> Tensor:
    return frequencies(sampler(den, (N, length), seeds=range(N)), den.corruption.vocab)


def tv(p: Tensor, q: Tensor) -> float:
    return 0.5 * (p - q).abs().sum().item()


def test_laws_of_the_chain_on_masks() -> None:
    """The grid's error by enumeration: .3145, .1715, .0457, .0116 for 2, 4, 16, 64 steps."""
    law = joint(3, 4)
    den = exact(law, Absorbing(4))
    for n, want in ((2, 0.3145), (4, 0.1715), (16, 0.0457), (64, 0.0116)):
        assert distance(ancestral_law(den, 4, tokens.even(n)), law) == pytest.approx(want, abs=1e-4)


def test_first_hitting_draws_the_data_law() -> None:
    law = joint(3, 4)
    den = exact(law, Absorbing(4, tokens.Cosine()))
    got = measured(FirstHitting(), den, 4)
    want = torch.zeros_like(got)
    want[:3, :3, :3, :3] = law.table
    assert tv(got, want) < spread(want)
    assert den.net.calls == 4
    assert tv(measured(FirstHitting(2), den, 4), want) > 0.1  # two tokens a call are independent: not this law
    assert den.net.calls == 6


CHAINS: dict[str, tuple[Corruption, Ancestral]] = {
    "absorbing": (Absorbing(4), Ancestral(4)),
    "absorbing, split": (Absorbing(4), Ancestral(4, "split")),
    "absorbing, cosine grid": (Absorbing(4), Ancestral(4, "split", grid="cosine")),
    "uniform": (Uniform(3), Ancestral(4)),
    "hybrid": (Hybrid(4, 0.2), Ancestral(4)),
    "mask-and-replace": (MaskReplace(4), Ancestral(4)),
}


@pytest.mark.parametrize("name", CHAINS)
def test_ancestral_is_its_chain(name: str) -> None:
    """Draws against the law of the chain of 4 steps, pushed through without drawing; the two draws are one law."""
    corruption, sampler = CHAINS[name]
    den = exact(joint(3, 3), corruption)
    want = ancestral_law(den, 3, GRIDS[sampler.grid](4))
    assert tv(measured(sampler, den, 3), want) < spread(want)


def test_tau_leaping_is_biased_less_with_steps() -> None:
    law = joint(3, 3)
    den = exact(law, Uniform(3))
    far, near = (distance(frequencies(TauLeap(n)(den, (4000, 3), seeds=range(4000)), 3), law) for n in (4, 32))
    noise = spread(law.table) * math.sqrt(N / 4000)
    assert far > 0.15 + noise  # the exact step laws have .220 and .031
    assert near < far / 3 + noise


def flow_law(den: TokenDenoiser, length: int, steps: int, corrector: float) -> Tensor:
    """The law of `Flow` by enumeration: x_0 ~ p, stay or jump there or be drawn anew from q_s(. | x_0)."""
    c, V = den.corruption, den.corruption.vocab
    assert isinstance(c, Absorbing | Uniform)
    x, now = states(V, length), product(c.start().expand(1, length, -1), states(V, length))[0]
    grid = tokens.even(steps)
    alpha = c.levels(torch.tensor(grid, dtype=torch.float64))[0].tolist()
    for i in range(steps):
        a_t, a_s, at = alpha[i], alpha[i + 1], now > 0
        u = (a_s - a_t) / (1 - a_t)
        v = 1 - ((1 - a_s) / a_s * a_t / (1 - a_t)) ** corrector
        p = den(x[at], grid[i]).exp()
        law = (1 - v) * (u * p + (1 - u) * torch.eye(V, dtype=torch.float64)[x[at]]) + v * c.push(p, grid[i + 1])
        now = now[at] @ product(law, x)
    return now.reshape((V,) * length)


def test_flow_matching() -> None:
    """With masks it is the ancestral chain; with replacement another one that has the law in the limit, corrected or
    not; and the sampler is that chain."""
    law = joint(3, 3)
    masks, replaced = exact(law, Absorbing(4)), exact(law, Uniform(3))
    same = flow_law(masks, 3, 4, 0.0)
    torch.testing.assert_close(same, ancestral_law(masks, 3, tokens.even(4)), atol=1e-9, rtol=0)
    for corrector in (0.0, 1.0):
        far, near = (distance(flow_law(replaced, 3, n, corrector), law) for n in (16, 64))
        assert near < far / 3  # as one over the steps: 1 / 4
    for den, corrector in ((masks, 0.0), (masks, 1.0), (replaced, 0.0), (replaced, 1.0)):
        want = flow_law(den, 3, 4, corrector)
        x = Flow(4, corrector=corrector)(den, (4000, 3), seeds=range(4000))
        assert tv(frequencies(x, den.corruption.vocab), want) < spread(want) * math.sqrt(N / 4000)
    with pytest.raises(ValueError, match="changes over time"):
        Flow()(exact(law, Hybrid(4)), (2, 3))


def test_confidence_orders() -> None:
    """With the exact denoiser one drawn token a call is the data law in any order; two a call or greedy are not."""
    law, n = joint(3, 4), 2000
    den = exact(law, Absorbing(4))
    noise = spread(law.table) * math.sqrt(N / n)
    for score in ("prob", "entropy", "margin"):
        one, two = (frequencies(Confidence(k, score)(den, (n, 4), seeds=range(n)), 4) for k in (4, 2))
        assert distance(one, law) < noise
        assert distance(two, law) > noise  # .25 to .29: draws of the law stay below `noise`
    one = Confidence(4, greedy=True)(den, (50, 4), seeds=range(50))
    assert (one == one[:1]).all()  # greedy: one sequence
    shares: list[float] = []
    den = TokenDenoiser(Watched(shares), Absorbing(4), timed=False)
    Confidence(4, threshold=0.0)(den, (2, 4), seeds=range(2))
    assert len(shares) == 1  # every token is above the threshold at once


def test_agreeing_pair() -> None:
    """AA or BB: P(mismatch) 0 by first hitting, 1 / 2N by N even steps, half of it all at once."""
    den = exact(TokenLaw(torch.eye(2)), Absorbing(3))
    cases: tuple[tuple[TokenSampler, float], ...] = (
        (FirstHitting(), 0.0),
        (FirstHitting(2), 0.5),
        (Ancestral(8, "split"), 1 / 16),
        (Ancestral(8, "split", "cosine"), 0.0769),
    )
    for sampler, want in cases:
        x = sampler(den, (N, 2), seeds=range(N))
        miss = (x[:, 0] != x[:, 1]).double().mean().item()
        assert abs(miss - want) <= 4 * math.sqrt(want * (1 - want) / N) + 1e-4 * (want > 0)


def test_remasking_keeps_the_marginals() -> None:
    """The share of masks is 1 - alpha_s within 4 standard errors at every step; sigma = 0 is ancestral bit for bit."""
    shares: list[float] = []
    den = TokenDenoiser(Watched(shares), Absorbing(4), timed=False)
    loop = Loop(level=0.75)
    for remask in (Remask(cap=0.2), Remask(scale=0.5), Remask(), Remask(unsure=True), Remask(cap=0.1, loop=loop)):
        shares.clear()
        Ancestral(8, "split", cache=False, remask=remask)(den, (500, 20), seeds=range(500))
        assert len(shares) == 8
        for got, t in zip(shares, tokens.even(8), strict=False):
            m = t if remask.loop is None else 1 - loop.alpha(t)  # the loop keeps those of its own alpha
            assert abs(got - m) <= 4 * math.sqrt(m * (1 - m) / 10000) + 1e-12
    plain, zero = (Ancestral(8, "split", remask=r)(den, (50, 20), seeds=range(50)) for r in (None, Remask(cap=0.0)))
    assert torch.equal(plain, zero)


class Watched(nn.Module):
    """No opinion; writes down the share of masks (symbol 3) it is shown."""

    def __init__(self, shares: list[float]) -> None:
        super().__init__()
        self.shares = shares

    def forward(self, x: Tensor) -> Tensor:
        self.shares.append((x == 3).double().mean().item())
        return torch.zeros(*x.shape, 4)


def test_cached_calls() -> None:
    """One sequence of L = 64 in N = 128 steps: N (1 - (1 - 1/N)^L) = 50.5 calls on average, tokens as without."""
    shares: list[float] = []
    den, n, m, L = TokenDenoiser(Watched(shares), Absorbing(4), timed=False), 20, 128, 64
    cached = torch.cat([Ancestral(m, "split")(den, (1, L), seeds=[i]) for i in range(n)])
    want = m * (1 - (1 - 1 / m) ** L)
    assert want == pytest.approx(50.5, abs=0.05)
    one, two = (1 - 1 / m) ** L, (1 - 2 / m) ** L  # chances that one step, that two of them reveal nothing
    sd = math.sqrt(m * one * (1 - one) + m * (m - 1) * (two - one**2))
    assert abs(len(shares) / n - want) < 4 * sd / math.sqrt(n)
    assert torch.equal(cached, Ancestral(m, "split", cache=False)(den, (n, L), seeds=range(n)))
    calls = len(shares)
    Ancestral(m)(den, (1, L), seeds=[0])
    assert len(shares) - calls < 0.7 * m  # the joint draw asks after a change, the split one before


@pytest.mark.parametrize(
    "sampler", [Ancestral(4), Ancestral(4, "split"), FirstHitting(), Confidence(3), TauLeap(4)], ids=lambda s: repr(s)
)
def test_sample_depends_on_its_seed_alone(sampler: TokenSampler) -> None:
    den = exact(joint(3, 4), Absorbing(4))
    whole = sampler(den, (6, 4), seeds=range(6))
    assert torch.equal(whole[[4, 1]], sampler(den, (2, 4), seeds=[4, 1]))
    assert (whole < 3).all()


@pytest.mark.parametrize("sampler", [Ancestral(64, "split"), FirstHitting(), Ancestral(64), Confidence(4)], ids=repr)
def test_a_prompt_is_kept_and_heeded(sampler: TokenSampler) -> None:
    """Holding the first of an agreeing pair: the second is the same, always, by absorbing."""
    den = exact(TokenLaw(torch.eye(2)), Absorbing(3))
    value = torch.tensor([[0, 2], [1, 2]]).repeat(200, 1)
    x = sampler(den, (400, 2), seeds=range(400), hold=Hold(value, torch.tensor([True, False])))
    assert torch.equal(x[:, 0], value[:, 0]) and torch.equal(x[:, 1], value[:, 0])


def test_a_prompt_under_replacement_needs_a_time_a_token() -> None:
    law, corruption = TokenLaw(torch.eye(2)), Uniform(2)
    hold = Hold(torch.tensor([0, 0]), torch.tensor([True, False]))
    with pytest.raises(ValueError, match="time_axes=0"):
        Ancestral(16)(exact(law, corruption), (4, 2), seeds=range(4), hold=hold)
    den = TokenDenoiser(law.net(corruption), corruption, facts=Facts(time_axes=1))
    for sampler in (Ancestral(16), TauLeap(16)):
        assert (sampler(den, (200, 2), seeds=range(200), hold=hold) == 0).all()


def test_what_is_refused() -> None:
    den = exact(joint(3, 2), Uniform(3))
    with pytest.raises(ValueError, match="absorbing"):
        FirstHitting()(den, (2, 2))
    with pytest.raises(ValueError, match="one seed a sample"):
        Ancestral()(den, (2, 2), seeds=[1])
    with pytest.raises(ValueError, match="split"):
        Ancestral(remask=Remask())(den, (2, 2))
    with pytest.raises(ValueError, match="time 0"):
        Ancestral()(den, (2, 2), hold=Hold(torch.zeros(2), time=0.5))
    for wrong in (Ancestral(0), Ancestral(grid="round"), TauLeap(-1)):
        with pytest.raises(ValueError, match="1 step or more"):
            wrong(den, (2, 2))
