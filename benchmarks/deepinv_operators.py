"""Our operators beside deepinv's physics of the same name: the same y, adjoint and proximal step, both ways through the
bridges. `python benchmarks/deepinv_operators.py` prints the largest difference of each, in float64."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any, cast

import torch
from peers import peer

from oneprior.operators import Blur, Colourise, Mask, Operator, from_deepinv, to_deepinv

SHAPE = (3, 16, 16)


def pairs(physics: Any) -> dict[str, tuple[Operator, Any]]:
    """Operator and physics that ought to be one and the same."""
    mask = Mask.random(SHAPE, 0.5)
    blur = Blur.gaussian(1.0, boundary="circular")
    taps = torch.tensor(blur.taps)
    luma = Colourise((0.4472 * 0.66851, 0.8781 * 0.66851, 0.1706 * 0.66851))  # its default, of gain 1
    return {
        "inpainting": (mask, physics.Inpainting(SHAPE, mask=mask.mask[0].double().expand(SHAPE))),
        "circular blur": (blur, physics.BlurFFT(SHAPE, filter=(taps[:, None] * taps)[None, None])),
        "grey": (luma, physics.Decolorize(channels=3)),
    }


def main() -> int:
    torch.set_default_dtype(torch.float64)
    if peer("deepinv") is None:
        return 1
    deepinv = sys.modules["deepinv"]
    L2 = import_module("deepinv.optim.data_fidelity").L2  # static analysis runs without it

    x = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    print(f"{'':15}{'A':>10}{'A^T':>10}{'prox':>10}{'gradient of its L2 through ours':>35}")
    for name, (ours, physics) in pairs(deepinv.physics).items():
        theirs = from_deepinv(physics, SHAPE)
        y, through = ours(x), cast(Any, to_deepinv(ours))
        rows = [
            (theirs(x), y),
            (theirs.adjoint(y), ours.adjoint(y)),
            (theirs.prox(0 * x, y, 2.0), ours.prox(0 * x, y, 2.0)),
        ]
        rows.append((L2(sigma=0.1).grad(x / 2, y, through), ours.adjoint(ours(x / 2) - y) / 0.01))
        a, b, c, d = (float((u - v).abs().max()) for u, v in rows)
        print(f"{name:15}{a:10.1e}{b:10.1e}{c:10.1e}{d:35.1e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
