"""What the commands on pictures have in common: read, go through in batches, write, and say what was done."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from oneprior.cli import inputs
from oneprior.cli.screen import Screen
from oneprior.cli.settings import OnPictures, Writing
from oneprior.codecs import Standardise, Text
from oneprior.data import Scan
from oneprior.data.clips import animation, frames_of
from oneprior.data.folder import _pixels
from oneprior.results import Result, grid, picture, png, window_of
from oneprior.storage import identity
from oneprior.token_prior import TokenPrior
from oneprior.training.files import atomic_folder, write_bytes, write_json


class Work:
    """A command at work: its prior, the pictures given, rows of the result; for those that write, `out` and `names`."""

    def __init__(self, s: OnPictures) -> None:
        self.s, self.screen, self.rows = s, Screen(s.json), []
        self.nfe, self.seconds, self.inner = 0, 0.0, False
        self.done: set[int] = set()  # pictures that the same call finished before it was interrupted
        self.prior = inputs.open_prior(s.prior, s.device)
        self.weights = identity(s.prior)
        self.out: Path | None = None

    def read(self, command: str, exact: tuple[int, ...] | None = None, settings: dict[str, Any] | None = None) -> None:
        """settings: of a command that saves as it goes, and goes on where the same call was interrupted."""
        s, self.command = self.s, command
        self.given = inputs.read(
            self.prior, s.files, self.screen, split=s.split, most=s.n, skip_bad=s.skip_bad, exact=exact
        )
        if isinstance(s, Writing) and (window := window_of(self.prior.codec)) is not None:
            unit: Any = self.prior.codec
            self.given = replace(self.given, window=window)
            self.prior.codec = Standardise(0.5, 1 / 6, unit.unit)  # of values that run from 0 to 1 in the window
        files = self.given.files or [None] * len(self.given)
        paths = [n if f is None else str(f[0].path) for n, f in zip(self.given.names, files, strict=True)]
        known = list(dict.fromkeys(paths))
        self.names = [dict(zip(known, stems(known), strict=True))[p] for p in paths]
        self._held: dict[Path, dict[int, Tensor]] = {}
        if isinstance(s, Writing):
            said = None if settings is None else self._said(settings)
            self.out = fresh(s.out, command, lambda out: unfinished(out, said, self.given.names) is not None)
            left = None if s.force else unfinished(self.out, said, self.given.names)
            if left is None:
                free(list(dict.fromkeys(self.target(k) for k in range(len(self.names)))), s.force)
            else:
                self._take_up(left)

    def _take_up(self, record: dict[str, Any]) -> None:
        """Keep the rows of pictures whose result is there, and not older than what it was made of."""
        self.nfe, self.seconds, place = record["nfe"], record["seconds"], {n: k for k, n in enumerate(self.given.names)}
        for row in record["pictures"]:
            made, of = Path(row["restored"]), Path(row["file"])
            if made.exists() and not (of.is_file() and of.stat().st_mtime > made.stat().st_mtime):
                self.done.add(place[row["file"]])
                self.rows.append(row)
        self.screen.note(
            f"{self.out}: {len(self.done)} of {len(self.names)} are there from a call that was interrupted"
        )

    def each(self, what: str, size: int | None = None, inner: bool = False) -> Iterator[tuple[range, Tensor]]:
        """Batches of what is to be done: indices and pictures. inner: of a single batch, leave progress to the verb,
        which is asked for it by `self.inner`."""
        size, every = size or self.s.batch, list[range]()
        for k in (k for k in range(len(self.names)) if k not in self.done):
            if every and every[-1].stop == k and len(every[-1]) < size:
                every[-1] = range(every[-1].start, k + 1)
            else:
                every.append(range(k, k + 1))
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

    def target(self, k: int, what: str = "") -> Path:
        """Where the result of picture k goes: to a file of the kind it came in."""
        assert self.out is not None
        file = self.given.files[k] if self.given.files else None
        return self.out / f"{self.names[k]}{what}{'.png' if file is None else file[0].suffix}"

    def keep(self, k: int, x: Tensor, what: str = "", exact: bool = False) -> str:
        """Write x (C, H, W), the result of picture k, into a file like its own; that of a slice once its scan is whole.
        Returns the path. exact: as of `Scan.encode`."""
        file, path = self.given.files[k] if self.given.files else None, self.target(k, what)
        if file is None:
            return str(write_picture(path, picture(x)))
        stored, part = file
        held = self._held.setdefault(path, {})
        held[part] = x
        if len(held) == stored.count:
            low, high = self.given.window or (0.0, 1.0)
            every = torch.stack([held[i] for i in range(stored.count)]).double().numpy()
            values = (high - low) * every + (0.0 if exact else low)  # a spread has no origin
            if isinstance(stored, Scan) and stored.files:
                with atomic_folder(path) as aside:
                    for file, data in stored.encode(values[:, 0], aside, exact):
                        file.write_bytes(data)
            else:
                for file, data in stored.encode(values[:, 0] if isinstance(stored, Scan) else values, path, exact):
                    write_bytes(file, data)
            del self._held[path]
        return str(path)

    def _said(self, settings: dict[str, Any]) -> dict[str, Any]:
        return {"prior": self.s.prior, "weights": self.weights, **settings, "seed": self.s.seed}

    def save(self, settings: dict[str, Any], **more: Any) -> dict[str, Any]:
        """Write result.json as things stand. more: with unfinished=NAMES, of all pictures, the same call goes on."""
        order = {n: k for k, n in enumerate(self.given.names)}
        rows = sorted(self.rows, key=lambda row: order.get(row.get("file"), 0))
        record = {"settings": self._said(settings), "pictures": rows, **more}
        record |= {"nfe": self.nfe, "seconds": round(self.seconds, 3), "peak_memory": peak_memory()}
        if self.out is not None:
            write_json(self.out / "result.json", record)
        return record

    def finish(self, settings: dict[str, Any], **more: Any) -> int:
        record = self.save(settings, **more) | ({} if self.out is None else {"out": str(self.out)})
        self.screen.result({"command": self.command, **record})
        return 0


def recorded(path: Path) -> dict[str, Any]:
    """A record of ours; {} where there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def unfinished(out: Path, settings: dict[str, Any] | None, names: Sequence[str]) -> dict[str, Any] | None:
    """The record that an interrupted call with these settings, on pictures of these names, left in a folder."""
    record = recorded(out / "result.json")
    same = record.get("settings") == json.loads(json.dumps(settings)) and record.get("unfinished") == list(names)
    return record if record and same else None


def peak_memory() -> int | None:
    """The most bytes that this process held so far; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def fresh(out: Path | None, kind: str, mine: Callable[[Path], bool] = lambda _: False) -> Path:
    """The folder to write to: as given, or the first of runs/KIND, runs/KIND-2, ... that is not there, or is `mine`."""
    if out is not None:
        if out.is_file():
            raise NotADirectoryError(f"--out {out} is a file; a folder was expected")
        return out
    names = (Path("runs") / (kind if i == 1 else f"{kind}-{i}") for i in range(1, 10**6))
    return next(p for p in names if not p.exists() or mine(p))


def free(paths: Sequence[Path], force: bool) -> None:
    """Refuse to write over files."""
    if not force and (there := [p for p in paths if p.exists()]):
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise FileExistsError(f"{there[0]}{more} would be written over: give another --out, or --force")


def stems(names: Sequence[str]) -> list[str]:
    """File names without folder and ending; where two agree, with their number."""
    plain = [p.name if (p := Path(n)).is_dir() else Path(n.removesuffix(".gz")).stem for n in names]
    return [s if plain.count(s) == 1 else f"{s}-{i:04d}" for i, s in enumerate(plain)]


def write_picture(path: Path, image: Image.Image) -> Path:
    write_bytes(path, png(image))
    return path


def kind(prior: Any) -> str | None:
    """What a sample is written as: .txt, .png, .gif, or one array for all."""
    if isinstance(prior, TokenPrior):
        return ".txt" if isinstance(prior.codec, Text) else ".png"
    return {3: ".png", 4: ".gif"}.get(len(prior.shape)) if not getattr(prior.codec, "unit", "") else None


def write(path: Path, one: Any) -> None:
    """A text, a picture or a clip to a file."""
    if isinstance(one, Image.Image):
        write_picture(path, one)
    else:
        write_bytes(path, one.encode() if isinstance(one, str) else animation(one, path.suffix))


def read_picture(path: Path) -> Tensor:
    """A PNG of ours as (C, H, W) in [0, 1]."""
    with Image.open(path) as image:
        a = torch.from_numpy(np.array(image, dtype=np.float32)) / 255
    return a[None] if a.ndim == 2 else a.movedim(2, 0)


def read_clip(path: Path, shape: Sequence[int]) -> Tensor:
    """A clip from a GIF, a video file or a folder of pictures, (n, C, H, W) in [0, 1], of the shape (C, H, W) wanted.

    Raises ValueError for one that cannot be read.
    """
    if not path.exists():
        raise FileNotFoundError(f"no clip {path}")
    try:
        frames = [_pixels(f, shape[0], (shape[1], shape[2])) for f in frames_of(path)]
    except ImportError:
        raise
    except Exception as e:  # each decoder raises its own
        raise ValueError(f"{path} cannot be read as a clip: {e}") from e
    if not frames:
        raise ValueError(f"{path} holds no frame that can be read")
    return torch.from_numpy(np.stack(frames))


def sheet(rows: Sequence[Tensor]) -> Image.Image:
    """Rows of pictures under one another, column i about picture i; each (N, C, h, w), brought to one size."""
    channels, height, width = (max(r.shape[i] for r in rows) for i in (-3, -2, -1))
    full = [torch.nn.functional.interpolate(r.float().cpu(), size=(height, width), mode="nearest") for r in rows]
    full = [r.expand(-1, channels, -1, -1) for r in full]
    return grid(torch.cat(full), len(rows[0]))
