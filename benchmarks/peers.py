"""The libraries we are measured beside: each imported when asked for, or left out with a message that says why.

    diffusion = peer("k-diffusion")                # {"sampling": module}, or None and a line on stderr

None of them needs torchvision to sample, yet three import it on the way to their samplers, for picture files and
datasets. It must match torch's build exactly, so it is never installed here. What a peer's samplers do not use is
replaced by an empty module while the peer is imported and taken away after; anything called on it would fail loudly.
`make bench` installs the peers without what they require but do not need (see the Makefile).
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any, NamedTuple


class Recipe(NamedTuple):
    """modules: what is wanted of the package. bare: without running its __init__, which would import everything.
    absent: packages that it imports and its samplers do not use."""

    package: str
    modules: tuple[str, ...]
    bare: bool = False
    absent: tuple[str, ...] = ()


PEERS = {
    "diffusers": Recipe("diffusers", ("schedulers",)),
    "azula": Recipe("azula", ("denoise", "noise", "sample", "guidance")),
    "k-diffusion": Recipe("k_diffusion", ("sampling", "external"), bare=True, absent=("torchvision",)),
    "smalldiffusion": Recipe("smalldiffusion", ("diffusion", "model"), bare=True),
    "flow_matching": Recipe("flow_matching", ("solver",)),
    "deepinv": Recipe("deepinv", ("sampling",), absent=("torchvision", "h5py", "natsort")),
}


@lru_cache
def peer(name: str) -> dict[str, Any] | None:
    """The modules of a peer by name, or None after a message where it cannot be imported."""
    recipe = PEERS[name]
    try:
        with _without(recipe.absent):
            if recipe.bare:
                _bare(recipe.package)
            return {m: importlib.import_module(f"{recipe.package}.{m}") for m in recipe.modules}
    except Exception as error:  # whatever a stranger's import raises: the rows of the others are still wanted
        print(f"{name} is left out: {type(error).__name__}: {error} (`make bench` installs it)", file=sys.stderr)
        return None


def peers() -> dict[str, dict[str, Any]]:
    """Every peer that imports, in the order of PEERS."""
    return {name: found for name in PEERS if (found := peer(name)) is not None}


def versions(names: Sequence[str]) -> dict[str, str]:
    """Installed versions for a report; a package without metadata is left out."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _bare(package: str) -> None:
    # the package as a place to import submodules from, its own __init__ unread
    if package in sys.modules:
        return
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise ModuleNotFoundError(f"No module named '{package}'")
    sys.modules[package] = importlib.util.module_from_spec(spec)


class _Nothing(type):
    """A class of which every attribute is another such class: enough for defaults and bases at import time."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Nothing(name, (), {})


class _Empty(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Nothing(name, (), {})


class _Finder:
    def __init__(self, roots: Sequence[str]) -> None:
        self.roots = roots

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.split(".")[0] in self.roots else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: ModuleType) -> None: ...


@contextmanager
def _without(packages: Sequence[str]) -> Iterator[None]:
    """While this lasts, packages that are not installed import as empty modules."""
    roots = [p for p in packages if p not in sys.modules and importlib.util.find_spec(p) is None]
    finder: Any = _Finder(roots)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [m for m in sys.modules if m.split(".")[0] in roots]:
            del sys.modules[name]


def between(page: str, command: str, table: str) -> str:
    """The page with what stands between the marks of a command replaced by a table."""
    begin, end = f"<!-- table: begin ({command}) -->", "<!-- table: end -->"
    head, rest = page.split(begin)
    return f"{head}{begin}\n{table}\n{end}{rest.split(end, 1)[1]}"
