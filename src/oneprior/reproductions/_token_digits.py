"""Handwritten digits as 64 tokens of 17 grey levels: what the reproductions of discrete diffusion train on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from oneprior.codecs import VQ, Levels
from oneprior.conditions import Conditions, Label
from oneprior.data import digits, in_memory
from oneprior.denoiser import Facts
from oneprior.nets import TokensConfig, build
from oneprior.reproductions._learn import trained
from oneprior.token_prior import TokenPrior
from oneprior.tokens import Corruption, TokenDenoiser
from oneprior.tokens.losses import TokenLoss, TokenObjective
from oneprior.training.batches import Source as Batched

LEVELS, SHAPE, L = 17, (1, 8, 8), 64
CODEC = Levels(LEVELS, SHAPE)
Codec = Levels | VQ


def tokens(part: str) -> tuple[Tensor, Tensor]:
    """Tokens (N, 64) and labels of the training or held-out digits."""
    source = digits(part)
    batch = source.batch(range(len(source)))
    return CODEC.encode(batch["x"]), batch["label"]


def histogram_nats(train: Tensor, x: Tensor, smooth: float = 0.5) -> float:
    """Mean nats a token of x under independent pixels, their frequencies in `train` with `smooth` added."""
    count = torch.nn.functional.one_hot(train, LEVELS).sum(0) + smooth
    logp = (count / count.sum(-1, keepdim=True)).log()
    return float(-logp.expand(len(x), -1, -1).gather(-1, x[..., None]).mean())


def learn(
    corruption: Corruption,
    loss: TokenLoss,
    samples: int,
    seed: int,
    *,
    timed: bool,
    label: bool = False,
    convention: str = "posterior",
    device: str = "cpu",
) -> TokenPrior:
    """A transformer of 0.4M parameters, trained on `samples` draws of the training digits; averaged weights."""
    conditions = Conditions({"label": Label(tuple(map(str, range(10))))} if label else {})
    config = TokensConfig(
        (L,), vocab=corruption.vocab, timed=timed, grid=(8, 8), conv=3, width=96, depth=4, heads=4, dropout=0.1,
        **conditions.fields,
    )  # fmt: skip
    facts = Facts(null=conditions.null)
    den = TokenDenoiser(build(config, seed), corruption, convention, timed=timed, facts=facts)  # type: ignore[arg-type]
    return fit(den, loss, in_memory(digits("train")), CODEC, samples, seed, conditions=conditions, device=device)


def fit(
    den: TokenDenoiser,
    loss: TokenLoss,
    source: Batched,
    codec: Codec,
    samples: int,
    seed: int,
    *,
    conditions: Conditions | None = None,
    device: str = "cpu",
) -> TokenPrior:
    """The prior of averaged weights after `samples` draws of pictures, or of their tokens."""
    conditions, c = conditions or Conditions(), den.corruption
    name = f"{type(c).__name__.lower()}-{c.vocab}{'-timed' if den.timed else ''}-{seed}"
    den = trained(
        name, den, TokenObjective(loss), source, codec, conditions, samples=samples, batch=64, lr=2e-3,
        warmup=min(6400, samples // 8), drop=0.2, seed=seed, device=device,
    )  # fmt: skip
    h, w = codec.grid
    return TokenPrior(den, codec, conditions, {"shape": [h * w]})


class Tokens:
    """Tokens (N, L) that were made beforehand, as a source."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, indices: Sequence[int], /) -> dict[str, Tensor]:
        return {"x": self.x[list(indices)]}
