"""The one error table: e[k, i, c] = SNR |x_i - D(x_t, t, c)|^2 at half log-SNR lam_k, with noise shared by conditions.

With an exact denoiser (Kong et al. 2023), and pointwise, not only as a bound,
    -log p(x | c) = const + integral over lam of E_eps[e],   const free of c,
so a difference of two columns, summed with the weights of the table, is a log-likelihood ratio in nats. That both
conditions see the same times and the same noise cancels most of the variance (Li et al. 2023, Diffusion Classifier).
For tokens e is the integrand of their bound, over the share t of corruption. Classes, environments, anomalies and the
bound on the likelihood all read this table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from oneprior.denoiser import Denoiser
from oneprior.noise import Seeded, White
from oneprior.tokens import Coins, TokenDenoiser, TokenModel
from oneprior.uses.tokens import integrand

Conditions = Sequence[Mapping[str, Any]] | Mapping[str, Any] | None
Model = Denoiser | TokenModel


class Nodes(NamedTuple):
    """Where a table is evaluated, float64, (n,) each: lam, t, the quadrature weight in units of lam, and |d lam / dt|.

    For tokens the integral is over t itself: weights are of t, the rate is 1, and lam = log((1 - t) / t) / 2.
    """

    lam: Tensor
    t: Tensor
    weight: Tensor
    rate: Tensor


@dataclass(frozen=True)
class Plan:
    """Which (lam, noise) pairs are evaluated, in which order; a pure function of its fields.

    n: evaluations, at the centres of n equal strata; in van der Corput order, so every prefix is nearly stratified.
    lam: range of half log-SNR; +-4 is the +-8 of log-SNR in use for classes. t: a range of times instead. Either is
    cut to what the denoiser knows (its t_range, and t_min of its schedule). placement: strata equal in "lam" or "t".
    Tokens have strata of t, in (0, 1) unless a range of t is given.
    """

    n: int = 16
    lam: tuple[float, float] = (-4.0, 4.0)
    t: tuple[float, float] | None = None
    placement: str = "lam"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n < 1 or self.placement not in ("lam", "t"):
            raise ValueError(f"a plan wants n >= 1 and placement 'lam' or 't'; got n = {self.n}, '{self.placement}'")

    def nodes(self, den: Model, count: int | None = None) -> Nodes:
        """The first `count` nodes (all n by default); weights are the lengths of their cells, and fill the range."""
        u = _strata(self.n)[: self.n if count is None else count]
        rank = u.argsort()
        mid = (u[rank][1:] + u[rank][:-1]) / 2
        cell = torch.diff(mid, prepend=mid.new_zeros(1), append=mid.new_ones(1))[rank.argsort()]
        if isinstance(den, TokenModel):
            a, b = self.t or (0.0, 1.0)
            t = a + (b - a) * u
            return Nodes(-t.logit() / 2, t, cell * (b - a), torch.ones_like(t))
        schedule, (first, last) = den.schedule, den.facts.t_range
        a, b = max(first, schedule.t_min), last
        near, far = self.t or (schedule.time(self.lam[1]), schedule.time(self.lam[0]))
        a, b = max(a, near), min(b, far)
        if not a < b:
            said = self.t or self.lam
            raise ValueError(f"the plan's {said} holds no times that the denoiser knows: {first} to {last}")
        if self.placement == "lam":
            lo, hi = schedule.lam(b), schedule.lam(a)
            if lo == -float("inf"):
                raise ValueError(f"lam has no end at t = {b}, where alpha is 0: give a range of lam, or placement='t'")
            lam = lo + (hi - lo) * u
            t = schedule.time(lam)
            return Nodes(lam, t, cell * (hi - lo), _rate(schedule, t))
        t = a + (b - a) * u
        rate = _rate(schedule, t)
        return Nodes(schedule.lam(t), t, cell * (b - a) * rate, rate)


def _rate(schedule: Any, t: Tensor) -> Tensor:
    (a, _, s), (da, _, ds) = schedule.at(t), schedule.slope(t)
    return ds / s - da / a


def _strata(n: int) -> Tensor:
    # centres of n strata; evaluation k sits in the stratum whose rank is that of k's bit-reversed fraction
    k, corput, place = torch.arange(n), torch.zeros(n, dtype=torch.float64), 0.5
    while bool(k.any()):
        corput, k, place = corput + place * (k % 2), k // 2, place / 2
    return (corput.argsort().argsort().double() + 0.5) / n


class Errors(NamedTuple):
    """x: [evaluations, images, conditions], nats per unit of lam if norm is "squared"; NaN where not evaluated."""

    x: Tensor
    nodes: Nodes
    norm: str = "squared"

    @property
    def lam(self) -> Tensor:
        return self.nodes.lam

    @property
    def weight(self) -> Tensor:
        return self.nodes.weight

    def total(self, weight: Tensor | None = None) -> Tensor:
        """[images, conditions], float64: the weighted sum over evaluations, with a further factor per evaluation."""
        w = self.weight if weight is None else self.weight * weight
        return torch.tensordot(w.to(self.x.device), self.x.double(), 1)


def squared(residual: Tensor) -> Tensor:
    """|eps - e|^2 = SNR |x_0 - D|^2: nats per unit of lam."""
    return residual.square().flatten(1).sum(1)


def l2(residual: Tensor) -> Tensor:
    """|eps - e|: of one size at all times (Jeong et al. 2025), but no likelihood."""
    return squared(residual).sqrt()


def l1(residual: Tensor) -> Tensor:
    """Sum of absolute values: tames a few large pixels, but is no likelihood."""
    return residual.abs().flatten(1).sum(1)


Norm = Callable[[Tensor], Tensor]
NORMS: dict[str, Norm] = {"squared": squared, "l2": l2, "l1": l1}


def errors(
    den: Model,
    x0: Tensor,
    conds: Conditions = None,
    plan: Plan | None = None,
    *,
    norm: str | Norm = "squared",
    seeds: Sequence[int] | None = None,
    which: range | None = None,
    pick: Tensor | None = None,
    max_batch: int = 512,
    grad: bool = False,
    progress: bool = False,
    **given: Any,
) -> Errors:
    """The error table of images, latents or tokens under conditions.

    x0: (B, *) in model range, or tokens (B, L). conds: {"label": tensor of C candidates} (any ports, one row a
    candidate), or a list of C dicts of single conditions (what one lacks is the denoiser's null); None is one column
    without condition. given: conditions of the images themselves, (B, ...). norm: "squared", "l2", "l1", or any map of
    eps - e (B, *) to (B,). seeds: one an image, for noise of its own; without them the noise of the plan serves all
    images. Either way an image's row does not depend on its batch. which, pick: only these evaluations, and per image
    only these conditions, (B, C'). max_batch: the largest batch the network sees, which is what memory grows with.

    Raises:
        ValueError: for a denoiser that is no density (guided, restored), a coloured schedule, unequal candidates, more
            classes than the denoiser knows, or a norm of tokens.
    """
    check_density(den)
    if seeds is not None and len(seeds) != len(x0):
        raise ValueError(f"{len(seeds)} seeds for {len(x0)} images: one seed an image")
    plan, (table, count) = plan or Plan(), candidates(den, conds)
    which = range(plan.n) if which is None else which
    nodes, (draw, measure) = plan.nodes(den), asked(den, norm)
    device, B = x0.device, len(x0)
    times = nodes.t.to(device, x0.dtype if x0.is_floating_point() else torch.float64)
    pick = torch.arange(count).expand(B, count) if pick is None else pick
    pick, C = pick.to(device), pick.shape[1]

    def noise(k: int, i: int, j: int) -> Tensor:
        if seeds is None:
            return draw((plan.seed,), "errors", k, x0[:1]).expand(j - i, *x0.shape[1:])
        return draw(seeds[i:j], f"errors {plan.seed}", k, x0[i:j])

    def call(first: int, last: int) -> Tensor:
        flat = torch.arange(first, last, device=device)  # (evaluation, image, condition), the last running fastest
        row, c = flat // C, flat % C
        p, q = first // C, (last - 1) // C + 1
        n = torch.cat([noise(which[k], max(p - k * B, 0), min(q - k * B, B)) for k in range(p // B, (q - 1) // B + 1)])
        k, i = row // B, row % B
        t = times[torch.tensor(which, device=device)[k]]
        chosen = {name: v.to(device)[pick[i, c]] for name, v in table.items()}
        own = {name: v[i] if isinstance(v, Tensor) and v.ndim else v for name, v in given.items()}
        return measure(x0[i], t, n[row - p], **chosen, **own)

    starts = range(0, len(which) * B * C, max_batch)
    if progress:
        from tqdm.auto import tqdm

        starts = tqdm(starts, desc="errors", leave=False)
    with torch.set_grad_enabled(grad):
        parts = [call(i, min(i + max_batch, len(which) * B * C)) for i in starts]
    x = torch.cat(parts).reshape(len(which), B, C)
    at = torch.tensor(which)
    return Errors(x, Nodes(*(v[at] for v in nodes)), name_of(norm))


def asked(den: Model, norm: str | Norm = "squared") -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """The two maps of which a table is made: (seeds, address, evaluation, like) -> noise, and (x0, t, noise, **cond)
    -> (B,), one network call."""
    if isinstance(den, TokenDenoiser):
        if norm != "squared":
            raise ValueError(f"norm = {name_of(norm)}: tokens have no residual, their table is of the bound alone")
        return lambda seeds, at, k, x: Coins(seeds)(k, at, tuple(x.shape[1:])).to(x.device), partial(integrand, den)
    if norm not in NORMS and not callable(norm):
        raise ValueError(f"norm '{norm}' is not known: one of {', '.join(NORMS)} or a map of eps - e was expected")
    size = NORMS[norm] if isinstance(norm, str) else norm
    return (
        lambda seeds, at, k, x: Seeded(seeds, at)(k, x),
        lambda x0, t, noise, **cond: size(den.residual(x0, t, noise, **cond)),  # type: ignore[union-attr]
    )


def name_of(norm: str | Norm) -> str:
    return norm if isinstance(norm, str) else getattr(norm, "__name__", repr(norm))


def check_density(den: Model) -> None:
    """Refuses denoisers whose errors are no likelihood."""
    if not den.facts.density:
        raise ValueError("this denoiser is no model of a density (guided or restored): give the one inside, `.inner`")
    if isinstance(den, Denoiser) and not isinstance(den.schedule.color, White):
        raise ValueError(f"likelihoods are defined for white noise; the schedule's is {den.schedule.color}")


def candidates(den: Model, conds: Conditions) -> tuple[dict[str, Tensor], int]:
    """Conditions as tensors with one row a candidate, and their number."""
    if conds is None:
        return {}, 1
    if not isinstance(conds, Mapping):
        names = {k: None for c in conds for k in c}
        lack = [k for k in names if k not in den.facts.null and any(k not in c for c in conds)]
        if lack or not len(conds):
            raise ValueError(f"{len(conds)} conditions; {lack} is missing in some, and the denoiser has no null for it")
        return {k: torch.stack(_rows(k, conds, den.facts.null.get(k))) for k in names}, len(conds)
    sizes = {k: len(v) for k, v in conds.items()}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"every port wants one row a candidate; got {sizes}")
    table = {k: torch.as_tensor(v) for k, v in conds.items()}
    if "label" in table and (null := den.facts.null.get("label")) is not None:
        known, most = int(torch.as_tensor(null)), int(table["label"].max())
        if most >= known:
            raise ValueError(
                f"labels up to {most} were given; this denoiser knows {known} classes, 0 to {known - 1} (for none of "
                "them, give a list of conditions and leave the label out)"
            )
    return table, next(iter(sizes.values()))


def _rows(name: str, conds: Sequence[Mapping[str, Any]], null: Any) -> list[Tensor]:
    like = torch.as_tensor(next(c[name] for c in conds if name in c))
    rows = [torch.as_tensor(c.get(name, null)) for c in conds]
    rows = [v[0] if v.ndim > like.ndim else v for v in rows]  # a null may come as a batch of one
    return [v.to(like.dtype).expand_as(like) for v in rows]
