"""Clips by a network of pictures, with attention across frames between its blocks (Ho et al. 2022, "Video Diffusion
Models"; Ma et al. 2024, "Latte").

Inside a frame nothing is new: frames are folded into the batch, (B, F, C, H, W) -> (B F, C, H, W), each with its own
time, so blocks see t as (B F,) and layers across frames as (B, F): scale, shift and gate vary along the axis attended
(Liu et al. 2024, FVDM). After each block, at every place of the grid,
    h_f <- h_f + (1 + g(e_f)) attention over f' of (s(e_f) norm(h_f) + b(e_f)),
which is zero at first: a network of pictures, taken as it is, is a network of clips of unrelated frames ("inflation").
No norm looks beyond a frame, which would mix levels of noise. Frames are told apart by their distance (rotary).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from oneprior.nets.config import ClipConfig, NetConfig
from oneprior.nets.dit import DiT
from oneprior.nets.layers import Attention, zero
from oneprior.nets.rows import rows_of, segments_of
from oneprior.nets.tokens import rotary
from oneprior.nets.unet import UNet

PORTS = {"label": 1, "vector": 2, "tokens": 3, "token_mask": 2, "image": 4, "second_time": 1}  # axes, one a sample


@dataclass
class Past:
    """Keys and values of the last `window` frames, for each layer across frames; `seen`: how many there were in all."""

    window: int
    seen: int = 0
    layers: list[dict[str, Tensor]] = field(default_factory=list)


class Across(nn.Module):
    """Attention among the frames at each place of the grid, modulated by each frame's embedding."""

    def __init__(self, width: int, embedding: int, head: int) -> None:
        super().__init__()
        self.heads = next(n for n in range(max(1, width // head), 0, -1) if width % n == 0 and width // n % 2 == 0)
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = zero(nn.Linear(embedding, 3 * width))
        self.attention = Attention(width, self.heads, qk_norm=True)

    def forward(
        self, h: Tensor, e: Tensor, F: int, places: Tensor, mask: Tensor | None, past: dict[str, Tensor] | None
    ) -> Tensor:
        """h (B F, N, width), e (B F, 1, embedding), places (1 | B, F), mask (1 | B, F, M)."""
        scale, shift, gate = self.modulation(e).chunk(3, -1)
        y = torch.addcmul(shift, self.norm(h), 1 + scale)
        N, row = h.shape[1], lambda v: v if len(v) == 1 else v.repeat_interleave(h.shape[1], 0)
        y = y.unflatten(0, (-1, F)).transpose(1, 2).flatten(0, 1)
        place: Any = tuple(row(v)[:, None] for v in rotary(places, (), h.shape[2] // self.heads))
        y = self.attention(y, mask=None if mask is None else row(mask)[:, None], place=place, past=past)
        return torch.addcmul(h, 1 + gate, y.unflatten(0, (-1, N)).transpose(1, 2).flatten(0, 1))


class ClipNet(nn.Module):
    """Layers to tap: those of `frame`, the network of pictures, and `across.0`, `across.1`, ... behind its blocks."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        from oneprior.nets import build

        self.config = config
        frame: Any = build(config.frame)
        self.frame: UNet | DiT = frame
        self.across = nn.ModuleList(Across(w, self.frame.embedding_width, config.head) for w in self.frame.widths)

    def past(self, window: int) -> Past:
        """An empty memory of `window` frames, for `forward(past=)` of a causal network."""
        if not self.config.causal:
            raise ValueError("frames of this network see later ones: only one built with causal=True keeps its past")
        return Past(window, 0, [{} for _ in self.across])

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        *,
        segments: Tensor | None = None,
        places: Tensor | None = None,
        past: Past | None = None,
        keep: bool = False,
        **ports: Tensor | None,
    ) -> Tensor:
        """x (B, F, C, H, W) of any F; t (B,) or (B, F) -> x's shape, out_channels for C.

        segments: integers (B, F): a frame sees those of its own segment alone, so that a row may hold clips of several
        lengths and pictures (`pack`). places: integers (1 | B, F), where frames stand if not one behind the other.
        past: what a causal network remembers of frames before x; keep: remember those of x too. ports: as for
        the network of pictures, for the whole clip or with an axis F behind the first.
        """
        config = self.config
        if x.ndim != 5 or x.shape[2:] != config.shape[1:]:
            wanted = ", ".join(map(str, config.shape[1:]))
            raise ValueError(f"this net was built for clips (B, F, {wanted}); got {tuple(x.shape)}")
        B, F = x.shape[:2]
        if t.ndim > 1 + config.time_axes or t.shape[0] != B or (t.ndim == 2 and t.shape[1] not in (1, F)):
            raise ValueError(
                f"t must be ({B},) or, with time_axes=1, ({B}, {F}) for x of shape {tuple(x.shape)}; "
                f"got {tuple(t.shape)}, time_axes={config.time_axes}"
            )
        t = (t if t.ndim == 2 else t[:, None]).expand(B, F).flatten()
        start = past.seen if past is not None else 0
        places = torch.arange(start, start + F, device=x.device)[None] if places is None else places
        held = past.layers[0]["k"].shape[2] if past is not None and past.layers[0] else 0
        mask = None
        if config.causal and F > 1:
            mask = torch.ones(1, F, held + F, dtype=torch.bool, device=x.device).tril(held)
        if segments is not None:
            if past is not None or segments.shape != (B, F):
                raise ValueError(f"segments must be ({B}, {F}), without a past; got {tuple(segments.shape)}")
            same = segments[:, :, None] == segments[:, None]
            mask = same if mask is None else mask & same

        def across(i: int, h: Tensor, e: Tensor) -> Tensor:
            own = None if past is None else past.layers[i] if keep else dict(past.layers[i])
            h = self.across[i](h, e, F, places, mask, own)
            if keep and own is not None and past is not None:
                own.update({k: v[:, :, -past.window :] for k, v in own.items()})
            return h

        every: Any = {k: None if v is None else _folded(v, PORTS.get(k, 1), F) for k, v in ports.items()}
        out = self.frame(x.flatten(0, 1), t, between=across, **every)
        if past is not None and keep:
            past.seen += F
        return out.unflatten(0, (B, F))


def _folded(v: Tensor, axes: int, F: int) -> Tensor:
    return v.flatten(0, 1) if v.ndim > axes else v.repeat_interleave(F, 0)


def inflate(net: nn.Module, frames: int, *, causal: bool = False) -> ClipNet:
    """A network of clips of `frames` frames around a trained one of pictures, whose weights it copies: at first each
    frame is what that network makes of it.

    Example:
        >>> den = NetworkDenoiser(inflate(den.net, 8), den.schedule, "v", facts=Facts(time_axes=1))
    """
    config: NetConfig = net.config  # type: ignore[assignment]
    clips = ClipNet(ClipConfig((frames, *config.shape), frame=config, causal=causal)).to(next(net.parameters()))
    clips.frame.load_state_dict(net.state_dict())
    return clips


def pack(parts: list[Tensor], frames: int) -> tuple[Tensor, Tensor]:
    """Clips (n_i, C, H, W) of several lengths, pictures among them (n_i = 1), in rows of `frames`, with no frame empty,
    as `rows_of` says: x (B, frames, C, H, W) and segments (B, frames) for the network. Raises its ValueError."""
    rows = rows_of([len(part) for part in parts], frames)
    x = torch.stack([torch.cat([parts[p][f : f + n] for p, f, n in row]) for row in rows])
    return x, torch.tensor([segments_of(row) for row in rows])
