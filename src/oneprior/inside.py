"""The verbs that look inside: what a prior says of x, where all that `sample` and `restore` do is make one.

prior.classify(x)        which class explains it, from one table of errors
prior.features(x)        what a layer of the network says of it
prior.likelihood(x)      how probable it is, in nats
prior.dimension(x)       how many directions it may move in
prior.match(a, b)        which point of one is which of the other
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from oneprior.conditions import Label
from oneprior.noise import uniform
from oneprior.results import Classified, Dimensions, Features, Likelihood, Matched
from oneprior.uses.classify import classify
from oneprior.uses.errors import Plan
from oneprior.uses.features import read
from oneprior.uses.geometry import dimension
from oneprior.uses.likelihood import likelihood
from oneprior.uses.match import between


class Inside:
    """What `Prior` has for x that are there already."""

    def classify(
        self: Any,
        x: Any,
        *,
        classes: Sequence[Any] | None = None,
        calls: int = 16,
        lam: tuple[float, float] = (-2.0, 1.0),
        stages: Sequence[tuple[int, int]] | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> Classified:
        """Which class explains each x best: log-likelihoods in nats from one shared-noise error table.

        classes: names or indices to choose from, all by default; of a prior without labels, values of its first
        condition, such as prompts. calls: network calls per image and class at most.
        lam: range of half log-SNR that is looked at (tokens: of all levels). stages: (evaluations, classes kept) of a
        staged elimination. settings: as in `uses.classify.classify`, margin and weight among them.
        """
        told = any(isinstance(c, Label) for c in self.conditions.values()) or not classes
        name, label = self._label() if told else (next(iter(self.conditions), ""), None)
        known = label.names if label else ()
        m, chosen = self._encode(x), list(range(len(known)) if classes is None else classes)
        with self._timed() as run:
            conds, plan = self._ports(len(chosen), {name: chosen}), Plan(n=calls, lam=lam, seed=seed)
            out = classify(self._watched(run), m, conds, plan, stages=stages, **settings)
        said = {"calls": calls, "lam": lam, "stages": stages, "seed": seed, "condition": name, **settings}
        names = tuple(known[v] if known and isinstance(v, int) else str(v) for v in chosen)
        table = out.table
        return Classified(out.x, (seed,), said, run.calls, run.seconds, out.logits, names, out.nfe, table.x, table.lam)

    def features(
        self: Any,
        x: Any,
        *,
        layer: str = "auto",
        t: Any = 0.1,
        pool: int = 2,
        noises: int = 1,
        seed: int = 0,
        maps: bool = False,
        **cond: Any,
    ) -> Features:
        """What a layer of the network says of each x, noised to time t: vectors (B, d).

        layer: a name, or "auto": a block past the middle; `.shapes` has those there are, and
        `uses.features.search` finds the best for labels of yours. pool: cells an axis that the grid is averaged to.
        noises: draws averaged over; picture i's depend on seed + i. maps: keep the whole grid, for pictures of it.
        """
        m = self._encode(x)
        said: dict[str, Any] = {"t": t, "pool": pool, "noises": noises}
        with self._timed() as run:
            how = said | {"seeds": range(seed, seed + len(m)), **self._ports(len(m), cond)}
            out = read(self._watched(run), m, layer, maps=maps, **how)
        said = {"layer": out.layer, **said, "seed": seed, **cond}
        return Features(out.x, (seed,), said, run.calls, run.seconds, out.shapes, out.maps)

    def likelihood(
        self: Any,
        x: Any,
        *,
        seed: int = 0,
        steps: int = 24,
        probes: int | None = None,
        dequantise: bool = True,
        **cond: Any,
    ) -> Likelihood:
        """log p(x) in nats along the probability-flow ODE, as a density in the user's units; bits per dimension too.

        probes: None for the exact divergence, else the number of Hutchinson probes. dequantise: bring x to the
        stored levels and spread these over their bins first (a density of integers is none). cond: of x, for
        log p(x | cond).
        """
        x, logdet = self._checked(x), self.codec.logdet
        seeds = range(seed, seed + len(x))
        u = torch.from_numpy(uniform(seed, "dequantise", seeds, self.shape)).to(x).clamp(max=1 - 2**-24)
        with self._timed() as run:
            m = self.codec.dequantise(self.codec.snap(x), u) if dequantise else self.codec.encode(x)
            ports: dict[str, Any] = self._ports(len(x), cond)
            out = likelihood(run, m, steps=steps, probes=probes, seeds=seeds, **ports)
        d = x[0].numel()
        log_bin = self.codec.log_bin
        bpd = None if log_bin is None else -(out.x / d + log_bin) / 0.6931471805599453
        said = {"steps": steps, "probes": probes, "seed": seed, "dequantise": dequantise, **cond}
        return Likelihood(out.x + d * logdet, (seed,), said, run.calls, run.seconds, bpd)

    def dimension(self: Any, x: Any, *, method: str = "flipd", seed: int = 0, **settings: Any) -> Dimensions:
        """Local intrinsic dimension at each x: a curve over times and an estimate, which ranks pictures rather than
        counts. settings: as in `uses.geometry.dimension`, and the prior's conditions."""
        m, said = self._encode(x), {"method": method, "seed": seed, **settings}
        ports = self._ports(len(m), {k: settings.pop(k) for k in self.conditions if k in settings})
        with self._timed() as run:
            out = dimension(run, m, method, seeds=range(seed, seed + len(m)), **ports, **settings)
        return Dimensions(out.x, (seed,), said, run.calls, run.seconds, out.curve, out.t)

    def match(self: Any, a: Any, b: Any, points: Tensor | None = None, *, seed: int = 0, **settings: Any) -> Matched:
        """Where in pictures b, (B, C, H, W) like a, the points of a are: (B, P, 2) or (P, 2), (x, y) in pixels, or
        evenly spaced ones. settings: as in `uses.match.between`, and the prior's conditions."""
        pair, said = torch.stack([self._checked(a), self._checked(b)]), {"seed": seed, **settings}
        settings |= self._ports(len(pair[0]), {k: settings.pop(k) for k in self.conditions if k in settings})
        with self._timed() as run:
            maps = [self.codec.encode(v) for v in pair]
            points, out = between(run, *maps, points=points, size=pair.shape[3:], seed=seed, **settings)
        return Matched(out.x, (seed,), said, run.calls, run.seconds, points, out.score, out.mutual, pair)
