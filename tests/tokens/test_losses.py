"""What trains is the bound it says: on the same z to rounding, and in expectation over everything that is drawn."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from token_laws import exact, joint
from torch import Tensor, nn

from oneprior.nets import TokensConfig, build
from oneprior.tokens import (
    LOSSES,
    Absorbing,
    BlockMasks,
    Coins,
    Hybrid,
    MaskReplace,
    TokenDenoiser,
    TokenObjective,
    Uniform,
    block_mask,
    finite_bound,
    masked_bound,
)
from oneprior.tokens.losses import Bound, Finite, Masks

L, V = 8, 5
CONFIG = TokensConfig((L,), vocab=V, width=16, depth=2, heads=2)


def awake(config: TokensConfig = CONFIG) -> Any:
    net, g = build(config, 0).eval(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=g))
    return net


def drawn(n: int, length: int = L, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return (
        torch.randint(V - 1, (n, length), generator=g),
        torch.rand(n, generator=g),
        torch.rand(n, length, generator=g),
    )


def test_masks_is_the_schedule_free_bound_of_the_same_tokens() -> None:
    den, (x0, t, u) = TokenDenoiser(awake(), Absorbing(V), timed=False), drawn(16)
    z = Masks().corrupt(den, x0, t, u)
    assert torch.equal((z == V - 1).sum(1), (t * L).ceil().long()) and bool(((z == x0) | (z == V - 1)).all())
    torch.testing.assert_close(Masks()(den, x0, t, z).double(), masked_bound(den, x0, z), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(TokenObjective()(den, x0, t, u) * L, Masks()(den, x0, t, z))


def test_every_count_of_masks_is_as_likely_and_every_token_too() -> None:
    den, n = TokenDenoiser(awake(), Absorbing(V), timed=False), 4000
    x0, _, u = drawn(n)
    t = torch.arange(n) / n  # 0 is in it, and still one token is masked
    masked = Masks().corrupt(den, x0, t, u) == V - 1
    counts = torch.bincount(masked.sum(1), minlength=L + 1)
    assert counts[0] == 0 and int((counts[1:] - n // L).abs().max()) <= 1
    share = masked.double().mean(0)  # (L + 1) / 2L of the time, with variance below 1/4
    assert float((share - (L + 1) / (2 * L)).abs().max()) < 4 * math.sqrt(0.25 / n)


def test_its_mean_is_the_entropy_of_the_law_under_the_exact_denoiser() -> None:
    """Of data, nats per sequence: the bound is tight, so over x_0 ~ p its mean is the entropy."""
    law = joint(3, 3)
    den, n = exact(law, Absorbing(4)), 6000
    den = TokenDenoiser(den.net, Absorbing(4))
    coins = Coins(range(n))
    index = torch.searchsorted(law.table.flatten().cumsum(0), coins(0, "data", ()))
    x0, t, u = law.sequences[index], (torch.arange(n) + 0.5) / n, coins(0, "u", (3,))
    nats = TokenObjective()(den, x0, t, u) * 3
    own = -law.log_prob(x0)
    gap = nats.double() - own  # of a tight bound, 0 in the mean of every x_0
    assert abs(float(gap.mean())) < 4 * float(gap.std()) / math.sqrt(n)
    assert float(gap.std()) / math.sqrt(n) < 0.02  # of an entropy of more than 1


@pytest.mark.parametrize("corruption", [Absorbing(V), Uniform(V - 1), Hybrid(V, 0.2), MaskReplace(V)])
def test_finite_is_the_bound_of_its_chain(corruption: Any) -> None:
    config = dataclasses.replace(CONFIG, vocab=corruption.vocab, timed=True)
    den, loss, (x0, _, u) = TokenDenoiser(awake(config), corruption), Finite(10, auxiliary=0.0), drawn(6)
    for step in (1, 4, 10):
        t = torch.full((6,), (step - 0.5) / 10)
        z = loss.corrupt(den, x0, t, u.double())
        torch.testing.assert_close(loss(den, x0, t, z), finite_bound(den, x0, step, 10, z), rtol=1e-6, atol=1e-8)
    assert TokenObjective(loss).law(torch.tensor([[0.0], [1.0]])).tolist() == [0, 1]  # the ends are steps as well
    more = dataclasses.replace(loss, auxiliary=0.1)
    t = torch.full((6,), 0.35)
    z = loss.corrupt(den, x0, t, u.double())
    ce = -den(z, t * 0 + 0.4).gather(-1, x0[..., None])[..., 0].sum(1)
    torch.testing.assert_close(more(den, x0, t, z) - loss(den, x0, t, z), 10 * 0.1 * 1.6 * ce, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "masks"), [(n, m) for n in LOSSES for m in (True, False) if m or n != "masks"])
def test_a_gradient_reaches_the_weights(name: str, masks: bool) -> None:
    corruption = Absorbing(V) if masks else Hybrid(V, 0.2)
    net = awake(dataclasses.replace(CONFIG, timed=not masks))
    den, (x0, t, u) = TokenDenoiser(net, corruption, timed=not masks), drawn(8)
    loss = TokenObjective(LOSSES[name])(den, x0, t.clamp(0.05, 0.95), u)
    assert loss.shape == (8,) and bool(loss.isfinite().all())
    loss.mean().backward()
    silent = [k for k, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert all(k.endswith("kv.bias") or k == "tokens.null" for k in silent), silent


def test_an_auxiliary_term_is_added() -> None:
    den, (x0, t, u) = TokenDenoiser(awake(dataclasses.replace(CONFIG, timed=True)), Hybrid(V, 0.2)), drawn(4)
    t = t.clamp(0.1, 0.9)
    z = Bound().corrupt(den, x0, t, u.double())
    more = LOSSES["ce"](den, x0, t, z)
    torch.testing.assert_close(Bound(0.5)(den, x0, t, z), Bound()(den, x0, t, z) + 0.5 * more)


def test_masks_are_for_masks() -> None:
    with pytest.raises(ValueError, match="for an absorbing corruption; this one is Uniform"):
        TokenObjective()(TokenDenoiser(awake(), Uniform(V)), *drawn(2))


def test_the_mask_of_block_diffusion() -> None:
    size, n = 3, 8
    mask = block_mask(n, size)
    for ask in range(2 * n):
        for key in range(2 * n):
            a, b = ask % n // size, key % n // size
            noisy, clean = ask < n, key >= n
            want = (a > b if clean else a == b) if noisy else (clean and a >= b)
            assert bool(mask[ask, key]) == want


@torch.no_grad()
def test_a_noisy_block_hears_itself_and_earlier_clean_ones() -> None:
    net, size = awake().double(), 3
    x0, _, _ = drawn(2)
    z = x0.masked_fill(torch.rand(2, L, generator=torch.Generator().manual_seed(1)) < 0.5, V - 1)
    how = {"mask": block_mask(L, size), "places": torch.arange(L).repeat(2)}
    plain = net(torch.cat((z, x0), 1), **how)
    for by in range(2 * L):
        other = torch.cat((z, x0), 1)
        other[:, by] = (other[:, by] + 1) % V
        changed = (net(other, **how) - plain)[:, :L].abs().amax((0, 2)) > 1e-9
        block = torch.arange(L) // size
        assert torch.equal(changed, block == by // size if by < L else block > (by - L) // size)


class Split(nn.Module):
    """An exact denoiser asked with [x_t ; x_0]: tokens of a block given that block of x_t and earlier ones of x_0."""

    def __init__(self, den: TokenDenoiser, size: int) -> None:
        super().__init__()
        self.den, self.size = den, size

    def forward(self, x: Tensor, *, mask: Tensor, places: Tensor, rows: Tensor) -> Tensor:
        (z, x0), out = x.chunk(2, 1), []
        hidden = self.den.corruption.vocab - 1
        for first in range(0, z.shape[1], self.size):
            last = first + self.size
            seen = torch.cat((x0[:, :first], z[:, first:last], torch.full_like(z[:, last:], hidden)), 1)
            out.append(self.den(seen, 0.5)[:, first:last])
        return torch.cat(out, 1)


def test_the_bound_of_block_diffusion_is_tight_under_the_exact_denoiser() -> None:
    law, n, size = joint(3, 4), 3000, 3  # blocks of 3 and 1
    inner, coins = exact(law, Absorbing(4)), Coins(range(n))
    den = TokenDenoiser(Split(inner, size), Absorbing(4), timed=False)
    index = torch.searchsorted(law.table.flatten().cumsum(0), coins(0, "data", ()))
    x0, t, u = law.sequences[index], (torch.arange(n) + 0.5) / n, coins(0, "u", (4,))
    gap = TokenObjective(BlockMasks(size))(den, x0, t, u).double() * 4 + law.log_prob(x0)
    assert abs(float(gap.mean())) < 4 * float(gap.std()) / math.sqrt(n)
    assert float(gap.std()) / math.sqrt(n) < 0.03  # of an entropy of more than 1
