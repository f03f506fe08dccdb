"""Masks: y = mask x, of the shape of x, 0 where hidden. A^+ = A^T = A."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from oneprior.noise import uniform
from oneprior.operators.base import Operator
from oneprior.operators.svd import Svd
from oneprior.times import align

SIDES = {"top": (-2, 0), "bottom": (-2, 1), "left": (-1, 0), "right": (-1, 1)}


@dataclass(frozen=True, eq=False)
class Mask(Operator):
    """mask: True (or 1) where x is seen; batch axis first, sizes 1 broadcast: (1, 1, H, W) for pictures.

    Example:
        >>> y = Mask.random((1, 8, 8), hidden=0.5)(x)
    """

    mask: Tensor

    def __post_init__(self) -> None:
        if self.mask.ndim < 2 or not bool(((self.mask == 0) | (self.mask == 1)).all()):
            raise ValueError(
                "a mask holds 0 (hidden) and 1 (seen), batch axis first, as (1, 1, H, W); got shape "
                f"{tuple(self.mask.shape)}, from {self.mask.min().item()} to {self.mask.max().item()}"
            )

    def forward(self, x: Tensor) -> Tensor:
        pairs = zip(self.mask.shape[::-1], x.shape[::-1], strict=False)
        if self.mask.ndim > x.ndim or any(m not in (1, n) for m, n in pairs):
            raise ValueError(
                f"a mask of shape {tuple(self.mask.shape)} does not fit x of shape {tuple(x.shape)}: every axis of the "
                "mask is as long as that of x, or 1"
            )
        return x * self.mask.to(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.forward(y)

    def count(self, y: Tensor) -> Any:
        seen = self.mask.expand_as(y[: len(self.mask)]).flatten(1).sum(1).clamp(min=1)
        return int(seen[0]) if len(seen) == 1 else align(seen, y)

    def pinv(self, y: Tensor, iterations: int = 0) -> Tensor:
        return self.adjoint(y)

    def prox(self, z: Tensor, y: Tensor, gamma: float, iterations: int = 0) -> Tensor:
        return z + self.adjoint(y - self(z)) * (gamma / (1 + gamma))

    def svd(self, x: Tensor) -> Svd:
        return Svd(self.mask.to(x), lambda x: x, lambda z: z, self.forward, self.forward)

    def repeat(self, n: int) -> Operator:
        return self if len(self.mask) == 1 else type(self)(self.mask.repeat_interleave(n, 0))

    @classmethod
    def random(cls, shape: tuple[int, ...], hidden: float = 0.5, seed: int | Sequence[int] = 0) -> Self:
        """Hide that share of the elements of a sample of `shape`, exactly rounded; one mask a seed, given several.

        The channels of pictures (C, H, W) and clips (F, C, H, W) are hidden together.
        """
        if not 0 <= hidden <= 1:
            raise ValueError(f"hidden = {hidden}: the share of elements to hide, from 0 to 1, was expected")
        grid = _grid(shape)
        seeds = [seed] if isinstance(seed, int) else seed
        u = torch.stack([torch.from_numpy(uniform(int(s), "mask", 0, grid)) for s in seeds])
        rank = u.flatten(1).argsort(1).argsort(1)
        return cls((rank >= round(hidden * rank.shape[1])).reshape(u.shape))

    @classmethod
    def box(cls, shape: tuple[int, ...], size: tuple[int, int], at: tuple[int, int] | None = None) -> Self:
        """Hide a rectangle of (height, width) with its top left corner `at` (the middle by default)."""
        (h, w), (H, W) = size, shape[-2:]
        top, left = ((H - h) // 2, (W - w) // 2) if at is None else at
        if not (0 <= top <= top + h <= H and 0 <= left <= left + w <= W):
            raise ValueError(f"a box of {h} x {w} at ({top}, {left}) does not lie in a picture of {H} x {W}")
        mask = torch.ones(1, *_grid(shape), dtype=torch.bool)
        mask[..., top : top + h, left : left + w] = False
        return cls(mask)

    @classmethod
    def strokes(cls, shape: tuple[int, ...], count: int = 3, width: float = 3.0, seed: int = 0) -> Self:
        """Hide brush strokes: lines of `width` pixels through 4 random points each, a pure function of the seed."""
        H, W = shape[-2:]
        points = torch.from_numpy(uniform(seed, "strokes", 0, (count, 4, 2))) * torch.tensor([H, W])
        at = torch.stack(torch.meshgrid(torch.arange(H) + 0.5, torch.arange(W) + 0.5, indexing="ij"), -1)[..., None, :]
        start, way = points[:, :-1].flatten(0, 1), points.diff(dim=1).flatten(0, 1)
        share = (((at - start) * way).sum(-1) / way.square().sum(-1)).clamp(0, 1)  # the nearest point of each line
        near = (at - start - share[..., None] * way).norm(dim=-1) <= width / 2
        return cls(~near.any(-1).expand(1, *_grid(shape)))

    @classmethod
    def half(cls, shape: tuple[int, ...], side: str = "bottom") -> Self:
        """Hide the top, bottom, left or right half; of an odd number, the smaller part."""
        if side not in SIDES:
            raise ValueError(f"side '{side}' is not known; one of {sorted(SIDES)} was expected")
        axis, last = SIDES[side]
        mask = torch.ones(1, *_grid(shape), dtype=torch.bool)
        n = shape[axis] // 2
        mask.narrow(axis, shape[axis] - n if last else 0, n).fill_(False)
        return cls(mask)


def _grid(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape) if len(shape) < 3 else (*shape[:-3], 1, *shape[-2:])
