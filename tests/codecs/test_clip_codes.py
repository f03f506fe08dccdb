"""Codes of clips: the contract of 1 + r k frames, causality, pieces, what comes back from a folder, what is refused."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import draw
from oneprior.codecs import ClipAutoencoder, ClipCodes, from_dict
from oneprior.codecs.vq import Reconstruction, VQConfig
from oneprior.conditions import Conditions
from oneprior.data import MovingDigits
from oneprior.denoiser import Facts, NetworkDenoiser
from oneprior.loading import load
from oneprior.nets import ClipConfig, DiTConfig, build
from oneprior.prior import Prior
from oneprior.schedules import Cosine
from oneprior.training.settings import TrainSettings
from oneprior.training.trainer import Trainer

FRAME = VQConfig((1, 8, 8), factor=4, channels=(8,), dim=8)


def codec(r: int = 4, **how: Any) -> ClipCodes:
    """Away from zero, as training leaves it; float64."""
    model = ClipAutoencoder(FRAME, 3, r).double()
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p += 0.2 * draw(*p.shape, seed=i)
    return ClipCodes(model, [1.0, 2.0, 0.5], [0.1, 0.0, -0.2]).double()


def clips(frames: int, seed: int = 0) -> Tensor:
    return torch.rand(2, frames, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("r", [1, 2, 4, 8])
def test_one_and_r_k_frames_have_one_and_k_codes(r: int) -> None:
    own, x = codec(r), clips(1 + 2 * r)
    for k in range(3):
        z = own.encode(x[:, : 1 + r * k])
        assert z.shape == (2, 1 + k, 3, 2, 2) and own.decode(z).shape == x[:, : 1 + r * k].shape
        torch.testing.assert_close(own.encode(x[:, 0]), z[:, 0], rtol=1e-12, atol=1e-12)  # that of a picture
    assert own.inside((1 + r, 1, 8, 8)) == (2, 3, 2, 2)


@pytest.mark.parametrize("r", [2, 4])
def test_codes_and_frames_know_nothing_of_later_ones(r: int) -> None:
    own, F = codec(r), 1 + 3 * r
    x = clips(F)
    z, y = own.encode(x), own.decode(own.encode(x))
    for f in range(F):
        other = x.clone()
        other[:, f] = 1 - other[:, f]
        moved = ((own.encode(other) - z).abs() > 1e-9).flatten(2).any(2).any(0)
        first = -(-f // r)  # the first code that may see frame f, and does
        assert not bool(moved[:first].any()) and bool(moved[first])
    for j in range(4):
        other = z.clone()
        other[:, j] += 1
        moved = ((own.decode(other) - y).abs() > 1e-9).flatten(2).any(2).any(0)
        first = 1 + r * (j - 1) if j else 0
        assert not bool(moved[:first].any()) and bool(moved[first : 1 + r * j].all())


@pytest.mark.parametrize("cuts", [(0, 1, 5, 13, 17), (0, 9, 13, 17), (0, 17)])
def test_piece_by_piece_is_the_whole(cuts: tuple[int, ...]) -> None:
    own, x = codec(), clips(17)
    z = own.encode(x)
    pieces = list(own.stream(x[:, a:b] for a, b in pairwise(cuts)))
    torch.testing.assert_close(torch.cat(pieces, 1), z, rtol=1e-9, atol=1e-9)
    again = torch.cat(list(own.stream(pieces, back=True)), 1)
    torch.testing.assert_close(again, own.decode(z), rtol=1e-9, atol=1e-9)


def test_at_first_every_rth_frame_is_kept_and_training_uses_the_others() -> None:
    model = ClipAutoencoder(FRAME, 3, 4, seed=1)
    x = clips(9).float()
    with torch.no_grad():
        z, other = model.encode(x), x.clone()
        other[:, [1, 2, 3, 5, 6, 7]] = 0.5
        assert torch.equal(model.encode(other), z)
        y = model.decode(z)
        assert torch.equal(y[:, 1:5], y[:, 4:5].expand(-1, 4, -1, -1, -1))
    source = MovingDigits(5, 12)
    own = ClipAutoencoder(VQConfig((1, 12, 12), factor=4, channels=(8,), dim=16), 4, 4)
    settings = TrainSettings(samples=320, batch=16, lr=4e-3, warmup=32, device="cpu", save_minutes=None)
    losses = [float(s.loss) for s in Trainer(own, Reconstruction(), source, settings=settings).fit()]
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    layers: Any = (*own.shrink, *own.grow)
    assert all(float(layer.conv.weight.detach().abs().max()) > 0 for layer in layers)
    made = ClipCodes.of(own, [source.batch(range(32))["x"]])
    z = made.encode(source.batch(range(32))["x"]).movedim(2, 0).flatten(1)
    assert float(z.mean(1).abs().max()) < 1e-5 and float((z.std(1) - 1).abs().max()) < 1e-5


def test_what_was_kept_is_what_comes_back() -> None:
    own, x = codec(2).float(), clips(5).float()
    again: Any = from_dict(own.config(), own.state_dict())
    assert torch.equal(again.encode(x), own.encode(x)) and torch.equal(
        again.decode(own.encode(x)), own.decode(own.encode(x))
    )


def test_a_prior_of_codes_draws_clips(tmp_path: Path) -> None:
    own = codec(2).float()
    net = build(ClipConfig((3, 3, 2, 2), frame=DiTConfig((3, 2, 2), patch=1, width=8, depth=1, heads=1)), 0)
    den = NetworkDenoiser(net, Cosine(), "v", facts=Facts(time_axes=1))
    prior = Prior(den, own, Conditions({}), {"shape": [5, 1, 8, 8], "data": {"name": "moving"}})
    again = load(prior.save(tmp_path / "codes"))
    x = again.sample(2, seeds=range(2), steps=2).x
    assert x.shape == (2, 5, 1, 8, 8) and torch.equal(x, prior.sample(2, seeds=range(2), steps=2).x)
    assert again.sample(1, seeds=[0], steps=2, frames=9).x.shape == (1, 9, 1, 8, 8)
    picture = clips(1)[:, 0].float()
    moving = again.animate(picture, 9, seeds=range(2), steps=2).x
    torch.testing.assert_close(moving[:, 0], own.decode(own.encode(picture)[:, None], clip=True)[:, 0])
    with pytest.raises(ValueError, match="but for the first, which alone can be known"):
        again.interpolate(picture, picture, 9)
    with pytest.raises(ValueError, match="extend them by uses"):
        again.extend(x, 4)


@pytest.mark.parametrize("frames", [2, 4, 8])
def test_other_numbers_of_frames_are_refused(frames: int) -> None:
    below, above = frames - (frames - 1) % 4, frames + (1 - frames) % 4
    with pytest.raises(ValueError, match=rf"1 \+ 4 k frames, such as {below} or {above} were expected; got {frames}"):
        codec().encode(clips(frames))


def test_what_else_is_refused() -> None:
    own = codec()
    with pytest.raises(ValueError, match=r"clips \(B, F, 1, 8, 8\) got \(2, 5, 1, 8, 4\)"):
        own.encode(clips(5)[..., :4])
    with pytest.raises(ValueError, match="got 5"):
        list(own.stream([clips(5), clips(5)]))
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        own.encode(2 * clips(5))
    with pytest.raises(ValueError, match="r = 3 frames for a code: a power of 2"):
        ClipAutoencoder(FRAME, r=3)
    with pytest.raises(TypeError, match="no density in pixels"):
        _ = own.logdet
