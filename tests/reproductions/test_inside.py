"""Reproductions that look inside a prior, at a size that takes seconds: what must hold without training does."""

import pytest
import torch

from oneprior.reproductions import Check, Record, reproduce
from oneprior.reproductions.invdiff_emoji import histogram, squares


def by_name(found: Record) -> dict[str, Check]:
    return {c.what: c for c in found.checks}


def test_gauge_dimension() -> None:
    found = reproduce("gauge-dimension", "quick")
    figures = by_name(found)
    assert all(c.holds for c in found.checks if c.kind == "control"), found.why
    for k in (1, 3):  # the manifold is what it is said to be
        assert figures[f"local PCA, 90 % of 50 neighbours, where d = {k}"].measured == k


def test_subspace_clustering() -> None:
    found = reproduce("subspace-clustering", "quick")
    assert {c.kind for c in found.checks} == {"uncalibrated", "control"}
    figures = by_name(found)
    assert figures["projector error, 30 samples of rank 6; baseline: PCA"].baseline == pytest.approx(0, abs=1e-2)
    local = [c for c in found.checks if c.what.startswith("change outside")]
    assert all(c.baseline is not None and c.measured < c.baseline for c in local)


def test_invdiff() -> None:
    """Hardly trained, the figures say nothing; that all of them come, and the base is biased as planted, does."""
    figures = by_name(reproduce("invdiff", "quick"))
    assert figures["digits: minority share of the biased base"].measured <= 0.2
    assert {f"digits: minority share, {k} groups" for k in ("oracle", "quantile", "eiil")} <= figures.keys()


def test_invdiff_emoji() -> None:
    """On squares in two tones, hardly trained: the probe tells the tones apart, and all figures come."""
    figures = by_name(reproduce("invdiff-emoji", "quick"))
    assert figures["tone of held-out emoji read right by the probe"].measured == 1
    assert {f"share of dark skin, {k} groups" for k in ("oracle", "quantile")} <= figures.keys()


def test_pairs_of_tones() -> None:
    """White stays white, and each row of the dark is the light one's but for the colour of what is drawn."""
    light, dark = squares(6, 0)
    assert torch.equal((light == 1).all(1), (dark == 1).all(1)) and not torch.equal(light, dark)
    shares = histogram(light)
    assert shares.shape == (6, 125) and torch.allclose(shares.sum(1), torch.ones(6))
    white = (light == 1).all(1).float().mean((1, 2))
    assert torch.allclose(shares[:, -1], white) and histogram(torch.full((1, 3, 2, 2), -1.0))[0, 0] == 1


def test_two_features() -> None:
    """Six pictures and a point in 24 each: well above chance, pi 0.1^2 = 0.03 of the places."""
    figures = by_name(reproduce("two-features", "quick"))
    for truth in ("warped photographs", "stereo pair"):
        base = figures[f"PCK@0.1, {truth}, diffusion"]
        assert base.measured > 0.1 and base.baseline is not None
