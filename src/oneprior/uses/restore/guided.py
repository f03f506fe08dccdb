"""Methods that are a denoiser given the measurement, or a hold, and any sampler; and particles around one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from oneprior import paths
from oneprior.denoiser import Denoiser
from oneprior.guidance.diffpir import DiffPIR, Renewed
from oneprior.guidance.mmps import MMPS, TMPD, PiGDM
from oneprior.guidance.particles import twisted
from oneprior.noise import Seeded
from oneprior.operators import Mask, Measurement
from oneprior.paths import Hold
from oneprior.sampling import DDIM, Multistep, Sampler, sample, sampler
from oneprior.sampling.grids import Flow
from oneprior.uses.restore.settings import DiffPIRSettings, MMPSSettings, RepaintSettings, TwistedSettings
from oneprior.uses.restore.steps import first

COVARIANCES: dict[str, type[MMPS]] = {"posterior": MMPS, "isotropic": PiGDM, "row_sums": TMPD}


# what a measurement leaves open is decided at high noise: on a trained prior 0.3 dB of the mean beside the usual grid
AUTO = Sampler(Multistep(1.0), Flow(3.0, 1.0, 1.5))


def shape_of(seen: Measurement) -> tuple[int, ...]:
    """Of x, batch axis first."""
    return seen.operator.domain(tuple(seen.y.shape))


def mmps(den: Denoiser, seen: Measurement, s: MMPSSettings, *, seeds: Sequence[int], **more: Any) -> Tensor:
    """MMPS, PiGDM and TMPD: what differs is the covariance of x_0 given x_t."""
    of = COVARIANCES[s.covariance]
    noise = Seeded(seeds) if s.rank else None
    given = of(den, seen, iterations=s.iterations, tol=s.tol, noise=noise, rank=max(s.rank, 1))
    name: Any = ("ancestral" if s.rank else AUTO) if s.sampler == "auto" else s.sampler
    by = sampler(name)
    if s.rank and not (isinstance(by.solver, DDIM) and by.solver.kappa):
        raise ValueError(f"sampler '{s.sampler}' takes means, not draws of x_0: give rank=0 or sampler='ancestral'")
    return sample(given, shape_of(seen), path=by.path(den, s.steps), sampler=by, seeds=seeds, **more)


def diffpir(den: Denoiser, seen: Measurement, s: DiffPIRSettings, *, seeds: Sequence[int], **more: Any) -> Tensor:
    by = Sampler(DDIM(Renewed(s.zeta)))
    return sample(DiffPIR(den, seen, s.lam), shape_of(seen), steps=s.steps, sampler=by, seeds=seeds, **more)


def repaint(den: Denoiser, seen: Measurement, s: RepaintSettings, *, seeds: Sequence[int], **more: Any) -> Tensor:
    """RePaint (Lugmayr et al. 2022). The noise of y is not used: what the mask shows is kept as it is."""
    if not isinstance(seen.operator, Mask):
        raise ValueError(f"repaint is for a Mask, not {type(seen.operator).__name__}: use mmps")
    by = sampler("ancestral")
    path = paths.repaint(by.path(den, s.steps).matrix[:, 0].tolist(), s.jump, s.resample)
    hold = Hold(seen.y, seen.operator.mask.bool().expand_as(seen.y), clamp=True)
    return sample(den, shape_of(seen), path=path, sampler=by, seeds=seeds, hold=hold, **more)


def twist(
    den: Denoiser, seen: Measurement, s: TwistedSettings, *, seeds: Sequence[int], progress: bool = False, **cond: Any
) -> Tensor:
    """TDS (Wu et al. 2023), one particle drawn by its weight. Without a bar of progress."""
    by = s.sampler
    if by == "auto":
        by = "ancestral" if first(den, seen, cond)[1].var is None else "ancestral-optimal"
    of = twisted(den, shape_of(seen), seen, count=s.count, steps=s.steps, sampler=by, seeds=seeds, **cond)
    return of.draw()
