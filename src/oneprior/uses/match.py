"""Which point of one picture is which point of another, by nearest neighbours of features, without training.

Activations of a denoiser are smooth but sometimes wrong, those of another encoder exact but noisy; their errors differ,
so both together do better (Zhang et al. 2023, A Tale of Two Features; Tang et al. 2023, DIFT). Features are maps
(B, C, h, w) of any source. A pair shares its basis (co-PCA, per layer), each source is of unit length at each place,
    f = [w f_1 / |f_1|, (1 - w) f_2 / |f_2|],      sim = w^2 cos_1 + (1 - w)^2 cos_2,
and a point goes to the place of largest similarity. PCK@a is the share of points nearer than a times a length (the
longer side of the object's box, or of the picture), over all points, or over those of each picture and then over
pictures; papers differ in this by several points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from oneprior.denoiser import Denoiser
from oneprior.times import Time
from oneprior.uses.features import extract, spatial
from oneprior.uses.taps import blocks, network

Maps = Mapping[str, Tensor]


def maps(
    den: Denoiser, x: Tensor, t: Time = 0.1, layers: Sequence[str] = (), *, noises: int = 1, seed: int = 0, **cond: Any
) -> dict[str, Tensor]:
    """Outputs of layers, (B, C, h, w), by `features.extract`: one noise for all pictures, so two alike have the same.
    layers: by default the decoder levels of a U-Net, `up.*`, or every block of a network without such."""
    every = blocks(network(den))
    layers = layers or [n for n in every if n.startswith("up.") and n.count(".") == 1] or every
    return extract(den, x, layers, t, noises=noises, seeds=[seed] * len(x), read=spatial, **cond)


def encoded(model: Any, pixels: Tensor) -> Tensor:
    """The last features of a vision encoder of `transformers` as a map (B, C, h, w); pixels (B, 3, H, W), normalised as
    it wants them. Class and register tokens, which stand first, are left out."""
    with torch.no_grad():
        f = model(pixel_values=pixels).last_hidden_state
    if f.ndim == 4:  # convolutional
        return f
    h, w = (n // model.config.patch_size for n in pixels.shape[2:])
    return f[:, -h * w :].mT.unflatten(2, (h, w))


def co_pca(a: Tensor, b: Tensor, q: int) -> tuple[Tensor, Tensor]:
    """Features of pairs, (B, C, h, w) and (B, C, h', w'), on q principal axes that the two pictures of a pair share.

    The joint mean is taken off, nothing is whitened; with q >= C cosines of what is centred stay as they are.

    Raises:
        ValueError: for different channels or batches, or q < 1.
    """
    if a.shape[:2] != b.shape[:2] or q < 1:
        raise ValueError(f"maps {tuple(a.shape)}, {tuple(b.shape)}, q = {q}: one B and C, and q >= 1 were expected")
    both = torch.cat([a.flatten(2), b.flatten(2)], 2)
    both = both - both.mean(2, keepdim=True)
    _, axes = torch.linalg.eigh((both @ both.mT).double())  # rising
    y = axes[:, :, -min(q, a.shape[1]) :].flip(2).mT.to(both) @ both
    cut = a[0, 0].numel()
    return y[:, :, :cut].unflatten(2, a.shape[2:]), y[:, :, cut:].unflatten(2, b.shape[2:])


def together(a: Maps, b: Maps, size: tuple[int, int], q: int = 256) -> tuple[Tensor, Tensor]:
    """Layers of two pictures (`maps`) as one map each: co-PCA a layer, resized to `size`, concatenated."""
    pairs = [co_pca(a[name], b[name], q) for name in a]
    return tuple(torch.cat([resized(pair[i], size) for pair in pairs], 1) for i in range(2))  # type: ignore[return-value]


def resized(f: Tensor, size: Sequence[int]) -> Tensor:
    """(B, C, h, w) on a grid of `size`, bilinear."""
    return F.interpolate(f, size=tuple(size), mode="bilinear", align_corners=False)


def fuse(parts: Sequence[tuple[Tensor, float]]) -> Tensor:
    """Maps (B, C_i, h, w) with their weights as one: unit length at each place, weighted, concatenated.

    Example:
        >>> f = fuse([(diffusion, 0.5), (encoder, 0.5)])

    Raises:
        ValueError: for maps on different grids (`resized` brings them to one).
    """
    if len({(len(f), *f.shape[2:]) for f, _ in parts}) != 1:
        raise ValueError(f"maps {[tuple(f.shape) for f, _ in parts]}: one batch and one grid expected; see `resized`")
    return torch.cat([w * F.normalize(f, dim=1) for f, w in parts], 1)


class Matches(NamedTuple):
    """x: (B, P, 2), points of the second picture as (x, y) in pixels; score: (B, P), cosine; mutual: (B, P), whether
    the place found leads back to within one cell of where it came from."""

    x: Tensor
    score: Tensor
    mutual: Tensor


def match(
    f_a: Tensor,
    f_b: Tensor,
    points: Tensor,
    size: tuple[int, int],
    size_b: tuple[int, int] | None = None,
    *,
    mask: Tensor | None = None,
    window: int = 0,
    temperature: float = 0.05,
) -> Matches:
    """The points of pictures b that are points (B, P, 2) of pictures a, by the nearest feature.

    f_a, f_b: (B, C, h, w) on grids of their own; size, size_b: (H, W) of the pictures. mask: (B, 1, H, W), where in b
    to look. window: cells about the best one over which soft-argmax refines at `temperature`; 0 gives its centre.

    Raises:
        ValueError: for points outside the picture, other channels, or a mask that leaves nothing.
    """
    size_b = size if size_b is None else size_b
    wh, wh_b = (torch.tensor(s[::-1]).to(points) for s in (size, size_b))
    if f_a.shape[:2] != f_b.shape[:2] or points.ndim != 3 or points.shape[2] != 2 or len(points) != len(f_a):
        shapes = [tuple(v.shape) for v in (f_a, f_b, points)]
        raise ValueError(f"maps and points {shapes}: (B, C, h, w), (B, C, h', w') and (B, P, 2) were expected")
    if bool(((points < 0) | (points >= wh)).any()):
        raise ValueError(f"points (x, y) within the picture, {size[1]} x {size[0]} pixels, were expected")
    cells, (h, w) = _cells(points, wh, f_a), f_b.shape[2:]
    a, b = (F.normalize(f.flatten(2), dim=1) for f in (f_a, f_b))
    from_a = a.gather(2, cells[:, None].expand(-1, a.shape[1], -1))
    sim = from_a.mT @ b
    if mask is not None:
        inside = F.adaptive_max_pool2d(mask.to(sim), (h, w)).flatten(1) > 0
        if not bool(inside.any(1).all()):
            raise ValueError("a mask leaves no place to look at")
        sim = sim.masked_fill(~inside[:, None], -torch.inf)
    score, best = sim.max(2)
    back = (b.gather(2, best[:, None].expand(-1, b.shape[1], -1)).mT @ a).argmax(2)
    wide = f_a.shape[3]
    near = ((back % wide - cells % wide).abs() <= 1) & ((back // wide - cells // wide).abs() <= 1)
    y, x = torch.arange(h * w, device=sim.device) // w, torch.arange(h * w, device=sim.device) % w
    close = ((y - (best // w)[..., None]).abs() <= window) & ((x - (best % w)[..., None]).abs() <= window)
    p = (sim / temperature).masked_fill(~close, -torch.inf).softmax(2)
    at = torch.stack([p @ (x + 0.5).to(p), p @ (y + 0.5).to(p)], 2)
    return Matches(at / at.new_tensor([w, h]) * wh_b, score, near)


def between(
    den: Denoiser,
    a: Tensor,
    b: Tensor,
    points: Tensor | None = None,
    *,
    t: float = 0.1,
    layers: Sequence[str] = (),
    noises: int = 4,
    window: int = 1,
    mask: Tensor | None = None,
    size: Sequence[int] | None = None,
    seed: int = 0,
    **cond: Any,
) -> tuple[Tensor, Matches]:
    """Points of pictures a (B, C, H, W), (B, P, 2) or (P, 2), 8 x 8 evenly spaced ones without, and where in b they
    are, by features of `den` alone: `maps`, `together` and `match` in one. size: of the pictures that points are in,
    where a and b are latents of them."""
    size = (a.shape[2], a.shape[3]) if size is None else (size[0], size[1])
    if points is None:
        at = [(torch.arange(8) + 0.5) * n / 8 for n in size]
        points = torch.cartesian_prod(*at).flip(1)
    points = points.to(a).expand(len(a), *points.shape[-2:])
    f_a, f_b = (maps(den, x, t, layers, noises=noises, seed=seed, **cond) for x in (a, b))
    h, w = max(tuple(v.shape[2:]) for v in f_a.values())
    return points, match(*together(f_a, f_b, (h, w)), points, size, mask=mask, window=window)


def _cells(points: Tensor, wh: Tensor, f: Tensor) -> Tensor:
    h, w = f.shape[2:]
    x, y = (points / wh * points.new_tensor([w, h])).long().unbind(2)
    return y.clamp(0, h - 1) * w + x.clamp(0, w - 1)


def pck(
    found: Tensor,
    truth: Tensor,
    length: Tensor,
    alphas: Sequence[float] = (0.1, 0.05, 0.01),
    *,
    visible: Tensor | None = None,
    per: str = "point",
) -> Tensor:
    """PCK at each alpha, (len(alphas),): points nearer to the truth than alpha length, strictly.

    found, truth: (B, P, 2); length: (B,) in the same units; visible: (B, P). per: "point" pools all points, "image" is
    the mean of the pictures that have any.
    """
    if per not in ("point", "image"):
        raise ValueError(f"per = '{per}': 'point' or 'image' was expected")
    off = (found - truth).norm(dim=2) / length[:, None]
    seen = torch.ones_like(off) if visible is None else visible.to(off)
    right = torch.stack([(off < a) * seen for a in alphas])
    if per == "point":
        return right.sum((1, 2)) / seen.sum()
    some = seen.sum(1) > 0
    return (right.sum(2)[:, some] / seen.sum(1)[some]).mean(1)


def gap(f_a: Tensor, f_b: Tensor) -> Tensor:
    """Mean cosine distance of every place of a to its nearest in b, (B,): of a picture and its mirror image the one
    with the smaller gap faces the same way."""
    a, b = (F.normalize(f.flatten(2), dim=1) for f in (f_a, f_b))
    return 1 - (a.mT @ b).amax(2).mean(1)


def swap(x_a: Tensor, x_b: Tensor, f_a: Tensor, f_b: Tensor, mask_a: Tensor, mask_b: Tensor) -> Tensor:
    """Pictures b (B, C, H, W) whose object, mask_b (B, 1, H, W), is made of pixels of the object of pictures a.

    Each place within mask_b takes the pixel of its nearest neighbour within mask_a. What is left of seams goes away
    when the result is noised half way and sampled back (`uses.edit.translate(method="sdedit")`).

    Raises:
        ValueError: for masks of another size than their picture, or empty ones.
    """
    for x, m in ((x_a, mask_a), (x_b, mask_b)):
        if m.shape[-2:] != x.shape[-2:] or not bool((m > 0).flatten(1).any(1).all()):
            raise ValueError(
                f"mask {tuple(m.shape)}, pictures {tuple(x.shape)}: one size was expected, and no empty mask"
            )
    out = x_b.clone()
    for i in range(len(x_b)):
        grown = (resized(f[i : i + 1], x.shape[2:])[0] for f, x in ((f_a, x_a), (f_b, x_b)))
        a, b = (F.normalize(f.flatten(1), dim=0) for f in grown)
        source, target = ((m[i, 0] > 0).flatten().nonzero()[:, 0] for m in (mask_a, mask_b))
        near = torch.cat([(b[:, part].mT @ a[:, source]).argmax(1) for part in target.split(1024)])
        out[i].view(len(out[i]), -1)[:, target] = x_a[i].flatten(1)[:, source[near]].to(out)
    return out
