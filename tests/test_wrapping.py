"""oneprior.wrap: the denoiser of a network, or with a shape the prior, whose range is its codec's."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import oneprior
from oneprior.codecs import Pixels
from oneprior.conditions import Label
from oneprior.exact import Gaussian
from oneprior.operators import Mask, Measurement
from oneprior.prior import Prior
from oneprior.schedules import Cosine

LAW = Gaussian(torch.full((4,), 0.5, dtype=torch.float64), 0.01 * torch.eye(4, dtype=torch.float64))


def net(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
    """E[x_0 | x_t] of pictures (1, 2, 2) in [0, 1] themselves: this network has the range (0, 1)."""
    return LAW.denoiser(Cosine())(x.flatten(1), float(t[0])).mean.reshape(x.shape)


def test_without_a_shape_a_denoiser_in_the_range_of_its_network() -> None:
    den = oneprior.wrap(net, Cosine(), "x0", cond={"label": Label(("a", "b"))})
    assert den.facts.null["label"].tolist() == [2]
    x = torch.rand(2, 1, 2, 2, dtype=torch.float64)
    torch.testing.assert_close(den(x, 0.3, label=torch.tensor([0, 1])).mean, net(x, torch.full((2,), 0.3)))
    with pytest.raises(ValueError, match="give shape="):
        oneprior.wrap(net, Cosine(), "x0", range=(0, 1))


def test_with_a_shape_a_prior_whose_codec_is_the_range() -> None:
    prior = oneprior.wrap(
        net, Cosine(), "x0", range=(0, 1), shape=(1, 2, 2), cond={"label": Label(("a", "b"))}, t_range=(0, 0.999)
    )
    assert isinstance(prior, Prior) and prior.codec == Pixels(None, (0.0, 1.0))
    x = prior.sample(400, seeds=range(400), label="a", steps=12).x
    assert float(x.mean()) == pytest.approx(0.5, abs=0.03) and float(x.std()) == pytest.approx(0.1, abs=0.02)
    shown = Mask(torch.tensor([[1, 1], [0, 0]]))
    out = prior.restore(Measurement(shown(x[:2]), shown, 0.001), steps=10, seeds=(0, 1))
    torch.testing.assert_close(out.x[:, :, 0], x[:2, :, 0], atol=0.01, rtol=0)
    assert prior.classify(x[:2], calls=2).x.shape == (2,)
    assert prior.likelihood(x[:2], steps=8).x.shape == (2,)
    with pytest.raises(TypeError, match="one of oneprior"):
        prior.save("nowhere")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (lambda: oneprior.wrap(net, Cosine(), "noise"), "'noise' is not known"),
        (lambda: oneprior.wrap(net, Cosine(), "x0", range=(1, 0), shape=(1, 2, 2)), "low < high"),
        (lambda: oneprior.wrap(net, Cosine(), "x0", channels="var"), "'var' is not known"),
    ],
)
def test_bad_settings(settings: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings()
