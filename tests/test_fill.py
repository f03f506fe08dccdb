"""Holes in pictures, filled by priors of tokens: what is known stays, and what is drawn knows of it."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oneprior.codecs import Characters, Levels
from oneprior.codecs.vq import VQ, Autoencoder, VQConfig, touched
from oneprior.conditions import Conditions
from oneprior.denoiser import Facts
from oneprior.exact import TokenLaw
from oneprior.noise import uniform
from oneprior.token_prior import TokenPrior
from oneprior.tokens import Absorbing, Corruption, TokenDenoiser, Uniform

ALIKE = TokenLaw(torch.eye(3).reshape(3, 1, 1, 3).expand(3, 3, 3, 3) * torch.ones(3, 3, 3, 3))  # last as the first


class Told(nn.Module):
    """An exact law as a network; remembers the last tokens it saw."""

    def __init__(self, law: TokenLaw, corruption: Corruption) -> None:
        super().__init__()
        self.oracle, self.seen = law.net(corruption), torch.empty(0)

    def forward(self, x: Tensor, t: Any) -> Tensor:
        self.seen = x
        return self.oracle(x, t)


def prior_of(corruption: Corruption, codec: Any, law: TokenLaw = ALIKE) -> Any:
    den = TokenDenoiser(Told(law, corruption), corruption, facts=Facts())
    return TokenPrior(den, codec, Conditions(), {"shape": [4]})


def test_levels_are_filled_given_the_rest() -> None:
    """Of 2 x 2 pixels the last is as the first; masks say so for certain, noise anew nearly."""
    codec = Levels(3, (1, 2, 2))
    x = torch.tensor([0.0, 0.5, 1.0] * 20)[:, None, None, None].expand(-1, 1, 2, 2)
    hole = torch.tensor([[False, False], [False, True]])
    masks = prior_of(Absorbing(4), codec).fill(x, hole, seeds=range(60))
    assert torch.equal(masks.x, x) and masks.nfe == 1 and masks.settings["paste"]
    noisy = prior_of(Uniform(3), codec).fill(x, hole, seeds=range(60), steps=48)
    assert torch.equal(noisy.x[:, 0, ~hole], x[:, 0, ~hole])
    assert (noisy.x == x)[:, 0, 1, 1].double().mean() > 0.75  # a third without knowing
    each = torch.zeros(60, 1, 2, 2, dtype=torch.bool)
    each[::2, 0, 1, 1] = True
    assert torch.equal(prior_of(Absorbing(4), codec).fill(x, each, seeds=range(60)).x, x)


def test_codes_that_the_hole_touches_are_drawn_and_never_saw_it() -> None:
    codec = VQ.of(Autoencoder(VQConfig((1, 16, 16), factor=4, codes=3, channels=(8,), dim=4)))
    codec.codes.copy_(torch.from_numpy(uniform(0, "codes", 0, (3, 4))))
    x = torch.from_numpy(uniform(0, "x", range(2), (1, 16, 16))).float()
    hole = torch.zeros(16, 16, dtype=torch.bool)
    hole[:3, :3] = True

    class Free(nn.Module):
        def forward(self, x: Tensor, t: Any) -> Tensor:
            self.seen = x.clone()
            return torch.zeros(*x.shape, 4)

    den = TokenDenoiser(Free(), Absorbing(4))
    prior = TokenPrior(den, codec, Conditions(), {"shape": [16]})
    out = prior.fill(x, hole, seeds=[0, 1])
    assert torch.equal(out.x[..., ~hole], x[..., ~hole]) and not torch.equal(out.x, x)
    assert out.nfe == 4 == int(touched(hole[None, None], 4).sum())  # the token of the hole and its neighbours
    broken = x.masked_fill(hole, torch.nan)
    assert torch.equal(prior.fill(broken, hole, seeds=[0, 1]).x, out.x)
    whole = prior.fill(x, hole, seeds=[0, 1], paste=False, reach=0)
    assert whole.nfe == 1 and not torch.equal(whole.x[..., ~hole], x[..., ~hole])


def test_refused() -> None:
    prior = prior_of(Absorbing(4), Levels(3, (1, 2, 2)))
    x = torch.zeros(2, 1, 2, 2)
    for hole in (torch.zeros(2, 2), torch.ones(3, 3), torch.ones(2)):
        with pytest.raises(ValueError, match="a hole for pictures"):
            prior.fill(x, hole)
    with pytest.raises(ValueError, match="text has no pixels"):
        prior_of(Absorbing(4), Characters("abc")).fill(x, torch.ones(2, 2))
