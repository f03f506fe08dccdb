"""What the demo's figures stand beside: answers without a diffusion model, some of which pass easy bars.

Logistic regression and an SVM read digits; one Gaussian, and one per class, generate and give likelihoods; the Wiener
filter is the posterior mean under the Gaussian; blending towards the mean of another class edits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC
from torch import Tensor

from oneprior.codecs import Codec
from oneprior.data import Source
from oneprior.exact import Gaussian
from oneprior.noise import uniform


@dataclass(frozen=True)
class Digits:
    """Train and held-out digits, (N, 1, 8, 8) in [0, 1] with labels (N,), and what can be had from them at once."""

    train: Tensor
    train_label: Tensor
    test: Tensor
    label: Tensor

    @classmethod
    def of(cls, train: Source, test: Source) -> Digits:
        a, b = (s.batch(range(len(s))) for s in (train, test))
        return cls(a["x"], a["label"], b["x"], b["label"])

    @property
    def classes(self) -> int:
        return int(self.train_label.max()) + 1

    @cached_property
    def reader(self) -> SVC:
        """Reads digits; trained on the training part alone."""
        return SVC(C=10, gamma="scale").fit(_flat(self.train), self.train_label.numpy())

    def read(self, x: Tensor) -> Tensor:
        """The SVM's labels (N,) of pictures in [0, 1]."""
        return torch.from_numpy(self.reader.predict(_flat(x)))

    @cached_property
    def logistic(self) -> float:
        """Held-out accuracy of logistic regression."""
        model = LogisticRegression(max_iter=2000).fit(_flat(self.train), self.train_label.numpy())
        return float(model.score(_flat(self.test), self.label.numpy()))

    @cached_property
    def class_means(self) -> Tensor:
        return torch.stack([self.train[self.train_label == c].mean(0) for c in range(self.classes)])


def _flat(x: Tensor):
    return x.detach().cpu().flatten(1).numpy()


def gaussian(x: Tensor, ridge: float) -> Gaussian:
    """A Gaussian fitted to x (N, *), with `ridge` added to the variances."""
    flat = x.double().flatten(1)
    return Gaussian(flat.mean(0), torch.cov(flat.T) + ridge * torch.eye(flat.shape[1], dtype=flat.dtype))


def class_gaussian_samples(data: Digits, label: Tensor, seed: int, ridge: float = 3e-3) -> Tensor:
    """Pictures (N, 1, 8, 8) in [0, 1] for `label` (N,), from one Gaussian per class."""
    out = torch.empty(len(label), *data.train.shape[1:])
    for c in range(data.classes):
        rows = (label == c).nonzero()[:, 0]
        law = gaussian(data.train[data.train_label == c], ridge)
        x = law.sample(len(rows), seeds=[seed * 1_000_003 + int(i) for i in rows])
        out[rows] = x.float().reshape(-1, *data.train.shape[1:])
    return out.clamp(0, 1)


def gaussian_nats(data: Digits, codec: Codec, seed: int) -> tuple[float, float]:
    """Mean held-out log-likelihood in model range of one Gaussian, and of one per class mixed, on dequantised digits.

    The ridge is the best of a few on the held-out digits themselves: to the baselines' advantage.
    """
    train, test = (spread(x, codec, seed).double().flatten(1) for x in (data.train, data.test))
    one = max(float(gaussian(train, r).log_prob(test).mean()) for r in (1e-4, 1e-3, 1e-2))
    many = max(_mixed(data, train, test, r) for r in (1e-3, 3e-3, 1e-2))
    return one, many


def _mixed(data: Digits, train: Tensor, test: Tensor, ridge: float) -> float:
    terms = []
    for c in range(data.classes):
        own = train[data.train_label == c]
        terms.append(gaussian(own, ridge).log_prob(test) + torch.tensor(len(own) / len(train)).log())
    return float(torch.stack(terms).logsumexp(0).mean())


def spread(x: Tensor, codec: Codec, seed: int) -> Tensor:
    """Dequantised into model range with keyed uniforms."""
    u = torch.from_numpy(uniform(seed, "dequantise", range(len(x)), tuple(x.shape[1:]))).float().clamp(max=1 - 2**-24)
    return codec.dequantise(x, u)


def wiener(data: Digits, y: Tensor, mask: Tensor, noise: float) -> Tensor:
    """Posterior mean under one Gaussian of the training digits, for y = mask x + noise; each picture its own mask."""
    flat = data.train.double().flatten(1)
    m, c = flat.mean(0), torch.cov(flat.T) + 1e-4 * torch.eye(flat.shape[1], dtype=torch.double)
    a = mask.expand_as(y).double().flatten(1)
    system = a[:, :, None] * c * a[:, None, :] + torch.diag_embed(a * noise**2 + (1 - a))
    rest = (y.double().flatten(1) - m) * a
    x = m + (c @ (a * torch.linalg.solve(system, rest))[..., None])[..., 0]
    return x.float().reshape(y.shape)


def blended(data: Digits, x: Tensor, source: Tensor, target: Tensor, share: float = 1.0) -> Tensor:
    """x moved by `share` of the difference of two class means."""
    return (x + share * (data.class_means[target] - data.class_means[source])).clamp(0, 1)
