"""The folder of a run: config.yaml, command.txt, environment.txt, log.jsonl, samples/, checkpoints/, averages/, prior/.

Never written over without `force` or `resume`. The log is truncated to the checkpoint that a run resumes from, so it
reads as if nothing had happened.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from oneprior.training.files import explained, write_text

CONTENT = ("config.yaml", "command.txt", "environment.txt", "log.jsonl", "samples", "checkpoints", "averages")
LATER = ("prior", "codec", "report.html", "report.json")  # written by others, removed with the rest on `force`
PACKAGES = ("oneprior", "torch", "numpy", "safetensors", "lightning-fabric", "scikit-learn", "scikit-image", "pillow")


class RunFolder:
    """A run's folder, made or found by `create`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.log_file, self.samples = self.path / "log.jsonl", self.path / "samples"
        self.checkpoints, self.averages = self.path / "checkpoints", self.path / "averages"
        self.prior = self.path / "prior"

    @classmethod
    def create(
        cls,
        path: str | Path,
        config: Mapping[str, Any] | None = None,
        *,
        force: bool = False,
        resume: bool = False,
        command: Sequence[str] | None = None,
    ) -> RunFolder:
        """Make a run's folder and describe the run in it; of several processes, only the main one does so.

        One that is resumed is as it was: `describe` it once nothing speaks against going on.

        Raises:
            FileExistsError: when it holds a run and neither `force` nor `resume` is given, or holds other files.
            FileNotFoundError: when there is nothing to resume.
            OSError: when it cannot be written.
        """
        run = cls(path)
        if int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0))):  # set by torchrun and by Fabric
            return run
        there = {p.name.removesuffix(".tmp") for p in run.path.iterdir()} if run.path.is_dir() else set()
        if run.path.exists() and not run.path.is_dir():
            raise FileExistsError(f"{path} is a file; a run needs a folder of its own")
        if resume and "checkpoints" not in there:
            raise FileNotFoundError(f"{path} holds no checkpoints to resume from; start it without --resume")
        if there and not resume:
            if "config.yaml" not in there and "checkpoints" not in there:
                raise FileExistsError(f"{path} holds files that are no run ({_some(there)}); give another folder")
            if not force:
                raise FileExistsError(f"{path} already holds a run: --resume continues it, --force starts it anew")
            run.clear()
        with explained(run.path):
            run.checkpoints.mkdir(parents=True, exist_ok=True)
            run.samples.mkdir(exist_ok=True)
            run.log_file.touch()
        if not resume:
            run.describe(config, command)
        return run

    def describe(self, config: Mapping[str, Any] | None = None, command: Sequence[str] | None = None) -> None:
        """Write config.yaml (all settings, resolved), command.txt and environment.txt."""
        if config is not None:
            import yaml

            write_text(self.path / "config.yaml", yaml.safe_dump(json.loads(json.dumps(config)), sort_keys=False))
        write_text(self.path / "command.txt", shlex.join(sys.argv if command is None else command) + "\n")
        lines = [f"python {platform.python_version()}", f"system {platform.platform()}"]
        for package in PACKAGES:
            try:
                lines.append(f"{package} {version(package)}")
            except PackageNotFoundError:
                lines.append(f"{package} is not installed")
        write_text(self.path / "environment.txt", "\n".join(lines) + "\n")

    def clear(self) -> None:
        """Remove what a run writes, and nothing else."""
        for name in (*CONTENT, *LATER):
            for path in (self.path / name, self.path / f"{name}.tmp", self.path / f"{name}.old"):
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)

    def log(self, line: Mapping[str, Any]) -> None:
        """Append one line to log.jsonl."""
        self.path.mkdir(parents=True, exist_ok=True)
        with explained(self.log_file), open(self.log_file, "a", encoding="utf-8") as f:
            f.write(json.dumps(line) + "\n")

    def lines(self) -> list[dict[str, Any]]:
        """The whole lines of log.jsonl."""
        out = []
        for text in self.log_file.read_text(encoding="utf-8").splitlines() if self.log_file.exists() else []:
            try:
                out.append(json.loads(text))
            except ValueError:
                continue  # a line cut short by a kill
        return out

    def rewind(self, n: int) -> None:
        """Drop log lines and snapshots of averages written after n samples."""
        if not self.path.exists():
            return
        kept = [line for line in self.lines() if line.get("n", 0) <= n]
        write_text(self.log_file, "".join(json.dumps(line) + "\n" for line in kept))
        for path in self.averages.glob("*.safetensors"):
            if int(path.stem.rpartition("-")[2]) > n:
                path.unlink()


def _some(names: set[str]) -> str:
    return ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
