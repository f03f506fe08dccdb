"""Thresholding of the mean: per sample, dynamic or static."""

import pytest
import torch

from helpers import Simple, draw
from oneprior.guidance import Threshold
from oneprior.sampling import sample
from oneprior.schedules import VP

X = draw(4, 3, 5, 7) * torch.tensor([0.1, 1.0, 2.0, 8.0])[:, None, None, None]


def den() -> Simple:
    return Simple(lambda x, t: x, VP())


@pytest.mark.parametrize("q", [0.3, 0.9, 0.995, 0.99999])
@pytest.mark.parametrize("limit", [1.0, 2.5])
def test_dynamic(q: float, limit: float) -> None:
    r = X.abs().flatten(1).quantile(q, dim=1).clamp(min=limit)[:, None, None, None]
    got = Threshold(den(), q, limit=limit)(X, 0.5).mean
    torch.testing.assert_close(got, X.clamp(-r, r) * limit / r, rtol=1e-12, atol=1e-12)
    assert got.abs().max() <= limit * (1 + 1e-12)


def test_inside_the_range_nothing_is_touched() -> None:
    assert torch.equal(Threshold(den())(X[:1], 0.5).mean, X[:1])
    assert torch.equal(Threshold(den(), None, limit=50.0)(X, 0.5).mean, X)


def test_static() -> None:
    assert torch.equal(Threshold(den(), None, limit=1.5)(X, 0.5).mean, X.clamp(-1.5, 1.5))


def test_one_number_and_views() -> None:
    assert Threshold(den())(torch.tensor([[3.0], [0.2]]), 0.5).mean.tolist() == [[1.0], [pytest.approx(0.2)]]
    post = Threshold(den(), 0.9)(X, 0.4)
    a, _, s = VP().at(0.4)
    torch.testing.assert_close(post.eps, (X - a * post.mean) / s)


def test_it_holds_a_run_in_range() -> None:
    far = Simple(lambda x, t: 3 * torch.tanh(x), VP())
    kwargs = {"steps": 5, "seeds": range(4), "sampler": "ddim"}
    assert sample(far, (4, 3, 4, 4), **kwargs).abs().max() > 2
    for q in (0.9, None):
        assert sample(Threshold(far, q), (4, 3, 4, 4), **kwargs).abs().max() <= 1 + 1e-6


def test_what_is_refused() -> None:
    nan = float("nan")
    for q, limit in ((0.0, 1.0), (1.0, 1.0), (nan, 1.0), (99.5, 1.0), (0.9, 0.0), (None, nan), (0.9, float("inf"))):
        with pytest.raises(ValueError, match=r"a share in \(0, 1\) and a limit > 0"):
            Threshold(den(), q, limit=limit)
