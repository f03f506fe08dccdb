"""Training on tokens: batches are integers with uniform numbers, and a run that was broken off ends the same."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from oneprior.conditions import Conditions
from oneprior.data.text import TextSource, text
from oneprior.nets import TokensConfig, build
from oneprior.tokens import Absorbing, BlockMasks, NextToken, TokenDenoiser, TokenObjective
from oneprior.training.batches import Batches
from oneprior.training.settings import TrainSettings
from oneprior.training.trainer import Trainer

L = 16


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> TextSource:
    path = tmp_path_factory.mktemp("text") / "ab.txt"
    path.write_text("abcab" * 200)  # the next letter follows from the last three
    return text(path, length=L)


def settings(**other: Any) -> TrainSettings:
    base: dict[str, Any] = {"samples": 160, "batch": 8, "lr": 1e-2, "warmup": 0, "log_every": 40, "device": "cpu"}
    return TrainSettings(**{**base, **other})


def trainer(source: TextSource, run: Path | None = None, objective: Any = None, conv: int = 0, **other: Any) -> Trainer:
    vocab = source.text.symbols + 1
    config = TokensConfig((L,), vocab=vocab, width=16, depth=1, heads=2, dropout=0.1, conv=conv)
    den = TokenDenoiser(build(config, 0), Absorbing(vocab), timed=False)
    return Trainer(den, objective or TokenObjective(), source, None, Conditions({}), settings(**other), run)


def test_batches_of_tokens(source: TextSource) -> None:
    made = trainer(source)
    batches = Batches(source, None, None, TokenObjective().law, made.settings, made.engine)
    first = batches.prepare(np.arange(8))
    assert first.x0.dtype == torch.int64 and first.x0.shape == first.noise.shape == (8, L)
    assert 0 <= float(first.noise.min()) <= float(first.noise.max()) < 1 and 0.4 < float(first.noise.mean()) < 0.6
    t = first.t.sort().values
    assert t.dtype == torch.float32 and float((t - (torch.arange(8) + 0.5) / 8).abs().max()) < 0.25  # spread evenly


def test_a_broken_run_ends_the_same(source: TextSource, tmp_path: Path) -> None:
    list(trainer(source, tmp_path / "whole", save_every=40).fit())
    for stop in (3, 11):
        with closing(trainer(source, tmp_path / "broken", save_every=40).fit()) as fit:  # type: ignore[type-var]
            for state in fit:
                torch.rand(3)  # whatever the caller draws
                if state.step == stop:
                    break
    list(trainer(source, tmp_path / "broken", save_every=40).fit())
    files = [
        json.loads((tmp_path / name / "checkpoints" / "step-000020" / "state.json").read_text())["files"]
        for name in ("whole", "broken")
    ]
    assert files[0] == files[1]


@pytest.mark.parametrize(("objective", "conv"), [(TokenObjective(), 5), (TokenObjective(BlockMasks(4)), 0)])
def test_it_learns(source: TextSource, objective: TokenObjective, conv: int) -> None:
    made = trainer(source, objective=objective, conv=conv, samples=1280, log_every=160)
    lines = [s.line["loss"] for s in made.fit() if s.line]
    assert lines[0] < 1.2 and lines[-1] < 0.8 * lines[0]  # log 3 = 1.1 says nothing; blocks know the order


def test_a_causal_net_learns(source: TextSource) -> None:
    vocab = source.text.symbols + 1
    net = build(TokensConfig((L,), vocab=vocab, width=16, depth=1, heads=2, causal=True, conv=5), 0)
    made = Trainer(net, NextToken(), source, None, Conditions({}), settings(samples=640, log_every=160))
    lines = [s.line["loss"] for s in made.fit() if s.line]
    assert lines[-1] < 0.5 * lines[0] < 0.5
