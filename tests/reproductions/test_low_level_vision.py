"""Restorers trained on pairs, at a size that takes seconds."""

import torch

from oneprior.reproductions import reproduce
from oneprior.reproductions.low_level_vision import psnr, sharpness


def test_quick() -> None:
    """Regression has the best PSNR and one draw is sharper than the mean; figures in dB are shown only."""
    found = reproduce("low-level-vision", "quick")
    figures = {c.what: c for c in found.checks}
    assert found.verdict == "yes", found.why
    assert {c.kind for c in found.checks} == {"check", "control", "uncalibrated"}
    assert figures["PSNR, regression, steps: 1"].holds
    assert figures["PSNR, ResShift, steps: 4"].measured > figures["PSNR of the degraded digits, dB"].measured
    assert figures["PSNR, mean of 8, ResShift, 15 steps"].measured > figures["PSNR, ResShift, steps: 4"].measured


def test_figures() -> None:
    x = torch.zeros(2, 1, 4, 4)
    x[1, 0, :, 2:] = 1
    torch.testing.assert_close(psnr(x + 0.1, x), torch.tensor([20.0, 20.0]), atol=1e-3, rtol=0)
    torch.testing.assert_close(sharpness(x), torch.tensor([0.0, 1 / 6]))  # a third of the columns, none of the rows
