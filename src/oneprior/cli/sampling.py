"""From the flags of `oneprior sample` to what `Prior.sample` takes; here names become objects. Imports torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import isfinite
from typing import Any

from oneprior import sampling
from oneprior.cli import inputs
from oneprior.cli.settings import SampleSettings
from oneprior.codecs import Pixels
from oneprior.denoiser import Denoiser
from oneprior.guidance import APG, CFG, CFGpp, CFGZero, Threshold, sigma
from oneprior.prior import Guidance, Prior
from oneprior.sampling import SAMPLERS, Sampler, grids
from oneprior.schedules import Eta
from oneprior.token_prior import TokenPrior

GUIDES: dict[str, Callable[..., Denoiser]] = {"cfg": CFG, "cfg++": CFGpp, "apg": APG, "cfg-zero": CFGZero}
GRIDS: dict[str, grids.Grid] = {
    "cosine": grids.cosine_time,
    "uniform": grids.uniform_time,
    "quadratic": grids.quadratic_time,
    "uniform-lam": grids.uniform_lam,
    "karras": grids.karras,
    "flow": grids.FLOW,
    "trailing": grids.Trailing(),
    "leading": grids.Leading(),
    "linspace": grids.Linspace(),
    "ays-sd15": grids.AYS_SD15,
    "ays-sdxl": grids.AYS_SDXL,
}
FRAMES = 32  # of a trajectory, at most
PICTURES_ONLY = ("kappa", "eta", "grid", "interval", "rescale", "threshold", "trajectory")
OWN = ("prompt", "length", "top_p")
FURTHER = ("kappa", "eta", "grid", "temperature", "interval", "rescale", "threshold", *OWN, "text", "frames")


def further(s: SampleSettings) -> dict[str, Any]:
    """The rarer settings, where they were given: with the common ones they make a sample what it is."""
    rare: dict[str, Any] = {k: v for k in FURTHER if (v := getattr(s, k)) is not None}
    rare |= {k: [*v] for k in ("given", "negative") if (v := getattr(s, k))}
    return rare | ({"guide": s.guide} if s.guide != "cfg" else {})


def arguments(prior: Prior, s: SampleSettings) -> dict[str, Any]:
    """What `Prior.sample` takes beside seeds and conditions.

    Raises:
        ValueError: for a name that is not known (all that are get listed), a setting that the named sampler or guidance
            does not have, or a number out of range.
    """
    if isinstance(prior, TokenPrior):
        return _of_tokens(s)
    grids.check_steps(20 if s.steps is None else s.steps)
    if wrong := [k for k in OWN if getattr(s, k) is not None]:
        raise ValueError(f"--{wrong[0]} is for a prior of tokens, and this one is none")
    if s.frames is not None and (len(prior.shape) != 4 or s.frames < 1):
        raise ValueError(f"--frames {s.frames}: one or more, of a prior of clips; this one's samples are {prior.shape}")
    temperature = 1.0 if s.temperature is None else s.temperature
    if not (isfinite(temperature) and temperature >= 0):
        raise ValueError(f"--temperature {temperature}: a number of at least 0 was expected; 1 is plain")
    call = {"steps": s.steps, "sampler": sampler(s), "guidance": guidance(prior, s), "temperature": temperature}
    call |= {} if s.frames is None else {"frames": s.frames}
    return call | ({} if s.trajectory is None else {"trajectory": FRAMES})


def _of_tokens(s: SampleSettings) -> dict[str, Any]:
    """What `TokenPrior.sample` takes beside seeds and conditions. Raises ValueError for flags of pictures."""
    wrong = [k for k in PICTURES_ONLY if getattr(s, k) is not None]
    wrong += ["guide"] * (s.guide != "cfg") + ["negative"] * bool(s.negative)
    if wrong:
        raise ValueError(f"--{wrong[0]} is not for a prior of tokens; these are: --{', --'.join(OWN)}, --temperature")
    own = {k: v for k in (*OWN, "temperature") if (v := getattr(s, k)) is not None}
    return {"steps": s.steps, "sampler": s.sampler, "guidance": s.guidance, **own}


def sampler(s: SampleSettings) -> str | Sampler:
    """The named sampler, with another stochasticity or grid where these were given."""
    plain = s.kappa is None and s.eta is None and s.grid is None
    if s.sampler in ("auto", "own") and not plain:
        raise ValueError(f"--sampler {s.sampler} chooses kappa and grid itself: name a sampler to set them, such as 2m")
    if s.sampler in ("auto", "own"):
        return s.sampler
    chosen = sampling.sampler(s.sampler)
    if plain:
        return s.sampler
    if s.grid is not None:
        chosen = replace(chosen, grid=_named("--grid", s.grid, GRIDS))
    if s.kappa is None and s.eta is None:
        return chosen
    if s.kappa is not None and s.eta is not None:
        raise ValueError("--kappa and --eta say the same in two measures: give one of them")
    if not hasattr(chosen.solver, "kappa"):
        able = ", ".join(k for k, v in SAMPLERS.items() if hasattr(v.solver, "kappa"))
        raise ValueError(f"--sampler {s.sampler} has no stochasticity to set; these have: {able}")
    if s.eta is not None and not 0 <= s.eta <= 1:
        raise ValueError(f"--eta {s.eta}: a number in [0, 1] was expected; 0 is the ODE, 1 ancestral sampling")
    if s.kappa is not None and not (isfinite(s.kappa) and s.kappa >= 0):
        raise ValueError(f"--kappa {s.kappa}: a number of at least 0 was expected; 0 is the ODE, 1 the reverse SDE")
    kappa: Any = s.kappa if s.eta is None else Eta(s.eta)
    return replace(chosen, solver=replace(chosen.solver, kappa=kappa))  # type: ignore[type-var,call-arg]


def guidance(prior: Prior, s: SampleSettings) -> Guidance:
    """A scale where that says it all, else a function of the prior's denoiser."""
    kind = _named("--guide", s.guide, GUIDES)
    how: dict[str, Any] = {}
    if s.interval is not None:
        how["interval"] = _interval(s.interval)
    if s.rescale is not None:
        if not 0 <= s.rescale <= 1:
            raise ValueError(f"--rescale {s.rescale}: a number in [0, 1] was expected; 0 is none")
        if kind is not CFG:
            raise ValueError(f"--rescale belongs to --guide cfg; {s.guide} limits its update in its own way")
        how["rescale"] = s.rescale
    if s.negative:
        names = [item.partition("=")[0] for item in s.negative]
        values = prior.conditions.encode(1, **inputs.conditions(prior, None, s.negative, [0]))
        how["negative"] = {k: values[k].to(prior.device) for k in names}
    if s.guidance == 1.0 and s.guide != "cfg++":
        if how or kind is not CFG:
            raise ValueError("there is no guidance at scale 1: give --guidance SCALE as well, such as 2")
        kind = None
    if s.threshold is not None and not isinstance(prior.codec, Pixels):
        raise ValueError("--threshold holds pixels in their range; the samples of this prior are no pixels")
    if s.threshold is None and (kind is None or (kind is CFG and not how)):
        return s.guidance

    def guided(den: Denoiser) -> Denoiser:
        den = den if kind is None else kind(den, s.guidance, **how)
        return den if s.threshold is None else Threshold(den, s.threshold)

    return guided


def _interval(text: str) -> sigma:
    try:
        lo, hi = (float(v) for v in text.split(","))
    except ValueError:
        lo = hi = 0.0
    if not 0 <= lo < hi:
        raise ValueError(f"--interval {text}: LO,HI in sigma/alpha was expected, 0 <= LO < HI, such as 0.3,5")
    return sigma(lo, hi)


def _named(flag: str, name: str, table: dict[str, Any]) -> Any:
    if name not in table:
        raise ValueError(f"{flag} {name} is not known; one of {', '.join(table)} was expected")
    return table[name]
