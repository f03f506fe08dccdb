"""Make clips from one picture to the next of those given, by a prior of clips.

oneprior interpolate runs/clips first.png last.png --frames 16
"""

from __future__ import annotations

from itertools import pairwise

from oneprior.cli import clips

SETTINGS = clips.ClipSettings


def run(s: clips.ClipSettings, command: list[str]) -> int:
    prior, how = clips.opened(s)
    names, x = clips.pictures(s, prior)
    if len(x) < 2:
        raise ValueError(f"{len(x)} picture was given: two or more were expected, each the end of a clip")
    made = [
        prior.interpolate(a[None], b[None], s.frames, seeds=[s.seed + i], **how) for i, (a, b) in enumerate(pairwise(x))
    ]
    return clips.write(s, "interpolate", names[:-1], made)
