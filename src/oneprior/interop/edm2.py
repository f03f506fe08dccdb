"""EDM2 under its own names of weights: a U-Net that keeps magnitudes (Karras et al. 2024), written from its equations.

Weights have unit norm per output, w <- w / |w|, and every operation keeps the variance of its input:
    silu(x) / 0.596,   sum_t(a, b) = ((1 - t) a + t b) / sqrt((1 - t)^2 + t^2),
    cat(a, b) with the halves scaled to equal shares,   norm(x) = x / rms(x),   fourier(c) = sqrt 2 cos(f c + p).
The whole is EDM's preconditioning for data of standard deviation 0.5, told log(sigma)/4. What there is of blocks,
attention and classes is read off the weights.
"""

from __future__ import annotations

import re
from math import sqrt
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oneprior import denoiser
from oneprior.conditions import Conditions
from oneprior.interop import Foreign, checked, classes, codes, fill, settings, weights
from oneprior.interop.ports import Named
from oneprior.posterior import EDMPrediction
from oneprior.schedules import EDM
from oneprior.storage import Parts
from oneprior.times import NoiseClock

FIELDS = ("format", "channels_per_head", "img_resolution", "id2label", "sigma_data", "sigma_max")
# Of the codes of Stable Diffusion's autoencoder, unscaled: they are brought to a standard deviation of 1/2.
MEAN, STD = (5.81, 3.25, 0.12, -2.15), (4.17, 4.62, 3.71, 3.28)


def silu(x: Tensor) -> Tensor:
    return F.silu(x) / 0.596


def summed(a: Tensor, b: Tensor, t: float) -> Tensor:
    return torch.lerp(a, b, t) / sqrt((1 - t) ** 2 + t**2)


def joined(a: Tensor, b: Tensor) -> Tensor:
    n = (a.shape[1] + b.shape[1]) / 2
    return torch.cat([a * sqrt(n / a.shape[1]), b * sqrt(n / b.shape[1])], 1)


def norm(x: Tensor, dims: list[int]) -> Tensor:
    size = torch.linalg.vector_norm(x, dim=dims, keepdim=True)
    return x / (1e-4 + size * sqrt(size.numel() / x.numel()))


class Weight(nn.Module):
    """A linear map or convolution without bias; gain multiplies it."""

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros_like(like))

    def forward(self, x: Tensor, gain: Any = 1.0) -> Tensor:
        w = norm(self.weight, list(range(1, self.weight.ndim))) * (gain / sqrt(self.weight[0].numel()))
        return x @ w.T if w.ndim == 2 else F.conv2d(x, w, padding=w.shape[-1] // 2)


class Fourier(nn.Module):
    def __init__(self, like: Tensor) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.zeros_like(like))
        self.register_buffer("phases", torch.zeros_like(like))

    def forward(self, c: Tensor) -> Tensor:
        return torch.cos(c[:, None].float() * self.freqs + self.phases) * sqrt(2)  # type: ignore[operator]


class Block(nn.Module):
    """name: its key, which tells whether it resizes first. first: whether it norms its input (those of the encoder)."""

    def __init__(self, name: str, tensors: dict[str, Tensor], first: bool, head: int) -> None:
        super().__init__()
        self.name, self.first, self.head = name, first, head
        self.emb_gain = nn.Parameter(torch.zeros([]))
        self.parts = [k.split(".")[0] for k in tensors if k.endswith(".weight")]
        for k in self.parts:
            self.add_module(k, Weight(tensors[f"{k}.weight"]))

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        part: Any = dict(self.named_children())
        x = F.avg_pool2d(x, 2) if "_down" in self.name else x
        x = F.interpolate(x, scale_factor=2.0) if "_up" in self.name else x
        skip = part.get("conv_skip", nn.Identity())
        x = norm(skip(x), [1]) if self.first else x
        y = part["conv_res0"](silu(x)) * (part["emb_linear"](e, self.emb_gain) + 1)[:, :, None, None]
        x = summed(x if self.first else skip(x), part["conv_res1"](silu(y)), 0.3)
        if "attn_qkv" in part:
            y = part["attn_qkv"](x).flatten(2).unflatten(1, (-1, self.head, 3))
            q, k, v = (u.transpose(2, 3) for u in norm(y, [2]).unbind(3))
            y = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).flatten(1, 2).reshape(x.shape)
            x = summed(x, part["attn_proj"](y), 0.3)
        return x.clamp(-256, 256)


class UNet(nn.Module):
    """x (B, C, H, W), c_noise (B,), label (B,) where there are classes -> F (B, C, H, W)."""

    def __init__(self, tensors: dict[str, Tensor], head: int) -> None:
        super().__init__()
        self.emb_fourier = Fourier(tensors["emb_fourier.freqs"])
        self.emb_noise, self.out_conv = Weight(tensors["emb_noise.weight"]), Weight(tensors["out_conv.weight"])
        label = tensors.get("emb_label.weight")
        self.emb_label = None if label is None else Weight(label)
        self.out_gain = nn.Parameter(torch.zeros([]))
        self.enc, self.dec = (nn.ModuleDict(_blocks(side, tensors, head)) for side in ("enc", "dec"))

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        e = self.emb_noise(self.emb_fourier(t))
        if self.emb_label is not None:
            if label is None:
                raise ValueError("this network was trained without a null: say which label")
            n = self.emb_label.weight.shape[1]
            e = summed(e, self.emb_label(F.one_hot(label, n).to(e) * sqrt(n)), 0.5)
        e, x, kept = silu(e), torch.cat([x, torch.ones_like(x[:, :1])], 1), list[Tensor]()
        for part in self.enc.values():
            x = part(x, e) if isinstance(part, Block) else part(x)
            kept.append(x)
        for name, part in self.dec.items():
            x = part(joined(x, kept.pop()) if "block" in name else x, e)
        return self.out_conv(x, self.out_gain)


def _blocks(side: str, tensors: dict[str, Tensor], head: int) -> dict[str, nn.Module]:
    """In the order of the pass: finer to coarser and back, a change of size before the blocks of its resolution."""
    names = {k.split(".")[1] for k in tensors if k.startswith(f"{side}.")}

    def place(name: str) -> tuple[int, int, int]:
        found = re.fullmatch(r"(\d+)x\d+_(conv|down|up|in|block)(\d*)", name)
        if found is None:
            raise ValueError(f"'{name}' is no block of an EDM2 network")
        size, kind, k = int(found[1]), found[2], int(found[3] or 0)
        return (-size if side == "enc" else size), kind == "block", k

    out: dict[str, nn.Module] = {}
    for name in sorted(names, key=place):
        own = {k.split(".", 2)[2]: v for k, v in tensors.items() if k.startswith(f"{side}.{name}.")}
        out[name] = Weight(own["weight"]) if "_conv" in name else Block(name, own, side == "enc", head)
    return out


def read(folder: Path) -> Foreign:
    """A folder with config.json {"format": "edm2"} and model.safetensors; in `vae`, the autoencoder of diffusers."""
    config, tensors = checked(settings(folder), FIELDS, folder), weights(folder)
    tensors = {k.removeprefix("unet."): v for k, v in tensors.items() if not k.startswith("logvar")}
    if "emb_fourier.freqs" not in tensors or "out_conv.weight" not in tensors:
        raise ValueError(f"{folder}: no weights of an EDM2 network; they are {', '.join(list(tensors)[:6])} ...")
    net = UNet(tensors, config.get("channels_per_head", 64))
    fill(net, tensors, folder)
    count = 0 if net.emb_label is None else net.emb_label.weight.shape[1]
    named = Conditions({"label": Named(classes(config.get("id2label"), count))} if count else {})
    schedule = EDM(smax=config.get("sigma_max", 80.0))
    kind, clock = EDMPrediction(config.get("sigma_data", 0.5)), NoiseClock(0.25)
    den = denoiser.wrap(net, schedule, kind, time=clock, null=named.null, t_range=(schedule.t_min, 1.0))
    size, channels = config.get("img_resolution", 64), tensors["out_conv.weight"].shape[0]
    codec, shape = codes(folder, (channels, size, size), (MEAN, tuple(0.5 / s for s in STD)))
    return Foreign(Parts(den, codec, named, {"shape": list(shape), "data": {"name": folder.name}, "format": "edm2"}))
