"""What `--operator` names, damage by it, and the guess beside it."""

from __future__ import annotations

import pytest
import torch

from oneprior.cli import damage
from oneprior.operators import (
    JPEG,
    Bicubic,
    Blur,
    Clip,
    Colourise,
    Convolve,
    Demosaic,
    GammaBlur,
    Haze,
    LowLight,
    Mask,
    Operator,
)
from oneprior.operators.simulate import simulate

SHAPE = (3, 16, 16)
SAME = {
    "bicubic:4": Bicubic(4),
    "grey": Colourise(),
    "mosaic": Demosaic(),
    "jpeg:30": JPEG(30),
    "clip": Clip(),
    "clip:1.5": Clip(1.5),
    "lowlight:3,0.2": LowLight(3.0, 0.2),
    "haze:0.4": Haze(0.4),
    "blur:motion,5,45": Convolve.motion(5, 45),
    "blur:shake,5": Convolve.shake(5, seed=3),
    "blur:gamma,1.5": GammaBlur(Blur.gaussian(1.5)),
    "mask:strokes": Mask.strokes(SHAPE, seed=3),
    "mask:strokes,2,4.5": Mask.strokes(SHAPE, 2, 4.5, seed=3),
}


@pytest.mark.parametrize("spec", SAME)
def test_by_name(spec: str) -> None:
    A: Operator = damage.operator_of(spec, None, SHAPE, seed=3)
    x = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    assert type(A) is type(SAME[spec]) and torch.equal(A(x), SAME[spec](x))
    y = simulate(A, x, 0.05, 0, range(2))
    clean = A.encoded(x) if isinstance(A, JPEG) else A(x)
    assert y.shape == clean.shape and 0 < float((y - clean).square().mean()) < 4 * 0.05**2
    guess = damage.baseline(A, y, 0.05)
    assert guess.shape == x.shape and 0 <= float(guess.min()) <= float(guess.max()) <= 1
    assert float((guess - x).square().mean()) < 0.2


@pytest.mark.parametrize(
    "spec", ["jpeg", "jpeg:0", "jpeg:a", "haze:0", "grey:3", "clip:1,2,3", "blur:shake,1", "bicubic"]
)
def test_refused(spec: str) -> None:
    with pytest.raises(ValueError, match=f"--operator {spec}"):
        damage.operator_of(spec, None, SHAPE)


def test_every_example_is_known() -> None:
    for spec in damage.KNOWN.split():
        assert damage.operator_of(spec, None, SHAPE)(torch.zeros(1, *SHAPE)).isfinite().all()
