"""A large picture by windows: D(x) = sum_k w_k D_k(x at window k) / sum_k w_k, a denoiser that holds a denoiser.

Each window is denoised by itself, with the part of every condition on the grid that lies in it (MultiDiffusion, Bar-Tal
et al. 2023). A weight rises over the overlap as sin^2, so that the mean has no jump where a window begins. Nothing but
the mean is cut: noise, steps and measurements live on the whole picture, so the noise is one field, and a measurement
of any operator is met across all windows by MMPS(Tiled(den), measurement). Memory is that of the picture and of one
batch of windows; where gradients are wanted each batch is computed anew in the backward pass (Chen et al. 2016).
There too windows are fused by their weights, sum_k w_k J_k^T u instead of the transpose sum_k J_k^T w_k u, which is cut
at the borders: the same for covariances, whose J_k are symmetric, and without a seam.
"""

from __future__ import annotations

from itertools import product
from math import ceil, pi
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from oneprior.denoiser import Denoiser, Wrapper
from oneprior.posterior import Posterior
from oneprior.times import Time

HOW: Any = {"use_reentrant": False, "preserve_rng_state": False}


class Tiled(Wrapper):
    """`inner`, of pictures (B, C, h, w), for pictures (B, C, H, W) at least as large.

    window: (h, w). overlap: pixels that neighbours share at least, on each axis (default: a quarter of a window; half
    of one costs 2.25 times as many calls). batch: how many samples a call of `inner` takes at most. The variance is the
    mean of the windows' own.

    Raises:
        ValueError: for an overlap of a window or more, or a picture smaller than a window.

    Example:
        >>> x = sample(Tiled(den, (64, 64)), (1, 3, 768, 1024), steps=20)
    """

    def __init__(self, inner: Denoiser, window: tuple[int, int], overlap: int | None = None, batch: int = 32) -> None:
        super().__init__(inner, density=False)
        self.window, self.batch = window, batch
        self.overlap = min(window) // 4 if overlap is None else overlap
        if not 0 <= self.overlap < min(window):
            raise ValueError(
                f"overlap = {overlap}: 0 to {min(window) - 1} pixels were expected, for windows of {window}"
            )

    def posterior(self, x: Tensor, t: Time, **cond: Any) -> Posterior:
        size = tuple(x.shape[-2:])
        if x.ndim != 4 or any(n < w for n, w in zip(size, self.window, strict=True)):
            raise ValueError(f"windows of {self.window} do not fit into x of shape {tuple(x.shape)}")
        places = torch.tensor(list(product(*map(self._starts, range(2), size))), device=x.device)
        weight, each = self._weight(x), max(1, self.batch // len(x))
        row = torch.arange(self.window[0], device=x.device)[:, None] * size[1]
        local = (row + torch.arange(self.window[1], device=x.device)).reshape(-1)
        total, mean, var = x.new_zeros(size[0] * size[1]), torch.zeros_like(x).flatten(2), None
        index = [((some[:, :1] * size[1] + some[:, 1:]) + local).reshape(-1) for some in places.split(each)]
        for at in index:
            total.index_add_(0, at, weight.repeat(len(at) // len(weight)))
        again = torch.is_grad_enabled() and x.requires_grad
        for at in index:
            share = weight.repeat(len(at) // len(weight)) / total[at]

            def cut(v: Any, at: Tensor = at) -> Any:
                """The windows of what lies on the grid, a copy a window of the rest: (B k, ...)."""
                if not isinstance(v, Tensor) or v.ndim == 0 or len(v) not in (1, len(x)):
                    return v
                v, k = v.expand(len(x), *v.shape[1:]), len(at) // len(local)
                if v.ndim != 4 or tuple(v.shape[2:]) != size:
                    return v.repeat_interleave(k, 0)
                return v.flatten(2)[:, :, at].unflatten(2, (k, *self.window)).transpose(1, 2).flatten(0, 1)

            def call(x: Tensor, cut: Any = cut, w: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
                part = cut(x)
                if w is not None:  # forward as it is, backward times w
                    part = torch.lerp(part.detach(), part, w.reshape(-1, 1, *self.window).repeat(len(x), 1, 1, 1))
                post = self.inner(part, cut(t), **{k: cut(v) for k, v in cond.items()})
                return post.mean, None if post.var is None else post.var.detach()  # or its graph is kept a pass long

            out: Any = checkpoint(call, x, cut, share, **HOW) if again else call(x)
            D = self._joined(out[0], len(x))
            mean.index_add_(2, at, D * share if not again else (D * share).detach() + (D - D.detach()))
            if out[1] is not None:
                var = torch.zeros_like(mean) if var is None else var
                var.index_add_(2, at, self._joined(out[1].expand_as(out[0]), len(x)) * share)
        mean, var = ((None if v is None else v.reshape(x.shape)) for v in (mean, var))
        assert mean is not None
        return Posterior(mean, x, self.schedule, t, var, cond.get("y"))

    def _starts(self, axis: int, size: int) -> list[int]:
        """Of windows along an axis, evenly spaced from one border to the other."""
        last = size - self.window[axis]
        n = ceil(last / (self.window[axis] - self.overlap))
        return [round(i * last / n) for i in range(n)] + [last] if n else [0]

    def _weight(self, x: Tensor) -> Tensor:
        """Of the pixels of a window, (h w,)."""
        rise = []
        for n in self.window:
            i = torch.arange(n, device=x.device, dtype=x.dtype) + 0.5
            edge = torch.minimum(i, n - i) / max(self.overlap, 0.5)
            rise.append(torch.sin(edge.clamp(max=1) * pi / 2) ** 2)
        return (rise[0][:, None] * rise[1]).reshape(-1)

    def _joined(self, v: Tensor, batch: int) -> Tensor:
        """(B k, C, h, w) -> (B, C, k h w)."""
        return v.unflatten(0, (batch, -1)).transpose(1, 2).flatten(2)


def tiled(den: Denoiser, window: tuple[int, ...], size: tuple[int, ...]) -> Denoiser:
    """`den` where the size is that of its window, else by windows, of small ones more a call."""
    many = max(32, 2**15 // (window[0] * window[1]))
    return den if window == size else Tiled(den, (window[0], window[1]), batch=many)
