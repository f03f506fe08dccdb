"""The training loop: the state after n samples is f(settings, n), a pure function.

State is (weights, optimiser, averages, n); data order, times, noise, hidden conditions and learning rate are computed
from n (`order`, `settings`). So a run killed at any moment continues bit for bit from its checkpoint, the number of
workers cannot matter, and processes or micro-batches only split the sum. `fit` is a generator:

    for state in Trainer(den, objective, source, codec, settings=settings, run="runs/mine").fit():
        if state.line:
            print(state.n, state.line["loss"])
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, cast

import torch
from torch import Tensor, nn

from oneprior.conditions import Conditions
from oneprior.times import TimeLaw
from oneprior.training import checkpoint, order
from oneprior.training.batches import Batch, Batches, Codec, Source
from oneprior.training.ema import Averages, HalfLife, Power
from oneprior.training.engine import Engine, make_engine, signals_caught
from oneprior.training.optimisers import optimisers
from oneprior.training.run import RunFolder
from oneprior.training.settings import TrainSettings, as_json, learning_rate


@dataclass(frozen=True)
class State:
    """What is known after a step. Tensors stay on the device: reading one with .item() waits for it."""

    step: int
    n: int
    loss: Tensor
    """mean over this process's samples"""
    grad_norm: Tensor
    lr: float
    rate: float
    """samples per second of training time since the start"""
    seconds: float
    """training time of the whole run"""
    left: float | None
    """seconds to go, none where the run has no end in sight"""
    line: dict[str, Any] | None = None
    """the line just logged, when one was due"""
    preview: bool = False
    """whether a preview is due"""
    saved: Path | None = None
    """the checkpoint just written, in the main process"""


class _Loss(nn.Module):
    """Denoiser and objective as the one module that an engine wraps."""

    def __init__(self, den: nn.Module, objective: nn.Module) -> None:
        super().__init__()
        self.den, self.objective = den, objective

    def forward(self, x0: Tensor, t: Tensor, eps: Tensor, cond: dict[str, Any]) -> Tensor:
        return self.objective(self.den, x0, t, eps, **cond)


class Trainer:
    """Trains `den` (and `objective`, where it has parameters) on `source`.

    Args:
        den: the denoiser; its parameters change in place.
        objective: objective(den, x0, t, noise, **cond) -> (B,) loss per sample, with a time law `.law`; where it has
            `after(den, n)`, that is called behind every step of the optimiser.
        source: len(source) and source.batch(indices) -> {"x": (B, ...) float32, **conditions}.
        codec: to model range, codec.dequantise(x, u) with uniforms u in [0, 1) of x's shape; none: x as it is.
        conditions: what the denoiser is told about a sample, hidden with probability `settings.drop`; none: nothing.
        settings: see `TrainSettings`.
        run: the run's folder, where checkpoints and the log go and are resumed from; none: nothing is written.

    Attributes:
        averages: averages of the denoiser's weights; `with trainer.averages.applied(): ...` to use them.
        messages: what happened on resuming, and what this machine does otherwise, for the caller to show.
        stopped: why `fit` ended: "samples", "minutes" or the signal's name; set in between, it ends at the next step.
        measure: what each line of the log says besides, where it is set.
    """

    def __init__(
        self,
        den: nn.Module,
        objective: nn.Module,
        source: Source,
        codec: Codec | None = None,
        conditions: Conditions | None = None,
        settings: TrainSettings | None = None,
        run: RunFolder | str | Path | None = None,
        engine: Engine | None = None,
    ) -> None:
        self.settings = s = settings or TrainSettings()
        self.engine = engine or make_engine(s)
        self.den, self.objective, self.source = den, objective, source
        self.run = RunFolder(run) if isinstance(run, str | Path) else run
        self.stopped: str | None = None
        self.messages = list(self.engine.messages)
        self.measure: Callable[[], dict[str, Any]] | None = None
        self.batches = Batches(source, codec, conditions, cast(TimeLaw, objective.law), s, self.engine)
        self._whole = loss = _Loss(den, objective)
        self._module = self.engine.setup(loss)
        trained = {k: p for k, p in loss.named_parameters() if p.requires_grad}
        if not trained:
            raise ValueError("neither the denoiser nor the objective has a parameter that requires a gradient")
        self._trained, self._parameters = trained, list(trained.values())
        self.reset()
        if s.compile:
            cast(nn.Module, getattr(den, "net", den)).compile()

    def reset(self) -> None:
        """Begin anew at n = 0 with the weights as they are."""
        s = self.settings
        self.n, self.step, self.seconds = 0, 0, 0.0
        self._optimisers = optimisers(self._whole, self._trained, s)
        profiles = [*(Power(w) for w in s.averages), *([HalfLife(s.halflife)] if s.halflife else [])]
        self.averages = Averages(self.den, profiles)
        self._bad = torch.zeros(3, device=self.engine.device)  # steps skipped: in a row now, longest row, in all

    def _loss(self, batch: Batch) -> Tensor:
        move = partial(torch.Tensor.to, device=self.engine.device, non_blocking=True)
        cond = {k: move(v) for k, v in batch.cond.items()}
        with self.engine.autocast():
            loss = self._module(move(batch.x0), move(batch.t), move(batch.noise), cond)
        if loss.shape != (len(batch.t),):
            raise ValueError(f"the objective returned {tuple(loss.shape)}, expected ({len(batch.t)},): one a sample")
        return loss.float()

    def update(self, batches: list[Batch]) -> tuple[Tensor, Tensor, float]:
        """One step: the loss of this process's samples, the norm of the gradient and the learning rate."""
        s, engine = self.settings, self.engine
        lr = learning_rate(s, self.n)
        for p in self._parameters:
            p.grad = None
        total = torch.zeros((), device=engine.device)
        for i, batch in enumerate(batches):
            more = i < len(batches) - 1
            with engine.seeded(order.module_seed(s.seed, batch.first)), engine.accumulate(self._module, more):
                loss = self._loss(batch).sum() * (engine.world / s.batch)  # the engine averages over processes
                engine.backward(loss)
            total += loss.detach()
        norm = engine.clip(self._parameters, s.clip)
        bad = (~norm.isfinite()).float()
        for optimiser, _ in self._optimisers:
            for group in optimiser.param_groups:
                group["lr"] = lr
            optimiser.found_inf = bad  # type: ignore[attr-defined]
            optimiser.step()
        row, longest, skipped = self._bad
        row = (row + 1) * bad
        self._bad = torch.stack([row, torch.maximum(row, longest), skipped + bad])
        self.n += s.batch
        self.step += 1
        if after := getattr(self.objective, "after", None):
            after(self.den, self.n)
        self.averages.update(self.n, s.batch)
        return total, norm, lr

    def fit(self) -> Iterator[State]:
        """Train to `samples` or `minutes`, from the run's newest whole checkpoint if there is one; yields each step.

        A trainer that has begun goes on from where it is.

        Ctrl-C and SIGTERM end it at the next step boundary with a checkpoint (a second Ctrl-C at once, without).

        Raises:
            FloatingPointError: after `patience` steps in a row whose gradient was not finite.
            checkpoint.CheckpointError: when there are checkpoints, but every one is damaged.
            ValueError: when the run was started with other settings, data or network.
            OSError: when a checkpoint cannot be written; earlier ones stay.
        """
        s, on_cpu = self.settings, self.engine.device.type == "cpu"
        if self.n == 0:
            self.resume()
        begun = saved_at = monotonic()
        first, busy = self.n, 0.0
        self.stopped = "samples" if s.samples is not None and self.n >= s.samples else None
        window = torch.zeros(2, device=self.engine.device)  # sum of losses and number of steps since the last line
        with signals_caught() as caught, closing(self.batches.after(self.n)) as feed:
            while self.stopped is None:
                tick = monotonic()
                if not self._module.training:  # a preview may have left it in eval mode
                    self._module.train()
                loss, norm, lr = self.update(next(feed))
                window += torch.stack([loss, torch.ones_like(loss)])
                now = monotonic()
                over = s.minutes is not None and now - begun >= 60 * s.minutes
                late = s.save_minutes is not None and now - saved_at >= 60 * s.save_minutes
                over, late, hit = self.engine.agree([over, late, bool(caught)])
                if s.samples is not None and self.n >= s.samples:
                    self.stopped = "samples"
                elif hit or over:
                    self.stopped = (caught[0] if caught else "signal") if hit else "minutes"
                log = self.stopped is not None or self.due(s.log_every)
                save = self.stopped is not None or late or self.due(s.save_every)
                if log or save or on_cpu:  # elsewhere, reading the count would wait for the device in every step
                    self._check_patience()
                busy += monotonic() - tick
                self.seconds += monotonic() - tick
                rate = (self.n - first) / max(busy, 1e-9)
                if self.due(s.snapshot_every) and self.run and self.engine.is_main:
                    self.averages.snapshot(self.run.averages, self.n)
                line = self._log(window, norm, lr, rate) if log else None
                saved = None
                if save:
                    saved, saved_at = self.save(), monotonic()
                yield State(
                    step=self.step,
                    n=self.n,
                    loss=loss,
                    grad_norm=norm,
                    lr=lr,
                    rate=rate,
                    seconds=self.seconds,
                    left=self.left(rate, monotonic() - begun),
                    line=line,
                    preview=self.due(s.preview_every),
                    saved=saved,
                )

    def using_averages(self) -> AbstractContextManager[Any]:
        """The denoiser with averaged weights, or as it is where none are kept; in eval mode."""
        return self.averages.applied() if self.averages.profiles else nullcontext(self.den.eval())

    def due(self, every: int | None) -> bool:
        """Whether the last step crossed a multiple of `every` samples."""
        return every is not None and self.n // every > (self.n - self.settings.batch) // every

    def left(self, rate: float, spent: float = 0.0) -> float | None:
        """Seconds to go at `rate` samples a second, after `spent` seconds of this `fit`."""
        s = self.settings
        ends = [(s.samples - self.n) / rate] if s.samples is not None else []
        ends += [60 * s.minutes - spent] if s.minutes is not None else []
        return max(0.0, min(ends)) if ends else None

    def _log(self, window: Tensor, norm: Tensor, lr: float, rate: float) -> dict[str, Any]:
        total, steps = self.engine.mean(window).tolist()
        window.zero_()
        line = {"step": self.step, "n": self.n, "loss": total / steps, "grad_norm": norm.item(), "lr": lr}
        line |= {"rate": round(rate, 1), "seconds": round(self.seconds, 3), "skipped": int(self._bad[2])}
        line |= self.measure() if self.measure else {}
        if self.run and self.engine.is_main:
            self.run.log(line)
        return line

    def _check_patience(self) -> None:
        _, longest, skipped = (int(v) for v in self._bad.tolist())
        if longest >= self.settings.patience:
            raise FloatingPointError(
                f"the gradient was not finite in {longest} steps in a row, up to step {self.step} ({skipped} in all); "
                "they were skipped and the weights are as before. Likely: NaN in the data, too large a learning rate "
                f"(lr={self.settings.lr:g}), or a time law that reaches an end where the loss has no limit"
            )

    def save(self) -> Path | None:
        """Write a checkpoint now; every process must call it, the main one writes and returns its path."""
        path = None
        if self.run and self.engine.is_main:
            optimiser, rest = checkpoint.pack_optimisers(self._optimisers)
            files: dict[str, Mapping[str, Tensor]] = {"model": self.den.state_dict(), "optimiser": optimiser}
            files |= {f"ema-{name}": self.averages.state(name) for name in self.averages.profiles}
            if own := self.objective.state_dict():
                files["objective"] = own
            state = {
                "n": self.n,
                "seconds": self.seconds,
                "skipped": self._bad.tolist(),
                "settings": as_json(self.settings),
                "data": self._data(),
                "optimiser": rest,
                "world": self.engine.world,
                "torch": torch.__version__,
            }
            path = checkpoint.write(self.run.checkpoints, self.step, files, state, self.settings.keep)
        self.engine.barrier()
        return path

    def resume(self) -> bool:
        """Take up the run's newest whole checkpoint, if it has any; `messages` says what was found."""
        if self.run is None:
            return False
        found = checkpoint.newest(self.run.checkpoints) if self.engine.is_main else None
        # all processes read the folder that the main one found whole
        path, passed = self.engine.broadcast((str(found.path), found.passed) if found else (None, ()))
        if path is not None:
            self._load(found or checkpoint.Checkpoint(Path(path), checkpoint.check(Path(path))))
            self.messages += [*passed, f"resumed from {Path(path).name} at {self.n:,} samples"]
        if self.engine.is_main:
            checkpoint.tidy(self.run.checkpoints, self.step)
            self.run.rewind(self.n)
        self.engine.barrier()
        return path is not None

    def _load(self, point: checkpoint.Checkpoint) -> None:
        path, state = point.path, point.state
        if changed := self.settings.differences(state["settings"], state["n"]):
            raise ValueError(f"{path} was made with other settings ({'; '.join(changed)}): put them back or start anew")
        if state["data"] != self._data():
            raise ValueError(f"{path} was trained on {state['data']}, this is {self._data()}: the order would not hold")
        try:
            self.den.load_state_dict(point.tensors("model"))
            if own := self.objective.state_dict():
                self.objective.load_state_dict(point.tensors("objective") if own else {})
            checkpoint.unpack_optimisers(self._optimisers, point.tensors("optimiser"), state["optimiser"])
            for name in self.averages.profiles:
                self.averages.load(name, point.tensors(f"ema-{name}"))
        except (RuntimeError, KeyError, FileNotFoundError) as e:
            raise ValueError(f"{path} holds another network or objective than those being trained: {e}") from e
        self.n, self.step, self.seconds = state["n"], state["step"], state["seconds"]
        self._bad = torch.tensor(state["skipped"], device=self.engine.device)

    def _data(self) -> dict[str, Any]:
        facts = getattr(self.source, "facts", None)
        return {"count": len(self.source), "name": getattr(facts, "name", type(self.source).__name__)}
