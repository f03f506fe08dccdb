"""Pictures and labels, and pictures of two kinds, in one model, at a size that takes seconds."""

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from oneprior.codecs import Pixels
from oneprior.data import digits
from oneprior.denoiser import NetworkDenoiser
from oneprior.nets import MLPConfig, build
from oneprior.objective import Objective
from oneprior.reproductions import KEPT, reproduce
from oneprior.reproductions import multi_task_emoji as emoji
from oneprior.reproductions._learn import trained
from oneprior.schedules import Cosine
from oneprior.training.trainer import Trainer


def test_quick() -> None:
    """Figures that need training are shown only; shuffled pairs know nothing, and a label in the code leaks."""
    found = reproduce("multi-task", "quick")
    figures = {c.what: c for c in found.checks}
    assert {c.kind for c in found.checks} == {"control", "uncalibrated"}
    assert figures["label of a digit, drawn right"].measured > 0.25  # chance is 0.1
    assert figures["label of a digit, trained on shuffled pairs"].measured < 0.25
    assert figures["label head at t = 0.99"].measured < 0.3
    assert figures["label head at t = 0.1, label in the code"].measured > figures["label head at t = 0.1"].measured


def test_fashion_quick() -> None:
    """A U-Net in place of the MLP; a few steps teach it nothing, so its figures are finite and no more."""
    found = reproduce("multi-task-fashion", "quick")
    figures = {c.what: c.measured for c in found.checks}
    assert all(np.isfinite(v) for v in figures.values())
    assert "garment of a label, drawn right" in figures and figures["entropy of drawn labels / uniform"] > 0.5


def test_emoji_quick() -> None:
    found = reproduce("multi-task-emoji", "quick")
    figures = {c.what: c for c in found.checks}
    way = "google to twitter"
    assert figures[f"{way}: PSNR of the mean of 8 draws"].measured > figures[f"{way}: PSNR of one draw"].measured
    floor = max(c.measured for c in found.checks if c.what.startswith(f"{way}: PSNR of the source"))
    best = figures[f"{way}: PSNR of the posterior mean"].baseline
    assert best == max(floor, figures[f"{way}: PSNR of half way to the mean"].measured)


def test_the_posterior_mean_is_the_denoiser_s_at_the_end_whatever_the_noise() -> None:
    den, x = emoji.learn(emoji.pairs("quick", "train"), 320, 0, "cpu"), digits("test").batch(range(5))["x"]
    found = emoji.expected(den, x, "twitter", "google", 17)
    assert not torch.equal(found[0], found[1])
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        post = den.posterior({"google": noise, "twitter": Pixels(17).encode(x)}, {"google": 1.0, "twitter": 0.0})[
            "google"
        ].mean
    assert torch.allclose(Pixels(17).decode(post, clip=True), found, atol=1e-6)


def test_what_is_compared_with_translations() -> None:
    x = digits("test").batch(range(40))["x"]
    assert emoji.found(emoji.outlines(x), emoji.outlines(x)) == 1.0
    assert emoji.found(emoji.outlines(x.flip(0)), emoji.outlines(x)) < 0.2
    assert emoji.psnr(x, x + 0.1) == pytest.approx(20.0, abs=1e-3)
    soft = torch.nn.functional.avg_pool2d(x, 3, 1, 1)
    assert emoji.psnr(emoji.blurred(x, soft, x), soft) > emoji.psnr(x, soft) + 3
    a, b = (emoji._both(emoji.pairs("quick", "test"))[k] for k in emoji.PARTS)
    assert torch.equal(b, 1 - a.flip(-1))


def test_a_training_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept, it is the training that was never stopped; a signal ends the reproduction, not the training alone."""
    update = Trainer.update

    def stopped(self: Trainer, batches: Any) -> Any:
        if self.n == 160:
            signal.raise_signal(signal.SIGTERM)
        return update(self, batches)

    whole = small()
    for name in ("one", None):
        token = KEPT.set(tmp_path)
        try:
            monkeypatch.setattr(Trainer, "update", stopped)
            with pytest.raises(KeyboardInterrupt):
                small(name)
            monkeypatch.setattr(Trainer, "update", update)
            for _ in range(2):  # resumed, then read
                for a, b in zip(small(name).parameters(), whole.parameters(), strict=True):
                    assert torch.equal(a, b)
        finally:
            KEPT.reset(token)
    assert [p.name for p in tmp_path.iterdir()] == ["one"]


def small(name: str | None = "one") -> Any:
    den = NetworkDenoiser(build(MLPConfig((1, 8, 8), width=16, depth=1), 0), Cosine(), "v")
    how: dict[str, Any] = {"samples": 320, "batch": 32, "lr": 1e-3, "seed": 0, "device": "cpu", "warmup": 32}
    return trained(name, den, Objective(), digits("train"), Pixels(17), **how)
