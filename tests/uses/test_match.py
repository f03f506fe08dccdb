"""Correspondence: algebra that must be exact, PCK by hand, two sources better than one where their errors differ."""

from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import draw
from oneprior.denoiser import NetworkDenoiser
from oneprior.exact import Mixture
from oneprior.loading import load
from oneprior.nets import DiTConfig, build
from oneprior.schedules import Cosine
from oneprior.uses.match import co_pca, encoded, fuse, gap, maps, match, pck, resized, swap, together

SIZE = (32, 48)  # pixels of pictures whose maps are 8 x 12


def centres(h: int = 8, w: int = 12, cell: float = 4.0) -> Tensor:
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    return ((torch.stack([x, y], 2).flatten(0, 1) + 0.5) * cell)[None].double()


def test_a_cyclic_shift_is_found_everywhere() -> None:
    a, points = draw(1, 16, 8, 12), centres()
    found = match(a, a.roll((2, 3), (2, 3)), points, SIZE)
    truth = (points + torch.tensor([12.0, 8.0])) % torch.tensor([48.0, 32.0])
    assert (
        torch.allclose(found.x, truth)
        and found.mutual.all()
        and torch.allclose(found.score, torch.ones(1, 96).double())
    )
    assert (pck(found.x, truth, torch.tensor([48.0])) == 1).all()


def test_bases_are_shared_and_rotations_common() -> None:
    """Card: q >= rank leaves centred cosines; one rotation for both changes nothing, a rotation of one alone does."""
    a, b, points = draw(2, 16, 8, 12), draw(2, 16, 6, 5, seed=1), centres().expand(2, -1, -1)
    b = b + resized(a, (6, 5))
    mean = torch.cat([a.flatten(2), b.flatten(2)], 2).mean(2)[..., None, None]
    plain = match(a - mean, b - mean, points, SIZE).x
    for q in (16, 40):
        assert torch.equal(match(*co_pca(a, b, q), points, SIZE).x, plain)
    assert co_pca(a, b, 4)[0].shape == (2, 4, 8, 12)
    R = torch.linalg.qr(draw(16, 16, seed=2)).Q
    turn = lambda f: torch.einsum("ij,bjhw->bihw", R, f)  # noqa: E731
    assert torch.equal(match(*co_pca(turn(a), turn(b), 4), points, SIZE).x, match(*co_pca(a, b, 4), points, SIZE).x)
    assert (match(*co_pca(turn(a), b, 16), points, SIZE).x != plain).any()
    with pytest.raises(ValueError, match="one B and C"):
        co_pca(a, draw(2, 15, 8, 12), 4)


def test_fusion_forgets_scales_and_averages_cosines() -> None:
    a, b = draw(1, 5, 8, 12), draw(1, 7, 8, 12, seed=1)
    assert torch.allclose(fuse([(1000 * a, 0.5), (b, 0.5)]), fuse([(a, 0.5), (b, 0.5)]))
    f = fuse([(a, 0.6), (b, 0.4)])
    cos = [torch.nn.functional.normalize(v[0].flatten(1), dim=0) for v in (a, b)]
    sim = f[0].flatten(1).mT @ f[0].flatten(1)
    assert torch.allclose(sim, 0.36 * cos[0].mT @ cos[0] + 0.16 * cos[1].mT @ cos[1])
    with pytest.raises(ValueError, match="one grid expected"):
        fuse([(a, 0.5), (draw(1, 5, 4, 4), 0.5)])


def test_two_sources_complement_each_other_and_a_copy_does_not() -> None:
    """Card: 200 identity codes seen with noise 1.5 by two sources, .42 alone and .74 together; a copy gains nothing."""
    truth = torch.stack([torch.arange(200) + 0.5, torch.full((200,), 0.5)], 1)[None].double()

    def right(*seeds: int) -> float:
        g, parts = draw(1, 64, 1, 200), []
        for k in range(2):
            parts.append(fuse([(g + 1.5 * draw(1, 64, 1, 200, seed=10 * s + k + 1), 0.5) for s in seeds]))
        return float(pck(match(parts[0], parts[1], truth, (1, 200)).x, truth, torch.tensor([1.0]), (0.5,)))

    single, other, fused = right(1), right(2), right(1, 2)
    assert fused >= max(single, other) + 0.25 and 0.3 < single < 0.55
    assert right(1, 1) == pytest.approx(single, abs=0.02)


def test_pck_by_hand() -> None:
    """Card: errors 0, 4.9, 5.0, 20 px in a box of 50: .50 and .25; 1 of 1 and 0 of 9: .10 a point, .50 a picture."""
    truth = torch.zeros(1, 4, 2)
    found = truth.clone()
    found[0, :, 0] = torch.tensor([0.0, 4.9, 5.0, 20.0])
    assert pck(found, truth, torch.tensor([50.0]), (0.1, 0.05)).tolist() == [0.5, 0.25]
    truth, found = torch.zeros(2, 9, 2), torch.zeros(2, 9, 2)
    found[1] = 30.0
    visible = torch.ones(2, 9)
    visible[0, 1:] = 0
    for per, value in (("point", 0.1), ("image", 0.5)):
        got = pck(found, truth, torch.tensor([50.0, 50.0]), (0.1,), visible=visible, per=per)
        assert got.item() == pytest.approx(value)
    with pytest.raises(ValueError, match="per = 'pair'"):
        pck(found, truth, torch.ones(2), per="pair")


def test_soft_argmax_refines_and_masks_hold() -> None:
    """A smooth peak between two cells is found between them; a masked place is never taken."""
    b = torch.zeros(1, 4, 8, 12).double()
    w = torch.arange(12.0).double()
    angle = 0.3 * (w - 5.5)  # cell 5 and 6 are equally near to angle 0
    b[:, 0], b[:, 1] = angle.cos(), angle.sin()
    b[:, 2] = 0.3 * torch.arange(8.0)[:, None]
    a = torch.zeros(1, 4, 8, 12).double()
    a[:, 0], a[:, 2] = 1.0, 0.3 * torch.arange(8.0)[:, None]
    point = torch.tensor([[[2.0, 18.0]]]).double()
    hard = match(a, b, point, SIZE).x[0, 0]
    soft = match(a, b, point, SIZE, window=1, temperature=0.01).x[0, 0]
    assert abs(soft[0] - 24) < abs(hard[0] - 24) and abs(float(hard[0]) - 24) == pytest.approx(2)
    mask = torch.zeros(1, 1, 32, 48)
    mask[..., 40:] = 1
    assert match(a, b, point, SIZE, mask=mask).x[0, 0, 0] >= 40
    with pytest.raises(ValueError, match="no place"):
        match(a, b, point, SIZE, mask=0 * mask)


def test_the_gap_tells_a_mirror_image() -> None:
    a = draw(3, 8, 6, 6)
    near = a + 0.1 * draw(3, 8, 6, 6, seed=1)
    assert (gap(a, near) < gap(a, draw(3, 8, 6, 6, seed=2))).all()


def test_swap_takes_pixels_of_the_nearest() -> None:
    f, shape = draw(1, 8, 6, 10), (1, 1, 6, 10)
    x_a, x_b = draw(1, 3, 6, 10, seed=1), draw(1, 3, 6, 10, seed=2)
    mask_a, mask_b = torch.ones(shape), torch.zeros(shape)
    mask_b[..., 2:5] = 1
    out = swap(x_a, x_b, f, f.roll(1, 3), mask_a, mask_b)
    assert torch.equal(out[..., 2:5], x_a.roll(1, 3)[..., 2:5])
    assert torch.equal(out[..., :2], x_b[..., :2]) and torch.equal(out[..., 5:], x_b[..., 5:])
    with pytest.raises(ValueError, match="one size was expected"):
        swap(x_a, x_b, f, f, torch.ones(1, 1, 6, 9), mask_b)


def test_points_and_shapes() -> None:
    a = draw(1, 4, 8, 12)
    with pytest.raises(ValueError, match="within the picture"):
        match(a, a, torch.tensor([[[48.0, 3.0]]]), SIZE)
    with pytest.raises(ValueError, match="were expected"):
        match(a, draw(1, 5, 8, 12), torch.zeros(1, 1, 2), SIZE)


def test_taps_of_networks() -> None:
    """A picture moved by the stride of the coarsest level is matched where it went; layers are found by name."""
    prior = load("digits")
    x = torch.zeros(2, 1, 8, 8)
    x[0, :, :, :6] = prior.sample(1, seeds=[3], steps=4, label=2).x[0, :, :, :6]
    found = maps(prior.den, 2 * x - 1, 0.1, noises=2)
    assert {name: tuple(v.shape[2:]) for name, v in found.items()} == {"up.0": (8, 8), "up.1": (4, 4)}
    f, _ = together(found, found, (8, 8), q=4)
    assert f.shape == (2, 8, 8, 8)
    dit: Any = NetworkDenoiser(build(DiTConfig((1, 8, 8), patch=2, width=24, depth=1, heads=2), seed=0), Cosine())
    assert maps(dit, x, 0.1, ["blocks.0"])["blocks.0"].shape == (2, 24, 4, 4)
    assert list(maps(dit, x, 0.1)) == ["blocks.0"]
    with pytest.raises(KeyError, match=r"no layer 'up\.7'; nearest are up\."):
        maps(prior.den, x, 0.1, ["up.7"])
    each = torch.cat([maps(prior.den, x[i : i + 1], t, ["mid"])["mid"] for i, t in enumerate((0.1, 0.4))])
    assert torch.allclose(maps(prior.den, x, torch.tensor([0.1, 0.4]), ["mid"])["mid"], each, atol=1e-5)
    exact = Mixture([1.0], torch.zeros(1, 2), 1.0).denoiser(Cosine())
    with pytest.raises(ValueError, match="ExactDenoiser has no network"):
        maps(exact, torch.zeros(1, 2))
    assert not any(m._forward_hooks for m in prior.den.modules())


def test_an_encoder_of_transformers() -> None:
    """Its patches, in their places: of a picture that is dark but for one patch, that patch differs most."""
    transformers = pytest.importorskip("transformers")

    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=8
    )
    with torch.random.fork_rng(devices=[]):
        model = transformers.ViTModel(config, add_pooling_layer=False).eval()
    x = torch.zeros(2, 3, 32, 32)
    x[1, :, 8:16, 24:] = 1
    f = encoded(model, x)
    assert f.shape == (2, 16, 4, 4)
    assert (f[1] - f[0]).square().sum(0).argmax() == 1 * 4 + 3
