"""oneprior: one diffusion model, every use.

Train one diffusion prior, or load one, and generate, restore, classify, edit and measure with the same object:

    import oneprior

    prior = oneprior.load("digits")
    prior.sample(16, label=7).grid()

Public names are imported when first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0.dev0"

_MODULES = ("exact", "guidance", "metrics", "nets", "operators", "paths", "schedules", "tokens", "uses")
_HOMES = {
    "check": ("check_denoiser", "check_operator", "check_sampler", "check_schedule"),
    "denoiser": ("Denoiser", "NetworkDenoiser", "with_schedule"),
    "guidance": ("CFG",),
    "loading": ("load",),
    "operators": ("Measurement",),
    "paths": ("Hold", "Path"),
    "prior": ("Prior",),
    "sampling": ("sample", "walk"),
    "wrapping": ("wrap",),
}
_HOME = dict.fromkeys(_MODULES, "") | {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "CFG", "Denoiser", "Hold", "Measurement", "NetworkDenoiser", "Path", "Prior", "__version__", "check_denoiser",
    "check_operator", "check_sampler", "check_schedule", "exact", "guidance", "load", "metrics", "nets", "operators",
    "paths", "sample", "schedules", "tokens", "uses", "walk", "with_schedule", "wrap",
]  # fmt: skip

if TYPE_CHECKING:
    from oneprior import exact, guidance, metrics, nets, operators, paths, schedules, tokens, uses
    from oneprior.check import check_denoiser, check_operator, check_sampler, check_schedule
    from oneprior.denoiser import Denoiser, NetworkDenoiser, with_schedule
    from oneprior.guidance import CFG
    from oneprior.loading import load
    from oneprior.operators import Measurement
    from oneprior.paths import Hold, Path
    from oneprior.prior import Prior
    from oneprior.sampling import sample, walk
    from oneprior.wrapping import wrap


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"oneprior has no attribute '{name}'; public names: {', '.join(__all__)}")
    home = _HOME[name]
    module = import_module(f"oneprior.{home or name}")
    return getattr(module, name) if home else module


def __dir__() -> list[str]:
    return sorted(__all__)
