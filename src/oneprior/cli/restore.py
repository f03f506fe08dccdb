"""Undo a measurement: draws of the picture given what was seen of it, their mean, and where they disagree.

oneprior restore digits damaged.png --mask mask.png --noise 12/255 --draws 8
oneprior restore digits digits --n 16 --operator mask:half --noise 0.05 --simulate

Operators: mask:random,SHARE  mask:half,SIDE  mask:box,H,W  pool:R  blur:STD  blur:box,W  blur:motion,LENGTH
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tyro.conf import Positional, UseAppendAction

from oneprior.cli.options import Common


@dataclass(frozen=True)
class RestoreSettings(Common):
    prior: Positional[str]
    """a prior's folder, a run's folder, or the name of a shipped one"""
    files: Positional[tuple[str, ...]] = ()
    """damaged pictures or folders of them; with --simulate whole ones, or a data set"""
    mask: Path | None = None
    """a picture: white is seen, black is hidden"""
    operator: str | None = None
    """what was done to the pictures, such as mask:random,0.5 or pool:2 (all in the text above)"""
    noise: str = "0"
    """standard deviation of the noise, where white is 1: 0.05, or 12/255"""
    method: str = "auto"
    """auto, mmps or red_diff"""
    draws: int = 4
    """draws a picture; their mean is the answer, their spread says how sure it is"""
    steps: int = 20
    """steps of the sampler"""
    simulate: bool = False
    """damage the pictures first, and compare the result with them"""
    label: str | None = None
    """class, where it is known"""
    cond: UseAppendAction[tuple[str, ...]] = ()
    """NAME=VALUE of any condition"""
    n: int | None = None
    """at most this many pictures"""
    split: str = "all"
    """of a data set: train, test or all"""
    seed: int = 0
    """of the draws and of the simulated damage"""
    out: Path | None = None
    """folder to write to (default: runs/restore, or the next free name)"""
    force: bool = field(default=False, kw_only=True)
    """write over what is there"""
    skip_bad: bool = field(default=False, kw_only=True)
    """leave out pictures that cannot be read"""
    batch: int = 32
    """pictures at a time"""
    device: str = "auto"
    """auto, cpu, cuda, mps ..."""


SETTINGS = RestoreSettings


def noise_of(text: str) -> float:
    """A standard deviation: "0.05" or "12/255".

    Raises:
        ValueError: for anything else, with 12/255 suggested for 12.
    """
    top, slash, bottom = text.partition("/")
    try:
        value = float(top) / (float(bottom) if slash else 1.0)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"--noise {text}: a number such as 0.05 or 12/255 was expected") from None
    if not 0 <= value <= 1:
        raise ValueError(
            f"--noise {text}: pictures are in [0, 1], and so is noise; of levels 0..255 it is --noise {top}/255"
        )
    return value


def run(s: RestoreSettings, command: list[str]) -> int:
    import torch

    from oneprior.cli import inputs
    from oneprior.cli.screen import Screen
    from oneprior.metrics import psnr
    from oneprior.noise import normal
    from oneprior.operators import Mask, Measurement
    from oneprior.training.files import write_json

    screen, noise = Screen(s.json), noise_of(s.noise)
    if s.draws < 1:
        raise ValueError(f"--draws {s.draws}: at least one was expected")
    prior = inputs.open_prior(s.prior, s.device)
    if len(prior.shape) != 3:
        raise ValueError(f"pictures are restored; the samples of this prior have shape {prior.shape}")
    operator = operator_of(s.operator, s.mask, prior.shape, s.seed)
    exact = None if s.simulate else tuple(operator(torch.zeros(1, *prior.shape)).shape[1:])
    given = inputs.read(prior, s.files, screen, split=s.split, most=s.n, skip_bad=s.skip_bad, exact=exact)
    out, names = inputs.fresh(s.out, "restore"), inputs.stems(given.names)
    inputs.free([out / f"{n}.png" for n in names], s.force)
    cond = inputs.conditions(prior, s.label, s.cond, range(len(given)))
    rows: list[dict[str, Any]] = []
    sheets: list[list[torch.Tensor]] = []
    nfe, seconds = 0, 0.0
    with screen.steps(given.parts(s.batch), "restoring", len) as each:
        for part in each:
            x = given.x(part)
            y = x
            if s.simulate:
                y = operator(x)
                n = torch.from_numpy(normal(s.seed, "measurement", list(part), tuple(y.shape[1:]))).to(y)
                y = y + noise * (operator(n) if isinstance(operator, Mask) else n)
            elif isinstance(operator, Mask):
                y = operator(y)  # whatever stands in the hidden part
            measured = Measurement(y.to(prior.device), operator, noise)
            seeds = range(s.seed + part.start * s.draws, s.seed + part.stop * s.draws)
            result = prior.restore(
                measured, method=s.method, draws=s.draws, steps=s.steps, seeds=seeds, **inputs.part(cond, part)
            )
            z, plain = result.x.cpu(), baseline(operator, y, noise)
            nfe, seconds = nfe + result.nfe, seconds + result.seconds
            out.mkdir(parents=True, exist_ok=True)
            for i, name in enumerate(names[part.start : part.stop]):
                _write(out, name, z[i], result.draws[:, i].cpu() if s.draws > 1 and result.draws is not None else None)
                row: dict[str, Any] = {"file": given.names[part[i]], "restored": str(out / f"{name}.png")}
                if s.simulate:
                    pair = [psnr(v[i : i + 1], x[i : i + 1], data_range=1).item() for v in (z, plain)]
                    like = [_ssim(v[i : i + 1], x[i : i + 1]) for v in (z, plain)]
                    row |= {"psnr": pair[0], "ssim": like[0], "baseline_psnr": pair[1], "baseline_ssim": like[1]}
                rows.append(row)
            spread = [] if result.std is None else [(2 * result.std.cpu()).clamp(max=1)]
            if sum(len(sh[0]) for sh in sheets) < 32:
                sheets.append([y, z, *spread, *([x] if s.simulate else [])])
    columns = [torch.cat([sh[i] for sh in sheets])[:16] for i in range(len(sheets[0]))]
    inputs.write_picture(out / "sheet.png", inputs.sheet(columns))
    settings = {"prior": s.prior, "operator": s.operator or f"mask {s.mask}", "noise": noise, "method": s.method}
    settings |= {"draws": s.draws, "steps": s.steps, "seed": s.seed, "simulate": s.simulate, "label": s.label}
    record = {"settings": settings, "pictures": rows, "nfe": nfe, "seconds": round(seconds, 3)}
    if s.simulate:
        keys = ("psnr", "ssim", "baseline_psnr", "baseline_ssim")
        mean = {k: sum(r[k] for r in rows) / len(rows) for k in keys}
        record["mean"] = mean
        screen.table([{"": "restored", "PSNR dB": mean["psnr"], "SSIM": mean["ssim"]},
                      {"": "baseline: best linear guess, pixel by pixel", "PSNR dB": mean["baseline_psnr"],
                       "SSIM": mean["baseline_ssim"]}])  # fmt: skip
    write_json(out / "result.json", record)
    screen.say(f"{len(rows)} restored: {out} (sheet.png: measured, restored, spread{', truth' if s.simulate else ''})")
    screen.result({"command": "restore", "out": str(out), **record})
    return 0


def operator_of(spec: str | None, mask: Path | None, shape: tuple[int, ...], seed: int = 0) -> Any:
    """The operator that a flag names.

    Raises:
        ValueError: for none or two of them, and for a name or a number that is not known.
    """
    from oneprior.operators import Blur, Mask, Pool

    if (spec is None) == (mask is None):
        raise ValueError("say what was done to the pictures: one of --mask FILE and --operator NAME")
    if mask is not None:
        return _mask(mask, shape)
    kind, _, rest = str(spec).partition(":")
    words = [w.strip() for w in rest.split(",") if w.strip()]
    name = words[0] if words and not _is_number(words[0]) else ""
    try:
        v = [float(w) for w in words[bool(name) :]] if (kind, name) != ("mask", "half") else []
        match kind, name, len(v):
            case "mask", "random", 0 | 1:
                return Mask.random(shape, v[0] if v else 0.5, seed)
            case "mask", "half", 0:
                return Mask.half(shape, words[1] if len(words) > 1 else "bottom")
            case "mask", "box", 2:
                return Mask.box(shape, (int(v[0]), int(v[1])))
            case "pool", "", 1 if v[0] >= 1:
                return Pool(int(v[0]))
            case "blur", "", 1 if v[0] > 0:
                return Blur.gaussian(v[0])
            case "blur", "box" | "motion", 1 if v[0] >= 1:
                return Blur.box(int(v[0])) if name == "box" else Blur.motion(int(v[0]))
    except ValueError as e:
        raise ValueError(f"--operator {spec}: {e}") from None
    known = "mask:random,0.5  mask:half,bottom  mask:box,4,4  pool:2  blur:1.0  blur:box,3  blur:motion,5"
    raise ValueError(f"--operator {spec} is not known; such as these are: {known}")


def _is_number(word: str) -> bool:
    return word.replace(".", "", 1).removeprefix("-").isdecimal()


def _mask(path: Path, shape: tuple[int, ...]) -> Any:
    import numpy as np
    import torch
    from PIL import Image, UnidentifiedImageError

    from oneprior.operators import Mask

    try:
        with Image.open(path) as image:
            seen = torch.from_numpy(np.asarray(image.convert("L")) >= 128)
    except (UnidentifiedImageError, OSError) as e:
        raise ValueError(f"--mask {path} cannot be read as a picture ({e})") from e
    if tuple(seen.shape) != shape[1:]:
        raise ValueError(
            f"--mask {path} is {seen.shape[0]} x {seen.shape[1]}; pictures here are {shape[1]} x {shape[2]}"
        )
    return Mask(seen[None, None])


def baseline(operator: Any, y: Any, noise: float) -> Any:
    """The best linear guess that knows no structure: pixels independent, of mean 1/2 of what was seen and spread 0.3."""
    import torch

    seen = operator(torch.ones(operator.domain(tuple(y.shape))))
    middle = (y.sum() / seen.sum().clamp(min=1e-6)).clamp(0, 1)
    z = middle * torch.ones(operator.domain(tuple(y.shape)))
    return operator.prox(z, y, 0.09 / max(noise, 1e-3) ** 2).clamp(0, 1)


def _ssim(a: Any, b: Any) -> float:
    from oneprior.metrics import ssim

    window = min(11, *a.shape[-2:])
    return ssim(a, b, data_range=1, window=window - 1 + window % 2).item()


def _write(out: Path, name: str, mean: Any, draws: Any) -> None:
    from oneprior.cli.inputs import write_picture
    from oneprior.results import picture

    write_picture(out / f"{name}.png", picture(mean))
    if draws is not None:
        write_picture(out / f"{name}-std.png", picture((draws.std(0) * 2).clamp(max=1)))  # white: a spread of 1/2
        for k, draw in enumerate(draws):
            write_picture(out / f"{name}-draw-{k}.png", picture(draw))
