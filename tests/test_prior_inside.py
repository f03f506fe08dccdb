"""Prior.match and Prior.dimension: results in the user's units, and pictures of another size."""

import json
from pathlib import Path

import pytest
import torch

from oneprior.loading import load


def test_a_picture_matches_itself() -> None:
    """Both pictures see the same noise, so each point finds itself, to half a cell; a result can be given again."""
    prior = load("digits")
    a = prior.sample(2, seeds=[0, 1], label=5, steps=4)
    found = prior.match(a, a, noises=1, window=0)
    assert found.x.shape == (2, 64, 2) and torch.equal(found.x, found.points) and bool(found.mutual.all())
    assert found.points[0, :2].tolist() == [[0.5, 0.5], [1.5, 0.5]]  # x runs first
    assert found.pil()[0].size == (2 * 320 + 2, 320) and "pair" not in found.record()
    moved = prior.match(a, a, torch.tensor([[7.5, 0.5]]), noises=1, window=0, t=0.2)
    assert moved.x.tolist() == [[[7.5, 0.5]], [[7.5, 0.5]]]
    with pytest.raises(ValueError, match=r"\(B, 1, 8, 8\) was expected"):
        prior.match(a, torch.zeros(2, 1, 9, 9))


def test_dimension_is_saved(tmp_path: Path) -> None:
    prior = load("digits")
    out = prior.dimension(prior.sample(2, seeds=[0, 1], label=5, steps=4), t0=(0.1, 0.2), count=2)
    assert out.x.shape == (2,) and out.curve.shape == (2, 2) and out.nfe == 2
    written = json.loads((out.save(tmp_path / "d") / "result.json").read_text())
    assert written["curve"] == out.curve.tolist() and written["t"] == [0.1, 0.2]
