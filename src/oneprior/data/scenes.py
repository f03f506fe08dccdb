"""Drawn scenes: one to four coloured shapes on a grid of cells, with captions that mean a known, finite set of scenes.

    a red square | a red square and a blue disc | a red square left of a blue disc | three green crosses
`meant(caption)` lists every scene a caption is true of, so p(x | caption) is a finite mixture and a denoiser of it is
exact; `parse` recovers the scene from pixels, so whether a generated picture is right is known, not judged. Captions
that differ in one factor (colour, shape, binding, position, count) ask what a conditional model understands (after
Jeong et al. 2025, "Diffusion Classifiers Understand Compositionality, but Conditions Apply").
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, permutations, product
from typing import NamedTuple

import numpy as np

from oneprior.data.source import ArraySource, Captioned, DataFacts

COLOURS = {"red": (0.9, 0.1, 0.1), "green": (0.1, 0.8, 0.2), "blue": (0.15, 0.25, 0.95), "yellow": (0.95, 0.85, 0.1)}
SHAPES = ("square", "disc", "cross")
RELATIONS = {"left of": (0, -1), "right of": (0, 1), "above": (-1, 0), "below": (1, 0)}  # steps (down, right)
COUNTS = ("a", "two", "three", "four")
FACTORS = ("colour", "shape", "binding", "position", "count")


class Thing(NamedTuple):
    """A shape in a cell."""

    colour: str
    shape: str
    row: int
    column: int


Scene = frozenset[Thing]


@dataclass(frozen=True)
class Style:
    """How scenes are drawn: cells of `cell` pixels, `grid` a side; colours are background + gain (colour - background),
    plus a texture of the standard deviation `texture`; each thing is moved by up to `jitter` pixels."""

    grid: int = 2
    cell: int = 8
    background: float = 0.0
    gain: float = 1.0
    texture: float = 0.0
    jitter: int = 0

    def __post_init__(self) -> None:
        if self.grid < 2 or self.cell < 8:
            raise ValueError(f"a grid of 2 cells or more, of 8 pixels or more, was expected; got {self}: below that a "
                             "disc and a square are drawn alike")  # fmt: skip


def plural(shape: str) -> str:
    return shape + ("es" if shape == "cross" else "s")


@lru_cache(maxsize=4096)
def meant(caption: str, grid: int = 2) -> tuple[Scene, ...]:
    """Every scene that a caption is true of, and that holds nothing else.

    Raises:
        ValueError: for a caption outside the grammar, or one that no scene on this grid fits.
    """
    cells = list(product(range(grid), repeat=2))
    colour, shape = "|".join(COLOURS), "|".join(SHAPES)
    thing = rf"a ({colour}) ({shape})"
    link = "|".join(("and", *RELATIONS))
    found: list[Scene] = []
    if m := re.fullmatch(rf"{thing}(?: ({link}) {thing})?", caption):
        a, how, b = m.groups()[:2], m[3], m.groups()[3:]
        for p, q in permutations(cells, 2):
            step = (np.sign(p[0] - q[0]), np.sign(p[1] - q[1]))
            if how is None:
                found.append(frozenset({Thing(a[0], a[1], *p)}))
            elif how == "and" or step == RELATIONS[how]:
                found.append(frozenset({Thing(a[0], a[1], *p), Thing(b[0], b[1], *q)}))
    elif m := re.fullmatch(rf"({'|'.join(COUNTS[1:])}) ({colour}) ({'|'.join(map(plural, SHAPES))})", caption):
        n, of = COUNTS.index(m[1]) + 1, (m[2], next(s for s in SHAPES if plural(s) == m[3]))
        found = [frozenset(Thing(*of, *p) for p in places) for places in combinations(cells, n)]
    if not found:
        said = "'a red disc', 'a red square above a blue disc', 'three green crosses'"
        raise ValueError(f"'{caption}' is no caption of scenes on {grid} x {grid} cells, which are as in {said}")
    return tuple(dict.fromkeys(found))


@lru_cache(maxsize=64)
def mask(shape: str, cell: int) -> np.ndarray:
    """(cell, cell) bool, with a margin of one pixel."""
    r = np.arange(cell) - (cell - 1) / 2
    y, x, reach = abs(r)[:, None], abs(r)[None], (cell - 2) / 2
    inside = np.maximum(x, y) < reach
    if shape == "disc":
        return inside & (x * x + y * y <= reach * reach)
    return inside & (np.minimum(x, y) < reach / 2.5) if shape == "cross" else inside


def render(scene: Scene, style: Style | None = None, seed: int = 0) -> np.ndarray:
    """The picture (3, S, S), float32 in [0, 1], S = grid x cell; texture and jitter are functions of the seed."""
    s, rng = style or Style(), np.random.Generator(np.random.Philox(key=seed))
    out = np.full((3, s.grid * s.cell, s.grid * s.cell), s.background, dtype=np.float32)
    for colour, shape, row, column in sorted(scene):
        shift = rng.integers(-s.jitter, s.jitter + 1, 2) if s.jitter else np.zeros(2, dtype=int)
        at = np.argwhere(mask(shape, s.cell)) + np.array((row, column)) * s.cell + shift
        y, x = at.clip(0, out.shape[1] - 1).T
        out[:, y, x] = (s.background + s.gain * (np.array(COLOURS[colour]) - s.background))[:, None]
    if s.texture:
        out += s.texture * rng.standard_normal(out.shape, dtype=np.float32)
    return out.clip(0, 1)


def parse(image: np.ndarray, style: Style | None = None, tolerance: float = 0.25) -> Scene | None:
    """The scene of a picture (3, S, S), or None where a cell is nearest to no drawing by `tolerance`, root mean square
    over the cell's pixels. A picture without noise comes back as the scene it was drawn from."""
    s = style or Style()
    if image.shape != (3, s.grid * s.cell, s.grid * s.cell):
        raise ValueError(f"a picture {(3, s.grid * s.cell, s.grid * s.cell)} was expected; got {image.shape}")
    kinds = [None, *product(COLOURS, SHAPES)]
    plain = Style(2, s.cell, s.background, s.gain)
    drawn = np.stack(
        [render(frozenset({Thing(k[0], k[1], 0, 0)} if k else ()), plain)[:, : s.cell, : s.cell] for k in kinds]
    )
    found = set[Thing]()
    for row, column in product(range(s.grid), repeat=2):
        own = image[:, row * s.cell : (row + 1) * s.cell, column * s.cell : (column + 1) * s.cell]
        off = ((drawn - own) ** 2).mean((1, 2, 3)) ** 0.5
        best = int(off.argmin())
        if off[best] > tolerance:
            return None
        if (kind := kinds[best]) is not None:
            found.add(Thing(kind[0], kind[1], row, column))
    return frozenset(found)


class Question(NamedTuple):
    """A scene, the caption it was drawn for, and captions that differ from it in one factor; the first one is true."""

    scene: Scene
    options: tuple[str, ...]


def questions(factor: str, count: int, seed: int = 0, grid: int = 2) -> list[Question]:
    """`count` questions about a factor, all of as many options: colour 4, shape 3, binding 2, position 4, count 4.

    Raises:
        ValueError: for a factor that is none.
    """
    if factor not in FACTORS:
        raise ValueError(f"factor '{factor}': one of {', '.join(FACTORS)} was expected")
    rng, out = np.random.Generator(np.random.Philox(key=seed + 1)), list[Question]()
    for _ in range(count):
        (c, d), (s, z) = (list(map(str, rng.permutation(v)[:2])) for v in (list(COLOURS), SHAPES))
        if factor == "colour":
            options = [f"a {v} {s}" for v in (c, *(k for k in COLOURS if k != c))]
        elif factor == "shape":
            options = [f"a {c} {v}" for v in (s, *(k for k in SHAPES if k != s))]
        elif factor == "binding":
            options = [f"a {c} {s} and a {d} {z}", f"a {d} {s} and a {c} {z}"]
        elif factor == "position":
            options = [f"a {c} {s} {how} a {d} {z}" for how in map(str, rng.permutation(list(RELATIONS)))]
        else:
            options = [f"{n} {c} {s if n == 'a' else plural(s)}" for n in map(str, rng.permutation(COUNTS))]
        true = meant(options[0], grid)
        out.append(Question(true[int(rng.integers(len(true)))], tuple(options)))
    return out


def scenes(count: int, style: Style | None = None, seed: int = 0, factors: tuple[str, ...] = FACTORS) -> Captioned:
    """A source of scenes with their true captions, "text", the factors taking turns.

    Example:
        >>> scenes(4).batch([2])["text"]
        ['a green disc and a blue cross']
    """
    s = style or Style()
    each = [questions(f, -(-count // len(factors)), seed * 97 + i, s.grid) for i, f in enumerate(factors)]
    asked = [q for row in zip(*each, strict=True) for q in row][:count]
    x = np.stack([render(q.scene, s, seed * count + i) for i, q in enumerate(asked)])
    facts = DataFacts(x.shape[1:], None, None, "scenes", "drawn, no rights", count)
    return Captioned(ArraySource(facts, x), tuple(q.options[0] for q in asked))
