"""From a name to the prior: of tensors, of tokens or of several parts, ours or of another library, by its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from oneprior import interop, storage
from oneprior.joint import JointDenoiser
from oneprior.joint_prior import JointPrior
from oneprior.prior import Prior
from oneprior.token_prior import TokenPrior
from oneprior.tokens import TokenDenoiser


def load(name: str | Path, *, device: str | torch.device = "cpu") -> Prior:
    """A prior from a folder, a shipped one by its name, or one from the Hub, user/name or user/name@revision.

    The folder is that of a prior, of a run, or a checkpoint of another library (`oneprior.interop`). A name without a
    slash never asks the network, and nothing does with ONEPRIOR_OFFLINE=1 or the Hub's HF_HUB_OFFLINE=1.

    Example:
        >>> prior = oneprior.load("digits")

    Raises:
        FileNotFoundError: when there is no such folder or name, or a file of it is missing.
        ValueError: when a file is damaged, of a format that is not read, or a pickle.
        ConnectionError: when the Hub cannot be asked for a name that is not at hand.
    """
    folder = storage.find(name)
    foreign = interop.read(folder)
    parts = storage.read(folder, device=device) if foreign is None else foreign.parts
    kinds: dict[type, Any] = {TokenDenoiser: TokenPrior, JointDenoiser: JointPrior}
    prior = kinds.get(type(parts.den), Prior)(*parts)
    if foreign is not None:
        prior.own = foreign.own
        prior.to(device)
    return prior
