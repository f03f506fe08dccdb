"""Layers that the networks share: time, conditions, modulation, attention.

Time enters as cos and sin of 1000 t f_k, f_k = 10^(-4k/K) (Vaswani et al. 2017; Ho et al. 2020), through a small MLP.
Label, vector and second time are added; the sum e drives every block as h -> scale(e) * norm(h) + shift(e)
(Dhariwal & Nichol 2021; Peebles & Xie 2023). e keeps the axes of t, so a time per pixel or token modulates in place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oneprior.nets.config import NetConfig

Layer = TypeVar("Layer", bound=nn.Module)


def zero(layer: Layer) -> Layer:
    """The layer, with all its parameters set to zero."""
    for p in layer.parameters():
        nn.init.zeros_(p)
    return layer


def check_input(config: NetConfig, x: Tensor, t: Tensor) -> None:
    """Raises ValueError unless x is a batch of samples (of any grid size) and t aligns with its first axes."""
    name, axis = type(config).__name__.removesuffix("Config"), 2 if len(config.shape) == 2 else 1
    if x.ndim != len(config.shape) + 1 or x.shape[axis] != config.channels_in:
        wanted = ", ".join(map(str, config.shape))
        raise ValueError(f"{name} was built for x of shape (B, {wanted}); got {tuple(x.shape)}")
    if t.ndim == 1 and len(t) == len(x):
        return
    if t.ndim > 1 + config.time_axes:
        if config.time_axes == 0:
            raise ValueError(
                f"{name} was built for one time per sample, t of shape ({len(x)},); got {tuple(t.shape)}. "
                f"Build and train it with time_axes={t.ndim - 1} for times per element"
            )
        raise ValueError(
            f"{name} takes t with at most {1 + config.time_axes} axes (time_axes={config.time_axes}); "
            f"got {tuple(t.shape)}"
        )
    if t.ndim == 0 or len(t) != len(x) or any(a not in (1, b) for a, b in zip(t.shape, x.shape, strict=False)):
        raise ValueError(f"t has shape {tuple(t.shape)}; it must align with the first axes of x, {tuple(x.shape)}")


def check_port(config: NetConfig, port: str, field: str, value: Tensor, wanted: tuple[int | None, ...] | None) -> None:
    """Raises TypeError if the net was built without this port, ValueError if the value's shape is not `wanted`."""
    name = type(config).__name__
    if not getattr(config, field):
        hint = {"classes": "classes=10", "second_time": "second_time=True"}.get(field, f"{field}=<width of {port}>")
        raise TypeError(
            f"this {name.removesuffix('Config')} was built without the port {port!r}: "
            f"build and train it with {name}(..., {hint}), or leave {port} out"
        )
    if wanted is None:
        return
    if value.ndim != len(wanted) or any(b not in (None, a) for a, b in zip(value.shape, wanted, strict=True)):
        text = ", ".join("L" if n is None else str(n) for n in wanted)
        raise ValueError(f"{port} must have shape ({text}); got {tuple(value.shape)}")


def with_image(config: NetConfig, x: Tensor, image: Tensor | None) -> Tensor:
    """x (B, C, H, W) with the channels of the port `image` behind its own; zeros if it is not given."""
    if image is not None:
        check_port(config, "image", "image", image, (len(x), config.image, *x.shape[2:]))
        return torch.cat((x, image.to(x)), 1)
    return torch.cat((x, x.new_zeros(len(x), config.image, *x.shape[2:])), 1) if config.image else x


def each_residual(residuals: list[Tensor] | tuple[Tensor, ...] | None, count: int, where: str) -> list[Tensor | None]:
    """One residual (or None) for each place that takes one."""
    if residuals is None:
        return [None] * count
    if len(residuals) != count:
        raise ValueError(f"residuals must hold {count} tensors ({where}); got {len(residuals)}")
    return list(residuals)


class TimeEmbedding(nn.Module):
    """t of any shape (...,) in [0, 1] -> (..., width). `pool` acts on the sin-cos features, before the MLP: their mean
    over a patch still tells a half-clean patch from a half-noised one, the mean time would not."""

    def __init__(self, width: int, features: int, elements: int = 1) -> None:
        super().__init__()
        self.pairs = features // 2
        self.inner = nn.Linear(2 * self.pairs * elements, width)
        self.outer = nn.Linear(width, width)

    def forward(self, t: Tensor, pool: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        # The angles reach 1000, so they are computed in float32 or better, whatever the net was cast to.
        k = torch.arange(self.pairs, dtype=torch.promote_types(t.dtype, torch.float32), device=t.device)
        angle = t.unsqueeze(-1) * (1000.0 * torch.exp(k * (-math.log(1e4) / self.pairs)))
        features = torch.cat((angle.cos(), angle.sin()), -1).to(self.inner.weight.dtype)
        return self.outer(F.silu(self.inner(features if pool is None else pool(features))))


class Embedding(nn.Module):
    """e = silu(time + second time + label + vector), (B, ..., width) with the middle axes of t (after `pool`)."""

    def __init__(self, config: NetConfig, width: int, features: int, elements: int = 1) -> None:
        super().__init__()
        self.config = config
        self.time = TimeEmbedding(width, features, elements)
        self.second_time = TimeEmbedding(width, features, elements) if config.second_time else None
        self.label = nn.Embedding(config.classes + 1, width) if config.classes else None  # the last row is the null
        self.vector = nn.Linear(config.vector, width) if config.vector else None

    def forward(
        self,
        t: Tensor,
        second_time: Tensor | None,
        label: Tensor | None,
        vector: Tensor | None,
        pool: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        config, n = self.config, len(t)
        e = self.time(t, pool)
        if second_time is not None:
            check_port(config, "second_time", "second_time", second_time, None)
        if self.second_time is not None:
            e = e + self.second_time(t if second_time is None else second_time, pool)
        c: Tensor | None = None
        if label is not None:
            check_port(config, "label", "classes", label, (n,))
            # A look at the values would stall an accelerator; there the conditions have looked, and indexing asserts.
            if label.device.type == "cpu" and n and not 0 <= int(label.min()) <= int(label.max()) <= config.classes:
                raise ValueError(
                    f"label must be in 0..{config.classes - 1}, or {config.classes} for no label; got "
                    f"{int(label.min())}..{int(label.max())}"
                )
        if self.label is not None:
            c = self.label(label) if label is not None else self.label.weight[-1].expand(n, -1)
        if vector is not None:
            check_port(config, "vector", "vector", vector, (n, config.vector))
        if self.vector is not None:
            v = e.new_zeros(n, config.vector) if vector is None else vector.to(e.dtype)
            c = self.vector(v) if c is None else c + self.vector(v)
        return F.silu(e if c is None else e + c.reshape(n, *[1] * (e.ndim - 2), -1))


class Tokens(nn.Module):
    """The port `tokens`, led by a learned token that is always there: so "no tokens" is a mask of nothing, not NaN."""

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        self.config = config
        self.null = nn.Parameter(torch.randn(config.tokens) * 0.02) if config.tokens else None

    def forward(self, n: int, tokens: Tensor | None, token_mask: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Tokens (n, 1 + L, width) and their mask (n, 1, 1, 1 + L), True = seen; (None, None) without the port."""
        if tokens is not None:
            check_port(self.config, "tokens", "tokens", tokens, (n, None, self.config.tokens))
        elif token_mask is not None:
            raise ValueError("token_mask says which tokens are seen, but no tokens came: give tokens (B, L, width) too")
        null = None if self.null is None else self.null.expand(n, 1, -1)
        if tokens is None or null is None:
            return null, None
        if token_mask is not None:
            check_port(self.config, "token_mask", "tokens", token_mask, (n, tokens.shape[1]))
            token_mask = F.pad(token_mask.bool(), (1, 0), value=True)[:, None, None]
        return torch.cat((null, tokens.to(null.dtype)), 1), token_mask


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis, in the dtype of x: autocast leaves weights in float32, and the kernel
    takes one dtype only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), 1e-6)


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Pairs (x_i, x_{i + d/2}) of x (..., N, d) turned by their place's angles: q . k then depends on the distance of
    two places alone (Su et al. 2021, rotary positions)."""
    a, b = x.chunk(2, -1)
    return x * cos.to(x.dtype) + torch.cat((-b, a), -1) * sin.to(x.dtype)


class Attention(nn.Module):
    """softmax(q k' / sqrt d) v, among x (B, N, width) or from x to a context (B, M, context).

    At first it gives zero, unless `gated` says that a gate outside does.
    The fused kernel has no forward-mode derivative: run `torch.func.jvp` and second derivatives under
    `torch.nn.attention.sdpa_kernel(SDPBackend.MATH)`.
    """

    def __init__(
        self, width: int, heads: int, context: int | None = None, qk_norm: bool = False, gated: bool = False
    ) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width if context is None else context, 2 * width)
        self.q_norm = RMSNorm(width // heads) if qk_norm else nn.Identity()
        self.k_norm = RMSNorm(width // heads) if qk_norm else nn.Identity()
        self.out = nn.Linear(width, width) if gated else zero(nn.Linear(width, width))

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        place: tuple[Tensor, Tensor] | None = None,
        causal: bool = False,
        past: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """mask: bool, broadcastable to (B, heads, N, M); True = may attend. place: cos and sin (N, width / heads) that
        turn q and k (`turned`). past: keys and values of earlier elements, to which those of x are added in place."""
        q = self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(x if context is None else context).unflatten(-1, (2, self.heads, -1)).transpose(1, 3).unbind(2)
        q, k = self.q_norm(q), self.k_norm(k)
        if place is not None:
            q, k = turned(q, *place), turned(k, *place)
        if past is not None:
            k, v = (torch.cat((past[n], new), 2) if n in past else new for n, new in (("k", k), ("v", v)))
            past.update(k=k, v=v)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        return self.out(y.transpose(1, 2).flatten(2))
