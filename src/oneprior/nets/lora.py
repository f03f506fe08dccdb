"""Beginning from a trained network: its weights where they fit, and low-rank updates of them.

    W' = W + B A,  A (r, n) uniform in +-1/sqrt(n), B (m, r) zero: the update begins at nothing, and W stays as it is.
Of a convolution, W is (out, in x height x width). LoRA: Low-rank adaptation (Hu et al. 2021), arXiv 2106.09685.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import fields
from math import prod, sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from oneprior.nets.config import NetConfig


def config_like(config: NetConfig, shape: tuple[int, ...], **ports: Any) -> NetConfig:
    """The config of a network of the same build for other samples and ports."""
    shared = {f.name for f in fields(NetConfig)}
    own = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in shared}
    return type(config)(shape, **{**own, **ports})


def adopt(net: nn.Module, given: nn.Module) -> list[str]:
    """Take the weights of `given` where name and shape agree; returns the names of those that stay as built."""
    theirs, own = given.state_dict(), net.state_dict()
    fit = {k: v for k, v in theirs.items() if k in own and own[k].shape == v.shape}
    net.load_state_dict({**own, **fit})
    return [k for k in own if k not in fit]


class LowRank(nn.Module):
    """W -> W + B A, of W's shape."""

    def __init__(self, shape: torch.Size, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        n = prod(shape[1:])
        self.A = nn.Parameter((2 * torch.rand(rank, n, generator=generator) - 1) / sqrt(n))
        self.B = nn.Parameter(torch.zeros(shape[0], rank))

    def forward(self, W: Tensor) -> Tensor:
        return W + (self.B @ self.A).view_as(W)


def adapt(net: nn.Module, rank: int, whole: Collection[str] = (), seed: int = 0) -> nn.Module:
    """Freeze a network, in place, but for a low-rank update of every linear map and convolution, and for the parameters
    of `whole`.

    Raises:
        ValueError: a rank below 1, or one at which nothing is saved anywhere.
    """
    if rank < 1:
        raise ValueError(f"rank = {rank}: at least 1 was expected")
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name in whole)
    g, count = torch.Generator().manual_seed(seed), 0
    for name, module in list(net.named_modules()):
        weight = getattr(module, "weight", None)
        if not isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d) or f"{name}.weight" in whole or weight is None:
            continue
        m, n = weight.shape[0], prod(weight.shape[1:])
        if rank * (m + n) < m * n:
            parametrize.register_parametrization(module, "weight", LowRank(weight.shape, rank, g))
            count += 1
    if not count:
        raise ValueError(f"rank = {rank}: no matrix of this network is larger than an update of that rank")
    return net


def merged(net: Any) -> Any:
    """A copy with every update added to its matrix: a plain network again."""
    net = copy.deepcopy(net)
    for module in list(net.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
    return net
