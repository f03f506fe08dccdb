"""Tokens held by noising them anew (RePaint): a known bias, and a refusal where it means nothing."""

import pytest
import torch

from oneprior.exact import TokenLaw
from oneprior.paths import Hold
from oneprior.tokens import Absorbing, Ancestral, FirstHitting, TokenDenoiser, Uniform

PAIR = TokenLaw(torch.eye(2))  # the second token is as the first
HOLD = Hold(torch.tensor([0, 0]), torch.tensor([True, False]), clamp=True)


def right(steps: int, n: int = 4000) -> float:
    den = TokenDenoiser(PAIR.net(Uniform(2)), Uniform(2))
    x = Ancestral(steps)(den, (n, 2), seeds=range(n), hold=HOLD)
    assert (x[:, 0] == 0).all()  # at time 0 it is what was held
    return float((x[:, 1] == 0).double().mean())


def test_it_is_biased_and_the_bias_falls_with_the_steps() -> None:
    """With the exact posterior, linear keep probability and the first of an agreeing pair known: .92 at 50 steps."""
    fifty, twelve = right(50), right(12)
    assert fifty == pytest.approx(0.92, abs=0.01 + 3 * (0.92 * 0.08 / 4000) ** 0.5)
    assert 0.55 < twelve < fifty - 0.03


def test_masks_held_are_exact_and_samples_depend_on_their_seed_alone() -> None:
    den = TokenDenoiser(PAIR.net(Absorbing(3)), Absorbing(3))
    x = Ancestral(3)(den, (200, 2), seeds=range(200), hold=Hold(HOLD.value, HOLD.mask))
    assert (x == 0).all()
    den = TokenDenoiser(PAIR.net(Uniform(2)), Uniform(2))
    one = Ancestral(4)(den, (40, 2), seeds=range(40), hold=HOLD)
    two = Ancestral(4)(den, (20, 2), seeds=range(20, 40), hold=HOLD)
    assert torch.equal(one[20:], two)


def test_refused_where_it_means_nothing() -> None:
    den = TokenDenoiser(PAIR.net(Absorbing(3)), Absorbing(3))
    for sampler in (FirstHitting(), Ancestral(4, "split")):
        with pytest.raises(ValueError, match="holds tokens at time 0 only"):
            sampler(den, (2, 2), seeds=range(2), hold=HOLD)
    with pytest.raises(ValueError, match="without a time"):
        Ancestral(4)(den, (2, 2), seeds=range(2), hold=Hold(HOLD.value, HOLD.mask, time=0.5))
