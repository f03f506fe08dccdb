"""Restoration with a known operator: `restore(den, Measurement(y, operator, noise))`, and its methods one a file.

Settings are plain dataclasses that bring no torch; the functions are imported when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from oneprior.uses.restore.settings import (
    METHODS,
    DAPSSettings,
    DDRMSettings,
    DiffPIRSettings,
    DPSSettings,
    Log,
    MMPSSettings,
    Power,
    RedDiffSettings,
    RepaintSettings,
    Truncated,
    TwistedSettings,
    Weighting,
)

if TYPE_CHECKING:
    from oneprior.uses.restore.comparison import compare, summary
    from oneprior.uses.restore.run import Restored, restore

__all__ = [
    "METHODS", "DAPSSettings", "DDRMSettings", "DPSSettings", "DiffPIRSettings", "Log", "MMPSSettings", "Power",
    "RedDiffSettings", "RepaintSettings", "Restored", "Truncated", "TwistedSettings", "Weighting", "compare",
    "restore", "summary",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    homes = {"Restored": "run", "restore": "run", "compare": "comparison", "summary": "comparison"}
    if name not in homes:
        raise AttributeError(f"oneprior.uses.restore has no attribute '{name}'; public names: {', '.join(__all__)}")
    return getattr(import_module(f"oneprior.uses.restore.{homes[name]}"), name)
