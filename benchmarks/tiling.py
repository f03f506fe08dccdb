"""A photograph of 1024 x 768 restored by windows of 16 x 16: seams, peak memory, time.

Half of its pixels are hidden and the rest noisy; the prior is the exact denoiser of a Gaussian of short range on one
window, the measurement is met on the whole picture (`restore` around `Tiled`: 20 steps of moment matching). A seam is
the mean jump between neighbours across the borders of windows over the mean jump elsewhere. The control is the same
without overlap.

    python benchmarks/tiling.py --json tiling.json --pictures tiling.png
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from skimage import data
from torch import Tensor

from oneprior.anchored import ResShift
from oneprior.exact import Gaussian
from oneprior.guidance import Tiled
from oneprior.operators import Mask, Measurement
from oneprior.results import picture
from oneprior.sampling import DDIM, sample
from oneprior.schedules import Own, RectifiedFlow
from oneprior.uses.restore import restore

SIDE, BAR = 16, 1.05


def photograph(height: int, width: int) -> Tensor:
    """(1, 1, height, width) in [-1, 1]: a grey picture of scikit-image, 360 x 480 of it brought to size (by no whole
    factor, whose period would fall on the borders)."""
    x = torch.from_numpy(data.camera()).float()[None, None, 76:436, 16:496] / 127.5 - 1
    return torch.nn.functional.interpolate(x, (height, width), mode="bicubic", antialias=True)


def seams(x: Tensor, tiles: Tiled) -> float:
    across, inside = [], []
    for axis, w in enumerate(tiles.window):
        jump = x.movedim(2 + axis, -1).diff(dim=-1).abs()
        n = jump.shape[-1] + 1
        border = torch.zeros(n - 1, dtype=torch.bool)
        border[[c - 1 for s in tiles._starts(axis, n) for c in (s, s + w) if 0 < c < n]] = True
        across.append(jump[..., border].flatten())
        inside.append(jump[..., ~border].flatten())
    return float(torch.cat(across).mean() / torch.cat(inside).mean())


def megabytes() -> float:
    """The most memory this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    flags = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    flags.add_argument("--json", type=Path)
    flags.add_argument("--pictures", type=Path)
    flags.add_argument("--size", type=int, nargs=2, default=(768, 1024), help="height and width")
    flags.add_argument("--steps", type=int, help="default: those of auto")
    flags.add_argument("--overlap", type=int, nargs="+", default=(SIDE // 2, 0), help="one row each; 0 is the control")
    given = flags.parse_args()
    i = torch.arange(SIDE, dtype=torch.float64)
    row = 0.95 ** (i[:, None] - i).abs()
    law = Gaussian(torch.zeros(1, SIDE, SIDE), 0.25 * torch.kron(row, row))
    den = law.denoiser(RectifiedFlow())
    x0 = photograph(*given.size)
    A = Mask.random(tuple(x0.shape[1:]), 0.5)
    y = A(x0 + 0.05 * torch.randn(x0.shape, generator=torch.Generator().manual_seed(0)))
    measured, shown = Measurement(y, A, 0.05), [y, x0]
    rows: list[dict[str, Any]] = []
    before, size = megabytes(), x0.numel() * 4 / 2**20

    def row_of(
        what: str, value: float, floor: float | None = None, bar: float | None = None, holds: bool = True
    ) -> None:
        ratio = None if floor is None else value / floor
        rows.append(dict(what=f"oneprior {what}", value=value, floor=floor, ratio=ratio, bar=bar, holds=holds))

    along = Tiled(law.denoiser(ResShift()), (SIDE, SIDE), batch=256)
    x = sample(along, tuple(x0.shape), steps=4, sampler=DDIM(Own()), seeds=[0], y=x0)
    row_of("seams, draw of the prior along ResShift", seams(x, along), None, BAR, seams(x, along) <= BAR)
    row_of("peak memory above the start, MB, without gradients", megabytes() - before, size)
    for overlap in given.overlap:
        tiles, began = Tiled(den, (SIDE, SIDE), overlap, batch=256), time.perf_counter()
        x = restore(tiles, measured, steps=given.steps, seeds=[0], progress=True).x
        seconds, own, true = time.perf_counter() - began, seams(x, tiles), seams(x0, tiles)
        what = f"overlap {overlap}" if overlap else "overlap 0 (control)"
        row_of(f"seams, {what}", own, true, BAR, own <= BAR if overlap else own > BAR)
        row_of(f"seconds, {what}", seconds)
        row_of(f"error (rms, of 2), {what}", float((x - x0).square().mean().sqrt()))
        if overlap:
            row_of("peak memory above the start, MB, moment matching", megabytes() - before, size)
        shown.append(x)
    for r in rows:
        print(
            f"{r['what']:50s} {r['value']:10.4g}  (floor {r['floor']}, bar {r['bar']}) {'' if r['holds'] else 'MISSED'}"
        )
    if given.json:
        versions = {"torch": torch.__version__, "python": sys.version.split()[0]}
        given.json.write_text(
            json.dumps({"name": "tiling", "versions": versions, "load": None, "rows": rows}, indent=1)
        )
    if given.pictures:
        picture(torch.cat(shown, -1)[0] / 2 + 0.5).save(given.pictures)


if __name__ == "__main__":
    main()
