"""What the commands on pictures have in common: read, go through in batches, write, and say what was done."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from oneprior.cli import inputs
from oneprior.cli.screen import Screen
from oneprior.cli.settings import OnPictures, Writing
from oneprior.results import Result, grid, png
from oneprior.training.files import explained, write_bytes, write_json


class Work:
    """A command at work: its prior, the pictures given, rows of the result; for those that write, `out` and `names`."""

    def __init__(self, s: OnPictures) -> None:
        self.s, self.screen, self.rows = s, Screen(s.json), []
        self.nfe, self.seconds, self.inner = 0, 0.0, False
        self.prior = inputs.open_prior(s.prior, s.device)
        self.out: Path | None = None

    def read(self, command: str, exact: tuple[int, ...] | None = None) -> None:
        s, self.command = self.s, command
        self.given = inputs.read(
            self.prior, s.files, self.screen, split=s.split, most=s.n, skip_bad=s.skip_bad, exact=exact
        )
        self.names = stems(self.given.names)
        if isinstance(s, Writing):
            self.out = fresh(s.out, command)
            free([self.out / f"{n}.png" for n in self.names], s.force)

    def each(self, what: str, size: int | None = None, inner: bool = False) -> Iterator[tuple[range, Tensor]]:
        """Batches: indices and pictures. inner: of a single batch, leave progress to the verb, which is asked for it by
        `self.inner`."""
        every = self.given.parts(size or self.s.batch)
        self.inner = inner and len(every) == 1 and self.screen.side.is_terminal and not self.screen.quiet
        with nullcontext(iter(every)) if self.inner else self.screen.steps(every, what, len) as parts:
            for part in parts:
                yield part, self.given.x(part)

    def add(self, result: Result) -> Result:
        self.nfe, self.seconds = self.nfe + result.nfe, self.seconds + result.seconds
        return result

    def picture(self, name: str, image: Image.Image) -> str:
        """Write NAME.png; returns its path."""
        assert self.out is not None
        return str(write_picture(self.out / f"{name}.png", image))

    def finish(self, settings: dict[str, Any], **more: Any) -> int:
        record = {"settings": {"prior": self.s.prior, **settings, "seed": self.s.seed}, "pictures": self.rows, **more}
        record |= {"nfe": self.nfe, "seconds": round(self.seconds, 3), "peak_memory": peak_memory()}
        if self.out is not None:
            write_json(self.out / "result.json", record)
            record["out"] = str(self.out)
        self.screen.result({"command": self.command, **record})
        return 0


def peak_memory() -> int | None:
    """The most bytes that this process held so far; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def fresh(out: Path | None, kind: str) -> Path:
    """The folder to write to: as given, or the first of runs/KIND, runs/KIND-2, ... that is not there."""
    if out is not None:
        if out.is_file():
            raise NotADirectoryError(f"--out {out} is a file; a folder was expected")
        return out
    names = (Path("runs") / (kind if i == 1 else f"{kind}-{i}") for i in range(1, 10**6))
    return next(p for p in names if not p.exists())


def free(paths: Sequence[Path], force: bool) -> None:
    """Refuse to write over files."""
    if not force and (there := [p for p in paths if p.exists()]):
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise FileExistsError(f"{there[0]}{more} would be written over: give another --out, or --force")


def stems(names: Sequence[str]) -> list[str]:
    """File names without folder and ending; where two agree, with their number."""
    plain = [Path(n).stem for n in names]
    return [s if plain.count(s) == 1 else f"{s}-{i:04d}" for i, s in enumerate(plain)]


def write_picture(path: Path, image: Image.Image) -> Path:
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, png(image))
    return path


def read_picture(path: Path) -> Tensor:
    """A PNG of ours as (C, H, W) in [0, 1]."""
    with Image.open(path) as image:
        a = torch.from_numpy(np.array(image, dtype=np.float32)) / 255
    return a[None] if a.ndim == 2 else a.movedim(2, 0)


def sheet(rows: Sequence[Tensor]) -> Image.Image:
    """Rows of pictures under one another, column i about picture i; each (N, C, h, w), brought to one size."""
    channels, height, width = (max(r.shape[i] for r in rows) for i in (-3, -2, -1))
    full = [torch.nn.functional.interpolate(r.float().cpu(), size=(height, width), mode="nearest") for r in rows]
    full = [r.expand(-1, channels, -1, -1) for r in full]
    return grid(torch.cat(full), len(rows[0]))
