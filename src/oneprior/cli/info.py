"""Versions, devices and the priors that ship; or, of a prior, what it is, what it knows and how it was made.

oneprior info
oneprior info runs/photos
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tyro.conf import Positional

from oneprior.cli.settings import Common


@dataclass(frozen=True, kw_only=True)
class InfoSettings(Common):
    prior: Positional[str] = ""
    """a prior's folder, a run's folder, or the name of a shipped one"""
    device: str = "auto"
    """auto, cpu, cuda, mps ..."""


SETTINGS = InfoSettings


def run(s: InfoSettings, command: list[str]) -> int:
    from oneprior.cli.screen import Screen
    from oneprior.report import words

    screen = Screen(s.json)
    facts = _prior(s.prior, s.device) if s.prior else _machine(s.device)
    screen.table(
        [{"fact": k.replace("_", " "), "value": words(v)} for k, v in facts.items() if v not in (None, "", {})]
    )
    screen.result({"command": "info", **facts})
    return 0


def _machine(device: str) -> dict[str, Any]:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    from oneprior import __version__, storage
    from oneprior.training.engine import pick_device
    from oneprior.training.run import PACKAGES

    def installed(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return "not installed"

    where = pick_device(device)
    return {
        "oneprior": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        **{name: installed(name) for name in PACKAGES if name != "oneprior"},
        "device": str(where),
        "device_name": torch.cuda.get_device_name(where) if where.type == "cuda" else platform.processor(),
        "threads": torch.get_num_threads(),
        "bf16": _bf16(where),
        "shipped_priors": storage.shipped(),
    }


def _bf16(device: Any) -> str:
    """Whether bfloat16 pays, measured: a matrix product against the same in float32."""
    from oneprior.training.engine import bf16_speed

    try:
        return f"works, {bf16_speed(device):.2g}x the speed of float32 in matrix products"
    except (RuntimeError, TypeError) as e:
        return f"not supported ({str(e).splitlines()[0]})"


def _prior(name: str, device: str) -> dict[str, Any]:
    from oneprior import storage
    from oneprior.cli.inputs import open_prior
    from oneprior.conditions import Label

    prior: Any = open_prior(name, device, tokens=True)
    net = prior.den.net
    undone = "corruption" if hasattr(prior.den, "corruption") else "schedule"
    conditions = {k: list(c.names) if isinstance(c, Label) else repr(c) for k, c in prior.conditions.items()}
    return {
        "prior": name,
        "folder": str(storage.find(name)),
        "shape": list(prior.shape),
        "parameters": sum(p.numel() for p in prior.den.parameters()),
        "network": net.config.type if hasattr(net, "config") else type(getattr(net, "model", net)).__name__,
        undone: repr(getattr(prior.den, undone)),
        "prediction": prior.den.facts.prediction,
        "codec": prior.codec.config(),
        "conditions": conditions,
        **{k: v for k, v in prior.facts.items() if k != "shape"},
    }
