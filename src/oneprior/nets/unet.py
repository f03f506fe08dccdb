"""Residual U-Net with scale-shift time modulation (Ho et al. 2020; Dhariwal & Nichol 2021, "ADM").

A block: h + conv(silu(scale(e) * norm(conv(silu(norm(h)))) + shift(e))), then attention where the grid is coarse. One
skip per resolution. Down by a strided convolution, up by one that yields 2 x 2 cells from one (Shi et al. 2016); so are
pixels the channels of a `patch`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oneprior.nets.config import UNetConfig
from oneprior.nets.layers import Attention, Embedding, Tokens, check_input, each_residual, with_image, zero


def norm(channels: int, affine: bool = True) -> nn.GroupNorm:
    """Group norm with at most 32 groups of at least 4 channels."""
    return nn.GroupNorm(math.gcd(32, channels // 4) if channels > 128 else channels // 4, channels, affine=affine)


def coarser(e: Tensor, by: int = 2) -> Tensor:
    """Mean over by x by of the embedding (B, H, W, width); one time for all, (B, 1, 1, width), stays."""
    if by == 1 or e.shape[1] == e.shape[2] == 1:
        return e
    return e.unflatten(2, (-1, by)).unflatten(1, (-1, by)).mean((2, 4))


class GridAttention(nn.Module):
    """Attention among the cells of a grid, then from them to tokens; each added to its input."""

    def __init__(self, channels: int, head: int, tokens: int) -> None:
        super().__init__()
        heads = next(n for n in range(max(1, channels // head), 0, -1) if channels % n == 0)
        self.norm = norm(channels)
        self.own = Attention(channels, heads)
        self.token_norm = nn.LayerNorm(channels) if tokens else None
        self.cross = Attention(channels, heads, context=tokens) if tokens else None

    def forward(self, h: Tensor, tokens: Tensor | None, token_mask: Tensor | None) -> Tensor:
        y = h.flatten(2).transpose(1, 2)
        y = y + self.own(self.norm(h).flatten(2).transpose(1, 2))
        if self.cross is not None and self.token_norm is not None:
            y = y + self.cross(self.token_norm(y), tokens, token_mask)
        return y.transpose(1, 2).reshape(h.shape)


class Block(nn.Module):
    def __init__(self, inner: int, outer: int, width: int, config: UNetConfig, attend: bool) -> None:
        super().__init__()
        self.norm1 = norm(inner)
        self.conv1 = nn.Conv2d(inner, outer, 3, padding=1)
        self.modulation = nn.Linear(width, 2 * outer)
        nn.init.ones_(self.modulation.bias[:outer])
        nn.init.zeros_(self.modulation.bias[outer:])
        self.norm2 = norm(outer, affine=False)  # the modulation is its affine map
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = zero(nn.Conv2d(outer, outer, 3, padding=1))
        self.skip = nn.Conv2d(inner, outer, 1) if inner != outer else nn.Identity()
        self.attention = GridAttention(outer, config.head, config.tokens) if attend else None

    def forward(self, h: Tensor, e: Tensor, tokens: Tensor | None, token_mask: Tensor | None) -> Tensor:
        scale, shift = self.modulation(e).movedim(-1, 1).chunk(2, 1)
        y = self.conv1(F.silu(self.norm1(h)))
        y = F.silu(torch.addcmul(shift, self.norm2(y), scale))
        h = self.skip(h) + self.conv2(self.dropout(y))
        return h if self.attention is None else self.attention(h, tokens, token_mask)


class Level(nn.Module):
    """The blocks of one resolution."""

    def __init__(self, inner: int, outer: int, blocks: int, width: int, config: UNetConfig, attend: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(inner if i == 0 else outer, outer, width, config, attend) for i in range(blocks)
        )

    def forward(self, h: Tensor, e: Tensor, tokens: Tensor | None, token_mask: Tensor | None) -> Tensor:
        for block in self.blocks:
            h = block(h, e, tokens, token_mask)
        return h


class UNet(nn.Module):
    """Layers to tap, finest first: `down.0` .. `down.n`, `mid`, `up.n` .. `up.0` (and `down.0.blocks.0` within).

    Runs on any grid whose sides the number of halvings divides, not only on that of its config.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        ch, n = config.channels, len(config.channels)
        width = 4 * ch[0]
        self.widths, self.embedding_width = (*ch, ch[-1], *reversed(ch)), width  # of h and e where `between` is called
        attend = [i in {k % n for k in config.attention} for i in range(n)]
        self.embedding = Embedding(config, width, width)
        self.tokens = Tokens(config)
        self.inp = nn.Conv2d((config.channels_in + config.image) * config.patch**2, ch[0], 3, padding=1)
        self.down = nn.ModuleList(Level(c, c, config.blocks, width, config, a) for c, a in zip(ch, attend, strict=True))
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(ch))
        self.mid = Level(ch[-1], ch[-1], 2, width, config, attend[-1])
        self.up = nn.ModuleList(
            Level(2 * c, c, config.blocks, width, config, a) for c, a in zip(ch, attend, strict=True)
        )
        self.grow = nn.ModuleList(nn.Conv2d(b, 4 * a, 3, padding=1) for a, b in pairwise(ch))
        self.norm = norm(ch[0])
        self.out = zero(nn.Conv2d(ch[0], config.channels_out * config.patch**2, 3, padding=1))

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        *,
        label: Tensor | None = None,
        vector: Tensor | None = None,
        tokens: Tensor | None = None,
        token_mask: Tensor | None = None,
        image: Tensor | None = None,
        second_time: Tensor | None = None,
        residuals: list[Tensor] | tuple[Tensor, ...] | None = None,
        between: Callable[[int, Tensor, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """x (B, C, H, W), t (B,) or, with time_axes=3, (B, 1, H, W) -> (B, out_channels, H, W).

        residuals: added to the output of each `down` level and of `mid`, in this order (a control branch).
        between: (i, h, e) -> h behind each `down` level, `mid` and each `up` level as they come, h (B, H W, channels)
            and e (B, 1, width): layers of another network (attention across frames); for one time a sample.
        Raises ValueError for shapes or labels that do not fit, TypeError for a port the net was built without.
        """
        config, n = self.config, len(self.down)
        check_input(config, x, t)
        if x.shape[2] % config.factor or x.shape[3] % config.factor:
            raise ValueError(
                f"this UNet halves the grid {n - 1} times; x of shape {tuple(x.shape)} has sides that "
                f"{config.factor} does not divide: pad x"
            )
        if second_time is not None:
            check_input(config, x, second_time)
            second_time = self._times(second_time, x)
        e = coarser(self.embedding(self._times(t, x), second_time, label, vector), config.patch)
        context, mask = self.tokens(len(x), tokens, token_mask)
        extra = each_residual(residuals, n + 1, f"{n} levels of down, then mid")

        def after(i: int, h: Tensor) -> Tensor:
            if between is None:
                return h
            return between(i, h.flatten(2).transpose(1, 2), e[:, 0]).transpose(1, 2).reshape(h.shape)

        h = self.inp(F.pixel_unshuffle(with_image(config, x, image), config.patch))
        skips, embeddings = [], [e]
        for i, level in enumerate(self.down):
            if i:
                h = self.shrink[i - 1](h)
                embeddings.append(coarser(embeddings[-1]))
            h = level(h, embeddings[i], context, mask)
            if (r := extra[i]) is not None:
                h = h + r
            skips.append(h := after(i, h))
        h = self.mid(h, embeddings[-1], context, mask)
        if (r := extra[n]) is not None:
            h = h + r
        h = after(n, h)
        for i in reversed(range(n)):
            h = after(2 * n - i, self.up[i](torch.cat((h, skips[i]), 1), embeddings[i], context, mask))
            if i:
                h = F.pixel_shuffle(self.grow[i - 1](h), 2)
        return F.pixel_shuffle(self.out(F.silu(self.norm(h))), config.patch)

    @staticmethod
    def _times(t: Tensor, x: Tensor) -> Tensor:
        """(B, 1, 1) for one time a sample, else (B, H, W)."""
        t_full = t.reshape(*t.shape, *[1] * (4 - t.ndim))
        if t_full.shape[1] != 1:
            raise ValueError(
                f"UNet shares a time among the channels: t must be (B,) or (B, 1, H, W); got {tuple(t.shape)}"
            )
        return t_full[:, 0].expand(-1, *x.shape[2:]) if t.ndim > 1 else t_full[:, 0]
