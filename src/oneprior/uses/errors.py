"""The one error table: e[k, i, c] = SNR |x_i - D(x_t, t, c)|^2 at half log-SNR lam_k, with noise shared by conditions.

With an exact denoiser (Kong et al. 2023), and pointwise, not only as a bound,
    -log p(x | c) = const + integral over lam of E_eps[e],   const free of c,
so a difference of two columns, summed with the weights of the table, is a log-likelihood ratio in nats. That both
conditions see the same times and the same noise cancels most of the variance (Li et al. 2023, Diffusion Classifier).
Classes, environments, anomalies and the bound on the likelihood all read this table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from oneprior.denoiser import Denoiser
from oneprior.noise import Seeded, White
from oneprior.times import align

Conditions = Sequence[Mapping[str, Any]] | Mapping[str, Any] | None


class Nodes(NamedTuple):
    """Where a table is evaluated: lam (n,), t (n,) and the quadrature weight of each, in units of lam. All float64."""

    lam: Tensor
    t: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Plan:
    """Which (lam, noise) pairs are evaluated, in which order; a pure function of its fields.

    n: evaluations, at the centres of n equal strata; in van der Corput order, so every prefix is nearly stratified.
    lam: range of half log-SNR; +-4 is the +-8 of log-SNR in use for classes. t: a range of times instead. Either is
    cut to what the denoiser knows (its t_range, and t_min of its schedule). placement: strata equal in "lam" or "t".
    """

    n: int = 16
    lam: tuple[float, float] = (-4.0, 4.0)
    t: tuple[float, float] | None = None
    placement: str = "lam"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n < 1 or self.placement not in ("lam", "t"):
            raise ValueError(f"a plan wants n >= 1 and placement 'lam' or 't'; got n = {self.n}, '{self.placement}'")

    def nodes(self, den: Denoiser, count: int | None = None) -> Nodes:
        """The first `count` nodes (all n by default); weights are the lengths of their cells, and fill the range."""
        schedule, (first, last) = den.schedule, den.facts.t_range
        a, b = max(first, schedule.t_min), last
        near, far = self.t or (schedule.time(self.lam[1]), schedule.time(self.lam[0]))
        a, b = max(a, near), min(b, far)
        if not a < b:
            said = self.t or self.lam
            raise ValueError(f"the plan's {said} holds no times that the denoiser knows: {first} to {last}")
        u = _strata(self.n)[: self.n if count is None else count]
        rank = u.argsort()
        mid = (u[rank][1:] + u[rank][:-1]) / 2
        cell = torch.diff(mid, prepend=mid.new_zeros(1), append=mid.new_ones(1))[rank.argsort()]
        if self.placement == "lam":
            lo, hi = schedule.lam(b), schedule.lam(a)
            if lo == -float("inf"):
                raise ValueError(f"lam has no end at t = {b}, where alpha is 0: give a range of lam, or placement='t'")
            lam = lo + (hi - lo) * u
            return Nodes(lam, schedule.time(lam), cell * (hi - lo))
        t = a + (b - a) * u
        return Nodes(schedule.lam(t), t, cell * (b - a) * -slope(schedule, t))


def slope(schedule: Any, t: Tensor) -> Tensor:
    """d lam / dt, negative."""
    (a, _, s), (da, _, ds) = schedule.at(t), schedule.slope(t)
    return da / a - ds / s


def _strata(n: int) -> Tensor:
    # centres of n strata; evaluation k sits in the stratum whose rank is that of k's bit-reversed fraction
    k, corput, place = torch.arange(n), torch.zeros(n, dtype=torch.float64), 0.5
    while bool(k.any()):
        corput, k, place = corput + place * (k % 2), k // 2, place / 2
    return (corput.argsort().argsort().double() + 0.5) / n


class Errors(NamedTuple):
    """x: [evaluations, images, conditions], nats per unit lam (l1 has its own unit); lam, weight: (evaluations,)."""

    x: Tensor
    lam: Tensor
    weight: Tensor

    def total(self, weight: Tensor | None = None) -> Tensor:
        """[images, conditions], float64: the weighted sum over evaluations, with a further factor per evaluation."""
        w = self.weight if weight is None else self.weight * weight
        return torch.tensordot(w.to(self.x.device), self.x.double(), 1)


def l2(den: Denoiser, x0: Tensor, t: Tensor, noise: Tensor, **cond: Any) -> Tensor:
    """SNR |x_0 - D|^2 = |eps - e|^2: nats per unit lam."""
    return den.nats(x0, t, noise, **cond)


def l1(den: Denoiser, x0: Tensor, t: Tensor, noise: Tensor, **cond: Any) -> Tensor:
    """Sum of |eps - e|: tames a few large pixels, but is no likelihood."""
    a, b, s = den.schedule.at(t)
    x = align(a, x0) * x0 + align(s, x0) * noise
    x = x if b is None else x + align(b, x0) * cond["y"]
    return ((x0 - den(x, t, **cond).mean) * align(a / s, x0)).abs().flatten(1).sum(1)


Norm = Callable[..., Tensor]
NORMS: dict[str, Norm] = {"l2": l2, "l1": l1}


def errors(
    den: Denoiser,
    x0: Tensor,
    conds: Conditions = None,
    plan: Plan | None = None,
    *,
    norm: str | Norm = "l2",
    seeds: Sequence[int] | None = None,
    which: range | None = None,
    pick: Tensor | None = None,
    max_batch: int = 512,
    grad: bool = False,
    progress: bool = False,
    **given: Any,
) -> Errors:
    """The error table of images under conditions.

    x0: (B, *) in model range. conds: {"label": tensor of C candidates} (any ports, one row a candidate), or a list of
    C dicts of single conditions (what one lacks is the denoiser's null); None is one column without condition. given:
    conditions of the images themselves, (B, ...). seeds: one an image, for noise of its own; without them the noise
    of the plan serves all images. Either way an image's row does not depend on its batch. which, pick: only these
    evaluations, and per image only these conditions, (B, C'). max_batch: the largest batch the network sees.

    Raises:
        ValueError: for a denoiser that is no density (guided, restored), a coloured schedule, or unequal candidates.
    """
    check_density(den)
    if seeds is not None and len(seeds) != len(x0):
        raise ValueError(f"{len(seeds)} seeds for {len(x0)} images: one seed an image")
    plan, (table, count) = plan or Plan(), candidates(den, conds)
    measure = NORMS[norm] if isinstance(norm, str) else norm
    which = range(plan.n) if which is None else which
    nodes = plan.nodes(den)
    times = nodes.t.to(x0.device, x0.dtype)
    device, B = x0.device, len(x0)
    pick = torch.arange(count).expand(B, count) if pick is None else pick
    pick, C = pick.to(device), pick.shape[1]

    def noise(k: int, i: int, j: int) -> Tensor:
        if seeds is None:
            return Seeded((plan.seed,), "errors")(k, x0[:1]).expand(j - i, *x0.shape[1:])
        return Seeded(seeds[i:j], f"errors {plan.seed}")(k, x0[i:j])

    def call(first: int, last: int) -> Tensor:
        flat = torch.arange(first, last, device=device)  # (evaluation, image, condition), the last running fastest
        row, c = flat // C, flat % C
        p, q = first // C, (last - 1) // C + 1
        n = torch.cat([noise(which[k], max(p - k * B, 0), min(q - k * B, B)) for k in range(p // B, (q - 1) // B + 1)])
        k, i = row // B, row % B
        t = times[torch.tensor(which, device=device)[k]]
        chosen = {name: v.to(device)[pick[i, c]] for name, v in table.items()}
        own = {name: v[i] if isinstance(v, Tensor) and v.ndim else v for name, v in given.items()}
        return measure(den, x0[i], t, n[row - p], **chosen, **own)

    starts = range(0, len(which) * B * C, max_batch)
    if progress:
        from tqdm.auto import tqdm

        starts = tqdm(starts, desc="errors", leave=False)
    with torch.set_grad_enabled(grad):
        parts = [call(i, min(i + max_batch, len(which) * B * C)) for i in starts]
    x = torch.cat(parts).reshape(len(which), B, C)
    at = torch.tensor(which)
    return Errors(x, nodes.lam[at], nodes.weight[at])


def check_density(den: Denoiser) -> None:
    """Refuses denoisers whose errors are no likelihood."""
    if not den.facts.density:
        raise ValueError("this denoiser is no model of a density (guided or restored): give the one inside, `.inner`")
    if not isinstance(den.schedule.color, White):
        raise ValueError(f"likelihoods are defined for white noise; the schedule's is {den.schedule.color}")


def candidates(den: Denoiser, conds: Conditions) -> tuple[dict[str, Tensor], int]:
    """Conditions as tensors with one row a candidate, and their number."""
    if conds is None:
        return {}, 1
    if not isinstance(conds, Mapping):
        names = {k: None for c in conds for k in c}
        lack = [k for k in names if k not in den.facts.null and any(k not in c for c in conds)]
        if lack or not len(conds):
            raise ValueError(f"{len(conds)} conditions; {lack} is missing in some, and the denoiser has no null for it")
        rows = {k: [torch.as_tensor(c.get(k, den.facts.null.get(k))) for c in conds] for k in names}
        return {k: torch.stack([v.to(r[0].dtype).expand_as(r[0]) for v in r]) for k, r in rows.items()}, len(conds)
    sizes = {k: len(v) for k, v in conds.items()}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"every port wants one row a candidate; got {sizes}")
    return {k: torch.as_tensor(v) for k, v in conds.items()}, next(iter(sizes.values()))
