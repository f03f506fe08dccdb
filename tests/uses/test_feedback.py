"""Feedback between blocks: what it adds, and that the network stays as it was."""

import pytest
import torch
from torch import Tensor, nn

from oneprior.denoiser import NetworkDenoiser
from oneprior.nets import MLPConfig, UNetConfig, build
from oneprior.schedules import Cosine
from oneprior.uses.features import extract, shapes, spatial
from oneprior.uses.feedback import Feedback, mirrored
from oneprior.uses.heads import Attention
from oneprior.uses.taps import network, tapped


def network_of(config: UNetConfig | MLPConfig) -> NetworkDenoiser:
    net = build(config, 0)
    for p in net.parameters():  # zero-initialised parts would hide mistakes
        nn.init.normal_(p, std=0.2, generator=torch.Generator().manual_seed(p.numel()))
    return NetworkDenoiser(net, Cosine(), "v")


def separable(n: int, seed: int) -> tuple[Tensor, Tensor]:
    y = torch.arange(n) % 2
    x = 0.3 * torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    x[y == 1, 0, :4] += 1
    return x, y


UNET = UNetConfig((1, 8, 8), channels=(8, 16))
SMALL = Attention(8, 2, 1, epochs=6, batch=20, lr=1e-2)


def test_blocks_across() -> None:
    known = shapes(network_of(UNET), torch.zeros(1, 1, 8, 8))
    pairs = mirrored(known)
    assert pairs["up.0"] == "down.0" and pairs["up.1"] == "down.1"
    assert all(known[b][2:] == known[e][2:] for b, e in pairs.items())


def test_it_learns_and_the_network_does_not() -> None:
    den, (x, y), (z, w) = network_of(UNET), separable(60, 0), separable(40, 1)
    before = [p.clone() for p in den.parameters()]
    head = Feedback(den, "up.1", head=SMALL).fit(x, y * 3)
    assert head.score(z, w * 3) > 0.9
    assert torch.equal(head.predict(z)[:7], head.predict(z[:7]))
    assert torch.equal(Feedback(den, "up.1", head=SMALL).fit(x, y * 3).predict(z), head.predict(z))
    now = list(den.parameters())
    assert all(torch.equal(p, q) and p.requires_grad and p.grad is None for p, q in zip(now, before, strict=True))
    assert den.net.training and not any(m._forward_hooks for m in den.modules())
    still = Feedback(den, "up.1", head=Attention(8, 2, 1, epochs=0)).fit(x, y).net.state_dict()
    ways = {k: v for k, v in head.net.state_dict().items() if k.endswith(".0.weight") and not k.startswith("head")}
    assert len(ways) == 3 and all((v - still[k]).abs().max() > 1e-4 for k, v in ways.items())


def test_what_is_added() -> None:
    """Nothing where the way's scale is 0: then it is attention on plain features. Else relu(W h_b), by hand."""
    den, (x, y) = network_of(UNET), separable(6, 0)
    head = Feedback(den, "up.1", 0.2, pairs={"up.0": "down.0"}, head=SMALL).fit(x, y)
    way: nn.Module = head.net["0"]
    norm: nn.BatchNorm2d = way[1]  # type: ignore[index]
    with torch.no_grad():
        found = head._logits(x, range(6), 0)
        late, plain = (extract(den, x, [name], 0.2, read=spatial)[name] for name in ("up.0", "up.1"))
        with tapped(network(den), [], add={"down.0": lambda h: way(late)}):
            other = extract(den, x, ["up.1"], 0.2, read=spatial)["up.1"]
        torch.testing.assert_close(found, head.net["head"](*SMALL.tokens(other)))
        assert (other - plain).abs().max() > 1e-2
        norm.weight.zero_()
        norm.bias.zero_()
        torch.testing.assert_close(head._logits(x, range(6), 0), head.net["head"](*SMALL.tokens(plain)))


def test_what_is_refused() -> None:
    x, y = separable(6, 0)
    with pytest.raises(KeyError, match=r"no layer 'up\.7'"):
        Feedback(network_of(UNET), "up.7").fit(x, y)
    with pytest.raises(ValueError, match="blocks with a grid"):
        Feedback(network_of(MLPConfig((1, 8, 8), width=16, depth=2)), "blocks.1").fit(x, y)
    with pytest.raises(ValueError, match="of 1 class came"):
        Feedback(network_of(UNET), "up.1").fit(x, 0 * y)
