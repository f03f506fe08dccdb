"""One model of pictures and their labels, each with a time of its own: trained, drawn from and read.

Labels are *sampled*: a head asked once is a classifier and says nothing of the joint law. Controls: the same training
on shuffled pairs must know nothing; an image-only network with the same number of parameters and steps says what the
label costs the picture. Distances are Frechet distances between features of an independent classifier.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import log
from statistics import fmean
from typing import Any

import numpy as np
import torch
from sklearn.neural_network import MLPClassifier
from torch import Tensor

from oneprior.codecs import Pixels
from oneprior.data import Packed
from oneprior.data.source import ArraySource
from oneprior.denoiser import NetworkDenoiser
from oneprior.joint import Independent, JointDenoiser, JointObjective, given
from oneprior.metrics import frechet_distance
from oneprior.nets import JointConfig, build
from oneprior.nets.config import CONFIGS
from oneprior.objective import Objective
from oneprior.reproductions import Check, Kind
from oneprior.reproductions._learn import trained
from oneprior.sampling import sample
from oneprior.schedules import Cosine
from oneprior.times import Uniform
from oneprior.tokens import Absorbing


@dataclass(frozen=True)
class Reader:
    """An independent classifier: what it reads, and its hidden features."""

    net: MLPClassifier

    @classmethod
    def of(cls, x: Tensor, label: Tensor, **how: Any) -> Reader:
        return cls(MLPClassifier((64,), random_state=0, **how).fit(x.flatten(1).numpy(), label.numpy()))

    def labels(self, x: Tensor) -> Tensor:
        return torch.from_numpy(self.net.predict(x.flatten(1).numpy()))

    def features(self, x: Tensor) -> Tensor:
        hidden = x.flatten(1).numpy() @ self.net.coefs_[0] + self.net.intercepts_[0]
        return torch.from_numpy(np.maximum(hidden, 0.0))


@dataclass(frozen=True)
class Labelled:
    """noun: what a picture shows. train, test: pictures of ten classes, in memory. net, size, fields: of the network.
    samples, batch: seen in a training and in a step of it; n: drawn of a kind and seed, and held-out pictures read."""

    noun: str
    train: ArraySource
    test: ArraySource
    reader: Reader
    net: str
    fields: Mapping[str, Any]
    samples: int
    n: int
    device: str = "cpu"
    size: str = "small"
    batch: int = 128
    sampler: str = "ancestral"
    steps: int = 50

    @cached_property
    def codec(self) -> Pixels:
        return Pixels(self.train.facts.levels)

    @property
    def asked(self) -> tuple[str, str, str]:
        return f"label of a {self.noun}", f"{self.noun} of a label", "agreement of a pair"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.train.facts.shape

    @cached_property
    def held_out(self) -> tuple[Tensor, Tensor]:
        """n pictures that were not trained on, and their labels."""
        batch = self.test.batch(range(min(self.n, len(self.test))))
        return batch["x"], batch["label"]

    @cached_property
    def balanced(self) -> Tensor:
        return torch.arange(self.n) % 10

    def learn(
        self, name: str, den: Any, objective: Any, seed: int, data: Packed | None = None, share: float = 1.0
    ) -> Any:
        """`den` trained on a share of the samples, its averaged weights."""
        n = int(self.samples * share)
        source, codec = (self.train, self.codec) if data is None else (data, data)
        return trained(
            f"{name}-{seed}", den, objective, source, codec, samples=n, batch=self.batch, lr=2e-3, seed=seed,
            warmup=min(12_800, n // 8), device=self.device,
        )  # fmt: skip

    def denoiser(self, seed: int, first: str = "image") -> JointDenoiser:
        """Pixels (or a code like them) and a label, each with a kernel and a time of its own; not trained."""
        shapes = {first: self.shape, "label": (1,)}
        net = build(JointConfig(shapes, {"label": 11}, self.net, self.size, self.fields), seed)
        return JointDenoiser(net, shapes, {first: Cosine(), "label": Absorbing(11)})

    def joint(self, seed: int, shuffled: bool = False) -> JointDenoiser:
        """Trained on pictures and their labels, or, as a control and half as long, those of others."""
        source = self.train
        if shuffled and source.labels is not None:
            source = replace(source, labels=np.random.default_rng(0).permutation(source.labels))
        data = Packed(source, {"image": "x", "label": "label"}, self.codec)
        name, share = ("shuffled", 0.5) if shuffled else ("joint", 1.0)
        return self.learn(name, self.denoiser(seed), JointObjective(Independent(2)), seed, data, share)

    def alone(self, seed: int) -> NetworkDenoiser:
        """Trained on pictures without labels."""
        kind: Any = CONFIGS[self.net]
        den = NetworkDenoiser(build(kind.sized(self.shape, self.size, **self.fields), seed), Cosine(), "v")
        return self.learn("alone", den, Objective(law=Uniform(1e-4, 1.0)), seed)

    def how(self, seed: int, n: int) -> dict[str, Any]:
        return {"steps": self.steps, "sampler": self.sampler, "seeds": range(seed * n, seed * n + n)}

    def draw(
        self, den: JointDenoiser, n: int, seed: int, *, parts: Sequence[str] | None = None, **known: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Pictures in [0, 1] and labels (n,); known: given_image, given_label."""
        values = {k.removeprefix("given_"): v for k, v in known.items()}
        hold = given(den, values, n, None if parts is None else tuple(parts))
        x = sample(den, {"image": (n, *self.shape), "label": (n, 1)}, hold=hold, **self.how(seed, n))
        return self.codec.decode(x["image"].cpu(), clip=True), x["label"][:, 0].cpu()

    def ask(self, den: JointDenoiser, seed: int, distances: bool = False) -> dict[str, float]:
        """Shares drawn right; the entropy of the labels of joint samples over that of ten equal shares; distances."""
        (x, label), n = self.held_out, self.n
        read = self.draw(den, len(x), seed, given_image=self.codec.encode(x))[1]
        told = self.draw(den, n, seed, given_label=self.balanced)[0]
        both = self.draw(den, n, seed)
        p = torch.bincount(both[1], minlength=10).double() / n
        seen = self.reader.labels(told), self.reader.labels(both[0])
        shares = read == label, seen[0] == self.balanced, seen[1] == both[1]
        found = {k: float(v.double().mean()) for k, v in zip(self.asked, shares, strict=True)}
        found["entropy"] = float(torch.special.entr(p).sum()) / log(10)
        if distances:
            found["distance, given labels"] = self.far(told)
            found["distance, marginal"] = self.far(self.draw(den, n, seed, parts=("image",))[0])
        return found

    @cached_property
    def real(self) -> Tensor:
        return self.reader.features(self.test.batch(range(len(self.test)))["x"])

    def far(self, x: Tensor) -> float:
        """Frechet distance of pictures in [0, 1] to the held-out ones."""
        return frechet_distance(self.real, self.reader.features(x))

    def checks(self, seeds: Sequence[int], bars: Sequence[float], help: float | None, kind: Kind) -> Iterator[Check]:
        """Means over seeds beside their bars. help: the most that labels may leave of the distance, None to show it."""
        found: dict[str, list[float]] = {}
        for seed in seeds:
            figures = self.ask(self.joint(seed), seed, distances=True)
            x = sample(self.alone(seed), (self.n, *self.shape), **self.how(seed, self.n)).cpu()
            figures["distance, image-only"] = self.far(self.codec.decode(x, clip=True))
            for k, v in figures.items():
                found.setdefault(k, []).append(v)
        d = {k: fmean(v) for k, v in found.items()}
        blind = self.ask(self.joint(seeds[0], shuffled=True), seeds[0])
        read = float((self.reader.labels(self.held_out[0]) == self.held_out[1]).double().mean())
        for what, bar in zip(self.asked, bars, strict=True):
            yield Check(f"{what}, drawn right", d[what], f">= {bar:g}", read, d[what] >= bar, kind)
            holds = 0.05 <= blind[what] <= 0.17
            yield Check(f"{what}, trained on shuffled pairs", blind[what], "0.05 to 0.17", 0.1, holds, "control")
        holds = d["entropy"] >= 0.98
        yield Check("entropy of drawn labels / uniform", d["entropy"], ">= 0.98", 1.0, holds, kind)
        told, marginal, plain = (d[f"distance, {k}"] for k in ("given labels", "marginal", "image-only"))
        what = f"distance of {self.noun}s of given labels"
        if help is None:
            yield Check(what, told, "shown, beside the marginal's", marginal, True, "uncalibrated")
        else:
            yield Check(what, told, f"< {help:g} of the marginal's", marginal, told < help * marginal, kind)
        holds = marginal <= 1.2 * plain
        yield Check("distance of the marginal", marginal, "<= 1.2 of image-only's", plain, holds, kind)
        for seed, m, p in zip(seeds, found["distance, marginal"], found["distance, image-only"], strict=True):
            what = f"distance of the marginal, seed {seed}"
            yield Check(what, m, "shown, beside image-only's", p, True, "uncalibrated")
        near = self.far(self.train.batch(range(min(len(self.train), len(self.test) * 4)))["x"])
        yield Check(f"distance of training {self.noun}s", near, "shown", None, True, "uncalibrated")
