"""One model for digits and their labels (UniDiffuser, Bao et al. 2023; MT-Diffusion, Chen et al. 2024).

64 pixels under a Gaussian kernel and a label under an absorbing one, each with a time of its own, one MLP: what is
asked, and beside what, is said in `_joint`. Then MT-Diffusion's own design: the label read from a diffused code.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from oneprior.data import Packed, digits, in_memory
from oneprior.joint import Aggregated, Alone, JointObjective
from oneprior.reproductions import Check, Kind, Scale
from oneprior.reproductions._joint import Labelled, Reader

PAPER = "Diffusion Models for Multi-Task Generative Modeling (ICLR 2024); UniDiffuser (2023)"
CLAIM = (
    "One model of digits and labels draws the label of a digit and the digit of a label right at 0.94 and agrees with "
    "itself at 0.88; a label given cuts the distance to 0.6 of the marginal's, and the marginal is within 20 % of an "
    "image-only model's at equal compute."
)
SEEDS: dict[Scale, tuple[int, ...]] = {"quick": (0,), "desk": (0, 1, 2)}
SAMPLES: dict[Scale, int] = {"quick": 3_840, "desk": 512_000}  # seen in training
DRAWN: dict[Scale, int] = {"quick": 70, "desk": 1_000}  # of a kind and seed; and held-out digits read
FIELDS = {"width": 192, "depth": 3, "dropout": 0.1}
# 50 ancestral steps, as `_joint` has them: 2M at 25 draws 0.03 fewer digits of a label right


def run(scale: Scale, device: str = "cpu") -> Iterator[Check]:
    """The figures, in the order of the claim."""
    kind: Kind = "check" if scale == "desk" else "uncalibrated"
    train, test = (in_memory(digits(part)) for part in ("train", "test"))
    batch = train.batch(range(len(train)))
    reader = Reader.of(batch["x"], batch["label"], max_iter=2000)
    data = Labelled("digit", train, test, reader, "mlp", FIELDS, SAMPLES[scale], DRAWN[scale], device)
    yield from data.checks(SEEDS[scale], (0.94, 0.94, 0.88), 0.6, kind)
    yield from aggregated(data, kind)


def aggregated(data: Labelled, kind: Kind) -> Iterator[Check]:
    """MT-Diffusion's design: the label is read from a diffused code, of the digit alone, and of both (a leak)."""
    times = (0.1, 0.5, 0.9, 0.99)
    x, label = (v.to(data.device) for v in data.held_out)
    for leak in (False, True):
        name = "code-leak" if leak else "code"
        den = data.learn(name, data.denoiser(0, "z"), JointObjective(Alone(2)), 0, Coded(data, leak), 0.25)
        view = Aggregated(den, {"label": codes}, {"label": 1.0})
        z0, found = data.codec.encode(x) + codes(torch.eye(11, device=x.device)[label][:, None]) * leak, []
        for i, t in enumerate(times):
            a, _, s = den.schedule["z"].at(t)
            noise = torch.randn(z0.shape, generator=torch.Generator().manual_seed(i)).to(x)
            guess = view.heads(a * z0 + s * noise, t)["label"].mean[:, 0].argmax(-1)
            found.append(float((guess == label).double().mean()))
        if leak:
            what, seen = "label head at t = 0.1, label in the code", found[0]
            yield Check(what, seen, ">= 0.97: no classification", None, seen >= 0.97, "control")
            return
        falls = all(a >= b for a, b in pairwise(found))
        yield Check("label head at t = 0.1", found[0], "falls with t", found[1], falls, kind)
        yield Check("label head at t = 0.99", found[-1], "< 0.2", 0.1, found[-1] < 0.2, "control")


def codes(p: Tensor) -> Tensor:
    """The expected code (B, 1, 8, 8) of label probabilities (B, 1, 11): a fixed picture of noise a class."""
    table = torch.randn(11, 64, generator=torch.Generator().manual_seed(5)).to(p)
    return (p[:, 0] @ table).reshape(-1, 1, 8, 8)


class Coded(Packed):
    """z = the digit, or digit + code of its label; and the label."""

    def __init__(self, data: Labelled, leak: bool) -> None:
        super().__init__(data.train, {"z": "x", "label": "label"}, data.codec)
        self.leak = leak

    def dequantise(self, x: Tensor, u: Tensor) -> Tensor:
        x = super().dequantise(x, u)
        z = codes(torch.eye(11)[x[:, -1].long()][:, None]).flatten(1) * self.leak
        return torch.cat([x[:, :-1] + z, x[:, -1:]], 1)
