"""Every network: silent at first, all its ports heard after, one time for all equal to that time everywhere."""

import dataclasses
import itertools
import json
import math
import re
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from oneprior.nets import DiTConfig, MLPConfig, NetConfig, UNetConfig, build, config_from_dict, to_dict
from oneprior.nets.layers import TimeEmbedding
from oneprior.nets.unet import coarser

B = 3
PORTS = {"classes": 4, "vector": 2, "image": 2, "second_time": True}
CONFIGS: dict[str, NetConfig] = {
    "unet": UNetConfig((2, 8, 8), channels=(8, 12, 16), tokens=5, time_axes=3, **PORTS),
    "unet deep": UNetConfig((2, 8, 4), channels=(8, 16), blocks=2, attention=(0, 1), head=8, time_axes=3, **PORTS),
    "unet patch": UNetConfig((2, 8, 8), channels=(8, 12), patch=2, tokens=5, time_axes=3, **PORTS),
    "dit": DiTConfig((2, 8, 8), patch=2, width=16, depth=2, heads=2, tokens=5, time_axes=3, **PORTS),
    "dit sequence": DiTConfig((6, 2), patch=1, width=16, depth=2, heads=2, tokens=5, time_axes=1, classes=4),
    "mlp": MLPConfig((2, 4, 4), width=16, depth=2, time_axes=3, **PORTS),
    "mlp vector": MLPConfig((5,), width=16, depth=2, time_axes=1, classes=4, vector=2),
}


def awake(config: NetConfig, seed: int = 0) -> nn.Module:
    """The network with every weight moved, so that nothing is zero any more; in eval mode."""
    torch.manual_seed(seed)
    net = build(config).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net


def inputs(config: NetConfig, seed: int = 1) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """x, t and a value for each port that the config has."""
    g = torch.Generator().manual_seed(seed)
    x, t = torch.randn(B, *config.shape, generator=g), torch.rand(B, generator=g)
    ports: dict[str, Tensor] = {}
    if config.classes:
        ports["label"] = torch.tensor([0, 2, 3])
    if config.vector:
        ports["vector"] = torch.randn(B, config.vector, generator=g)
    if config.image:
        ports["image"] = torch.randn(B, config.image, *config.shape[1:], generator=g)
    if config.second_time:
        ports["second_time"] = torch.rand(B, generator=g)
    if config.tokens:
        ports["tokens"] = torch.randn(B, 3, config.tokens, generator=g)
        ports["token_mask"] = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    return x, t, ports


@pytest.fixture(params=CONFIGS, scope="module")
def config(request: pytest.FixtureRequest) -> NetConfig:
    return CONFIGS[request.param]


def test_output_is_zero_at_first_and_every_weight_can_learn(config: NetConfig) -> None:
    torch.manual_seed(0)
    net = build(config)
    x, t, ports = inputs(config)
    y = net(x, t, **ports)
    assert y.shape == x.shape and not y.any()
    y = awake(config)(x, t, **ports)
    assert y.std() > 0.01
    net = awake(config)
    net(x, t, **ports).square().sum().backward()
    silent = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    # Unless something is left out, the nulls of label and tokens are not heard; a key's bias moves all scores alike.
    assert not [name for name in silent if not name.endswith(("tokens.null", "kv.bias"))]


def test_one_time_for_all_equals_that_time_everywhere(config: NetConfig) -> None:
    net, (x, t, ports) = awake(config), inputs(config)
    want = net(x, t, **ports)
    shape = {"unet": (1, *config.shape[1:]), "dit": (1, *config.shape[1:]), "mlp": config.shape}[config.type]
    shape = config.shape[:1] if len(config.shape) == 2 else shape
    full = t.reshape(B, *[1] * len(shape)).expand(B, *shape)
    torch.testing.assert_close(net(x, full, **ports), want, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(net(x, full[..., :1], **ports), want, atol=1e-5, rtol=1e-5)
    if "second_time" in ports:
        s = ports.pop("second_time").reshape(B, *[1] * len(shape)).expand(B, *shape)
        torch.testing.assert_close(net(x, full, second_time=s, **ports), want, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(net(x, t, second_time=s, **ports), want, atol=1e-5, rtol=1e-5)
        one = net(x, t, second_time=t, **ports)
        torch.testing.assert_close(net(x, t, **ports), one)  # a second time left out is the first


def test_a_time_of_its_own_is_heard_where_it_is(config: NetConfig) -> None:
    """The response to one element's time is felt, and differs from the response to another's."""
    net, (x, t, ports) = awake(config), inputs(config)
    shape = (B, *config.shape[:1]) if len(config.shape) < 3 else (B, 1, *config.shape[1:])
    first = t.reshape(B, *[1] * (len(shape) - 1)).expand(shape).clone()
    last = first.clone()
    first[(slice(None), *[0] * (len(shape) - 1))] = 0.99
    last[(slice(None), *[-1] * (len(shape) - 1))] = 0.99
    a, b, c = net(x, t, **ports), net(x, first, **ports), net(x, last, **ports)
    assert min((a - b).abs().max(), (a - c).abs().max(), (b - c).abs().max()) > 1e-3


def test_every_port_is_heard_and_by_its_own_sample_only(config: NetConfig) -> None:
    net, (x, t, ports) = awake(config), inputs(config)
    want = net(x, t, **ports)
    for port, value in ports.items():
        other = value.clone()
        other[0] = ~other[0] if value.dtype == torch.bool else (1 if port == "label" else 0.3 - other[0])
        got = net(x, t, **{**ports, port: other})
        assert (got[0] - want[0]).abs().max() > 1e-4, port
        torch.testing.assert_close(got[1:], want[1:], atol=1e-5, rtol=1e-5)
    assert (net(x, t.flip(0), **ports) - want).abs().max() > 1e-3


def test_a_port_left_out_equals_its_null(config: NetConfig) -> None:
    net, (x, t, ports) = awake(config), inputs(config)
    nulls = {"label": torch.full((B,), config.classes)}
    nulls |= {
        port: torch.zeros_like(ports[port]) for port in ("vector", "image", "tokens", "token_mask") if port in ports
    }
    for port in (p for p in nulls if p in ports and p != "token_mask"):
        with_null = {**ports, port: nulls[port]}
        without = {k: v for k, v in ports.items() if k != port}
        if port == "tokens":
            with_null["token_mask"] = nulls["token_mask"]
            del without["token_mask"]
        torch.testing.assert_close(net(x, t, **with_null), net(x, t, **without), atol=1e-5, rtol=1e-5)


def test_masked_tokens_are_not_read(config: NetConfig) -> None:
    if not config.tokens:
        config = dataclasses.replace(CONFIGS["unet"], attention=(0, -1))
    net, (x, t, ports) = awake(config), inputs(config)
    garbage = torch.where(ports["token_mask"][..., None], ports["tokens"], 1e3)
    torch.testing.assert_close(net(x, t, **{**ports, "tokens": garbage}), net(x, t, **ports))


def test_a_batch_is_its_samples(config: NetConfig) -> None:
    net, (x, t, ports) = awake(config), inputs(config)
    whole = net(x, t, **ports)
    one = net(x[1:2], t[1:2], **{k: v[1:2] for k, v in ports.items()})
    torch.testing.assert_close(one, whole[1:2], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("port", ["label", "vector", "tokens", "token_mask", "image", "second_time"])
@pytest.mark.parametrize("kind", [UNetConfig, DiTConfig, MLPConfig])
def test_a_port_it_was_not_built_for_is_refused_by_name(kind: type[NetConfig], port: str) -> None:
    net = build(kind((1, 4, 4)))
    value = {
        "label": torch.zeros(2, dtype=torch.long),
        "vector": torch.zeros(2, 3),
        "tokens": torch.zeros(2, 3, 4),
        "token_mask": torch.ones(2, 3, dtype=torch.bool),
        "image": torch.zeros(2, 1, 4, 4),
        "second_time": torch.zeros(2),
    }[port]
    with pytest.raises((TypeError, ValueError), match=port) as error:
        net(torch.zeros(2, 1, 4, 4), torch.zeros(2), **{port: value})
    hint = {"label": "classes=10", "token_mask": "tokens"}.get(port, f"{port}=")
    assert hint in str(error.value)
    with pytest.raises(TypeError, match="lable"):
        net(torch.zeros(2, 1, 4, 4), torch.zeros(2), lable=1)


@pytest.mark.parametrize("name", ["unet", "dit", "mlp"])
def test_wrong_shapes_and_labels_are_refused_with_the_evidence(name: str) -> None:
    config = dataclasses.replace(CONFIGS[name], time_axes=0)
    net, (x, t, ports) = build(config), inputs(config)

    def refused(words: str, x: Tensor = x, t: Tensor = t, **change: Tensor) -> None:
        with pytest.raises(ValueError, match=words):
            net(x, t, **{**ports, **change})

    side = config.shape[-1]
    refused(r"label must be in 0\.\.3, or 4 for no label; got 0\.\.5", label=torch.tensor([0, 5, 1]))
    refused(r"label must be in 0\.\.3.*got -1\.\.2", label=torch.tensor([0, -1, 2]))
    refused(r"label must have shape \(3\); got \(3, 1\)", label=torch.zeros(3, 1, dtype=torch.long))
    refused(r"vector must have shape \(3, 2\); got \(3, 4\)", vector=torch.zeros(3, 4))
    refused(rf"image must have shape \(3, 2, {side}, {side}\)", image=torch.zeros(3, 2, 2, 2))
    refused(rf"t of shape \(3,\); got \(3, 1, {side}, {side}\)", t=torch.rand(B, 1, side, side))
    refused(r"t has shape \(2,\); it must align with the first axes of x, \(3, 2", t=torch.rand(2))
    refused(rf"x of shape \(B, 2, {side}, {side}\); got \(3, 5, {side}, {side}\)", x=torch.zeros(3, 5, side, side))
    if config.tokens:
        refused(r"tokens must have shape \(3, L, 5\); got \(3, 3, 4\)", tokens=torch.zeros(3, 3, 4))
        refused(r"token_mask must have shape \(3, 3\)", token_mask=torch.ones(3, 4, dtype=torch.bool))
    if name != "mlp":
        refused(r"7.*pad x", x=torch.zeros(3, 2, 7, 7))
        full = build(dataclasses.replace(config, time_axes=3))
        with pytest.raises(ValueError, match=r"t must be \(B,\)"):
            full(x, torch.rand(B, 2, 1, 1))
        with pytest.raises(ValueError, match="residuals must hold"):
            net(x, t, residuals=[x])
    else:
        refused(r"of shape \(2, 4, 4\) and no other", x=torch.zeros(3, 2, 8, 8))


def note(seen: dict[str, Tensor], key: str):
    """A forward hook that keeps a layer's output."""

    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        seen[key] = output

    return hook


def test_residuals_add_to_the_named_layers() -> None:
    for name, layers in {"unet": ["down.0", "down.1", "down.2", "mid"], "dit": ["blocks.0", "blocks.1"]}.items():
        net, (x, t, ports) = awake(CONFIGS[name]), inputs(CONFIGS[name])
        seen: dict[str, Tensor] = {}
        want = net(x, t, **ports)
        hooks = [net.get_submodule(layer).register_forward_hook(note(seen, layer)) for layer in layers]
        net(x, t, **ports)
        for hook in hooks:
            hook.remove()
        zeros = [torch.zeros_like(seen[layer]) for layer in layers]
        torch.testing.assert_close(net(x, t, residuals=zeros, **ports), want)
        for i in range(len(layers)):
            some = [torch.randn_like(z) if j == i else z for j, z in enumerate(zeros)]
            assert (net(x, t, residuals=some, **ports) - want).abs().max() > 1e-3


def test_mask_hides_patches_from_the_others() -> None:
    net, (x, t, ports) = awake(CONFIGS["dit"]), inputs(CONFIGS["dit"])
    mask = torch.ones(B, 16, dtype=torch.bool)
    torch.testing.assert_close(net(x, t, mask=mask, **ports), net(x, t, **ports), atol=1e-5, rtol=1e-5)
    mask[:, 0] = False
    other = x.clone()
    other[:, :, :2, :2] += 5.0
    a, b = net(x, t, mask=mask, **ports), net(other, t, mask=mask, **ports)
    torch.testing.assert_close(a[:, :, 2:], b[:, :, 2:], atol=1e-5, rtol=1e-5)
    assert (net(other, t, **ports) - net(x, t, **ports))[:, :, 2:].abs().max() > 1e-3
    causal = torch.ones(6, 6, dtype=torch.bool).tril().expand(B, -1, -1)
    net, (x, t, ports) = awake(CONFIGS["dit sequence"]), inputs(CONFIGS["dit sequence"])
    other = x.clone()
    other[:, 4] += 5.0
    a, b = net(x, t, mask=causal, **ports), net(other, t, mask=causal, **ports)
    torch.testing.assert_close(a[:, :4], b[:, :4], atol=1e-5, rtol=1e-5)
    assert (a[:, 5] - b[:, 5]).abs().max() > 1e-4


def test_other_grids_and_output_channels() -> None:
    for name in ("unet", "dit"):
        config = dataclasses.replace(CONFIGS[name], image=0, out_channels=4)
        assert awake(config)(torch.randn(2, 2, 16, 12), torch.rand(2, 1, 16, 12)).shape == (2, 4, 16, 12)
    assert build(MLPConfig((5,), out_channels=7))(torch.zeros(2, 5), torch.zeros(2)).shape == (2, 7)


def test_patches_and_positions_are_where_they_should_be() -> None:
    """A DiT whose blocks do nothing maps each patch alone, in place: with unit matrices it is the identity."""
    config = DiTConfig((2, 4, 6), patch=2, width=8, depth=1, heads=2)
    net: Any = build(config)
    net.norm = nn.Identity()
    with torch.no_grad():
        net.inp.weight.copy_(torch.eye(8))
        nn.init.zeros_(net.inp.bias)
        nn.init.zeros_(net.positions)
        net.out.weight.copy_(torch.eye(8))  # patches are read channel first, (C, p, p), and written the same way
    x = torch.randn(2, 2, 4, 6)
    torch.testing.assert_close(net(x, torch.rand(2)), x)
    places: Any = build(config).positions
    assert torch.cdist(places, places).add(torch.eye(6) * 9).min() > 0.1  # no two places look alike


def test_a_time_modulates_its_own_place() -> None:
    """The time of one pixel changes the modulation of the patch that holds it and of no other."""
    net, (x, _, ports) = awake(CONFIGS["dit"]), inputs(CONFIGS["dit"])
    e: list[Tensor] = []
    net.get_submodule("blocks.0").register_forward_hook(lambda module, args, output: e.append(args[1]))
    for row, column, patch in ((0, 0, 0), (0, 7, 3), (7, 0, 12), (5, 3, 9)):
        t = torch.zeros(B, 1, 8, 8)
        net(x, t, **ports)
        t[:, :, row, column] = 1.0
        net(x, t, **ports)
        changed = (e[-1] - e[-2]).abs().amax((0, 2)) > 1e-6
        assert changed.nonzero().flatten().tolist() == [patch]
    e4 = torch.randn(2, 4, 6, 5)
    want = nn.functional.avg_pool2d(e4.movedim(-1, 1), 2).movedim(1, -1)
    torch.testing.assert_close(coarser(e4), want)
    assert coarser(e4[:, :1, :1]).shape == (2, 1, 1, 5)


def test_time_is_not_lost_in_low_precision() -> None:
    """Features of t in a net cast to bf16 are off by the last rounding alone: rates rounded to bf16 miss by 2 rad."""
    features: list[Tensor] = []
    for dtype in (torch.float32, torch.bfloat16):
        TimeEmbedding(32, 64).to(dtype)(torch.linspace(0, 1, 50), pool=lambda f: features.append(f) or f)
    assert (features[0] - features[1].float()).abs().max() < 2**-8


def test_a_half_clean_patch_is_not_a_half_noised_one() -> None:
    """Times are pooled as features: the same mean time, spread differently over a cell, is told apart."""
    for name in ("unet", "dit"):
        net, (x, _, ports) = awake(CONFIGS[name]), inputs(CONFIGS[name])
        mixed = torch.zeros(B, 1, 8, 8)
        mixed[..., ::2] = 1.0
        even = torch.full((B, 1, 8, 8), 0.5)
        seen = []
        block = net.get_submodule("mid.blocks.0" if name == "unet" else "blocks.0")
        block.register_forward_hook(lambda m, i, y, seen=seen: seen.append(i[1]))
        net(x, mixed, **ports)
        net(x, even, **ports)
        assert (seen[0] - seen[1]).abs().max() > 0.05


@pytest.mark.parametrize(
    ("config", "millions"),
    [  # those of the presets; 5 % either way
        (UNetConfig((1, 8, 8), channels=(32, 64)), 0.665),
        (UNetConfig.sized((3, 32, 32)), 1.08),
        (UNetConfig.sized((3, 64, 64)), 3.49),
        (DiTConfig.sized((3, 32, 32)), 4.17),
        (MLPConfig.sized((2,)), 0.43),
    ],
)
def test_parameter_counts(config: NetConfig, millions: float) -> None:
    assert sum(p.numel() for p in build(config).parameters()) == pytest.approx(millions * 1e6, rel=0.05)


@pytest.mark.parametrize(("kind", "size"), [*itertools.product((UNetConfig, DiTConfig), ("tiny", "small"))])
def test_presets_fit_the_usual_grids(kind: type[UNetConfig | DiTConfig], size: str) -> None:
    for shape in ((1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 48, 64)):
        config = kind.sized(shape, size, classes=3)
        assert config.classes == 3
        x = torch.zeros(1, *shape)
        assert build(config)(x, torch.zeros(1)).shape == x.shape
    with pytest.raises(ValueError, match="'tiny', 'small', 'base'; got 'huge'"):
        kind.sized((1, 8, 8), "huge")
    with pytest.raises(TypeError, match="chanels"):
        kind.sized((1, 8, 8), chanels=(8, 8))


def test_config_survives_json(config: NetConfig) -> None:
    assert config_from_dict(json.loads(json.dumps(to_dict(config)))) == config
    with pytest.raises(ValueError, match="knows 'unet', 'dit', 'mlp', 'tokens', 'codes', 'clips', 'joint'; got 'vit'"):
        config_from_dict({**to_dict(config), "type": "vit"})
    with pytest.raises(ValueError, match=f"{type(config).__name__} has no field blokcs; it has"):
        config_from_dict({**to_dict(config), "blokcs": 2})


def test_weights_survive_a_new_build(config: NetConfig) -> None:
    net, (x, t, ports) = awake(config), inputs(config)
    other = build(config_from_dict(to_dict(config))).eval()
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(x, t, **ports), net(x, t, **ports))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: UNetConfig((8, 8)),
            r"UNetConfig wants shape \(C, H, W\) of one sample, without the batch; got \(8, 8\)",
        ),
        (lambda: UNetConfig((1, 7, 8)), "sides divisible by 2; got 7 x 8"),
        (lambda: UNetConfig((1, 6, 8), patch=2), "resolutions of patch=2 need sides divisible by 4; got 6 x 8"),
        (lambda: UNetConfig((1, 8, 8), patch=0), "patch=0"),
        (lambda: UNetConfig((1, 8, 8), channels=(10, 20)), r"multiples of 4; got \(10, 20\)"),
        (lambda: UNetConfig((1, 8, 8), attention=(2,)), r"attention=\(2,\) names no index"),
        (lambda: UNetConfig((1, 8, 8), tokens=4, attention=()), "tokens are read by attention"),
        (lambda: UNetConfig((1, 8, 8), classes=-1), "classes must be 0"),
        (lambda: DiTConfig((1, 8, 8), patch=3), "patch=3 does not divide 8 x 8"),
        (lambda: DiTConfig((1, 8, 8), width=30, heads=4), "got 30, 4"),
        (lambda: DiTConfig((6, 2)), "patch=1"),
        (lambda: MLPConfig((2,), tokens=4), "no port for tokens"),
        (lambda: MLPConfig((2,), image=1), "use the port vector"),
        (lambda: MLPConfig((2,), dropout=1.0), r"dropout must be in \[0, 1\)"),
        (lambda: MLPConfig((2,), time_axes=2), "time_axes=2 exceeds"),
    ],
)
def test_a_config_that_cannot_be_is_refused(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_build_wants_a_config() -> None:
    with pytest.raises(TypeError, match="got dict"):
        build({"type": "unet"})  # pyright: ignore[reportCallIssue, reportArgumentType]


@pytest.mark.parametrize("name", ["unet", "dit", "mlp"])
def test_derivatives_and_dtypes_the_uses_need(name: str) -> None:
    """Batched vector-Jacobian products (exact divergence), bf16 autocast (training), float64 (proofs), bf16 weights."""
    net, (x, t, ports) = awake(CONFIGS[name]), inputs(CONFIGS[name])
    x.requires_grad_()
    y = net(x, t, **ports)
    v = torch.randn(2, *y.shape)
    (both,) = torch.autograd.grad(y, x, v, is_grads_batched=True, retain_graph=True)
    (second,) = torch.autograd.grad(y, x, v[1])
    torch.testing.assert_close(both[1], second, atol=1e-5, rtol=1e-4)
    with sdpa_kernel(SDPBackend.MATH):  # as the docstring of Attention says
        (g,) = torch.autograd.grad(net(x, t, **ports).square().sum(), x, create_graph=True)
        g.square().sum().backward()
    x = x.detach()
    with torch.autocast("cpu", torch.bfloat16):
        low = net(x, t, **ports)
    assert (low.float() - y).std() < 0.05 * y.std()
    # Angles reach 1000: a net cast to bf16 must not lose t.
    half = awake(CONFIGS[name]).bfloat16()(x.bfloat16(), t, **ports)
    assert (half.float() - y).std() < 0.1 * y.std()
    exact = {k: v.double() if v.is_floating_point() else v for k, v in ports.items()}
    fine = awake(CONFIGS[name]).double()(x.double(), t.double(), **exact)
    assert fine.dtype == torch.float64
    torch.testing.assert_close(fine.float(), y.detach(), atol=1e-3, rtol=1e-3)


def test_dropout_acts_in_training_only() -> None:
    for kind in (UNetConfig, DiTConfig, MLPConfig):
        net = awake(kind((1, 4, 4), dropout=0.5))
        x, t = torch.randn(2, 1, 4, 4), torch.rand(2)
        assert torch.equal(net(x, t), net(x, t))
        net.train()
        assert not torch.equal(net(x, t), net(x, t))


def test_layer_names_for_taps_are_stable() -> None:
    names = {name for name, _ in build(CONFIGS["unet deep"]).named_modules()}
    assert {"down.0", "down.0.blocks.1", "down.1.blocks.0", "mid", "mid.blocks.1", "up.0.blocks.1", "up.1"} <= names
    assert {"blocks.0", "blocks.1"} <= {name for name, _ in build(CONFIGS["dit"]).named_modules()}
    assert {"blocks.0", "blocks.1"} <= {name for name, _ in build(CONFIGS["mlp"]).named_modules()}


def test_settings_import_no_torch() -> None:
    code = "import sys, oneprior.nets, oneprior.nets.config; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert re.sub(r"\s", "", done.stdout) == "False"


@pytest.mark.parametrize("times", [0, 3])
def test_a_patch_is_a_cell_of_more_channels(times: int) -> None:
    """patch=2 is the network of pictures whose 2 x 2 squares are channels already, port `image` among them."""
    fields: dict[str, Any] = {"channels": (8, 16), "time_axes": times}
    net = awake(UNetConfig((3, 16, 8), image=1, patch=2, **fields))
    cells = build(UNetConfig((12, 8, 4), image=4, **fields)).eval()
    cells.load_state_dict(net.state_dict())
    x, image, t = torch.randn(2, 3, 16, 8), torch.randn(2, 1, 16, 8), torch.rand(2)
    own = torch.rand(2, 1, 8, 4) if times else t  # a time of its own for each cell
    t = own.repeat_interleave(2, 2).repeat_interleave(2, 3) if times else t
    small = cells(F.pixel_unshuffle(x, 2), own, image=F.pixel_unshuffle(image, 2))
    torch.testing.assert_close(net(x, t, image=image), F.pixel_shuffle(small, 2))


def test_unet_learns_the_posterior_mean_of_a_gaussian() -> None:
    """x0 ~ N(0, C) on 8 x 8 with neighbours correlated: E[x0 | x_t] = C (C + I)^-1 x_t at alpha = sigma = 1. The bar is
    the best answer pixel by pixel, which knows no neighbours; 100 steps must beat it by half of what can be gained."""
    g = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    i = torch.arange(8.0)
    k = torch.exp(-(((i[:, None] - i) / 3) ** 2) / 2)
    c = torch.kron(k, k)
    root = torch.linalg.cholesky(c.double() + 1e-6 * torch.eye(64)).float()
    exact = c @ torch.linalg.inv(c + torch.eye(64))
    net = build(UNetConfig((1, 8, 8), channels=(16, 32)))
    adam = torch.optim.Adam(net.parameters(), lr=3e-3)
    t = torch.full((64,), 0.5)

    def draw(n: int) -> tuple[Tensor, Tensor]:
        x0 = torch.randn(n, 64, generator=g) @ root.T
        return x0.reshape(n, 1, 8, 8), (x0 + torch.randn(n, 64, generator=g)).reshape(n, 1, 8, 8)

    for _ in range(100):
        x0, x = draw(64)
        adam.zero_grad()
        (net(x, t) - x0).square().mean().backward()
        adam.step()
    _, x = draw(64)
    truth = (x.flatten(1) @ exact.T).reshape_as(x)
    with torch.no_grad():
        off, diagonal = (net(x, t) - truth).square().mean(), (x / 2 - truth).square().mean()
    assert math.sqrt(off / diagonal) < 0.5
