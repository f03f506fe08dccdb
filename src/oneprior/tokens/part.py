"""Tokens as a part of a walk: x_s ~ p(x_s | x_t), from the exact law of a step, where tensors take a row.

The denoiser's answer for such a part has a `mean` (B, L, V), E[one-hot of x_0 | x_t] = p(x_0 | x_t), given the other
parts as they were before the step; so parts that move together are independent within a step, an error that falls as
one over the steps. A part that rests comes back as it was. A step of several network calls (Heun's) moves tokens at the
first and shows them at s to the others.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from torch import Tensor

from oneprior.paths import SOLVE, Path
from oneprior.sampling.solvers import Row, Solver, Stage
from oneprior.sampling.walk import Part, tracks
from oneprior.times import align
from oneprior.tokens.draw import categorical

if TYPE_CHECKING:
    from oneprior.tokens.chain import Corruption

MOVE = Row(0.0, (1.0,), 0.0, 0.0)


class TokenPart(Part):
    """As `Part` of a tensor; noise gives uniform numbers too. Temperature is of noise that is added: not of these."""

    __slots__ = ("corruption",)

    def __init__(
        self,
        key: str,
        x: Tensor,
        corruption: Corruption,
        path: Path,
        solver: Solver,
        noise: Any,
        temperature: float,
        y: Any,
    ) -> None:
        if not hasattr(noise, "uniform"):
            raise TypeError(f"part '{key}' is of tokens: noise with uniform numbers was expected, such as Seeded")
        if any(k != SOLVE for k in path.kinds):
            raise ValueError(f"part '{key}' is of tokens, for which times only fall: a path without rises was expected")
        self.key, self.x, self.m, self.y, self.base = key, x, [], None, x
        self.corruption, self.noise, self.color, self.reuse, self.depth = corruption, noise, None, False, 1
        self.which = tracks(path, key, x)
        one = path.matrix.shape[1] == 1
        times: list[Any] = path.matrix[:, 0].tolist() if one else list(path.matrix)
        # a step moves where it has a row; which of `together`'s stages that is, the row says and no number of it
        legs = [(i, t, s) for i, (t, s) in enumerate(pairwise(times)) if not one or t != s]
        self.plan = tuple(Stage(t, s, (MOVE,), None, True, i) for i, t, s in legs)

    def advance(self, stage: Stage, i: int, post: Any) -> None:
        t, s = self.time(stage.t), self.time(stage.s)
        if post is not None:
            self.m = [post.mean]
        if stage.rows and not (type(t) is float and t == s):
            law = self.corruption.reverse(self.m[0], self.x, t, s)
            new = categorical(law, self.noise.uniform(i + 1, self.x, self.key))
            self.x = new if type(t) is float else new.where(align(t > s, new), self.x)
