"""From a name to the prior: of tensors or of tokens, by what its folder says."""

from __future__ import annotations

from pathlib import Path

import torch

from oneprior import storage
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
    return (TokenPrior if isinstance(parts.den, TokenDenoiser) else Prior)(*parts)
