"""The whole idea in a few minutes: train a prior of real handwritten digits, then sample, restore, classify, edit and
measure with it. Leaves runs/demo/report.html and a prior that every command takes.
"""

from __future__ import annotations

from dataclasses import dataclass

from oneprior.cli.settings import Common


@dataclass(frozen=True, kw_only=True)
class DemoSettings(Common):
    toy: bool = False
    """the same on points in the plane, in seconds, with exact scores beside the learned ones"""
    out: str = "runs/demo"
    """folder of the run"""
    force: bool = False
    """start anew where a run already is"""
    quick: bool = False
    """a short look: less training, fewer samples, no figure worth quoting"""
    development: bool = False
    """train on four fifths of the training digits and measure on the other fifth: where settings are to be chosen"""
    device: str = "auto"
    """auto, cpu, cuda, mps ..."""


SETTINGS = DemoSettings


def run(s: DemoSettings, command: list[str]) -> int:
    from oneprior.demo import DemoJob, run

    return run(DemoJob(*(getattr(s, k) for k in DemoJob._fields)))
