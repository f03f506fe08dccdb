"""The samplers of the peers as their users call them, around the same trivial network.

Each is timed at its best: the network returns what the peer takes without converting it, in float32; objects that
outlive a call (denoisers, solvers, time grids) are made beforehand; progress bars are off; of two classes for one
method the faster one stands here. What a call must do anew (diffusers' set_timesteps, start noise) is timed.

A row has the peers whose documentation names its method: Euler in sigma/alpha is DDIM, and Euler in t is DDIM on the
straight path of flow matching. None of them has a time for each pixel, so none stands beside held pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peers import peers
from torch import Tensor, nn

Network = Callable[[Tensor], Tensor]
Loop = Callable[[], Tensor]
Modules = dict[str, Any]


def loops(shape: tuple[int, ...], steps: int, network: Network) -> dict[str, dict[str, Loop]]:
    """By row and peer, for every peer that imports: a call that draws `shape` in `steps` steps."""
    out: dict[str, dict[str, Loop]] = {}
    for name, modules in peers().items():
        for row, loop in BUILDERS[name](modules, shape, steps, network).items():
            out.setdefault(row, {})[name] = loop
    return out


def diffusers(m: Modules, shape: tuple[int, ...], steps: int, network: Network) -> dict[str, Loop]:
    """The loop of its pipelines."""
    s = m["schedulers"]
    cosine = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "sample"}

    def loop(scheduler: Any, guided: bool = False) -> Loop:
        @torch.no_grad()
        def run() -> Tensor:
            scheduler.set_timesteps(steps)
            x = torch.randn(shape) * scheduler.init_noise_sigma
            for t in scheduler.timesteps:
                if guided:
                    u, c = network(scheduler.scale_model_input(torch.cat([x] * 2), t)).chunk(2)
                    d = u + 2.0 * (c - u)
                else:
                    d = network(scheduler.scale_model_input(x, t))
                x = scheduler.step(d, t, x, return_dict=False)[0]
            return x

        return run

    ddim = s.DDIMScheduler(**cosine, clip_sample=False)
    return {
        "DDIM": loop(ddim),
        "2M": loop(s.DPMSolverMultistepScheduler(**cosine, solver_order=2)),
        "Heun": loop(s.HeunDiscreteScheduler(**cosine)),
        "UniPC-2": loop(s.UniPCMultistepScheduler(**cosine, solver_order=2)),
        "guided DDIM": loop(ddim, guided=True),
    }


def azula(m: Modules, shape: tuple[int, ...], steps: int, network: Network) -> dict[str, Loop]:
    den, sample = m["denoise"], m["sample"]

    class Trivial(den.Denoiser):
        def __init__(self) -> None:
            super().__init__()
            self.schedule = m["noise"].CosineSchedule()

        def forward(self, x_t: Tensor, t: Tensor, **cond: Any) -> Any:
            return den.DiracPosterior(network(x_t))

    def loop(made: Any, **cond: Any) -> Loop:
        return lambda: made(made.init(shape), **cond)

    plain, settings = Trivial(), {"steps": steps, "silent": True}
    label = torch.zeros(shape[0], dtype=torch.long)
    words = {"positive": {"label": label}, "negative": {"label": label}, "guidance": 1.0}
    return {
        "DDIM": loop(sample.EulerSampler(plain, **settings)),
        "2M": loop(sample.xEABSampler(plain, order=2, **settings)),
        "Heun": loop(sample.HeunSampler(plain, **settings)),
        "guided DDIM": loop(sample.EulerSampler(m["guidance"].CFGDenoiser(plain), **settings), **words),
    }


def k_diffusion(m: Modules, shape: tuple[int, ...], steps: int, network: Network) -> dict[str, Loop]:
    s = m["sampling"]
    sigmas = s.get_sigmas_karras(steps, 0.002, 80.0)

    def model(x: Tensor, sigma: Tensor) -> Tensor:
        return network(x)

    def loop(method: Callable[..., Tensor]) -> Loop:
        return lambda: method(model, torch.randn(shape) * sigmas[0], sigmas, disable=True)

    return {"DDIM": loop(s.sample_euler), "2M": loop(s.sample_dpmpp_2m), "Heun": loop(s.sample_heun)}


def smalldiffusion(m: Modules, shape: tuple[int, ...], steps: int, network: Network) -> dict[str, Loop]:
    """Its models predict eps."""

    class Trivial(nn.Module, m["model"].ModelMixin):
        def __init__(self) -> None:
            super().__init__()
            self.input_dims = shape[1:]
            self.cond_embed = m["model"].CondEmbedderLabel(1, 10)

        def forward(self, x: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
            return network(x)

    model, made = Trivial(), m["diffusion"].Accelerator(cpu=True)
    sigmas = m["diffusion"].ScheduleLogLinear(1000, 0.002, 80.0).sample_sigmas(steps)
    label = torch.zeros(shape[0], dtype=torch.long)

    def loop(**guidance: Any) -> Loop:
        def run() -> Tensor:
            *_, x = m["diffusion"].samples(model, sigmas, batchsize=shape[0], accelerator=made, **guidance)
            return x

        return run

    return {"DDIM": loop(), "guided DDIM": loop(cond=label, cfg_scale=1.0)}


def flow_matching(m: Modules, shape: tuple[int, ...], steps: int, network: Network) -> dict[str, Loop]:
    """Its models predict the velocity."""

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return network(x)

    solver, grid = m["solver"].ODESolver(velocity), torch.linspace(0, 1, steps + 1)

    def loop(method: str) -> Loop:
        return lambda: solver.sample(torch.randn(shape), None, method=method, time_grid=grid)

    return {"DDIM": loop("euler"), "Heun": loop("heun2")}


def deepinv(m: Modules, shape: tuple[int, ...], steps: int, network: Network) -> dict[str, Loop]:
    s = m["sampling"]

    class Trivial(nn.Module):
        def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
            return network(x)

    def loop(solver: Any) -> Loop:
        settings = {"solver": solver, "dtype": torch.float32, "minus_one_one": False}
        sde = s.VariancePreservingDiffusion(Trivial(), **settings)
        return lambda: sde.sample(shape)

    return {
        "DDIM": loop(s.DDIMSolver(torch.linspace(1, 0, steps + 1))),
        "Heun": loop(s.HeunSolver(torch.linspace(1, 1e-3, steps + 1))),
    }


BUILDERS: dict[str, Callable[[Modules, tuple[int, ...], int, Network], dict[str, Loop]]] = {
    "diffusers": diffusers,
    "azula": azula,
    "k-diffusion": k_diffusion,
    "smalldiffusion": smalldiffusion,
    "flow_matching": flow_matching,
    "deepinv": deepinv,
}
