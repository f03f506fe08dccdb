"""Guidance by several conditions, each with a scale of its own (Brooks et al. 2023; Liu et al. 2022):

    D = D_u + w_1 (D_1 - D_u) + w_2 (D_12 - D_1) + ...,

D_12 the mean under the first two conditions. The order is part of the method: each scale weighs what its condition adds
to those before it. Equal scales are plain classifier-free guidance.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from oneprior.denoiser import Denoiser
from oneprior.guidance.contrast import Conditional, Interval, Values, stacked, without
from oneprior.guidance.scale import Scale, check_scale
from oneprior.posterior import Posterior
from oneprior.times import align


class Several(Conditional):
    """Guidance of `inner` with the scale of each condition, in order: one call of at most k + 1 times the batch.

    scales: {port: w}, w a float or (B,). A view whose weight is 0 is not asked. A condition without a scale is given to
    every view. negative, interval: as for `CFG`.

    Example:
        >>> x = sample(Several(den, {"image": 1.5, "label": 4.0}), (8, 3, 32, 32), image=image, label=label)

    Raises:
        ValueError: for a port without a null, a condition that is not given, or a scale that is not finite.
    """

    def __init__(
        self, inner: Denoiser, scales: Mapping[str, Scale], *, negative: Values = None, interval: Interval = None
    ) -> None:
        super().__init__(inner, 2.0, negative={**inner.facts.null, **(negative or {})}, interval=interval)
        unknown = sorted(set(scales) - set(self.other))
        if unknown or not scales:
            raise ValueError(f"scales of {sorted(self.other)} were expected, in order; got {unknown or 'none'}")
        self.scales = {k: check_scale(w, f"scale of '{k}'") for k, w in scales.items()}
        w = [1.0, *self.scales.values(), 0.0]
        # the views from the fullest to none, each with its weight in the sum
        self.weights = {i: w[i] - w[i + 1] for i in reversed(range(len(w) - 1))}
        self.plain = all(isinstance(v, float) and v == 1.0 for v in self.scales.values())

    def views(self, x: Tensor, t: Any, cond: dict[str, Any]) -> tuple[Posterior, tuple[Tensor, ...]]:
        names = list(self.scales)
        if missing := [k for k in names if cond.get(k) is None]:
            raise ValueError(f"guidance by {names} needs each of them; {missing} was not given")
        dropped = [{k: self.other[k] for k in names[i:]} for i in self._asked()]
        return stacked(self.inner, x, t, [without(cond, other) for other in dropped])

    def combine(self, means: tuple[Tensor, ...], x: Tensor, t: Any, cond: dict[str, Any]) -> Tensor:
        first, *rest = self._asked()
        out = align(self.weights[first], x) * means[0]
        for i, m in zip(rest, means[1:], strict=True):
            w = align(self.weights[i], x)
            out = out.add(m, alpha=w) if isinstance(w, float) else torch.addcmul(out, w, m)
        return out

    def _asked(self) -> list[int]:
        full, *rest = self.weights
        return [full, *(i for i in rest if isinstance(w := self.weights[i], Tensor) or w != 0.0)]
