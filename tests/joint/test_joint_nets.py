"""Networks and losses of several parts: what they see, what they answer, what they refuse."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from oneprior.denoiser import NetworkDenoiser
from oneprior.joint import Alone, Independent, JointDenoiser, JointObjective, Marginals, Single, Together, pack, unpack
from oneprior.nets import JointConfig, build, config_from_dict, to_dict
from oneprior.objective import EDMWeight, Objective
from oneprior.schedules import Cosine, RectifiedFlow
from oneprior.tokens import Absorbing

SHAPES = {"image": (1, 8, 8), "other": (3, 8, 8), "label": (1,), "words": (3,), "feat": (4,)}
VOCAB = {"label": 11, "words": 6}
FIELDS = {"mlp": {"width": 32, "depth": 2}, "unet": {"channels": (8, 16)}, "dit": {"width": 48, "depth": 2, "heads": 2}}
N = 5


def denoiser(net: str = "mlp", **how: Any) -> JointDenoiser:
    config = JointConfig(SHAPES, VOCAB, net, "tiny", FIELDS[net])
    again = config_from_dict(json.loads(json.dumps(to_dict(config))))
    assert again == config
    module = build(again, seed=0)
    g = torch.Generator().manual_seed(1)
    for p in module.parameters():  # heads start at zero: here they are to say something
        p.data += 0.05 * torch.randn(p.shape, generator=g)
    schedules = {"image": Cosine(), "other": RectifiedFlow(), "label": Absorbing(11), "words": Absorbing(6)}
    said = {"other": "velocity", "feat": "edm"}
    return JointDenoiser(module, SHAPES, {**schedules, "feat": Cosine()}, said, **how).eval()


def batch(seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = {k: torch.randn(N, *s, generator=g) for k, s in SHAPES.items()}
    return x | {k: torch.randint(0, v, (N, *SHAPES[k]), generator=g) for k, v in VOCAB.items()}


TIMES = {"image": 0.3, "other": 0.8, "label": 0.5, "words": 0.9, "feat": 0.2}


@pytest.mark.parametrize("net", ["unet", "dit"])
def test_a_symbol_starts_as_loud_as_an_embedding(net: str) -> None:
    module: Any = build(JointConfig(SHAPES, VOCAB, net, "tiny", {} if net == "unet" else FIELDS[net]), seed=0)
    w, end = module.backbone.embedding.vector.weight.detach(), 5 * 32
    assert w.shape[1] == end + 11 + 3 * 6 + 4
    for shown, (start, stop) in {1.0: (end, end + 11), 3**-0.5: (end + 11, end + 29)}.items():
        assert abs(float(w[:, start:stop].std()) / shown - 1) < 0.1
    for rest in (w[:, :end], w[:, -4:]):  # clocks and numbers: as a linear map starts
        assert float(rest.abs().max()) <= w.shape[1] ** -0.5


@pytest.mark.parametrize("net", FIELDS)
def test_every_part_is_answered_and_hears_every_other(net: str) -> None:
    den, x = denoiser(net), batch()
    with torch.no_grad():
        post = den(x, TIMES)
    for k, p in post.items():
        assert p.mean.shape == (x[k].shape if k not in VOCAB else (*x[k].shape, VOCAB[k]))
    for k in ("label", "words"):
        assert float((post[k].mean.sum(-1) - 1).abs().max()) < 1e-12 and bool((post[k].mean[..., -1] < 1e-300).all())
        seen = x[k] != VOCAB[k] - 1
        assert bool((post[k].mean.argmax(-1) == x[k])[seen].all()), "what an absorbing corruption left is certain"
    with torch.no_grad():
        for k in x:
            other = {**x, k: batch(1)[k]}
            for name, v in den.raw(other, TIMES).items():
                if name != k:
                    assert not torch.equal(v, den.raw(x, TIMES)[name]), (k, name)


@pytest.mark.parametrize("net", FIELDS)
def test_a_constant_time_is_the_float_and_whose_time_it_is_matters(net: str) -> None:
    den, x = denoiser(net), batch()
    with torch.no_grad():
        plain = den(x, TIMES)
        tensors = den(x, {k: torch.full((N,), t) for k, t in TIMES.items()})
        one = den(x, 0.4)
        swapped = den(x, {**TIMES, "image": TIMES["other"], "other": TIMES["image"]})
    for k in x:
        torch.testing.assert_close(tensors[k].mean, plain[k].mean, rtol=1e-5, atol=1e-6)
        assert torch.equal(one[k].mean, den(x, dict.fromkeys(x, 0.4))[k].mean)
    assert not torch.allclose(swapped["feat"].mean, plain["feat"].mean, atol=1e-6)


@pytest.mark.parametrize("net", FIELDS)
def test_at_time_1_a_part_says_nothing(net: str) -> None:
    """No fresh noise: what is left out is the same whatever its numbers are."""
    den, x, y = denoiser(net), batch(), batch(1)
    t = {**TIMES, "other": 1.0, "feat": torch.tensor([1.0] * 4 + [0.5])}
    with torch.no_grad():
        a, b = (den.raw({**x, "other": v["other"], "feat": v["feat"]}, t)["image"] for v in (x, y))
    assert torch.equal(a[:4], b[:4]) and not torch.equal(a[4], b[4])


def test_packed_samples() -> None:
    den, x = denoiser(), batch()
    flat = pack(x)
    back = unpack(flat, den)
    assert flat.shape == (N, 64 + 192 + 1 + 3 + 4) and all(torch.equal(back[k], x[k]) for k in x)
    u = unpack(torch.randn(N, flat.shape[1]), den, noise=True)
    assert u["words"].dtype == torch.float64 and bool(((u["words"] >= 0) & (u["words"] < 1)).all())
    assert u["image"].shape == (N, 1, 8, 8)


def data(x: dict[str, Tensor]) -> Tensor:
    return pack(x | {k: x[k].clamp(max=v - 2) for k, v in VOCAB.items()})


def test_the_loss_is_a_mean_a_part_then_weighted() -> None:
    den, flat = denoiser(), data(batch())
    noise, t = torch.randn(flat.shape, generator=torch.Generator().manual_seed(3)), torch.full((N, 5), 0.6)
    zero = dict.fromkeys(SHAPES, 0.0)
    alone = {k: JointObjective(Independent(5), {**zero, k: 1.0})(den, flat, t, noise) for k in SHAPES}
    weights = {"image": 0.5, "words": 2.0}
    whole = JointObjective(Independent(5), weights)(den, flat, t, noise)
    torch.testing.assert_close(whole, sum(weights.get(k, 1.0) * v for k, v in alone.items()), rtol=1e-5, atol=1e-5)
    assert all(v.shape == (N,) and bool((v > 0).any()) for v in alone.values())
    # the image's is that of the plain objective of a network which sees the rest
    clean, eps = unpack(flat, den), unpack(noise, den, noise=True)
    for each in (Objective(), Objective(EDMWeight())):
        got = JointObjective(Independent(5), {**zero, "image": 1.0}, each)(den, flat, t, noise)
        a, _, s = Cosine().at(0.6)
        xt = {"image": a * clean["image"] + s * eps["image"], "other": 0.4 * clean["other"] + 0.6 * eps["other"]}
        xt["feat"] = a * clean["feat"] + s * eps["feat"]
        for k in VOCAB:
            xt[k] = clean[k].masked_fill(eps[k] >= 0.4, VOCAB[k] - 1)
        F = den.raw(xt, dict.fromkeys(SHAPES, 0.6))["image"]
        plain = each(NetworkDenoiser(Told(F), Cosine()), clean["image"], 0.6, eps["image"])
        torch.testing.assert_close(got, plain, rtol=1e-5, atol=1e-5)


class Told(torch.nn.Module):
    def __init__(self, F: Tensor) -> None:
        super().__init__()
        self.F = F

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.F


def test_what_is_given_has_no_loss() -> None:
    den, flat = denoiser(), data(batch())
    noise = torch.randn(flat.shape, generator=torch.Generator().manual_seed(3))
    for k in SHAPES:
        t = torch.zeros(N, 5)
        t[1, list(SHAPES).index(k)] = 0.9
        loss = JointObjective(Independent(5))(den, flat, t, noise)
        assert bool((loss[[0, 2, 3, 4]] == 0).all()) and bool(loss.isfinite().all())


def test_laws_of_times() -> None:
    g = torch.Generator().manual_seed(0)
    u = torch.rand(4000, 2, 3, generator=g)
    t = Independent(3)(u)
    assert t.shape == (4000, 3) and torch.corrcoef(t.T)[0, 1].abs() < 0.06
    assert float((t == 1).double().mean()) == pytest.approx(0.1, abs=0.015)
    assert float((t == 0).double().mean()) == pytest.approx(0.2, abs=0.02)
    t = Together(3)(u[:, :, 0])
    off = (t[:, 1:] == 1).all(1)
    assert float(off.double().mean()) == pytest.approx(0.2, abs=0.03)
    assert bool((t[~off] == t[~off][:, :1]).all()) and bool((t[off][:, 0] < 1).all())
    t = Alone(3)(u[:, :1, 0])
    assert bool((t[:, 1:] == 1).all()) and float(t[:, 0].min()) > 0 and Independent(3).shape((9,)) == (2, 3)


def test_one_time_for_all_is_kept() -> None:
    """The concatenated design was not trained on other times."""
    den, x = denoiser(tied=True), batch()
    den(x, 0.4)
    left_out = den(x, {**dict.fromkeys(SHAPES, 1.0), "image": 0.4})["image"].mean
    guided = Marginals(den, {"image": 2.0})(x, dict.fromkeys(SHAPES, 0.4))["image"].mean  # by the representation
    torch.testing.assert_close(guided, left_out + 2 * (den(x, 0.4)["image"].mean - left_out))
    with pytest.raises(ValueError, match=r"parts at the times \[0.0, 0.4\]: this denoiser was trained with one time"):
        den(x, {**dict.fromkeys(SHAPES, 0.4), "label": 0.0})


def test_what_is_refused() -> None:
    den, x = denoiser(), batch()
    with pytest.raises(ValueError, match=r"t has parts \['feat', 'image', 'label', 'words'\]"):
        den(x, {k: t for k, t in TIMES.items() if k != "other"})
    with pytest.raises(ValueError, match=r"x has the parts \['audio', .*; this denoiser is of \['feat', 'image'"):
        den({**x, "audio": x["feat"]}, {**TIMES, "audio": 0.5})
    with pytest.raises(ValueError, match="time runs from 0"):
        den(x, {**TIMES, "label": torch.full((N,), 1.5)})
    with pytest.raises(ValueError, match="trained with time_axes=0"):
        den(x, {**TIMES, "image": torch.rand(N, 1, 8, 8)})
    with pytest.raises(ValueError, match="the same were expected"):
        JointDenoiser(den.net, SHAPES, {"image": Cosine()})
    with pytest.raises(ValueError, match=r"weights of \['sound'\]"):
        JointObjective(Independent(5), {"sound": 1.0})(den, data(x), torch.rand(N, 5), torch.randn(N, 264))
    with pytest.raises(ValueError, match="a law of 3 parts for a denoiser"):
        JointObjective(Independent(3))(den, data(x), torch.rand(N, 3), torch.randn(N, 264))
    with pytest.raises(ValueError, match="'label' is no part of tensors"):
        Single(den, "label")
    with pytest.raises(ValueError, match="pictures of one size"):
        JointConfig({"a": (1, 8, 8), "b": (1, 4, 4)}, {}, "unet")
    with pytest.raises(ValueError, match="two parts or more"):
        JointConfig({"a": (1, 8, 8)}, {})
