"""Features: what a hook reads is what the layer gave, for any network; and nothing is left behind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest
import torch
from torch import Tensor, nn

from oneprior.denoiser import Denoiser, Facts, NetworkDenoiser, wrap
from oneprior.exact import Gaussian
from oneprior.guidance import CFG
from oneprior.nets import DiTConfig, MLPConfig, TokensConfig, UNetConfig, build
from oneprior.schedules import Cosine, RectifiedFlow
from oneprior.tokens import Absorbing, TokenDenoiser
from oneprior.uses.features import cka, extract, pca_maps, pooled, search, shapes, spatial, validated
from oneprior.uses.heads import HEADS, Attention, Head, linear, mlp
from oneprior.uses.taps import blocks, network, tapped

G = torch.Generator().manual_seed(0)
UNET = UNetConfig((1, 8, 8), classes=3, channels=(8, 16))


def den_of(config: Any, schedule: Any = None) -> NetworkDenoiser:
    net = build(config, 0)
    for p in net.parameters():  # zero-initialised parts would hide mistakes
        nn.init.normal_(p, std=0.2, generator=torch.Generator().manual_seed(p.numel()))
    null = {"label": torch.tensor([config.classes])} if config.classes else {}
    return NetworkDenoiser(net, schedule or Cosine(), "v", facts=Facts(null=null))


def diffusers_unet() -> Denoiser:
    models = pytest.importorskip("diffusers")
    net = models.UNet2DModel(
        8, 1, 1, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    return wrap(Called(net), RectifiedFlow(), "velocity", time=lambda schedule, t: 1000 * t)


def diffusers_dit() -> Denoiser:
    models = pytest.importorskip("diffusers")
    net = models.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=1, num_layers=2, sample_size=8, patch_size=2,
        num_embeds_ada_norm=10,
    )  # fmt: skip
    return wrap(Called(net, label="class_labels"), RectifiedFlow(), "velocity", null={"label": torch.tensor([3])})


class Called(nn.Module):
    """A foreign network under the names of our ports."""

    def __init__(self, net: nn.Module, **names: str) -> None:
        super().__init__()
        self.net, self.names = net, names

    def forward(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self.net(x, timestep=t, **{self.names[k]: v for k, v in cond.items()}).sample


MODELS: dict[str, tuple[Callable[[], Denoiser], str]] = {
    "unet": (lambda: den_of(UNET), "up.1"),
    "dit": (lambda: den_of(DiTConfig((1, 8, 8), patch=2, width=16, depth=3, heads=2)), "blocks.1"),
    "mlp": (lambda: den_of(MLPConfig((1, 8, 8), width=16, depth=2)), "blocks.1"),
    "diffusers unet": (diffusers_unet, "net.up_blocks.0"),
    "diffusers dit": (diffusers_dit, "net.transformer_blocks.1"),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", MODELS)
def test_the_hook_reads_the_layer(name: str) -> None:
    """Card: equal to a partial forward to 1e-6; here the rest of the network is cut off by an exception instead."""
    make, layer = MODELS[name]
    den, x = make(), torch.randn(5, 1, 8, 8, generator=G)
    assert layer in blocks(network(den))
    found = extract(den, x, [layer], 0.3, read=lambda h: h.clone())[layer]

    class Stop(Exception):
        pass

    module, got = dict(network(den).named_modules())[layer], list[Tensor]()

    def stop(_: Any, __: Any, out: Any) -> None:
        got.append(out[0] if isinstance(out, tuple) else out)
        raise Stop

    hook = module.register_forward_hook(stop)
    from oneprior.noise import Seeded

    a, _, s = den.schedule.at(0.3)
    null = {k: torch.as_tensor(v).expand(5) for k, v in den.facts.null.items()}
    with pytest.raises(Stop), torch.no_grad():
        den.eval()(a * x + s * Seeded(range(5), "features")(0, x), torch.full((5,), 0.3), **null)
    hook.remove()
    torch.testing.assert_close(found, got[0], rtol=1e-5, atol=1e-6)
    F = extract(den, x, [layer], 0.3)[layer]
    torch.testing.assert_close(F, pooled(found, 2), rtol=1e-5, atol=1e-6)
    assert F.dtype == torch.float32 and list(shapes(den, x))[-1] in blocks(network(den))
    assert not any(m._forward_hooks for m in den.modules())


def test_tokens_and_transformers() -> None:
    config = TokensConfig((16,), vocab=5, grid=(4, 4), width=16, depth=2, heads=2)
    den = TokenDenoiser(build(config, 0), Absorbing(5), timed=False)
    x = torch.randint(4, (3, 16), generator=G)
    F = extract(den, x, ["blocks.0"], 0.5, noises=2)["blocks.0"]
    assert F.shape == (3, 16 * 4)
    transformers = pytest.importorskip("transformers")
    vit = transformers.ViTModel(
        transformers.ViTConfig(image_size=8, patch_size=2, num_channels=1, hidden_size=16, num_hidden_layers=2,
                               num_attention_heads=2, intermediate_size=32)
    )  # fmt: skip
    last = [name for name in blocks(vit) if name.endswith(".1")][-1]
    with tapped(vit, [last, "encoder"] if hasattr(vit, "encoder") else [last], lambda h: pooled(h, 2)) as seen:
        vit(torch.randn(2, 1, 8, 8))
    assert seen[last].shape == (2, 64)


def test_grids_of_outputs() -> None:
    assert spatial(torch.zeros(2, 17, 6)).shape == (2, 6, 4, 4)  # a class token in front
    assert spatial(torch.zeros(2, 20, 6)).shape == (2, 6, 4, 4)  # and three registers
    assert spatial(torch.zeros(2, 3, 6)).shape == (2, 6, 3)
    h = torch.randn(2, 16, 6, generator=G)
    torch.testing.assert_close(pooled(h, 1), h.mean(1))
    assert pooled(h.half(), 2).dtype == torch.float32 and pooled(h, 64).shape == (2, 6 * 16)
    assert pooled(torch.zeros(2, 5), 2).shape == (2, 5) and pooled(torch.zeros(2, 3, 4, 4, 4), 2).shape == (2, 24)


def test_a_row_does_not_depend_on_its_batch() -> None:
    den, x = den_of(UNET), torch.randn(6, 1, 8, 8, generator=G)
    t = torch.linspace(0.1, 0.6, 6)
    full = extract(den, x, ["mid", "up.0"], t, noises=3, seeds=range(10, 16))
    for i in (0, 4):
        one = extract(den, x[i : i + 1], ["mid", "up.0"], float(t[i]), noises=3, seeds=[10 + i])
        for k in full:
            torch.testing.assert_close(one[k][0], full[k][i], rtol=1e-4, atol=1e-5)
    each = [extract(den, x, ["mid"], t, seeds=range(10, 16), label=torch.full((6,), c))["mid"] for c in (0, 3)]
    assert (each[0] - each[1]).abs().max() > 1e-3
    torch.testing.assert_close(each[1], extract(den, x, ["mid"], t, seeds=range(10, 16))["mid"])  # 3 is the null
    assert torch.equal(extract(CFG(den, 1.5).inner, x, ["mid"], t)["mid"], extract(den, x, ["mid"], t)["mid"])


def test_nothing_is_left_behind() -> None:
    den, x = den_of(UNET), torch.randn(2, 1, 8, 8, generator=G)
    den.train()
    mid: Any = den.net.mid
    mid.eval()

    def fails(h: Tensor) -> Tensor:
        raise RuntimeError("in the hook")

    with pytest.raises(RuntimeError, match="in the hook"):
        extract(den, x, ["mid"], read=fails)
    assert not any(m._forward_hooks for m in den.modules())
    assert den.net.training and not mid.training and not extract(den, x, ["mid"])["mid"].requires_grad


def test_a_compiled_network_is_read_uncompiled() -> None:
    """Hooks that are registered after the first compiled call never fire there."""

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inp, self.out = nn.Linear(4, 3), nn.Linear(3, 4)

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.out(self.inp(x))

    net, x = Plain(), torch.randn(2, 4, generator=G)
    fast: Any = torch.compile(net, backend="eager")
    compiled = wrap(fast, Cosine(), "v")
    with torch.no_grad():
        compiled(x, 0.1)
    torch.testing.assert_close(
        extract(compiled, x, ["inp"])["inp"], extract(wrap(net, Cosine(), "v"), x, ["inp"])["inp"]
    )


def test_what_is_kept_on_disk(tmp_path: Path) -> None:
    den, x = den_of(UNET), torch.randn(3, 1, 8, 8, generator=G)
    first = extract(den, x, ["mid", "up.1"], cache=tmp_path)
    (file,) = tmp_path.iterdir()
    before = file.stat().st_mtime_ns
    calls = []
    hook = den.net.register_forward_hook(lambda *_: calls.append(1))
    again = extract(den, x, ["mid", "up.1"], cache=tmp_path)
    assert not calls and file.stat().st_mtime_ns == before and all(torch.equal(first[k], again[k]) for k in first)
    extract(den, x + 1e-3, ["mid", "up.1"], cache=tmp_path)
    extract(den, x, ["mid", "up.1"], 0.2, cache=tmp_path)
    inp: Any = den.net.inp
    with torch.no_grad():
        inp.weight.add_(0.1)
    extract(den, x, ["mid", "up.1"], cache=tmp_path)
    hook.remove()
    assert len(calls) == 3 and len(list(tmp_path.iterdir())) == 4


def separable(n: int, seed: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    x = 0.6 * torch.randn(n, 1, 8, 8, generator=g)
    for c in range(3):
        x[y == c, 0, 2 * c : 2 * c + 3] += 1
    return x, y


@pytest.mark.parametrize("name", HEADS)
def test_heads(name: str) -> None:
    (x, y), (z, w) = separable(150, 0), separable(90, 1)
    make: Any = {"linear": linear, "mlp": mlp, "attention": lambda: Attention(16, 2, 1, epochs=12, lr=5e-3)}[name]
    if name == "attention":  # it normalises over channels, and one alone would say nothing
        x, z = (torch.cat((v, torch.ones_like(v), 0.5 * v), 1) for v in (x, z))
    head = make().fit(x, y)
    assert head.score(z, w) > 0.9 and make().fit(x, y).score(z, w) == head.score(z, w)
    assert make().fit(x, y * 5).predict(z).unique().tolist() == [0, 5, 10]
    with pytest.raises(ValueError, match="150 labels of 1 class came"):
        make().fit(x, torch.zeros(150, dtype=torch.long))


def test_the_search_looks_at_its_own_labels_only() -> None:
    den, (x, y) = den_of(UNET), separable(30, 0)
    found = search(den, x, y, (0.05, 0.9), layers=("down.0", "mid"))
    assert found.accuracy.shape == (2, 2) and found.best[1] == 0.05 and found.accuracy.max() > 0.6
    with pytest.raises(ValueError, match="two folds or more"):
        search(den, x, y, folds=1, layers=("mid",))


def test_folds() -> None:
    """Of five folds a head sees four and is tested on the fifth, or, for few labels, the other way round."""
    seen, (x, y) = list[tuple[int, int]](), separable(30, 0)

    class Counts(Head):
        def fit(self, features: Tensor, y: Tensor) -> Self:
            self.n = len(y)
            assert y.bincount().tolist() == [self.n // 3] * 3
            return self

        def predict(self, features: Tensor) -> Tensor:
            seen.append((self.n, len(features)))
            return torch.zeros(len(features), dtype=torch.long)

    assert validated(x, y, Counts, 5) == pytest.approx(1 / 3) == validated(x, y, Counts, 5, few=True)
    assert seen == [(24, 6)] * 5 + [(6, 24)] * 5


def test_cka() -> None:
    """Card: 1 for itself, rotations and scalings; near 0 for independent noise."""
    X = torch.randn(4000, 6, generator=G, dtype=torch.float64)
    Q = torch.linalg.qr(torch.randn(6, 6, generator=G, dtype=torch.float64)).Q
    assert cka(X, X) == pytest.approx(1, abs=1e-12) == cka(X, 3 * X @ Q + 2)
    other = torch.randn(4000, 5, generator=G, dtype=torch.float64)
    assert cka(X, other) < 3 * (6 * 5) ** 0.5 / 4000  # of mean sqrt(d d') / n for white noise
    assert cka(X, other) == pytest.approx(cka(other, X))
    with pytest.raises(ValueError, match="same samples"):
        cka(X, X[:5])


def test_maps_of_principal_components() -> None:
    h = torch.zeros(2, 5, 4, 4)
    h[:, :, :2], h[0, :, 2:] = 1.0, torch.arange(5.0)[:, None, None]
    maps = pca_maps(h)
    assert maps.shape == (2, 3, 4, 4) and maps.min() >= 0 and maps.max() <= 1
    assert maps[0, :, 0].unique(dim=-1).shape[1] == 1 and (maps[0, :, 0, 0] - maps[0, :, 3, 0]).abs().max() > 0.5
    assert torch.equal(pca_maps(h), maps) and pca_maps(h[:, :2]).shape == (2, 3, 4, 4)


def test_what_is_refused() -> None:
    den, x = den_of(UNET), torch.zeros(2, 1, 8, 8)
    with pytest.raises(KeyError, match=r"no layer 'middle'; nearest are mid"):
        extract(den, x, ["middle"])
    with pytest.raises(KeyError, match=r"no layer 'up\.3'; nearest are up\."):
        extract(den, x, ["up.3"])
    with pytest.raises(KeyError, match=r"no layer 'zzzz'; nearest are down\.0"):
        extract(den, x, ["zzzz"])
    with pytest.raises(ValueError, match="pool = 0, noises = 1"):
        extract(den, x, ["mid"], pool=0)
    with pytest.raises(ValueError, match="1 seeds for 2 images"):
        extract(den, x, ["mid"], seeds=[1])
    with pytest.raises(ValueError, match="no network whose layers could be read"):
        extract(Gaussian([0.0], 1.0).denoiser(Cosine()), torch.zeros(2, 1), ["mid"])
    with pytest.raises(ValueError, match="gave no tensor in this call"):
        extract(den, x, ["down"])
    with pytest.raises(ValueError, match="has sides that"):
        extract(den, torch.zeros(2, 1, 7, 7), ["mid"])
