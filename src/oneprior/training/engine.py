"""The engine: where a step runs. One process in plain torch, many through Lightning Fabric, behind the same methods.

Gradients are averaged over processes; a loss divided by the global batch must therefore be multiplied by `world`.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from inspect import signature
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from oneprior.training.settings import TrainSettings


def pick_device(name: str = "auto") -> torch.device:
    """The device of a name; `auto` is the accelerator if there is one, else the CPU."""
    if name != "auto":
        return torch.device(name)
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")


@lru_cache(maxsize=8)
def bf16_speed(device: torch.device) -> float:
    """Speed of matrix products in bfloat16 over that in float32, measured: below 0.1 where a CPU has no units for it.

    Raises RuntimeError or TypeError where the device has no bfloat16 at all.
    """

    def seconds(dtype: torch.dtype) -> float:
        a = torch.ones(256, 256, device=device, dtype=dtype)
        begun, best = perf_counter(), float("inf")
        while perf_counter() - begun < 0.05:
            tick = perf_counter()
            (a @ a)[0, 0].item()
            best = min(best, perf_counter() - tick)
        return best

    return seconds(torch.float32) / seconds(torch.bfloat16)


class Engine:
    """One process, plain torch: the whole interface, and the fallback where Fabric is not installed.

    On a CPU that computes bfloat16 at less than a quarter of the speed of float32, "bf16" is float32: as good, and
    what a recipe from another machine would want. `messages` says so.
    """

    rank, world = 0, 1

    def __init__(self, device: str = "auto", precision: str = "fp32") -> None:
        self.device, self.bf16 = pick_device(device), precision == "bf16"
        self.messages: list[str] = []
        if self.bf16 and self.device.type == "cpu" and (speed := bf16_speed(self.device)) < 0.25:
            self.bf16 = False
            self.messages.append(f"precision: fp32, as bf16 has {speed:.2g}x its speed on this CPU")

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def launch(self) -> None:
        """Start the other processes, if this one is to do so; each runs the same script from its start."""

    def setup(self, module: nn.Module) -> nn.Module:
        """Move to the device and wrap; call the result, keep the original for its state."""
        return module.to(self.device)

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    @contextmanager
    def seeded(self, seed: int) -> Iterator[None]:
        """Seed torch's global generators, which dropout inside modules draws from, and give them back as they were."""
        on_gpu = self.device.type == "cuda"
        with torch.random.fork_rng(devices=[self.device.index or 0] if on_gpu else []):
            torch.default_generator.manual_seed(seed)
            if on_gpu:
                torch.cuda.manual_seed(seed)
            yield

    def accumulate(self, module: nn.Module, more: bool) -> AbstractContextManager[Any]:
        """Where a backward that is not the step's last runs: gradients are not exchanged yet."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def clip(self, parameters: list[nn.Parameter], norm: float | None) -> Tensor:
        """Scale the gradients to at most `norm`; returns the norm they had, a device tensor."""
        return nn.utils.clip_grad_norm_(parameters, torch.inf if norm is None else norm)

    def mean(self, value: Tensor) -> Tensor:
        """Mean over processes."""
        return value

    def agree(self, flags: list[bool]) -> list[bool]:
        """Any process's flags, known to all; with several processes those of the previous call, so nothing waits."""
        return flags

    def broadcast(self, value: Any) -> Any:
        """The main process's value."""
        return value

    def barrier(self) -> None:
        """Wait for all processes."""


class FabricEngine(Engine):
    """Several processes with DistributedDataParallel; under torchrun or Slurm, or started by `launch`."""

    def __init__(self, processes: int, device: str = "auto", precision: str = "fp32") -> None:
        super().__init__(device, precision)
        try:
            from lightning_fabric import Fabric
            from lightning_fabric.strategies.ddp import DDPStrategy
        except ImportError as e:
            raise ImportError("several processes need lightning-fabric: pip install lightning-fabric") from e
        local = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
        nodes = int(os.environ.get("WORLD_SIZE", local)) // local
        backend = "gloo" if self.device.type == "cpu" else None
        # Buffers are constants in our networks; exchanging them would tie the processes' micro-batches together.
        known = signature(nn.parallel.DistributedDataParallel).parameters
        buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # its older name
        options: dict[str, Any] = {"process_group_backend": backend, buffers: False}
        strategy = DDPStrategy(**options)
        self.fabric = Fabric(accelerator=self.device.type, devices=local, num_nodes=nodes, strategy=strategy)
        self._vote: tuple[Tensor, Any] | None = None

    def launch(self) -> None:
        self.fabric.launch()
        self.rank, self.world, self.device = self.fabric.global_rank, self.fabric.world_size, self.fabric.device

    def setup(self, module: nn.Module) -> nn.Module:
        return self.fabric.setup_module(module)

    def accumulate(self, module: nn.Module, more: bool) -> AbstractContextManager[Any]:
        return self.fabric.no_backward_sync(module, enabled=more)  # type: ignore[arg-type]

    def backward(self, loss: Tensor) -> None:
        self.fabric.backward(loss)

    def mean(self, value: Tensor) -> Tensor:
        total = value.clone()
        torch.distributed.all_reduce(total)
        return total / self.world

    def agree(self, flags: list[bool]) -> list[bool]:
        before = self._vote
        mine = torch.tensor(flags, dtype=torch.int32, device=self.device)
        self._vote = mine, torch.distributed.all_reduce(mine, torch.distributed.ReduceOp.MAX, async_op=True)
        if before is None:
            return [False] * len(flags)
        before[1].wait()
        return [bool(v) for v in before[0].tolist()]

    def broadcast(self, value: Any) -> Any:
        return self.fabric.broadcast(value)

    def barrier(self) -> None:
        if self._vote is not None:  # nobody will ask for its outcome
            self._vote[1].wait()
            self._vote = None
        self.fabric.barrier()


def make_engine(settings: TrainSettings) -> Engine:
    """The engine for `settings` and the environment (torchrun's WORLD_SIZE wins), launched."""
    many = max(int(os.environ.get("WORLD_SIZE", 1)), settings.processes) > 1
    kind = (settings.device, settings.precision)
    engine = FabricEngine(settings.processes, *kind) if many else Engine(*kind)
    engine.launch()
    return engine


@contextmanager
def signals_caught() -> Iterator[list[str]]:
    """Names of the SIGINT and SIGTERM that arrive, in order; the handlers that were there come back at the end.

    A SIGINT after another signal raises KeyboardInterrupt at once. Outside the main thread nothing is caught.
    """
    caught: list[str] = []

    def handler(number: int, frame: Any) -> None:
        if number == signal.SIGINT and caught:
            raise KeyboardInterrupt
        caught.append(signal.Signals(number).name)

    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM) if main}
    try:
        yield caught
    finally:
        for number, old in before.items():
            signal.signal(number, old)
