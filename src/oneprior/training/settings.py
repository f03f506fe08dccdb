"""What a training run is told: plain numbers, all of them in samples seen.

Everything that changes during a run (learning rate, decay of averages, saves, previews) is a function of n, the
number of samples seen so far, so that batch size, number of processes and interruptions do not move it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from math import cos, pi, sqrt
from typing import Any, Literal

# These may differ between the parts of one run; all others decide its numbers and must stay.
FREE = {
    *("samples", "minutes", "micro_batch", "precision", "compile", "device", "processes", "workers", "patience"),
    *("save_every", "save_minutes", "keep", "preview_every", "log_every", "snapshot_every"),
}


@dataclass(frozen=True)
class TrainSettings:
    """Settings of a training run.

    Raises:
        ValueError: for a setting out of range, or settings that contradict one another.
    """

    seed: int = 0
    """decides order, times, noise and dropout; not the initial weights"""
    samples: int | None = 1_000_000
    """how many samples to see in all, or none (then `minutes` ends the run)"""
    minutes: float | None = None
    """stop after this much wall clock, counted anew at each start; the run can be resumed exactly"""
    batch: int = 128
    """samples a step, over all processes"""
    micro_batch: int | None = None
    """at most this many samples at once in one process; the rest is accumulated"""
    lr: float = 3e-4
    """learning rate after the warm-up"""
    optimiser: Literal["adamw", "muon"] = "adamw"
    """muon: on the matrices in a network's blocks, AdamW on the rest; fewer samples to the same loss in transformers"""
    warmup: int = 10_000
    """samples over which the learning rate rises from 0"""
    decay: Literal["constant", "cosine", "linear", "rsqrt"] = "constant"
    """shape of the learning rate after the warm-up; cosine and linear end at `samples`"""
    decay_from: int | None = None
    """where the decay starts, in samples (none: the end of the warm-up)"""
    betas: tuple[float, float] = (0.9, 0.999)
    """decay rates of AdamW's two moments"""
    weight_decay: float = 0.0
    """decoupled weight decay of AdamW"""
    clip: float | None = 1.0
    """largest norm of the gradient"""
    averages: tuple[float, ...] = (0.05, 0.10)
    """relative widths of the averages of the weights that are kept (power profile); the last goes into the prior"""
    halflife: int | None = None
    """half-life in samples of one more average with exponential decay"""
    snapshot_every: int | None = None
    """samples between snapshots of the averages, from which any width can be rebuilt afterwards"""
    drop: float = 0.1
    """probability of hiding a sample's conditions, which makes guidance possible"""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: matrix products in bfloat16 (fp32 on a CPU without units for it); weights, loss, averages stay float32"""
    compile: bool = False
    """compile the network (long to start, faster on GPUs)"""
    device: str = "auto"
    """auto, cpu, cuda, mps ..."""
    processes: int = 1
    """processes to start on this machine (torchrun and Slurm set their own number)"""
    workers: int = 0
    """threads that read data ahead; they cannot change its order"""
    save_every: int | None = None
    """samples between checkpoints"""
    save_minutes: float | None = 10.0
    """minutes between checkpoints"""
    keep: int = 2
    """checkpoints to keep; with two, a damaged one costs little"""
    preview_every: int | None = None
    """samples between previews"""
    log_every: int = 10_000
    """samples between lines of the log"""
    patience: int = 20
    """steps in a row with a gradient that is not finite before the run gives up"""

    def __post_init__(self) -> None:
        def need(ok: bool, name: str, what: str) -> None:
            if not ok:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected {what}")

        for name in ("batch", "keep", "log_every", "patience", "processes"):
            need(getattr(self, name) >= 1, name, "an integer of at least 1")
        optional = ("samples", "minutes", "micro_batch", "halflife", "clip", "snapshot_every", "save_every")
        for name in (*optional, "save_minutes", "preview_every"):
            need(getattr(self, name) is None or getattr(self, name) > 0, name, "a number above 0, or none")
        need(self.lr > 0, "lr", "a learning rate above 0")
        need(self.warmup >= 0, "warmup", "a number of samples, 0 for none")
        need(self.workers >= 0, "workers", "a number of threads, 0 to read in the training thread")
        need(0 <= self.drop <= 1, "drop", "a probability in [0, 1]")
        need(all(0 < w < 0.28 for w in self.averages), "averages", "relative widths between 0 and 0.28, such as 0.05")
        need(len(set(self.averages)) == len(self.averages), "averages", "widths that differ")
        need(self.decay in DECAYS, "decay", f"one of {', '.join(DECAYS)}")
        need(self.optimiser in ("adamw", "muon"), "optimiser", "adamw or muon")
        need(self.precision in ("fp32", "bf16"), "precision", "fp32 or bf16")
        if self.samples is None and self.minutes is None:
            raise ValueError("samples and minutes are both none: give one of them, or the run has no end")
        if self.samples is None and self.decay in ("cosine", "linear"):
            raise ValueError(f"decay={self.decay!r} needs samples: it ends there (a wall clock would not be resumable)")

    def differences(self, saved: dict[str, Any], n: int = 0) -> list[str]:
        """The settings that may not change n samples into a run but differ from `saved`, as 'name: saved -> now'."""
        now, old = as_json(self), as_json(TrainSettings())  # a setting that an older run knows nothing of: its default
        if sorted(now["averages"]) == sorted(saved.get("averages", [])):  # the same, another of them for the prior
            saved = saved | {"averages": now["averages"]}
        falls = self.decay in ("cosine", "linear") and n > (self.decay_from or self.warmup)  # towards `samples`
        ends = {"samples"} if falls else set()
        names = [f.name for f in fields(self) if f.name not in FREE - ends]
        return [f"{k}: {saved.get(k)!r} -> {now[k]!r}" for k in names if saved.get(k, old.get(k)) != now[k]]


def as_json(settings: TrainSettings) -> dict[str, Any]:
    """The settings as JSON returns them: tuples become lists."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(settings).items()}


DECAYS: dict[str, Callable[[float, float, float], float]] = {  # (n, start, total) -> factor, for n >= start
    "constant": lambda n, start, total: 1.0,
    "cosine": lambda n, start, total: 0.5 + 0.5 * cos(pi * min(1.0, (n - start) / max(total - start, 1))),
    "linear": lambda n, start, total: max(0.0, 1 - (n - start) / max(total - start, 1)),
    "rsqrt": lambda n, start, total: sqrt(max(start, 1) / n),
}


def learning_rate(settings: TrainSettings, n: int) -> float:
    """The learning rate of the step that starts after n samples."""
    start = settings.warmup if settings.decay_from is None else settings.decay_from
    rise = min(1.0, (n + settings.batch) / settings.warmup) if settings.warmup else 1.0
    fall = DECAYS[settings.decay](n, start, settings.samples or 0) if n > start else 1.0
    return settings.lr * rise * fall
