"""Networks: small ones of our own, built from a config. `build(UNetConfig.sized((1, 8, 8), classes=10))`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from oneprior.nets.config import (
    ClipConfig,
    CodesConfig,
    DiTConfig,
    MLPConfig,
    NetConfig,
    TokensConfig,
    UNetConfig,
    config_from_dict,
    to_dict,
)
from oneprior.nets.joint_config import JointConfig

if TYPE_CHECKING:
    from oneprior.nets.clips import ClipNet
    from oneprior.nets.codes import CodeUNet
    from oneprior.nets.dit import DiT
    from oneprior.nets.joint import JointNet
    from oneprior.nets.mlp import MLP
    from oneprior.nets.tokens import TokenTransformer
    from oneprior.nets.unet import UNet

__all__ = [
    "ClipConfig",
    "CodesConfig",
    "DiTConfig",
    "JointConfig",
    "MLPConfig",
    "NetConfig",
    "TokensConfig",
    "UNetConfig",
    "build",
    "config_from_dict",
    "to_dict",
]

NETWORKS = {
    "unet": "UNet", "dit": "DiT", "mlp": "MLP", "tokens": "TokenTransformer", "codes": "CodeUNet", "clips": "ClipNet",
}  # fmt: skip


def build(
    config: NetConfig | JointConfig, seed: int | None = None
) -> UNet | DiT | MLP | TokenTransformer | CodeUNet | ClipNet | JointNet:
    """The network a config describes: an `nn.Module` with `.config`, whose output is zero until it is trained.

    seed: makes the initial weights a function of it; the global generator is as before afterwards.
    """
    if seed is not None:
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return build(config)
    if isinstance(config, JointConfig):
        from oneprior.nets.joint import JointNet

        return JointNet(config, build(config.backbone))
    if isinstance(config, NetConfig) and config.type in NETWORKS:  # imported here: settings stay free of torch
        return getattr(import_module(f"oneprior.nets.{config.type}"), NETWORKS[config.type])(config)
    raise TypeError(f"build wants a config of oneprior.nets; got {type(config).__name__}")
