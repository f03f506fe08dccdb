"""Two things that video needs and pictures do not (after Video Diffusion Models: A Survey, Melnik et al. 2024).

A distance that tells broken motion from spoilt frames: on moving digits that were not used to choose its features, it
must answer to shuffled, frozen and shaken clips and little to blurred ones; one distance of whole clips does not
(Ge et al. 2024). And length: key frames first, then the gaps between, has the right law where two key frames in a row
are drawn, and not where single ones are, since the sequence remembers two; AR(2), with the exact denoiser.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as nnf
from torch import Tensor

from oneprior.data import MovingDigits
from oneprior.denoiser import Denoiser, Wrapper
from oneprior.exact import Gaussian
from oneprior.metrics.video import appearance, motion, responses
from oneprior.posterior import Posterior
from oneprior.reproductions import Check, Scale
from oneprior.schedules import Cosine
from oneprior.uses.video import hierarchy

PAPER = "Video Diffusion Models: A Survey (2024)"
CLAIM = (
    "Motion features answer to shuffled, frozen and shaken clips with more than 10 times their null, and less to blur; "
    "frames of random clips look right (below 2 times) and move wrongly (above 10). Key frames in pairs give AR(2) its "
    "law over 33 frames, single ones do not."
)
SEEDS: dict[Scale, tuple[int, ...]] = {"quick": (0,), "desk": (0,)}
CLIPS: dict[Scale, int] = {"quick": 140, "desk": 2_000}
SEQUENCES: dict[Scale, int] = {"quick": 400, "desk": 4_000}


def run(scale: Scale, device: str = "cpu") -> Iterator[Check]:
    """The figures, in the order of the claim."""
    kind = "check" if scale == "desk" else "uncalibrated"
    x = MovingDigits(8, 24, split="test").batch(range(CLIPS[scale]))["x"]
    m, a, one = (responses(f, x) for f in (motion, appearance, whole))
    for name in ("shuffle", "freeze", "jitter"):
        yield Check(
            f"motion: {name}, in nulls", m[name], "> 10, and > blur", m["blur"], m[name] > max(10, m["blur"]), kind
        )
    name = "independent frames"
    yield Check(f"motion: {name}, in nulls", m[name], "> 10", None, m[name] > 10, kind)
    yield Check(f"appearance: {name}, in nulls", a[name], "< 2", None, a[name] < 2, kind)
    yield Check(
        "appearance: shuffle, in nulls", a["shuffle"], "< 2: it is blind to order", None, a["shuffle"] < 2, "control"
    )
    for what, found in (("motion", m), ("appearance", a), ("one distance of clips", one)):
        for name, value in found.items():
            yield Check(f"{what}: {name}, in nulls", value, "shown", None, True, "uncalibrated")
    want = covariance(33)
    for keys, bar in ((2, "< 0.08"), (1, "> 0.12: it must miss")):
        shape = (SEQUENCES[scale], 32 + keys)
        x = hierarchy(
            Sequence(),
            shape,
            stride=8,
            keys=keys,
            steps=60 if scale == "quick" else 100,
            sampler="ddim",
            seeds=range(shape[0]),
        )
        worst = max(abs(float((x[:, k:33] * x[:, : 33 - k]).mean()) - float(want[0, k])) for k in range(17))
        what = f"AR(2), {keys} key frame{'s' if keys > 1 else ''} a stride: largest error of the autocovariance"
        holds = worst < 0.08 if keys == 2 else worst > 0.12
        yield Check(what, worst, bar, None, holds, "check" if keys == 2 else "control")


def whole(x: Tensor) -> Tensor:
    """The one distance to compare with: fixed random filters over time and space, their mean magnitudes by clip."""
    weight = torch.randn(32, x.shape[2], 3, 5, 5, dtype=x.dtype, generator=torch.Generator().manual_seed(0))
    return nnf.conv3d(x.transpose(1, 2), weight).abs().mean((2, 3, 4))


def covariance(count: int) -> Tensor:
    """Of the stationary x_i = 1.6 x_{i-1} - 0.8 x_{i-2} + e with unit variance."""
    r = [1.0, 1.6 / 1.8]
    while len(r) < count:
        r.append(1.6 * r[-1] - 0.8 * r[-2])
    i = torch.arange(count)
    return torch.tensor(r, dtype=torch.float64)[(i[:, None] - i).abs()]


class Sequence(Wrapper):
    """AR(2), exact for frames at given places."""

    def __init__(self) -> None:
        super().__init__(self._at(torch.arange(2)))

    @staticmethod
    def _at(places: Tensor) -> Denoiser:
        K = covariance(int(places.max()) + 1)[places][:, places]
        return Gaussian(torch.zeros(len(places)), K).denoiser(Cosine(), 1)

    def posterior(self, x: Tensor, t: object, *, places: Tensor, **cond: object) -> Posterior:
        return self._at(places[0]).posterior(x, t)  # type: ignore[arg-type]
