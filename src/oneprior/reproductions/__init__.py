"""What papers claim, measured here: one module a system, with a verdict that can be no.

A module says `PAPER`, `CLAIM`, `SEEDS` and `run(scale, device)`, which yields a `Check` a figure. "quick" takes
seconds and runs in the tests; "desk" takes minutes and writes docs/results/NAME.json, from which README's table is
made. A figure stands beside its bar and its baseline. Its kind: "check" is the claim itself; "control" must come out as
known, or the figures beside it say nothing; "uncalibrated" is shown and decides nothing.
"""

from __future__ import annotations

import platform
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol

Scale = Literal["quick", "desk"]
Kind = Literal["check", "control", "uncalibrated"]
KEPT: ContextVar[Path | None] = ContextVar("KEPT", default=None)  # where `reproduce(keep=)` keeps trainings


@dataclass(frozen=True)
class Check:
    """One figure. bar: what it must be, in words; baseline: the figure it is compared with, where there is one."""

    what: str
    measured: float
    bar: str
    baseline: float | None
    holds: bool
    kind: Kind = "check"


@dataclass(frozen=True)
class Record:
    """What a run leaves: verdict "yes" where every check and control holds, "no" where no check does, else "part"."""

    name: str
    paper: str
    claim: str
    scale: Scale
    command: str
    seeds: tuple[int, ...]
    seconds: float
    checks: tuple[Check, ...]
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        claims = [c.holds for c in self.checks if c.kind == "check"]
        if claims and all(c.holds for c in self.checks if c.kind != "uncalibrated"):
            return "yes"
        return "part" if any(claims) else "no"

    @property
    def why(self) -> str:
        """Every figure that missed, in one sentence each; empty for a yes."""
        missed = [c for c in self.checks if not c.holds and c.kind != "uncalibrated"]
        said = [f"{c.what}: {c.measured:.4g}, {c.bar} was expected" for c in missed]
        return "; ".join(said) or ("" if self.verdict == "yes" else "nothing was claimed")

    def json(self) -> dict[str, Any]:
        """As docs/results/NAME.json has it."""
        return {**asdict(self), "verdict": self.verdict, "why": self.why}


class Reproduction(Protocol):
    """What a module of this folder has."""

    PAPER: str
    CLAIM: str
    SEEDS: Mapping[Scale, tuple[int, ...]]
    run: Callable[[Scale, str], Iterable[Check]]


def names() -> list[str]:
    """The systems that can be reproduced: the modules of this folder, with hyphens."""
    files = Path(__file__).parent.glob("[a-z]*.py")
    return sorted(file.stem.replace("_", "-") for file in files)


def reproduction(name: str) -> Reproduction:
    """The module of a system.

    Raises:
        ValueError: for a name that is none; all that are get listed.
    """
    if name not in names():
        close = get_close_matches(name, names(), 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ValueError(f"nothing called '{name}' is reproduced here{hint}; there are {', '.join(names())}")
    return import_module(f"oneprior.reproductions.{name.replace('-', '_')}")  # type: ignore[return-value]


def reproduce(
    name: str,
    scale: Scale,
    device: str = "cpu",
    *,
    command: Sequence[str] = (),
    seen: Callable[[Check], Any] = lambda _: None,
    keep: Path | None = None,
) -> Record:
    """Run a reproduction. command: that of the record; seen: called with every figure as it comes. keep: a folder for
    the trainings of those that can go on from them after a stop; `seconds` are those of this call alone."""
    work = reproduction(name)
    began, checks = time.perf_counter(), []
    token = KEPT.set(None if keep is None else keep / f"{name}-{scale}")
    try:
        for check in work.run(scale, device):
            seen(check)
            checks.append(check)
    finally:
        KEPT.reset(token)
    seconds = round(time.perf_counter() - began, 1)
    said = shlex.join(command) or f"oneprior reproduce {name} --scale {scale}"
    return Record(name, work.PAPER, work.CLAIM, scale, said, work.SEEDS[scale], seconds, (*checks,), dict(_versions()))


def _versions() -> Iterator[tuple[str, str]]:
    from importlib.metadata import version

    from oneprior import __version__

    yield "oneprior", __version__
    yield "python", platform.python_version()
    for package in ("torch", "numpy", "scikit-learn"):
        yield package, version(package)
