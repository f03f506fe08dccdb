"""Singular values: A = U diag(s) V^T with V square and orthogonal, given by four maps instead of matrices.

z = V^T x holds as many numbers a sample as x; U^T y lies in the same layout. Where s = 0 nothing is seen, and U^T y
means nothing. White noise on y is white on U^T y where s > 0, since the columns of U there are orthonormal.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Svd(NamedTuple):
    """A x = U(s * Vt(x)), A^T y = V(s * Ut(y)). s >= 0, in no order, broadcasts against z = Vt(x).

    Example:
        >>> d = Pool(2).svd(x)
        >>> seen = torch.where(d.s > 0, d.Ut(y) / d.s, 0)
    """

    s: Tensor
    Vt: Callable[[Tensor], Tensor]
    V: Callable[[Tensor], Tensor]
    Ut: Callable[[Tensor], Tensor]
    U: Callable[[Tensor], Tensor]

    def pinv(self, y: Tensor, cut: float | None = None) -> Tensor:
        """A^+ y. Singular values below `cut` times the largest count as 0; default: the root of y's precision."""
        cut = sqrt(torch.finfo(y.dtype).eps) if cut is None else cut
        keep = self.s > cut * self.s.max()
        return self.V(torch.where(keep, self.Ut(y) / torch.where(keep, self.s, 1.0), 0.0))

    def prox(self, z: Tensor, y: Tensor, gamma: Any) -> Tensor:
        """argmin_x gamma/2 |A x - y|^2 + 1/2 |x - z|^2."""
        return z + self.V(self.s * (self.Ut(y) - self.s * self.Vt(z)) / (self.s**2 + 1 / gamma))


def along(matrix: Tensor, x: Tensor, axis: int) -> Tensor:
    """The matrix (m, n) applied along one axis of x, of n elements."""
    return (x.movedim(axis, -1) @ matrix.to(x).T).movedim(-1, axis)
