"""Classifier, features and compositionality at a size that takes seconds: what is exact holds."""

from itertools import pairwise

import pytest
import torch

from oneprior.data.scenes import questions
from oneprior.reproductions import reproduce
from oneprior.reproductions.compositionality import exact, said, told, trained


def test_classifier() -> None:
    found = reproduce("diffusion-classifier", "quick")
    figures = {c.what: c for c in found.checks}
    assert figures["digits read right"].measured > 0.8
    assert figures["network calls for a digit and class"].holds and figures["whole table over staged, calls"].holds


def test_features() -> None:
    found = reproduce("features-classification", "quick")
    assert all(0 <= c.measured <= 1 for c in found.checks) and any("labels a class" in c.what for c in found.checks)


def test_scenes() -> None:
    found = reproduce("compositionality", "quick")
    checks = [c for c in found.checks if c.kind != "uncalibrated"]
    assert all(c.holds for c in checks), found.why
    assert found.verdict == "yes" and sum(c.kind == "control" for c in checks) == 1


def test_scenes_are_learned() -> None:
    """Two steps of three networks teach nothing; but all figures of the matrix come."""
    figures = {c.what.split(" (n")[0]: c for c in trained("cpu", samples=64, count=32, n=2)}
    assert {f"binding, pictures of {g} read by {m}" for g in range(2) for m in range(3)} <= figures.keys()
    assert figures["binding, words in any order"].kind == "control"


def test_captions_as_numbers() -> None:
    a, b = questions("binding", 1)[0].options
    one, two = told([a, b])
    assert not torch.equal(one, two) and torch.equal(*told([a, b], bag=True))
    every = told([o for f in ("colour", "shape", "position", "count") for o in questions(f, 1)[0].options])
    assert all(not torch.equal(p, q) for p, q in pairwise(every))


def test_an_interval_of_a_share() -> None:
    assert said(0.5, 100) == " (n = 100, 95 %: 0.40 to 0.60)" and said(1.0, 6) == " (n = 6, 95 %: 0.61 to 1.00)"


def test_ties_count_by_their_part() -> None:
    assert exact("binding", 4, bag=True).right() == pytest.approx(0.5)
