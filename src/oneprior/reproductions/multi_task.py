"""One model for digits and their labels (UniDiffuser, Bao et al. 2023; MT-Diffusion, Chen et al. 2024).

64 pixels under a Gaussian kernel and a label under an absorbing one, each with a time of its own, one MLP. Labels are
*sampled*: a head asked once is a classifier and says nothing of the joint law. Controls: the same training on shuffled
pairs must know nothing; an image-only network with the same number of parameters and steps says what the label costs
the image. Distances are Frechet distances between features of an independent classifier.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import fmean
from typing import Any

import numpy as np
import torch
from sklearn.neural_network import MLPClassifier
from torch import Tensor

from oneprior.codecs import Pixels
from oneprior.data import Packed, digits, in_memory
from oneprior.demo.baselines import Digits
from oneprior.denoiser import NetworkDenoiser
from oneprior.joint import Aggregated, Alone, Independent, JointDenoiser, JointObjective, given
from oneprior.metrics import frechet_distance
from oneprior.nets import JointConfig, MLPConfig, build
from oneprior.objective import Objective
from oneprior.reproductions import Check, Scale
from oneprior.sampling import sample
from oneprior.schedules import Cosine
from oneprior.times import Uniform
from oneprior.tokens import Absorbing
from oneprior.training.settings import TrainSettings
from oneprior.training.trainer import Trainer

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
SAMPLER, STEPS = "ancestral", 50  # 2M at 25 draws 0.03 fewer digits of a label right
CODEC, IMAGE = Pixels(17), (1, 8, 8)


@dataclass(frozen=True)
class Reader:
    """An independent classifier: what it reads, and its hidden features."""

    net: MLPClassifier

    @classmethod
    def of(cls, x: Tensor, label: Tensor) -> Reader:
        return cls(MLPClassifier((64,), max_iter=2000, random_state=0).fit(x.flatten(1).numpy(), label.numpy()))

    def labels(self, x: Tensor) -> Tensor:
        return torch.from_numpy(self.net.predict(x.flatten(1).numpy()))

    def features(self, x: Tensor) -> Tensor:
        hidden = x.flatten(1).numpy() @ self.net.coefs_[0] + self.net.intercepts_[0]
        return torch.from_numpy(np.maximum(hidden, 0.0))


def run(scale: Scale, device: str = "cpu") -> Iterator[Check]:
    """The figures, in the order of the claim."""
    n, samples, kind = DRAWN[scale], SAMPLES[scale], "check" if scale == "desk" else "uncalibrated"
    data = Digits.of(digits("train"), digits("test"))
    reader, test = Reader.of(data.train, data.train_label), (data.test[:n], data.label[:n])
    real = reader.features(data.test)
    found: dict[str, list[float]] = {}

    def add(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)

    for seed in SEEDS[scale]:
        for name, shuffled in (("", False), *((("shuffled ", True),) if seed == 0 else ())):
            seen = samples // 2 if shuffled else samples
            den = learn(joint(seed), JointObjective(Independent(2)), pairs(shuffled), seen, seed, device)
            for what, value in ask(den, reader, test, n, seed).items():
                add(name + what, value)
            if not shuffled:
                told = draw(den, n, seed, given_label=balanced(n))[0]
                alone = draw(den, n, seed, parts=("image",))[0]
                add("distance, given labels", frechet_distance(real, reader.features(told)))
                add("distance, marginal", frechet_distance(real, reader.features(alone)))
        plain = learn(image_only(seed), Objective(law=Uniform(1e-4, 1.0)), None, samples, seed, device)
        x = sample(plain, (n, *IMAGE), steps=STEPS, sampler=SAMPLER, seeds=range(seed * n, seed * n + n)).cpu()
        add("distance, image-only", frechet_distance(real, reader.features(CODEC.decode(x, clip=True))))
    d = {k: fmean(v) for k, v in found.items()}
    read = float((reader.labels(test[0]) == test[1]).double().mean())
    for what, bar in (("label of a digit", 0.94), ("digit of a label", 0.94), ("agreement of a pair", 0.88)):
        yield Check(f"{what}, drawn right", d[what], f">= {bar}", read, d[what] >= bar, kind)
        chance = d[f"shuffled {what}"]
        yield Check(
            f"{what}, trained on shuffled pairs", chance, "0.05 to 0.17", 0.1, 0.05 <= chance <= 0.17, "control"
        )
    holds = d["entropy"] >= 0.98
    yield Check("entropy of drawn labels / uniform", d["entropy"], ">= 0.98", 1.0, holds, kind)
    told, alone, plain = (d[f"distance, {k}"] for k in ("given labels", "marginal", "image-only"))
    yield Check("distance of digits of given labels", told, "< 0.6 of the marginal's", alone, told < 0.6 * alone, kind)
    yield Check("distance of the marginal", alone, "<= 1.2 of image-only's", plain, alone <= 1.2 * plain, kind)
    near = frechet_distance(real, reader.features(data.train))
    yield Check("distance of training digits", near, "shown", None, True, "uncalibrated")
    yield from aggregated(samples, test, device, kind)


def aggregated(samples: int, test: tuple[Tensor, Tensor], device: str, kind: Any) -> Iterator[Check]:
    """MT-Diffusion's design: the label is read from a diffused code, of the digit alone, and of both (a leak)."""
    times = (0.1, 0.5, 0.9, 0.99)
    for leak in (False, True):
        x, label = CODEC.encode(test[0]).to(device), test[1].to(device)
        den = learn(joint(0, "z"), JointObjective(Alone(2)), Coded(leak), samples // 4, 0, device)
        view = Aggregated(den, {"label": codes}, {"label": 1.0})
        z0, found = x + codes(torch.eye(11, device=device)[label][:, None]) * leak, []
        for i, t in enumerate(times):
            a, _, s = den.schedule["z"].at(t)
            noise = torch.randn(z0.shape, generator=torch.Generator().manual_seed(i)).to(device)
            guess = view.heads(a * z0 + s * noise, t)["label"].mean[:, 0].argmax(-1)
            found.append(float((guess == label).double().mean()))
        if leak:
            what, seen = "label head at t = 0.1, label in the code", found[0]
            yield Check(what, seen, ">= 0.97: no classification", None, seen >= 0.97, "control")
            return
        falls = all(a >= b for a, b in pairwise(found))
        yield Check("label head at t = 0.1", found[0], "falls with t", found[1], falls, kind)
        yield Check("label head at t = 0.99", found[-1], "< 0.2", 0.1, found[-1] < 0.2, "control")


def ask(den: JointDenoiser, reader: Reader, test: tuple[Tensor, Tensor], n: int, seed: int) -> dict[str, float]:
    """Shares drawn right, and the entropy of the labels of joint samples over that of ten equal shares."""
    x, label = test
    read = draw(den, len(x), seed, given_image=CODEC.encode(x))[1]
    told = draw(den, n, seed, given_label=balanced(n))[0]
    both = draw(den, n, seed)
    p = torch.bincount(both[1], minlength=10).double() / n
    return {
        "label of a digit": float((read == label).double().mean()),
        "digit of a label": float((reader.labels(told) == balanced(n)).double().mean()),
        "agreement of a pair": float((reader.labels(both[0]) == both[1]).double().mean()),
        "entropy": float(torch.special.entr(p).sum() / torch.tensor(10.0).log()),
    }


def draw(
    den: JointDenoiser, n: int, seed: int, *, parts: Sequence[str] | None = None, **known: Tensor
) -> tuple[Tensor, Tensor]:
    """Digits in [0, 1] and labels (n,); known: given_image, given_label."""
    values = {k.removeprefix("given_"): v for k, v in known.items()}
    hold = given(den, values, n, None if parts is None else tuple(parts))
    shapes = {"image": (n, *IMAGE), "label": (n, 1)}
    x = sample(den, shapes, steps=STEPS, sampler=SAMPLER, seeds=range(seed * n, seed * n + n), hold=hold)
    return CODEC.decode(x["image"].cpu(), clip=True), x["label"][:, 0].cpu()


def balanced(n: int) -> Tensor:
    return torch.arange(n) % 10


def joint(seed: int, first: str = "image") -> JointDenoiser:
    """Pixels (or a code like them) and a label, each with a kernel and a time of its own."""
    shapes = {first: IMAGE, "label": (1,)}
    net = build(JointConfig(shapes, {"label": 11}, fields=FIELDS), seed)
    return JointDenoiser(net, shapes, {first: Cosine(), "label": Absorbing(11)})


def image_only(seed: int) -> NetworkDenoiser:
    return NetworkDenoiser(build(MLPConfig(IMAGE, **FIELDS), seed), Cosine(), "v")


def codes(p: Tensor) -> Tensor:
    """The expected code (B, 1, 8, 8) of label probabilities (B, 1, 11): a fixed picture of noise a class."""
    table = torch.randn(11, 64, generator=torch.Generator().manual_seed(5)).to(p)
    return (p[:, 0] @ table).reshape(-1, *IMAGE)


def pairs(shuffled: bool) -> Packed:
    """The training digits and their labels, or, as a control, those of others."""
    source = in_memory(digits("train"))
    if shuffled and source.labels is not None:
        source = replace(source, labels=np.random.default_rng(0).permutation(source.labels))
    return Packed(source, {"image": "x", "label": "label"}, CODEC)


class Coded(Packed):
    """z = the digit, or digit + code of its label; and the label."""

    def __init__(self, leak: bool) -> None:
        super().__init__(in_memory(digits("train")), {"z": "x", "label": "label"}, CODEC)
        self.leak = leak

    def dequantise(self, x: Tensor, u: Tensor) -> Tensor:
        x = super().dequantise(x, u)
        z = codes(torch.eye(11)[x[:, -1].long()][:, None]).flatten(1) * self.leak
        return torch.cat([x[:, :-1] + z, x[:, -1:]], 1)


def learn(den: Any, objective: Any, data: Packed | None, samples: int, seed: int, device: str) -> Any:
    """`den` trained on `samples` draws, its averaged weights."""
    settings = TrainSettings(
        samples=samples, batch=128, lr=2e-3, warmup=min(12_800, samples // 8), decay="cosine", betas=(0.9, 0.99),
        seed=seed, device=device, save_minutes=None,
    )  # fmt: skip
    source, codec = (in_memory(digits("train")), CODEC) if data is None else (data, data)
    trainer = Trainer(den, objective, source, codec, settings=settings)
    for _ in trainer.fit():
        pass
    with trainer.averages.applied():
        return deepcopy(den).eval()
