"""Codecs: there and back, densities through the change of units, the law of dequantisation, and wrong units named."""

import json
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from oneprior.codecs import Codec, Pixels, Standardise, from_dict

CODECS = [
    Pixels(256),
    Pixels(17),
    Pixels(2),
    Pixels(None),
    Pixels(17, (0.0, 1.0)),
    Pixels(None, (-2.0, 3.0)),
    Standardise((10.0, -3.0), (4.0, 0.5), unit="HU"),
    Standardise(1.0, (2.0, 3.0)),
    Standardise(),
]


@pytest.fixture(params=CODECS, ids=str)
def codec(request: pytest.FixtureRequest) -> Codec:
    return request.param


def test_there_and_back(codec: Codec) -> None:
    x = torch.rand(3, 2, 4, 5, generator=torch.Generator().manual_seed(0))
    assert (codec.decode(codec.encode(x)) - x).abs().max() < 1e-6
    x = x.double()
    assert (codec.decode(codec.encode(x)) - x).abs().max() < 1e-14
    assert codec.encode(x).dtype == torch.float64 and codec.encode(x).shape == x.shape


def test_logdet_is_that_of_autograd(codec: Codec) -> None:
    x = torch.rand(1, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    jacobian = torch.autograd.functional.jacobian(lambda v: codec.encode(v, check=False).flatten(), x)
    assert isinstance(jacobian, Tensor)
    want = torch.linalg.slogdet(jacobian.reshape(6, 6)).logabsdet / 6
    assert codec.logdet == pytest.approx(float(want), abs=1e-12)


def test_config_survives_json(codec: Codec) -> None:
    again = from_dict(json.loads(json.dumps(codec.config())))
    assert again == codec and hash(again) == hash(codec)


def test_unknown_codec_names_the_known() -> None:
    with pytest.raises(ValueError, match="'vae'; known are pixels, standardise"):
        from_dict({"type": "vae"})


def test_levels_fill_model_range_evenly() -> None:
    """Bins of width 2/L side by side from -1 to 1, each level in the middle of its own."""
    for levels in (2, 17, 256):
        k = torch.arange(levels, dtype=torch.float64)
        m = Pixels(levels).encode(k / (levels - 1))
        torch.testing.assert_close(m, -1 + (2 * k + 1) / levels, atol=1e-14, rtol=0)
        low = Pixels(levels).dequantise(k / (levels - 1), torch.zeros_like(k))
        torch.testing.assert_close(low, m - 1 / levels, atol=1e-14, rtol=0)
        assert Pixels(levels).log_bin == pytest.approx(math.log(2 / levels))
    torch.testing.assert_close(Pixels(None).encode(torch.tensor([0.0, 0.5, 1.0])), torch.tensor([-1.0, 0.0, 1.0]))


def test_dequantised_levels_have_the_law_of_a_histogram() -> None:
    """Levels drawn with known probabilities, spread by U[0, 1): the density on each bin is constant, p_k L / 2."""
    n, levels = 200_000, 5
    g = torch.Generator().manual_seed(0)
    p = torch.tensor([0.1, 0.3, 0.05, 0.35, 0.2])
    k = torch.multinomial(p, n, replacement=True, generator=g)
    m = Pixels(levels).dequantise((k / (levels - 1)).double(), torch.rand(n, generator=g, dtype=torch.float64))
    assert m.min() >= -1 and m.max() < 1
    fine = 4  # quarters of each bin
    counts = torch.histc(m, levels * fine, -1, 1)
    want = n * p.repeat_interleave(fine).double() / fine
    chi2 = float(((counts - want) ** 2 / want).sum())
    assert chi2 < 19 + 5 * math.sqrt(2 * 19)  # 5 standard deviations of chi2 with 19 degrees of freedom
    back = Pixels(levels).decode(m) * (levels - 1)
    assert (back - k).abs().max() <= 0.5 + 1e-12  # u = 1/2 is the level itself


def test_discrete_likelihood_from_the_model_density() -> None:
    """With the exact density of dequantised data, log p_model + log_bin is log P(k)."""
    p, levels = torch.tensor([0.1, 0.3, 0.6], dtype=torch.float64), 3
    codec = Pixels(levels)
    k = torch.arange(levels)
    m = codec.dequantise(k.double() / 2, torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64))
    density = p[((m + 1) * levels / 2).long()] * levels / 2
    assert codec.log_bin is not None
    torch.testing.assert_close(density.log() + codec.log_bin, p.log())


def test_decode_clips_only_when_asked() -> None:
    m = torch.tensor([-1.5, 0.0, 1.5])
    x = Pixels(256).decode(m)
    assert x[0] < 0 and x[2] > 1
    assert Pixels(256).decode(m, clip=True).tolist() == [0.0, pytest.approx(0.5), 1.0]
    with pytest.raises(ValueError, match="no range to clip"):
        Standardise().decode(m, clip=True)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.tensor([0.0, 255.0]), r"got 0 to 255: looks like 0\.\.255: divide by 255"),
        (torch.tensor([3.0, 4000.0]), r"got 3 to 4000: looks like 0\.\.65535: divide by 65535"),
        (torch.tensor([-1.0, 1.0]), r"got -1 to 1: looks like -1\.\.1: give \(x \+ 1\) / 2"),
        (torch.tensor([-900.0, 1800.0]), "got -900 to 1800: .*Standardise"),
        (torch.tensor([0.2, 1.3]), "got 0.2 to 1.3: clip"),
        (torch.tensor([0.2, math.nan, 0.7]), "1 of 3 values are NaN or infinite, the others span 0.2 to 0.7"),
        (torch.tensor([math.inf, 0.5]), "1 of 2 values are NaN or infinite"),
        (torch.tensor([math.nan]), "1 of 1 values are NaN or infinite, the others span nothing"),
    ],
)
def test_wrong_units_are_refused_with_the_likely_fix(x: Tensor, words: str) -> None:
    for act in (Pixels(256).encode, lambda x: Pixels(None).dequantise(x, x)):
        with pytest.raises(ValueError, match=words):
            act(x)
    Pixels(256).encode(x, check=False)


def test_wrong_use_is_refused() -> None:
    with pytest.raises(TypeError, match=r"got torch.uint8: give x.float\(\) / 255"):
        Pixels(256).encode(torch.zeros(2, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"up to 0\.5 of a level away from the 17 levels k/16"):
        Pixels(17).dequantise(torch.tensor([0.5 / 16]), torch.zeros(1))
    with pytest.raises(ValueError, match="Standardise has 2 channels, on axis 1; x has shape"):
        Standardise((0.0, 0.0), 1.0).encode(torch.zeros(4, 3))
    with pytest.raises(ValueError, match="1 of 2 values that are NaN"):
        Standardise().encode(torch.tensor([0.0, math.nan]))
    bad: list[tuple[Callable[[], object], str]] = [
        (lambda: Pixels(1), "levels >= 2"),
        (lambda: Standardise(0.0, 0.0), "stds > 0"),
        (lambda: Standardise((0.0, 1.0), (1.0, 1.0, 1.0)), "2 means but 3 stds"),
        (lambda: Standardise.fit(torch.ones(5, 2)), "stds > 0"),
    ]
    for make, words in bad:
        with pytest.raises(ValueError, match=words):
            make()


def test_empty_batches_pass() -> None:
    x = torch.zeros(0, 1, 4, 4)
    assert Pixels(17).encode(x).shape == Pixels(17).dequantise(x, x).shape == x.shape


def test_fit_standardises() -> None:
    x = torch.randn(500, 3, 7, generator=torch.Generator().manual_seed(0)) * torch.tensor([[[1.0], [20.0], [0.1]]]) + 5
    m = Standardise.fit(x).encode(x)
    torch.testing.assert_close(m.mean((0, 2)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(m.std((0, 2), correction=0), torch.ones(3), atol=1e-4, rtol=0)
    points = torch.randn(200, 2, generator=torch.Generator().manual_seed(1))
    assert Standardise.fit(points, unit="m").unit == "m"
    assert (Standardise.fit(points).encode(points).mean(0)).abs().max() < 1e-6
