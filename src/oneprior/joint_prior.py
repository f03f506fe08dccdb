"""The prior of samples of several parts: pictures, and what is known beside them.

    prior = oneprior.load("runs/pairs")             # of the parts image and label
    both = prior.sample(8)                          # pictures both.x, and their labels both.parts["label"]
    prior.sample(8, given={"label": 7})             # pictures of sevens
    prior.sample(given={"image": both.x}).parts     # labels of pictures

Its first part is what the other verbs work on, conditioned on the labels: restore, classify, edit, likelihood.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from oneprior import storage
from oneprior.codecs import Codec
from oneprior.conditions import Conditions, Label
from oneprior.denoiser import Counted
from oneprior.joint import JointDenoiser, Marginals, Noisy, Single, views
from oneprior.prior import Prior
from oneprior.results import Result, unwrap
from oneprior.sampling import Sampler, Solver, sample
from oneprior.tokens import Corruption


@dataclass(frozen=True)
class Parts(Result):
    """x: the first part; parts: every part that was drawn or given, labels as indices (B,)."""

    parts: Mapping[str, Tensor] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        return {**super().record(), "parts": {k: v.tolist() for k, v in self.parts.items() if v.ndim == 1}}


class JointPrior(Prior):
    """A prior of a `JointDenoiser`, whose first part is a tensor; parts of a single token are labels, in `conditions`
    under their own name. codec: of every part that is a tensor."""

    def __init__(self, joint: JointDenoiser, codec: Codec, conditions: Conditions, facts: Mapping[str, Any]) -> None:
        self.main = joint.parts[0]
        super().__init__(Single(joint, self.main), codec, conditions, facts)
        self.joint = joint

    def save(self, folder: str | Path, *, force: bool = False, dtype: torch.dtype | None = None) -> Path:
        parts = storage.Parts(self.joint, self.codec, self.conditions, self.facts)
        return storage.write(folder, parts, None, force=force, dtype=dtype)

    def sample(  # type: ignore[override]
        self,
        n: int | None = None,
        *,
        given: Mapping[str, Any] | None = None,
        parts: Sequence[str] | None = None,
        seeds: Sequence[int] | None = None,
        steps: int = 20,
        sampler: str | Sampler | Solver = "auto",
        guidance: float = 1.0,
        temperature: float = 1.0,
        clip: bool = True,
        batch: int = 256,
        progress: bool = False,
        **cond: Any,
    ) -> Parts:
        """Draw the parts that are not given, together. n: 8, as many as there are seeds, or as what is given.

        given: {part: value}, in the user's units: pictures in [0, 1], names or numbers of labels; `Noisy(value, t)` for
        a condition that is to be taken as that noisy. A label may be said by its name as well, label=7. parts: those to
        draw, where some are to be left out. guidance: away from each part's marginal, 1 none. The rest as of `Prior`.

        Raises:
            ValueError: for a part the prior has not, one given and asked for, or a value that does not fit.
        """
        values = {**(given or {}), **cond}
        if n is None and seeds is None:
            sizes = [len(v) for v in map(_value, values.values()) if isinstance(v, Tensor | list | tuple)]
            n = max(sizes, default=None)  # type: ignore[assignment]
        seeds = self._seeds(n, seeds)
        known = {k: self._encoded(k, v, len(seeds)) for k, v in values.items()}
        hold = views.given(self.joint, known, len(seeds), None if parts is None else tuple(parts))
        rests = set() if hold is None else set(hold.value)
        drawn: list[dict[str, Tensor]] = []
        with self._timed() as run:
            counted = Counted(self.joint)
            counted.shapes = self.joint.shapes  # type: ignore[assignment]
            free = {k: guidance for k in self.joint.parts if k not in rests}
            den = counted if guidance == 1.0 else Marginals(counted, free)
            for s in (slice(i, i + batch) for i in range(0, len(seeds), batch)):
                shapes = {k: (len(seeds[s]), *v) for k, v in self.joint.shapes.items()}
                held = None if hold is None else hold.part(s)
                how: dict[str, Any] = {"steps": steps, "sampler": sampler, "temperature": temperature}
                drawn.append(sample(den, shapes, seeds=seeds[s], hold=held, progress=progress, **how))
            run.calls = counted.calls
        shown = [k for k in self.joint.parts if k in values or k not in rests]
        out = {k: self._decoded(torch.cat([d[k] for d in drawn]), clip) for k in shown}
        said = {"steps": steps, "sampler": str(sampler), "guidance": guidance, "temperature": temperature}
        said["given"] = {k: v if isinstance(v, int | str) else type(v).__name__ for k, v in values.items()}
        return Parts(next(iter(out.values())), seeds, said, run.calls, run.seconds, out)

    def _encoded(self, name: str, value: Any, batch: int) -> Any:
        v, known = unwrap(_value(value)), self.conditions.get(name)
        if name not in self.joint.shapes:
            raise ValueError(f"'{name}' was given; this prior is of the parts {list(self.joint.parts)}")
        if isinstance(known, Label):
            v = known.encode(v, batch)["label"][:, None]
        elif not isinstance(self.joint.schedule[name], Corruption):
            v = self.codec.encode(v)
        v = v.to(self.device)
        return Noisy(v, value.t) if isinstance(value, Noisy) else v

    def _decoded(self, m: Tensor, clip: bool) -> Tensor:
        if m.is_floating_point():
            return self._decode(m, clip)
        return m[:, 0] if m.shape[1:] == (1,) else m


def _value(v: Any) -> Any:
    return v.value if isinstance(v, Noisy) else v
