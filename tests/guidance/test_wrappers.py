"""What holds for every guidance wrapper: alignment of time, batch splits, scales a sample, intervals, no density."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch

from helpers import draw
from oneprior import paths
from oneprior.denoiser import Denoiser, wrap
from oneprior.guidance import (
    APG,
    CFG,
    PAG,
    AutoGuidance,
    CFGpp,
    CFGZero,
    Distilled,
    Scales,
    Several,
    SkipLayer,
    Threshold,
    sigma,
    time,
)
from oneprior.guidance.scale import check_scale
from oneprior.nets import UNetConfig, build
from oneprior.sampling import sample
from oneprior.schedules import VP
from oneprior.uses.classify import classify
from oneprior.uses.likelihood import bound, likelihood

SHAPE, TIMES = (2, 4, 4), (0.9, 0.6, 0.3, 0.0)


def network(seed: int = 0) -> Denoiser:
    config = UNetConfig(SHAPE, classes=3, vector=2, channels=(8, 8), attention=(-1,), time_axes=3)
    net = build(config, seed=seed).double()
    with torch.no_grad():  # a fresh network answers 0
        for i, p in enumerate(net.parameters()):
            p.add_(0.2 * draw(*p.shape, seed=100 + i))
    return wrap(net, VP(), "v", time_axes=3, null={"label": 3, "vector": torch.zeros(1, 2)})


DEN = network()
BAD = network(1)
LAYER = ["mid.blocks.0.attention.own"]


class Case(NamedTuple):
    make: Callable[..., Denoiser]
    """(scale, **interval) -> wrapper"""
    plain: float | None = 1.0
    vector: bool = True
    interval: bool = True


CASES = {
    "cfg": Case(lambda w, **k: CFG(DEN, w, **k)),
    "several": Case(lambda w, **k: Several(DEN, {"label": w, "vector": 1.5}, **k), None),
    "cfg++": Case(lambda w, **k: CFGpp(DEN, w, **k), None),
    "apg": Case(lambda w, **k: APG(DEN, w, norm=1.0, momentum=-0.5, **k)),
    "autoguidance": Case(lambda w, **k: AutoGuidance(DEN, BAD, w, **k)),
    "pag": Case(lambda w, **k: PAG(DEN, LAYER, w, **k), 0.0),
    "skip": Case(lambda w, **k: SkipLayer(DEN, ["mid.blocks.0"], w, **k), 0.0),
    "zero*": Case(lambda w, **k: CFGZero(DEN, w, zero=0, **k)),
    "zero* and still": Case(lambda w, **k: CFGZero(DEN, w, zero=1, **k), None),
    "threshold": Case(lambda w, **k: Threshold(CFG(DEN, w), 0.9, limit=0.5), None, interval=False),
    "distilled": Case(lambda w: Distilled(DEN, w, Scales(0.1, 9.0, waves=1)), None, False, False),
}
every = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def conds(n: int, case: Case) -> dict[str, Any]:
    out = {"label": torch.arange(n) % 3}
    return {**out, "vector": draw(n, 2, seed=7)} if case.vector else out


def begun(den: Denoiser) -> Denoiser:
    return den.begin(paths.sync(TIMES))


@every
def test_time_as_a_float_a_sample_or_a_pixel(case: Case) -> None:
    x, cond = draw(3, *SHAPE), conds(3, case)
    make = lambda: begun(case.make(3.0))  # noqa: E731 (a trajectory each: momentum)
    for t in TIMES[:3]:
        want = make()(x, t, **cond).mean
        for shape in ((3,), (1,), (3, 1, 4, 4)):
            for dtype in (torch.float64, torch.float32):
                got = make()(x, torch.full(shape, t, dtype=dtype), **cond).mean
                assert (got - want).abs().max() < (1e-9 if dtype == torch.float64 else 1e-3), (t, shape)
    mixed = make()(x, torch.tensor(TIMES[:3], dtype=torch.float64), **cond).mean
    for i in range(3):
        alone = make()(x[i : i + 1], TIMES[i], **{k: v[i : i + 1] for k, v in cond.items()}).mean
        assert (mixed[i : i + 1] - alone).abs().max() < 1e-9


@every
def test_a_sample_is_the_same_in_any_batch(case: Case) -> None:
    start, cond, den = draw(4, *SHAPE), conds(4, case), case.make(3.0)

    def run(i: int, j: int) -> torch.Tensor:
        some = {k: v[i:j] for k, v in cond.items()}
        kwargs: Any = {"steps": 4, "sampler": "sde2m", "seeds": range(i, j), "start": start[i:j]}
        return sample(den, (j - i, *SHAPE), **kwargs, **some)

    whole = run(0, 4)
    assert (torch.cat([run(0, 1), run(1, 4)]) - whole).abs().max() < 1e-9
    assert torch.equal(run(0, 4), whole), "nothing is left over from a run"


@every
def test_a_scale_a_sample(case: Case) -> None:
    x, cond, scales = draw(3, *SHAPE), conds(3, case), torch.tensor([0.5, 2.0, 5.0])
    together = begun(case.make(scales))(x, 0.6, **cond).mean
    for i in range(3):
        alone = begun(case.make(float(scales[i])))(x[i : i + 1], 0.6, **{k: v[i : i + 1] for k, v in cond.items()})
        assert (together[i : i + 1] - alone.mean).abs().max() < 1e-9
    with pytest.raises(ValueError, match=r"\(2,\)|2.*3"):
        begun(case.make(torch.tensor([2.0, 3.0])))(x, 0.6, **cond)


@every
def test_no_likelihood_of_the_guided(case: Case) -> None:
    den, x, cond = case.make(3.0), draw(2, *SHAPE), conds(2, case)
    assert not den.facts.density and DEN.facts.density
    cond.pop("label")
    for asked in (
        lambda: likelihood(den, x, label=torch.tensor([0, 1]), **cond),
        lambda: bound(den, x, label=torch.tensor([0, 1]), **cond),
        lambda: classify(den, x, {"label": torch.arange(3)}, **cond),
    ):
        with pytest.raises(ValueError, match=r"no model of a density \(guided or restored\).*\.inner"):
            asked()


@pytest.mark.parametrize("name", sorted(set(CASES) - {"threshold"}))
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), torch.tensor([1.0, float("nan"), 2.0])], ids=str)
def test_a_scale_that_is_no_number_is_refused(name: str, bad: Any) -> None:
    case = CASES[name]
    with pytest.raises(ValueError, match=r"(scale|strength|s)\b.*(finite|NaN)"):
        case.make(bad)


@every
def test_intervals(case: Case) -> None:
    if not case.interval:
        return
    x, cond = draw(3, *SHAPE), conds(3, case)
    plain = {t: DEN(x, t, **cond).mean for t in TIMES[:3]}
    for interval in (time(0.5, 0.7), sigma(*(VP().at(t)[2] / VP().at(t)[0] for t in (0.5, 0.7)))):
        limited = begun(case.make(3.0, interval=interval))
        assert torch.equal(limited(x, 0.3, **cond).mean, plain[0.3])
        assert not torch.allclose(limited(x, 0.6, **cond).mean, plain[0.6])
        limited = begun(case.make(3.0, interval=interval))  # momentum begins anew
        assert torch.equal(limited(x, 0.6, **cond).mean, begun(case.make(3.0))(x, 0.6, **cond).mean)
    t = torch.full((3, 1, 4, 4), 0.3).double()
    t[:, :, 2:] = 0.6
    if case is not CASES["zero* and still"]:
        got = begun(case.make(3.0, interval=time(0.5, 0.7)))(x, t, **cond).mean
        outside = DEN(x, t, **cond).mean
        assert torch.allclose(got[:, :, :2], outside[:, :, :2], atol=1e-9)
        assert not torch.allclose(got[:, :, 2:], outside[:, :, 2:])


@every
def test_plain(case: Case) -> None:
    if case.plain is not None:
        x, cond = draw(3, *SHAPE), conds(3, case)
        assert torch.equal(begun(case.make(case.plain))(x, 0.6, **cond).mean, DEN(x, 0.6, **cond).mean)
        ones = begun(case.make(torch.full((3,), case.plain)))(x, 0.6, **cond).mean
        assert torch.allclose(ones, DEN(x, 0.6, **cond).mean, atol=1e-12)


@every
def test_gradients_pass(case: Case) -> None:
    x, cond, v = draw(2, *SHAPE).requires_grad_(), conds(2, case), draw(2, *SHAPE, seed=5)
    f = lambda x: begun(case.make(3.0))(x, 0.6, **cond).mean  # noqa: E731
    (g,) = torch.autograd.grad(f(x).sum(), x)
    with torch.no_grad():
        slope = (f(x + 1e-5 * v).sum() - f(x - 1e-5 * v).sum()) / 2e-5
    assert float((g * v).sum()) == pytest.approx(float(slope), rel=1e-4)


def test_the_check_of_a_scale() -> None:
    w = torch.tensor([1.0, 2.0])
    assert check_scale(2) == 2.0 and check_scale(w) is w and check_scale(torch.tensor(3.0)) == 3.0
    with pytest.raises(ValueError, match=r"strength = nan: a finite number was expected"):
        check_scale(float("nan"), "strength")
    with pytest.raises(TypeError, match="'4'"):
        check_scale("4")
