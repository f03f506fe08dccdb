"""The draw is the law to the last class; the float32 Gumbel draw is not."""

import math

import pytest
import torch

from oneprior.tokens import Coins, categorical


def test_the_law_on_a_grid() -> None:
    n = 100000
    p = torch.tensor([0.0, 0.2, 0.0, 0.5, 0.3, 0.0])
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    x = categorical(p.expand(n, -1), u)
    count = torch.bincount(x, minlength=6) / n
    torch.testing.assert_close(count, p, atol=2 / n, rtol=0)
    assert count[[0, 2, 5]].sum() == 0


def test_impossible_classes_at_the_ends() -> None:
    p = torch.tensor([[0.0, 0.1, 0.7, 0.0]])
    assert categorical(p, torch.tensor([0.0])) == 1
    assert categorical(p, torch.tensor([math.nextafter(1.0, 0.0)], dtype=torch.float64)) == 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_rare_class_beside_a_likely_one(dtype: torch.dtype) -> None:
    """A class of probability e = 2e-8 answers to an interval of width e, whatever type the law came in."""
    p = torch.tensor([[1.0, 2e-8]], dtype=dtype)
    e = p[0, 1].double().item() / (1 + p[0, 1].double().item())
    u = torch.tensor([1 - e * (1 + 1e-6), 1 - e * (1 - 1e-6)], dtype=torch.float64)
    assert categorical(p.expand(2, -1), u).tolist() == [0, 1]


def test_float32_gumbel_loses_rare_classes() -> None:
    """All values near 1 of a float32 uniform, each against 4e5 draws for the likely class: law e x / (exp(x) - 1)."""
    e, n, values = 2e-8, 400000, 60
    big = torch.rand(n, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    rivals = (-torch.log(-torch.log(big))).sort().values
    near = torch.tensor([1 - j * 2.0**-24 for j in range(1, values + 1)], dtype=torch.float32)
    rare = torch.log(torch.tensor(e)) - torch.log(-torch.log(near))
    wins = torch.searchsorted(rivals, rare).double() / n  # P(the rare class beats the likely one | its own uniform)
    drawn = wins.sum().item() * 2.0**-24
    x = 2.0**-24 / e
    law = e * x / math.expm1(x)
    error = 2.0**-24 * math.sqrt(math.exp(-x) / n) * 1.5  # wins fall as exp(-j x): the first one carries the error
    assert abs(drawn - law) < 4 * error
    assert drawn < 0.2 * e  # five times too seldom


def test_a_tail_of_rare_classes() -> None:
    """4096 classes of 2e-8 beside a likely one. Ours, over uniform numbers on a fine grid: 8.2 hits in 1e5 rows to one.
    Argmax of float32 Gumbel noise: its largest uniform of 4096 is floor(v^(1/4096) 2^24) / 2^24; 13 in 1e6, not 82."""
    classes, e, n = 4096, 2e-8, 100000
    p = torch.cat(
        [torch.tensor([1 - classes * e], dtype=torch.float64), torch.full((classes,), e, dtype=torch.float64)]
    )
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    assert abs(int((categorical(p, u) > 0).sum()) - n * classes * e) <= 1
    near = u[-12:]  # one law for all and one law a row are the same draw
    assert torch.equal(categorical(p.expand(12, -1), near), categorical(p, near))
    g = torch.Generator().manual_seed(0)
    v, rows = torch.rand(1000000, generator=g, dtype=torch.float64), 1000000
    largest = ((v ** (1 / classes)) * 2**24).floor().clamp(max=2**24 - 1) / 2**24
    rare = math.log(e) - torch.log(-torch.log(largest))
    likely = -torch.log(-torch.log(torch.rand(rows, generator=g)))
    hits = int((rare > likely + math.log(1 - classes * e)).sum())
    x = 2.0**-24 / e
    assert abs(hits - rows * classes * e * x / math.expm1(x)) < 4 * math.sqrt(13)
    assert hits < 0.4 * rows * classes * e


def test_coins_depend_on_the_seed_alone() -> None:
    whole = Coins(range(6))(3, "value", (7,))
    assert whole.dtype is torch.float64
    assert torch.equal(whole[4:], Coins([4, 5])(3, "value", (7,)))
    assert not torch.equal(whole, Coins(range(6))(4, "value", (7,)))
    assert not torch.equal(whole, Coins(range(6))(3, "jump", (7,)))


def test_no_mass() -> None:
    with pytest.raises(ValueError, match="without mass"):
        categorical(torch.zeros(2, 3), torch.zeros(2))
