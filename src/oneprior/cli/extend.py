"""Draw what follows a clip, a window at a time, as long as wanted; memory is that of one window.

oneprior extend runs/clips start.gif --frames 112 --context 4 --time 0.02
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from oneprior.cli import clips


@dataclass(frozen=True, kw_only=True)
class ExtendSettings(clips.ClipSettings):
    context: int | None = None
    """frames of each window that are known (default: half of it)"""
    time: float = 0.0
    """how noisy the network sees these; a small one, such as 0.02, forgives errors of the windows before"""


SETTINGS = ExtendSettings


def run(s: ExtendSettings, command: list[str]) -> int:
    from oneprior.cli.work import read_clip

    prior, how = clips.opened(s)
    if not s.files:
        raise ValueError("which clip? give GIFs, video files or folders of pictures")
    count = prior.shape[0] if s.frames is None else s.frames
    made = [
        prior.extend(
            read_clip(Path(f), prior.shape[1:])[None], count, context=s.context, time=s.time, seeds=[s.seed + i],
            **how,
        )
        for i, f in enumerate(s.files)
    ]  # fmt: skip
    return clips.write(s, "extend", list(s.files), made)
