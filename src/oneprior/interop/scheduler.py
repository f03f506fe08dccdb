"""A scheduler of diffusers, as what it is here: a schedule, what the network is told of time, and a sampler.

Trained step k of T is the time (k + 1)/T of a table of betas; the noise levels of the schedulers over sigma are matched
(their x is ours over alpha), and a flow's sigma is rectified flow's time. The times and the last step of the sampler
are asked of the scheduler itself. Not followed: clipping of the mean (`clip_sample`), nothing clips here unless asked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Any

import torch

from oneprior.sampling import DDIM, Adams, Heun, Multistep, Sampler, Solver
from oneprior.sampling.grids import Grid
from oneprior.sampling.solvers import Sbar, bh1, bh2
from oneprior.schedules import Betas, CosineBetas, LinearBetas, RectifiedFlow, ScaledLinearBetas, Schedule
from oneprior.times import Clock

PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v", "flow_prediction": "velocity"}


def schedule(config: Mapping[str, Any]) -> Schedule:
    """The schedule a network was trained with, from the config of any scheduler. Raises ValueError for one unknown."""
    if _flow(config):
        return RectifiedFlow()
    T, first, last = (
        config.get("num_train_timesteps", 1000),
        config.get("beta_start", 1e-4),
        config.get("beta_end", 0.02),
    )
    kind, zero = config.get("beta_schedule", "linear"), bool(config.get("rescale_betas_zero_snr", False))
    if config.get("trained_betas") is not None:
        return Betas(values=tuple(config["trained_betas"]), zero_snr=zero)
    if kind == "linear":
        return LinearBetas(T, first=first * T / 1000, last=last * T / 1000, zero_snr=zero)
    if kind == "scaled_linear":
        return ScaledLinearBetas(T, first=first, last=last, zero_snr=zero)
    if kind == "squaredcos_cap_v2":
        return CosineBetas(T, zero_snr=zero)
    if kind == "sigmoid":
        betas = torch.linspace(-6, 6, T, dtype=torch.float64).sigmoid() * (last - first) + first
        return Betas(values=tuple(betas.tolist()), zero_snr=zero)
    raise ValueError(f"the scheduler's beta_schedule '{kind}' is not known here")


def prediction(config: Mapping[str, Any]) -> str:
    """eps, x0, v or velocity."""
    said = "flow_prediction" if _flow(config) else config.get("prediction_type", "epsilon")
    if said not in PREDICTIONS:
        raise ValueError(f"the scheduler's prediction_type '{said}' is not one of {list(PREDICTIONS)}")
    return PREDICTIONS[said]


def clock(config: Mapping[str, Any]) -> Clock:
    """What the network is told: the trained step, or T times a flow's sigma."""
    T = config.get("num_train_timesteps", 1000)
    return Clock(T, 0 if _flow(config) else -1)


def _flow(config: Mapping[str, Any]) -> bool:
    return config.get("prediction_type") == "flow_prediction" or config.get("_class_name", "").startswith("FlowMatch")


@dataclass(frozen=True)
class Native(Grid):
    """The times a scheduler walks, asked of itself. kind: its class; config: its settings, in JSON."""

    kind: str
    config: str

    def made(self, n: int) -> Any:
        import diffusers

        settings = {k: v for k, v in json.loads(self.config).items() if not k.startswith("_")}
        scheduler = getattr(diffusers, self.kind)(**settings)
        scheduler.set_timesteps(n)
        return scheduler

    def calls(self, schedule: Schedule, n: int, high: float, low: float) -> Sequence[float]:
        return self.times(schedule, n)[:-1]

    def end(self, schedule: Schedule, n: int) -> float:
        return self.times(schedule, n)[-1]

    def times(self, schedule: Schedule, n: int) -> list[float]:
        """n + 1 of them. Raises ValueError where the scheduler steps elsewhere than to the next time it asks at."""
        scheduler = self.made(n)
        if hasattr(scheduler, "sigmas"):
            stride = 2 if self.kind == "HeunDiscreteScheduler" else 1  # its second calls
            levels = [float(s) for s in scheduler.sigmas]
            levels = [*levels[:1], *levels[1:-1:stride], levels[-1]]
            if isinstance(schedule, RectifiedFlow):
                return levels
            return [schedule.time(-log(s)) if s > 0 else 0.0 for s in levels]
        T, steps = scheduler.config.num_train_timesteps, [int(k) for k in scheduler.timesteps]
        after = [k - T // n for k in steps]
        if after[:-1] != steps[1:]:
            raise ValueError(
                f"{self.kind} with {n} steps moves by {T // n} but asks next at {steps[1]} after {steps[0]}: choose a "
                f"number that divides {T}, and trailing or leading times, or a sampler of ours"
            )
        first = 1.0 if getattr(scheduler.config, "set_alpha_to_one", True) else 0.0  # of DDIM alone
        return [*((k + 1) / T for k in steps), (after[-1] + 1) / T if after[-1] >= 0 else (1 - first) / T]


def sampler(config: Mapping[str, Any]) -> Sampler | None:
    """The scheduler's solver on its own times; None where there is no twin of it here."""
    kind = config.get("_class_name", "")
    solver = _solver(kind, config)
    return None if solver is None else Sampler(solver, Native(kind, json.dumps(dict(config), sort_keys=True)))


def _solver(kind: str, config: Mapping[str, Any]) -> Solver | None:
    order, taper = config.get("solver_order", 2), config.get("final_sigmas_type", "zero") == "sigma_min"
    noise = {"dpmsolver++": 0.0, "sde-dpmsolver++": 1.0}.get(config.get("algorithm_type", "dpmsolver++"))
    if kind in ("DDIMScheduler", "EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler"):
        return DDIM()
    if kind == "DDPMScheduler" and config.get("variance_type", "fixed_small") == "fixed_small":
        return DDIM(1.0)
    if kind == "HeunDiscreteScheduler":
        return Heun()
    if kind == "LMSDiscreteScheduler":
        return Adams(4, Sbar())
    if kind == "UniPCMultistepScheduler" and config.get("predict_x0", True):
        rule = bh1 if config.get("solver_type", "bh2") == "bh1" else bh2
        return Adams(order, corrector=True, rule=rule, taper=True)
    midpoint = config.get("solver_type", "midpoint") == "midpoint" and order == 2
    if kind == "DPMSolverMultistepScheduler" and midpoint and noise is not None and not (taper and noise):
        return Adams(2, rule=bh2, taper=True) if taper else Multistep(noise)
    return None
