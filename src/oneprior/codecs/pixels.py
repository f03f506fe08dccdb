"""Between the user's units and model range.

`Pixels`: L levels k/(L-1) in [0, 1] are spread over L bins of width 1/L: x' = (x (L-1) + u) / L with u ~ U[0, 1)
(uniform dequantisation, Theis et al. 2016) or u = 1/2, the middle of the bin; the model sees m = 2 x' - 1. Densities:
    log p(x) = log p_model(m) + D logdet,      log P(k) >= E_u log p_model(m(k, u)) + D log_bin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from oneprior.codecs.base import Codec

__all__ = ["Pixels", "Standardise"]


@dataclass(frozen=True)
class Pixels(Codec):
    """Pictures, floats in [0, 1], to `range`. levels: of the stored data (256 for bytes); None if it is continuous."""

    levels: int | None = 256
    range: tuple[float, float] = (-1.0, 1.0)
    type: ClassVar[str] = "pixels"
    span: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.levels is not None and self.levels < 2:
            raise ValueError(f"Pixels wants levels >= 2, or None for continuous data; got {self.levels}")
        object.__setattr__(self, "range", tuple(map(float, self.range)))
        if len(self.range) != 2 or not -math.inf < self.range[0] < self.range[1] < math.inf:
            raise ValueError(f"Pixels wants a range (low, high) with low < high; got {self.range}")

    @property
    def _width(self) -> float:
        return self.range[1] - self.range[0]

    def encode(self, x: Tensor, check: bool = True) -> Tensor:
        """[0, 1] -> model range, each level to the middle of its bin. Same shape.

        Raises TypeError for integers, ValueError for values outside [0, 1] or not finite (check=False lets them pass,
        for estimates inside a loop).
        """
        if check:
            _check_pictures(x)
        if self.levels is None:
            return self._width * x + self.range[0]
        return x * (self._width * (self.levels - 1) / self.levels) + (self._width / (2 * self.levels) + self.range[0])

    def dequantise(self, x: Tensor, u: Tensor) -> Tensor:
        """As `encode`, each pixel at u in [0, 1) of its bin; u: uniforms like x. Continuous data has no bins.

        Raises ValueError if x does not lie on the levels.
        """
        _check_pictures(x)
        if self.levels is None:
            return self._width * x + self.range[0]
        k = x * (self.levels - 1)
        whole = k.round()
        if bool((off := (k - whole).abs().max() if x.numel() else k.sum()) > 0.01):
            raise ValueError(
                f"x is up to {float(off):.2g} of a level away from the {self.levels} levels "
                f"k/{self.levels - 1}: state the data's own number, or levels=None if it is continuous"
            )
        return (whole + u) * (self._width / self.levels) + self.range[0]

    def snap(self, x: Tensor) -> Tensor:
        """To the nearest level in [0, 1], as storing would: what makes samples comparable with stored data."""
        return x if self.levels is None else (x.clamp(0, 1) * (self.levels - 1)).round() / (self.levels - 1)

    def decode(self, m: Tensor, clip: bool = False) -> Tensor:
        """Model range -> [0, 1], the inverse of `encode`; values beyond pass unless clip."""
        if self.levels is None:
            x = (m - self.range[0]) / self._width
        else:
            middle = self._width / (2 * self.levels) + self.range[0]
            x = (m - middle) * (self.levels / (self._width * (self.levels - 1)))
        return x.clamp(0, 1) if clip else x

    @property
    def logdet(self) -> float:
        """log |dm/dx|, nats per dimension: what a log density in [0, 1] has more than one in model range."""
        return math.log(self._width * (1.0 if self.levels is None else (self.levels - 1) / self.levels))

    @property
    def log_bin(self) -> float | None:
        """log of a bin's width in model range, nats per dimension; None for continuous data."""
        return None if self.levels is None else math.log(self._width / self.levels)


@dataclass(frozen=True)
class Standardise(Codec):
    """Data in its own units to mean 0, variance 1: (x - mean) / std, a number or one per entry of axis 1.

    unit: the name of the data's unit, for reports. `Standardise.fit(x)` measures both; `Standardise()` changes nothing.
    """

    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0
    unit: str = ""
    type: ClassVar[str] = "standardise"

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            if isinstance(value := getattr(self, name), list):
                object.__setattr__(self, name, tuple(value))
        std = self.std if isinstance(self.std, tuple) else (self.std,)
        mean = self.mean if isinstance(self.mean, tuple) else (self.mean,)
        if not std or not mean or not all(0 < s < math.inf for s in std) or not all(map(math.isfinite, mean)):
            raise ValueError(f"Standardise wants finite means and stds > 0; got {self.mean}, {self.std}")
        if isinstance(self.std, tuple) and isinstance(self.mean, tuple) and len(mean) != len(std):
            raise ValueError(f"Standardise has {len(mean)} means but {len(std)} stds")

    @classmethod
    def fit(cls, x: Tensor, unit: str = "") -> Standardise:
        """Mean and standard deviation of data x (N, C, ...), one per entry of axis 1."""
        flat = x.double().movedim(1, 0).flatten(1)
        return cls(tuple(flat.mean(1).tolist()), tuple(flat.std(1, correction=0).tolist()), unit)

    def encode(self, x: Tensor, check: bool = True) -> Tensor:
        """Data units -> model range. Raises ValueError if x is not finite or has another number of channels."""
        if check and not bool(x.isfinite().all()):
            bad = int((~x.isfinite()).sum())
            raise ValueError(f"x holds {bad} of {x.numel()} values that are NaN or infinite: remove or fill them")
        return (x - self._like(self.mean, x)) / self._like(self.std, x)

    def decode(self, m: Tensor, clip: bool = False) -> Tensor:
        """Model range -> data units. There is no range to clip to."""
        if clip:
            raise ValueError("data in its own units has no range to clip to: leave clip=False")
        return m * self._like(self.std, m) + self._like(self.mean, m)

    @property
    def logdet(self) -> float:
        """log |dm/dx|, nats per dimension, averaged over the channels."""
        std = self.std if isinstance(self.std, tuple) else (self.std,)
        return -sum(map(math.log, std)) / len(std)

    def _like(self, value: float | tuple[float, ...], x: Tensor) -> Tensor | float:
        if not isinstance(value, tuple):
            return value
        if x.ndim < 2 or x.shape[1] != len(value):
            raise ValueError(f"Standardise has {len(value)} channels, on axis 1; x has shape {tuple(x.shape)}")
        return torch.tensor(value, dtype=x.dtype, device=x.device).reshape(-1, *[1] * (x.ndim - 2))


def _check_pictures(x: Tensor) -> None:
    if not x.is_floating_point():
        fix = "x.float() / 255" if x.dtype == torch.uint8 else "x.float() / (largest value the format can hold)"
        raise TypeError(f"pictures are floats in [0, 1]; got {x.dtype}: give {fix}")
    if not x.numel():
        return
    lo, hi = (float(v) for v in torch.aminmax(x))  # NaN comes through, and fails the comparison
    if lo >= -1e-4 and hi <= 1 + 1e-4:
        return
    if not (math.isfinite(lo) and math.isfinite(hi)):
        good = x[x.isfinite()]
        seen = f"{float(good.min()):g} to {float(good.max()):g}" if good.numel() else "nothing"
        raise ValueError(
            f"pictures must be in [0, 1]; {x.numel() - good.numel()} of {x.numel()} values are NaN or "
            f"infinite, the others span {seen}"
        )
    if -1 - 1e-4 <= lo < 0 and hi <= 1 + 1e-4:
        fix = "looks like -1..1: give (x + 1) / 2"
    elif lo >= 0 and hi > 2 and hi <= 65535:
        fix = f"looks like 0..{255 if hi <= 255 else 65535}: divide by {255 if hi <= 255 else 65535}"
    else:
        fix = "clip or rescale it, or use the codec Standardise for data with units of its own"
    raise ValueError(f"pictures must be in [0, 1]; got {lo:g} to {hi:g}: {fix}")
