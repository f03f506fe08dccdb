"""ADM, DiT and SiT state dicts against forward passes written here from the papers, on plain tensors."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

import oneprior
from oneprior.interop import adm, dit

Weights = dict[str, Tensor]


def random(tensors: Weights) -> Weights:
    g = torch.Generator().manual_seed(0)
    return {k: 0.3 * torch.randn(v.shape, generator=g) / max(1, v[0].numel()) ** 0.5 + 0.01 for k, v in tensors.items()}


def put(folder: Path, config: dict[str, Any], tensors: Weights) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")
    return folder


# DiT, SiT


def dit_weights(
    width: int = 24, depth: int = 2, patch: int = 2, side: int = 8, classes: int = 4, out: int = 6
) -> Weights:
    def lin(name: str, a: int, b: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (b, a), f"{name}.bias": (b,)}

    shapes = {
        "x_embedder.proj.weight": (width, 3, patch, patch), "x_embedder.proj.bias": (width,),
        "y_embedder.embedding_table.weight": (classes + 1, width), "pos_embed": (1, (side // patch) ** 2, width),
        **lin("t_embedder.mlp.0", 256, width), **lin("t_embedder.mlp.2", width, width),
        **lin("final_layer.linear", width, patch * patch * 6),
        **lin("final_layer.adaLN_modulation.1", width, 2 * width),
    }  # fmt: skip
    for i in range(depth):
        b = f"blocks.{i}"
        shapes |= lin(f"{b}.attn.qkv", width, 3 * width) | lin(f"{b}.attn.proj", width, width)
        shapes |= lin(f"{b}.mlp.fc1", width, 4 * width) | lin(f"{b}.mlp.fc2", 4 * width, width)
        shapes |= lin(f"{b}.adaLN_modulation.1", width, 6 * width)
    return random({k: torch.zeros(s) for k, s in shapes.items()})


def waves(t: Tensor, width: int) -> Tensor:
    """Written out: [cos(t w_0), ..., sin(t w_0), ...] with w_j = 10000^(-2 j / width)."""
    rows = [
        [f(float(s) * 10000 ** (-2 * j / width)) for f in (math.cos, math.sin) for j in range(width // 2)] for s in t
    ]
    return torch.tensor(rows)


def dit_forward(w: Weights, x: Tensor, clock: Tensor, label: Tensor, heads: int, depth: int = 2) -> Tensor:
    def lin(h: Tensor, name: str) -> Tensor:
        return h @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(h: Tensor) -> Tensor:
        return (h - h.mean(-1, keepdim=True)) / (h.var(-1, keepdim=True, correction=0) + 1e-6).sqrt()

    B, _, H, _ = x.shape
    width, _, p, _ = w["x_embedder.proj.weight"].shape
    n = H // p
    c = lin(F.silu(lin(waves(clock, 256), "t_embedder.mlp.0")), "t_embedder.mlp.2")
    c = F.silu(c + w["y_embedder.embedding_table.weight"][label])
    patches = torch.stack([x[:, :, i * p : i * p + p, j * p : j * p + p] for i in range(n) for j in range(n)], 1)
    kernel = w["x_embedder.proj.weight"].reshape(width, -1)
    h = patches.reshape(B, n * n, -1) @ kernel.T + w["x_embedder.proj.bias"] + w["pos_embed"]
    for k in range(depth):
        m = lin(c, f"blocks.{k}.adaLN_modulation.1")[:, None]
        part = [m[..., i * width : (i + 1) * width] for i in range(6)]
        qkv = lin(norm(h) * (1 + part[1]) + part[0], f"blocks.{k}.attn.qkv")
        d, out = width // heads, []
        for head in range(heads):
            q, key, v = (qkv[..., j * width + head * d : j * width + head * d + d] for j in range(3))
            out.append(((q @ key.transpose(1, 2)) / d**0.5).softmax(-1) @ v)
        h = h + part[2] * lin(torch.cat(out, -1), f"blocks.{k}.attn.proj")
        u = lin(norm(h) * (1 + part[4]) + part[3], f"blocks.{k}.mlp.fc1")
        u = 0.5 * u * (1 + torch.tanh((2 / math.pi) ** 0.5 * (u + 0.044715 * u**3)))
        h = h + part[5] * lin(u, f"blocks.{k}.mlp.fc2")
    m = lin(c, "final_layer.adaLN_modulation.1")[:, None]
    h = lin(norm(h) * (1 + m[..., width:]) + m[..., :width], "final_layer.linear")
    out = torch.zeros(B, h.shape[-1] // (p * p), H, H)
    for i in range(n):
        for j in range(n):
            cell = h[:, i * n + j].reshape(B, p, p, -1).permute(0, 3, 1, 2)
            out[:, :, i * p : i * p + p, j * p : j * p + p] = cell
    return out


@pytest.mark.parametrize("kind", ["dit", "sit"])
def test_dit_and_sit(kind: str, tmp_path: Path) -> None:
    w = dit_weights()
    prior = oneprior.load(put(tmp_path / kind, {"format": kind, "num_heads": 3}, w))
    x, label, t = torch.randn(2, 3, 8, 8), torch.tensor([1, 4]), 0.701
    clock = torch.full((2,), 1000 * t - 1 if kind == "dit" else 1 - t)
    F_ = dit_forward(w, x, clock, label, 3)[:, :3]
    with torch.no_grad():
        post = prior.den(x, t, label=label)
        none = prior.den(x[1:], t)
    if kind == "dit":
        torch.testing.assert_close(post.eps, F_, atol=1e-5, rtol=1e-5)
        assert post.var is not None
    else:  # x_t = tau x_0 + (1 - tau) eps and F = x_0 - eps: x_0 = x_t + (1 - tau) F
        torch.testing.assert_close(post.mean, x + t * F_, atol=1e-5, rtol=1e-5)
        assert post.var is None
    torch.testing.assert_close(none.mean, post.mean[1:], atol=1e-4, rtol=1e-4)  # the last class is the null
    raw = dit.DiT(w, 3)
    raw.load_state_dict(w)
    with torch.no_grad():
        torch.testing.assert_close(raw(x, clock, label), dit_forward(w, x, clock, label, 3), atol=1e-5, rtol=1e-5)


def test_the_heads_of_an_unknown_width_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_heads"):
        oneprior.load(put(tmp_path / "dit", {"format": "dit"}, dit_weights()))
    with pytest.raises(ValueError, match="linear path"):
        oneprior.load(put(tmp_path / "sit", {"format": "sit", "num_heads": 3, "path_type": "GVP"}, dit_weights()))
    with pytest.raises(ValueError, match="nun_heads is not known"):
        oneprior.load(put(tmp_path / "typo", {"format": "dit", "nun_heads": 3}, dit_weights()))


# ADM

SMALL = {"image_size": 8, "num_channels": 32, "num_res_blocks": 1, "channel_mult": "1,2", "attention_resolutions": "4",
         "num_head_channels": 16, "learn_sigma": True, "class_cond": True}  # fmt: skip


def adm_weights(flags: dict[str, Any]) -> Weights:
    """Shapes by the original's names, written out for one residual block a level and two levels."""
    c, e, wide = 32, 128, 2 if flags.get("use_scale_shift_norm", True) else 1

    def pair(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}

    def res(name: str, a: int, b: int) -> dict[str, tuple[int, ...]]:
        out = pair(f"{name}.in_layers.0", a) | pair(f"{name}.in_layers.2", b, a, 3, 3)
        out |= pair(f"{name}.emb_layers.1", wide * b, e) | pair(f"{name}.out_layers.0", b)
        out |= pair(f"{name}.out_layers.3", b, b, 3, 3)
        return out | (pair(f"{name}.skip_connection", b, a, 1, 1) if a != b else {})

    def att(name: str, a: int) -> dict[str, tuple[int, ...]]:
        return pair(f"{name}.norm", a) | pair(f"{name}.qkv", 3 * a, a, 1) | pair(f"{name}.proj_out", a, a, 1)

    updown = flags.get("resblock_updown", False)
    s = pair("time_embed.0", e, c) | pair("time_embed.2", e, e) | {"label_emb.weight": (5, e)}
    s |= pair("input_blocks.0.0", c, 3, 3, 3) | res("input_blocks.1.0", c, c)
    s |= res("input_blocks.2.0", c, c) if updown else pair("input_blocks.2.0.op", c, c, 3, 3)
    s |= res("input_blocks.3.0", c, 2 * c) | att("input_blocks.3.1", 2 * c)
    s |= res("middle_block.0", 2 * c, 2 * c) | att("middle_block.1", 2 * c) | res("middle_block.2", 2 * c, 2 * c)
    s |= res("output_blocks.0.0", 4 * c, 2 * c) | att("output_blocks.0.1", 2 * c)
    s |= res("output_blocks.1.0", 3 * c, 2 * c) | att("output_blocks.1.1", 2 * c)
    s |= res("output_blocks.1.2", 2 * c, 2 * c) if updown else pair("output_blocks.1.2.conv", 2 * c, 2 * c, 3, 3)
    s |= res("output_blocks.2.0", 3 * c, c) | res("output_blocks.3.0", 2 * c, c)
    s |= pair("out.0", c) | pair("out.2", 6, c, 3, 3)
    return random({k: torch.zeros(v) for k, v in s.items()})


def adm_forward(w: Weights, x: Tensor, clock: Tensor, label: Tensor, flags: dict[str, Any]) -> Tensor:
    updown, shift = flags.get("resblock_updown", False), flags.get("use_scale_shift_norm", True)

    def conv(h: Tensor, name: str, **how: Any) -> Tensor:
        return F.conv2d(h, w[f"{name}.weight"], w[f"{name}.bias"], **how)

    def norm(h: Tensor, name: str) -> Tensor:
        g = h.reshape(len(h), 32, -1)
        g = (g - g.mean(-1, keepdim=True)) / (g.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
        tail = (1,) * (h.ndim - 2)
        return g.reshape(h.shape) * w[f"{name}.weight"].reshape(-1, *tail) + w[f"{name}.bias"].reshape(-1, *tail)

    def half(h: Tensor) -> Tensor:
        return (h[..., ::2, ::2] + h[..., 1::2, ::2] + h[..., ::2, 1::2] + h[..., 1::2, 1::2]) / 4

    def twice(h: Tensor) -> Tensor:
        return h.repeat_interleave(2, -1).repeat_interleave(2, -2)

    def res(h: Tensor, name: str, size: Any = None) -> Tensor:
        u = F.silu(norm(h, f"{name}.in_layers.0"))
        u, h = (size(u), size(h)) if size else (u, h)
        u = conv(u, f"{name}.in_layers.2", padding=1)
        m = (F.silu(emb) @ w[f"{name}.emb_layers.1.weight"].T + w[f"{name}.emb_layers.1.bias"])[:, :, None, None]
        if shift:
            a = m.shape[1] // 2
            u = norm(u, f"{name}.out_layers.0") * (1 + m[:, :a]) + m[:, a:]
        else:
            u = norm(u + m, f"{name}.out_layers.0")
        u = conv(F.silu(u), f"{name}.out_layers.3", padding=1)
        return u + (conv(h, f"{name}.skip_connection") if f"{name}.skip_connection.weight" in w else h)

    def att(h: Tensor, name: str) -> Tensor:
        B, C = h.shape[:2]
        u = norm(h.reshape(B, C, -1), f"{name}.norm")
        qkv = torch.einsum("oc,bct->bot", w[f"{name}.qkv.weight"][..., 0], u) + w[f"{name}.qkv.bias"][:, None]
        out = []
        for i in range(C // 16):
            if flags.get("use_new_attention_order", False):
                q, k, v = (qkv[:, j * C + 16 * i : j * C + 16 * i + 16] for j in range(3))
            else:
                q, k, v = (qkv[:, 48 * i + 16 * j : 48 * i + 16 * j + 16] for j in range(3))
            p = torch.einsum("bct,bcs->bts", q, k).div(4).softmax(-1)
            out.append(torch.einsum("bts,bcs->bct", p, v))
        o = torch.einsum("oc,bct->bot", w[f"{name}.proj_out.weight"][..., 0], torch.cat(out, 1))
        return h + (o + w[f"{name}.proj_out.bias"][:, None]).reshape(h.shape)

    emb = F.silu(waves(clock, 32) @ w["time_embed.0.weight"].T + w["time_embed.0.bias"])
    emb = emb @ w["time_embed.2.weight"].T + w["time_embed.2.bias"] + w["label_emb.weight"][label]
    h0 = conv(x, "input_blocks.0.0", padding=1)
    h1 = res(h0, "input_blocks.1.0")
    h2 = res(h1, "input_blocks.2.0", half) if updown else conv(h1, "input_blocks.2.0.op", padding=1, stride=2)
    h3 = att(res(h2, "input_blocks.3.0"), "input_blocks.3.1")
    h = res(att(res(h3, "middle_block.0"), "middle_block.1"), "middle_block.2")
    h = att(res(torch.cat([h, h3], 1), "output_blocks.0.0"), "output_blocks.0.1")
    h = att(res(torch.cat([h, h2], 1), "output_blocks.1.0"), "output_blocks.1.1")
    h = res(h, "output_blocks.1.2", twice) if updown else conv(twice(h), "output_blocks.1.2.conv", padding=1)
    h = res(torch.cat([h, h1], 1), "output_blocks.2.0")
    h = res(torch.cat([h, h0], 1), "output_blocks.3.0")
    return conv(F.silu(norm(h, "out.0")), "out.2", padding=1)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"resblock_updown": True, "use_new_attention_order": True},
        {"use_scale_shift_norm": False, "rescale_timesteps": True, "diffusion_steps": 200, "noise_schedule": "cosine"},
    ],
    ids=["plain", "updown, new order", "added, 200 cosine steps"],
)
def test_adm(more: dict[str, Any], tmp_path: Path) -> None:
    flags = {**SMALL, **more}
    w = adm_weights(flags)
    prior = oneprior.load(put(tmp_path / "adm", {"format": "adm", **flags}, w))
    x, label, T = torch.randn(2, 3, 8, 8), torch.tensor([1, 4]), flags.get("diffusion_steps", 1000)
    k = 3 * T // 5
    clock = torch.full((2,), k * 1000 / T if flags.get("rescale_timesteps") else float(k))
    want = adm_forward(w, x, clock, label, flags)
    with torch.no_grad():
        torch.testing.assert_close(prior.den.net(x, clock, label), want, atol=1e-5, rtol=1e-5)  # type: ignore[operator]
        post = prior.den(x, (k + 1) / T, label=label)
    torch.testing.assert_close(post.eps, want[:, :3], atol=1e-4, rtol=1e-4)
    assert post.var is not None and prior.shape == (3, 8, 8)
    with pytest.raises(ValueError, match="without a null"):
        prior.sample(1, steps=2)


def test_missing_and_unexpected_weights_are_listed(tmp_path: Path) -> None:
    w = adm_weights(SMALL)
    w["stranger"] = w.pop("out.2.bias")
    w["out.0.bias"] = torch.zeros(3)
    listed = r"missing: out\.2\.bias; unexpected: stranger; misshapen: out\.0\.bias \(3,\) for \(32,\)"
    with pytest.raises(ValueError, match=listed):
        oneprior.load(put(tmp_path / "adm", {"format": "adm", **SMALL}, w))


def test_folders_that_are_not_read(tmp_path: Path) -> None:
    folder = put(tmp_path / "x", {"format": "edm3"}, adm_weights(SMALL))
    with pytest.raises(ValueError, match=r"of no format that is read: it holds config\.json, model\.safetensors"):
        oneprior.load(folder)
    (folder / "model.safetensors").rename(folder / "model.pt")
    with pytest.raises(ValueError, match=r"model\.pt: Pickles are never read"):
        oneprior.load(folder)
    (folder / "config.json").write_text(json.dumps({"format": "adm", **SMALL}))
    with pytest.raises(ValueError, match="Pickles are never read"):
        oneprior.load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.pt.*Pickles"):
        oneprior.load(folder)
    with pytest.raises(ValueError, match="Pickles are never read"):
        oneprior.load(folder / "model.pt")
    assert adm.MULT[64] == (1, 2, 3, 4)


# EDM2


def edm2_weights() -> Weights:
    """Two resolutions of one block each, 8 and 16 channels, attention at the coarser one, by the original's names."""
    e = 16
    s: dict[str, tuple[int, ...]] = {
        "emb_fourier.freqs": (8,), "emb_fourier.phases": (8,), "emb_noise.weight": (e, 8), "emb_label.weight": (e, 5),
        "out_gain": (), "out_conv.weight": (3, 8, 3, 3), "enc.8x8_conv.weight": (8, 4, 3, 3),
    }  # fmt: skip

    def block(name: str, a: int, b: int, enc: bool, attention: bool) -> None:
        s.update({f"{name}.emb_gain": (), f"{name}.emb_linear.weight": (b, e)})
        s.update({f"{name}.conv_res0.weight": (b, b if enc else a, 3, 3), f"{name}.conv_res1.weight": (b, b, 3, 3)})
        if a != b:
            s[f"{name}.conv_skip.weight"] = (b, a, 1, 1)
        if attention:
            s.update({f"{name}.attn_qkv.weight": (3 * b, b, 1, 1), f"{name}.attn_proj.weight": (b, b, 1, 1)})

    block("enc.8x8_block0", 8, 8, True, False)
    block("enc.4x4_down", 8, 8, True, False)
    block("enc.4x4_block0", 8, 16, True, True)
    block("dec.4x4_in0", 16, 16, False, True)
    block("dec.4x4_in1", 16, 16, False, False)
    block("dec.4x4_block0", 32, 16, False, True)
    block("dec.4x4_block1", 24, 16, False, True)
    block("dec.8x8_up", 16, 16, False, False)
    block("dec.8x8_block0", 24, 8, False, False)
    block("dec.8x8_block1", 16, 8, False, False)
    g = torch.Generator().manual_seed(1)
    return {k: torch.randn(v, generator=g) for k, v in s.items()}


def edm2_forward(w: Weights, x: Tensor, c_noise: Tensor, label: Tensor) -> Tensor:
    def weight(name: str, gain: Any = 1.0) -> Tensor:
        v = w[f"{name}.weight"]
        flat = v.reshape(len(v), -1)
        n = flat.shape[1]
        return (flat / (1e-4 + flat.norm(dim=1, keepdim=True) / n**0.5) * gain / n**0.5).reshape(v.shape)

    def conv(h: Tensor, name: str) -> Tensor:
        v = weight(name)
        return F.conv2d(h, v, padding=v.shape[-1] // 2)

    def act(h: Tensor) -> Tensor:
        return h * h.sigmoid() / 0.596

    def add(a: Tensor, b: Tensor, t: float) -> Tensor:
        return ((1 - t) * a + t * b) / ((1 - t) ** 2 + t**2) ** 0.5

    def block(name: str, h: Tensor) -> Tensor:
        enc = name.startswith("enc")
        if "down" in name:
            h = (h[..., ::2, ::2] + h[..., 1::2, ::2] + h[..., ::2, 1::2] + h[..., 1::2, 1::2]) / 4
        if "up" in name:
            h = h.repeat_interleave(2, -1).repeat_interleave(2, -2)
        has = f"{name}.conv_skip.weight" in w
        if enc:
            h = conv(h, f"{name}.conv_skip") if has else h
            h = h / (1e-4 + h.square().mean(1, keepdim=True).sqrt())
        y = conv(act(h), f"{name}.conv_res0")
        c = e @ weight(f"{name}.emb_linear", w[f"{name}.emb_gain"]).T + 1
        y = conv(act(y * c[:, :, None, None]), f"{name}.conv_res1")
        if not enc and has:
            h = conv(h, f"{name}.conv_skip")
        h = add(h, y, 0.3)
        if f"{name}.attn_qkv.weight" in w:
            B, C, side = len(h), h.shape[1], h.shape[-1]
            u = conv(h, f"{name}.attn_qkv").reshape(B, C // 4, 4, 3, side * side)  # heads of four channels
            u = u / (1e-4 + u.square().mean(2, keepdim=True).sqrt())
            q, k, v = u[:, :, :, 0], u[:, :, :, 1], u[:, :, :, 2]
            p = torch.einsum("nhcq,nhck->nhqk", q, k / 2).softmax(-1)
            a = torch.einsum("nhqk,nhck->nhcq", p, v).reshape(h.shape)
            h = add(h, conv(a, f"{name}.attn_proj"), 0.3)
        return h

    def cat(a: Tensor, b: Tensor) -> Tensor:
        n = a.shape[1] + b.shape[1]
        scale = (n / 0.5) ** 0.5
        return torch.cat([a * scale / a.shape[1] ** 0.5 * 0.5, b * scale / b.shape[1] ** 0.5 * 0.5], 1)

    waves_ = (2**0.5) * torch.cos(c_noise[:, None] * w["emb_fourier.freqs"] + w["emb_fourier.phases"])
    e = waves_ @ weight("emb_noise").T
    one = torch.zeros(len(x), 5)
    one[range(len(x)), label] = 5**0.5
    e = act(add(e, one @ weight("emb_label").T, 0.5))
    h = conv(torch.cat([x, torch.ones(len(x), 1, *x.shape[2:])], 1), "enc.8x8_conv")
    kept = [h]
    for name in ("enc.8x8_block0", "enc.4x4_down", "enc.4x4_block0"):
        h = block(name, h)
        kept.append(h)
    h = block("dec.4x4_in1", block("dec.4x4_in0", h))
    h = block("dec.4x4_block1", cat(block("dec.4x4_block0", cat(h, kept[3])), kept[2]))
    h = block("dec.8x8_up", h)
    h = block("dec.8x8_block1", cat(block("dec.8x8_block0", cat(h, kept[1])), kept[0]))
    return conv(h, "out_conv") * w["out_gain"]


def test_edm2(tmp_path: Path) -> None:
    w = edm2_weights()
    stored = {f"unet.{k}": v for k, v in w.items()} | {"logvar_linear.weight": torch.zeros(1, 8)}
    prior = oneprior.load(put(tmp_path / "e", {"format": "edm2", "img_resolution": 8, "channels_per_head": 4}, stored))
    assert prior.shape == (3, 8, 8)
    sigma, x, label = 0.7, torch.randn(2, 3, 8, 8), torch.tensor([1, 4])
    n2 = sigma**2 + 0.25
    with torch.no_grad():
        want = edm2_forward(w, x / n2**0.5, torch.full((2,), math.log(sigma) / 4), label)
        got = prior.den.net(x / n2**0.5, torch.full((2,), math.log(sigma) / 4), label)  # type: ignore[operator]
        post = prior.den(x, sigma / 80, label=label)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(post.mean, 0.25 / n2 * x + sigma * 0.5 / n2**0.5 * want, atol=1e-4, rtol=1e-4)
    assert prior.sample(2, label=[0, 4], steps=3, seeds=range(2)).x.shape == (2, 3, 8, 8)
    with pytest.raises(ValueError, match="without a null"):
        prior.sample(1, steps=1)
