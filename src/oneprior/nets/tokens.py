"""Transformer over tokens: h <- h + conv(norm(h)), h + attention(norm(h)), h + mlp(norm(h)); logits out.

Bidirectional for masked and other corrupted tokens, causal for autoregression. Positions are turns of q and k (rotary:
Su et al. 2021), by row and column where the tokens are codes of a picture, so any length runs; a short depthwise
convolution tells a token its neighbours. Time and class, where there are any, modulate the norms as in `dit` (adaLN).
The posterior of a masked token given the visible ones does not depend on time, so time is off by default (Zheng et al.
2024).
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oneprior.nets.config import TokensConfig
from oneprior.nets.layers import Attention, Embedding, Tokens, check_port, zero

Cache = list[dict[str, Tensor]]
"""of each block, keys and values of tokens that later ones may attend to, and what its convolution still needs"""


def rotary(places: Tensor, grid: tuple[int, ...], width: int) -> tuple[Tensor, Tensor]:
    """cos and sin (..., N, width) for `turned` at places (..., N), on a grid at their rows and columns."""
    at = places.float()
    axes = [at] if not grid else [at // grid[1], at % grid[1]]
    share = width // (2 * len(axes))
    rates = (1e4 if not grid else 1e2) ** (-torch.arange(share, dtype=torch.float32, device=at.device) / share)
    angle = torch.cat([a[..., None] * rates for a in axes], -1)
    return torch.cat((angle, angle), -1).cos(), torch.cat((angle, angle), -1).sin()


class Near(nn.Module):
    """Depthwise convolution over a token's neighbours, zero at first; causal: over those before it and itself."""

    def __init__(self, config: TokensConfig) -> None:
        super().__init__()
        self.grid, self.causal, self.size = config.grid, config.causal, config.conv
        window = (config.conv,) * (2 if config.grid else 1)
        self.weight = nn.Parameter(torch.zeros(config.width, 1, *window))

    def forward(self, h: Tensor, past: dict[str, Tensor] | None = None) -> Tensor:
        x, weight, half = h.transpose(1, 2), self.weight.to(h.dtype), self.size // 2
        if self.grid:
            return (
                F.conv2d(x.unflatten(2, self.grid), weight, padding=half, groups=x.shape[1]).flatten(2).transpose(1, 2)
            )
        if past is None or "near" not in past:
            x = F.pad(x, (2 * half, 0) if self.causal else (half, half))
        else:
            x = torch.cat((past["near"], x), 2)
        if past is not None:
            past["near"] = x[:, :, x.shape[2] - 2 * half :]
        return F.conv1d(x, weight, groups=x.shape[1]).transpose(1, 2)


class Norm(nn.Module):
    """Layer norm, scaled and shifted by what e says, where there is an e."""

    def __init__(self, width: int, modulated: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, bias=False)
        self.modulation = zero(nn.Linear(width, 2 * width)) if modulated else None

    def forward(self, h: Tensor, e: Tensor | None) -> Tensor:
        h = self.norm(h)
        if self.modulation is None or e is None:
            return h
        scale, shift = self.modulation(e).chunk(2, -1)
        return torch.addcmul(shift, h, 1 + scale)


class TokenBlock(nn.Module):
    def __init__(self, config: TokensConfig, modulated: bool) -> None:
        super().__init__()
        width = config.width
        self.near_norm = nn.LayerNorm(width, bias=False) if config.conv else None
        self.near = Near(config) if config.conv else None
        self.norm1 = Norm(width, modulated)
        self.attention = Attention(width, config.heads)
        self.cross_norm = nn.LayerNorm(width) if config.tokens else None
        self.cross = Attention(width, config.heads, context=config.tokens) if config.tokens else None
        self.norm2 = Norm(width, modulated)
        self.mlp = nn.Sequential(
            nn.Linear(width, config.mlp * width),
            nn.GELU("tanh"),
            nn.Dropout(config.dropout),
            zero(nn.Linear(config.mlp * width, width)),
        )

    def forward(
        self,
        h: Tensor,
        e: Tensor | None,
        place: tuple[Tensor, Tensor],
        mask: Tensor | None,
        causal: bool,
        context: Tensor | None,
        seen: Tensor | None,
        past: dict[str, Tensor] | None,
    ) -> Tensor:
        if self.near is not None and self.near_norm is not None:
            h = h + self.near(self.near_norm(h), past)
        h = h + self.attention(self.norm1(h, e), mask=mask, place=place, causal=causal, past=past)
        if self.cross is not None and self.cross_norm is not None:
            h = h + self.cross(self.cross_norm(h), context, seen)
        return h + self.mlp(self.norm2(h, e))


class Words(nn.Module):
    """The port `words`: ids (B, n), 0 for none, read by a small transformer of its own -> features (B, n, width), which
    are words there (B, n), and their mean (B, width)."""

    def __init__(self, config: TokensConfig, depth: int = 2) -> None:
        super().__init__()
        self.heads = config.heads
        inner = replace(config, shape=(config.words,), grid=(), conv=0, causal=False, tokens=0, words=0)
        self.embed = nn.Embedding(config.words, config.width)
        nn.init.normal_(self.embed.weight, std=config.width**-0.5)
        self.blocks = nn.ModuleList(TokenBlock(inner, modulated=False) for _ in range(depth))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, words: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        seen, h = words > 0, self.embed(words)
        place = rotary(torch.arange(words.shape[1], device=h.device), (), h.shape[-1] // self.heads)
        mask = (seen | ~seen.any(1, keepdim=True))[:, None, None]  # of no word at all, attention has no law
        for block in self.blocks:
            h = block(h, None, place, mask, False, None, None, None)
        h = self.norm(h)
        share = seen / seen.sum(1, keepdim=True).clamp(min=1)
        return h, seen, (share[..., None].to(h.dtype) * h).sum(1)


class TokenTransformer(nn.Module):
    """Layers to tap: `blocks.0`, `blocks.1`, ... each (B, L, width). Runs on any length but for a grid."""

    def __init__(self, config: TokensConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        modulated = bool(config.timed or config.classes or config.vector or config.words)
        self.words = Words(config) if config.words else None
        self.embed = nn.Embedding(config.vocab, width)
        nn.init.normal_(self.embed.weight, std=width**-0.5)
        self.embedding = Embedding(config, width, width) if modulated else None
        self.tokens = Tokens(config)
        self.blocks = nn.ModuleList(TokenBlock(config, modulated) for _ in range(config.depth))
        self.norm = Norm(width, modulated)
        self.out = zero(nn.Linear(width, config.vocab))

    def forward(
        self,
        x: Tensor,
        t: Tensor | None = None,
        *,
        label: Tensor | None = None,
        vector: Tensor | None = None,
        tokens: Tensor | None = None,
        token_mask: Tensor | None = None,
        words: Tensor | None = None,
        mask: Tensor | None = None,
        rows: Tensor | None = None,
        cache: Cache | None = None,
        places: Tensor | None = None,
    ) -> Tensor:
        """x (B, L) integers, t (B,) or (B, L) -> logits (B, L, vocab); an untimed net takes no t.

        words: ids of a caption's words (B, n), 0 for none, which the net's own encoder reads.
        mask: bool (L, M) or (B, L, M), True = may be attended. rows: positions (B, k) to answer for, (B, k, vocab).
        cache: keys and values of tokens before x, at first [], to which those of x are added: a clean prefix is
        computed once; M counts them too. places: integers (L,), where tokens stand if not one behind the other.
        Raises ValueError for shapes, symbols or labels that do not fit, and for a mask, places or cache that a
        convolution would not heed; TypeError for a port the net was built without.
        """
        config = self.config
        if x.ndim != 2 or (config.grid and not config.causal and x.shape[1] != config.shape[0]):
            raise ValueError(f"this net was built for tokens (B, {config.shape[0]}); got {tuple(x.shape)}")
        if x.is_floating_point() or (x.is_cpu and x.numel() and not 0 <= int(x.min()) <= int(x.max()) < config.vocab):
            raise ValueError(f"tokens are integers in [0, {config.vocab}); {x.dtype} from {x.min()} to {x.max()} came")
        if (t is None) == config.timed:
            raise TypeError(
                f"this net was built with timed={config.timed}: {'give it t' if config.timed else 'it takes no t'}"
            )
        if config.conv and (mask is not None or places is not None or not (cache is None or config.causal)):
            raise ValueError(
                f"conv={config.conv} looks at neighbours whatever a mask, places or a cache say: build the net with "
                "conv=0 (a causal one takes a cache)"
            )
        if label is not None and not config.classes:
            check_port(config, "label", "classes", label, None)
        if vector is not None:
            check_port(config, "vector", "vector", vector, (len(x), config.vector))
        mean = None
        if words is not None:
            if self.words is None:
                check_port(config, "words", "words", words, None)
            else:
                tokens, token_mask, mean = self.words(words)
        elif self.words is not None:
            tokens, token_mask, mean = self.words(x.new_zeros(len(x), 1))
        e = None
        if self.embedding is not None:
            at = x.new_zeros(len(x), 1, dtype=torch.float32) if t is None else t
            e = self.embedding(at if at.ndim > 1 else at[:, None], None, label, vector)
            e = e if mean is None else e + mean[:, None]
        context, seen = self.tokens(len(x), tokens, token_mask)
        start = cache[0]["k"].shape[2] if cache and "k" in cache[0] else 0
        places = torch.arange(start, start + x.shape[1], device=x.device) if places is None else places
        place = rotary(places, config.grid, config.width // config.heads)
        causal = config.causal and mask is None
        if causal and start:
            mask = torch.ones(x.shape[1], start + x.shape[1], dtype=torch.bool, device=x.device).tril(start)
        if mask is not None:
            mask, causal = mask.bool().reshape(-1, 1, *mask.shape[-2:]), False
        h = self.embed(x)
        if cache is not None and not cache:
            cache += [{} for _ in self.blocks]
        for i, block in enumerate(self.blocks):
            h = block(h, e, place, mask, causal, context, seen, None if cache is None else cache[i])
        if rows is not None:
            h = h.gather(1, rows[..., None].expand(-1, -1, h.shape[-1]))
            e = e if e is None or e.shape[1] == 1 else e.gather(1, rows[..., None].expand(-1, -1, e.shape[-1]))
        return self.out(self.norm(h, e))

    takes_rows = True
