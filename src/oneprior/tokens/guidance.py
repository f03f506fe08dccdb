"""Denoisers of tokens that hold one and change what it says: guidance, truncation, temperature.

Classifier-free guidance mixes log p = w log p_c + (1 - w) log p_u and normalises (Ho and Salimans 2022), w = 1 plain.
On masks p(x_0 | x_t) is what is mixed. Where tokens are replaced, a step depends on p through x_t as well, and the laws
of the steps are mixed in its place (Schiff et al. 2024, UDLM); VQ-Diffusion mixes p all the same (Tang et al. 2022).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from oneprior.guidance.cfg import _like
from oneprior.guidance.scale import check_scale
from oneprior.times import Time
from oneprior.tokens.corruptions import Absorbing
from oneprior.tokens.denoiser import NEVER, TokenModel, TokenWrapper


class CFG(TokenWrapper):
    """Guidance of `inner` at `scale`, a float or (B,) one a sample; conditions are dropped to `null`.

    negative: condition values to steer away from instead of `inner.facts.null`. A learned null is one of these values,
    as the index of a label beyond the last. prompt: bool (L,) or (B, L), tokens that the null call sees masked (LLaDA;
    its cfg_scale c is scale c + 1). on: what is mixed, "posterior" or "step"; by default as the corruption asks for.
    With "step" log p is that of a step to time 0.

    Example:
        >>> x = FirstHitting()(CFG(den, 2.0), (8, 64), label=label)

    Raises:
        ValueError: when there is nothing to drop, or nothing was given; for a scale NaN or infinite.
    """

    def __init__(
        self,
        inner: TokenModel,
        scale: float | Tensor = 2.0,
        *,
        negative: Mapping[str, Any] | None = None,
        prompt: Tensor | None = None,
        on: Literal["posterior", "step"] | None = None,
    ) -> None:
        super().__init__(inner)
        masks = isinstance(inner.corruption, Absorbing)
        self.scale, self.other, self.prompt = check_scale(scale), dict(negative or inner.facts.null), prompt
        self.on = on or ("posterior" if masks else "step")
        if not self.other and prompt is None:
            raise ValueError(
                "guidance needs a conditional prior: this denoiser knows no null condition (facts.null is empty), and "
                "no prompt= was given"
            )
        if (masks and self.on == "step") or (prompt is not None and not masks):
            raise ValueError(f"on='{self.on}' with prompt={prompt is not None} does not go with {inner.corruption}")

    def forward(self, x: Tensor, t: Time, *, rows: Tensor | None = None, **cond: Any) -> Tensor:
        if self._plain(1.0):
            return self.inner(x, t, rows=rows, **cond)
        if self._plain(0.0):
            return self.inner(self._hidden(x), t, rows=rows, **self._null(cond))
        n = len(x)
        rows = _cat(rows, rows, n)
        return self._mix(self.inner(self._twice(x), _cat(t, t, n), rows=rows, **self._both(cond, n)))

    def step(self, x: Tensor, t: Time, s: Time, **cond: Any) -> Tensor:
        if self.on == "posterior":
            return super().step(x, t, s, **cond)
        if self._plain(1.0):
            return self.inner.step(x, t, s, **cond)
        if self._plain(0.0):
            return self.inner.step(x, t, s, **self._null(cond))
        n = len(x)
        law = self.inner.step(self._twice(x), _cat(t, t, n), _cat(s, s, n), **self._both(cond, n))
        return self._mix(law.clamp(min=1e-300).log()).exp()

    def _plain(self, scale: float) -> bool:
        return isinstance(self.scale, float) and self.scale == scale  # one call serves

    def _mix(self, both: Tensor) -> Tensor:
        c, u = both.chunk(2)
        w = self.scale.to(c)[:, None, None] if isinstance(self.scale, Tensor) else self.scale
        return (w * c + (1 - w) * u).log_softmax(-1)

    def _twice(self, x: Tensor) -> Tensor:
        return torch.cat([x, self._hidden(x)])

    def _hidden(self, x: Tensor) -> Tensor:
        if self.prompt is None:
            return x
        return x.masked_fill(self.prompt.to(x.device)[..., : x.shape[1]], self.corruption.vocab - 1)

    def _null(self, cond: dict[str, Any]) -> dict[str, Any]:
        if self.other and not any(cond.get(k) is not None for k in self.other):
            raise ValueError(f"guidance needs one of the conditions {sorted(self.other)}; none was given")
        return {k: _like(self.other[k], v) if k in self.other and isinstance(v, Tensor) else v for k, v in cond.items()}

    def _both(self, cond: dict[str, Any], batch: int) -> dict[str, Any]:
        return {k: _cat(v, null, batch) for (k, v), null in zip(cond.items(), self._null(cond).values(), strict=True)}


def _cat(a: Any, b: Any, batch: int) -> Any:
    """Both halves of a doubled batch; what all samples share stays as it is."""
    return torch.cat([a, b]) if isinstance(a, Tensor) and a.ndim and len(a) == batch else a


class Shaped(TokenWrapper):
    """Abstract: declares `shape`, a change of the posterior of single tokens. Certain tokens stay certain."""

    def __init__(self, inner: TokenModel) -> None:
        super().__init__(inner)
        if getattr(inner, "on", "posterior") == "step":
            raise ValueError(f"{type(self).__name__} acts on p and this guidance mixes steps: put it inside, CFG(...)")

    def forward(self, x: Tensor, t: Time, *, rows: Tensor | None = None, **cond: Any) -> Tensor:
        return self.shape(self.inner(x, t, rows=rows, **cond)).log_softmax(-1)

    @abstractmethod
    def shape(self, logp: Tensor) -> Tensor:
        """log p (B, L, V), which need not be normalised, from log p."""


class TopP(Shaped):
    """The likeliest symbols, while the mass before each is below p in (0, 1]: at least p in all (Holtzman et al. 2020;
    VQ-Diffusion's truncation rate). whole=False leaves out the one that crosses p, if it is not the first (MDLM)."""

    def __init__(self, inner: TokenModel, p: float, *, whole: bool = True) -> None:
        super().__init__(inner)
        if not 0 < p <= 1:
            raise ValueError(f"p = {p}: a mass in (0, 1] was expected")
        self.p, self.whole = p, whole

    def shape(self, logp: Tensor) -> Tensor:
        if self.p == 1:
            return logp
        best = logp.exp().sort(dim=-1, descending=True)
        before = best.values.cumsum(-1)
        over = before - best.values >= self.p if self.whole else before > self.p
        over[..., 0] = False
        return logp.masked_fill(over.scatter(-1, best.indices, over), 2 * NEVER)


class TopK(Shaped):
    """The k likeliest symbols."""

    def __init__(self, inner: TokenModel, k: int) -> None:
        super().__init__(inner)
        if not 1 <= k <= inner.corruption.vocab:
            raise ValueError(f"k = {k}: one of 1 .. {inner.corruption.vocab} symbols was expected")
        self.k = k

    def shape(self, logp: Tensor) -> Tensor:
        kept = logp.topk(self.k, -1)
        return torch.full_like(logp, 2 * NEVER).scatter(-1, kept.indices, kept.values)


class Temperature(Shaped):
    """p^(1 / temperature); 0 is the likeliest symbol."""

    def __init__(self, inner: TokenModel, temperature: float) -> None:
        super().__init__(inner)
        if not temperature >= 0:
            raise ValueError(f"temperature = {temperature}: 0 or more was expected")
        self.temperature = temperature

    def shape(self, logp: Tensor) -> Tensor:
        if self.temperature:
            return logp / self.temperature
        return torch.full_like(logp, 2 * NEVER).scatter(-1, logp.argmax(-1, keepdim=True), 0.0)
