"""One restoration in three units, the noise in two of them, and measurements that cannot be what is said of them."""

from typing import Any

import pytest
import torch
from torch import Tensor

from oneprior.codecs import Pixels, Standardise
from oneprior.conditions import Conditions
from oneprior.denoiser import Wrapper
from oneprior.exact import Gaussian
from oneprior.operators import Blur, Clip, Mask, Measurement, Operator, Pool
from oneprior.operators.base import Decoded
from oneprior.prior import Prior
from oneprior.schedules import Cosine
from oneprior.uses.restore import RedDiffSettings, restore

SHAPE = (1, 4, 4)
PLACE = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0)).double()
LAW = Gaussian(torch.full(SHAPE, 0.1).double(), 0.2 * 0.8 ** torch.cdist(PLACE, PLACE))
OWN = Standardise(20.0, 50.0)  # degrees, of which model range is 50
PICTURES = Pixels(None)


def prior(codec: Any) -> Prior:
    return Prior(LAW.denoiser(Cosine()), codec, Conditions(), {"shape": SHAPE})


def truth(n: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    eps = torch.randn(n, 16, generator=generator, dtype=torch.float64)
    return LAW.mean + (eps @ torch.linalg.cholesky(LAW.cov).T).reshape(n, *SHAPE)


@pytest.mark.parametrize(
    ("method", "A"),
    [
        ("mmps", Pool(2)),
        ("tmpd", Blur.gaussian(0.7)),
        ("daps", Mask.half(SHAPE)),
        ("dps", Pool(2)),
        ("diffpir", Blur.gaussian(0.7)),
        ("ddrm", Pool(2)),
        ("repaint", Mask.half(SHAPE)),
        (RedDiffSettings(mode="map"), Mask.half(SHAPE)),
        ("auto", Clip()),
    ],
    ids=lambda v: v if isinstance(v, str) else type(v).__name__,
)
def test_one_picture_in_all_units(method: Any, A: Operator) -> None:
    m, sigma = truth(), 0.1  # of model range
    how: dict[str, Any] = dict(method=method, draws=2, steps=6, seeds=range(4))
    noise = sigma * torch.randn(A(m).shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    if A.linear:
        y = A(m) + noise

        def at(codec: Any) -> Measurement:
            unit, zero = codec.decode(torch.ones(1, *SHAPE)), codec.decode(torch.zeros(1, *SHAPE))
            unit = float((unit - zero).mean())
            return Measurement(A(codec.decode(m)) + unit * noise, A, unit * sigma)

        bare, pictures, own = Measurement(y, A, sigma), at(PICTURES), at(OWN)
        assert (pictures.noise, own.noise) == (0.05, 5.0)
    else:  # of pictures in [0, 1], whichever units these are held in
        y = A(PICTURES.decode(m)) + noise / 2
        pictures = Measurement(y, A, sigma / 2)
        bare = Measurement(y, A @ Decoded(PICTURES), sigma / 2)
        own = Measurement(y, A @ Decoded(PICTURES) @ Decoded(Inverse(OWN)), sigma / 2)
    want = restore(LAW.denoiser(Cosine()), bare, **how)
    for codec, seen in ((PICTURES, pictures), (OWN, own)):
        out = prior(codec).restore(seen, **how, clip=False)
        assert out.draws is not None
        # the solvers inside stop by thresholds, on numbers that differ in their last digits (0.02 % of the noise)
        draws, mean = (codec.encode(v, check=False) for v in (out.draws, out.x))
        torch.testing.assert_close(draws, want.draws, rtol=0, atol=2e-5)
        torch.testing.assert_close(mean, want.mean, rtol=0, atol=2e-5)
        assert out.settings["noise"] == seen.noise
        assert out.settings["noise_model"] == pytest.approx(sigma if A.linear else sigma / 2)
        assert {"noise", "noise_model"} <= out.record()["settings"].keys()


class Inverse:
    """A codec the other way round."""

    def __init__(self, codec: Any) -> None:
        self.decode = codec.encode


def test_noise_in_both_units_where_it_varies() -> None:
    p, y = prior(PICTURES), PICTURES.decode(truth())
    each = p.restore(Measurement(y, Mask.half(SHAPE), torch.tensor([0.05, 0.1])), steps=2, seeds=range(2))
    assert each.record()["settings"]["noise"] == pytest.approx([0.05, 0.1])
    assert each.record()["settings"]["noise_model"] == pytest.approx([0.1, 0.2])
    counted = p.restore(Measurement.poisson((y.clamp(0, 1) * 20).round() / 20, Pool(1), 20), steps=2, seeds=range(2))
    settings = counted.record()["settings"]  # of counts k, sqrt(max(k, 1)) / peak
    wide = ((y.clamp(0, 1) * 20).round().clamp(min=1).mean().sqrt() / 20).item()
    assert settings["noise"] == pytest.approx(wide) and settings["noise_model"] == pytest.approx(2 * wide)


@pytest.mark.parametrize("size", [(4, 8), (2, 4), (5, 5)])
def test_a_mask_of_another_size(size: tuple[int, int]) -> None:
    y = PICTURES.decode(truth())
    with pytest.raises(ValueError, match=r"a mask of shape \(1, 1, \d, \d\) does not fit x of shape \(\d, 1, 4, 4\)"):
        prior(PICTURES).restore(Measurement(y, Mask.half((1, *size)), 0.1), steps=2)


@pytest.mark.parametrize("A", [Pool(2), Mask.half(SHAPE), Blur.gaussian(1.0), Clip()], ids=lambda A: type(A).__name__)
@pytest.mark.parametrize("noise", [0.0, 0.05, 12.0])
def test_levels_of_bytes_are_no_pictures(A: Operator, noise: float) -> None:
    y = 255 * A(PICTURES.decode(truth()).clamp(0, 1))
    if noise < 12 or A.linear:  # what ends in [0, 1] is refused unless noise could have carried it that far
        with pytest.raises(ValueError, match=r"y lies in .* pictures in \[0, 1\].*255"):
            prior(PICTURES).restore(Measurement(y, A, noise), steps=2)
    if A.linear:
        own = prior(OWN).restore(Measurement(y, A, 12.0), steps=2, seeds=range(2))  # data in its own units may
        assert own.x.isfinite().all()


def test_a_noise_that_is_large_is_no_wrong_unit() -> None:
    x = PICTURES.decode(truth(64)).clamp(0, 1)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for size in (0.01, 0.3, 3.0, 30.0):
        for A in (Mask.half(SHAPE), Blur.gaussian(1.0)):
            assert Measurement(A(x) + size * noise, A, size).to_model(PICTURES).noise == pytest.approx(2 * size)


def test_complex_numbers_are_two_channels() -> None:
    p, y = prior(PICTURES), PICTURES.decode(truth())
    said = r"two real channels here.*\(2, 1, 2, 4, 4\) was expected.*torch.stack"
    calls: list[Any] = [
        lambda: Measurement(y + 0j, Mask.half(SHAPE), 0.1),
        lambda: Pool(2)(y + 0j),
        lambda: p.restore(y + 0j),
        lambda: p.classify(y + 0j),
        lambda: p.likelihood(y + 0j),
    ]
    for call in calls[:3]:
        with pytest.raises(TypeError, match=said):
            call()
    with pytest.raises(TypeError, match=said):
        p._checked(y + 0j)


def test_a_bad_measurement_is_refused_before_any_work() -> None:
    class Asked(Wrapper):
        def posterior(self, x: Tensor, t: Any, **cond: Any) -> Any:
            raise AssertionError("the network was asked")

    y = PICTURES.decode(truth())
    closed = Prior(Asked(LAW.denoiser(Cosine())), PICTURES, Conditions(), {"shape": SHAPE})
    with pytest.raises(ValueError, match=r">= 0; got -0\.1"):
        closed.restore(Measurement(y, Mask.half(SHAPE), -0.1))
    with pytest.raises(ValueError, match="far beyond what Mask makes"):
        closed.restore(Measurement(255 * y, Mask.half(SHAPE), 1.0))
    with pytest.raises(ValueError, match="'ddrm' is for linear operators, which Clip @ Decoded is not: use mmps"):
        closed.restore(Measurement(y.clamp(0, 1), Clip(), 0.1), method="ddrm")
