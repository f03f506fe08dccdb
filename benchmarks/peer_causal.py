"""The autoregressive twin of a prior of tokens: its network, causal, trained on its tokens by its recipe.

net = causal_twin(prior, source, Path("runs/kjv-ar"), Path("recipes/kjv.yaml"))
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from oneprior.cli.options import from_file
from oneprior.cli.train import TrainJob
from oneprior.nets import build
from oneprior.token_prior import TokenPrior
from oneprior.tokens import NextToken
from oneprior.training.batches import Source
from oneprior.training.trainer import Trainer


def causal_twin(prior: TokenPrior, source: Source, run: Path, recipe: Path, **other: Any) -> nn.Module:
    """The transformer of the prior's sizes that predicts the next token, with the averaged weights that priors keep.

    It is trained in the folder `run`, goes on there after an interruption, and is read from there once it is done.
    other: settings that differ from the recipe's.
    """
    c: Any = prior.den.net.config
    # a two-dimensional convolution would look ahead; time and masks are nothing that a causal net is told
    net = build(replace(c, causal=True, timed=False, conv=0 if c.grid else c.conv), seed=0)
    settings = replace(from_file(TrainJob, recipe).train, **other)
    trainer = Trainer(net, NextToken(), source, conditions=prior.conditions or None, settings=settings, run=run)
    for state in trainer.fit():
        if state.line:
            left = "" if state.left is None else f", {state.left / 60:.0f} min left"
            print(f"{run}: n {state.n:,}  loss {state.line['loss']:.4f} nats a token, {state.rate:.0f} samples/s{left}")
    if trainer.stopped not in (None, "samples"):
        raise SystemExit(f"{run} is not finished ({trainer.stopped}); the same command goes on")
    with trainer.averages.applied():
        weights = {k: v.detach().clone() for k, v in net.state_dict().items()}
    net.load_state_dict(weights)
    return net.eval().requires_grad_(False)
