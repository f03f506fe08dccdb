"""Networks of clips: inflation, masks, causality, memory of the past, packing (video-survey, proofs 1 and 2)."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import draw
from oneprior.denoiser import Facts, NetworkDenoiser
from oneprior.nets import ClipConfig, DiTConfig, UNetConfig, build, config_from_dict, to_dict
from oneprior.nets.clips import ClipNet, inflate, pack
from oneprior.objective import Objective
from oneprior.schedules import Cosine
from oneprior.uses import video

PICTURES: dict[str, Any] = {
    "unet": UNetConfig((1, 8, 8), channels=(8, 16), classes=3, head=8),
    "dit": DiTConfig((1, 8, 8), patch=4, width=16, depth=2, heads=2, classes=3),
}
KINDS = pytest.mark.parametrize("kind", PICTURES)


def picture_net(kind: str) -> Any:
    return shaken(build(PICTURES[kind], 0))


def shaken(net: Any, size: float = 0.2) -> Any:
    """Away from zero initialisation, as training leaves it; float64."""
    with torch.no_grad():
        for i, p in enumerate(net.double().parameters()):
            p += size * draw(*p.shape, seed=i)
    return net.eval().requires_grad_(False)


def clip_net(kind: str, frames: int = 6, causal: bool = False) -> ClipNet:
    return shaken(ClipNet(ClipConfig((frames, 1, 8, 8), frame=PICTURES[kind], causal=causal, head=8)))


@KINDS
@pytest.mark.parametrize("frames", [1, 5, 8])
def test_an_inflated_network_is_that_of_pictures_frame_by_frame(kind: str, frames: int) -> None:
    net = picture_net(kind)
    clips = inflate(net, 8)
    x, t, label = draw(2, frames, 1, 8, 8), torch.rand(2, frames).double(), torch.tensor([0, 2])
    want = torch.stack([net(x[:, f], t[:, f], label=label) for f in range(frames)], 1)
    torch.testing.assert_close(clips(x, t, label=label), want, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(clips(x, t[:, 0]), clips(x, t[:, :1].expand(2, frames)), rtol=0, atol=0)


@KINDS
def test_training_wakes_the_layers_across_frames(kind: str) -> None:
    clips = inflate(picture_net(kind), 4).requires_grad_()
    den = NetworkDenoiser(clips, Cosine(), "v", facts=Facts(time_axes=1))
    x, t = draw(4, 4, 1, 8, 8), torch.rand(4, 4, generator=torch.Generator().manual_seed(0)).double()
    before = clips(x, t)
    optimiser = torch.optim.Adam(clips.across.parameters(), 1e-2)
    for step in range(4):
        optimiser.zero_grad()
        Objective()(den, x, t, draw(4, 4, 1, 8, 8, seed=step)).mean().backward()
        optimiser.step()
    assert all(p.grad is not None and float(p.grad.abs().max()) > 0 for p in clips.across.parameters())
    assert float((clips(x, t) - before).detach().abs().max()) > 1e-3


@KINDS
@pytest.mark.parametrize("causal", [False, True])
def test_who_sees_whom(kind: str, causal: bool) -> None:
    """Two clips and two pictures in one row: nothing passes between them; causal: nothing from later frames."""
    net, x, t = clip_net(kind, causal=causal), draw(1, 6, 1, 8, 8), torch.rand(1, 6).double()
    segments = torch.tensor([[0, 0, 0, 1, 2, 3]])
    plain, packed = net(x, t), net(x, t, segments=segments)
    for f in range(6):
        other = x.clone()
        other[:, f] += 1
        moved = (net(other, t, segments=segments) != packed).flatten(2).any(2)[0]
        same = segments[0] == segments[0, f]
        assert torch.equal(moved, same & (torch.arange(6) >= f) if causal else same)
        moved = (net(other, t) != plain).flatten(2).any(2)[0]
        assert torch.equal(moved, torch.arange(6) >= f if causal else torch.ones(6, dtype=torch.bool))
    alone = net(x[:, :3], t[:, :3])
    torch.testing.assert_close(packed[:, :3], alone, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(packed[:, 4:5], net(x[:, 4:5], t[:, 4:5]), rtol=1e-9, atol=1e-9)


@KINDS
def test_frames_know_their_distance_and_nothing_else(kind: str) -> None:
    net, x, t = clip_net(kind), draw(2, 3, 1, 8, 8), torch.rand(2, 3).double()
    at = torch.tensor([[0, 4, 5]])
    torch.testing.assert_close(net(x, t, places=at), net(x, t, places=at + 7), rtol=1e-6, atol=1e-6)
    assert float((net(x, t, places=at) - net(x, t)).abs().max()) > 1e-3
    back = net(x.flip(1), t.flip(1), places=at.flip(1)).flip(1)
    torch.testing.assert_close(back, net(x, t, places=at), rtol=1e-6, atol=1e-6)
    assert float((net(x.flip(1), t.flip(1)).flip(1) - net(x, t)).abs().max()) > 1e-3, "order matters"


@KINDS
def test_what_is_kept_of_the_past_is_what_it_says(kind: str) -> None:
    """Asking about one frame, with keys and values kept, equals asking about all; the window bounds memory."""
    net, x, t = clip_net(kind, causal=True), draw(2, 5, 1, 8, 8), torch.rand(2, 5).double()
    want, past = net(x, t), net.past(8)
    net(x[:, :2], t[:, :2], past=past, keep=True)
    torch.testing.assert_close(net(x[:, 2:3], t[:, 2:3], past=past), want[:, 2:3], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(net(x[:, 2:], t[:, 2:], past=past, keep=True), want[:, 2:], rtol=1e-9, atol=1e-9)
    assert past.seen == 5 and past.layers[0]["k"].shape[2] == 5
    short = net.past(2)
    for f in range(5):
        net(x[:, f : f + 1], t[:, f : f + 1], past=short, keep=True)
        assert short.layers[0]["k"].shape[2] <= 2
    with pytest.raises(ValueError, match="causal=True"):
        clip_net(kind).past(3)


def test_rollout_draws_the_frames_of_an_autoregressive_path() -> None:
    """Frame after frame with the past kept: the same distribution, and with one solver step the very same mean."""
    den = NetworkDenoiser(clip_net("dit", causal=True).float(), Cosine(), "v", facts=Facts(time_axes=1))
    clip = draw(2, 3, 1, 8, 8, dtype=torch.float32)
    how: Any = {"window": 6, "seeds": range(2), "steps": 3, "sampler": "ddim"}
    frames = list(video.rollout(den, clip, 4, **how))
    assert len(frames) == 4 and frames[0].shape == (2, 1, 8, 8)
    again = list(video.rollout(den, clip, 2, **how))
    assert torch.equal(again[1], frames[1])
    # by hand, the whole clip in each call
    from oneprior.noise import derived
    from oneprior.sampling import sample

    known = clip
    for i in range(2):

        class Last(NetworkDenoiser):
            def raw(self, x: Tensor, t: Any, **cond: Any) -> Tensor:
                at = torch.zeros(2, known.shape[1] + 1)  # noqa: B023
                at[:, -1] = float(t)
                return self.net(torch.cat([known, x], 1), at)[:, -1:]  # noqa: B023

        last = Last(den.net, den.schedule, "v", facts=den.facts)
        seeds = derived(range(2), "frame", i)
        new = sample(last, (2, 1, 1, 8, 8), steps=3, sampler="ddim", seeds=seeds)
        torch.testing.assert_close(new[:, 0], frames[i], rtol=1e-4, atol=1e-4)
        known = torch.cat([known, new], 1)


def test_packed_rows_train_as_each_part_alone() -> None:
    clips = [draw(n, 1, 8, 8, seed=n) for n in (4, 3, 1, 1)]
    x, segments = pack(clips, 4)
    assert segments.tolist() == [[0, 0, 0, 0], [0, 0, 0, 1], [0, 1, 2, 3]]
    assert torch.equal(x[0], clips[0]) and torch.equal(x[1, :3], clips[1]) and torch.equal(x[2, 0], clips[3][0])
    net, t = clip_net("dit"), torch.rand(3, 4).double()
    out = net(x, t, segments=segments)
    torch.testing.assert_close(out[1, :3], net(clips[1][None], t[1:2, :3])[0], rtol=1e-9, atol=1e-9)
    den = NetworkDenoiser(net, Cosine(), "v", facts=Facts(time_axes=1))
    assert Objective()(den, x, t, draw(*x.shape), segments=segments).shape == (3,)
    for bad in ([], [torch.zeros(5, 1, 8, 8)]):
        with pytest.raises(ValueError, match="rows of 4 frames were to hold parts of"):
            pack(bad, 4)


def test_a_config_of_clips_survives_json_and_names_what_does_not_fit() -> None:
    config = ClipConfig((4, 1, 8, 8), frame=DiTConfig.sized((1, 8, 8), "tiny", classes=3), causal=True)
    assert config.time_axes == 1 and config.classes == 3
    assert config_from_dict(json.loads(json.dumps(to_dict(config)))) == config
    net = build(ClipConfig((4, 1, 8, 8), frame=UNetConfig.sized((1, 8, 8), "tiny", out_channels=2)), 0)
    F, h = NetworkDenoiser(net, Cosine()).halves(net(torch.zeros(2, 4, 1, 8, 8), torch.rand(2, 4)))
    assert F.shape == h.shape == (2, 4, 1, 8, 8)
    with pytest.raises(ValueError, match=r"want frame=UNetConfig or DiTConfig for pictures \(1, 8, 8\)"):
        ClipConfig((4, 1, 8, 8), frame=UNetConfig((3, 8, 8)))
    with pytest.raises(ValueError, match=r"for clips \(B, F, 1, 8, 8\); got \(2, 1, 8, 8\)"):
        net(torch.zeros(2, 1, 8, 8), torch.rand(2))
    with pytest.raises(ValueError, match=r"t must be \(2,\) or, with time_axes=1, \(2, 4\)"):
        net(torch.zeros(2, 4, 1, 8, 8), torch.rand(2, 3))
    with pytest.raises(ValueError, match=r"segments must be \(2, 4\)"):
        net(torch.zeros(2, 4, 1, 8, 8), torch.rand(2), segments=torch.zeros(2, 3))


@KINDS
def test_conditions_are_for_the_clip_or_for_each_frame(kind: str) -> None:
    net, x, t = clip_net(kind), draw(2, 4, 1, 8, 8), torch.rand(2, 4).double()
    one, every = net(x, t, label=torch.tensor([0, 1])), net(x, t, label=torch.tensor([[0] * 4, [1] * 4]))
    torch.testing.assert_close(one, every, rtol=0, atol=0)
    other = net(x, t, label=torch.tensor([[0, 0, 0, 2], [1, 1, 1, 1]]))
    assert torch.equal(other[1], one[1]) and float((other[0] - one[0]).abs().max()) > 1e-3
