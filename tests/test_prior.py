"""The prior as people meet it: verbs, units, saving and loading, and what it refuses."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import oneprior
from oneprior.codecs import Pixels
from oneprior.conditions import Conditions, Label
from oneprior.denoiser import Facts, NetworkDenoiser
from oneprior.nets import UNetConfig, build
from oneprior.operators import Mask, Measurement
from oneprior.prior import Prior
from oneprior.schedules import Cosine


@pytest.fixture(scope="module")
def prior() -> Prior:
    conditions = Conditions({"label": Label(("zero", "one", "two"))})
    net = build(UNetConfig((1, 8, 8), classes=3, channels=(8, 8), head=8), seed=0)
    generator = torch.Generator().manual_seed(0)
    for p in net.parameters():  # an untrained network answers zero: give it something to say
        p.data += 0.05 * torch.randn(p.shape, generator=generator)
    den = NetworkDenoiser(net, Cosine(), "v", facts=Facts(null=conditions.null))
    facts = {"shape": (1, 8, 8), "data": {"name": "toys", "count": 3, "licence": "none", "levels": 17}}
    return Prior(den, Pixels(17), conditions, facts)


def test_sample_depends_on_its_own_seed_alone(prior: Prior) -> None:
    every = prior.sample(seeds=range(6), label=[0, 1, 2, 0, 1, 2], steps=4)
    assert every.x.shape == (6, 1, 8, 8) and every.x.min() >= 0 and every.x.max() <= 1
    assert every.seeds == tuple(range(6)) and every.nfe == 4
    one = prior.sample(seeds=[4], label="one", steps=4)
    torch.testing.assert_close(one.x[0], every.x[4], atol=1e-4, rtol=0)
    split = prior.sample(seeds=range(6), label=[0, 1, 2, 0, 1, 2], steps=4, batch=2)
    torch.testing.assert_close(split.x, every.x, atol=1e-4, rtol=0)
    assert not torch.equal(prior.sample(2, steps=2).x, prior.sample(2, steps=2).x)  # fresh without seeds


def test_verbs_take_results(prior: Prior) -> None:
    drawn = prior.sample(seeds=range(3), steps=3, label=1)
    found = prior.classify(drawn, calls=3)
    assert found.x.shape == (3,) and found.nats.shape == (3, 3) and len(found.labels) == 3
    torch.testing.assert_close(found.probabilities.sum(1), torch.ones(3, dtype=torch.float64))
    edited = prior.edit(drawn, source="one", target="two", steps=4, seeds=range(3))
    assert edited.x.shape == drawn.x.shape
    same = prior.edit(drawn, source="one", target="one", steps=4, seeds=range(3))
    assert (same.x - drawn.x).abs().max() < (edited.x - drawn.x).abs().max() or torch.equal(same.x, edited.x)
    nats = prior.likelihood(drawn, steps=3)
    assert nats.x.shape == (3,) and nats.bpd is not None
    d = 64
    density = nats.x - d * prior.codec.logdet  # in model range
    assert prior.codec.log_bin is not None
    torch.testing.assert_close(nats.bpd, -(density / d + prior.codec.log_bin) / np.log(2), atol=1e-9, rtol=0)


def test_classify_among_some_classes(prior: Prior) -> None:
    x = prior.sample(seeds=range(4), steps=3, label=1)
    full = prior.classify(x, calls=4)
    two = prior.classify(x, classes=("two", 0), calls=4)
    assert two.names == ("two", "zero") and two.each == 4 and set(two.labels) <= {"two", "zero"}
    torch.testing.assert_close(two.nats, full.nats[:, [2, 0]], rtol=1e-5, atol=1e-5)
    staged = prior.classify(x, stages=((2, 2), (4, 1)))
    assert staged.each == pytest.approx((2 * 3 + 2 * 2) / 3) and int(staged.errors.isnan().sum()) == 4 * 2
    lam, lines = staged.curves(1)
    assert len(lam) == 4 == len(next(iter(lines.values()))) and lam == sorted(lam) and len(lines) == 2
    assert max(map(abs, lines[staged.labels[1]])) == 0 and "errors" not in staged.record()
    with pytest.raises(ValueError, match="no class is called 'four'"):
        prior.classify(x, classes=("one", "four"))
    with pytest.raises(ValueError, match="labels up to 3 were given; this denoiser knows 3 classes"):
        prior.classify(x, classes=range(4))
    with pytest.raises(ValueError, match="nothing to tell apart"):
        prior.classify(x, classes=("one",))


def test_features_of_pictures(prior: Prior, tmp_path: Path) -> None:
    x = prior.sample(seeds=range(4), steps=3, label=1)
    plain, seen = prior.features(x), prior.features(x, maps=True)
    assert plain.settings["layer"] in plain.shapes and plain.x.shape == (4, 8 * 4) and plain.nfe == 2
    assert seen.maps is not None and plain.settings["layer"] == "mid"
    torch.testing.assert_close(plain.x, seen.x, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(prior.features(x.x[2:3], seed=2).x[0], plain.x[2], rtol=1e-4, atol=1e-5)
    told = prior.features(x, label="two", layer="up.0", noises=2, pool=1)
    assert told.x.shape == (4, 8) and "maps" not in told.record()
    assert seen.grid().size[0] > 64 and (seen.save(tmp_path / "f") / "samples.npy").exists()
    with pytest.raises(KeyError, match=r"no layer 'up\.7'; nearest are up\."):
        prior.features(x, layer="up.7")
    with pytest.raises(ValueError, match="no grid to show"):
        plain.grid()
    with pytest.raises(ValueError, match="1, 8, 8"):
        prior.features(torch.zeros(2, 1, 9, 9))


def test_restore_in_the_users_units(prior: Prior) -> None:
    x = prior.sample(seeds=range(2), steps=3).x
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    mask[..., :4, :] = True
    out = prior.restore(Measurement(torch.where(mask, x, 0.0), Mask(mask), 0.02), draws=3, steps=4, seeds=range(6))
    assert out.draws is not None and out.draws.shape == (2, 3, 1, 8, 8) and out.x.shape == x.shape
    torch.testing.assert_close(out.x, out.draws.mean(1))
    hidden, seen = (out.x - x)[..., 4:, :].abs().mean(), (out.x - x)[..., :4, :].abs().mean()
    assert seen < hidden


def test_save_and_load(prior: Prior, tmp_path: Path) -> None:
    folder = prior.save(tmp_path / "p")
    assert {p.name for p in folder.iterdir()} == {"config.json", "model.safetensors", "README.md", "samples.png"}
    again = oneprior.load(folder)
    a, b = (p.sample(seeds=range(2), steps=3, label=2).x for p in (prior, again))
    torch.testing.assert_close(a, b)
    assert again.den.schedule == prior.den.schedule and list(again.conditions) == ["label"]
    with pytest.raises(FileExistsError, match="force=True"):
        prior.save(folder)
    small = prior.save(folder, force=True, dtype=torch.float16)
    assert oneprior.load(small).sample(seeds=[0], steps=3).x.dtype == torch.float32


def test_damaged_folders_are_refused(prior: Prior, tmp_path: Path) -> None:
    whole = prior.save(tmp_path / "whole")

    def copy(name: str) -> Path:
        import shutil

        return Path(shutil.copytree(whole, tmp_path / name))

    (copy("a") / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors is missing"):
        oneprior.load(tmp_path / "a")
    cut = copy("b") / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-100])
    with pytest.raises(ValueError, match="safetensors"):
        oneprior.load(tmp_path / "b")
    altered = copy("c") / "model.safetensors"
    raw = bytearray(altered.read_bytes())
    raw[-1] ^= 1
    altered.write_bytes(bytes(raw))
    with pytest.raises(ValueError, match="hash differs"):
        oneprior.load(tmp_path / "c")
    config = copy("d") / "config.json"
    config.write_text(config.read_text()[:40])
    with pytest.raises(ValueError, match="not whole"):
        oneprior.load(tmp_path / "d")
    (copy("e") / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        oneprior.load(tmp_path / "e")
    pickle = tmp_path / "model.pt"
    pickle.write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(ValueError, match="never read"):
        oneprior.load(pickle)
    with pytest.raises(FileNotFoundError, match="shipped"):
        oneprior.load("no-such-prior")


def test_bad_calls_say_what_was_expected(prior: Prior) -> None:
    with pytest.raises(ValueError, match="no class is called 'nine'; known are zero, one, two"):
        prior.sample(2, label="nine")
    with pytest.raises(TypeError, match="unknown condition text; this prior knows label"):
        prior.sample(2, text="a cat")
    with pytest.raises(ValueError, match="steps = 0"):
        prior.sample(2, steps=0)
    with pytest.raises(ValueError, match="one seed a sample"):
        prior.sample(3, seeds=[1, 2])
    with pytest.raises(ValueError, match=r"shape \(B, 1, 8, 8\) was expected; got \(2, 3, 8, 8\)"):
        prior.classify(torch.zeros(2, 3, 8, 8))
    with pytest.raises(ValueError, match="divide by 255"):
        prior.classify(torch.full((2, 1, 8, 8), 200.0))
    with pytest.raises(ValueError, match="12/255"):
        prior.restore(Measurement(torch.rand(2, 1, 8, 8), Mask(torch.ones(1, 1, 8, 8, dtype=torch.bool)), 12.0))


def test_unconditional_prior_refuses_guidance_and_classes() -> None:
    den = NetworkDenoiser(build(UNetConfig((1, 8, 8), channels=(8, 8), head=8), seed=0), Cosine(), "v")
    prior = Prior(den, Pixels(17), Conditions(), {"shape": (1, 8, 8)})
    with pytest.raises(ValueError, match="guidance needs a conditional prior"):
        prior.sample(2, guidance=3.0, steps=2)
    with pytest.raises(ValueError, match="knows no classes"):
        prior.classify(torch.rand(1, 1, 8, 8))
    with pytest.raises(TypeError, match="trained unconditionally"):
        prior.sample(2, label=1)


def test_a_searched_grid_is_kept_with_the_prior(prior: Prior, tmp_path: Path) -> None:
    mine = Prior(prior.den, prior.codec, prior.conditions, prior.facts)
    before = mine.sample(seeds=[1], steps=3).x
    try:
        assert mine.tune(3, warm=4) is mine and list(mine.facts["grids"]) == ["3"]
        again = oneprior.load(mine.save(tmp_path / "tuned"))
        assert again.den.facts.grids == {3: tuple(mine.facts["grids"]["3"])}
        after = mine.sample(seeds=[1], steps=3).x
        assert torch.equal(again.sample(seeds=[1], steps=3).x, after) and not torch.equal(after, before)
        assert not torch.equal(again.sample(seeds=[1], steps=4).x, after)
    finally:
        mine.den.facts = replace(mine.den.facts, grids={})  # the fixture's denoiser is shared
