"""Where points of the first picture are in each of the others, by features of the prior's network: points, and a
picture with a line for each one that leads back.

oneprior match emoji32 cat.png other-cat.png
oneprior match emoji32 cat.png others/ --point 12,8 --point 20,8 --t 0.2
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tyro.conf import UseAppendAction

from oneprior.cli.settings import OnPictures, Writing


@dataclass(frozen=True, kw_only=True)
class MatchSettings(Writing, OnPictures):
    point: UseAppendAction[tuple[str, ...]] = ()
    """X,Y in pixels of the first picture, as the prior sees it; without any, 8 x 8 of them"""
    t: float = 0.1
    """noise at which features are taken, between 0 and 1"""
    layer: UseAppendAction[tuple[str, ...]] = ()
    """layers of the network (default: all levels of its decoder)"""
    noises: int = 4
    """noises to average over"""


SETTINGS = MatchSettings


def run(s: MatchSettings, command: list[str]) -> int:
    import torch

    from oneprior.cli.work import Work

    if not 0 < s.t < 1 or s.noises < 1:
        raise ValueError(f"--t {s.t:g} --noises {s.noises}: a time between 0 and 1 and at least one were expected")
    try:
        points = torch.tensor([[float(v) for v in p.split(",")] for p in s.point]).reshape(-1, 2) if s.point else None
    except (ValueError, RuntimeError):
        raise ValueError(f"--point {' '.join(s.point)}: X,Y was expected, such as --point 12,8") from None
    work = Work(s)
    work.read("match")
    if len(work.given) < 2:
        raise ValueError("one picture alone: give a second one, or more, to look for its points in")
    first = work.given.x([0])
    for part, x in work.each("matching"):
        rest = [k for k in part if k]
        x = x[[k - part.start for k in rest]]
        if not rest:
            continue
        a = first.expand(len(x), -1, -1, -1)
        out: Any = work.add(work.prior.match(a, x, points, t=s.t, layers=s.layer, noises=s.noises, seed=s.seed))
        for i, (k, image) in enumerate(zip(rest, out.pil(), strict=True)):
            row = {"file": work.given.names[k], "picture": work.picture(work.names[k], image)}
            row |= {"lead back": float(out.mutual[i].double().mean()), "score": float(out.score[i].mean())}
            work.rows.append(row | {"points": out.points[i].tolist(), "found": out.x[i].tolist()})
    work.screen.table([{k: v for k, v in row.items() if k not in ("points", "found")} for row in work.rows])
    work.screen.say(f"{len(work.rows)} matched with {work.given.names[0]}: {work.out}")
    return work.finish({"t": s.t, "layers": list(s.layer), "noises": s.noises})
