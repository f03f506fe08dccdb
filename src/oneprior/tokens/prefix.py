"""Block diffusion: p(x) = prod_b p(x_b | x_<b), each block denoised given clean earlier ones (BD3-LM, Arriola 2025).

A network trained on [x_t ; x_0] under `block_mask` gives the bounds of all blocks in one call. Its clean tokens attend
to no later block, so keys and values of a finished block hold for good: decoding costs one block a call, exactly
(`Prefixed`). A convolution over neighbours would look past the mask: such networks have conv=0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oneprior.times import TimeLaw, Uniform
from oneprior.tokens.denoiser import TokenDenoiser
from oneprior.tokens.losses import TokenLoss

GOLDEN = 0.6180339887498949


def block_mask(length: int, size: int) -> Tensor:
    """Which of [x_t ; x_0] (rows) may attend to which (columns), bool (2L, 2L), for blocks of `size` tokens.

    Noisy tokens: their own block, and clean ones of earlier blocks. Clean tokens: clean ones of theirs and earlier.
    """
    block = torch.arange(length) // size
    ask, key = block[:, None], block[None]
    noisy = torch.cat((ask == key, ask > key), 1)
    return torch.cat((noisy, torch.cat((torch.zeros_like(ask == key), ask >= key), 1)))


@dataclass(frozen=True)
class BlockMasks(TokenLoss):
    """The bound of block diffusion with masks: sum over blocks of its length times the mean CE over n masked tokens, n
    uniform in 1 .. length. For a network without time and an absorbing corruption; nats a sequence.

    Example:
        >>> TokenObjective(BlockMasks(16))
    """

    size: int = 32
    law: ClassVar[TimeLaw] = Uniform()

    def corrupt(self, den: TokenDenoiser, x0: Tensor, t: Tensor, u: Tensor) -> Tensor:
        parts = zip(x0.split(self.size, 1), u.split(self.size, 1), strict=True)
        hidden = []
        for b, (x, v) in enumerate(parts):  # every block has a level of its own, spread evenly over blocks
            n = (((t[:, None] + b * GOLDEN) % 1) * x.shape[1]).ceil().clamp(1, x.shape[1])
            hidden.append(x.masked_fill(v.argsort(1).argsort(1) < n, den.corruption.vocab - 1))
        return torch.cat(hidden, 1)

    def __call__(self, den: TokenDenoiser, x0: Tensor, t: Tensor, z: Tensor, **cond: Any) -> Tensor:
        L, at = x0.shape[1], torch.arange(x0.shape[1], device=x0.device)
        how = {"mask": block_mask(L, self.size).to(x0.device), "places": at.repeat(2), "rows": at.expand(len(x0), -1)}
        logits = den.logits(torch.cat((z, x0), 1), t, **how, **cond)[..., :-1]
        ce = F.cross_entropy(logits.float().transpose(1, 2), x0, reduction="none") * (z == den.corruption.vocab - 1)
        masked = (z == den.corruption.vocab - 1).split(self.size, 1)
        share = [m.shape[1] / m.sum(1) for m in masked]
        return sum((c.sum(1) * s for c, s in zip(ce.split(self.size, 1), share, strict=True)), ce.new_zeros(len(ce)))


class Prefixed(nn.Module):
    """A network trained with `BlockMasks(size)` as `Blocks(size)` asks it: the last block of x, given clean ones.

    cache: keys and values of finished blocks are computed once, and anew where these tokens differ from those asked
    about before; what it says of finished blocks is 0 then, they are certain. False asks with all tokens every time.

    Example:
        >>> den = TokenDenoiser(Prefixed(net, 16), Absorbing(28), timed=False)
        >>> x = Blocks(16, FirstHitting())(den, (8, 256), seeds=range(8))
    """

    takes_rows = True

    def __init__(self, net: nn.Module, size: int, cache: bool = True) -> None:
        super().__init__()
        self.net, self.size, self.cache = net, size, cache
        self._known: tuple[Tensor, dict[str, Any], list[Any]] | None = None

    def forward(self, x: Tensor, *, rows: Tensor | None = None, **cond: Any) -> Tensor:
        if not self.cache:
            block = torch.arange(x.shape[1], device=x.device) // self.size
            return self.net(x, mask=block[:, None] >= block, rows=rows, **cond)
        first = (x.shape[1] - 1) // self.size * self.size
        past = [dict(p) for p in self._past(x[:, :first], cond)]  # a block that is not finished leaves nothing
        if rows is not None:
            rows = (rows - first).clamp(min=0)
        out = self.net(x[:, first:], cache=past, rows=rows, **cond)
        return out if rows is not None else torch.cat((out.new_zeros(len(x), first, out.shape[-1]), out), 1)

    def _past(self, clean: Tensor, cond: dict[str, Any]) -> list[Any]:
        seen, said, past = self._known or (clean[:, :0], cond, [])
        n = seen.shape[1]
        if not torch.equal(clean[:, :n], seen) or not _same(said, cond):
            n, past = 0, []
        for at in range(n, clean.shape[1], self.size):
            self.net(clean[:, at : at + self.size], cache=past, rows=clean.new_zeros(len(clean), 1), **cond)
        self._known = (clean, cond, past)
        return past


def _same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(torch.as_tensor(a[k]), torch.as_tensor(b[k])) for k in a)
