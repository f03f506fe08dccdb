"""A time a frame, through everything: a constant tensor is the float, what is held stays bit for bit, and frames that
are permuted come out permuted. What does not take part is listed here with the reason."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import Simple, draw
from oneprior import paths
from oneprior.denoiser import Denoiser, Facts, wrap
from oneprior.exact import Gaussian
from oneprior.guidance import (
    APG,
    CFG,
    MMPS,
    PAG,
    TMPD,
    AutoGuidance,
    CFGpp,
    CFGZero,
    ClassifierGuidance,
    Distilled,
    History,
    PiGDM,
    RewardGuidance,
    Scales,
    Several,
    SkipLayer,
    Threshold,
    Tiled,
)
from oneprior.guidance.diffpir import DiffPIR
from oneprior.nets import ClipConfig, DiTConfig, build
from oneprior.noise import Seeded
from oneprior.operators import Blur, EachFrame, Mask, Measurement, Pool
from oneprior.paths import Hold, Path
from oneprior.posterior import Posterior
from oneprior.sampling import SAMPLERS, sample
from oneprior.schedules import Cosine
from oneprior.times import align
from oneprior.uses.restore import METHODS, restore
from oneprior.uses.restore.run import paired_off

B, F = 2, 4
SHAPE = (B, F, 1, 4, 4)
PERM = torch.tensor([2, 0, 3, 1])
LABEL = torch.tensor([0, 1])
PATH = paths.ranked([1, 0, 2, 1], [1.0, 0.8, 0.4, 0.2, 0.0], 1)


def moves(x: Tensor, t: Any, label: Tensor | None = None, **_: Any) -> Tensor:
    """Nothing linear; frames see one another, none of them by its place."""
    t = torch.as_tensor(align(t, x), dtype=x.dtype)
    shift = 0.0 if label is None else 0.2 * align(label.to(x), x)
    return torch.tanh(1.2 * x + shift) * (0.9 - 0.3 * t) + 0.1 * (x * (1 - t)).mean(1, keepdim=True).tanh()


class Told(Simple):
    """With a variance, for the samplers that ask for one."""

    def posterior(self, x: Tensor, t: Any, **cond: Any) -> Posterior:
        return Posterior(self.f(x, t, **cond), x, self.schedule, t, 0.05 + 0 * x)


DEN = Told(moves, Cosine(), 1, {"label": 2, "vector": torch.zeros(1, 2)})


def networks() -> Denoiser:
    frame = DiTConfig((1, 4, 4), patch=2, width=8, depth=2, heads=2, classes=2)
    net = build(ClipConfig((F, 1, 4, 4), frame=frame, head=4), 0).double()
    with torch.no_grad():
        for i, p in enumerate(net.parameters()):
            p += 0.2 * draw(*p.shape, seed=i)
    return wrap(net, Cosine(), "v", time_axes=1, null={"label": 2})


MASK = Mask((draw(1, 1, 1, 4, 4, seed=5) > 0).float())
SEEN = Measurement(MASK(0.5 * draw(*SHAPE, seed=9)), MASK, 0.1)
MIXED = Measurement(SEEN.y[:, PERM], MASK, 0.1)
GUIDED: dict[str, Callable[..., Denoiser]] = {
    "cfg": lambda d: CFG(d, 2.0, rescale=0.5),
    "several": lambda d: Several(d, {"label": 2.0, "vector": 1.5}),
    "cfg++": lambda d: CFGpp(d, 0.6),
    "apg": lambda d: APG(d, 3.0, norm=1.0, momentum=-0.5),
    "zero*": lambda d: CFGZero(d, 2.0, zero=0),
    "autoguidance": lambda d: AutoGuidance(d, Told(lambda x, t, **_: 0.5 * moves(x, t), Cosine(), 1), 2.0),
    "threshold": lambda d: Threshold(CFG(d, 2.0), 0.9, limit=0.5),
    "distilled": lambda d: Distilled(d, 2.0, Scales(0.1, 9.0, waves=1)),
    "classifier": lambda d: ClassifierGuidance(d, lambda x, t: -(x * x).flatten(1).sum(1), 0.1),
    "reward": lambda d: RewardGuidance(d, lambda x: -(x - 0.2).square().flatten(1).sum(1), rho=0.2),
    "history": lambda d: History(d, range(F), 1.5, drop=0.5),
    "mmps": lambda d, seen=SEEN: MMPS(d, seen, iterations=8),
    "pigdm": lambda d, seen=SEEN: PiGDM(d, seen),
    "tmpd": lambda d, seen=SEEN: TMPD(d, seen),
    "diffpir": lambda d, seen=SEEN: DiffPIR(d, seen),
    "pag": lambda d: PAG(NETWORK, ["frame.blocks.1.attention"], 2.0),
    "skip": lambda d: SkipLayer(NETWORK, ["frame.blocks.1"], 2.0),
}
NETWORK = networks()
BY_PLACE = {
    "pag": "perturbs a network, and ours tells frames apart by their place",
    "skip": "perturbs a network, and ours tells frames apart by their place",
    "history": "its noise is addressed by the place of a frame; with that noise permuted it takes part",
}
EXCLUDED = {
    "Tiled": "windows are of pictures (B, C, H, W); clips are not cut in space",
    "PerStep, and the shapes of rewards": "are stated for a path of one track (their card)",
    "restore's own loops": "have one time for the clip; they run on clips below, frames permuted too",
}
KINDS = pytest.mark.parametrize("kind", GUIDED)


def permuted(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, noise of frames in the order PERM."""
    plain = Seeded.__call__

    def call(self: Seeded, stage: int, like: Tensor, key: str = "") -> Tensor:
        n = plain(self, stage, like, key)
        return n[:, PERM] if n.ndim == len(SHAPE) and n.shape[1] == F else n

    monkeypatch.setattr(Seeded, "__call__", call)


def draws(den: Denoiser, name: Any = "ddim", path: Path = PATH, /, **how: Any) -> Tensor:
    return sample(den, SHAPE, path=path, sampler=name, seeds=range(B), label=LABEL, **how)


def close(a: Tensor, b: Tensor, tol: float = 1e-5) -> None:
    assert (a - b).abs().max() <= tol * b.abs().max().clamp(min=1)


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    together = paths.sync([1.0, 0.7, 0.3, 0.0])
    apart = Path(together.matrix.expand(-1, F), torch.arange(F)[None])
    close(draws(DEN, name, apart), draws(DEN, name, together))
    value, mask = draw(*SHAPE, dtype=torch.float32), torch.tensor([[True, False, False, True]])
    for path in (PATH, together):
        x = draws(DEN, name, path, hold=Hold(value, mask))
        assert torch.equal(x[:, [0, 3]], value[:, [0, 3]]) and bool(x.isfinite().all())
    plain = draws(DEN, name)
    permuted(monkeypatch)
    close(draws(DEN, name, Path(PATH.matrix[:, PERM], torch.arange(F)[None])), plain[:, PERM])


@KINDS
def test_guidance_at_a_time_a_frame(kind: str) -> None:
    x, cond = 0.7 * draw(*SHAPE), {"label": LABEL} | ({"vector": draw(B, 2)} if kind == "several" else {})
    made, given = GUIDED[kind], {"seen": MIXED} if kind in ("mmps", "pigdm", "tmpd", "diffpir") else {}
    asked = lambda x, t, **how: made(DEN, **how).begin(PATH)(x, t, **cond).mean  # noqa: E731 (its own trajectory)
    want = asked(x, 0.4)
    close(asked(x, torch.full((B, F), 0.4, dtype=torch.float64)), want, 1e-9)
    close(asked(x, torch.full((1, F), 0.4, dtype=torch.float64)), want, 1e-9)
    if kind not in BY_PLACE:
        t = torch.tensor([[0.2, 0.8, 0.4, 1.0]], dtype=torch.float64)
        close(asked(x[:, PERM], t[:, PERM], **given), asked(x, t)[:, PERM], 1e-7)
        assert float((asked(x, t) - want).abs().max()) > 1e-3, "the times matter"


@KINDS
def test_guidance_leaves_what_is_held(kind: str) -> None:
    value, mask = 0.5 * draw(*SHAPE, dtype=torch.float64), torch.tensor([[False, True, False, False]])
    cond = {"vector": draw(B, 2)} if kind == "several" else {}
    start = draw(*SHAPE, seed=3)
    x = draws(GUIDED[kind](DEN), hold=Hold(value, mask), start=start, **cond)
    assert torch.equal(x[:, 1], value[:, 1]) and bool(x.isfinite().all()) and not torch.equal(x[:, 0], start[:, 0])
    t = torch.tensor([[0.4, 0.0, 0.8, 0.2]], dtype=torch.float64)
    assert bool(GUIDED[kind](DEN).begin(PATH)(start, t, label=LABEL, **cond).mean.isfinite().all())


def test_history_is_permuted_with_its_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    x, t = draw(*SHAPE), torch.tensor([[0.0, 0.9, 0.1, 0.3]], dtype=torch.float64)
    want = History(DEN, [0, 2], 2.0, drop=0.6)(x, t, label=LABEL).mean
    permuted(monkeypatch)
    there = [PERM.tolist().index(f) for f in (0, 2)]
    close(History(DEN, there, 2.0, drop=0.6)(x[:, PERM], t[:, PERM], label=LABEL).mean, want[:, PERM], 1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_restorers_take_clips(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames and their noise permuted, results are permuted; of masks the operator of pictures is the same."""
    how: dict[str, Any] = {"method": method, "steps": 4, "seeds": range(B), "label": LABEL}
    if method == "twisted":
        how["method"] = replace(METHODS["twisted"].settings, count=3)
    noise = 0.0 if METHODS[method].function.startswith("red_diff") else 0.1
    out = restore(DEN, replace(SEEN, noise=noise), **how).x
    assert out.shape == SHAPE and bool(out.isfinite().all())
    if method == "twisted":
        return  # whole particles are chosen among by numbers of their own; frames have no part in it
    permuted(monkeypatch)
    close(restore(DEN, replace(MIXED, noise=noise), **how).x, out[:, PERM], 1e-3)


@pytest.mark.parametrize("operator", [Pool(2), Blur.gaussian(1.0, 3)])
def test_operators_of_pictures_work_on_frames(operator: Any) -> None:
    x = draw(*SHAPE)
    A = EachFrame(operator)
    y = A(x)
    torch.testing.assert_close(y[:, 2], operator(x[:, 2]))
    assert A.domain(tuple(y.shape)) == SHAPE
    left, right = (y * A(x)).sum(), (A.adjoint(y) * x).sum()
    torch.testing.assert_close(left, right)
    z, gamma = draw(*SHAPE, seed=2), 3.0
    p = A.prox(z, y, gamma)
    grad = gamma * A.adjoint(A(p) - y) + p - z
    assert grad.abs().max() < 1e-6
    torch.testing.assert_close(A(A.pinv(y)), y, rtol=1e-5, atol=1e-5)


def test_restoring_a_clip_knows_its_other_frames() -> None:
    """AR(1) frames, the middle one hidden: the mean of exact draws is that of the conditional law."""
    i = torch.arange(3, dtype=torch.float64)
    law = Gaussian(torch.zeros(3, 1, 1, 1), 0.9 ** (i[:, None] - i).abs())
    mask = Mask(torch.tensor([1.0, 0.0, 1.0]).reshape(1, 3, 1, 1, 1))
    y = torch.tensor([1.0, 0.0, 0.4]).reshape(1, 3, 1, 1, 1)
    seeds = paired_off(range(200), 200)
    out = restore(law.denoiser(Cosine(), 1), Measurement(mask(y), mask, 0.01), draws=200, steps=20, seeds=seeds)
    want = law.condition(mask, mask(y), 0.01)
    assert abs(float(out.mean[0, 1] - want.mean[1])) < 0.02
    assert float(out.std[0, 1]) == pytest.approx(float(want.cov[1, 1]) ** 0.5, rel=0.25)


def test_those_left_out_say_so() -> None:
    with pytest.raises(ValueError, match=r"do not fit into x of shape \(2, 4, 1, 4, 4\)"):
        Tiled(DEN, (2, 2))(torch.zeros(SHAPE), 0.5)
    scalar = Told(moves, Cosine(), 0)
    assert scalar.facts == Facts(time_axes=0) and len(EXCLUDED) == 3
    with pytest.raises(ValueError, match="time_axes=0"):
        sample(scalar, SHAPE, path=PATH, seeds=range(B))
