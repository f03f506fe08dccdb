"""Digits and labels in one model, at a size that takes seconds."""

from oneprior.reproductions import reproduce


def test_quick() -> None:
    """Figures that need training are shown only; shuffled pairs know nothing, and a label in the code leaks."""
    found = reproduce("multi-task", "quick")
    figures = {c.what: c for c in found.checks}
    assert {c.kind for c in found.checks} == {"control", "uncalibrated"}
    assert figures["label of a digit, drawn right"].measured > 0.25  # chance is 0.1
    assert figures["label of a digit, trained on shuffled pairs"].measured < 0.25
    assert figures["label head at t = 0.99"].measured < 0.3
    assert figures["label head at t = 0.1, label in the code"].measured > figures["label head at t = 0.1"].measured
