"""Taps: what the layers of any network say during a call, h_b(x), read or added to by hooks that never stay.

with tapped(net, ["blocks.3"]) as seen:
    net(x)
seen["blocks.3"]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from oneprior.uses.errors import Model


@contextmanager
def tapped(
    net: nn.Module,
    layers: Sequence[str],
    read: Callable[[Tensor], Tensor] = lambda h: h,
    *,
    grad: bool = False,
    add: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
) -> Iterator[dict[str, Tensor]]:
    """Within it every call of `net` leaves read(output), detached, of each layer named, in the order of the call.

    Any module will do, and any layer's name of `net.named_modules()`; of an output of several the first tensor counts.
    A compiled network runs uncompiled meanwhile, where hooks are heard. No hook is left behind, whatever happens.
    grad: outputs stay in the graph. add: layers whose output h, one tensor, becomes h + add[name](h).

    Example:
        >>> with tapped(vit, ["encoder.layer.3"], lambda h: h.mean(1)) as seen:
        ...     vit(x)
        >>> seen["encoder.layer.3"]

    Raises:
        KeyError: for a layer that is not there, with the names nearest to it.
    """
    net = getattr(net, "_orig_mod", net)
    known, seen, hooks, add = dict(net.named_modules()), dict[str, Tensor](), [], add or {}
    for name in (*layers, *add):
        if name not in known or not name:
            close = get_close_matches(name, [k for k in known if not isinstance(known[k], nn.ModuleList)], 3, 0.4)
            close = close or blocks(net)
            raise KeyError(f"this network has no layer '{name}'; nearest are {', '.join(close)}")

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, out: Any) -> None:
            if (h := _first(out)) is not None:
                seen[name] = read(h if grad else h.detach())

        return hook

    try:
        hooks = [
            known[name].register_forward_hook(lambda _m, _a, h, more=more: h + more(h)) for name, more in add.items()
        ]
        hooks += [known[name].register_forward_hook(keep(name)) for name in layers]
        with torch.compiler.set_stance("force_eager"):
            yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _first(out: Any) -> Tensor | None:
    if isinstance(out, Tensor):
        return out
    inside = out.values() if isinstance(out, Mapping) else out if isinstance(out, tuple | list) else ()
    return next((h for v in inside if (h := _first(v)) is not None), None)


LISTS = nn.ModuleList, nn.ModuleDict


def blocks(net: nn.Module) -> list[str]:
    """Names of the blocks: members of lists of modules, and what holds such a list; not what is inside a block."""
    net, found = getattr(net, "_orig_mod", net), list[str]()

    def visit(module: nn.Module, prefix: str) -> None:
        for name, child in module.named_children():
            if isinstance(child, LISTS) or (not isinstance(module, LISTS) and any(map(_is_list, child.modules()))):
                visit(child, f"{prefix}{name}.")  # a list is never called, what holds one is
                found.extend([] if isinstance(child, LISTS) else [prefix + name])
            elif isinstance(module, LISTS) and any(child.children()):
                found.append(prefix + name)

    visit(net, "")
    return found


def _is_list(module: nn.Module) -> bool:
    return isinstance(module, LISTS)


@contextmanager
def still(net: nn.Module, grad: bool = False) -> Iterator[None]:
    """Evaluation mode and frozen parameters, and no gradient at all but with `grad`; afterwards all is as it was."""
    modes, free = [(m, m.training) for m in net.modules()], [p for p in net.parameters() if p.requires_grad]
    try:
        net.eval().requires_grad_(False)
        with torch.set_grad_enabled(grad):
            yield
    finally:
        for m, mode in modes:
            m.training = mode
        for p in free:
            p.requires_grad_(True)


def network(den: Model) -> nn.Module:
    """The network underneath a denoiser."""
    if not isinstance(net := getattr(den, "net", None), nn.Module):
        raise ValueError(f"{type(den).__name__} has no network whose layers could be read")
    return net
