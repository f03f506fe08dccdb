"""Guidance by a perturbed copy of the same network: D + s (D - D_perturbed); no second model, no dropped condition.

Perturbed attention, PAG (Ahn et al. 2024): in chosen layers the map of self-attention is the identity, every token
sees itself alone. Skip-layer guidance: chosen layers pass their input on. Either loses structure first, and the line
from it through D restores more. The network is perturbed by hooks that last for one call in one thread.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from difflib import get_close_matches
from threading import get_ident, local
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from oneprior.denoiser import Denoiser
from oneprior.guidance.contrast import Contrast, Interval
from oneprior.guidance.scale import Scale, check_scale
from oneprior.posterior import Posterior


class Perturbed(Contrast):
    """Abstract: `inner` guided away from its network perturbed in `layers`. Two calls a step.

    layers: names of modules of `inner.net`, as `named_modules` has them. s: strength, 0 plain (scale w = 1 + s), a
    float or (B,), `usual` without. interval: as for `CFG`.
    """

    usual: float

    def __init__(
        self, inner: Denoiser, layers: Sequence[str], s: Scale | None = None, *, interval: Interval = None
    ) -> None:
        super().__init__(inner, check_scale(self.usual if s is None else s, "s") + 1.0, interval=interval)
        if not isinstance(getattr(inner, "net", None), nn.Module):
            raise TypeError(f"{type(self).__name__} perturbs a network, and {type(inner).__name__} has none (no .net)")
        self.layers = (layers,) if isinstance(layers, str) else tuple(layers)
        known = dict(self.net.named_modules())
        unknown = [name for name in self.layers if name not in known]
        if unknown or not self.layers:
            near = get_close_matches(unknown[0], known, 5, 0.3) if unknown else [*known][1:8]
            raise ValueError(f"layers {[*self.layers]}: names of modules of the network were expected, such as {near}")

    @abstractmethod
    def perturb(self, layer: nn.Module, name: str) -> Any:
        """A context in which `layer` is perturbed."""

    def views(self, x: Tensor, t: Any, cond: dict[str, Any]) -> tuple[Posterior, tuple[Tensor, ...]]:
        post = self.inner(x, t, **cond)
        with ExitStack() as stack:
            for name in self.layers:
                stack.enter_context(self.perturb(self.net.get_submodule(name), name))
            return post, (post.mean, self.inner(x, t, **cond).mean)


class PAG(Perturbed):
    """Perturbed-attention guidance; the paper takes s = 3 and the middle of the network.

    A layer is an attention, or anything that holds some: all that call `scaled_dot_product_attention` with as many
    queries as keys are perturbed. Our own layers: "mid.blocks.0.attention.own" (UNet), "blocks.3.attention" (DiT).

    Example:
        >>> x = sample(PAG(den, ["mid"], 3.0), (8, 3, 32, 32), seeds=range(8))

    Raises:
        ValueError: for a name that is no module, or (when asked) a layer in which no attention ran.
    """

    usual = 3.0

    @contextmanager
    def perturb(self, layer: nn.Module, name: str) -> Iterator[None]:
        open_: list[tuple[_Identity, int]] = []
        met = 0

        def enter(*_: Any) -> None:
            open_.append((_Identity().__enter__(), _count()))

        def leave(*_: Any) -> None:  # runs after an error too
            nonlocal met
            if open_:
                mode, before = open_.pop()
                mode.__exit__(None, None, None)
                met += _count() - before

        with _hooked(layer.register_forward_pre_hook, enter), _hooked(layer.register_forward_hook, leave, True):
            yield
        if not met:
            raise ValueError(
                f"no self-attention ran in layer '{name}': PAG knows those that call scaled_dot_product_attention"
            )


class SkipLayer(Perturbed):
    """Skip-layer guidance: the layers (blocks whose output is shaped like their first input) pass their input on.

    Usually for a part of the way only: interval=time(0.8, 0.99).

    Example:
        >>> x = sample(SkipLayer(den, ["blocks.3"], interval=time(0.8, 1.0)), (8, 3, 32, 32), seeds=range(8))

    Raises:
        ValueError: for a name that is no module, or (when asked) a layer whose output is shaped otherwise.
    """

    usual = 2.8

    @contextmanager
    def perturb(self, layer: nn.Module, name: str) -> Iterator[None]:
        def skip(_: nn.Module, args: tuple[Any, ...], out: Any) -> Any:
            shapes = [tuple(v.shape) if isinstance(v, Tensor) else type(v).__name__ for v in (*args[:1], out)]
            if len(shapes) < 2 or shapes[0] != shapes[1] or not isinstance(out, Tensor):
                raise ValueError(f"layer '{name}' cannot be skipped: it turns {shapes[0]} into {shapes[-1]}")
            return args[0]

        with _hooked(layer.register_forward_hook, skip):
            yield


_own = local()  # how many attentions this thread has perturbed: of nested perturbations one acts, and all may know


def _count() -> int:
    return getattr(_own, "count", 0)


class _Identity(TorchFunctionMode):
    """Self-attention whose map is the identity: its output is its values."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            given = dict(zip(("query", "key", "value"), args, strict=False)) | (kwargs or {})
            if given["query"].shape[-2] == given["key"].shape[-2]:
                _own.count = _count() + 1
                return given["value"]
        return func(*args, **(kwargs or {}))


@contextmanager
def _hooked(register: Callable[..., Any], hook: Callable[..., Any], always: bool = False) -> Iterator[None]:
    """A hook that only this thread's calls see, gone at the end whatever happens."""
    thread = get_ident()

    def own(*args: Any) -> Any:
        return hook(*args) if get_ident() == thread else None

    handle = register(own, always_call=True) if always else register(own)
    try:
        yield
    finally:
        handle.remove()
