"""Feedback between blocks (Mukhopadhyay et al. 2023, "Do Text-free Diffusion Models Learn Discriminative Visual
Representations?").

The network is asked twice. What a late block b says the first time is added to an early one e the second time,
    h_e <- h_e + relu(norm(W_b h_b)),       e as far from the start as b is from the end,
and attention reads a block of the second pass. The network stays as it is: W_b, norms and head are trained through it,
so a batch costs two calls and a gradient, where a head on kept features costs none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from oneprior.denoiser import Denoiser
from oneprior.uses.features import ask, shapes, spatial
from oneprior.uses.heads import Attention, AttentionNet, Head, check_classes, train
from oneprior.uses.taps import network, still, tapped


def mirrored(known: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """{late block: early block} of `features.shapes`: those as far from either end whose grids agree."""
    names = list(known)
    ends = [(names[-1 - i], names[i]) for i in range(len(names) // 2)]
    return {b: e for b, e in ends if len(known[b]) == 4 and known[b][2:] == known[e][2:]}


class Feedback(Head):
    """A head on pictures themselves, (N, *) in model range, where others take features.

    layer: what is read; pairs: {late block: early block}, `mirrored` ones by default. t: noise, drawn anew each epoch.
    head: width, rates and epochs, as of `heads.Attention`.

    Example:
        >>> Feedback(prior.den, "up.1").fit(x, y).score(z, w)

    Raises:
        KeyError: (in `fit`) for a layer that is not there.
        ValueError: for pairs of blocks that have no grid, or none at all.
    """

    def __init__(
        self,
        den: Denoiser,
        layer: str,
        t: float = 0.1,
        *,
        pairs: Mapping[str, str] | None = None,
        head: Attention | None = None,
    ) -> None:
        self.den, self.layer, self.t, self.pairs, self.head = den, layer, t, pairs, head or Attention()

    def fit(self, features: Tensor, y: Tensor) -> Self:
        check_classes(features, y)
        known, h = shapes(self.den, features, self.t), self.head
        self._pairs = dict(mirrored(known) if self.pairs is None else self.pairs)
        wanted = (self.layer, *self._pairs, *self._pairs.values())
        with tapped(network(self.den), wanted):  # names that are none are refused here
            pass
        if not self._pairs or any(len(known.get(name, ())) != 4 for name in wanted):
            raise ValueError(f"blocks with a grid, (B, C, H, W), were expected of {wanted}; there are {known}")
        self.classes, target = y.unique(return_inverse=True)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(h.seed)
            ways = {str(i): _way(known[b][1], known[e][1]) for i, (b, e) in enumerate(self._pairs.items())}
            out = AttentionNet(known[self.layer][1], h.width, h.heads, h.depth, len(self.classes))
            self.net = nn.ModuleDict({**ways, "head": out}).to(features.device)
        seeds = list(range(len(features)))
        train(
            self.net,
            lambda i, epoch: self._logits(features[i], [seeds[k] for k in i.tolist()], epoch + 1),
            target, h.epochs, h.batch, h.lr, h.seed,
        )  # fmt: skip
        self.net.eval()
        return self

    @torch.no_grad()
    def predict(self, features: Tensor) -> Tensor:
        parts = torch.arange(len(features)).split(self.head.batch)
        return self.classes[torch.cat([self._logits(features[i], i.tolist(), 0).argmax(1) for i in parts])]

    def _logits(self, x0: Tensor, seeds: Sequence[int], draw: int) -> Tensor:
        net, grad = network(self.den), torch.is_grad_enabled()
        with still(net), tapped(net, list(self._pairs), spatial) as said:
            ask(self.den, x0, self.t, seeds, draw)
        add = {
            e: lambda h, way=self.net[str(i)], b=b: way(said[b]).to(h) for i, (b, e) in enumerate(self._pairs.items())
        }
        with still(net, grad), tapped(net, [self.layer], grad=True, add=add) as seen:
            ask(self.den, x0, self.t, seeds, draw)
        return self.net["head"](*self.head.tokens(seen[self.layer]))


def _way(c_in: int, c_out: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(c_in, c_out, 1), nn.BatchNorm2d(c_out), nn.ReLU())
