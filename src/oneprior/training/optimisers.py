"""Which optimiser moves which weight: AdamW all of them, or Muon the matrices of the blocks and AdamW the rest.

Muon (Jordan et al. 2024): B <- mu B + G, W <- W - lr 0.2 sqrt(max(W's sides)) polar(G + mu B). The polar factor U V' of
a matrix U S V' moves all of its directions alike, where a plain gradient moves a few; the factor before it gives a step
the size of one of AdamW (Liu et al. 2025), so that one learning rate serves both. It pays on transformers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from oneprior.training.settings import TrainSettings


def polar(matrix: Tensor) -> Tensor:
    """About U V' of U S V', a matrix (m, n): singular values end between 0.7 and 1.2 if they begin above 0.003 |S|.

    Five rounds of an odd polynomial of degree 5 whose slope at 0 is as large as can be, in float32: bfloat16, which
    torch.optim.Muon computes in, is a hundred times slower on CPUs without units for it.
    """
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix.float() if wide else matrix.float().mT
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315) @ x
    return x if wide else x.mT


class Muon(torch.optim.Optimizer):
    """Muon on matrices. A step does nothing where `found_inf`, a tensor of one number, is 1, as in fused AdamW.

    Raises:
        ValueError: for a parameter that is no matrix.
    """

    found_inf: Tensor | None = None

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        for p in (p for group in self.param_groups for p in group["params"]):
            if p.ndim != 2:
                raise ValueError(f"Muon takes matrices; a parameter of shape {tuple(p.shape)} came")

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step; a closure is not asked."""
        for group in self.param_groups:
            lr, mu = group["lr"], group["momentum"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                before = state.setdefault("momentum", torch.zeros_like(p.grad))
                after = mu * before + p.grad
                size = 0.2 * max(p.shape) ** 0.5
                moved = p * (1 - lr * group["weight_decay"]) - lr * size * polar(p.grad + mu * after).to(p.dtype)
                if self.found_inf is not None:
                    skip = self.found_inf.bool()
                    after, moved = torch.where(skip, before, after), torch.where(skip, p, moved)
                before.copy_(after)
                p.copy_(moved)


def matrices(module: nn.Module) -> list[str]:
    """Names of the weights that Muon moves: those of linear layers within the blocks of a network, none that read
    data, embed symbols or give the answer."""
    blocks = [name for name, m in module.named_modules() if isinstance(m, nn.ModuleList)]
    inside = [n for n, m in module.named_modules() if isinstance(m, nn.Linear) and any(n.startswith(b) for b in blocks)]
    return [f"{n}.weight" for n in inside]


def optimisers(
    module: nn.Module, trained: Mapping[str, nn.Parameter], s: TrainSettings
) -> list[tuple[torch.optim.Optimizer, list[str]]]:
    """The optimisers of the parameters `trained` of `module`, each with the names of those it moves.

    Raises:
        ValueError: for Muon on a network without blocks.
    """
    names = [n for n in matrices(module) if n in trained] if s.optimiser == "muon" else []
    if s.optimiser == "muon" and not names:
        raise ValueError("optimiser='muon' moves linear layers in the blocks of a network, and this one has none")
    rest = [n for n in trained if n not in set(names)]
    adam = {"lr": s.lr, "betas": s.betas, "weight_decay": s.weight_decay}
    found: list[tuple[torch.optim.Optimizer, list[str]]] = []
    if names:
        found += [(Muon([trained[n] for n in names], s.lr, weight_decay=s.weight_decay), names)]
    if rest:  # fused: on the CPU 2.8x over the plain loop, and it skips a step, on the device, when `found_inf` is 1
        found += [(torch.optim.AdamW([trained[n] for n in rest], fused=True, **adam), rest)]
    return found
