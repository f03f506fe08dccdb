"""The transformer over tokens: which token hears which, where it stands, and what a cache and rows leave out."""

import dataclasses
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oneprior.nets import TokensConfig, build, config_from_dict, to_dict
from oneprior.nets.layers import turned
from oneprior.nets.tokens import rotary

V, L = 7, 10
PLAIN = TokensConfig((L,), vocab=V, width=16, depth=2, heads=2)
CONFIGS = {
    "plain": PLAIN,
    "conv": dataclasses.replace(PLAIN, conv=5),
    "causal": dataclasses.replace(PLAIN, causal=True),
    "causal conv": dataclasses.replace(PLAIN, causal=True, conv=5),
    "timed": dataclasses.replace(PLAIN, timed=True, classes=3, vector=2, conv=3),
    "grid": TokensConfig((12,), vocab=V, width=16, depth=2, heads=2, grid=(3, 4), conv=3, classes=3),
    "words": dataclasses.replace(PLAIN, words=9),
}
EVERY = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def awake(config: TokensConfig, seed: int = 0) -> nn.Module:
    """The network with every weight moved, so that nothing is zero any more; in eval mode, float64."""
    net, g = build(config, seed).eval().double(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=g, dtype=p.dtype))
    return net


def given(config: TokensConfig, batch: int = 3, length: int | None = None) -> tuple[Tensor, dict[str, Any]]:
    g = torch.Generator().manual_seed(1)
    x = torch.randint(config.vocab, (batch, length or config.shape[0]), generator=g)
    ports: dict[str, Any] = {"t": torch.linspace(0.2, 0.9, batch).double()} if config.timed else {}
    if config.classes:
        ports["label"] = torch.arange(batch) % config.classes
    if config.vector:
        ports["vector"] = torch.randn(batch, config.vector, generator=g).double()
    if config.words:
        ports["words"] = torch.randint(config.words, (batch, 4), generator=g)
    return x, ports


def heard(net: nn.Module, x: Tensor, **how: Any) -> Tensor:
    """(place, by): whether the answer at a place changes with the token at `by`."""
    plain, out = net(x, **how), torch.zeros(x.shape[1], x.shape[1], dtype=torch.bool)
    for by in range(x.shape[1]):
        other = x.clone()
        other[:, by] = (x[:, by] + 1) % V
        out[:, by] = (net(other, **how) - plain).abs().amax((0, 2)) > 1e-9
    return out


@EVERY
@torch.no_grad()
def test_zero_at_first_and_any_length(config: TokensConfig) -> None:
    x, ports = given(config)
    net = build(config, 0)
    assert net(x, **{k: v.float() if v.is_floating_point() else v for k, v in ports.items()}).abs().max() == 0
    assert config_from_dict(json.loads(json.dumps(to_dict(config)))) == config
    if not config.grid:
        x, ports = given(config, length=3 * L + 1)
        assert awake(config)(x, **ports).shape == (3, 3 * L + 1, V)


def test_every_weight_is_reached() -> None:
    for name, config in CONFIGS.items():
        net = awake(config)
        x, ports = given(config)
        net(x, **ports).square().sum().backward()
        silent = [k for k, p in net.named_parameters() if p.grad is None or not p.grad.any()]
        # unasked: the nulls of conditions that were given, times that are not told, keys' biases, which softmax ignores
        assert all("null" in k or "embedding.time" in k or k.endswith("kv.bias") for k in silent), (name, silent)


@EVERY
@torch.no_grad()
def test_rows_are_those_of_the_whole_answer(config: TokensConfig) -> None:
    net, (x, ports) = awake(config), given(config)
    rows = torch.tensor([[1, 4, 9], [0, 0, 2], [3, 8, 5]])
    want = net(x, **ports).gather(1, rows[..., None].expand(-1, -1, V))
    torch.testing.assert_close(net(x, rows=rows, **ports), want, atol=1e-12, rtol=0)


@torch.no_grad()
def test_rows_with_a_time_a_token() -> None:
    config = dataclasses.replace(CONFIGS["timed"], time_axes=1)
    net, (x, ports) = awake(config), given(config)
    ports["t"] = torch.rand(x.shape, generator=torch.Generator().manual_seed(2)).double()
    rows = torch.tensor([[1, 4], [0, 2], [3, 8]])
    want = net(x, **ports).gather(1, rows[..., None].expand(-1, -1, V))
    torch.testing.assert_close(net(x, rows=rows, **ports), want, atol=1e-12, rtol=0)


@torch.no_grad()
def test_who_hears_whom() -> None:
    everyone = torch.ones(L, L, dtype=torch.bool)
    for name in ("plain", "conv"):
        assert torch.equal(heard(awake(CONFIGS[name]), given(PLAIN)[0]), everyone)
    for name in ("causal", "causal conv"):
        assert torch.equal(heard(awake(CONFIGS[name]), given(PLAIN)[0]), everyone.tril()), name
    mask = torch.rand(L, L, generator=torch.Generator().manual_seed(0)) < 0.4
    mask.fill_diagonal_(True)
    once, twice = mask, (mask.int() @ mask.int()) > 0  # two layers: what is heard is passed on
    assert torch.equal(heard(awake(PLAIN), given(PLAIN)[0], mask=mask), twice)
    shallow = dataclasses.replace(PLAIN, depth=1)
    assert torch.equal(heard(awake(shallow), given(PLAIN)[0], mask=mask), once)


@torch.no_grad()
def test_time_and_conditions_of_a_sample_are_its_own() -> None:
    net, (x, ports) = awake(CONFIGS["timed"]), given(CONFIGS["timed"])
    want = net(x, **ports)
    for name, other in (("t", 0.5), ("label", 2), ("vector", 1.0)):
        changed = {k: v.clone() for k, v in ports.items()}
        changed[name][0] = other
        got = net(x, **changed)
        assert (got[0] - want[0]).abs().max() > 1e-3, name
        torch.testing.assert_close(got[1:], want[1:], atol=1e-12, rtol=0)
    everywhere = ports["t"][:, None].expand(x.shape)
    torch.testing.assert_close(net(x, **{**ports, "t": everywhere}), want, atol=1e-12, rtol=0)


def test_rotary_positions_are_relative() -> None:
    g = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 16, generator=g).unbind()

    def product(i: int, j: int, grid: tuple[int, ...]) -> float:
        cos, sin = rotary(torch.tensor([i, j]), grid, 16)
        a, b = turned(q, cos[:1], sin[:1]), turned(k, cos[1:], sin[1:])
        return float((a * b).sum())

    for shift in (1, 100):
        assert product(3 + shift, 8 + shift, ()) == pytest.approx(product(3, 8, ()), abs=1e-4)
    assert abs(product(3, 8, ()) - product(3, 9, ())) > 1e-3
    assert product(5 * 4 + 1, 4 * 4 + 3, (8, 4)) == pytest.approx(product(4 + 1, 3, (8, 4)), abs=1e-4)  # a row up
    assert abs(product(4 + 1, 3, (8, 4)) - product(1, 4 + 3, (8, 4))) > 1e-3


@torch.no_grad()
def test_places_shift_nothing_and_a_gap_is_heard() -> None:
    net, x = awake(PLAIN), given(PLAIN)[0]
    want = net(x)
    torch.testing.assert_close(net(x, places=torch.arange(L) + 40), want, atol=1e-4, rtol=0)  # angles are float32
    assert (net(x, places=torch.arange(L) * 2) - want).abs().max() > 1e-2


@pytest.mark.parametrize("name", ["causal", "causal conv"])
@pytest.mark.parametrize("parts", [(1,) * L, (4, 1, 5), (L,)])
@torch.no_grad()
def test_a_cache_of_a_causal_net_equals_the_whole(name: str, parts: tuple[int, ...]) -> None:
    net, x, past, out = awake(CONFIGS[name]), given(PLAIN)[0], list[Any](), []
    for part in x.split(list(parts), 1):
        out.append(net(part, cache=past))
    torch.testing.assert_close(torch.cat(out, 1), net(x), atol=1e-10, rtol=0)


@torch.no_grad()
def test_a_cache_under_a_block_causal_mask_equals_the_whole() -> None:
    net, x, past, out = awake(PLAIN), given(PLAIN)[0], list[Any](), []
    for part in x.split(4, 1):  # 4, 4, 2: a block attends to itself and what came before, which is all there is
        out.append(net(part, cache=past))
    block = torch.arange(L) // 4
    torch.testing.assert_close(torch.cat(out, 1), net(x, mask=block[:, None] >= block), atol=1e-10, rtol=0)


X = torch.zeros(2, L, dtype=torch.long)


@pytest.mark.parametrize(
    ("name", "call", "kind", "said"),
    [
        ("plain", {"x": X[0]}, ValueError, "built for tokens"),
        ("plain", {"x": X + V}, ValueError, r"integers in \[0, 7\); torch.int64 from 7 to 7"),
        ("plain", {"x": X - 1}, ValueError, "from -1"),
        ("plain", {"x": X.float()}, ValueError, "float32"),
        ("grid", {"x": X}, ValueError, r"built for tokens \(B, 12\)"),
        ("plain", {"x": X, "t": torch.ones(2)}, TypeError, "takes no t"),
        ("timed", {"x": X}, TypeError, "give it t"),
        ("plain", {"x": X, "label": torch.zeros(2).long()}, TypeError, "without the port 'label'"),
        ("plain", {"x": X, "words": X}, TypeError, "without the port 'words'"),
        ("timed", {"x": X, "t": torch.ones(2), "label": torch.full((2,), 4)}, ValueError, r"label must be in 0\.\.2"),
        ("conv", {"x": X, "mask": torch.ones(L, L)}, ValueError, "build the net with conv=0"),
        ("conv", {"x": X, "cache": []}, ValueError, "a causal one takes a cache"),
    ],
)
def test_refused(name: str, call: dict[str, Any], kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        build(CONFIGS[name], 0)(**call)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"vocab": 1}, "2 symbols or more"),
        ({"vocab": 4, "grid": (3, 3)}, "does not hold the 10 tokens"),
        ({"vocab": 4, "heads": 5}, "a multiple of 4"),
        ({"vocab": 4, "conv": 4}, "must be odd"),
        ({"vocab": 4, "image": 1}, "no port image"),
    ],
)
def test_a_config_that_cannot_be(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TokensConfig((L,), **fields)
