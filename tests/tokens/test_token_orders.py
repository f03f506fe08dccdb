"""First hitting by enumeration and by its clocks, orders of confidence, blocks, and starts that are not noise."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from token_laws import ancestral_law, distance, exact, frequencies, joint
from torch import Tensor, nn

from oneprior import tokens
from oneprior.denoiser import Facts
from oneprior.exact import TokenLaw
from oneprior.paths import Hold
from oneprior.tokens import (
    Absorbing,
    Ancestral,
    Blocks,
    Coins,
    Confidence,
    FirstHitting,
    Hybrid,
    SelfCorrection,
    TokenDenoiser,
    Uniform,
)

TWO = FirstHitting(2), FirstHitting(2, extrapolate=True)
PAIR = TokenLaw(torch.eye(2))
FOUR = torch.zeros(2, 2, 2, 2)
FOUR[0, 0, 0, 0] = FOUR[1, 1, 1, 1] = 1
SAME = TokenLaw(FOUR)  # 0000 or 1111


def hitting_law(den: TokenDenoiser, length: int, per_call: int) -> Tensor:
    """The law over sequences of revealing `per_call` of the masked tokens at a time, chosen uniformly, by recursion."""
    V = den.corruption.vocab
    now = {(V - 1,) * length: 1.0}
    while any(V - 1 in x for x in now):
        x = torch.tensor(list(now))
        p = den(x, 0.5).exp().tolist()
        after: dict[tuple[int, ...], float] = {}
        for (state, mass), law in zip(now.items(), p, strict=True):
            masked = [i for i, v in enumerate(state) if v == V - 1]
            chosen = list(itertools.combinations(masked, min(per_call, len(masked))))
            for places in chosen:
                for values in itertools.product(range(V - 1), repeat=len(places)):
                    new, q = list(state), mass / len(chosen)
                    for i, v in zip(places, values, strict=True):
                        new[i], q = v, q * law[i][v]
                    after[tuple(new)] = after.get(tuple(new), 0.0) + q
        now = {x: q for x, q in after.items() if q > 0}
    out = torch.zeros((V,) * length, dtype=torch.float64)
    for x, q in now.items():
        out[x] = q
    return out


def test_one_token_a_call_is_the_data_law() -> None:
    """To 1e-12 by enumeration; two and four a call are not (0.24 and 0.53), whatever the order."""
    law = joint(3, 4)
    den = exact(law, Absorbing(4))
    assert distance(hitting_law(den, 4, 1), law) < 1e-12
    for k, want in ((2, 0.24), (4, 0.53)):
        assert distance(hitting_law(den, 4, k), law) == pytest.approx(want, abs=0.005)


def cells(x: Tensor, law: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Counts and expected counts over sequences, those expected fewer than five times as one cell."""
    want = (law.flatten() * len(x)).numpy()
    got = (frequencies(x, law.shape[0]).flatten() * len(x)).round().numpy()
    rare = want < 5
    if not want[rare].sum():
        assert not got[rare].sum()
        return got[~rare], want[~rare]
    return np.append(got[~rare], got[rare].sum()), np.append(want[~rare], want[rare].sum())


def test_first_hitting_is_the_limit_of_ancestral() -> None:
    """Chi-square of first hitting's draws against the enumerated chain of 512 steps; 8 steps are told apart."""
    law, n = joint(3, 3, concentration=1.0), 3000
    den = exact(law, Absorbing(4))
    x = FirstHitting()(den, (n, 3), seeds=range(n))
    p = [stats.chisquare(*cells(x, ancestral_law(den, 3, tokens.even(steps)))).pvalue for steps in (512, 8)]
    assert p[0] > 0.01 and p[1] < 1e-4


class Clocks(nn.Module):
    """No opinion on symbols; writes down the times it is asked at."""

    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.vocab, self.times = vocab, list[Tensor]()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.times.append(t)
        return torch.zeros(*x.shape, self.vocab)


@pytest.mark.parametrize("keep", [tokens.Linear(), tokens.Cosine(), tokens.Power(2.0)], ids=repr)
def test_event_times(keep: tokens.Keep) -> None:
    """1 - alpha at the first event is the largest of L uniform numbers: mean L / (L + 1), law h^L; L calls always."""
    L, n = 16, 2000
    net = Clocks(3)
    den = TokenDenoiser(net, Absorbing(3, keep))
    FirstHitting()(den, (n, L), seeds=range(n))
    assert len(net.times) == L
    h = 1 - keep.alpha(net.times[0])
    sd = math.sqrt(L / (L + 1) ** 2 / (L + 2))
    assert abs(h.mean().item() - L / (L + 1)) < 4 * sd / math.sqrt(n)
    assert stats.kstest((h**L).numpy(), "uniform").pvalue > 0.01
    last = 1 - keep.alpha(net.times[-1])
    assert stats.kstest((1 - (1 - last) ** L).numpy(), "uniform").pvalue > 0.01  # the smallest


class Rising(nn.Module):
    """P(symbol 0) = t, at every position."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        p = torch.stack([t, 1 - t, 0 * t], -1).double()
        return p.log()[:, None].expand(-1, x.shape[1], -1)


def test_extrapolation_is_exact_where_laws_are_linear_in_time() -> None:
    """Tokens of the second block of four are drawn as one a call draws them, except beyond the gap of two calls."""
    n = 400
    den = TokenDenoiser(Rising(), Absorbing(3))
    each, plain, better = (
        s(den, (n, 8), seeds=range(n)) for s in (FirstHitting(), FirstHitting(4), FirstHitting(4, True))
    )
    clocks = Coins(range(n))(1, "clock", (8,))
    h, order = clocks.sort(1, descending=True)
    near = (h[:, 4:5] - h[:, 4:] < h[:, :1] - h[:, 4:5] - 1e-9).scatter(1, torch.zeros(n, 1, dtype=torch.long), True)
    one, two, three = (v.gather(1, order)[:, 4:] for v in (each, plain, better))
    assert torch.equal(one[near], three[near]) and near.double().mean() > 0.7
    assert (one != two)[near].double().mean() > 0.05


def test_extrapolation_helps_where_it_is_not_exact() -> None:
    """Six tokens, two a call: total variation .139 plain and .094 extrapolated, at three calls each."""
    law, n = joint(2, 6), 4000
    den = exact(law, Absorbing(3))
    plain, better = (distance(frequencies(s(den, (n, 6), seeds=range(n)), 3), law) for s in TWO)
    assert den.net.calls == 6 and better < plain - 0.02


def test_a_corrected_block_of_two_is_exact() -> None:
    law, n = joint(3, 4), 3000
    den = exact(law, Absorbing(4))
    x = FirstHitting(2, correct=True)(den, (n, 4), seeds=range(n))
    want = torch.zeros(4, 4, 4, 4, dtype=torch.float64)
    want[:3, :3, :3, :3] = law.table
    assert stats.chisquare(*cells(x, want)).pvalue > 0.01
    assert den.net.calls == 4


class Sure(nn.Module):
    """Two positions with largest probabilities .9 and .6; what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shown = list[Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        self.shown.append(x)
        p = torch.tensor([[0.9, 0.1, 0.0], [0.6, 0.4, 0.0]], dtype=torch.float64)
        return p.log().expand(len(x), -1, -1)


def test_purity_draws_positions_in_proportion_and_sharpens_values() -> None:
    n = 4000
    net = Sure()
    den = TokenDenoiser(net, Absorbing(3), timed=False)
    x = Confidence(2, noise=1.0, sharpen=1.0)(den, (n, 2), seeds=range(n))
    first = (net.shown[1][:, 0] != 2).double().mean().item()
    assert abs(first - 0.6) < 4 * math.sqrt(0.24 / n)  # .9 / (.9 + .6)
    p = 0.81 / 0.82  # p^(1 + 1)
    assert abs((x[:, 0] == 0).double().mean().item() - p) < 4 * math.sqrt(p * (1 - p) / n)
    net.shown.clear()
    Confidence(2)(den, (50, 2), seeds=range(50))
    assert (net.shown[1][:, 0] != 2).all()  # without noise the surer is first
    net.shown.clear()
    Confidence(2, noise=4.5, anneal=True)(den, (50, 2), seeds=range(50))
    assert 0 < (net.shown[1][:, 0] != 2).sum() < 50


def test_rules_that_reveal_more_at_once() -> None:
    net = Sure()
    den = TokenDenoiser(net, Absorbing(3), timed=False)
    for sampler, calls in (
        (Confidence(2, factor=1.21), 1),  # .6 >= 1 - 1.21 / 3 and both go at once
        (Confidence(2, factor=1.19), 2),
        (Confidence(2, threshold=0.59), 1),
        (Confidence(2, threshold=0.61), 2),
    ):
        net.shown.clear()
        sampler(den, (3, 2), seeds=range(3))
        assert len(net.shown) == calls


class Padded(nn.Module):
    """The exact denoiser of a law, for sequences cut short: what is not there is masked."""

    def __init__(self, law: TokenLaw, corruption: Absorbing) -> None:
        super().__init__()
        self.net, self.length, self.mask, self.lengths = law.net(corruption), law.length, corruption.mask, list[int]()

    def forward(self, x: Tensor) -> Tensor:
        self.lengths.append(x.shape[1])
        assert self.mask is not None
        whole = nn.functional.pad(x, (0, self.length - x.shape[1]), value=self.mask)
        return self.net(whole, 0.5)[:, : x.shape[1]]


@pytest.mark.parametrize("ahead", [False, True])
def test_blocks_have_the_law_of_their_sampler(ahead: bool) -> None:
    law, n = joint(3, 4), 2500
    net = Padded(law, Absorbing(4))
    den = TokenDenoiser(net, Absorbing(4), timed=False)
    x = Blocks(2, FirstHitting(), ahead)(den, (n, 4), seeds=range(n))
    want = torch.zeros(4, 4, 4, 4, dtype=torch.float64)
    want[:3, :3, :3, :3] = law.table
    assert stats.chisquare(*cells(x, want)).pvalue > 0.01
    assert net.lengths == ([4, 4, 4, 4] if ahead else [2, 2, 4, 4])


def test_blocks_keep_prompts_and_know_later_tokens_are_noise() -> None:
    """AA or BB, one token a block: under replacement the later one is at time 1, so the first is a fair coin."""
    den = exact(PAIR, Absorbing(3))
    hold = Hold(torch.tensor([2, 1]) % 2, torch.tensor([False, True]))
    assert (Blocks(1)(den, (40, 2), seeds=range(40), hold=hold) == 1).sum() >= 40
    n, noise = 1000, Uniform(2)
    den = TokenDenoiser(PAIR.net(noise), noise, facts=Facts(time_axes=1))
    x = Blocks(1, Ancestral(4), ahead=True)(den, (n, 2), seeds=range(n))
    assert torch.equal(x[:, 0], x[:, 1])  # a step to a token given the clean other is exact
    assert abs(x[:, 0].double().mean().item() - 0.5) < 4 * 0.5 / math.sqrt(n)
    x = Blocks(1, Confidence(1, "drawn", greedy=True), ahead=True)(exact(SAME, Absorbing(3)), (3, 4), seeds=range(3))
    assert (x == x[:, :1]).all()


def test_self_correction() -> None:
    """0010 under a law of 0000 and 1111 is repaired in one change; an absorbing corruption doubts nothing."""
    start = torch.tensor([[0, 0, 1, 0], [1, 1, 1, 1], [1, 0, 1, 1]])
    want = torch.tensor([[0] * 4, [1] * 4, [1] * 4])
    for corruption in (Uniform(2), Hybrid(3, 0.2)):
        den = exact(SAME, corruption)
        assert torch.equal(SelfCorrection()(den, (3, 4), seeds=range(3), start=start), want)
        assert den.net.calls == 2
        x = SelfCorrection(Ancestral(4))(den, (40, 4), seeds=range(40))
        assert (x == x[:, :1]).double().mean() > 0.95  # ties of two against two may change sides for ever
        hot = SelfCorrection(rounds=8, temperature=4.0)
        whole = hot(den, (3, 4), seeds=range(3), start=start)
        one_by_one = [hot(den, (1, 4), seeds=[i], start=start[i : i + 1]) for i in range(3)]
        assert torch.equal(whole, torch.cat(one_by_one))
    with pytest.raises(ValueError, match="visible token is certain"):
        SelfCorrection()(exact(SAME, Absorbing(3)), (3, 4), start=start)


def test_starts() -> None:
    """A corrupted start is repaired by a chain that replaces and kept by one that masks; holes are filled."""
    n, wrong = 60, torch.tensor([0, 0, 1, 0])
    x = Ancestral(16)(exact(SAME, Uniform(2)), (n, 4), seeds=range(n), start=wrong, time=0.2)
    assert (x == x[:, :1]).all(1).double().mean() > 0.9
    for sampler in (Ancestral(8), Ancestral(8, "split"), FirstHitting(), Confidence(4)):
        den = exact(SAME, Absorbing(3))
        x = sampler(den, (n, 4), seeds=range(n), start=torch.tensor([2, 1, 2, 2]))
        assert (x == 1).all()
    assert den.net.calls == 4 - 1  # the last of them: three holes


def test_bad_input() -> None:
    den = exact(joint(3, 2), Absorbing(4))
    held = torch.tensor([True, False])
    for hold, message in (
        (Hold(torch.tensor([7, 0]), held), r"\[0, 4\)"),
        (Hold(torch.tensor([-1, 0]), held), r"\[0, 4\)"),
        (Hold(torch.tensor([0.5, 0]), held), "integers"),
        (Hold(torch.tensor([], dtype=torch.long), held), "integers"),
        (Hold(torch.tensor([0, 1, 2]), held), "fit"),
        (Hold(torch.tensor([3, 0]), held), "the mask, symbol 3"),
        (Hold(torch.tensor([0, 1]), True), "nothing is left"),
    ):
        with pytest.raises(ValueError, match=message):
            FirstHitting()(den, (2, 2), hold=hold)
    with pytest.raises(ValueError, match=r"shape \(B, L\)"):
        FirstHitting()(den, (2, 0))
    with pytest.raises(ValueError, match=r"in \(0, 1\]"):
        FirstHitting()(den, (2, 2), start=torch.zeros(2, 2, dtype=torch.long), time=0.0)
    with pytest.raises(ValueError, match="per_call = 0"):
        FirstHitting(0)(den, (2, 2))
    with pytest.raises(ValueError, match="score 'luck'"):
        Confidence(2, "luck")(den, (2, 2))
    with pytest.raises(ValueError, match="one token or more"):
        Blocks(0)(den, (2, 2))
    with pytest.raises(ValueError, match=r"\(B, L\)"):
        den(torch.zeros(2, dtype=torch.long), 0.5)
