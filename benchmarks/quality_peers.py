"""The deterministic samplers of the peers, in the configurations that their users have, around one exact denoiser.

An entry is run(ask, eps, n) -> x: from standard normal numbers `eps` (B, d), float64, with at most n calls of
`ask(x, a, s)`, which answers E[x_0 | x] for x = a x_0 + s noise, counts, and keeps the first question: the exact end
point is taken from there, since every library begins at a noisiest level of its own. Methods of k calls a step take
n // k steps. Sigmas are each library's tables (float32 where it says so), states stay float64 where it allows that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from peers import peers
from torch import Tensor, nn

Ask = Callable[[Tensor, Any, Any], Tensor]
Run = Callable[[Ask, Tensor, int], Tensor]
Modules = dict[str, Any]


def entries(case: str, schedule: Any) -> dict[str, dict[str, Run]]:
    """By library and configuration, for one of the schedules "VP", "cosine", "flow", "EDM"."""
    return {name: dict(BUILDERS[name](modules, case, schedule)) for name, modules in peers().items()}


Entries = Iterator[tuple[str, Run]]


def diffusers(m: Modules, case: str, schedule: Any) -> Entries:
    s = m["schedulers"]
    if case == "EDM":
        edm = {"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5}
        for grid in ("karras", "exponential"):
            yield f"Euler {grid}", _edm(s.EDMEulerScheduler, sigma_schedule=grid, **edm)
            for k in (2, 3):
                yield (
                    f"DPM++ {k}M {grid}",
                    _edm(s.EDMDPMSolverMultistepScheduler, solver_order=k, sigma_schedule=grid, **edm),
                )
        return
    betas = {"VP": "linear", "cosine": "squaredcos_cap_v2", "flow": "linear"}[case]
    flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    plain: dict[str, Any] = {"beta_schedule": betas}
    if case == "flow":
        spacings = {"flow": flow, "flow shift 3": {**flow, "flow_shift": 3.0}}
    else:
        plain["prediction_type"] = "sample"
        spacings = {
            "trailing": {"timestep_spacing": "trailing"}, "linspace": {"timestep_spacing": "linspace"},
            **{k: {f"use_{k}_sigmas": True} for k in ("karras", "exponential", "beta")},
        }  # fmt: skip
    for name, spaced in spacings.items():
        both = {**plain, **spaced}
        for k in (2, 3):
            yield f"DPM++ {k}M {name}", _levels(s.DPMSolverMultistepScheduler, solver_order=k, **both)
            yield f"UniPC-{k} {name}", _levels(s.UniPCMultistepScheduler, solver_order=k, **both)
            yield f"DEIS-{k} {name}", _levels(s.DEISMultistepScheduler, solver_order=k, **both)
        ends = {"solver_type": "bh1", "final_sigmas_type": "sigma_min"}  # its B = h is infinite on the way to sigma = 0
        yield f"UniPC-3 bh1 {name}", _levels(s.UniPCMultistepScheduler, solver_order=3, **ends, **both)
        yield (
            f"SA-3 {name}",
            _levels(s.SASolverScheduler, predictor_order=3, corrector_order=3, tau_func=_no_noise, **both),
        )
    if case == "flow":
        yield "FlowMatchEuler", _flow(s.FlowMatchEulerDiscreteScheduler, 1)
        yield "FlowMatchEuler karras", _flow(s.FlowMatchEulerDiscreteScheduler, 1, use_karras_sigmas=True)
        yield "FlowMatchHeun", _flow(s.FlowMatchHeunDiscreteScheduler, 2)
        return
    for k in (2, 3):
        yield f"DPM++ {k}M lu", _levels(s.DPMSolverMultistepScheduler, solver_order=k, use_lu_lambdas=True, **plain)
    for spacing in ("trailing", "leading"):
        ddim = s.DDIMScheduler(**plain, timestep_spacing=spacing, clip_sample=False)
        yield f"DDIM {spacing}", _ddim(ddim)
    for name in ("trailing", "karras", "exponential", "beta"):
        noise = {**spacings[name], "beta_schedule": betas}
        yield f"LMS {name}", _sigmas(s.LMSDiscreteScheduler, 1, **noise)
        yield f"Euler {name}", _sigmas(s.EulerDiscreteScheduler, 1, **noise)
        yield f"Heun {name}", _sigmas(s.HeunDiscreteScheduler, 2, **noise)
        yield f"KDPM2 {name}", _sigmas(s.KDPM2DiscreteScheduler, 2, **noise)
    if case == "cosine":
        yield "IPNDM", _ipndm(s.IPNDMScheduler)


def _no_noise(t: Any) -> float:
    return 0.0


def _levels(make: Any, **settings: Any) -> Run:
    """Schedulers that keep (alpha, sigma) of a level, one call a step."""

    def run(ask: Ask, eps: Tensor, n: int) -> Tensor:
        scheduler = make(**settings)
        scheduler.set_timesteps(n)
        scheduler.set_begin_index(0)  # karras and the like round to equal integer times, by which it would look up
        x = eps * scheduler.init_noise_sigma
        for i, t in enumerate(scheduler.timesteps):
            a, s = scheduler._sigma_to_alpha_sigma_t(scheduler.sigmas[i].double())
            d = ask(x, a, s)
            out = (x - d) / s if settings.get("prediction_type") == "flow_prediction" else d
            x = scheduler.step(out, t, x, return_dict=False)[0]
        return x

    return run


def _ddim(scheduler: Any) -> Run:
    def run(ask: Ask, eps: Tensor, n: int) -> Tensor:
        scheduler.set_timesteps(n)
        x = eps
        for t in scheduler.timesteps:
            abar = scheduler.alphas_cumprod[t].double()
            x = scheduler.step(ask(x, abar.sqrt(), (1 - abar).sqrt()), t, x, return_dict=False)[0]
        return x

    return run


def _sigmas(make: Any, calls: int, **settings: Any) -> Run:
    """Schedulers in y = x / alpha. A step of two calls ends with one (to sigma = 0), so n calls are (n + 1) // 2."""

    def run(ask: Ask, eps: Tensor, n: int) -> Tensor:
        scheduler = make(**settings)
        scheduler.set_timesteps(n if calls == 1 else (n + 1) // 2)
        x = eps * scheduler.sigmas.max().double()
        for t in scheduler.timesteps:
            inner = scheduler.scale_model_input(x, t)
            sigma = (x.square().sum() / inner.square().sum() - 1).sqrt()
            x = scheduler.step((x - ask(x, 1.0, sigma)) / sigma, t, x, return_dict=False)[0]
        return x

    return run


def _flow(make: Any, calls: int, **settings: Any) -> Run:
    def run(ask: Ask, eps: Tensor, n: int) -> Tensor:
        scheduler = make(**settings)
        scheduler.set_timesteps(n if calls == 1 else (n + 1) // 2)
        x = eps
        for i, t in enumerate(scheduler.timesteps):
            s = scheduler.sigmas[i].double()
            x = scheduler.step((x - ask(x, 1 - s, s)) / s, t, x, return_dict=False)[0]
        return x

    return run


def _edm(make: Any, **settings: Any) -> Run:
    def run(ask: Ask, eps: Tensor, n: int) -> Tensor:
        scheduler = make(**settings)
        scheduler.set_timesteps(n)
        x = eps * scheduler.sigmas[0].double()
        for i, t in enumerate(scheduler.timesteps):
            sigma, sd = scheduler.sigmas[i].double(), settings["sigma_data"]
            scheduler.scale_model_input(x, t)
            total = sigma**2 + sd**2
            out = (ask(x, 1.0, sigma) - x * sd**2 / total) / (sigma * sd / total.sqrt())
            x = scheduler.step(out, t, x, return_dict=False)[0]
        return x

    return run


def _ipndm(make: Any) -> Run:
    def run(ask: Ask, eps: Tensor, n: int) -> Tensor:
        scheduler = make()
        scheduler.set_timesteps(n)
        x = eps
        for i, t in enumerate(scheduler.timesteps):
            a, s = scheduler.alphas[i].double(), scheduler.betas[i].double()
            d = ask(x, a, s)
            v = (a * x - d) / s if s > 0 else torch.zeros_like(x)  # v = alpha eps - sigma x_0, alpha^2 + sigma^2 = 1
            x = scheduler.step(v, t, x, return_dict=False)[0]
        return x

    return run


def azula(m: Modules, case: str, schedule: Any) -> Entries:
    noise, den, sample = m["noise"], m["denoise"], m["sample"]

    class Same(noise.Schedule):
        """Our schedule, with its floor, as azula's ask for."""

        def __init__(self, floor: float) -> None:
            super().__init__()
            self.floor = floor

        def alpha(self, t: Tensor) -> Tensor:
            return schedule.at(t.double())[0]

        def sigma(self, t: Tensor) -> Tensor:
            return (schedule.at(t.double())[2] ** 2 + self.floor**2).sqrt()

        def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
            return self.alpha(t), self.sigma(t)

        __call__ = forward

    def scale(floor: float) -> Any:
        if case == "cosine":
            return noise.CosineSchedule(sigma_min=floor)
        if case == "flow":
            return noise.RectifiedSchedule(sigma_min=floor)
        return Same(floor) if case == "VP" else noise.VESchedule(floor, 80.0)

    class Exact(den.Denoiser):
        def __init__(self, ask: Ask, floor: float) -> None:
            super().__init__()
            self.schedule, self.ask = scale(floor), ask

        def forward(self, x_t: Tensor, t: Tensor, **cond: Any) -> Any:
            a, s = self.schedule(t)
            return den.DiracPosterior(self.ask(x_t, a, s))

    def run(make: Any, calls: int, floor: float, **settings: Any) -> Run:
        def inner(ask: Ask, eps: Tensor, n: int) -> Tensor:
            sampler = make(Exact(ask, floor), steps=n // calls, silent=True, dtype=torch.float64, **settings)
            return sampler(eps * sampler.denoiser.schedule(torch.ones((), dtype=torch.float64))[1])

        return inner

    for floor in (1e-3, 1e-2) if case == "EDM" else (1e-3, 1e-5):
        said = f"sigma_min {floor:g}"
        for name in ("DDIM", "Euler"):
            yield f"{name} {said}", run(getattr(sample, f"{name}Sampler"), 1, floor)
        yield f"Heun {said}", run(sample.HeunSampler, 2, floor)
        for name in ("zAB", "vAB", "zEAB", "xEAB", "REAB"):
            for k in (2, 3, 4) if name.endswith("AB") and len(name) == 3 else (2, 3):
                yield f"{name}-{k} {said}", run(getattr(sample, f"{name}Sampler"), 1, floor, order=k)


def k_diffusion(m: Modules, case: str, schedule: Any) -> Entries:
    s = m["sampling"]
    top = {"VP": 152.2, "cosine": 80.0, "flow": 80.0, "EDM": 80.0}[case]
    lows = {"VP": (0.0105, 0.03), "EDM": (0.002, 0.03)}.get(case, (0.002, 0.03))
    grids: dict[str, Callable[[int], Tensor]] = {
        f"{name} {low:g}": lambda n, f=f, low=low: f(n, low, top).double()
        for low in lows
        for name, f in (("karras", s.get_sigmas_karras), ("exponential", s.get_sigmas_exponential))
    }
    if case == "VP":
        grids["vp"] = lambda n: s.get_sigmas_vp(n).double()
    still = {"eta": 0.0, "noise_sampler": lambda *_: 0.0}
    methods: dict[str, tuple[Any, int, dict[str, Any]]] = {
        "euler": (s.sample_euler, 1, {}), "heun": (s.sample_heun, 2, {}), "dpm_2": (s.sample_dpm_2, 2, {}),
        "lms": (s.sample_lms, 1, {}), "lms-3": (s.sample_lms, 1, {"order": 3}), "dpmpp_2m": (s.sample_dpmpp_2m, 1, {}),
        "dpmpp_3m (eta 0)": (s.sample_dpmpp_3m_sde, 1, still),
        "dpmpp_2m_sde (eta 0)": (s.sample_dpmpp_2m_sde, 1, still),
    }  # fmt: skip

    def run(method: Any, calls: int, grid: Any, settings: dict[str, Any]) -> Run:
        def inner(ask: Ask, eps: Tensor, n: int) -> Tensor:
            sigmas = grid(n if calls == 1 else (n + 1) // 2)
            model = lambda x, sigma: ask(x, 1.0, sigma[0])  # noqa: E731
            return method(model, eps * sigmas[0], sigmas, disable=True, **settings)

        return inner

    for name, (method, calls, settings) in methods.items():
        for spaced, grid in grids.items():
            yield f"{name} {spaced}", run(method, calls, grid, settings)


def smalldiffusion(m: Modules, case: str, schedule: Any) -> Entries:
    d = m["diffusion"]
    made = {
        "VP": lambda: d.ScheduleDDPM(1000), "cosine": lambda: d.ScheduleCosine(1000),
        "EDM": lambda: d.ScheduleLogLinear(1000, 0.002, 80.0), "flow": lambda: d.ScheduleLogLinear(1000, 0.002, 80.0),
    }[case]()  # fmt: skip
    accelerator = d.Accelerator(cpu=True)

    class Exact(nn.Module, m["model"].ModelMixin):
        def __init__(self, ask: Ask, shape: tuple[int, ...]) -> None:
            super().__init__()
            self.ask, self.input_dims = ask, shape

        def forward(self, x: Tensor, sigma: Tensor, cond: Any = None) -> Tensor:
            return (x - self.ask(x, 1.0, sigma)) / sigma

    def run(**settings: Any) -> Run:
        def inner(ask: Ask, eps: Tensor, n: int) -> Tensor:
            sigmas = made.sample_sigmas(n).double()
            model = Exact(ask, tuple(eps.shape[1:]))
            *_, x = d.samples(
                model, sigmas, xt=eps * sigmas[0], batchsize=len(eps), accelerator=accelerator, **settings
            )
            return x

        return inner

    yield "DDIM", run()
    yield "accelerated (gam 2)", run(gam=2.0)


def flow_matching(m: Modules, case: str, schedule: Any) -> Entries:
    """Its models predict a velocity from noise at time 0 to data at 1: for the two schedules that begin at noise."""
    if case not in ("cosine", "flow"):
        return

    def run(method: str, calls: int) -> Run:
        def inner(ask: Ask, eps: Tensor, n: int) -> Tensor:
            def velocity(x: Tensor, t: Tensor) -> Tensor:
                u = (1 - t.double()).clamp(min=1e-6).item()  # the last stage of a step may lie on the data itself
                (a, _, s), (da, _, ds) = schedule.at(u), schedule.slope(u)
                d = ask(x, a, s)
                return -(da * d + ds * (x - a * d) / s)

            solver = m["solver"].ODESolver(velocity)
            grid = torch.linspace(0, 1, n // calls + 1, dtype=torch.float64)
            return solver.sample(eps, None, method=method, time_grid=grid)

        return inner

    for method, calls in (("euler", 1), ("midpoint", 2), ("heun2", 2), ("heun3", 3), ("rk4", 4)):
        yield method, run(method, calls)


def deepinv(m: Modules, case: str, schedule: Any) -> Entries:
    s = m["sampling"]

    def run(solver: Any, calls: int, karras: bool) -> Run:
        def inner(ask: Ask, eps: Tensor, n: int) -> Tensor:
            class Exact(nn.Module):
                def forward(self, x: Tensor, sigma: Tensor, *args: Any, **kwargs: Any) -> Tensor:
                    return ask(x.double(), 1.0, sigma.double().reshape(-1)[0].clamp(min=1e-6))

            # minus_one_one rescales x and sigma for networks of [0, 1]; this denoiser answers in the units of x
            common = {"denoiser": Exact(), "alpha": 0.0, "dtype": torch.float64, "minus_one_one": False}
            last, first = 1e-3, 1.0
            if case == "VP":
                sde = s.VariancePreservingDiffusion(beta_min=0.1, beta_max=20.0, **common)
            elif case == "EDM":
                sde = s.EDMDiffusionSDE(
                    sigma_t=lambda t: t, sigma_prime_t=lambda t: torch.ones_like(t), variance_exploding=True, T=80.0,
                    **common,
                )  # fmt: skip
                last, first = 0.002, 80.0
            elif case == "flow":
                sde, first = s.FlowMatching(**common), 0.99
            else:
                h = torch.pi / 2
                sde = s.FlowMatching(
                    a_t=lambda t: torch.cos(h * t), a_prime_t=lambda t: -h * torch.sin(h * t),
                    b_t=lambda t: torch.sin(h * t), b_prime_t=lambda t: h * torch.cos(h * t), **common,
                )  # fmt: skip
                first = 0.99
            k = n // calls
            times = torch.linspace(first, last, k + 1, dtype=torch.float64)
            if karras:
                i = torch.linspace(0, 1, k + 1, dtype=torch.float64)
                times = (first ** (1 / 7) + i * (last ** (1 / 7) - first ** (1 / 7))) ** 7
            a, sigma = sde.scale_t(times[0]), sde.sigma_t(times[0])
            return solver(timesteps=times).sample(sde, eps * a * sigma).sample

        return inner

    for karras in (False, True) if case == "EDM" else (False,):
        end = " karras" if karras else ""
        yield f"DDIM{end}", run(s.DDIMSolver, 1, karras)
        yield f"Euler{end}", run(s.EulerSolver, 1, karras)
        yield f"Heun{end}", run(s.HeunSolver, 2, karras)


BUILDERS: dict[str, Callable[[Modules, str, Any], Entries]] = {
    "diffusers": diffusers, "azula": azula, "k-diffusion": k_diffusion, "smalldiffusion": smalldiffusion,
    "flow_matching": flow_matching, "deepinv": deepinv,
}  # fmt: skip
