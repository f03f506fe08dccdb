"""Wrappers of token denoisers: guidance on the right object, truncation to the digit, and rows."""

import pytest
import torch
from token_laws import exact, joint, states
from torch import Tensor, nn

from oneprior.denoiser import Facts
from oneprior.paths import Hold
from oneprior.tokens import (
    CFG,
    Absorbing,
    Ancestral,
    Confidence,
    Corruption,
    FirstHitting,
    Hybrid,
    MaskReplace,
    Temperature,
    TokenDenoiser,
    TopK,
    TopP,
    Uniform,
)

LAWS = torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.1, 0.1, 0.8]], dtype=torch.float64)


class Labelled(nn.Module):
    """The law of every token is row `label` of LAWS; label 1 is the null. Counts the rows it is asked."""

    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.vocab, self.asked = vocab, 0

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        self.asked += len(x)
        out = torch.full((*x.shape, self.vocab), -torch.inf, dtype=torch.float64)
        out[..., :3] = LAWS[label].log()[:, None]
        return out


def labelled(corruption: Corruption, net: Labelled | None = None) -> TokenDenoiser:
    facts = Facts(null={"label": torch.tensor([1])})
    return TokenDenoiser(net or Labelled(corruption.vocab), corruption, facts=facts)


ZERO, NULL, MASKED = torch.tensor([0]), torch.tensor([1]), torch.tensor([[3, 3]])


def test_masks_mix_what_a_token_is() -> None:
    """p_c = (.7, .2, .1), p_u = (.5, .3, .2), w = 2: (.8424, .1146, .0430); w = 1 and w = 0 are the inputs, exactly."""
    net = Labelled(4)
    den = labelled(Absorbing(4), net)
    got = CFG(den, 2.0)(MASKED, 0.5, label=ZERO).exp()[0, 0]
    torch.testing.assert_close(got[:3], torch.tensor([0.8424, 0.1146, 0.0430], dtype=torch.float64), atol=5e-5, rtol=0)
    assert got[3] == 0
    for w, label in ((1.0, ZERO), (0.0, NULL)):
        net.asked = 0
        assert torch.equal(CFG(den, w)(MASKED, 0.5, label=ZERO), den(MASKED, 0.5, label=label))
        assert net.asked == 2  # one call, not a doubled one
    each = CFG(den, torch.tensor([1.0, 2.0]))(MASKED.expand(2, -1), 0.5, label=ZERO.expand(2)).exp()
    torch.testing.assert_close(each[0, 0, :3], LAWS[0])
    torch.testing.assert_close(each[1, 0], got)
    away = CFG(den, 2.0, negative={"label": torch.tensor([2])})(MASKED, 0.5, label=ZERO).exp()[0, 0, :3]
    torch.testing.assert_close(away, LAWS[0] ** 2 / LAWS[2] / (LAWS[0] ** 2 / LAWS[2]).sum())


@pytest.mark.parametrize("corruption", [Uniform(3), Hybrid(4, 0.2), MaskReplace(4)], ids=repr)
def test_replacement_mixes_steps(corruption: Corruption) -> None:
    den, x, t, s = labelled(corruption), torch.tensor([[0, 2, 1]]), 0.6, 0.3
    c, u = (den.step(x, t, s, label=label) for label in (ZERO, NULL))
    guided = CFG(den, 2.0)
    got, want = guided.step(x, t, s, label=ZERO), c**2 / u.clamp(min=1e-300)
    torch.testing.assert_close(got, want / want.sum(-1, keepdim=True), atol=1e-12, rtol=0)
    other = CFG(den, 2.0, on="posterior").step(x, t, s, label=ZERO)
    assert (got - other).abs().max() > 1e-3  # two things
    torch.testing.assert_close(guided(x, t, label=ZERO).exp(), guided.step(x, t, 0.0, label=ZERO), atol=1e-12, rtol=0)
    for w, law in ((1.0, c), (0.0, u)):
        assert torch.equal(CFG(den, w).step(x, t, s, label=ZERO), law)


def test_a_sampler_asks_the_guide_for_steps() -> None:
    """One token and two steps: frequencies against the guided step laws multiplied out."""
    den, n = CFG(labelled(Uniform(3)), 2.0), 4000
    ask = {"label": ZERO.expand(3)}
    every = torch.arange(3)[:, None]
    first, last = den.step(every, 1.0, 0.5, **ask)[:, 0], den.step(every, 0.5, 0.0, **ask)[:, 0]
    want = (torch.full((1, 3), 1 / 3, dtype=torch.float64) @ first @ last)[0]
    x = Ancestral(2)(den, (n, 1), seeds=range(n), label=ZERO.expand(n))
    got = torch.bincount(x[:, 0], minlength=3).double() / n
    assert ((got - want).abs() <= 4 * (want * (1 - want) / n).sqrt()).all()


class Prompted(nn.Module):
    """All tokens are as the first one says, 90 to 10; undecided if it is masked."""

    def forward(self, x: Tensor) -> Tensor:
        p = torch.full((*x.shape, 3), 0.5, dtype=torch.float64)
        for symbol in (0, 1):
            p[x[:, 0] == symbol] = torch.tensor([0.9, 0.1, 0.5], dtype=torch.float64)[[symbol, 1 - symbol, 2]]
        return p.log()


def test_the_null_of_a_prompt_is_masks() -> None:
    den = TokenDenoiser(Prompted(), Absorbing(3), timed=False)
    prompt = torch.tensor([True, False, False])
    got = CFG(den, 2.0, prompt=prompt)(torch.tensor([[1, 2, 2]]), 0.5).exp()
    torch.testing.assert_close(got[0, 1, :2], torch.tensor([0.01, 0.81], dtype=torch.float64) / 0.82)
    assert got[0, 0, 1] == 1  # the prompt itself is certain
    x = FirstHitting()(
        CFG(den, 40.0, prompt=prompt), (20, 3), seeds=range(20), hold=Hold(torch.tensor([1, 0, 0]), prompt)
    )
    assert (x == 1).all()


class Four(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([0.15, 0.5, 0.05, 0.3, 0.5], dtype=torch.float64).log().expand(*x.shape, -1)


def test_truncation_and_temperature() -> None:
    den, x = TokenDenoiser(Four(), Absorbing(5), timed=False), torch.tensor([[4, 2]])
    kept = {
        TopP(den, 0.5): [1],  # the mass before .3 is .5, not below it
        TopP(den, 0.51): [1, 3],
        TopP(den, 0.81): [0, 1, 3],
        TopP(den, 0.6, whole=False): [1],
        TopP(den, 0.81, whole=False): [1, 3],
        TopP(den, 1e-9): [1],
        TopK(den, 3): [0, 1, 3],
        Temperature(den, 0.0): [1],
    }
    p = den(x, 0.5).exp()[0, 0]
    for shaped, symbols in kept.items():
        got = shaped(x, 0.5).exp()
        want = torch.zeros(5, dtype=torch.float64)
        want[symbols] = p[symbols] / p[symbols].sum()
        torch.testing.assert_close(got[0, 0], want)
        assert got[0, 1, 2] == 1  # what is certain stays so
    torch.testing.assert_close(Temperature(den, 0.5)(x, 0.5).exp()[0, 0], p**2 / (p**2).sum())
    for plain in (TopP(den, 1.0), TopK(den, 5), Temperature(den, 1.0)):
        torch.testing.assert_close(plain(x, 0.5), den(x, 0.5))
    assert (Confidence(3, greedy=True)(TopK(den, 2), (2, 5), seeds=[0, 1]) == 1).all()


@pytest.mark.parametrize("corruption", [Absorbing(4), Uniform(3), Hybrid(4, 0.2)], ids=repr)
def test_rows_are_those_of_the_whole(corruption: Corruption) -> None:
    den, x = exact(joint(3, 3), corruption), states(corruption.vocab, 3)[3:20]
    rows = torch.tensor([[2, 0]]).expand(len(x), -1)
    for each in (den, TopP(den, 0.9)):
        whole = each(x, 0.6)
        assert torch.equal(each(x, 0.6, rows=rows), whole[:, [2, 0]])
    own = TokenDenoiser(joint(3, 3).net(corruption), corruption, facts=Facts(time_axes=1))
    t = torch.tensor([[0.3, 0.6, 0.9]], dtype=torch.float64).expand(len(x), -1)
    assert torch.equal(own(x, t, rows=rows), own(x, t)[:, [2, 0]])


class Rows(nn.Module):
    takes_rows = True

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        at = torch.arange(x.shape[1]).expand(x.shape) if rows is None else rows
        return torch.stack([at, -at, 0 * at, at], -1).double()


def test_a_network_that_takes_rows_is_asked_for_them() -> None:
    den, x = TokenDenoiser(Rows(), Absorbing(4), timed=False), torch.full((2, 5), 3)
    rows = torch.tensor([[4, 1], [0, 2]])
    torch.testing.assert_close(den(x, 0.5, rows=rows), den(x, 0.5).gather(1, rows[..., None].expand(-1, -1, 4)))


def test_what_is_refused() -> None:
    den = labelled(Absorbing(4))
    with pytest.raises(ValueError, match="none was given"):
        CFG(den, 2.0)(MASKED, 0.5)
    with pytest.raises(ValueError, match="knows no null"):
        CFG(exact(joint(3, 2), Absorbing(4)), 2.0)
    with pytest.raises(ValueError, match="does not go with"):
        CFG(den, 2.0, on="step")
    with pytest.raises(ValueError, match="does not go with"):
        CFG(labelled(Uniform(3)), 2.0, prompt=torch.tensor([True]))
    with pytest.raises(ValueError, match="put it inside"):
        TopP(CFG(labelled(Uniform(3)), 2.0), 0.9)
    TopP(CFG(labelled(MaskReplace(4)), 2.0, on="posterior"), 0.9)
    for wrong in (lambda: TopP(den, 0.0), lambda: TopK(den, 9), lambda: Temperature(den, -1.0)):
        with pytest.raises(ValueError, match="expected"):
            wrong()
