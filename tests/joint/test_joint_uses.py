"""Samplers, guidance and restorers of one part meet the times of the others: the same call with another dict.

Every kind is asked of `Single(joint, "point")`, whose law given a label is a Gaussian and without it the mixture, both
written down apart from the joint denoiser. Left out: perturbed attention and skipped layers (they need a network with
attention, and an exact denoiser has none), distillation (it trains), and samplers of the posterior's variance, which a
joint posterior has not.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from joint_laws import MEANS, PI, Gaussians, Labelled, OfClass
from torch import Tensor

from helpers import draw
from oneprior.denoiser import Denoiser
from oneprior.guidance import (
    APG,
    CFG,
    MMPS,
    AutoGuidance,
    CFGpp,
    CFGZero,
    ClassifierGuidance,
    RewardGuidance,
    Several,
    Threshold,
)
from oneprior.joint import Aggregated, Inside, Marginals, Noisy, Single, given
from oneprior.operators import Mask, Measurement
from oneprior.paths import Path
from oneprior.posterior import Posterior
from oneprior.sampling import SAMPLERS, sample
from oneprior.uses.classify import classify
from oneprior.uses.errors import Plan
from oneprior.uses.restore import METHODS, restore

N = 4
KINDS: dict[str, Callable[[Denoiser], Denoiser]] = {
    "none": lambda den: den,
    "cfg": lambda den: CFG(den, 2.0),
    "cfg, rescaled": lambda den: CFG(den, 2.0, rescale=0.5),
    "cfg++": lambda den: CFGpp(den, 0.6),
    "apg": lambda den: APG(den, 2.0, norm=1.0, momentum=-0.5),
    "cfg-zero": lambda den: CFGZero(den, 2.0),
    "several": lambda den: Several(den, {"label": 2.0}),
    "autoguidance": lambda den: AutoGuidance(den, OfClass(None), 1.5),
    "threshold": lambda den: Threshold(den, 0.9),
    "reward": lambda den: RewardGuidance(den, lambda x: -(x - 1).square().sum(1)),
    "classifier": lambda den: ClassifierGuidance(den, lambda x, t: -x.square().sum(1), 0.02),
}


class ByLabel(Denoiser):
    """The same law without parts: one exact denoiser a class, and the mixture as its null."""

    def __init__(self) -> None:
        super().__init__()
        from oneprior.denoiser import Facts

        self.own = torch.nn.ModuleList([*(OfClass(c) for c in range(3)), OfClass(None)])
        self.schedule, self.facts = OfClass(0).schedule, Facts(null={"label": torch.tensor([3])})

    def posterior(self, x: Tensor, t: Any, *, label: Tensor, **cond: Any) -> Posterior:
        every = [own(x, t).mean for own in self.own]
        return Posterior(torch.stack(every, 1)[torch.arange(len(x)), label.reshape(-1)], x, self.schedule, t)


LABEL = torch.tensor([0, 1, 2, 1])

TOLD = [name for name, s in SAMPLERS.items() if not s.solver.variance]  # these denoisers tell no variance


@pytest.mark.parametrize("kind", KINDS)
def test_guidance_reads_the_others_times(kind: str) -> None:
    """The label at 0 is the class, at 1 the mixture, with the very numbers of a model that was conditioned; a constant
    tensor of its time is the float."""
    single, plain, make = Single(Labelled(), "point"), ByLabel(), KINDS[kind]
    how: dict[str, Any] = {"steps": 5, "sampler": "ddim", "seeds": range(N)}
    want = sample(make(plain), (N, 2), label=LABEL, **how)
    x = sample(make(single), (N, 2), label=LABEL, **how)
    torch.testing.assert_close(x, want, rtol=1e-5, atol=1e-5)
    told = sample(make(single), (N, 2), label=LABEL, label_time=torch.zeros(N), **how)
    torch.testing.assert_close(told, x, rtol=0, atol=0)
    null = torch.full((N,), 3)
    left = sample(make(single), (N, 2), label=null, label_time=0.4, **how)
    torch.testing.assert_close(left, sample(make(plain), (N, 2), label=null, **how), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_guided_inside_the_walk_of_all_parts(kind: str) -> None:
    """What is given stays as it came, bit for bit; the point is that of the view alone."""
    den = Inside(Labelled(), "point", KINDS[kind])
    hold = given(den, {"label": LABEL}, N)
    shapes = {"point": (N, 2), "label": (N, 1)}
    start = {"point": draw(N, 2), "label": torch.zeros(N, 1).long()}
    how: dict[str, Any] = {"steps": 5, "sampler": "ddim", "seeds": range(N)}
    x = sample(den, shapes, hold=hold, start=start, **how)
    assert torch.equal(x["label"][:, 0], LABEL)
    alone = sample(KINDS[kind](Single(Labelled(), "point")), (N, 2), start=start["point"], label=LABEL, **how)
    torch.testing.assert_close(x["point"], alone)
    free = sample(den, shapes, seeds=range(N), steps=5)
    assert int(free["label"].max()) < 3 and bool(free["point"].isfinite().all())


@pytest.mark.parametrize("name", TOLD)
def test_samplers_take_a_time_a_part(name: str) -> None:
    """Tracks as maps of tensors are the tracks as numbers; a part that rests is bit-identical."""
    fall = torch.linspace(1, 0, 7).double()
    matrix = torch.stack([fall, fall**2, torch.zeros(7).double()], 1)
    den, y = Gaussians(), torch.tensor([0.5, -1.0])
    start = {"x": draw(N, 3), "y": y.double().expand(N, 2)}
    shapes = {"x": (N, 3), "y": (N, 2)}
    how: dict[str, Any] = {"sampler": name, "seeds": range(N), "start": start}
    plain = sample(den, shapes, path=Path(matrix, {"x": 0, "y": 2}), **how)
    maps = {"x": torch.zeros(1, dtype=torch.long), "y": torch.full((1,), 2)}
    again = sample(den, shapes, path=Path(matrix, maps), **how)
    assert torch.equal(plain["y"], start["y"]) and torch.equal(again["y"], start["y"])
    torch.testing.assert_close(again["x"], plain["x"], rtol=1e-9, atol=1e-9)
    both = sample(den, shapes, path=Path(matrix, {"x": 0, "y": 1}), **how)
    assert not torch.equal(both["y"], start["y"]) and bool(both["x"].isfinite().all())


@pytest.mark.parametrize("method", METHODS)
def test_restorers_read_the_others_times(method: str) -> None:
    y = torch.tensor([[0.3, 0.0]]).double().expand(N, 2)
    operator = Mask(torch.tensor([[True, False]]))
    m = Measurement(operator(y), operator, 0.0 if METHODS[method].function.startswith("red_diff") else 0.1)
    how: dict[str, Any] = {"method": method, "steps": 6, "seeds": range(N), "label": LABEL}
    want = restore(ByLabel(), m, **how)
    got = restore(Single(Labelled(), "point"), m, **how)
    torch.testing.assert_close(got.draws, want.draws, rtol=1e-5, atol=1e-5)


def test_restoring_a_point_and_drawing_its_label() -> None:
    """The label comes last, since it knows of the measurement through the point alone: p(c | x) of restored points."""
    n, y = 600, 0.9
    operator = Mask(torch.tensor([[True, False]]))
    m = Measurement(operator(torch.tensor([[y, 0.0]]).double().expand(n, 2)), operator, 0.3)
    den = Inside(Labelled(), "point", lambda d: MMPS(d, m))
    fall, rest = torch.linspace(1, 0, 21).double(), torch.ones(21).double()
    matrix = torch.cat([torch.stack([fall, rest], 1), torch.zeros(1, 2).double()])
    path = Path(matrix, {"point": 0, "label": 1})
    x = sample(den, {"point": (n, 2), "label": (n, 1)}, path=path, sampler="2m", seeds=range(n))
    p = (PI.log() + Labelled().classes(x["point"], 0.0)[0]).softmax(1)
    share = torch.bincount(x["label"].flatten(), minlength=3)[:3].double() / n
    assert float(((share - p.mean(0)).abs() / ((p * (1 - p)).mean(0) / n).sqrt()).max()) < 4.5, (share, p.mean(0))
    assert float(share[0]) > 0.8 and abs(float(x["point"][:, 0].mean()) - y) < 0.1, "it was restored"


def test_a_joint_model_classifies() -> None:
    """One table of errors: the label of a point by the bound, against Bayes' rule."""
    x = MEANS + 0.2 * draw(3, 2)
    conds = {"label": torch.arange(3)}
    out = classify(Single(Labelled(), "point"), x, conds, Plan(n=64, lam=(-4.0, 4.0)))
    log, _ = Labelled().classes(x, 0.0)
    assert torch.equal(out.x, (log).argmax(1)), out.logits


def test_marginal_guidance() -> None:
    """D + (w - 1)(D - D alone), tokens in log-probabilities, of the parts that have a scale."""
    den, x = Labelled(), {"point": draw(N, 2), "label": torch.tensor([[0], [3], [2], [3]])}
    t = {"point": 0.5, "label": 0.6}
    plain, guided = den(x, t), Marginals(den, 3.0)(x, t)
    alone = OfClass(None)(x["point"], 0.5).mean
    torch.testing.assert_close(guided["point"].mean, alone + 3 * (plain["point"].mean - alone))
    torch.testing.assert_close(guided["point"].mean[1], plain["point"].mean[1])  # of a masked label nothing is known
    p, q = plain["label"].mean[1, 0, :3], PI
    want = (q * (p / q) ** 3) / (q * (p / q) ** 3).sum()
    torch.testing.assert_close(guided["label"].mean[1, 0, :3], want)
    assert float(guided["label"].mean[0, 0, 0]) == 1.0
    one = Marginals(den, {"point": 2.0})(x, t)
    assert torch.equal(one["label"].mean, plain["label"].mean)
    assert torch.equal(Marginals(den, 1.0)(x, t)["point"].mean, plain["point"].mean)
    with pytest.raises(ValueError, match=r"scales of \['sound'\]"):
        Marginals(den, {"sound": 2.0})


def test_a_tensor_that_is_given() -> None:
    """Ports of tensors: a NaN row is not given, NAME_time is the time of those that are."""
    single, den = Single(Gaussians(), "x"), Gaussians()
    x, y = draw(N, 3), draw(N, 2, seed=1)
    y[1] = torch.nan
    got = single(x, 0.4, y=y, y_time=torch.full((N,), 0.3)).mean
    rest = den({"x": x, "y": y.nan_to_num(0.0)}, {"x": 0.4, "y": 0.3})["x"].mean
    none = den({"x": x, "y": torch.zeros(N, 2).double()}, {"x": 0.4, "y": 1.0})["x"].mean
    torch.testing.assert_close(got[[0, 2, 3]], rest[[0, 2, 3]])
    torch.testing.assert_close(got[1], none[1])
    torch.testing.assert_close(single(x, 0.4).mean, none)


def test_the_aggregated_code() -> None:
    """What is known enters exactly, the rest as the heads guess; with nothing known it is the code's own mean."""
    den, x = Labelled(), draw(N, 2)
    table = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)).double()
    encoders, weights = {"label": lambda p: (p @ table)[:, 0]}, {"label": 0.3}
    view = Aggregated(den, encoders, weights, code="point")
    torch.testing.assert_close(view(x, 0.5).mean, OfClass(None)(x, 0.5).mean)
    assert view.heads(x, 1.0)["label"].mean[:, 0, :3].allclose(PI.expand(N, 3))
    known = torch.eye(4).double()[LABEL][:, None]
    told = Aggregated(den, encoders, weights, {"label": known}, code="point")
    torch.testing.assert_close(told(x, 0.5).mean, 0.3 * table[LABEL])
    with pytest.raises(ValueError, match=r"encoders and weights of \['label'\]"):
        Aggregated(den, {}, {}, code="point")


def test_what_given_refuses() -> None:
    den = Labelled()
    for values, parts, said in (
        ({"sound": 1}, None, r"\['sound'\] was given or asked for"),
        ({}, ("sound",), r"\['sound'\] was given or asked for"),
        ({"label": 1}, ("label",), r"\['label'\] is given, and to be drawn"),
        ({"label": 1, "point": torch.zeros(2)}, None, "every part is given"),
        ({"label": Noisy(1, 1.5)}, None, "at time 1.5"),
        ({"point": torch.zeros(3)}, None, r"'point' was given as \(3,\)"),
        ({"label": torch.zeros(5)}, None, r"'label' was given as \(5, 1\)"),
    ):
        with pytest.raises(ValueError, match=said):
            given(den, values, N, parts)
    assert given(den, {}, N) is None
    with pytest.raises(ValueError, match=r"the sample has the part 'sound'; this denoiser is of \['label', 'point'\]"):
        sample(den, {"point": (2, 2), "sound": (2, 2)}, seeds=[1, 2], steps=2)
