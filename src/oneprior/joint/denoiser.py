"""A denoiser of several parts: D_i(x^1_{t_1}, .., x^N_{t_N}; t_1, .., t_N) = E[x^i_0 | all that is shown], for every i.

Each part has a schedule (of tensors) or a corruption (of tokens), and a time of its own; x and t are dicts. One network
sees all noisy parts and all times, and answers for each (UniDiffuser, Bao et al. 2023). Which use it is, the times say:
    joint sample      all fall together
    x^i given x^j     t_j = 0 throughout, or a fixed t_j > 0: a condition of that much noise
    marginal of x^i   t_j = 1 throughout
At t_j = 1 a part says nothing and networks of ours do not look at it, so that a marginal costs no fresh noise: the mean
over x_j of what the paper draws at every call. Three designs of the literature are three laws of times to train under:
`objective`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from oneprior.denoiser import Denoiser, Facts, NetworkDenoiser
from oneprior.posterior import Posterior, Prediction
from oneprior.schedules import Schedule
from oneprior.times import Time, align
from oneprior.tokens import Corruption, TokenDenoiser


class Categorical:
    """What is known of tokens x_0: logp (B, L, V), log p(x_0 | x_t); mean is its exponential, E[one-hot of x_0]."""

    var = None

    def __init__(self, logp: Tensor, x_t: Tensor) -> None:
        self.logp, self.x_t = logp, x_t

    @property
    def mean(self) -> Tensor:
        return self.logp.exp()

    def mix(self, other: Categorical, scale: Any) -> Categorical:
        """other^(1 - scale) self^scale, normalised: scale 1 is self, above 1 extrapolates (guidance)."""
        mixed = torch.lerp(other.logp, self.logp, scale)
        sure = torch.maximum(self.logp, other.logp) < -1e3  # what neither thinks possible is not made so by a scale
        return Categorical(mixed.masked_fill(sure, -2e4).log_softmax(-1), self.x_t)


class _Handed(nn.Module):
    """Stands for a network whose output is at hand."""

    def forward(self, x: Tensor, t: Tensor | None = None, *, F: Tensor) -> Tensor:
        return F


class JointDenoiser(Denoiser):
    """net({part: x}, {part: t (B,)}, **ports) -> {part: output}: like x for tensors, logits (B, L, V) for tokens.

    shapes: of each part without the batch, (L,) for tokens. schedules: a `Schedule`, or a `tokens.Corruption` for parts
    of tokens. predictions: what the network predicts of each tensor, "v" unless said; of tokens their full posterior.
    tied: it was trained with one time for all parts, so others than that and 1 (a part left out) are refused.

    Example:
        >>> den = JointDenoiser(net, {"image": (1, 8, 8), "label": (1,)}, {"image": Cosine(), "label": Absorbing(11)})
        >>> x = sample(den, {"image": (8, 1, 8, 8), "label": (8, 1)}, hold=given(den, {"label": 7}, 8))

    Raises:
        ValueError: where parts of shapes, schedules and predictions differ; when asked with other parts than these.
    """

    def __init__(
        self,
        net: nn.Module,
        shapes: Mapping[str, tuple[int, ...]],
        schedules: Mapping[str, Schedule | Corruption],
        predictions: Mapping[str, str | Prediction] | None = None,
        *,
        tied: bool = False,
        facts: Facts | None = None,
    ) -> None:
        super().__init__()
        said = dict(predictions or {})
        if shapes.keys() != schedules.keys() or said.keys() - shapes.keys():
            every = f"{sorted(shapes)}, {sorted(schedules)}" + (f" and {sorted(said)}" if said else "")
            raise ValueError(f"shapes, schedules (and predictions) are of the parts {every}: the same were expected")
        self.net, self.shapes, self.tied = net, {k: tuple(v) for k, v in shapes.items()}, tied
        self.schedule: Any = dict(schedules)
        self.facts = facts or Facts()
        self.heads = nn.ModuleDict()
        for k, s in schedules.items():
            if isinstance(s, Schedule):
                self.heads[k] = NetworkDenoiser(_Handed(), s, said.get(k, "v"))
            else:
                self.heads[k] = TokenDenoiser(_Handed(), s, timed=False)

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.shapes)

    def raw(self, x: Mapping[str, Tensor], t: Mapping[str, Time], **cond: Any) -> dict[str, Tensor]:
        """The network's outputs, before any conversion."""
        seen, clocks = {}, {}
        for k, head in self.heads.items():
            v, own = x[k], t[k]
            exact = torch.promote_types(v.dtype, torch.float32) if v.is_floating_point() else torch.float32
            clock = torch.as_tensor(own, device=v.device, dtype=exact)
            clocks[k] = clock.expand(len(v)) if clock.ndim < 2 else clock
            c = head.prediction.row(head.schedule, own).c if isinstance(head, NetworkDenoiser) else 1.0
            seen[k] = v if isinstance(c, float) and c == 1.0 else align(c, v) * v
        return self.net(seen, clocks, **cond)

    def posterior(self, x: Any, t: Any, **cond: Any) -> dict[str, Any]:
        if self.tied:
            self._refuse(t)
        out = self.raw(x, t, **cond)
        return {k: self._read(k, x[k], t[k], out[k]) for k in x}

    def _read(self, k: str, x: Tensor, t: Any, F: Tensor) -> Posterior | Categorical:
        head: Any = self.heads[k]
        if isinstance(head, TokenDenoiser):
            return Categorical(head(x, t, F=F), x)
        return head.posterior(x, t, F=F)

    def _refuse(self, t: Mapping[str, Any]) -> None:
        shown = {float(v) for v in t.values() if not isinstance(v, Tensor)} - {1.0}
        if len(shown) > 1:
            raise ValueError(
                f"parts at the times {sorted(shown)}: this denoiser was trained with one time for all (tied), and with "
                "parts left out (1); train with independent times to give a part, or one part at a time of its own"
            )
