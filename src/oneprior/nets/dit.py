"""Patch transformer with adaLN-zero (Peebles & Xie 2023, "DiT"), q/k RMS norm, sin-cos positions.

h <- h + g(e) * attention(s(e) * norm(h) + b(e)), then the same with an MLP for attention; one e per sample or token.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from oneprior.nets.config import DiTConfig
from oneprior.nets.layers import Attention, Embedding, Tokens, check_input, check_port, each_residual, with_image, zero


def positions(grid: tuple[int, ...], width: int) -> Tensor:
    """Sin-cos positions of a grid (h, w) or (L,): (prod(grid), width), the axes sharing the width equally."""
    share = width // (2 * len(grid))
    rates = torch.exp(-math.log(1e4) * torch.arange(share, dtype=torch.float32) / share)
    axes = torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in grid], indexing="ij")
    angles = [a.reshape(-1, 1) * rates for a in axes]
    return torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)], -1)


class Block(nn.Module):
    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        width = config.width
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attention = Attention(width, config.heads, qk_norm=True, gated=True)
        self.cross_norm = nn.LayerNorm(width) if config.tokens else None
        self.cross = Attention(width, config.heads, context=config.tokens, qk_norm=True) if config.tokens else None
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(width, config.mlp * width),
            nn.GELU("tanh"),
            nn.Dropout(config.dropout),
            nn.Linear(config.mlp * width, width),
        )
        self.modulation = zero(nn.Linear(width, 6 * width))

    def forward(
        self, h: Tensor, e: Tensor, mask: Tensor | None, tokens: Tensor | None, token_mask: Tensor | None
    ) -> Tensor:
        s1, b1, g1, s2, b2, g2 = self.modulation(e).chunk(6, -1)
        h = torch.addcmul(h, g1, self.attention(torch.addcmul(b1, self.norm1(h), 1 + s1), mask=mask))
        if self.cross is not None and self.cross_norm is not None:
            h = h + self.cross(self.cross_norm(h), tokens, token_mask)
        return torch.addcmul(h, g2, self.mlp(torch.addcmul(b2, self.norm2(h), 1 + s2)))


class DiT(nn.Module):
    """Layers to tap: `blocks.0`, `blocks.1`, ... each (B, N, width), N patches in rows, or elements of the sequence.

    Runs on any grid that the patch divides, and on any length.
    """

    positions: Tensor

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        width, area = config.width, config.patch ** (len(config.shape) - 1)
        grid = config.shape[:1] if len(config.shape) == 2 else tuple(n // config.patch for n in config.shape[1:])
        self.grid = grid
        self.widths, self.embedding_width = (width,) * config.depth, width  # of h and e between blocks
        self.register_buffer("positions", positions(grid, width), persistent=False)
        self.embedding = Embedding(config, width, width)
        self.tokens = Tokens(config)
        self.inp = nn.Linear((config.channels_in + config.image) * area, width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = zero(nn.Linear(width, 2 * width))
        self.out = zero(nn.Linear(width, config.channels_out * area))

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
        mask: Tensor | None = None,
        between: Callable[[int, Tensor, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """x (B, C, H, W) or (B, L, d); t (B,) or, with `time_axes`, (B, 1, H, W) or (B, L) -> x's shape, out_channels.

        residuals: added to the output of each block, (B, N, width) each (a control branch).
        mask: bool, True = may be attended: (B, N) over patches or elements, or (B, N, N) from each to each.
        between: (i, h, e) -> h behind block i, for layers of another network (attention across frames).
        Raises ValueError for shapes or labels that do not fit, TypeError for a port the net was built without.
        """
        config, p = self.config, self.config.patch
        check_input(config, x, t)
        if x.ndim == 4 and (x.shape[2] % p or x.shape[3] % p):
            raise ValueError(f"this DiT has patches of side {p}, not dividing those of x, {tuple(x.shape)}: pad x")
        grid = x.shape[1:2] if x.ndim == 3 else (x.shape[2] // p, x.shape[3] // p)
        if second_time is not None:
            check_input(config, x, second_time)
            second_time = self._times(second_time, x)
        e = self.embedding(self._times(t, x), second_time, label, vector, self._pool)
        context, token_seen = self.tokens(len(x), tokens, token_mask)
        if mask is not None:
            size = math.prod(grid)
            if mask.shape not in ((len(x), size), (len(x), size, size)):
                raise ValueError(
                    f"mask must be ({len(x)}, {size}) or ({len(x)}, {size}, {size}); got {tuple(mask.shape)}"
                )
            mask = mask.bool().reshape(len(x), 1, -1, size)
        if x.ndim == 4:
            y = with_image(config, x, image).unflatten(3, (-1, p)).unflatten(2, (-1, p))
            h = y.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        else:
            h = x
            if image is not None:
                check_port(config, "image", "image", image, None)
        place = self.positions if grid == self.grid else positions(grid, config.width).to(self.positions)
        h = self.inp(h) + place
        extra = each_residual(residuals, len(self.blocks), "one for each block")
        for i, (block, r) in enumerate(zip(self.blocks, extra, strict=True)):
            h = block(h, e, mask, context, token_seen)
            if r is not None:
                h = h + r
            if between is not None:
                h = between(i, h, e)
        scale, shift = self.modulation(e).chunk(2, -1)
        h = self.out(torch.addcmul(shift, self.norm(h), 1 + scale))
        if x.ndim == 3:
            return h
        return h.reshape(len(x), *grid, -1, p, p).permute(0, 3, 1, 4, 2, 5).reshape(len(x), -1, *x.shape[2:])

    @staticmethod
    def _times(t: Tensor, x: Tensor) -> Tensor:
        """(B, 1) for one time a sample; else (B, H, W), still to be pooled to patches, or (B, L)."""
        if t.ndim == 1:
            return t[:, None]
        t_full = t.reshape(*t.shape, *[1] * (x.ndim - t.ndim))
        axis = 2 if x.ndim == 3 else 1
        if t_full.shape[axis] != 1:
            raise ValueError(
                f"DiT shares a time among the channels: t must be (B,), (B, 1, H, W) or (B, L); got {tuple(t.shape)}"
            )
        return t_full.expand(-1, -1, *x.shape[2:])[:, 0] if x.ndim == 4 else t_full.squeeze(2).expand(-1, x.shape[1])

    def _pool(self, features: Tensor) -> Tensor:
        if features.ndim == 3:
            return features
        p = self.config.patch
        return features.unflatten(2, (-1, p)).unflatten(1, (-1, p)).mean((2, 4)).flatten(1, 2)
