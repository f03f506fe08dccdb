"""Undo a measurement: draws of the picture given what was seen of it, their mean, and where they disagree.

oneprior restore digits damaged.png --mask mask.png --noise 12/255
oneprior restore digits digits --n 16 --operator mask:half --noise 0.05 --simulate

oneprior restore runs/rain rainy/                   a prior trained on pairs needs no operator

Results come in the format, depth and geometry of the files: NIfTI, a DICOM series, 16-bit TIFF, PNG with alpha.
A folder that was interrupted goes on where it was when the same command is given again.

Operators: mask:FILE; mask:random,SHARE; mask:half,SIDE; mask:box,H,W; mask:strokes,COUNT,WIDTH; pool:R; bicubic:R;
blur:STD; blur:box,W; blur:motion,LENGTH,ANGLE; blur:shake,SIZE; blur:gamma,STD; grey; mosaic; jpeg:QUALITY; clip:GAIN;
lowlight:GAMMA,GAIN; haze:TRANSMISSION,LIGHT; identity (noise alone). inpaint is another name of mask, sr of bicubic.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oneprior.cli.settings import OnPictures, Told, Writing


@dataclass(frozen=True, kw_only=True)
class RestoreSettings(Told, Writing, OnPictures):
    mask: Path | None = None
    """a picture: white is seen, black is hidden"""
    operator: str | None = None
    """what was done to the pictures, such as mask:random,0.5 or pool:2 (all in the text above)"""
    noise: str = "0"
    """standard deviation of the noise, where white is 1: 0.05, or 12/255; or poisson:PEAK, counts where it is white; of
    scans, in their units"""
    simulate: bool = False
    """damage whole pictures first, and compare the result with them"""
    method: str = "auto"
    """auto, mmps, pigdm, tmpd, daps, dps, ddrm, ddnm, diffpir, repaint, twisted or red_diff: docs/restore.md"""
    draws: int = 4
    """draws a picture; their mean is the answer, their spread says how sure it is"""
    steps: int | None = None
    """steps (default: those of the method)"""


SETTINGS = RestoreSettings


def run(s: RestoreSettings, command: list[str]) -> int:
    from math import prod

    import torch

    from oneprior.cli import damage, inputs
    from oneprior.cli.work import Work, sheet
    from oneprior.metrics import psnr, ssim
    from oneprior.operators import Mask
    from oneprior.operators.simulate import simulate
    from oneprior.results import picture, window_of
    from oneprior.uses.restore.run import paired_off

    if s.draws < 1:
        raise ValueError(f"--draws {s.draws}: at least one was expected")
    work = Work(s)
    window = window_of(work.prior.codec)
    noise = damage.noise_of(s.noise, 1.0 if window is None else float("inf"))
    shape = work.prior.shape
    if len(shape) != 3:
        raise ValueError(f"pictures are restored; the samples of this prior have shape {shape}")
    pairs = "y" in work.prior.conditions and s.operator is None and s.mask is None
    recipe = damage.recipe_of(work.prior) if pairs and s.simulate else None
    if pairs:
        operator, at = None, shape if s.simulate else shape[:1] + damage.size_of(s.files, (1, 1))
    else:
        operator, at = damage.scene(s.operator, s.mask, s.files, shape, seed=s.seed, whole=s.simulate, most=s.n)
    seen = at if operator is None else tuple(operator(torch.zeros(1, *at)).shape[1:])
    told = {k: getattr(s, k) for k in ("method", "draws", "steps", "simulate", "label")} | {"cond": list(s.cond)}
    settings = {"operator": s.operator or (f"mask {s.mask}" if s.mask else None), **told}
    settings["noise"] = noise if isinstance(noise, float) else s.noise
    if window is not None and isinstance(noise, float):
        noise /= window[1] - window[0]  # as the values that the work is done in
    work.read("restore", seen if not s.simulate else at if at != shape else None, settings)
    tile = None
    if at != shape:
        tile = list(shape[1:])
        taken = f"; {seen[1]} x {seen[2]} is taken as measured, --simulate measures first"
        work.screen.note(
            f"{at[1]} x {at[2]} by windows of {shape[1]} x {shape[2]}" + taken * (not s.simulate and seen[1:] != at[1:])
        )
    cond = inputs.conditions(work.prior, s.label, s.cond, range(len(work.given)))
    window = min(11, *shape[1:]) - 1 | 1  # odd
    for part, x in work.each("restoring", max(1, s.batch * prod(shape[1:]) // prod(at[1:])), inner=True):
        if operator is None:
            y = recipe(x, s.seed, part) if recipe else x
        else:
            y = simulate(operator, x, noise, s.seed, part) if s.simulate else x
        y = operator(y) if isinstance(operator, Mask) else y  # whatever stands in the hidden part
        seeds = paired_off(range(s.seed + part.start * s.draws, s.seed + part.stop * s.draws), s.draws)
        how: dict[str, Any] = {"method": s.method, "draws": s.draws, "steps": s.steps, "progress": work.inner}
        there = y.to(work.prior.device)
        measured = there if operator is None else damage.measurement(there, operator, noise)
        result: Any = work.add(
            work.prior.restore(measured, seeds=seeds, **how, **inputs.part_of(cond, part, len(work.given)))
        )
        z, draws = result.x.cpu(), result.draws.cpu()
        spread = [(2 * draws.std(1)).clamp(max=1)] if s.draws > 1 else []  # white is a spread of 1/2
        if not work.rows:
            work.picture("sheet", sheet([v[:16] for v in (y, z, *spread, *([x] if s.simulate else []))]))
        plain = y if operator is None else damage.baseline(operator, y, noise) if s.simulate else z
        for i, k in enumerate(part):
            row = {"file": work.given.names[k], "restored": work.keep(k, z[i])}
            if s.draws > 1:
                if window is None:
                    work.picture(f"{work.names[k]}-std", picture(spread[0][i]))
                else:
                    work.keep(k, draws[i].std(0), "-std", exact=True)
                for d in range(s.draws):
                    work.keep(k, draws[i, d], f"-draw-{d}")
            for of, v in (("", z), ("baseline_", plain)) if s.simulate else ():
                a, b = v[i : i + 1], x[i : i + 1]
                row |= {f"{of}psnr": psnr(a, b, data_range=1).item()}
                row |= {f"{of}ssim": ssim(a, b, data_range=1, window=window).item()}
            work.rows.append(row)
        work.save(settings, unfinished=work.given.names)
    mean = {k: sum(r[k] for r in work.rows) / len(work.rows) for k in work.rows[0] if k.endswith(("psnr", "ssim"))}
    if s.simulate:
        kind = (
            "as damaged"
            if operator is None
            else "linear, pixel by pixel"
            if operator.linear
            else "inverted as if clean"
        )
        names = {"": "restored", "baseline_": f"baseline: {kind}"}
        work.screen.table([{"": n, "PSNR dB": mean[f"{k}psnr"], "SSIM": mean[f"{k}ssim"]} for k, n in names.items()])
    rows = "measured, restored" + ", spread" * (s.draws > 1) + ", truth" * s.simulate
    work.screen.say(f"{len(work.rows)} restored: {work.out} (sheet.png: {rows})")
    return work.finish(settings, mean=mean, tile=tile)
