"""The rules of the house, read off the source: which way imports run, how long a file gets, what is never imported."""

import ast
import functools
import graphlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src" / "oneprior"

# A room may import itself and what stands before it, on its own floor or below. This is also the order a reader takes.
FLOORS = {
    "mathematics": "times paths noise schedules anchored posterior denoiser objective operators exact metrics "
    "sampling guidance tokens joint fewstep",
    "networks and codes": "nets conditions codecs",
    "training and data": "data training",
    "uses": "uses",
    "faces": "results film hub storage interop clips inside prior wrapping token_prior joint_prior loading check "
    "check_tokens report demo reproductions cli studio __main__",
}
ORDER = {room: place for place, room in enumerate(" ".join(FLOORS.values()).split())}
FACES = set(FLOORS["faces"].split())

FORBIDDEN = {"torchvision", "pickle", "cloudpickle", "dill", "lightning", "pytorch_lightning", "deepinv"}
ONLY_IN = {"lightning_fabric": ("training.engine",), "gradio": ("studio",)}
# Extras, and what is slow to import: inside the function that needs it, never at the top of a module.
EXTRAS = {"diffusers", "transformers", "peft", "datasets", "gradio", "nibabel", "pydicom", "zarr", "av", "tokenizers"}
# Pickles in disguise, and randomness that is not keyed by a seed of the caller's.
CALLS = {"torch.load", "torch.save", "joblib.load", "torch.manual_seed", "np.random.seed", "numpy.random.seed"}


class Import(NamedTuple):
    """`target`: a module of ours ("nets.unet", or "" for the public face) or, if not `own`, a package outside."""

    module: str
    line: int
    target: str
    own: bool
    top: bool


def name_of(file: Path, src: Path = SRC) -> str:
    parts = file.relative_to(src).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def modules(src: Path = SRC) -> dict[str, Path]:
    return {name_of(file, src): file for file in sorted(src.rglob("*.py"))}


def visit(node: ast.AST, top: bool = True) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Every import below a node, and whether it runs when the module is imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, top
        inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        checking = isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")
        yield from visit(child, top and not inside and not checking)


def imports(src: Path = SRC) -> Iterator[Import]:
    known = modules(src)
    for module, file in known.items():
        for node, top in visit(ast.parse(file.read_text(encoding="utf8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                base = node.module or ""
                if node.level:
                    package = ["oneprior", *module.split(".")] if module else ["oneprior"]
                    up = node.level - (file.name == "__init__.py")
                    base = ".".join([*package[: len(package) - up], *([base] if base else [])])
                names = [f"{base}.{alias.name}" for alias in node.names]
            for full in names:
                first, _, rest = full.partition(".")
                if first != "oneprior":
                    yield Import(module, node.lineno, full, False, top)
                    continue
                while rest and rest not in known:  # `nets.unet.UNet` is the module `nets.unet`
                    rest = rest.rpartition(".")[0]
                yield Import(module, node.lineno, rest, True, top)


def room(module: str) -> str:
    return module.partition(".")[0]


def downward(src: Path = SRC) -> list[str]:
    """Each import that breaks the order, as a line that says where and why."""
    wrong = []
    for i in imports(src):
        here, there = room(i.module), room(i.target)
        if not i.own or not i.module:  # the package's own __init__ is the lazy face of all
            continue
        if not there:
            if here not in FACES:
                wrong.append(f"{i.module}:{i.line} imports the package's public face; name the module instead")
        elif here in ORDER and there in ORDER and ORDER[there] > ORDER[here]:
            wrong.append(f"{i.module}:{i.line} imports {i.target}, and {there} stands after {here}")
        elif there == "interop" and here not in ("interop", "prior", "loading", "cli"):
            wrong.append(f"{i.module}:{i.line} imports {i.target}, which only prior, loading and cli may")
    return wrong


def test_every_module_has_its_room() -> None:
    strangers = sorted({room(module) for module in modules()} - set(ORDER) - {""})
    assert not strangers, f"{strangers} stand in no floor: give them a place in FLOORS, or move them into a room"


def test_imports_run_upward_only() -> None:
    assert not downward(), "\n".join(["", *downward()])


def test_no_circle_of_imports() -> None:
    graph: dict[str, set[str]] = {}
    for i in imports():
        if i.own and i.top and i.module and i.target != i.module:
            graph.setdefault(i.module, set()).add(i.target)
    tuple(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError with the circle


def test_forbidden_and_lazy_packages() -> None:
    wrong = []
    for i in imports():
        package = i.target.partition(".")[0]
        if i.own:
            continue
        if package in FORBIDDEN:
            wrong.append(f"{i.module}:{i.line} imports {package}")
        if package in ONLY_IN and not any(f"{i.module}.".startswith(f"{place}.") for place in ONLY_IN[package]):
            wrong.append(f"{i.module}:{i.line} imports {package}, which belongs to {ONLY_IN[package]}")
        if package in EXTRAS and i.top:
            wrong.append(f"{i.module}:{i.line} imports {package} at the top; do so where it is used")
    assert not wrong, "\n".join(["", *wrong])


def test_every_package_is_declared() -> None:
    """scipy comes with scikit-learn and imports well, until scikit-learn no longer brings it."""
    required = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]["dependencies"]
    declared = {re.split(r"[^A-Za-z0-9._-]", line)[0].lower() for line in required}
    brought = packages_distributions()
    wrong = []
    for i in imports():
        package = i.target.partition(".")[0]
        if i.own or package in sys.stdlib_module_names or package in EXTRAS:
            continue
        if not declared & {name.lower().replace("_", "-") for name in brought.get(package, [])}:
            wrong.append(f"{i.module}:{i.line} imports {package}, which pyproject.toml does not require")
    assert not wrong, "\n".join(["", *wrong])


def test_no_pickles_and_no_global_seeds() -> None:
    wrong = []
    for module, file in modules().items():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in CALLS:
                wrong.append(f"{module}:{node.lineno} calls {ast.unparse(node.func)}")
    assert not wrong, "\n".join(["", *wrong])


@pytest.mark.parametrize("folder", ["tests", "benchmarks", "docs", "tools"])
def test_no_torchvision_anywhere_else(folder: str) -> None:
    for file in (ROOT / folder).rglob("*.py"):
        for node, _ in visit(ast.parse(file.read_text(encoding="utf8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            assert not any(room(name) == "torchvision" for name in names), f"{file}:{node.lineno}"


def test_no_file_over_350_lines() -> None:
    long = {
        name: n for name, file in modules().items() if (n := len(file.read_text(encoding="utf8").splitlines())) > 350
    }
    assert not long, f"one idea may have become two: {long}"


@pytest.mark.parametrize("face", ["oneprior", "oneprior.cli"])
def test_import_brings_no_torch(face: str) -> None:
    code = f"import sys, {face}; print(*sorted({{'torch', 'numpy', 'PIL', 'matplotlib'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "", f"import {face} brought {done.stdout.strip()}"


def test_the_walk_sees_what_it_must(tmp_path: Path) -> None:
    """The order holds in an empty house too; here it is broken on purpose: absolutely, relatively, in a function."""
    files = {
        "__init__.py": "from oneprior.prior import load",
        "times.py": "import oneprior.nets.unet as unet",
        "noise.py": "def f():\n    from .sampling import walk",
        "paths.py": "import oneprior",
        "schedules.py": "from oneprior import times, noise",
        "sampling/__init__.py": "from oneprior.sampling.walk import walk",
        "sampling/walk.py": "from ..times import align\nfrom . import walk\nfrom ..uses import restore",
        "nets/__init__.py": "",
        "nets/unet.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from oneprior.interop import adm",
        "uses/__init__.py": "from oneprior.nets import unet",
        "uses/restore.py": "from oneprior import load",
        "interop/__init__.py": "",
        "prior.py": "from oneprior.interop import adm\nfrom oneprior import uses",
        "check.py": "from oneprior.interop import adm",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    found = {line.split(" imports")[0] for line in downward(tmp_path)}
    assert found == {"times:1", "noise:2", "paths:1", "sampling.walk:3", "nets.unet:3", "uses.restore:1", "check:1"}
