"""Clips from files: a folder of clips, each a GIF, a video file (with the extra `video`) or a folder of its pictures.

A clip is cut into windows of `frames` frames, one behind the other; what is left at its end is passed over, or with
`pack` shares a row of `frames` frames with others of its kind, with shorter clips and with pictures beside them.
Pictures are taken as `folder` says. With `rate`, frames a second, those nearest to k / rate are taken; without it all
files must have one rate, or motion would mean different things.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from oneprior.data.folder import SUFFIXES, UnreadableImages, _open, _pixels, _visible
from oneprior.data.source import Batch, DataFacts, Over, Source, checked, held_out, split_of
from oneprior.nets.rows import rows_of, segments_of

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

ANIMATED, VIDEO = frozenset({".gif"}), frozenset({".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v"})


def frames_of(path: Path) -> Iterator[Image]:
    """The pictures of a clip, in order. Raises what decoders raise, and ImportError without the extra `video`."""
    if path.is_dir():
        yield from (_open(p) for p in _visible(path) if p.suffix.lower() in SUFFIXES)
    elif path.suffix.lower() in SUFFIXES - ANIMATED:
        yield _open(path)
    elif path.suffix.lower() in ANIMATED:
        from PIL import Image, ImageSequence

        with Image.open(path) as file:
            yield from (f.convert("RGB") for f in ImageSequence.Iterator(file))
    else:
        with _video(path) as file:
            yield from (f.to_image() for f in file.decode(video=0))


def rate_of(path: Path) -> float | None:
    """Frames a second, None where the files do not say."""
    if path.is_dir() or path.suffix.lower() in SUFFIXES - ANIMATED:
        return None
    if path.suffix.lower() in ANIMATED:
        from PIL import Image, ImageSequence

        with Image.open(path) as file:
            times = [f.info.get("duration", 0) for f in ImageSequence.Iterator(file)]
        return 1000 * len(times) / sum(times) if sum(times) else None
    with _video(path) as file:
        rate = file.streams.video[0].average_rate
        return None if rate is None else float(rate)


def _video(path: Path) -> Any:
    try:
        import av
    except ImportError as error:
        raise ImportError(f"{path.name} is read by PyAV: pip install 'oneprior[video]', or give GIFs") from error
    return av.open(str(path))


Part = tuple[Path, tuple[int, ...]]  # a clip, and which of its frames


@dataclass(frozen=True, eq=False)
class ClipFolder:
    """Rows of frames, each a window of a clip or, packed, several; read from their files at every batch; built by
    `clip_folder`."""

    facts: DataFacts
    rows: tuple[tuple[Part, ...], ...]
    labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Sequence[int]) -> Batch:
        """See `Source.batch`."""
        import torch

        index = checked(indices, len(self), self.facts.name)
        _, channels, height, width = self.facts.shape
        x = np.empty((len(index), *self.facts.shape), dtype=np.float32)
        for at, i in enumerate(index):
            first = 0
            for path, wanted in self.rows[i]:
                for k, image in enumerate(frames_of(path)):
                    for place in (j for j, w in enumerate(wanted) if w == k):
                        x[at, first + place] = _pixels(image, channels, (height, width))
                    if k == max(wanted):
                        break
                first += len(wanted)
        out = {"x": torch.from_numpy(x)}
        return out if self.labels is None else out | {"label": torch.from_numpy(self.labels[index])}


@dataclass(frozen=True, eq=False)
class Rows(Over):
    """A source of rows of several parts, whose batches say as "segments" (B, F) which frames belong together."""

    segments: np.ndarray

    def batch(self, indices: Sequence[int]) -> Batch:
        """See `Source.batch`; and "segments", int64 (B, F)."""
        import torch

        own = self.segments[checked(indices, len(self), self.facts.name)]
        return {**self.source.batch(indices), "segments": torch.from_numpy(own)}


def clips_in(root: Path) -> list[Path]:
    """The clips below a folder: files, and folders that hold several pictures and nothing deeper."""
    found = []
    for path in _visible(root):
        if path.is_dir():
            inside = clips_in(path)
            pictures = [p for p in _visible(path) if p.suffix.lower() in SUFFIXES - ANIMATED]
            found += inside or ([path] if len(pictures) > 1 else [])
        elif path.suffix.lower() in ANIMATED | VIDEO:
            found.append(path)
    return found


def clip_folder(
    path: str | Path,
    frames: int,
    *,
    split: str = "all",
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    rate: float | None = None,
    skip_bad: bool = False,
    pack: bool = False,
) -> Source:
    """A source over a folder of clips; the policy is at the head of this module. Clips in two subfolders or more are of
    the classes these are named for. Every file is decoded once here.

    pack: a source of `Rows`, in which pictures that lie in the folder itself take part; nothing is made of classes.

    Raises:
        FileNotFoundError: no such folder, or no clip in it.
        UnreadableImages: clips that cannot be read, or are shorter than a window, named and counted.
        ValueError: clips of several rates without `rate`, of several sizes without `size`, a bad setting.
    """
    root = Path(path)
    if frames < 1 or (rate is not None and not rate > 0):
        raise ValueError(f"frames = {frames}, rate = {rate}: one frame or more and a rate above 0 were expected")
    clips = clips_in(root) if root.is_dir() else []
    if pack and root.is_dir():
        clips += [p for p in _visible(root) if p.is_file() and p.suffix.lower() in SUFFIXES - ANIMATED]
    if not clips:
        known = ", ".join(sorted(ANIMATED | VIDEO))
        raise FileNotFoundError(f"no clips in {root}: one of {known} files, or of folders of pictures was expected")
    looks = [_look(clip) for clip in clips]
    good = [look for look in looks if isinstance(look, _Clip)]
    bad = {clip: look for clip, look in zip(clips, looks, strict=True) if isinstance(look, str)}
    rates = Counter(None if c.rate is None else round(c.rate, 2) for c in good if c.count > 1)
    if rate is None and len(rates) > 1:
        said = ", ".join(f"{n} of {r or 'unknown'}" for r, n in rates.most_common(4))
        raise ValueError(f"clips of several frame rates in {root} ({said}); pass rate= to bring them to one")
    sizes = Counter(c.size for c in good)
    if size is None and len(sizes) > 1:
        raise ValueError(f"clips of {len(sizes)} sizes in {root}, {sorted(sizes)[:3]}; pass size= to bring them to one")
    windows: list[Part] = []
    names = []
    for clip in good:
        step = 1.0 if rate is None or clip.rate is None else clip.rate / rate
        every = [i for k in range(int(clip.count / step) + 1) if (i := int(k * step + 0.5)) < clip.count]
        if len(every) < frames and not pack:
            bad[clip.path] = f"{len(every)} frames, shorter than the window of {frames}"
        for first in range(0, len(every) if pack else len(every) - frames + 1, frames):
            windows.append((clip.path, tuple(every[first : first + frames])))
            names.append(clip.path.relative_to(root).parts[0] if clip.path.parent != root else "")
    if bad and (not skip_bad or not windows):
        raise UnreadableImages(root, bad, len(clips), "clips")
    classes = tuple(sorted(set(names))) if len(set(names)) > 1 and "" not in names and not pack else None
    height, width = next(iter(sizes)) if size is None else (size, size) if isinstance(size, int) else size
    channels = channels or (3 if any(c.colour for c in good) else 1)
    shape, title = (frames, channels, height, width), root.resolve().name
    if pack:  # whole parts are held out
        kept = [windows[i] for i in _part(len(windows), split)]
        rows = rows_of([len(wanted) for _, wanted in kept], frames)
        made = tuple(tuple((kept[p][0], kept[p][1][f : f + n]) for p, f, n in row) for row in rows)
        source = ClipFolder(DataFacts(shape, None, 256, title, "unknown", len(rows)), made)
        return Rows(source, np.array([segments_of(row) for row in rows], dtype=np.int64))
    labels = None if classes is None else np.array([classes.index(n) for n in names], dtype=np.int64)
    facts = DataFacts(shape, classes, 256, title, "unknown", len(windows))
    return split_of(ClipFolder(facts, tuple((w,) for w in windows), labels), split)


def _part(count: int, split: str) -> Sequence[int]:
    if split not in ("all", "train", "test"):
        raise ValueError(f"split is {split!r}; expected 'train', 'test' or 'all'")
    return range(count) if split == "all" else held_out(count)[split == "test"].tolist()


@dataclass(frozen=True)
class _Clip:
    """What one pass over a clip tells."""

    path: Path
    count: int
    size: tuple[int, int]
    colour: bool
    rate: float | None


def _look(path: Path) -> _Clip | str:
    try:
        rate, count, size, colour = rate_of(path), 0, (0, 0), False
        for image in frames_of(path):
            if count and size != (image.height, image.width):
                return f"frames of {size} and of {(image.height, image.width)} pixels"
            count, size = count + 1, (image.height, image.width)
            colour = colour or (image.mode in ("RGB", "RGBA") and _coloured(image))
    except ImportError:
        raise
    except Exception as error:  # each decoder raises its own
        return str(error) or type(error).__name__
    return _Clip(path, count, size, colour, rate) if count else "no frame can be read"


def _coloured(image: Image) -> bool:
    a = np.asarray(image.convert("RGB"), dtype=np.int16)  # video is stored in colour, also where it has none
    return bool((a.max(-1) - a.min(-1)).max() > 16)


def animation(x: Tensor, suffix: str = ".gif", rate: float = 8.0) -> bytes:
    """A clip (F, C, H, W) in [0, 1], C = 1 or 3, as the bytes of a .gif file, or .mp4 with the extra `video`.

    Raises:
        ValueError: for another suffix, or what is no clip.
    """
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ValueError(f"a clip has shape (F, 1 or 3, H, W); got {tuple(x.shape)}")
    a = (x.detach().float().cpu().clamp(0, 1) * 255).round().byte().movedim(1, -1).numpy()
    a = np.repeat(a, 3, -1) if a.shape[-1] == 1 and suffix == ".mp4" else a[..., 0] if a.shape[-1] == 1 else a
    buffer = io.BytesIO()
    if suffix == ".gif":
        from PIL import Image

        first, *rest = (Image.fromarray(frame) for frame in a)
        first.save(buffer, "GIF", save_all=True, append_images=rest, duration=round(1000 / rate), loop=0)
    elif suffix == ".mp4":
        import av

        with av.open(buffer, "w", format="mp4") as file:
            stream: Any = file.add_stream("libx264", rate=round(rate), options={"crf": "12"})
            stream.height, stream.width, stream.pix_fmt = a.shape[1] // 2 * 2, a.shape[2] // 2 * 2, "yuv420p"
            for frame in a:
                even = np.ascontiguousarray(frame[: stream.height, : stream.width])
                file.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
            file.mux(stream.encode())
    else:
        raise ValueError(f"clips are written as .gif or .mp4; got '{suffix}'")
    return buffer.getvalue()
