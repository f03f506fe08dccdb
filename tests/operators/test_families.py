"""The families of operators: each linear one against its own dense matrix, the others against their formulas."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from oneprior import operators
from oneprior.check import check_operator
from oneprior.codecs import Pixels, Standardise
from oneprior.operators import (
    JPEG,
    MRI,
    Bicubic,
    Blur,
    Clip,
    Colourise,
    Convolve,
    Demosaic,
    GammaBlur,
    Hadamard,
    Haze,
    LowLight,
    Mask,
    Measurement,
    Operator,
    PhaseRetrieval,
    Poisson,
    Pool,
    Projections,
    Radon,
    from_deepinv,
    to_deepinv,
)


def rand(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def light(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LINEAR: dict[str, tuple[Operator, tuple[int, ...]]] = {
    "strokes": (Mask.strokes((3, 6, 8)), (2, 3, 6, 8)),
    "strokes of a clip": (Mask.strokes((2, 1, 8, 6), seed=1), (2, 2, 1, 8, 6)),
    "pool": (Pool(2), (2, 3, 4, 6)),
    "pool of a vector": (Pool(3, dims=1), (2, 9)),
    "bicubic": (Bicubic(2), (2, 3, 4, 6)),
    "bicubic by 4": (Bicubic(4), (2, 1, 8, 12)),
    "blur": (Blur.gaussian(0.5), (2, 3, 4, 5)),
    "blur, circular": (Blur.box(3, "circular"), (2, 1, 5, 7)),
    "blur, one axis": (Blur.motion(3, -2, "zero"), (2, 2, 5, 4)),
    "motion": (Convolve.motion(3.5, 30), (2, 3, 5, 6)),
    "shake": (Convolve.shake(4, seed=2), (2, 1, 6, 5)),
    "grey": (Colourise(), (2, 3, 4, 3)),
    "luma of a clip": (Colourise((0.299, 0.587, 0.114)), (2, 2, 3, 3, 4)),
    "mosaic": (Demosaic(), (2, 3, 4, 5)),
    "mosaic gbrg of a clip": (Demosaic("gbrg"), (2, 2, 3, 5, 4)),
    "projections": (Projections((2, 3, 5), 20), (3, 2, 3, 5)),
    "projections of a vector": (Projections((9,), 9, seed=1), (2, 9)),
    "hadamard": (Hadamard((4, 8), 11), (2, 3, 4, 8)),
    "hadamard, all": (Hadamard((4, 4), 16, seed=3), (2, 1, 4, 4)),
    "mri": (MRI.lines((2, 5, 8), acceleration=2), (2, 2, 5, 8)),
    "mri a sample": (MRI.random((2, 4, 7), 0.4, seed=[1, 2]), (2, 2, 4, 7)),
    "radon": (Radon((5, 6), 4), (2, 1, 5, 6)),
    "radon of channels": (Radon((6, 4), 7), (2, 3, 6, 4)),
}
DECOMPOSED = [name for name in LINEAR if not name.startswith("radon")]
BLURRED = ("blur", "motion", "shake", "radon")  # small singular values: conjugate gradients, to less


def dense(A: Operator, shape: tuple[int, ...], i: int = 0) -> tuple[Tensor, tuple[int, ...]]:
    """The matrix of A for sample i, whatever the others are."""
    n = math.prod(shape[1:])
    columns = []
    for e in torch.eye(n, dtype=torch.float64).reshape(n, *shape[1:]):
        x = rand(*shape, seed=7)
        x[i] = e
        columns.append(A(x)[i])
    return torch.stack([c.flatten() for c in columns], 1), tuple(columns[0].shape)


@pytest.mark.parametrize("name", LINEAR)
def test_against_the_dense_matrix(name: str) -> None:
    A, shape = LINEAR[name]
    y = A(rand(*shape))
    assert A.domain(tuple(y.shape)) == shape
    z, w, gamma = rand(*shape, seed=1), rand(*y.shape, seed=2), 3.0
    back, least, near = A.adjoint(w), A.pinv(y), A.prox(z, w, gamma)
    for i in range(shape[0]):  # a sample sees no other: its matrix is made with strangers around
        M, _ = dense(A, shape, i)
        x, v = z[i].flatten(), w[i].flatten()
        torch.testing.assert_close(A(z)[i].flatten(), M @ x, atol=1e-10, rtol=0)
        torch.testing.assert_close(back[i].flatten(), M.T @ v, atol=1e-10, rtol=0)
        solved = torch.linalg.solve(gamma * M.T @ M + torch.eye(len(x)), gamma * M.T @ v + x)
        loose = name.startswith("radon")
        torch.testing.assert_close(near[i].flatten(), solved, atol=1e-5 if loose else 1e-10, rtol=0)
        if not name.startswith(BLURRED):
            want = torch.linalg.pinv(M, rtol=1e-9) @ y[i].flatten()
            torch.testing.assert_close(least[i].flatten(), want, atol=1e-5 if name.startswith("pool") else 1e-9, rtol=0)
    torch.testing.assert_close(A(least), y, atol=1e-4, rtol=0)  # A A^+ A = A
    if not name.startswith(BLURRED):
        check_operator(A, shape)


@pytest.mark.parametrize("name", DECOMPOSED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_singular_values(name: str, dtype: torch.dtype) -> None:
    A, shape = LINEAR[name]
    x, y = rand(*shape, dtype=dtype), A(rand(*shape, dtype=dtype))
    w, small = rand(*y.shape, seed=3, dtype=dtype), 1e-10 if dtype is torch.float64 else 2e-5
    bar: dict[str, Any] = {"atol": small, "rtol": 0.0}
    parts = A.svd(x)
    assert parts is not None
    s, z = parts.s, parts.Vt(x)
    assert z.dtype == s.dtype == dtype and z[0].numel() == x[0].numel() and bool((s >= 0).all())
    torch.testing.assert_close(parts.V(z), x, **bar)
    w0 = rand(*z.shape, seed=4, dtype=dtype)
    torch.testing.assert_close((parts.V(w0) * x).sum(), (w0 * z).sum(), atol=50 * small, rtol=0)  # V is V^T's transpose
    torch.testing.assert_close(z.square().sum(), x.square().sum(), atol=0, rtol=1e-5)
    torch.testing.assert_close(parts.U(s * z), y, **bar)
    torch.testing.assert_close(parts.V(s * parts.Ut(w)), A.adjoint(w), **bar)
    # the columns of U that are used are orthonormal: U^T U = 1 where s > 0
    used = torch.where(s > 0, w0, 0.0)
    torch.testing.assert_close(torch.where(s > 0, parts.Ut(parts.U(used)), 0.0), used, **bar)
    if dtype is torch.float64:
        torch.testing.assert_close(A(parts.pinv(y)), y, atol=1e-7, rtol=0)
        torch.testing.assert_close(Operator.prox(A, x, w, 2.0), parts.prox(x, w, 2.0), atol=1e-9, rtol=0)


TONES: dict[str, Operator] = {
    "clip": Clip(),
    "clip about grey": Clip(1.7, 0.5),
    "low light": LowLight(2.2, 0.3),
    "haze": Haze(light(2, 1, 8, 6, seed=5) * 0.5 + 0.3, 0.9),
    "gamma blur": GammaBlur(Blur.gaussian(0.8)),
    "jpeg": JPEG(40),
    "jpeg, whole chroma": JPEG(90, halved=False),
    "phase": PhaseRetrieval((8, 6)),
}


@pytest.mark.parametrize("name", TONES)
def test_operators_that_are_not_linear(name: str) -> None:
    A, x = TONES[name], light(2, 3, 8, 6)
    y = A(x)
    assert not A.linear and A.domain(tuple(y.shape)) == tuple(x.shape)
    torch.testing.assert_close(A(x[:1]) if name != "haze" else A(x)[:1], y[:1])
    at = x.clone().requires_grad_()
    w, u = rand(*y.shape, seed=1), rand(*x.shape, seed=2)
    (slope,) = torch.autograd.grad((A(at) * w).sum(), at)
    assert slope.isfinite().all() and slope.abs().mean() > 0.05, "it has a gradient"
    value, forward, adjoint = A.at(x)
    torch.testing.assert_close(value, y)
    torch.testing.assert_close(adjoint(w), slope)
    torch.testing.assert_close((forward(u) * w).sum(), (u * slope).sum())
    if not name.startswith("jpeg"):  # whose rounding is passed through
        h = 1e-6
        torch.testing.assert_close((A(x + h * u) - A(x - h * u)) / (2 * h), forward(u), atol=1e-5, rtol=1e-5)
    edges = torch.cat([torch.zeros(1, 3, 8, 6), torch.ones(1, 3, 8, 6)]).double().requires_grad_()
    (slope,) = torch.autograd.grad(A(edges).sum(), edges)
    assert slope.isfinite().all(), "black and white too"
    assert A(x.float()).dtype == torch.float32
    for codec in (Pixels(256), Standardise((0.1, 0.2, 0.3), (0.5, 1.0, 2.0))):
        seen = Measurement(y, A, 0.02).to_model(codec)
        torch.testing.assert_close(seen.operator(codec.encode(x)), A(codec.decode(codec.encode(x))))
    if name == "phase":
        with pytest.raises(ValueError, match="not linear"):
            A.pinv(y)
        return
    seen = Measurement(y, A).to_model(codec)
    torch.testing.assert_close(codec.decode(seen.operator.pinv(seen.y)), A.pinv(y))
    with pytest.raises(ValueError, match="not linear"):
        A.prox(x, y, 1.0)


def test_first_guesses() -> None:
    x = light(2, 3, 8, 6)
    for name in ("haze", "low light"):
        torch.testing.assert_close(TONES[name].pinv(TONES[name](x)), x)
    dark = x * 0.4
    torch.testing.assert_close(Clip().pinv(Clip()(dark)), dark)
    assert torch.equal(Clip(2, 0.5)(x), ((2 * (2 * x - 1)).clamp(-1, 1) + 1) / 2), "the published one"
    one = Haze(torch.tensor([[[[0.5]]], [[[0.25]]]]), 0.8).repeat(2)
    torch.testing.assert_close(one(torch.zeros(4, 1, 1, 1)).flatten(), torch.tensor([0.4, 0.4, 0.6, 0.6]))
    flat = torch.full((1, 1, 9, 9), 0.3).double()
    torch.testing.assert_close(GammaBlur(Blur.box(3))(flat), flat)
    torch.testing.assert_close(GammaBlur(Blur.gaussian(1.0), 1.0)(x), Blur.gaussian(1.0)(x), atol=1e-6, rtol=0)


def test_bicubic_is_pillows() -> None:
    x = light(1, 1, 24, 16)
    image = Image.fromarray(x[0, 0].float().numpy())
    for r in (2, 4, 8):
        small = np.asarray(image.resize((16 // r, 24 // r), Image.Resampling.BICUBIC))
        np.testing.assert_allclose(Bicubic(r)(x)[0, 0].numpy(), small, atol=1e-5)
    with pytest.raises(ValueError, match=r"24 elements .* by 5"):
        Bicubic(5)(x)


def test_kernels_of_motion() -> None:
    for K, width in ((Convolve.motion(5, 0), (1, 5)), (Convolve.motion(5, 90), (5, 1))):
        k = K.kernel[K.kernel.sum(1) > 0.01][:, K.kernel.sum(0) > 0.01]
        assert tuple(k.shape) == width and math.isclose(K.kernel.sum(), 1)
        assert torch.allclose(k.flatten()[1:-1], torch.tensor(0.25).double(), atol=0.01), "even"
    k = Convolve.motion(7, 45).kernel  # anticlockwise: from bottom left to top right
    assert k[0, -1] > 0 and k[-1, 0] > 0 and k[0, 0] == k[-1, -1] == 0
    assert torch.allclose(k, k.flip(0, 1)), "centred: the picture does not move"
    point = torch.zeros(1, 1, 9, 9).double()
    point[..., 4, 4] = 1
    moved = Convolve(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]))(point)
    assert moved[0, 0, 4, 5] == pytest.approx(1), "a tap right of the centre moves to the right"
    a, b = Convolve.shake(9, seed=1).kernel, Convolve.shake(9, seed=1).kernel
    assert torch.equal(a, b) and not torch.equal(a, Convolve.shake(9, seed=2).kernel)
    assert max(a.shape) == 9 and math.isclose(a.sum(), 1) and bool((a >= 0).all())
    even = Blur.gaussian(0.7, taps=5, boundary="circular")
    taps = torch.tensor(even.taps).double()
    x = rand(2, 3, 8, 9)
    torch.testing.assert_close(Convolve(taps[:, None] * taps)(x), even(x))


def test_strokes() -> None:
    a, b = (Mask.strokes((3, 32, 32), seed=s).mask for s in (0, 1))
    assert a.shape == (1, 1, 32, 32) and torch.equal(a, Mask.strokes((3, 32, 32)).mask) and not torch.equal(a, b)
    assert 0.03 < float((~a).float().mean()) < 0.6
    hidden = [int((~Mask.strokes((1, 64, 64), 1, w).mask).sum()) for w in (1.0, 2.0, 4.0)]
    assert 1.5 < hidden[1] / hidden[0] < 2.5 and 1.5 < hidden[2] / hidden[1] < 2.5, "as wide as said"


def test_colours() -> None:
    x = light(1, 3, 4, 4)
    y = Demosaic("rggb")(x)[0, 0]
    assert (y[0, 0], y[0, 1], y[1, 0], y[3, 3]) == (x[0, 0, 0, 0], x[0, 1, 0, 1], x[0, 1, 1, 0], x[0, 2, 3, 3])
    torch.testing.assert_close(Colourise()(x), x.mean(1, keepdim=True))


def test_jpeg_is_near_the_real_one() -> None:
    x = torch.nn.functional.interpolate(light(2, 3, 5, 6), size=(35, 42), mode="bicubic").clamp(0, 1)
    for quality in (10, 50, 90):
        for halved in (True, False):
            for v in (x, x[:, :1]):
                A = JPEG(quality, halved)
                real = A.encoded(v)
                off, harm = (255 * (real - u).abs().mean() for u in (A(v), v))
                assert off < (2.0 if len(v[0]) == 3 else 0.6), "levels of 255, on average"
                assert quality > 10 or off < 0.2 * harm
    torch.testing.assert_close(JPEG(100)(x[:, :1]), x[:, :1], atol=3 / 255, rtol=0)


def test_projections() -> None:
    x = light(1, 1, 8, 8)
    assert torch.equal(Projections((1, 8, 8), 9)(x), Projections((1, 8, 8), 9)(x))
    power = torch.stack([Projections((1, 8, 8), 32, seed=s)(x).square().sum() for s in range(50)]) / x.square().sum()
    assert abs(float(power.mean()) - 1) < 5 * math.sqrt(2 / 32 / 50), "the norm is kept on average"
    H = Hadamard((8, 8), 64)
    torch.testing.assert_close(H(x).square().sum(), x.square().sum())
    assert not torch.equal(Hadamard((8, 8), 5)(x), Hadamard((8, 8), 5, seed=1)(x))


def test_mri_is_centred() -> None:
    x = torch.zeros(1, 2, 8, 6).double()
    x[:, 0] = 1
    k = MRI(torch.ones(1, 1, 8, 6))(x)
    assert k[0, 0, 4, 3] == pytest.approx(math.sqrt(48)) and float(k.abs().sum()) == pytest.approx(math.sqrt(48))
    columns = MRI.lines((2, 16, 64), 4, 0.08).mask[0, 0]
    assert int(columns[0].sum()) == 16 and bool((columns == columns[:1]).all()) and bool(columns[0, 30:35].all())
    assert isinstance(MRI.random((2, 4, 4), seed=[0, 1]).repeat(2), MRI)


def test_phase_retrieval_of_complex_pictures() -> None:
    x = rand(2, 2, 4, 5)
    y = PhaseRetrieval((4, 5), 2.0, pairs=True)(x)
    full = torch.fft.fft2(torch.complex(x[:, 0], x[:, 1]), s=(8, 10), norm="ortho").abs()
    torch.testing.assert_close(y[:, 0], full)
    turned = torch.stack([-x[:, 1], x[:, 0]], 1)
    torch.testing.assert_close(PhaseRetrieval((4, 5), pairs=True)(turned), y)
    torch.testing.assert_close(PhaseRetrieval((4, 5))(x[:, :1]), PhaseRetrieval((4, 5))(-x[:, :1]))


def test_radon_sees_integrals() -> None:
    x = light(1, 1, 9, 12)
    y = Radon((9, 12), 8)(x)
    torch.testing.assert_close(y.sum(-1), x.sum((-2, -1))[..., None].expand(1, 1, 8))  # every view sums to all
    torch.testing.assert_close(Radon((8, 8), 2)(x[..., :8, :8])[0, 0, 0].sort().values[-8:].sum(), x[..., :8, :8].sum())
    i, j = (torch.arange(65).double() - 32 for _ in range(2))
    disc = ((i[:, None] ** 2 + j**2) <= 20**2).double()[None, None]
    views = Radon((65, 65), 12)(disc)[0, 0]
    at = torch.arange(views.shape[1]).double() - (views.shape[1] - 1) / 2
    chord = 2 * (20.0**2 - at**2).clamp(min=0).sqrt()
    assert float((views - chord).abs().mean()) < 0.6, "chords of a disc, from every side"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Mask.box((1, 8, 8), (2, 2))(torch.zeros(1, 1, 8, 9)), r"mask of shape \(1, 1, 8, 8\).*\(1, 1, 8, 9\)"),
        (lambda: Mask.random((8, 8), seed=[1, 2])(torch.zeros(1, 8, 8)), r"mask of shape \(2, 8, 8\)"),
        (lambda: Convolve.motion(9, 0)(torch.zeros(1, 1, 8, 8)), "larger than a picture of 8 x 8"),
        (lambda: Convolve(torch.ones(3)), r"kernel \(h, w\)"),
        (lambda: Colourise()(torch.zeros(1, 1, 4, 4)), "1 channels and 3 weights"),
        (lambda: Demosaic()(torch.zeros(1, 1, 4, 4)), "3 channels"),
        (lambda: Demosaic("rgb"), "two g were expected"),
        (lambda: Projections((3, 3), 10), "1 to 9"),
        (lambda: Projections((3, 3), 4)(torch.zeros(1, 10)), r"10 numbers; \(3, 3\)"),
        (lambda: Hadamard((3, 4), 2), "power of 2"),
        (lambda: MRI(torch.ones(1, 1, 4, 4))(torch.zeros(1, 1, 4, 4)), "two channels"),
        (lambda: MRI.lines((2, 4, 4), 0.5), ">= 1"),
        (lambda: PhaseRetrieval((4, 4))(torch.zeros(1, 1, 4, 5)), r"pictures of \(4, 4\)"),
        (lambda: Radon((4, 4))(torch.zeros(1, 1, 4, 5)), r"pictures of \(4, 4\)"),
        (lambda: JPEG(0), "1 to 100"),
        (lambda: JPEG(10)(torch.zeros(1, 2, 8, 8)), "1 or 3 channels"),
        (lambda: Haze(0.0), "transmission"),
        (lambda: LowLight(0.5), "gamma >= 1"),
        (lambda: Poisson(0.0), "peak = 0"),
        (lambda: Poisson(9.0).draw(torch.tensor([[-0.1]]), 0, [0]), "not negative; got -0.1"),
        (lambda: Measurement(torch.full((1, 1, 8, 8), 90.0), JPEG(10), 0.05), r"levels 0\.\.255"),
        (lambda: Measurement(torch.full((1, 1, 8, 8), -0.9), Clip() @ Blur.box(3), 0.05), r"Compose ends in \[0, 1\]"),
        (lambda: Measurement(torch.zeros(1, 1, 8, 8), Clip(), -0.1), ">= 0"),
    ],
)
def test_refusals(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


def test_complex_tensors_are_refused() -> None:
    z = torch.zeros(1, 4, 4, dtype=torch.complex64)
    for A in (MRI(torch.ones(1, 1, 4, 4)), Pool(2), PhaseRetrieval((4, 4), pairs=True)):
        with pytest.raises(TypeError, match=r"two real channels.*\(1, 2, 4, 4\)"):
            A(z)
    with pytest.raises(TypeError, match="two real channels"):
        Measurement(z, Pool(2), 0.1)


# noise


def test_counted_light() -> None:
    clean, peak = torch.full((4000, 1), 0.3).double(), 50.0
    y = Poisson(peak).draw(clean, 0, range(4000))
    n = math.sqrt(4000)
    assert abs(y.mean() - 0.3) < 5 * math.sqrt(0.3 / peak) / n and abs(y.var() * peak / 0.3 - 1) < 5 * 1.5 / n
    assert torch.equal(y[7:9], Poisson(peak).draw(clean[:2], 0, [7, 8])), "whatever the batch"
    torch.testing.assert_close(y * peak, (y * peak).round())
    exact = torch.distributions.Poisson(15.0).log_prob((y * peak).round()).sum(1)
    seen = Measurement.poisson(y, Pool(1, 1), peak)
    torch.testing.assert_close(seen.log_prob(clean), exact)
    torch.testing.assert_close(torch.as_tensor(seen.noise), y.mul(peak).clamp(min=1).sqrt() / peak)
    twice = Poisson(peak).moved(2.0, 0.1).moved(3.0, 0.2)  # y = 2 v + 0.1, v = 3 u + 0.2
    torch.testing.assert_close(twice.log_prob(((y - 0.1) / 2 - 0.2) / 3, ((clean - 0.1) / 2 - 0.2) / 3), exact)
    torch.testing.assert_close(twice.std(((y - 0.1) / 2 - 0.2) / 3), seen.law.std(y) / 6 if seen.law else y)
    assert seen.repeat(2).log_prob(clean.repeat_interleave(2, 0)).shape == (8000,)


@pytest.mark.parametrize("codec", [Pixels(256), Standardise((0.1, 0.2, 0.3), (0.5, 1.0, 2.0))])
def test_likelihoods_are_the_same_in_model_range(codec: Any) -> None:
    x, truth = light(2, 3, 8, 8) * 0.8 + 0.1, light(2, 3, 8, 8, seed=1) * 0.8 + 0.1
    for A in (Blur.gaussian(0.7), Mask.random((3, 8, 8), 0.3, seed=[0, 1]), Haze(0.5)):
        y = Poisson(40.0).draw(A(truth), 0, range(2))
        for seen in (Measurement.poisson(y, A, 40.0), Measurement(y, A, 0.2)):
            m, per = seen.to_model(codec), seen.log_prob(x)
            assert per.shape == (2,)
            there = m.log_prob(codec.encode(x))
            shift = seen.log_prob(truth) - m.log_prob(codec.encode(truth))  # a density's units, none for counts
            torch.testing.assert_close(there + shift, per)
            assert seen.law is None or shift.abs().max() < 1e-9
            torch.testing.assert_close(m.repeat(2).log_prob(codec.encode(x).repeat_interleave(2, 0))[::2], there)


def test_gaussian_likelihood() -> None:
    x = rand(3, 1, 4, 4)
    sigma = torch.tensor([0.1, 0.2, 0.5]).double()
    law = torch.distributions.Normal(Pool(2)(x), sigma.reshape(3, 1, 1, 1))
    y = rand(3, 1, 2, 2, seed=1)
    torch.testing.assert_close(Measurement(y, Pool(2), sigma).log_prob(x), law.log_prob(y).flatten(1).sum(1))


# deepinv, by its protocol


@dataclass
class Physics:
    """What a linear physics of deepinv can do, for x -> M x with samples of 6 numbers."""

    M: Tensor = field(default_factory=lambda: rand(4, 6))

    def A(self, x: Tensor, **_: Any) -> Tensor:
        return x.flatten(1) @ self.M.T

    def A_adjoint(self, y: Tensor, **_: Any) -> Tensor:
        return (y @ self.M).reshape(-1, 1, 2, 3)

    def A_dagger(self, y: Tensor, **_: Any) -> Tensor:
        return (y @ torch.linalg.pinv(self.M).T).reshape(-1, 1, 2, 3)

    def prox_l2(self, z: Tensor, y: Tensor, gamma: float, **_: Any) -> Tensor:
        left = gamma * self.M.T @ self.M + torch.eye(6)
        return torch.linalg.solve(left, (gamma * self.A_adjoint(y) + z).flatten(1).T).T.reshape(z.shape)


def test_from_deepinv() -> None:
    A = from_deepinv(Physics(), (1, 2, 3))
    check_operator(A, (2, 1, 2, 3))
    z, y = rand(2, 1, 2, 3), rand(2, 4, seed=1)
    assert A.linear and A.domain((5, 4)) == (5, 1, 2, 3)
    torch.testing.assert_close(A.prox(z, y, 2.0), Operator.prox(A, z, y, 2.0), atol=1e-5, rtol=0)
    bent = from_deepinv(SimpleNamespace(A=lambda x: x.square(), A_dagger=lambda y: y.sqrt()), (1, 2, 3))
    assert not bent.linear
    torch.testing.assert_close(bent.at(z).adjoint(torch.ones_like(z)), 2 * z)
    for ask in (lambda: bent.adjoint(z), lambda: bent.prox(z, z, 1.0)):
        with pytest.raises(ValueError, match="not linear"):
            ask()
    with pytest.raises(TypeError, match=r"Tensor has no \['A', 'A_dagger'\]"):
        from_deepinv(torch.zeros(1), (1,))


def test_to_deepinv_and_back() -> None:
    blur = Blur.gaussian(0.8)
    physics = to_deepinv(blur, 0.1)
    z, y = rand(2, 3, 6, 6), rand(2, 3, 6, 6, seed=1)
    back = from_deepinv(physics, (3, 6, 6))
    for a, b in (
        (back(z), blur(z)),
        (back.adjoint(y), blur.adjoint(y)),
        (back.pinv(y), blur.pinv(y)),
        (back.prox(z, y, 2.0), blur.prox(z, y, 2.0)),
        (physics.A_vjp(z, y), blur.adjoint(y)),
        (physics.prox_l2(z, y, 2.0, solver="CG"), blur.prox(z, y, 2.0)),
    ):
        assert torch.equal(a, b)
    assert physics.noise_model.sigma == 0.1
    bent = to_deepinv(Clip())
    assert not hasattr(bent, "A_adjoint") and not from_deepinv(bent, (1, 2, 2)).linear


def test_the_page_names_every_operator() -> None:
    page = (Path(__file__).parents[2] / "docs" / "operators.md").read_text()
    tools = {"Compose", "Decoded", "Operator", "Svd", "cg", "check_noise", "gmres"}
    for name in set(operators.__all__) - tools:
        assert f"`{name}" in page or f"{name}(" in page or f"{name}." in page, name
