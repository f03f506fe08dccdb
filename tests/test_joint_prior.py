"""A prior of pictures and labels: what it draws given what, its verbs, what its folder brings back, what it refuses."""

from pathlib import Path
from typing import Any

import pytest
import torch

import oneprior
from oneprior.codecs import Pixels
from oneprior.conditions import Conditions, Label
from oneprior.data import Packed, digits, subset
from oneprior.joint import Independent, JointDenoiser, JointObjective, Noisy
from oneprior.joint_prior import JointPrior
from oneprior.nets import JointConfig, build
from oneprior.operators import Mask
from oneprior.prior import Prior
from oneprior.schedules import Cosine
from oneprior.tokens import Absorbing
from oneprior.training.settings import TrainSettings
from oneprior.training.trainer import Trainer

NAMES = tuple("abcdefghij")
SHAPES = {"image": (1, 8, 8), "label": (1,)}


def denoiser(seed: int = 0) -> JointDenoiser:
    net = build(JointConfig(SHAPES, {"label": 11}, fields={"width": 32, "depth": 1}), seed)
    g = torch.Generator().manual_seed(1)
    for p in net.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=g)
    return JointDenoiser(net, SHAPES, {"image": Cosine(), "label": Absorbing(11)})


@pytest.fixture(scope="module")
def prior() -> Any:
    facts = {"shape": [1, 8, 8], "data": {"name": "tiny"}}
    return JointPrior(denoiser(), Pixels(17), Conditions({"label": Label(NAMES)}), facts)


def test_what_it_draws(prior: Any) -> None:
    both = prior.sample(3, seeds=range(3), steps=4)
    assert both.x.shape == (3, 1, 8, 8) and 0 <= float(both.x.min()) <= float(both.x.max()) <= 1
    assert set(both.parts) == {"image", "label"} and both.nfe == 4 and torch.equal(both.x, both.parts["image"])
    assert both.parts["label"].shape == (3,) and int(both.parts["label"].max()) < 10
    assert both.record()["parts"] == {"label": both.parts["label"].tolist()}
    for label in (7, "h"):
        told = prior.sample(3, given={"label": label}, seeds=range(3), steps=4)
        assert told.parts["label"].tolist() == [7, 7, 7]
        assert torch.equal(told.x, prior.sample(seeds=range(3), label=label, steps=4).x)
    read = prior.sample(given={"image": both}, seeds=range(3), steps=4)
    assert torch.allclose(read.x, both.x, atol=1e-5) and read.parts["label"].shape == (3,)
    assert len(prior.sample(given={"image": both.x}, steps=2)) == 3
    alone = prior.sample(3, parts=["image"], seeds=range(3), steps=4)
    assert set(alone.parts) == {"image"}
    soft = prior.sample(3, given={"label": Noisy(7, 0.5)}, seeds=range(3), steps=4)
    assert set(soft.parts["label"].tolist()) <= {7, 10}
    split = [prior.sample(seeds=[i], steps=4) for i in range(3)]
    assert torch.equal(torch.cat([s.parts["label"] for s in split]), both.parts["label"])
    guided = prior.sample(3, given={"label": 7}, guidance=3.0, seeds=range(3), steps=4)
    assert guided.nfe == 8 and not torch.equal(guided.x, told.x)


def test_its_other_verbs_are_those_of_pictures_with_labels(prior: Any) -> None:
    x = digits("test").batch(range(2))["x"]
    assert prior.classify(x, calls=2).labels[0] in NAMES
    y = Mask.random((1, 8, 8), hidden=0.5)(x)
    assert (
        prior.restore(oneprior.Measurement(y, Mask.random((1, 8, 8), hidden=0.5), 0.05), steps=2, label="c").x.shape
        == x.shape
    )
    assert prior.edit(x, source="a", target="b", steps=2).x.shape == x.shape
    assert bool(prior.likelihood(x, steps=2, probes=1, label=[0, 1]).x.isfinite().all())


def test_a_folder_brings_it_back(prior: Any, tmp_path: Path) -> None:
    again = oneprior.load(prior.save(tmp_path / "p"))
    assert isinstance(again, JointPrior) and again.joint.schedule == prior.joint.schedule and not again.joint.tied
    assert again.conditions["label"] == Label(NAMES) and again.joint.parts == ("image", "label")
    a, b = (p.sample(seeds=range(2), steps=3) for p in (prior, again))
    assert torch.equal(a.x, b.x) and torch.equal(a.parts["label"], b.parts["label"])
    assert a.save(tmp_path / "out") and '"label"' in (tmp_path / "out" / "result.json").read_text()
    assert not isinstance(oneprior.load("digits"), JointPrior) and isinstance(again, Prior)


def test_the_trainer_needs_to_know_nothing_of_parts() -> None:
    """One step of packed digits lowers the loss; workers and order are those of any other run."""
    data = Packed(subset(digits("train"), range(64)), {"image": "x", "label": "label"}, Pixels(17))
    row = data.batch([3, 5])["x"]
    assert row.shape == (2, 65) and row[:, -1].long().tolist() == digits("train").batch([3, 5])["label"].tolist()
    m = data.dequantise(row, torch.full((2, 65), 0.5))
    assert torch.equal(m[:, -1], row[:, -1]) and float((m[:, :64] - Pixels(17).encode(row[:, :64])).abs().max()) < 1e-6
    with pytest.raises(KeyError, match=r"parts of \['sound'\] were asked for; digits has \['label', 'x'\]"):
        Packed(digits("train"), {"image": "x", "sound": "sound"})
    settings = TrainSettings(samples=1920, batch=64, lr=3e-3, warmup=0, log_every=64, device="cpu", save_minutes=None)
    den, objective = denoiser(), JointObjective(Independent(2))
    noise, t = torch.randn(64, 65, generator=torch.Generator().manual_seed(0)), torch.full((64, 2), 0.7)
    x0 = data.dequantise(data.batch(range(64))["x"], torch.full((64, 65), 0.5))
    with torch.no_grad():
        before = objective(den, x0, t, noise).mean()
    for _ in Trainer(den, objective, data, data, settings=settings).fit():
        pass
    with torch.no_grad():
        assert float(objective(den, x0, t, noise).mean()) < 0.85 * float(before)


def test_what_it_refuses(prior: Any) -> None:
    for how, said in (
        ({"given": {"sound": 1}}, r"'sound' was given; this prior is of the parts \['image', 'label'\]"),
        ({"depth": 3}, "'depth' was given"),
        ({"given": {"label": 11}}, r"label must be in 0..9"),
        ({"given": {"label": None}}, r"known 'label' from 10 to 10: integers in \[0, 10\)"),
        ({"given": {"image": torch.zeros(3, 1, 4, 4)}}, "'image' was given as"),
        ({"given": {"image": torch.full((3, 1, 8, 8), 4.0)}}, r"\[0, 1\]"),
        ({"parts": ["label"], "given": {"label": 1}}, "is given, and to be drawn"),
    ):
        with pytest.raises(ValueError, match=said):
            prior.sample(3, seeds=range(3), steps=2, **how)
