"""From a name to the prior: of tensors, of tokens or of several parts, by what its folder says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from oneprior import storage
from oneprior.joint import JointDenoiser
from oneprior.joint_prior import JointPrior
from oneprior.prior import Prior
from oneprior.token_prior import TokenPrior
from oneprior.tokens import TokenDenoiser


def load(name: str | Path, *, device: str | torch.device = "cpu") -> Prior:
    """A prior from a folder (of a prior, or of a run), or a shipped one by its name.

    Example:
        >>> prior = oneprior.load("digits")

    Raises:
        FileNotFoundError: when there is no such folder or name, or a file of it is missing.
        ValueError: when a file is damaged, of another format, or a pickle.
    """
    parts = storage.read(name, device=device)
    kinds: dict[type, Any] = {TokenDenoiser: TokenPrior, JointDenoiser: JointPrior}
    return kinds.get(type(parts.den), Prior)(*parts)
