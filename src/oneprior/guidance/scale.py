"""The one check of a guidance scale: w = 1 is plain, above 1 extrapolates, below 1 interpolates."""

from __future__ import annotations

from math import isfinite
from typing import Any

from torch import Tensor

Scale = float | Tensor  # one for all, or (B,) for one a sample


def check_scale(scale: Any, name: str = "scale") -> Scale:
    """`scale` as a float, or the tensor that came ((B,) for a scale a sample).

    Raises:
        ValueError: where it is NaN or infinite; TypeError for what is no number.

    Example:
        >>> check_scale(2)
        2.0
    """
    if isinstance(scale, Tensor):
        bad = ~scale.isfinite()
        if bool(bad.any()):
            raise ValueError(f"{name} holds {int(bad.sum())} values that are NaN or infinite: {scale.tolist()}")
        return float(scale) if scale.ndim == 0 else scale
    if isinstance(scale, str) or not hasattr(scale, "__float__"):
        raise TypeError(f"{name} = {scale!r}: a number was expected, or a tensor (B,) of one a sample")
    if not isfinite(value := float(scale)):
        raise ValueError(f"{name} = {value}: a finite number was expected (1 is plain)")
    return value
