"""Clips made on the fly: handwritten digits that bounce (after Srivastava et al. 2015), and scenes of moving shapes.

A sprite s at place p is seen through its bilinear weights, frame[y, x] = sum_kl W(y - p_y - k) s[k, l] W(x - p_x - l)
with W(d) = max(0, 1 - |d|), so motion is smooth below a pixel. Clip i is a function of i and the seed alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import pi
from typing import Any

import numpy as np

from oneprior.data.digits import digits
from oneprior.data.source import Batch, DataFacts, checked

COUNT = 1 << 20  # so many that they are never read into memory at once
MOTIONS = ("rests", "bounces", "circles", "swings")
SHAPES = ("disc", "square", "cross")
COLOURS = {"red": (1.0, 0.2, 0.2), "green": (0.2, 0.9, 0.3), "blue": (0.3, 0.4, 1.0), "yellow": (1.0, 0.9, 0.2)}


def bounce(start: np.ndarray, speed: np.ndarray, frames: int, room: float) -> np.ndarray:
    """Places (B, F, 2) of something that moves straight on between walls at 0 and `room`."""
    p = np.mod(start[:, None] + speed[:, None] * np.arange(frames)[:, None], 2 * room)
    return np.minimum(p, 2 * room - p)


def seen(sprite: np.ndarray, place: np.ndarray, size: int) -> np.ndarray:
    """Sprites (B, h, h) at places (B, F, 2), as frames (B, F, size, size)."""
    k, grid = np.arange(sprite.shape[-1]), np.arange(size)[:, None]
    w = [np.clip(1 - np.abs(grid - p[..., None, None] - k), 0, None) for p in (place[..., 0], place[..., 1])]
    return np.einsum("bfyk,bkl,bfxl->bfyx", w[0], sprite, w[1], optimize=True)


@dataclass(frozen=True)
class MovingDigits:
    """Digits of scikit-learn, 8 x 8, bouncing in `size` x `size` at up to `speed` pixels a frame; of several, the
    brighter pixel is seen. Clips (frames, 1, size, size) in [0, 1]; with one digit its class is the label.

    split: of the digits, so that those of "test" are never seen in training. every: frames between two that are kept.
    """

    frames: int = 8
    size: int = 16
    number: int = 1
    speed: float = 2.0
    split: str = "all"
    every: int = 1
    seed: int = 0
    _digits: Any = field(init=False, repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        if self.size < 9 or self.frames < 1 or self.number < 1 or self.every < 1:
            raise ValueError(f"digits of 8 x 8 move in 9 x 9 or more, one or more of them; got {self}")
        source = digits(self.split)
        batch = source.batch(range(len(source)))
        object.__setattr__(self, "_digits", (batch["x"].numpy()[:, 0], batch["label"].numpy()))

    @property
    def facts(self) -> DataFacts:
        classes = tuple(str(i) for i in range(10)) if self.number == 1 else None
        shape = (self.frames, 1, self.size, self.size)
        return DataFacts(shape, classes, None, "moving-digits", "CC BY 4.0, as the digits it moves", COUNT)

    def __len__(self) -> int:
        return COUNT

    def batch(self, indices: Sequence[int]) -> Batch:
        """See `Source.batch`."""
        import torch

        at, (sprites, labels) = checked(indices, COUNT, "moving-digits").tolist(), self._digits
        room, x, label = self.size - 8.0, 0.0, np.zeros(len(at), dtype=np.int64)
        for n in range(self.number):
            u = _uniform(self.seed, f"moving digits {self.split} {n}", at, (5,))
            which = (u[:, 0] * len(sprites)).astype(int)
            place = bounce(u[:, 1:3] * room, (2 * u[:, 3:] - 1) * self.speed * self.every, self.frames, room)
            x, label = np.maximum(x, seen(sprites[which], place, self.size)), labels[which]
        out = {"x": torch.from_numpy(np.asarray(x, dtype=np.float32)[:, :, None])}
        return out | ({"label": torch.from_numpy(label)} if self.number == 1 else {})


@dataclass(frozen=True)
class MovingScenes:
    """Two shapes in colour, the second in front of the first, each at rest or on a path of its own: clips
    (frames, 3, size, size), the motion of the one in front as the label, and "text", such as
    "a red disc bounces before a blue square that rests"."""

    frames: int = 8
    size: int = 24
    seed: int = 0

    @property
    def facts(self) -> DataFacts:
        return DataFacts((self.frames, 3, self.size, self.size), MOTIONS, None, "moving-scenes", "made here", COUNT)

    def __len__(self) -> int:
        return COUNT

    def batch(self, indices: Sequence[int]) -> Batch:
        """See `Source.batch`; and "text", a caption each."""
        import torch

        at = checked(indices, COUNT, "moving-scenes").tolist()
        x = np.full((len(at), self.frames, 3, self.size, self.size), 0.05)
        said, motion = [], np.zeros(len(at), dtype=np.int64)
        for layer in range(2):
            u = _uniform(self.seed, f"moving scenes {layer}", at, (7,))
            motion, shape, colour = ((u[:, i] * len(v)).astype(int) for i, v in enumerate((MOTIONS, SHAPES, COLOURS)))
            mask = seen(_sprites(self.size // 3)[shape], self._places(u[:, 3:], motion), self.size)[:, :, None]
            x = (1 - mask) * x + mask * np.array(list(COLOURS.values()))[colour][:, None, :, None, None]
            names = zip(colour, shape, motion, strict=True)
            said.append([(list(COLOURS)[c], SHAPES[s], MOTIONS[m]) for c, s, m in names])
        text = [f"a {b[0]} {b[1]} {b[2]} before a {a[0]} {a[1]} that {a[2]}" for a, b in zip(*said, strict=True)]
        out: Any = {"x": torch.from_numpy(x.astype(np.float32)), "label": torch.from_numpy(motion.astype(np.int64))}
        return out | {"text": text}

    def _places(self, u: np.ndarray, motion: np.ndarray) -> np.ndarray:
        room, f = float(self.size - self.size // 3), np.arange(self.frames)[:, None]
        start, speed = u[:, :2] * room, (2 * u[:, 2:] - 1) * self.size / 10
        angle = 2 * pi * (u[:, 2][:, None, None] + f * (0.25 * u[:, 3] - 0.125)[:, None, None])
        wave = np.concatenate([np.sin(angle), np.cos(angle)], -1)
        middle = room / 4 + start / 2
        every = [
            np.broadcast_to(start[:, None], wave.shape),
            bounce(start, speed, self.frames, room),
            middle[:, None] + room / 4 * wave,
            middle[:, None] + room / 4 * wave[..., :1] * np.array([0.0, 1.0]),
        ]
        return np.stack(every)[motion, np.arange(len(u))]


def _sprites(side: int) -> np.ndarray:
    """Masks of SHAPES, (3, side, side)."""
    y, x = np.abs(np.mgrid[:side, :side] - (side - 1) / 2) / (side / 2)
    return np.stack([y * y + x * x <= 1, np.maximum(y, x) <= 1, np.minimum(y, x) <= 0.4]).astype(float)


def _uniform(seed: int, stream: str, index: Sequence[int], shape: tuple[int, ...]) -> np.ndarray:
    from oneprior.noise import uniform  # brings torch, which importing a source need not

    return uniform(seed, stream, index, shape)
