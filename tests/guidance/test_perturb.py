"""Perturbed attention and skipped layers: what is perturbed, for how long, and that the network is as before."""

import threading
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers import Simple, draw
from oneprior.denoiser import NetworkDenoiser, wrap
from oneprior.guidance import CFG, PAG, SkipLayer, time
from oneprior.nets import DiTConfig, MLPConfig, UNetConfig, build
from oneprior.nets.layers import Attention
from oneprior.sampling import sample
from oneprior.schedules import VP

X, LABEL = draw(3, 2, 4, 4), torch.tensor([0, 1, 2])


def awake(config: Any) -> NetworkDenoiser:
    net = build(config, seed=0).double()
    with torch.no_grad():
        for i, p in enumerate(net.parameters()):
            p.add_(0.2 * draw(*p.shape, seed=i))
    return wrap(net, VP(), "v", null={"label": 3})


UNET = awake(UNetConfig((2, 4, 4), classes=3, channels=(8, 8), attention=(-1,)))
DIT = awake(DiTConfig((2, 4, 4), classes=3, patch=2, width=16, depth=3, heads=2))
OWN = {"unet": (UNET, "mid.blocks.0.attention.own"), "dit": (DIT, "blocks.1.attention")}


def hooks(net: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules())


def by_hand(layer: Attention, x: Tensor) -> Tensor:
    """Every token attends to itself alone."""
    return layer.out(layer.kv(x).chunk(2, -1)[1])


@pytest.mark.parametrize("name", OWN)
def test_identity_attention_against_the_network_changed_by_hand(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    den, at = OWN[name]
    D = den(X, 0.5, label=LABEL).mean
    got = PAG(den, [at], 3.0)(X, 0.5, label=LABEL).mean
    assert torch.equal(den(X, 0.5, label=LABEL).mean, D) and hooks(den.net) == 0
    layer = den.net.get_submodule(at)
    assert isinstance(layer, Attention)
    with monkeypatch.context() as m:
        m.setattr(layer, "forward", lambda x, mask=None: by_hand(layer, x))
        P = den(X, 0.5, label=LABEL).mean
    assert (D - P).abs().max() > 1e-3
    torch.testing.assert_close(got, D + 3 * (D - P), rtol=1e-12, atol=1e-12)


def test_a_whole_block_perturbs_all_the_attention_in_it() -> None:
    every = [n for n, m in DIT.net.named_modules() if isinstance(m, Attention)]
    blocks = [f"blocks.{i}" for i in range(3)]
    names = (every, blocks, [""], every[:1])
    each, by_block, whole, one = (PAG(DIT, n, 3.0)(X, 0.5, label=LABEL).mean for n in names)
    assert len(every) == 3 and not torch.allclose(one, each)
    assert torch.equal(by_block, each) and torch.equal(whole, each)
    with pytest.raises(ValueError, match=r"no self-attention ran in layer 'blocks'"):
        PAG(DIT, ["blocks"], 3.0)(X, 0.5, label=LABEL)  # a list of modules, never called itself


def test_attention_to_tokens_stays() -> None:
    den = awake(UNetConfig((2, 4, 4), tokens=5, channels=(8, 8), attention=(-1,)))
    tokens = draw(3, 2, 5)
    D = den(X, 0.5, tokens=tokens).mean
    own = PAG(den, ["mid.blocks.0.attention.own"])(X, 0.5, tokens=tokens).mean
    assert torch.equal(PAG(den, ["mid.blocks.0.attention"])(X, 0.5, tokens=tokens).mean, own) and not torch.equal(
        own, D
    )
    with pytest.raises(ValueError, match="no self-attention ran"):
        PAG(den, ["mid.blocks.0.attention.cross"])(X, 0.5, tokens=tokens)


def test_a_layer_that_is_skipped_passes_its_input_on(monkeypatch: pytest.MonkeyPatch) -> None:
    D = DIT(X, 0.5, label=LABEL).mean
    got = SkipLayer(DIT, ["blocks.1", "blocks.2"], 2.0)(X, 0.5, label=LABEL).mean
    assert hooks(DIT.net) == 0 and torch.equal(DIT(X, 0.5, label=LABEL).mean, D)
    with monkeypatch.context() as m:
        for block in DIT.net.get_submodule("blocks").children():
            if block is not DIT.net.get_submodule("blocks.0"):
                m.setattr(block, "forward", lambda h, *_: h)
        P = DIT(X, 0.5, label=LABEL).mean
    torch.testing.assert_close(got, D + 2 * (D - P), rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match=r"'up\.0\.blocks\.0' cannot be skipped: it turns \(3, 16, 4, 4\) into \(3, 8"):
        SkipLayer(UNET, ["up.0.blocks.0"])(X, 0.5, label=LABEL)
    assert hooks(UNET.net) == 0


class Foreign(nn.Module):
    """A network of somebody else's, which breaks when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.broken, self.calls = nn.Linear(4, 4).double(), False, 0
        self.attend = Attend()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        h = self.attend(self.inner(x))
        if self.broken and self.calls % 2 == 0:
            raise RuntimeError("broken")
        return h


class Attend(nn.Module):
    broken = False

    def forward(self, x: Tensor) -> Tensor:
        y = F.scaled_dot_product_attention(query=x, key=x, value=2 * x)
        if self.broken:
            raise RuntimeError("broken inside")
        return x + y


@pytest.mark.parametrize("kind", [PAG, SkipLayer])
def test_the_network_is_as_before_after_an_error(kind: Any) -> None:
    net = Foreign()
    den, x = wrap(net, VP(), "x0"), draw(3, 5, 4)
    D, guided = den(x, 0.5).mean, kind(den, ["attend"], 2.0)
    want = guided(x, 0.5).mean
    assert not torch.allclose(want, D)
    for broken in (net, net.attend):
        net.calls, broken.broken = 0, True
        with pytest.raises(RuntimeError, match="broken"):
            guided(x, 0.5)
        broken.broken = False
        assert hooks(net) == 0
        assert torch.equal(den(x, 0.5).mean, D) and torch.equal(guided(x, 0.5).mean, want)


def test_it_is_re_entrant_and_stacks() -> None:
    at = OWN["dit"][1]
    D = DIT(X, 0.5, label=LABEL).mean
    P = D - (PAG(DIT, [at], 1.0)(X, 0.5, label=LABEL).mean - D)
    twice = PAG(PAG(DIT, [at], 2.0), [at], 3.0)(X, 0.5, label=LABEL).mean
    # outside: D + 3 (D' - P'), D' = D + 2 (D - P); inside, perturbed both times: P' = P + 2 (P - P)
    torch.testing.assert_close(twice, D + 2 * (D - P) + 3 * (D + 2 * (D - P) - P))
    for stacked in (PAG(CFG(DIT, 2.0), [at]), CFG(SkipLayer(DIT, ["blocks.1"]), 2.0)):
        assert sample(stacked.double(), X.shape, steps=3, seeds=range(3), start=X, label=LABEL).isfinite().all()
    assert hooks(DIT.net) == 0


def test_another_thread_sees_the_network_unperturbed() -> None:
    """A studio samples plain and guided at once, with one network."""
    net, seen = Foreign(), []
    den, x = wrap(net, VP(), "x0"), draw(3, 5, 4)
    D = den(x, 0.5).mean
    guided = PAG(den, ["attend"], 2.0)
    want = guided(x, 0.5).mean

    def other(*_: Any) -> None:  # while the perturbed call is inside the layer
        if threading.current_thread() is threading.main_thread():
            thread = threading.Thread(target=lambda: seen.append(den(x, 0.5).mean))
            thread.start()
            thread.join()

    handle = net.inner.register_forward_hook(other)
    assert torch.equal(guided(x, 0.5).mean, want)
    handle.remove()
    assert len(seen) == 2 and all(torch.equal(v, D) for v in seen)


def test_an_interval_saves_the_second_call() -> None:
    net = Foreign()
    guided = SkipLayer(wrap(net, VP(), "x0"), ["attend"], interval=time(0.8, 1.0))
    for t, calls in ((0.9, 2), (0.5, 1)):
        net.calls = 0
        guided(draw(3, 5, 4), t)
        assert net.calls == calls


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"names of modules of the network were expected.*blocks\.1\.attention"):
        PAG(DIT, ["block.1.attention"])
    with pytest.raises(ValueError, match="such as"):
        PAG(DIT, [])
    with pytest.raises(TypeError, match="Simple has none"):
        PAG(Simple(lambda x, t: x, VP()), ["mid"])
    mlp = awake(MLPConfig((2,), classes=3, width=8, depth=1))
    with pytest.raises(ValueError, match=r"no self-attention ran in layer 'blocks\.0'"):
        PAG(mlp, ["blocks.0"])(draw(3, 2), 0.5, label=LABEL)
    assert hooks(mlp.net) == 0
    mha = nn.MultiheadAttention(4, 1, batch_first=True).double()

    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mha = mha

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.mha(x, x, x)[0]

    with pytest.raises(ValueError, match="scaled_dot_product_attention"):
        PAG(wrap(Other(), VP(), "x0"), ["mha"])(draw(3, 5, 4), 0.5)
