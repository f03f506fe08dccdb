"""The U-Net of guided diffusion under its own names of weights (Dhariwal and Nichol 2021), settings under its flags.

A residual block: h = conv(silu(norm(x))), moved by time and class as norm(h)(1 + s) + b or norm(h + b), then conv. Two
orders of the attention's qkv are in use, [head][q, k, v] and, with use_new_attention_order, [q, k, v][head].
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oneprior import denoiser
from oneprior.codecs import Pixels
from oneprior.conditions import Conditions
from oneprior.interop import Foreign, checked, classes, fill, settings, weights
from oneprior.interop.dit import sinusoid
from oneprior.interop.ports import Named
from oneprior.schedules import CosineBetas, LinearBetas
from oneprior.storage import Parts
from oneprior.times import Clock

MULT = {512: (0.5, 1, 1, 2, 2, 4, 4), 256: (1, 1, 2, 2, 4, 4), 128: (1, 1, 2, 3, 4), 64: (1, 2, 3, 4)}
SCHEDULES = {"linear": LinearBetas, "cosine": CosineBetas}
DEFAULTS: dict[str, Any] = {
    "image_size": 64, "num_channels": 128, "num_res_blocks": 2, "channel_mult": "", "attention_resolutions": "16,8",
    "num_heads": 4, "num_head_channels": -1, "num_heads_upsample": -1, "use_scale_shift_norm": True,
    "resblock_updown": False, "use_new_attention_order": False, "learn_sigma": False, "class_cond": False,
    "diffusion_steps": 1000, "noise_schedule": "linear", "predict_xstart": False, "rescale_timesteps": False,
}  # fmt: skip
OTHER = (  # those that change nothing here
    "format", "id2label", "in_channels", "dropout", "use_fp16", "use_checkpoint", "use_kl", "rescale_learned_sigmas",
    "timestep_respacing",
)  # fmt: skip


class Res(nn.Module):
    """resize: 2 halves the sides, 0.5 doubles them, 1 neither."""

    def __init__(self, inp: int, out: int, emb: int, scale_shift: bool, resize: float = 1) -> None:
        super().__init__()
        self.scale_shift, self.resize = scale_shift, resize
        self.in_layers = nn.Sequential(nn.GroupNorm(32, inp), nn.SiLU(), nn.Conv2d(inp, out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, out * (1 + scale_shift)))
        conv = nn.Conv2d(out, out, 3, padding=1)
        self.out_layers = nn.Sequential(nn.GroupNorm(32, out), nn.SiLU(), nn.Identity(), conv)
        self.skip_connection = nn.Identity() if inp == out else nn.Conv2d(inp, out, 1)

    def _sized(self, x: Tensor) -> Tensor:
        if self.resize == 1:
            return x
        return F.avg_pool2d(x, 2) if self.resize == 2 else F.interpolate(x, scale_factor=2.0)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        h, x = self.in_layers[2](self._sized(self.in_layers[:2](x))), self._sized(x)
        m = self.emb_layers(e)[:, :, None, None]
        if self.scale_shift:
            s, b = m.chunk(2, 1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + s) + b)
        else:
            h = self.out_layers(h + m)
        return self.skip_connection(x) + h


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, new: bool) -> None:
        super().__init__()
        self.heads, self.new = heads, new
        self.norm = nn.GroupNorm(32, width)
        self.qkv, self.proj_out = nn.Conv1d(width, 3 * width, 1), nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        flat = x.flatten(2)
        parts = self.qkv(self.norm(flat)).unflatten(1, (3, self.heads, -1) if self.new else (self.heads, 3, -1))
        q, k, v = (u.transpose(2, 3) for u in parts.unbind(1 if self.new else 2))
        a = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).flatten(1, 2)
        return (flat + self.proj_out(a)).reshape(x.shape)


class Resize(nn.Module):
    """A strided convolution `op`, or `conv` after doubling."""

    def __init__(self, width: int, up: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1) if up else None
        self.op = None if up else nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        if self.op is not None:
            return self.op(x)
        assert self.conv is not None
        return self.conv(F.interpolate(x, scale_factor=2.0))


class UNet(nn.Module):
    """x (B, 3, H, W), t (B,) the step, label (B,) where there are classes -> (B, 3 or 6, H, W)."""

    def __init__(self, f: dict[str, Any], channels: int, labels: int) -> None:
        super().__init__()
        size, width = f["image_size"], f["num_channels"]
        mult = _list(f["channel_mult"], float) or MULT[size]
        emb, places = 4 * width, [size // r for r in _list(f["attention_resolutions"], int)]
        self.width = width

        def res(inp: int, out: int, resize: float = 1) -> Res:
            return Res(inp, out, emb, f["use_scale_shift_norm"], resize)

        def attention(c: int, heads: int) -> Attention:
            return Attention(c, c // n if (n := f["num_head_channels"]) > 0 else heads, f["use_new_attention_order"])

        self.time_embed = nn.Sequential(nn.Linear(width, emb), nn.SiLU(), nn.Linear(emb, emb))
        self.label_emb = nn.Embedding(labels, emb) if labels else None
        c = int(mult[0] * width)
        inputs, kept = [nn.ModuleList([nn.Conv2d(channels, c, 3, padding=1)])], [c]
        for level, m in enumerate(mult):
            for _ in range(f["num_res_blocks"]):
                out = int(m * width)
                extra = [attention(out, f["num_heads"])] if 2**level in places else []
                inputs, c = [*inputs, nn.ModuleList([res(c, out), *extra])], out
                kept.append(c)
            if level < len(mult) - 1:
                inputs.append(nn.ModuleList([res(c, c, 2) if f["resblock_updown"] else Resize(c, False)]))
                kept.append(c)
        outputs, middle, upper = [], (res(c, c), attention(c, f["num_heads"]), res(c, c)), f["num_heads_upsample"]
        for level, m in reversed(list(enumerate(mult))):
            for i in range(f["num_res_blocks"] + 1):
                out = int(m * width)
                parts: list[nn.Module] = [res(c + kept.pop(), out)]
                if 2**level in places:
                    parts.append(attention(out, f["num_heads"] if upper == -1 else upper))
                if level and i == f["num_res_blocks"]:
                    parts.append(res(out, out, 0.5) if f["resblock_updown"] else Resize(out, True))
                outputs, c = [*outputs, nn.ModuleList(parts)], out
        self.input_blocks, self.output_blocks = nn.ModuleList(inputs), nn.ModuleList(outputs)
        self.middle_block = nn.ModuleList(middle)
        last = nn.Conv2d(c, channels * (1 + f["learn_sigma"]), 3, padding=1)
        self.out = nn.Sequential(nn.GroupNorm(32, c), nn.SiLU(), last)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        e = self.time_embed(sinusoid(t, self.width))
        if self.label_emb is not None:
            if label is None:
                raise ValueError("this network was trained without a null: say which label")
            e = e + self.label_emb(label)
        h, kept = self.input_blocks[0][0](x), list[Tensor]()  # type: ignore[index]
        kept.append(h)
        for parts in self.input_blocks[1:]:
            for part in parts:  # type: ignore[union-attr]
                h = part(h, e)
            kept.append(h)
        for part in self.middle_block:
            h = part(h, e)
        for parts in self.output_blocks:
            h = torch.cat([h, kept.pop()], 1)
            for part in parts:  # type: ignore[union-attr]
                h = part(h, e)
        return self.out(h)


def read(folder: Path) -> Foreign:
    """A folder with config.json {"format": "adm", and the flags it was trained with} and model.safetensors."""
    config = settings(folder)
    f, tensors = {**DEFAULTS, **checked(config, (*DEFAULTS, *OTHER), folder)}, weights(folder)
    count = tensors["label_emb.weight"].shape[0] if "label_emb.weight" in tensors else 0
    channels = config.get("in_channels", 3)
    if f["noise_schedule"] not in SCHEDULES:
        raise ValueError(f"{folder}: noise_schedule '{f['noise_schedule']}'; {' or '.join(SCHEDULES)} was expected")
    if f["image_size"] not in MULT and not f["channel_mult"]:
        raise ValueError(f"{folder}: image_size {f['image_size']} wants a channel_mult, such as '1,2,2'")
    net = UNet(f, channels, count if f["class_cond"] else 0)
    fill(net, tensors, folder)
    named = Conditions({"label": Named(classes(config.get("id2label"), count))} if count else {})
    T = f["diffusion_steps"]
    step = 1000 if f["rescale_timesteps"] else T
    den = denoiser.wrap(
        net,
        SCHEDULES[f["noise_schedule"]](T),
        "x0" if f["predict_xstart"] else "eps",
        time=Clock(step, -step / T),
        null=named.null,
        channels="eps+var" if f["learn_sigma"] else "all",
    )
    shape = [channels, f["image_size"], f["image_size"]]
    facts = {"shape": shape, "data": {"name": folder.name}, "format": "adm"}
    return Foreign(Parts(den, Pixels(None), named, facts))


def _list(value: Any, kind: type) -> tuple[Any, ...]:
    """A flag such as "1,2,2", or the sequence itself."""
    parts = value.split(",") if isinstance(value, str) else value
    return tuple(kind(v) for v in parts if v != "")
