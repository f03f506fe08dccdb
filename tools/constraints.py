"""Resolve every extra at once and write constraints.txt: `make constraints`, then `make test`, then commit.

With --peers it prints the peers to install without what they require, and does nothing else.
"""

import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TORCH = "2.13.0"  # first, and by hand: the others follow it
PEERS = ["azula", "deepinv", "k-diffusion", "smalldiffusion"]  # they require torchvision: installed with --no-deps
HEAD = """\
# The set that the tests ran with on Python 3.11: all extras at once, by `make constraints`.
# gradio holds pillow below 13 and tomlkit below 0.15.
# torchvision is absent on purpose: no required or tested package needs it.
"""


def report(*arguments: str) -> dict[str, str]:
    """{package: version} that pip would install into an empty environment, local labels such as +cpu dropped."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "report.json")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        subprocess.run([*pip, "--report", str(file), *arguments], check=True)
        found = [item["metadata"] for item in json.loads(file.read_text())["install"]]
    return {item["name"]: item["version"].split("+")[0] for item in found}


def main() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    versions = report(f"torch=={TORCH}", f"{ROOT}[{','.join(extras)}]") | report("--no-deps", *PEERS)
    if "torchvision" in versions:
        raise SystemExit("an extra brings torchvision: see the note above [project.optional-dependencies]")
    # What torch brings for one kind of machine (CUDA, triton) is pinned by torch itself.
    rest = {
        n: v for n, v in versions.items() if n not in ("oneprior", "torch", "triton") and not n.startswith("nvidia")
    }
    lines = [f"torch=={TORCH}", *(f"{name}=={rest[name]}" for name in sorted(rest, key=str.lower))]
    (ROOT / "constraints.txt").write_text(HEAD + "\n".join(lines) + "\n")


if __name__ == "__main__":
    print(*PEERS) if sys.argv[1:] == ["--peers"] else main()
