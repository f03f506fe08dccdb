"""The loop. Every sampler, inversion, restoration and video path of the library is a walk along a plan.

`step` is pure arithmetic and returns the mean of x_s; the walk adds noise where its coefficient is not zero. Elements
that do not move come back bit-identical. What changes the state is the body of the walk: assign `step.x` (a new
tensor); a corrector, which would start from the x before, then leaves it alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as _checkpoint

from oneprior.denoiser import Denoiser, schedule_of
from oneprior.noise import Noise, White
from oneprior.paths import Path
from oneprior.sampling.solvers import Row, Solver, Stage, mean, together
from oneprior.schedules import Schedule
from oneprior.times import check_axes


class Step:
    """One finished stage: x (assignable) at time s, the posterior and the means from the call at t, newest first."""

    __slots__ = ("history", "index", "posterior", "s", "t", "x")

    def __init__(self, index: int, x: Any, posterior: Any, t: Any, s: Any, history: Any) -> None:
        self.index, self.x, self.posterior, self.t, self.s, self.history = index, x, posterior, t, s, history

    @property
    def mean(self) -> Any:
        """E[x_0 | x_t] of this stage (a dict for a sample of parts)."""
        p = self.posterior
        return {k: v.mean for k, v in p.items()} if isinstance(p, dict) else p.mean


def step(
    x: Tensor, m: list[Tensor], row: Row, base: Tensor | None = None, y: Tensor | None = None, reuse: bool = False
) -> Tensor:
    """The mean of x_s for one row: keep x + sum_j w_j m_j + anchor y; with m = [x_0], the mean of q(x_s | x_t, x_0).

    x, m_j, y: (B, *). base: the x a `back` row starts from. Numbers of the row are floats, or tensors that broadcast.
    reuse: the result may take the memory of the x it starts from.
    """
    keep, w, anchor, _, back, _, _ = row
    if 0 < len(m) < len(w):  # a history that was cut short: the newest mean takes the weight of the missing
        newest: Any = sum(w[len(m) :], start=w[0])
        w = (newest, *w[1 : len(m)])
    start = x if base is None or not back else base
    if type(keep) is float and keep == 0.0:
        out = m[0] * w[0]
        w, m = w[1:], m[1:]
    else:
        out = start.mul_(keep) if reuse else start * keep
    for c, d in zip(w, m):  # noqa: B905 (a row of a renoising step has weights and no means)
        if type(c) is not float:
            out = torch.addcmul(out, c, d)
        elif c != 0.0:
            out = out.add_(d, alpha=c)  # in place on a tensor of our own: the graph keeps only m
    if y is not None and (type(anchor) is not float or anchor != 0.0):
        out = out + anchor * y
    return out


@lru_cache(maxsize=256)
def _plan(solver: Solver, schedule: Schedule, path: Path, dtype: torch.dtype) -> tuple[Stage, ...]:
    """The plan with every `keep` a tensor of no axes: on a CPU a product starts sooner so, and has the same bits."""

    def own(r: Row) -> Row:
        return r._replace(keep=torch.tensor(r.keep, dtype=dtype)) if type(r.keep) is float and r.keep != 0.0 else r

    with torch.inference_mode(False):  # kept for calls outside of it, too
        return tuple(st._replace(rows=tuple(map(own, st.rows))) for st in solver.plan(schedule, path))


class Part:
    """A part of the sample on its way: its x, the x its step began from, its last means, its plan.

    A corruption of tokens has a part of its own (`tokens.part`), which draws where this one adds.
    """

    __slots__ = (
        "base", "color", "depth", "key", "m", "noise", "plan", "reuse", "temperature", "tracks", "variance", "view",
        "which", "x", "y",
    )  # fmt: skip

    def __init__(
        self, key: str, x: Tensor, schedule: Schedule, path: Path, solver: Solver, noise: Noise, temp: float, y: Any
    ) -> None:
        self.reuse = False
        self.key, self.x, self.m, self.y = key, x, [], y.get(key) if isinstance(y, dict) else y
        self.base: Tensor | None = x
        own = x.is_cpu and x.dtype in (torch.float32, torch.float64)
        self.plan = _plan(solver, schedule, path, x.dtype) if own else solver.plan(schedule, path)
        self.depth, self.tracks = solver.depth, path.matrix.shape[1]
        self.view, self.variance = solver.view, solver.variance
        self.noise, self.temperature = noise, temp
        self.color = None if isinstance(schedule.color, White) else schedule.color
        self.which = tracks(path, key, x)

    def time(self, t: Any) -> Any:
        """The time of a stage as the denoiser wants it: a float, or a tensor over the axes of the map."""
        if type(t) is float:
            return t
        if isinstance(self.which, int):
            return t[self.which].item()
        dtype = torch.float64 if self.x.device.type != "mps" else torch.float32
        return t.to(device=self.x.device, dtype=dtype)[self.which]

    def spread(self, v: Any) -> Any:
        """A number of the plan over the elements of x: a float where the whole part has one track."""
        if not isinstance(v, Tensor):
            return v
        if isinstance(self.which, int):
            return v[self.which].item()
        c = v.to(device=self.x.device, dtype=self.x.dtype if v.is_floating_point() else v.dtype)[self.which]
        return c.reshape(c.shape + (1,) * (self.x.ndim - c.ndim))

    def advance(self, stage: Stage, i: int, post: Any) -> None:
        """Apply the rows of stage i: the mean of each, then noise where its coefficient is not zero."""
        _, _, rows, moves, call, _ = stage
        m = self.m
        if call:
            new = post.mean if self.view is mean else self.view(post)
            self.m = m = [new] if self.depth == 1 else [new, *m[: self.depth - 1]]
        for row in rows:
            if self.tracks > 1:
                row = self._spread(row)
            _, w, _, std, back, last, lag = row
            start = self.base if back else self.x
            if start is None:
                continue
            own = last and self.reuse
            if own:  # a denoiser may return its input: a mean that is the very memory of x must survive the step
                at = start.data_ptr()
                for d in m:
                    if d.data_ptr() == at:
                        own = False
            x = step(start, m, row, None, self.y, own)
            if self.variance and call:
                if post.var is None:
                    raise ValueError("this solver adds the posterior's variance, and the denoiser gives none (.var)")
                std = (std * std + (w[0] * w[0]) * post.var).sqrt()
            if self.temperature != 0.0 and (type(std) is not float or std != 0.0):
                n = self.noise(i + 1 - lag, x, self.key)
                n = n if self.color is None else self.color(n)
                c = std * self.temperature
                x = x.add_(n, alpha=c) if type(c) is float else x + c * n
            if moves is not None:
                moved = self.spread(moves)
                x = x if moved is True else self.x if moved is False else torch.where(moved, x, self.x)
            if not back:
                self.base = self.x
            self.x = x

    def assign(self, x: Tensor) -> None:
        """The x that the body of the walk left, in the dtype of the plan. It stays: no row starts from the x before."""
        if x is not self.x:
            self.x, self.base = x.to(self.x.dtype), None

    def _spread(self, row: Row) -> Row:
        f = self.spread
        return Row(f(row.keep), tuple(f(w) for w in row.w), f(row.anchor), f(row.std), row.back, False, row.lag)


def tracks(path: Path, key: str, x: Tensor) -> int | Tensor:
    """The map of a part to the tracks of a path, on the device of x; a track that is not there is refused."""
    which = path.track(key)
    if isinstance(which, Tensor):
        count = path.matrix.shape[1]
        if not 0 <= int(which.min()) <= int(which.max()) < count:
            raise ValueError(f"the path has {count} tracks, its map asks for {int(which.max())}")
        return which.to(x.device)
    return which


def walk(
    den: Denoiser,
    x: Any,
    path: Path,
    solver: Solver,
    noise: Noise,
    *,
    grad: int = 0,
    checkpoint: bool = False,
    temperature: float = 1.0,
    check: bool = False,
    reuse: bool = False,
    **cond: Any,
) -> Iterator[Step]:
    """Follow a path from x, yielding after every network call.

    x: (B, *) in model range, or a dict of parts; path, solver: data, see `paths` and `solvers`; noise: stage i + 1 is
    drawn after call i. grad: how many of the last calls keep a graph (0 none); checkpoint: recompute those calls in
    the backward pass. check: look for non-finite values after every call and name it. reuse: x is the walk's own and a
    step may overwrite the x and the `Step` before it (the caller keeps none of them). cond: passed to the denoiser.

    Raises:
        FloatingPointError: with `check`, at the first non-finite value.
    """
    den = den.begin(path)
    several = isinstance(x, dict)
    parts: dict[str, Any] = {}
    for k, v in x.items() if several else [("", x)]:
        own: Any = schedule_of(den, k)
        kind = Part if isinstance(own, Schedule) else own.part
        parts[k] = kind(k, v, own, path, solver, noise, temperature, cond.get("y"))
    first, t = next(iter(parts.values())), None
    post: Any = None
    out: Step | None = None
    if several:
        for p, shared in zip(parts.values(), together([p.plan for p in parts.values()]), strict=True):
            p.plan = shared
    outer, plan, ask, advance = torch.is_grad_enabled(), first.plan, den.posterior, first.advance
    count = len(plan)
    for p in parts.values():
        p.reuse = reuse and not outer and p.color is None
    for i, stage in enumerate(plan):
        wanted, before = outer and i >= count - grad, outer if reuse else torch.is_grad_enabled()
        if before is not wanted:
            torch.set_grad_enabled(wanted)
        try:
            if several:
                t = {k: p.time(p.plan[i].t) for k, p in parts.items()}
                if stage.call:
                    post = den({k: p.x for k, p in parts.items()}, t, **cond)
                for k, p in parts.items():
                    p.advance(p.plan[i], i, post and post[k])
            else:
                t = stage[0]
                if type(t) is not float:
                    t = first.time(t)
                    if isinstance(t, Tensor):
                        check_axes(t, first.x, den.facts.time_axes)
                if stage[4]:  # the time is checked: straight to the posterior, hooks belong on the network
                    again = checkpoint and wanted
                    post = _recomputed(den, first.x, t, cond) if again else ask(first.x, t, **cond)
                advance(stage, i, post)
        finally:
            if before is not wanted:
                torch.set_grad_enabled(before)
        if several:
            out = Step(i, {k: p.x for k, p in parts.items()}, post, t, stage.s, {k: p.m for k, p in parts.items()})
        elif out is None or not reuse:
            out = Step(i, first.x, None if reuse else post, t, stage[1], [] if reuse else first.m)
        else:
            out.index, out.x = i, first.x
            out.t, out.s = t, stage[1]
        if check:
            _finite(out, i, count)
        yield out
        if several:
            every: Any = out  # whose x and history are dicts
            for k, p in parts.items():
                p.assign(every.x[k])
                p.m = every.history[k]
            continue
        if out.x is not first.x:
            first.assign(out.x)
        if reuse:  # nobody else looks at the means of this step: their memory serves the next call
            post = None
            if first.depth == 1 and stage[4]:
                first.m = []
        else:
            first.m = out.history


def _recomputed(den: Denoiser, x: Any, t: Any, cond: dict[str, Any]) -> Any:
    # the posterior is rebuilt around tensors that the checkpoint gives back
    kept: list[Any] = []

    def call(x: Tensor) -> Tensor:
        post = den(x, t, **cond)
        kept.append(post)
        return post.mean

    mean = _checkpoint(call, x, use_reentrant=False)
    return kept[0].replace(mean, kept[0].var)


def _finite(out: Step, i: int, count: int) -> None:
    values = out.x if isinstance(out.x, dict) else {"": out.x}
    for k, v in values.items():
        if v.is_floating_point() and not bool(torch.isfinite(v).all()):
            where = f" in part '{k}'" if k else ""
            raise FloatingPointError(
                f"a non-finite value appeared{where} after network call {i + 1} of {count}, on the way from "
                f"t = {_say(out.t)} to {_say(out.s)}; look at the denoiser at that time, at the guidance scale, "
                "or use smaller steps"
            )


def _say(t: Any) -> str:
    return f"{t:.4g}" if isinstance(t, float) else f"(per element) {str(t)[:60]}"
