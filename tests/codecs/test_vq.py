"""VQ codecs: training with the one trainer, tokens and back, folders, ReFiT, what is refused."""

import json
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from oneprior import storage
from oneprior.codecs import Pixels, from_dict
from oneprior.codecs.vq import VQ, Autoencoder, Reconstruction, VQConfig, features, perplexity, refit, touched, usage
from oneprior.conditions import Conditions
from oneprior.data import digits
from oneprior.denoiser import NetworkDenoiser
from oneprior.loading import load
from oneprior.nets import MLPConfig, build
from oneprior.prior import Prior
from oneprior.schedules import Cosine
from oneprior.tokens import Absorbing, TokenDenoiser
from oneprior.training.settings import TrainSettings
from oneprior.training.trainer import Trainer

TINY: dict[str, Any] = {"shape": (1, 8, 8), "factor": 2, "channels": (8,), "dim": 4, "codes": 32, "decay": 0.8}
TRAIN = digits("train")
X = TRAIN.batch(range(300))["x"]
NEW = digits("test").batch(range(360))["x"]


def trainer(model: Autoencoder, run: Path | None = None, steps: int = 12, **settings: Any) -> Trainer:
    base = {"samples": steps * 32, "batch": 32, "lr": 3e-3, "warmup": 64, "device": "cpu", **settings}
    return Trainer(model, Reconstruction(), TRAIN, settings=TrainSettings(**base), run=run)


def trained(config: VQConfig, steps: int) -> Autoencoder:
    model = Autoencoder(config)
    for _ in trainer(model, steps=steps, averages=()).fit():
        pass
    return model


def told(model: Autoencoder) -> tuple[float, float]:
    """Mean squared error and usage on new digits."""
    with torch.no_grad():
        y, q = model.eval()(NEW)
    return float((y - NEW).square().mean()), usage(q.indices, model.config.codes)


@pytest.fixture(scope="module")
def model() -> Autoencoder:
    return trained(VQConfig(**TINY), 150)


@pytest.fixture(scope="module")
def codec(model: Autoencoder) -> VQ:
    return VQ.of(model, X.split(100))


@pytest.mark.parametrize("fields", [{}, {"levels": (5, 4)}, {"cosine": True, "rotate": True}], ids=str)
def test_stopping_and_going_on_changes_nothing(fields: dict[str, Any], tmp_path: Path) -> None:
    def states(run: Path) -> dict[str, str]:
        return json.loads((run / "checkpoints" / "step-000012" / "state.json").read_text())["files"]

    how: dict[str, Any] = {"micro_batch": 20}
    for _ in trainer(Autoencoder(VQConfig(**TINY, **fields)), tmp_path / "whole", **how).fit():
        pass
    for stop in (1, 7, 12):
        part = trainer(Autoencoder(VQConfig(**TINY, **fields)), tmp_path / "parts", **how)
        with closing(part.fit()) as fit:  # type: ignore[type-var]
            for state in fit:
                with part.averages.applied():
                    part.den(X[:4])  # looking teaches nothing
                if state.step == stop:
                    part.save()
                    break
    assert states(tmp_path / "parts") == states(tmp_path / "whole")


def test_averages_hold_codes_as_well() -> None:
    t = trainer(Autoencoder(VQConfig(**TINY)), steps=40)
    for _ in t.fit():
        pass
    live = told(t.den)  # type: ignore[arg-type]
    codes = t.den.quantiser.table().clone()  # type: ignore[union-attr, operator]
    with t.averages.applied() as mean:
        assert not torch.equal(mean.quantiser.table(), codes)  # type: ignore[union-attr, operator]
        averaged = told(mean)  # type: ignore[arg-type]
    assert averaged[0] < 1.2 * live[0] and averaged[1] > 0.9 * live[1]
    assert torch.equal(t.den.quantiser.table(), codes)  # type: ignore[union-attr, operator]


def test_replacing_dead_codes_uses_the_whole_codebook() -> None:
    """K = 128 codes of 32 numbers for digits. Plain: trained by their gradient from small uniform numbers."""
    toy = {**TINY, "dim": 32, "codes": 128}
    plain = Autoencoder(VQConfig(**{**toy, "decay": None, "reset": 0.0}))
    start = (torch.rand(128, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1) / 128
    with torch.no_grad():
        plain.quantiser.codes.copy_(start)  # type: ignore[union-attr, operator]
        plain.quantiser.begun.fill_(True)  # type: ignore[union-attr, operator]
    for _ in trainer(plain, steps=120, averages=()).fit():
        pass
    (mse, used), (mse_new, used_new) = told(plain), told(trained(VQConfig(**toy), 120))
    assert used < 0.5 and used_new > 0.95
    assert mse_new < 0.9 * mse
    rebuilt = refit(plain, features(plain, X.split(100)), codes=32)
    assert told(rebuilt)[1] > 0.95


def test_refit_rebuilds_and_freezes(model: Autoencoder) -> None:
    smaller = refit(model, features(model, X.split(100), most=2000), codes=16)
    before = [p.clone() for p in smaller.encoder.parameters()]
    mse, used = told(smaller)
    assert used == 1 and smaller.config.codes == 16 and model.config.codes == 32
    for _ in trainer(smaller, steps=30).fit():
        pass
    assert all(torch.equal(a, b) for a, b in zip(before, smaller.encoder.parameters(), strict=True))
    assert told(smaller)[0] < 0.95 * mse
    assert VQ.of(smaller).symbols == 16
    with pytest.raises(ValueError, match="codes=5000"):
        refit(model, features(model, [X]), codes=5000)
    with pytest.raises(ValueError, match="FSQ has no codebook"):
        refit(Autoencoder(VQConfig(**TINY, levels=(5, 5))), torch.zeros(9, 2), 4)


def test_tokens_and_back(model: Autoencoder, codec: VQ) -> None:
    tokens = codec.encode(NEW)
    assert tokens.dtype == torch.int64 and tokens.shape == (360, 16) and codec.grid == (4, 4)
    assert torch.equal(codec.dequantise(NEW, torch.rand(NEW.shape)), tokens)
    y = codec.decode(tokens)
    assert y.shape == NEW.shape and y.min() >= 0 and y.max() <= 1
    assert float((y - NEW).square().mean()) < 0.5 * float((NEW.mean(0) - NEW).square().mean())
    torch.testing.assert_close(codec.decode(codec.encode(NEW[5:6])), y[5:6])
    with torch.no_grad():
        torch.testing.assert_close(codec.decode(codec.encode(X), clip=False), model.eval()(X)[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("levels", [(), (8, 8)], ids=["codebook", "fsq"])
def test_unused_codes_are_left_out_and_the_rest_renumbered(levels: tuple[int, ...]) -> None:
    full = VQ.of(trained(VQConfig(**TINY, levels=levels), 10))
    few = X[:6]
    tokens = full.encode(few)
    less = full.keep(tokens)
    used = torch.unique(tokens)
    assert less.symbols == len(used) < full.symbols and usage(less.encode(few), less.symbols) == 1
    assert torch.equal(used[less.encode(few)], tokens)  # the same code under its new number
    torch.testing.assert_close(less.decode(less.encode(few)), full.decode(tokens))
    assert less.encode(NEW).max() < less.symbols
    assert perplexity(less.encode(few)) == pytest.approx(perplexity(tokens))


def a_prior(codec: Any) -> Prior:
    net = build(MLPConfig((1, 8, 8), width=16, depth=1), 0)
    return Prior(NetworkDenoiser(net, Cosine(), "v"), codec, Conditions({}), {"shape": [1, 8, 8]})


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_codec_in_its_folder_and_in_a_priors(codec: VQ, tmp_path: Path, dtype: torch.dtype | None) -> None:
    storage.write_codec(tmp_path / "run" / "codec", codec, {"psnr": 20.0}, dtype=dtype)
    alone, facts = storage.read_codec(tmp_path / "run")
    storage.write(tmp_path / "p", storage.Parts(*vars_of(a_prior(codec))), dtype=dtype)
    assert facts == {"psnr": 20.0}
    for found in (alone, storage.read_codec(tmp_path / "run" / "codec")[0], load(tmp_path / "p").codec):
        assert isinstance(found, VQ) and found.vq == codec.vq and found.symbols == codec.symbols
        same = (found.encode(NEW) == codec.encode(NEW)).float().mean()
        assert same == 1 if dtype is None else same > 0.9
        torch.testing.assert_close(
            found.decode(codec.encode(NEW)),
            codec.decode(codec.encode(NEW)),
            atol=1e-6 if dtype is None else 0.05,
            rtol=0,
        )


def vars_of(prior: Prior) -> tuple[Any, ...]:
    return prior.den, prior.codec, prior.conditions, prior.facts


def test_damaged_codecs_are_refused_and_codecs_without_weights_stay_as_they_were(codec: VQ, tmp_path: Path) -> None:
    storage.write(tmp_path / "plain", storage.Parts(*vars_of(a_prior(Pixels(17)))))
    assert not (tmp_path / "plain" / "codec.safetensors").exists() and load(tmp_path / "plain").codec == Pixels(17)
    assert "codec_sha256" not in json.loads((tmp_path / "plain" / "config.json").read_text())
    folder = storage.write_codec(tmp_path / "c", codec, {})
    with pytest.raises(FileExistsError, match="force=True"):
        storage.write_codec(folder, codec, {})
    storage.write_codec(folder, VQ.of(Autoencoder(VQConfig(**TINY))), {}, force=True)
    other = storage.write_codec(tmp_path / "other", codec, {})
    shutil.copy(other / "codec.safetensors", folder / "codec.safetensors")
    with pytest.raises(ValueError, match="its hash differs"):
        storage.read_codec(folder)
    (other / "codec.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"codec\.safetensors is missing"):
        storage.read_codec(other)
    with pytest.raises(FileNotFoundError, match="no folder"):
        storage.read_codec(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="weights are not those"):
        from_dict(codec.config(), {"codes": codec.codes})


def test_bad_pictures_and_tokens_are_named(codec: VQ) -> None:
    rgb = VQ.of(Autoencoder(VQConfig((3, 8, 8), channels=(4, 4), codes=8)))
    with pytest.raises(ValueError, match=r"\(B, 3, 8, 8\); got \(2, 1, 8, 8\): grey pictures become colour"):
        rgb.encode(X[:2])
    with pytest.raises(ValueError, match=r"\(B, 1, 8, 8\); got \(2, 1, 12, 12\): resize"):
        codec.encode(torch.rand(2, 1, 12, 12))
    with pytest.raises(ValueError, match=r"divide by 255"):
        codec.encode(X[:2] * 255)
    with pytest.raises(TypeError, match=r"float\(\) / 255"):
        codec.encode((X[:2] * 255).to(torch.uint8))
    good = codec.encode(X[:2])
    for bad, said in (
        (torch.full_like(good, codec.symbols), rf"\[0, {codec.symbols}\).*a mask\?"),
        (good - codec.symbols, "got -"),
        (good[:, :9], r"\(B, 16\), a grid of 4 x 4; got \(2, 9\)"),
    ):
        with pytest.raises(ValueError, match=said):
            codec.decode(bad)
    with pytest.raises(TypeError, match="integers"):
        codec.decode(good.float())
    with pytest.raises(TypeError, match="nats per token"):
        _ = codec.logdet
    storage.matched(TokenDenoiser(torch.nn.Identity(), Absorbing(codec.symbols + 1)), codec)
    with pytest.raises(ValueError, match=rf"codec of {codec.symbols} symbols .* trained on {codec.symbols - 1}"):
        storage.matched(TokenDenoiser(torch.nn.Identity(), Absorbing(codec.symbols)), codec)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"factor": 3}, "power of 2"),
        ({"shape": (1, 10, 8), "factor": 4}, "divides 10 x 8"),
        ({"channels": (8, 8, 8)}, "3 resolutions halve more often"),
        ({"channels": (6,)}, "multiples of 4"),
        ({"codes": 1}, "codes and levels >= 2"),
        ({"decay": 1.0}, "decay"),
        ({"shape": (8, 8)}, "shape"),
    ],
)
def test_settings_out_of_range(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        VQConfig(**{**TINY, **fields})


def test_presets_of_size() -> None:
    assert VQConfig.sized((3, 32, 32)).patch == 2 and VQConfig.sized((1, 8, 8), factor=1).patch == 1
    assert VQConfig.sized((3, 32, 32), "tiny", levels=[8, 6, 5]).codes == 240
    with pytest.raises(ValueError, match="'huge'"):
        VQConfig.sized((3, 32, 32), "huge")


def test_tokens_that_a_hole_touches(codec: VQ) -> None:
    hole = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    hole[..., 7, 6] = True
    assert touched(hole, 2, reach=0).nonzero()[:, 1].tolist() == [15]
    assert touched(hole, 2).nonzero()[:, 1].tolist() == [10, 11, 14, 15]
    assert not touched(torch.zeros_like(hole), 2).any()
    with pytest.raises(ValueError, match="divisible by 2"):
        touched(hole[..., :7], 2)


def test_most_of_what_a_hole_changes_is_within_reach(codec: VQ) -> None:
    hole = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    hole[..., 2:4, 2:4] = True
    changed = codec.encode(torch.where(hole, 1 - NEW, NEW)) != codec.encode(NEW)
    near = touched(hole, 2)[0]
    assert changed[:, touched(hole, 2, reach=0)[0]].float().mean() > 0.5
    assert changed[:, ~near].float().mean() < 0.5 * changed[:, near].float().mean()


def test_a_further_loss_is_added(model: Autoencoder) -> None:
    def twice(y: Tensor, x: Tensor) -> Tensor:
        return 2 * (y - x).square().flatten(1).mean(1)

    args = (model.eval(), NEW[:8], torch.rand(8), torch.randn(NEW[:8].shape))
    with torch.no_grad():
        more = Reconstruction(perceptual=twice)(*args) - Reconstruction()(*args)
        torch.testing.assert_close(more, twice(model(NEW[:8])[0], NEW[:8]))
