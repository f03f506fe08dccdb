"""Time is a tensor: alignment, laws, and every public function that takes a time asked with every kind of one."""

import re
from collections.abc import Callable
from math import exp
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from helpers import ALIGNED, BATCH, Normal, draw
from oneprior import noise
from oneprior.anchored import MeanReverting
from oneprior.denoiser import Denoiser, NetworkDenoiser, with_schedule, wrap
from oneprior.guidance import CFG, sigma
from oneprior.objective import EDMWeight, MinSNR, Objective
from oneprior.posterior import Posterior
from oneprior.schedules import VE, VP, Cosine, LinearBetas, RectifiedFlow
from oneprior.times import (
    Known,
    Ladder,
    LogitNormal,
    LogNormal,
    NonDecreasing,
    PerElement,
    PerFrame,
    Rolling,
    Uniform,
    align,
    axes_of,
)

COSINE, LEVEL = Cosine(), 0.375  # a level that every type of number holds exactly


class Elementwise(nn.Module):
    """A network whose answer at an element depends on that element and its time alone, and on the condition."""

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        shift = 0.0 if label is None else align(label.to(x), x)
        pull = 0.0 if y is None else 0.1 * y
        return torch.tanh(0.7 * x + shift) * align(torch.cos(t), x) - 0.2 * align(t, x) + pull


def network(schedule: Any = COSINE, prediction: str = "v", axes: int = 3) -> NetworkDenoiser:
    return wrap(Elementwise(), schedule, prediction, time_axes=axes, null={"label": 0})


def _posterior(x: Tensor, t: Any) -> Posterior:
    return Posterior(0.3 * x, x, COSINE, t)


def _schedules(x: Tensor, t: Any) -> Tensor:
    out = x * 0
    for s in (VP(), VE(), RectifiedFlow().shift(3.0), LinearBetas(), MeanReverting()):
        for v in (*s.at(t), *s.slope(t), s.lam(t), s.time(s.lam(t))):
            out = out if v is None else out + align(v, x)
    return out


def _transitions(x: Tensor, t: Any) -> Tensor:
    out = x * 0
    for s in (VP(), RectifiedFlow(), VE(), MeanReverting()):
        for end in (0.125, 0.0, 0.875):
            rho, std = s.transition(t, end, 0.5)
            out = out + align(rho, x) + 3 * align(std, x)
    return out


def _label(x: Tensor) -> Tensor:
    return torch.full(x.shape[:1], 0.5, dtype=x.dtype)


# every public function that takes a time, as a map (x, t) -> something like x
PUBLIC: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "align": lambda x, t: align(t, x) * x,
    "Schedule.at, slope, lam, time": _schedules,
    "Schedule.transition": _transitions,
    "Posterior.eps": lambda x, t: _posterior(x, t).eps,
    "Posterior.score": lambda x, t: _posterior(x, t).score,
    "Posterior.velocity": lambda x, t: _posterior(x, t).velocity,
    "Posterior.mix": lambda x, t: _posterior(x, t).mix(_posterior(x, t).replace(x), 3.0).eps,
    **{
        f"Denoiser, {p}": lambda x, t, p=p: network(prediction=p)(x, t).mean for p in ("eps", "x0", "score", "v", "edm")
    },
    "Denoiser, velocity": lambda x, t: network(VP(), "velocity")(x, t).mean,
    "Denoiser, anchored": lambda x, t: network(MeanReverting(), "velocity")(x, t, y=0.5 * x).mean,
    "with_schedule": lambda x, t: with_schedule(network(), VE())(x, t).mean,
    "with_schedule, eps": lambda x, t: with_schedule(network(), RectifiedFlow())(x, t).eps,
    "CFG": lambda x, t: CFG(network(), 3.0, rescale=0.3)(x, t, label=_label(x)).mean,
    "CFG, interval": lambda x, t: CFG(network(), 3.0, interval=sigma(0.4, 0.8))(x, t, label=_label(x)).mean,
}
PER_SAMPLE: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "nats": lambda x, t: network().nats(x, t, x.flip(0)),
    "nats, anchored": lambda x, t: network(MeanReverting()).nats(x, t, x.flip(0), y=0.5 * x),
    "Objective": lambda x, t: Objective()(network(), x, t, x.flip(0)),
    "Objective, min-SNR": lambda x, t: Objective(MinSNR())(network(prediction="eps"), x, t, x.flip(0)),
    "Objective, EDM": lambda x, t: Objective(EDMWeight())(network(VE(), "edm"), x, t, x.flip(0)),
    "Objective, anchored": lambda x, t: Objective()(network(MeanReverting(), "velocity"), x, t, x.flip(0), y=0.5 * x),
}


def test_align_keeps_floats_and_gives_trailing_axes() -> None:
    assert align(0.5, torch.zeros(2, 3)) == 0.5 and type(align(1, torch.zeros(2))) is float
    for x, t in ALIGNED:
        assert align(torch.ones(t), torch.zeros(x)).shape == t + (1,) * (len(x) - len(t))
    parts = align({"a": torch.ones(2), "b": 0.5}, {"a": torch.zeros(2, 3), "b": torch.zeros(2)})
    assert parts["a"].shape == (2, 1) and parts["b"] == 0.5
    assert align(torch.ones(2, dtype=torch.bool), torch.zeros(2, 3)).dtype == torch.bool
    assert align(torch.ones(2, dtype=torch.float64), torch.zeros(2, 3)).dtype == torch.float32


@pytest.mark.parametrize("name", [*PUBLIC, *PER_SAMPLE])
@pytest.mark.parametrize(("x_shape", "t_shape"), ALIGNED)
def test_a_constant_tensor_equals_the_float(name: str, x_shape: tuple[int, ...], t_shape: tuple[int, ...]) -> None:
    x = draw(*x_shape, dtype=torch.float32)
    f = {**PUBLIC, **PER_SAMPLE}[name]
    want = f(x, LEVEL)
    for dtype in (torch.float32, torch.float64):
        got = f(x, torch.full(t_shape, LEVEL, dtype=dtype))
        assert got.dtype == torch.float32 and got.shape == want.shape
        assert (got - want).abs().max() <= 1e-6 * want.abs().max().clamp(min=1)


@pytest.mark.parametrize("name", [k for k in PUBLIC if k != "CFG"])  # its rescale looks at the whole sample
@pytest.mark.parametrize(("x_shape", "t_shape"), ALIGNED)
def test_each_element_is_served_at_its_own_time(name: str, x_shape: tuple[int, ...], t_shape: tuple[int, ...]) -> None:
    x = draw(*x_shape)
    t = torch.linspace(0.06, 0.93, int(torch.tensor(t_shape).prod()), dtype=torch.float64).reshape(t_shape)
    got, own = PUBLIC[name](x, t), align(t, x).expand(x.shape)
    for level in t.flatten()[:: max(1, t.numel() // 7)].tolist():
        here = own == level
        want = PUBLIC[name](x, level)[here]
        assert (got[here] - want).abs().max() <= 1e-9 * want.abs().max().clamp(min=1)


@pytest.mark.parametrize("name", PER_SAMPLE)
@pytest.mark.parametrize("x_shape", [(3, 5), (3, 2, 4, 6), (3, 4, 2, 5, 6)])
def test_a_time_a_sample_in_what_sums_over_a_sample(name: str, x_shape: tuple[int, ...]) -> None:
    x, t = draw(*x_shape), torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    got = PER_SAMPLE[name](x, t)
    assert got.shape == (BATCH,)
    want = torch.stack([PER_SAMPLE[name](x, level)[i] for i, level in enumerate(t.tolist())])
    torch.testing.assert_close(got, want, rtol=1e-9, atol=0)


ALIGNING = [k for k in (*PUBLIC, *PER_SAMPLE) if not k.startswith("Schedule")]


@pytest.mark.parametrize("name", ALIGNING)
@pytest.mark.parametrize(
    ("x_shape", "t_shape"),
    [((3, 5), (4,)), ((3, 5), (5,)), ((3, 5), (3, 5, 1)), ((3, 2, 4, 6), (3, 4)), ((3, 4, 2, 5, 6), (3, 1, 5))],
)
def test_a_wrong_shape_is_refused_with_both(name: str, x_shape: tuple[int, ...], t_shape: tuple[int, ...]) -> None:
    f = {**PUBLIC, **PER_SAMPLE}[name]
    with pytest.raises(ValueError, match=f"{re.escape(str(t_shape))}.*{re.escape(str(x_shape))}"):
        f(draw(*x_shape), torch.full(t_shape, LEVEL, dtype=torch.float64))


def test_parts_need_the_same_keys() -> None:
    with pytest.raises(ValueError, match=r"\['a'\].*\['a', 'b'\]"):
        align({"a": 0.5}, {"a": torch.zeros(2), "b": torch.zeros(2)})
    with pytest.raises(ValueError, match="none"):
        align(0.5, {"a": torch.zeros(2)})


@pytest.mark.parametrize("t", [torch.full((3, 2), 0.5), torch.full((3, 1, 4, 6), 0.5)])
@pytest.mark.parametrize("den", [network(axes=0), with_schedule(network(axes=0), VP()), CFG(network(axes=0), 2.0)])
def test_one_trained_time_refuses_more_and_names_the_alternatives(t: Tensor, den: Denoiser) -> None:
    with pytest.raises(ValueError, match=r"time_axes=0.*shape \(3,\).*clamp=True.*time law") as told:
        den(torch.zeros(3, 2, 4, 6), t, label=torch.zeros(3))
    assert str(tuple(t.shape)) in str(told.value)


def test_times_that_do_not_vary_need_no_axes() -> None:
    x = draw(3, 1, 1, 1)
    assert axes_of(0.5) == axes_of(torch.ones(3)) == axes_of(torch.ones(3, 1, 1)) == 0
    assert axes_of(torch.ones(3, 2)) == 1 and axes_of(torch.ones(1, 1, 4, 6)) == 3
    network(axes=0)(x, torch.full((3, 1, 1, 1), 0.5))
    assert network(axes=0)(draw(3, 2), torch.tensor(0.5)).mean.shape == (3, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_network_sees_a_clock_no_coarser_than_single_precision(dtype: torch.dtype) -> None:
    seen = []

    class Net(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            seen.append((x.dtype, t.dtype, tuple(t.shape)))
            return x

    den = wrap(Net(), COSINE, "v", time_axes=1)
    for t in (0.3, torch.full((1, 4), 0.3, dtype=torch.float64), torch.full((3,), 0.3)):
        assert den(torch.zeros(3, 4, 2, dtype=dtype), t).mean.dtype == dtype
    clock = torch.float64 if dtype == torch.float64 else torch.float32
    assert seen == [(dtype, clock, shape) for shape in ((3,), (3, 4), (3,))]


def test_a_time_in_common_serves_a_batch() -> None:
    """(1, F) is every sample's time, as paths give it."""
    x, t = draw(3, 4, 2), torch.linspace(0.1, 0.9, 4, dtype=torch.float64)[None]
    for den in (network(axes=1), Normal(torch.zeros(4, 2), torch.eye(8), COSINE)):
        torch.testing.assert_close(den(x, t).mean, den(x, t.expand(3, 4)).mean, rtol=1e-12, atol=1e-12)


def test_uniform_logitnormal_and_lognormal_are_maps_of_uniform_numbers() -> None:
    u = torch.tensor([[0.5], [0.8413447460685429], [0.0], [1.0]], dtype=torch.float64)  # 0 and 1 standard deviations
    t = LogitNormal(0.3, 0.7)(u)
    assert t[:2].tolist() == pytest.approx([1 / (1 + exp(-0.3)), 1 / (1 + exp(-1.0))])
    assert bool(((t > 0) & (t < 1)).all())
    torch.testing.assert_close(Uniform(0.2, 0.6)(u), 0.2 + 0.4 * u[:, 0])
    for schedule in (VP(), COSINE, RectifiedFlow()):
        lam = schedule.lam(LogNormal(schedule, -1.2, 1.2)(u[:2]))
        torch.testing.assert_close(lam, torch.tensor([1.2, 0.0]).double(), rtol=1e-6, atol=1e-6)


def _ks(v: np.ndarray) -> float:
    """p-value of Kolmogorov and Smirnov's test against the uniform law (the asymptotic series)."""
    v, n = np.sort(v), len(v)
    d = max((np.arange(1, n + 1) / n - v).max(), (v - np.arange(n) / n).max()) * n**0.5
    return float(2 * sum((-1) ** (k - 1) * np.exp(-2 * k * k * d * d) for k in range(1, 50)))


def test_per_element_law_shares_one_draw_except_with_probability_p() -> None:
    """video-fvdm, proof 4: PTSS with p = 0.2 over 1e5 draws."""
    law, n = PerElement(Uniform(), (0,), 0.2), 100_000
    assert law.shape((4, 3, 8, 8)) == (3, 4)
    t = law(torch.from_numpy(noise.uniform(1, "law", 0, (n, *law.shape((4, 3, 8, 8))))))
    assert t.shape == (n, 4)
    assert abs(float((t == t[:, :1]).all(1).double().mean()) - 0.8) < 0.005
    assert all(_ks(t[:, f].numpy()) > 0.01 for f in range(4))
    own = t[(t != t[:, :1]).any(1)]
    corr = torch.corrcoef(own.T) - torch.eye(4)
    assert corr.abs().max() < 5 / len(own) ** 0.5


def test_per_element_over_pixels_and_too_few_axes() -> None:
    law = PerElement(Uniform(), (1, 2), 1.0)
    assert law.shape((3, 8, 6)) == (3, 1, 8, 6)
    t = law(torch.rand(5, 3, 1, 8, 6, generator=torch.Generator().manual_seed(0)))
    assert t.shape == (5, 1, 8, 6) and t.unique().numel() > 200
    with pytest.raises(ValueError, match=r"axes \(1, 2\).*\(7,\)"):
        law.shape((7,))


def _drawn(law: PerFrame, F: int, n: int = 100_000, name: str = "law") -> Tensor:
    return law(torch.from_numpy(noise.uniform(2, name, 0, (n, *law.shape((F, 3, 8, 8))))))


def _chi2(counts: np.ndarray) -> float:
    """p-value of equal counts (Wilson and Hilferty's normal approximation)."""
    k, expected = counts.size - 1, counts.mean()
    z = ((((counts - expected) ** 2 / expected).sum() / k) ** (1 / 3) - (1 - 2 / (9 * k))) / (2 / (9 * k)) ** 0.5
    return 0.5 * float(torch.erfc(torch.tensor(z / 2**0.5)))


def test_fopp_gives_every_completion_equal_frequency() -> None:
    """video-fvdm, proof 4: four frames, six levels; all vectors that do not fall, given a frame and its level."""
    F, K = 4, 6
    law = NonDecreasing(Uniform(), K)
    u = torch.from_numpy(noise.uniform(3, "fopp", 0, (100_000, *law.shape((F,)))))
    v = (law(u) * (K - 1)).round().long()
    assert bool((v[:, 1:] >= v[:, :-1]).all()) and int(v.min()) == 0 and int(v.max()) == K - 1
    frame, level = (u[:, 1, 0] * F).long(), (u[:, 0, 0] * K).long()
    assert torch.equal(v[torch.arange(len(v)), frame], level)
    base = K ** torch.arange(F)  # each vector as a number
    places = torch.cartesian_prod(*[torch.arange(K)] * F)
    places = places[(places[:, 1:] >= places[:, :-1]).all(1)]
    seen = torch.zeros(F, K, K**F, dtype=torch.long)
    seen.view(-1).index_add_(0, (frame * K + level) * K**F + (v * base).sum(1), torch.ones_like(level))
    for f in range(F):
        for k in range(K):
            counts = seen[f, k, (places[places[:, f] == k] * base).sum(1)].numpy()
            assert counts.sum() == seen[f, k].sum() and (len(counts) == 1 or _chi2(counts) > 0.01 / (F * K))


def test_fopp_in_the_continuum_is_sorted_numbers_on_both_sides() -> None:
    law, F = NonDecreasing(), 5
    u = torch.from_numpy(noise.uniform(4, "fopp", 0, (100_000, *law.shape((F,)))))
    t, frame = law(u), (u[:, 1, 0] * F).long()
    assert bool((t[:, 1:] >= t[:, :-1]).all())
    own = t[frame == 3]
    assert _ks(own[:, 3].numpy()) > 0.01
    # of n sorted uniform numbers v_1 < .. < v_n on [0, b], (v_i / v_{i+1})^i are independent and uniform
    ratios = torch.stack([(own[:, i] / own[:, i + 1]) ** (i + 1) for i in range(3)], 1)
    assert all(_ks(ratios[:, i].numpy()) > 0.01 for i in range(3))
    assert (torch.corrcoef(ratios.T) - torch.eye(3)).abs().max() < 5 / len(own) ** 0.5
    assert _ks(((own[:, 4] - own[:, 3]) / (1 - own[:, 3])).numpy()) > 0.01


def test_rolling_and_ladder_laws_are_the_times_of_sampling() -> None:
    F = 8
    t = _drawn(Rolling(start=0.0), F)
    assert all(_ks(((t[:, f] - f / F) * F).numpy()) > 0.01 for f in range(F))  # rung f, and one s for all
    assert (t - t[:, :1] - torch.arange(F) / F).abs().max() < 1e-12
    first = _drawn(Rolling(start=1.0), F)
    assert _ks(first[:, 0].numpy()) > 0.01 and bool((first[:, 1:] >= first[:, :-1]).all())
    assert abs(float((first[:, F // 2] == 1).double().mean()) - 0.5) < 0.01
    t = _drawn(Rolling(chunks=(1, 2, F), start=0.0), F)
    equal = [(t[:, i::c] == t[:, :1]).all(1).double().mean() for i, c in ((1, F), (1, 2))]
    assert (float(equal[0]), float(equal[1])) == pytest.approx((2 / 3, 1 / 3), abs=0.01)  # chunks of 2 and 8; of 8
    t = _drawn(Ladder(jitter=0.4), F)
    shift = (t[:, 3] - 4 / F) * F / 0.4
    assert abs(float(shift.mean())) < 0.02 and abs(float(shift.var()) - 1) < 0.02
    inside = (t > 0) & (t < 1)
    gap = torch.where(inside[:, 1:] & inside[:, :-1], t.diff(dim=1) * F, 1.0)
    assert (gap - 1).abs().max() < 1e-9 and bool(((t >= 0) & (t <= 1)).all())
    assert bool((_drawn(NonDecreasing(LogitNormal()), F).diff(dim=1) >= 0).all())
    with pytest.raises(ValueError, match=r"chunks of \[3\] frames do not divide clips of 8"):
        _drawn(Rolling(chunks=(1, 3)), F, 10)


def test_known_frames_rest_at_0_and_the_others_share_a_time() -> None:
    u = torch.rand(20_000, 3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = Known((0, -1))(u)
    assert t.shape == (20_000, 6) and not bool(t[:, [0, 5]].any()) and bool((t[:, 1:5] == t[:, 1:2]).all())
    assert float((t[:, 1] - u[:, 0, 0]).abs().max()) < 1e-3
    t = Known(p=0.5)(u)
    level, known = t.amax(1, keepdim=True), (t == 0).sum(1)
    assert bool(((t == 0) | (t == level)).all()) and float((level[:, 0] - u[:, 0, 0]).abs().max()) < 1e-3
    # with probability p the number of known frames is uniform in 0 .. F, and all F of them count as F - 1
    want = torch.tensor([1 / 2 + 1 / 14, *[1 / 14] * 4, 2 / 14])
    share = torch.bincount(known, minlength=6) / len(t)
    assert bool(((share - want).abs() < 4 * (want / len(t)).sqrt()).all())
    assert float((t == 0).double().mean(0).std()) < 0.01, "every frame alike"
    for frames in ((6,), (-7,), tuple(range(6)), (0, 1, 2, 3, 4, -1)):
        with pytest.raises(ValueError, match="of clips of 6 frames: some of them were expected, not all"):
            Known(frames).shape((6, 1, 8, 8))
    with pytest.raises(ValueError, match="of clips of 1 frames"):
        Known().shape((1, 1, 8, 8))
