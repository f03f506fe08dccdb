"""Every operator against the definitions: adjoint, least-norm inverse, proximal step; or by hand where easy."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from oneprior.codecs import Pixels, Standardise
from oneprior.operators import Blur, Mask, Measurement, Operator, Pool, Scale, cg, check_noise, gmres


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


SHAPE = (2, 3, 8, 12)
BLURS = {
    f"{name}, {boundary}": make
    for boundary in ("reflect", "circular", "replicate", "zero")
    for name, make in {
        "gaussian": Blur.gaussian(0.8, boundary=boundary),
        "box of 4": Blur.box(4, boundary),
        "motion": Blur.motion(5, -2, boundary),
    }.items()
}
OPERATORS: dict[str, tuple[Operator, tuple[int, ...]]] = {
    "mask": (Mask.random(SHAPE[1:], 0.4), SHAPE),
    "mask a sample": (Mask.random(SHAPE[1:], 0.4, seed=range(2)), SHAPE),
    "mask of a vector": (Mask.random((7,), 0.4), (3, 7)),
    "mask of a clip": (Mask.random((4, 3, 6, 6), 0.4), (2, 4, 3, 6, 6)),
    "pool": (Pool(2), SHAPE),
    "pool by 4 of a clip": (Pool(4), (1, 2, 3, 8, 8)),
    "pool of a vector": (Pool(3, dims=1), (2, 9)),
    "scale": (Scale(1 + rand(1, 3, 1, 1).abs()), SHAPE),
    "pool of blur": (Pool(2) @ Blur.gaussian(0.6), SHAPE),
    "mask of pool": (Mask.half((3, 4, 6)) @ Pool(2), SHAPE),
    **{k: (v, SHAPE) for k, v in BLURS.items()},
}


class Clip(Operator):
    linear = False

    def forward(self, x: Tensor) -> Tensor:
        return (2 * x).clamp(-1, 1)


@pytest.mark.parametrize("name", OPERATORS)
def test_linear_algebra(name: str) -> None:
    A, shape = OPERATORS[name]
    x, z = rand(*shape), rand(*shape, seed=1)
    y = A(x)
    assert A.domain(tuple(y.shape)) == shape
    assert torch.allclose(A(2 * x - z), 2 * y - A(z))
    w = rand(*y.shape, seed=2)
    assert torch.allclose((y * w).sum(), (x * A.adjoint(w)).sum()), "<A x, w> = <x, A^T w>"
    assert torch.allclose(Operator.adjoint(A, w), A.adjoint(w)), "the default is the override"

    gamma = 3.0
    p = A.prox(z, y, gamma)
    assert torch.allclose(gamma * A.adjoint(A(p) - y) + p - z, torch.zeros_like(z), atol=1e-5), "stationary"
    assert torch.allclose(Operator.prox(A, z, y, gamma), p, atol=1e-5)

    value, forward, adjoint = A.at(x)
    assert torch.equal(value, y) and torch.equal(forward(z), A(z)) and torch.equal(adjoint(w), A.adjoint(w))


@pytest.mark.parametrize("name", [k for k in OPERATORS if k not in BLURS])
def test_least_norm_inverse(name: str) -> None:
    A, shape = OPERATORS[name]
    x = rand(*shape)
    got = A.pinv(A(x))
    assert torch.allclose(A(got), A(x), atol=1e-4), "explains y"
    # x explains y as well, and is got plus something orthogonal: no shorter
    assert torch.allclose((got * (x - got)).sum() / x.square().sum(), torch.zeros(()).double(), atol=1e-4)
    assert torch.allclose(Operator.pinv(A, A(x)), got, atol=1e-4)


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_work_under_no_grad_and_keep_the_type(name: str) -> None:
    A, shape = OPERATORS[name]
    with torch.no_grad():
        y = A(rand(*shape).float())
        assert y.dtype == A.adjoint(y).dtype == A.pinv(y).dtype == torch.float32


@pytest.mark.parametrize("name", BLURS)
def test_blurs_have_gain_one_and_all_their_taps(name: str) -> None:
    A = BLURS[name]
    assert math.isclose(sum(A.taps), 1)
    flat = A(torch.full((1, 1, 11, 13), 0.7, dtype=torch.float64))
    inside = flat[..., 4:-4, 4:-4] if A.boundary == "zero" else flat
    assert torch.allclose(inside, torch.full_like(inside, 0.7))
    point = torch.zeros(1, 1, 15, 15, dtype=torch.float64)
    point[..., 7, 7] = 1
    spread, n = A(point)[0, 0], len(A.taps)
    start = 7 - n // 2
    line = torch.tensor(A.taps, dtype=torch.float64)
    if len(A.axes) == 2:
        expected = line[:, None] * line
        assert torch.allclose(spread[start : start + n, start : start + n], expected)
    else:
        assert torch.allclose(spread[start : start + n, 7], line)
    assert torch.allclose(spread.sum(), torch.ones(()).double()), "nothing lies elsewhere"


def test_boundaries() -> None:
    x = torch.tensor([[[[1.0, 2.0, 4.0, 8.0]]]])
    for boundary, left in (("reflect", 2.0), ("replicate", 1.0), ("circular", 8.0), ("zero", 0.0)):
        assert torch.allclose(Blur.motion(3, boundary=boundary)(x)[..., 0], torch.tensor((left + 1 + 2) / 3))
    later = Blur((0.0, 1.0), (-1,), "zero")(x)  # of two taps the later is the centre
    assert torch.equal(later, x)
    with pytest.raises(ValueError, match="9 taps"):
        Blur.box(9)(x)
    with pytest.raises(ValueError, match="mirror"):
        Blur.box(3, "mirror")


def test_masks() -> None:
    for shape, grid in (((3, 8, 9), (1, 8, 9)), ((10,), (10,)), ((2, 3, 4, 4), (2, 1, 4, 4))):
        mask = Mask.random(shape, 0.3, seed=1).mask
        assert mask.shape == (1, *grid) and int((~mask).sum()) == round(0.3 * math.prod(grid))
    several = Mask.random((1, 6, 6), seed=[3, 4]).mask
    assert torch.equal(several[1:], Mask.random((1, 6, 6), seed=4).mask) and not torch.equal(several[0], several[1])
    box = Mask.box((3, 8, 8), (2, 4), (1, 3)).mask
    assert not box[..., 1:3, 3:7].any() and int((~box).sum()) == 8
    assert not Mask.box((1, 8, 8), (2, 4)).mask[..., 3:5, 2:6].any()
    for side, part in (("bottom", (..., slice(3, None), slice(None))), ("left", (..., slice(None), slice(2)))):
        mask = Mask.half((1, 5, 5), side).mask
        assert not mask[part].any() and int(mask.sum()) == 15
    for bad in (
        lambda: Mask(torch.tensor([[0.5]])),
        lambda: Mask(torch.ones(3)),
        lambda: Mask.half((1, 4, 4), "under"),
        lambda: Mask.random((4,), 1.5),
        lambda: Mask.box((1, 4, 4), (5, 2)),
    ):
        with pytest.raises(ValueError, match=r"expected|mask holds|does not lie"):
            bad()
    with pytest.raises(ValueError, match=r"\(1, 1, 5, 4\).*2"):
        Pool(2)(torch.zeros(1, 1, 5, 4))


@pytest.mark.parametrize(
    "codec",
    [Pixels(17), Pixels(256), Pixels(None), Standardise(0.3, 0.2), Standardise((0.1, 0.2, 0.3), (0.5, 1.0, 2.0))],
)
@pytest.mark.parametrize("name", ["mask a sample", "pool of blur", "gaussian, zero", "clip"])
def test_measurements_in_model_range_say_the_same(name: str, codec: Pixels | Standardise) -> None:
    A = Clip() if name == "clip" else OPERATORS[name][0]
    x = rand(*SHAPE).sigmoid()
    seen = Measurement(A(x) + 0.05, A, 0.1)
    model = seen.to_model(codec)
    m = codec.encode(x)
    # the residual in standard deviations is a fact, whatever the units
    here, there = (k.operator(v) - k.y for k, v in ((seen, x), (model, m)))
    assert torch.allclose(here / 0.1, there / model.noise, atol=1e-9)
    if isinstance(codec, Pixels) and name != "clip":
        assert model.operator is A
        assert model.noise == pytest.approx(0.1 * math.exp(codec.logdet))
    own = Measurement(seen.y, A, torch.tensor([0.1, 0.2])).to_model(codec)
    assert isinstance(own.noise, Tensor) and own.noise[1] == 2 * own.noise[0]


def test_measurements_are_checked() -> None:
    y = rand(1, 1, 8, 8).sigmoid()
    for noise in (12, 2.0, torch.tensor([12.0])):
        with pytest.raises(ValueError, match=r"/255") as error:
            Measurement(y, Pool(2), noise)
        if noise == 12:
            assert "12/255" in str(error.value) and "0.047" in str(error.value)
    check_noise(y, 12 / 255)
    check_noise(12 * rand(1, 1, 8, 8), 12.0)  # noise in those units is believed
    with pytest.raises(ValueError, match=">= 0"):
        Measurement(y, Pool(2), -0.1)
    y[0, 0, 0, :3] = torch.nan
    with pytest.raises(ValueError, match="3 of 64"):
        Measurement(y, Pool(2), 0.1)
    with pytest.raises(ValueError, match=r"\(3,\).*\(2, 2\)"):
        Measurement(torch.zeros(2, 2), Pool(2), torch.ones(3))


def test_repeat() -> None:
    mask = Mask.random((1, 4, 4), seed=[0, 1])
    y = mask(rand(2, 1, 4, 4))
    many = Measurement(y, Pool(2) @ mask, torch.tensor([0.1, 0.2])).repeat(3)
    assert torch.equal(many.y[3], y[1])
    assert torch.equal(torch.as_tensor(many.noise), torch.tensor([0.1] * 3 + [0.2] * 3))
    x = rand(6, 1, 4, 4, seed=1)
    assert torch.allclose(many.operator(x)[3:4], Pool(2)(x[3:4] * mask.mask[1:]))
    assert mask.count(y).shape == (2, 1, 1, 1) and int(mask.count(y)[0]) == 8 == Mask(mask.mask[:1]).count(y)


def test_operators_that_are_not_linear() -> None:
    x, w = rand(2, 5, seed=3), rand(2, 5, seed=4)
    value, forward, adjoint = Clip().at(x)
    slope = 2.0 * ((2 * x).abs() < 1)
    assert torch.equal(value, Clip()(x)) and torch.equal(forward(w), slope * w) and torch.equal(adjoint(w), slope * w)
    for ask in (Clip().pinv, Clip().adjoint, (Pool(1, 1) @ Clip()).adjoint):
        with pytest.raises(ValueError, match="not linear"):
            ask(w)


def test_conjugate_gradients_sample_by_sample() -> None:
    L = rand(5, 9, 9)
    M, b = L @ L.mT + 0.1 * torch.eye(9), rand(5, 9, seed=1)
    M[1] = torch.eye(9)  # done after one step
    M[2] = -M[2]  # no positive curvature anywhere: nothing to be had
    M[3, 0] = torch.nan
    b[4] = 0

    def apply(u: Tensor) -> Tensor:
        return torch.einsum("bij,bj->bi", M[: len(u)], u)

    u = cg(apply, b, 60, 1e-12)
    assert torch.allclose(u[0], torch.linalg.solve(M[0], b[0]), atol=1e-8)
    assert torch.allclose(u[1], b[1])
    assert torch.equal(u[2:], torch.zeros(3, 9).double())
    assert torch.equal(u[:2], cg(apply, b[:2], 60, 1e-12)), "a sample does not see the others"

    bent = torch.diag(torch.tensor([3.0, 2.0, -1.0])).double()
    b = torch.tensor([[1.0, 1.0, 0.3]]).double()
    got = cg(lambda u: u @ bent, b, 50)
    assert got.isfinite().all() and (got @ bent - b).norm() < b.norm(), "negative curvature ends it, the best is kept"


def test_least_residuals_sample_by_sample() -> None:
    L = rand(6, 9, 9)
    M, b = L @ L.mT + 0.1 * torch.eye(9).double(), rand(6, 9, seed=1)
    M[1] = torch.eye(9)  # done after one step
    M[2] = -M[2]  # no positive curvature anywhere: nothing to be had
    M[3, 0] = torch.nan
    b[4] = 0
    K = rand(9, 9, seed=2)
    M[5] += K - K.mT  # not symmetric, and positive: u^T M u is as it was

    def apply(u: Tensor) -> Tensor:
        return torch.einsum("bij,bj->bi", M[: len(u)], u)

    u = gmres(apply, b, 9, 1e-12)
    for i in (0, 5):
        assert torch.allclose(u[i], torch.linalg.solve(M[i], b[i]), atol=1e-8)
    assert torch.allclose(u[1], b[1])
    assert torch.equal(u[2:5], torch.zeros(3, 9).double())
    assert torch.allclose(u[:2], gmres(apply, b[:2], 9, 1e-12), atol=1e-12), "a sample does not see the others"

    left = [(apply(gmres(apply, b, k, 0.0)) - b)[[0, 5]].norm(dim=1) for k in (1, 2, 4, 8)]
    assert all((more < less).all() for less, more in pairwise(left)), "the residual never rises"

    sure, doubtful = (gmres(apply, b, 9, 1e-12, doubt) for doubt in (0.0, 0.5))
    assert torch.allclose(sure[:2], doubtful[:2], atol=1e-8), "nothing antisymmetric: no doubt"
    E = M[5] - M[5].mT  # in all of the space T is M in another basis
    d2 = 0.5 * E.square().sum() / 9
    damped = torch.linalg.solve(M[5].mT @ M[5] + d2 * torch.eye(9).double(), M[5].mT @ b[5])
    assert torch.allclose(doubtful[5], damped, atol=1e-8) and doubtful[5].norm() < sure[5].norm()
