"""What follows from a joint denoiser by its dict of times alone: what is given, one part alone, guidance.

`given` turns values into a `Hold`: time 0 for what is known, `Noisy(value, t)` for what is known that well, time 1
for a part to be left out. `Single` reads one part as an ordinary denoiser, conditioned on the others: whatever takes
one (guidance, restoration, classification, likelihood) takes it. `Inside` puts such a thing back among the parts.
`Marginals` guides every part away from its own marginal (UniDiffuser, Bao et al. 2023): no dropped condition, since the
marginal is the null model. Its scale w is s + 1 of the paper's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from oneprior.denoiser import Denoiser, Wrapper
from oneprior.guidance.scale import check_scale
from oneprior.paths import Hold, Path
from oneprior.schedules import Schedule


class Noisy(NamedTuple):
    """A value of a part that is shown as noisy as at time t: a soft condition. value: as without it."""

    value: Any
    t: float


def given(den: Any, values: Mapping[str, Any], batch: int, parts: tuple[str, ...] | None = None) -> Hold | None:
    """What `sample` is to keep: values (one for all, or a batch) in model range by part, plain or `Noisy`.

    den: with `shapes` of its parts. parts: those to draw; what is neither given nor to be drawn is left out (time 1).

    Raises:
        ValueError: for a part that the denoiser has not, one both given and to be drawn, a value of another shape,
            a time outside [0, 1], or nothing left to draw.
    """
    known = set(den.shapes)
    drawn = known - set(values) if parts is None else set(parts)
    if strange := sorted((set(values) | drawn) - known):
        raise ValueError(f"{strange} was given or asked for; this prior is of the parts {sorted(known)}")
    if both := sorted(drawn & set(values)):
        raise ValueError(f"{both} is given, and to be drawn: one of the two was expected")
    if not drawn:
        raise ValueError(f"every part is given: leave one of {sorted(known)} to draw")
    out, times = {}, {}
    for k in [k for k in den.shapes if k not in drawn]:
        said = values.get(k, Noisy(0, 1.0))
        value, t = said if isinstance(said, Noisy) else Noisy(said, 0.0)
        if not 0 <= t <= 1:
            raise ValueError(f"'{k}' was given at time {t}: 0 (known) to 1 (left out) was expected")
        v, shape = torch.as_tensor(value), den.shapes[k]
        if v.ndim == 1 and shape == (1,):
            v = v[:, None]  # labels, one a sample
        if v.ndim and tuple(v.shape) not in (shape, (1, *shape), (batch, *shape)):
            raise ValueError(f"'{k}' was given as {tuple(v.shape)}; {shape} or {(batch, *shape)} was expected")
        out[k], times[k] = v.expand(batch, *shape), float(t)
    return Hold(out, time=times) if out else None


class Single(Denoiser):
    """One part of `joint`, a tensor, as a denoiser of its own: den(x, t, label=..., label_time=...) -> Posterior.

    Ports are the other parts, in model range: (B, *shape), of a single token (B,) as well. What is left out is at time
    1, and so is a row of nulls (`facts.null`): all masks of tokens, all NaN of a tensor. NAME_time: the time of what is
    given, a float or (B,), 0 unless said.

    Example:
        >>> x = sample(CFG(Single(den, "image"), 2.0), (8, 1, 8, 8), label=torch.full((8,), 7))

    Raises:
        ValueError: for a part that is not there or is of tokens.
    """

    def __init__(self, joint: Any, name: str) -> None:
        super().__init__()
        if not isinstance(joint.schedule.get(name), Schedule):
            able = [k for k, s in joint.schedule.items() if isinstance(s, Schedule)]
            raise ValueError(f"'{name}' is no part of tensors; {able} was expected")
        self.joint, self.name, self.schedule = joint, name, joint.schedule[name]
        null = {k: torch.full((1, *shape), _null(joint.schedule[k])) for k, shape in joint.shapes.items() if k != name}
        self.facts = replace(joint.facts, null={k: v[0] if v.shape == (1, 1) else v for k, v in null.items()})

    @property
    def net(self) -> Any:
        return self.joint.net

    def posterior(self, x: Tensor, t: Any, **cond: Any) -> Any:
        xs, ts = {self.name: x}, {self.name: t}
        for k in self.facts.null:
            value, time = cond.pop(k, None), cond.pop(f"{k}_time", 0.0)
            xs[k], ts[k] = self._seen(k, x, value, time)
        ordered = self.joint.shapes
        return self.joint({k: xs[k] for k in ordered}, {k: ts[k] for k in ordered}, **cond)[self.name]

    def _seen(self, k: str, x: Tensor, value: Tensor | None, time: Any) -> tuple[Tensor, Any]:
        if value is None:
            return blank(self.joint, k, x), 1.0
        v, null = value.reshape(len(x), *self.joint.shapes[k]), _null(self.joint.schedule[k])
        none = (v.isnan() if isinstance(null, float) else v == null).flatten(1).all(1)
        if not bool(none.any()):
            return v, time
        when = torch.as_tensor(time, device=x.device, dtype=x.dtype).expand(len(x))
        return (v.nan_to_num(0.0) if isinstance(null, float) else v.clamp(min=0)), torch.where(none, 1.0, when)


class Inside(Wrapper):
    """`inner` with one part's answer from make(Single(inner, part)): guidance or restoration of an image whose label is
    drawn with it. What is made sees the other parts as they are at every step, at their times. They know of it through
    that part alone: where it restores, let them fall after it (a `Path`), or they settle before they can know.

    Example:
        >>> x = sample(Inside(den, "image", lambda d: MMPS(d, y)), {"image": (8, 1, 8, 8), "label": (8, 1)})
    """

    def __init__(self, inner: Denoiser, part: str, make: Callable[[Denoiser], Denoiser]) -> None:
        super().__init__(inner, density=False)
        shapes: Any = inner.shapes
        self.part, self.shapes, self.own = part, shapes, make(Single(inner, part))

    def begin(self, path: Path | None = None) -> Denoiser:
        twin = self.around(self.inner.begin(path))
        mine = None if path is None else Path(path.matrix, path.track(self.part), path.kind)
        twin._modules["own"] = self.own.begin(mine)  # type: ignore[operator, union-attr]
        return twin

    def posterior(self, x: Any, t: Any, **cond: Any) -> dict[str, Any]:
        others = {k: v for k, v in x.items() if k != self.part} | {f"{k}_time": t[k] for k in x if k != self.part}
        post = dict(self.inner(x, t, **cond))
        post[self.part] = self.own(x[self.part], t[self.part], **others, **cond)
        return post


class Marginals(Wrapper):
    """Each part guided away from its marginal: D_i + (w_i - 1)(D_i - D_i alone), of tokens in log-probabilities.

    scale: w for every part, or {part: w}; a part that rests needs none. One call more for each part with w != 1.

    Raises:
        ValueError: for a part that is not there; a scale that is not finite.
    """

    def __init__(self, inner: Denoiser, scale: float | Mapping[str, float] = 2.0) -> None:
        super().__init__(inner, density=False)
        self.shapes: Any = inner.shapes
        scales = scale if isinstance(scale, Mapping) else dict.fromkeys(self.shapes, scale)
        if strange := sorted(set(scales) - set(self.shapes)):
            raise ValueError(f"scales of {strange}; this denoiser is of the parts {sorted(self.shapes)}")
        self.scales = {k: check_scale(w, f"scale of '{k}'") for k, w in scales.items()}

    def posterior(self, x: Any, t: Any, **cond: Any) -> dict[str, Any]:
        post = dict(self.inner(x, t, **cond))
        for k, w in self.scales.items():
            if w != 1.0:
                alone = {j: v if j == k else blank(self.inner, j, v) for j, v in x.items()}
                other = self.inner(alone, {j: t[k] if j == k else 1.0 for j in x}, **cond)[k]
                post[k] = post[k].mix(other, w)
        return post


def _null(schedule: Any) -> float | int:
    """What stands for "not given": NaN in a tensor; the mask of tokens, or -1 where there is none."""
    if isinstance(schedule, Schedule):
        return torch.nan
    return -1 if schedule.mask is None else schedule.mask


def blank(joint: Any, part: str, like: Tensor) -> Tensor:
    """A part (B, *) as it may be at time 1, where nobody looks: zeros, or masks. like: any tensor of the batch."""
    shape, null = (len(like), *joint.shapes[part]), _null(joint.schedule[part])
    dtype = like.dtype if like.is_floating_point() else torch.get_default_dtype()
    if isinstance(null, float):
        return torch.zeros(shape, dtype=dtype, device=like.device)
    return torch.full(shape, max(null, 0), device=like.device)
