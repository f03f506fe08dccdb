"""One token after the other, and block after block: the law that is drawn, and that a cache changes nothing."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from token_laws import joint
from torch import Tensor, nn

from oneprior.exact import TokenLaw
from oneprior.nets import TokensConfig, build
from oneprior.tokens import Absorbing, Blocks, FirstHitting, NextToken, Prefixed, TokenDenoiser, autoregress, next_token

V = 6


class Table(nn.Module):
    """log p(x_l | x_<l) of an enumerable law, asked with its tokens behind the mask."""

    def __init__(self, law: TokenLaw) -> None:
        super().__init__()
        self.law, self.config, self.asked = law, SimpleNamespace(vocab=law.symbols + 1), 0

    def forward(self, x: Tensor) -> Tensor:
        assert bool((x[:, 0] == self.law.symbols).all())
        self.asked += x.shape[1]
        out = torch.full((*x.shape, self.law.symbols + 1), 3.0, dtype=torch.float64)  # the mask is not to be drawn
        for at in range(x.shape[1]):
            front = self.law.table.flatten(at + 1).sum(-1) if at + 1 < self.law.length else self.law.table
            out[:, at, :-1] = front[tuple(x[:, 1 : at + 1].T)].expand(len(x), -1).clamp(min=1e-300).log()
        return out


def net_of(**fields: Any) -> Any:
    net, g = build(TokensConfig((12,), vocab=V, width=16, depth=2, heads=2, **fields), 0).eval(), torch.Generator()
    g.manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.4 * torch.randn(p.shape, generator=g))
    return net.double()


def test_the_law_drawn_is_that_of_the_net() -> None:
    law, n = joint(3, 3, concentration=1.0), 10_000
    x = autoregress(Table(law), (n, 3), seeds=range(n), cache=False)
    found = torch.bincount((x * torch.tensor([9, 3, 1])).sum(1), minlength=27).double()
    want = law.table.flatten() * n
    kept = want > 5
    chi = float(((found - want)[kept].square() / want[kept]).sum())
    free = int(kept.sum()) - 1
    assert chi < free + 4 * math.sqrt(2 * free) and float(found[~kept].sum()) < 60


def test_its_likelihood_is_exact() -> None:
    law = joint(3, 3, concentration=1.0)
    nats = next_token(Table(law), law.sequences)
    assert nats.shape == (27, 3)
    torch.testing.assert_close(-nats.double().sum(1), law.log_prob(law.sequences), rtol=1e-5, atol=1e-5)
    u = torch.zeros(27, 3)
    torch.testing.assert_close(NextToken()(Table(law), law.sequences, u[:, 0], u), nats.mean(1))


@pytest.mark.parametrize("conv", [0, 5])
def test_a_cache_changes_nothing(conv: int) -> None:
    net = net_of(causal=True, conv=conv)
    plain, kept = (autoregress(net, (5, 12), seeds=range(5), cache=c) for c in (False, True))
    assert torch.equal(plain, kept) and int(kept.max()) < V - 1 and len(torch.unique(kept, dim=0)) > 1
    prompt = plain[:, :4]
    assert torch.equal(autoregress(net, (5, 12), seeds=range(5), prompt=prompt), plain)  # as if drawn
    assert torch.equal(autoregress(net, (2, 12), seeds=[3, 1]), plain[[3, 1]])
    cold = autoregress(net, (2, 12), seeds=[7, 8], temperature=1e-6)
    assert torch.equal(cold[0], cold[1])


def test_a_cache_asks_about_each_token_once() -> None:
    net, asked = net_of(causal=True), []
    net.register_forward_pre_hook(lambda m, args: asked.append(args[0].shape[1]))
    autoregress(net, (2, 12), seeds=range(2), prompt=torch.tensor([1, 2, 3]))
    assert asked == [4] + [1] * 8


def test_refused() -> None:
    net = net_of(causal=True)
    refused: list[tuple[dict[str, Any], str]] = [
        ({"seeds": range(3)}, "3 seeds for 2 samples"),
        ({"seeds": range(2), "temperature": 0.0}, "above 0"),
        ({"seeds": range(2), "prompt": torch.zeros(12).long()}, "12 tokens of 12: nothing is left"),
    ]
    for how, said in refused:
        with pytest.raises(ValueError, match=said):
            autoregress(net, (2, 12), **how)


@pytest.mark.parametrize("size", [4, 5, 12])
def test_blocks_with_a_clean_prefix_kept_are_those_without(size: int) -> None:
    net, sampler = net_of(), Blocks(size, FirstHitting(2))
    drawn = []
    for cache in (False, True):
        den = TokenDenoiser(Prefixed(net, size, cache), Absorbing(V), timed=False)
        drawn += [sampler(den, (4, 12), seeds=range(4)), sampler(den, (2, 12), seeds=[9, 2])]  # another batch after it
    assert torch.equal(drawn[0], drawn[2]) and torch.equal(drawn[1], drawn[3])
    assert torch.equal(drawn[1][1], drawn[0][2])


@torch.no_grad()
def test_what_is_said_of_the_last_block_is_the_same() -> None:
    net, g = net_of(), torch.Generator().manual_seed(0)
    one, two = Prefixed(net, 4), Prefixed(net, 4, cache=False)
    x = torch.randint(V - 1, (3, 11), generator=g)
    x[:, 9:] = V - 1
    torch.testing.assert_close(one(x)[:, 8:], two(x)[:, 8:], atol=1e-12, rtol=0)
    rows = torch.tensor([[9, 10], [8, 9], [10, 8]])
    torch.testing.assert_close(one(x, rows=rows), two(x, rows=rows), atol=1e-12, rtol=0)
    other = x.clone()
    other[:, 2] = (x[:, 2] + 1) % (V - 1)  # what was kept is of no use now
    torch.testing.assert_close(one(other)[:, 8:], two(other)[:, 8:], atol=1e-12, rtol=0)
    assert (one(other) - one(x))[:, 8:].abs().max() > 1e-6


def test_a_kept_prefix_is_computed_once() -> None:
    net, asked = net_of(), []
    net.register_forward_pre_hook(lambda m, args: asked.append(args[0].shape[1]))
    den = TokenDenoiser(Prefixed(net, 4), Absorbing(V), timed=False)
    Blocks(4, FirstHitting())(den, (2, 12), seeds=range(2))
    assert asked == [4] * (12 + 2)  # a call a token, and one for each finished block that another follows
