"""One network of several parts: a backbone of ours, a clock for each part's time, and heads for what is no picture.

Pictures of one size stand in the channels of a U-Net or DiT; vectors and tokens (as one-hot rows) enter through its
port `vector` and are answered from `pool` more channels of its output, averaged over the grid. An MLP takes all parts
as one vector. Every part has a time embedding of its own, so that it is never in doubt whose time is whose. A part at
t = 1 says nothing, and is shown as zeros: what is left out costs no noise and is the same at every call.
Beside a picture, symbols start as loud as rows of an embedding (variance 1 a part): at the default of a linear map a
label is a fourteenth of that, and a U-Net of garments hardly heard it in 500 steps (.12 of garments right, .41 so).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oneprior.nets.joint_config import JointConfig
from oneprior.nets.layers import TimeEmbedding, zero


class JointNet(nn.Module):
    """x {part: (B, *shape), or tokens (B, L)}, t {part: (B,)} -> {part: like x, or logits (B, L, V)}.

    Layers to tap: those of `backbone`.
    """

    def __init__(self, config: JointConfig, backbone: nn.Module) -> None:
        super().__init__()
        self.config, self.backbone = config, backbone
        self.clocks = nn.ModuleDict({k: TimeEmbedding(config.clock, config.clock) for k in config.shapes})
        heads = {} if config.flat else {k: n for k, n in config.outputs.items() if k not in config.pictures}
        said = config.backbone.vector + config.pool
        self.heads = nn.ModuleDict(
            {k: nn.Sequential(nn.Linear(said, 128), nn.SiLU(), zero(nn.Linear(128, n))) for k, n in heads.items()}
        )
        entry: Any = backbone.embedding if heads else None
        end = said - config.pool - sum(heads.values())  # where the clocks' columns of the port end
        for k, n in heads.items():
            if k in config.vocab:
                nn.init.normal_(entry.vector.weight[:, end : end + n], std=prod(config.shapes[k]) ** -0.5)
            end += n

    def forward(self, x: Mapping[str, Tensor], t: Mapping[str, Tensor]) -> dict[str, Tensor]:
        config = self.config
        if not x.keys() == t.keys() == config.shapes.keys():
            raise ValueError(f"parts {sorted(config.shapes)} were expected; x has {sorted(x)} and t {sorted(t)}")
        seen: dict[str, Tensor] = {}
        for k, v in x.items():
            if t[k].shape != (len(v),):
                raise ValueError(f"one time a sample was expected for '{k}', ({len(v)},); got {tuple(t[k].shape)}")
            if k in config.vocab:
                v = F.one_hot(v, config.vocab[k]).to(t[k].dtype)
            seen[k] = v * (t[k] < 1).to(v.dtype).reshape(-1, *[1] * (v.ndim - 1))
        inside = list(seen) if config.flat else config.pictures
        said = [self.clocks[k](v) for k, v in t.items()] + [v.flatten(1) for k, v in seen.items() if k not in inside]
        vector, first = torch.cat([v.to(said[0].dtype) for v in said], 1), next(iter(t.values()))
        if config.flat:
            out = self.backbone(torch.cat([v.flatten(1) for v in seen.values()], 1), first, vector=vector)
            rows = dict(zip(x, out.split(list(config.outputs.values()), 1), strict=True))
        else:
            out = self.backbone(torch.cat([seen[k] for k in inside], 1), first, vector=vector)
            *maps, pool = out.split([*(config.shapes[k][0] for k in inside), config.pool], 1)
            rows = dict(zip(inside, maps, strict=True))
            vector = torch.cat([vector, pool.mean((2, 3))], 1)
            rows |= {k: head(vector) for k, head in self.heads.items()}
        ends = {k: (*s, config.vocab[k]) if k in config.vocab else s for k, s in config.shapes.items()}
        return {k: rows[k].reshape(-1, *ends[k]) for k in x}
