"""DiT and SiT under their own names of weights (Peebles and Xie 2023; Ma et al. 2024).

    h <- h + g1 attn(norm(h)(1 + s1) + b1),  h <- h + g2 mlp(norm(h)(1 + s2) + b2),   (b1, s1, g1, b2, s2, g2) = A(c)

with c the sum of what is made of time and class. DiT: eps and the learned variance of a step, told the step of a chain
of 1000. SiT: x_0 - eps at tau = 1 - t, noise to data; twice the channels are a relic and dropped. Everything but the
number of heads is read off the weights.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oneprior import denoiser
from oneprior.conditions import Conditions, Label
from oneprior.interop import Foreign, checked, classes, codes, fill, settings, weights
from oneprior.schedules import LinearBetas, RectifiedFlow
from oneprior.storage import Parts
from oneprior.times import Clock

HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}  # S, B, L, XL
FIELDS = ("format", "num_heads", "id2label", "path_type", "prediction")


def sinusoid(t: Tensor, width: int) -> Tensor:
    """cos and sin of t at width/2 rates from 1 down to 1/10000, (B, width)."""
    half = width // 2
    rates = torch.exp(-math.log(10000) / half * torch.arange(half, device=t.device, dtype=torch.float32))
    angles = t[:, None].float() * rates
    return torch.cat([angles.cos(), angles.sin()], 1)


def _plain(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)


class Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = _plain(width), _plain(width)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, hidden), "fc2": nn.Linear(hidden, width)})
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        b1, s1, g1, b2, s2, g2 = self.adaLN_modulation(c)[:, None].chunk(6, -1)
        q, k, v = self.attn["qkv"](self.norm1(h) * (1 + s1) + b1).unflatten(-1, (3, self.heads, -1)).unbind(2)
        a = F.scaled_dot_product_attention(*(u.transpose(1, 2) for u in (q, k, v)))
        h = h + g1 * self.attn["proj"](a.transpose(1, 2).flatten(2))
        return h + g2 * self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(h) * (1 + s2) + b2), approximate="tanh"))


class DiT(nn.Module):
    """x (B, C, H, W), t (B,) on its own clock, label (B,) -> (B, C or 2 C, H, W). sign: -1 turns the answer."""

    pos_embed: Tensor

    def __init__(self, tensors: dict[str, Tensor], heads: int, sign: float = 1.0) -> None:
        super().__init__()
        width, self.channels, self.patch, _ = tensors["x_embedder.proj.weight"].shape
        last, hidden = tensors["final_layer.linear.weight"].shape[0], tensors["blocks.0.mlp.fc1.weight"].shape[0]
        rows, count = tensors["y_embedder.embedding_table.weight"].shape[0], tensors["pos_embed"].shape[1]
        depth = 1 + max(int(k.split(".")[1]) for k in tensors if k.startswith("blocks."))
        self.out, self.grid, self.null, self.sign = last // self.patch**2, math.isqrt(count), rows - 1, sign
        self.x_embedder = nn.ModuleDict({"proj": nn.Conv2d(self.channels, width, self.patch, self.patch)})
        self.frequencies = tensors["t_embedder.mlp.0.weight"].shape[1]
        mlp = nn.Sequential(nn.Linear(self.frequencies, width), nn.SiLU(), nn.Linear(width, width))
        self.t_embedder = nn.ModuleDict({"mlp": mlp})
        self.y_embedder = nn.ModuleDict({"embedding_table": nn.Embedding(rows, width)})
        self.register_buffer("pos_embed", torch.zeros(1, count, width))
        self.blocks = nn.ModuleList(Block(width, heads, hidden) for _ in range(depth))
        moved = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.final_norm = _plain(width)
        self.final_layer = nn.ModuleDict({"linear": nn.Linear(width, last), "adaLN_modulation": moved})

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        label = torch.full((len(x),), self.null, device=x.device) if label is None else label
        c = self.t_embedder["mlp"](sinusoid(t, self.frequencies)) + self.y_embedder["embedding_table"](label)
        h = self.x_embedder["proj"](x).flatten(2).transpose(1, 2) + self.pos_embed
        for block in self.blocks:
            h = block(h, c)
        shift, scale = self.final_layer["adaLN_modulation"](c)[:, None].chunk(2, -1)
        h = self.final_layer["linear"](self.final_norm(h) * (1 + scale) + shift)
        h = h.unflatten(1, (self.grid, self.grid)).unflatten(3, (self.patch, self.patch, self.out))
        return self.sign * h.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def read(folder: Path) -> Foreign:
    """A folder with config.json {"format": "dit" or "sit"}, model.safetensors and, in `vae`, diffusers' autoencoder."""
    config = checked(settings(folder), FIELDS, folder)
    tensors, flow = weights(folder), config["format"] == "sit"
    if flow and (config.get("path_type", "Linear"), config.get("prediction", "velocity")) != ("Linear", "velocity"):
        raise ValueError(
            f"{folder}: a SiT of the linear path that predicts velocity is read; config.json says {config}"
        )
    if "x_embedder.proj.weight" not in tensors or "pos_embed" not in tensors:
        raise ValueError(f"{folder}: no weights of a DiT or SiT; they are {', '.join(list(tensors)[:6])} ...")
    width = tensors["x_embedder.proj.weight"].shape[0]
    heads = config.get("num_heads") or HEADS.get(width)
    if not heads or width % heads:
        raise ValueError(f"{folder}: a width of {width} does not tell its heads: put 'num_heads' into config.json")
    net = DiT(tensors, heads, -1.0 if flow else 1.0)
    fill(net, tensors, folder)
    conditions = Conditions({"label": Label(classes(config.get("id2label"), net.null))})
    inner = (net.channels, net.grid * net.patch, net.grid * net.patch)
    double = net.out == 2 * net.channels
    den = denoiser.wrap(
        net,
        RectifiedFlow() if flow else LinearBetas(),
        "velocity" if flow else "eps",
        time=Clock(-1, 1) if flow else Clock(1000, -1),
        null=conditions.null,
        channels="all" if not double else "half" if flow else "eps+var",
    )
    codec, shape = codes(folder, inner)
    facts = {"shape": list(shape), "data": {"name": folder.name}, "format": config["format"]}
    return Foreign(Parts(den, codec, conditions, facts))
