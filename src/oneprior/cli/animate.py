"""Make clips that begin with pictures, by a prior of clips.

oneprior animate runs/clips photo.png --frames 16 --out moving
oneprior animate runs/clips photos/ --suffix .mp4
"""

from __future__ import annotations

from oneprior.cli import clips

SETTINGS = clips.ClipSettings


def run(s: clips.ClipSettings, command: list[str]) -> int:
    prior, how = clips.opened(s)
    names, x = clips.pictures(s, prior)
    made = [prior.animate(p[None], s.frames, seeds=[s.seed + i], **how) for i, p in enumerate(x)]
    return clips.write(s, "animate", names, made)
