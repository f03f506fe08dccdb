"""Laws and denoisers that the tests of the uses share."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from oneprior.denoiser import Denoiser, Facts
from oneprior.exact import Mixture, empirical
from oneprior.posterior import Posterior
from oneprior.schedules import Cosine, Schedule


class ByLabel(Denoiser):
    """One exact law a class: cheaper than one law whose components carry labels."""

    def __init__(self, laws: Sequence[Mixture], schedule: Schedule) -> None:
        super().__init__()
        self.laws = laws
        self.dens = torch.nn.ModuleList(law.denoiser(schedule) for law in laws)
        self.schedule, self.facts = schedule, Facts(null={"label": len(laws)})
        self.calls, self.largest = 0, 0  # sample evaluations, and the largest batch

    def posterior(self, x: Tensor, t: Any, *, label: Tensor, **cond: Any) -> Posterior:
        mean = torch.empty_like(x)
        self.calls, self.largest = self.calls + len(x), max(self.largest, len(x))
        for c in label.unique().tolist():
            rows = label == c
            mean[rows] = self.dens[c](x[rows], t[rows] if isinstance(t, Tensor) else t).mean
        return Posterior(mean, x, self.schedule, t)

    def log_prob(self, x: Tensor) -> Tensor:
        """(B, classes)"""
        return torch.stack([law.log_prob(x) for law in self.laws], 1)


@pytest.fixture(scope="session")
def by_label() -> type[ByLabel]:
    return ByLabel


@pytest.fixture(scope="session")
def toy() -> tuple[ByLabel, Tensor, Tensor]:
    """The card's: 6 classes of 4 components in 4-d, means N(0, 1.3^2), variance 0.25; 300 samples and their class."""
    g = torch.Generator().manual_seed(3)
    means = 1.3 * torch.randn(6, 4, 4, generator=g, dtype=torch.float64)
    laws = [Mixture(torch.ones(4), m, 0.25) for m in means]
    y = torch.arange(300) % 6
    x = torch.stack([laws[c].sample(1, seeds=[i])[0] for i, c in enumerate(y.tolist())])
    return ByLabel(laws, Cosine()), x, y


@pytest.fixture(scope="session")
def kde() -> tuple[ByLabel, Tensor, Tensor]:
    """scikit-learn digits in [-1, 1]: a kernel-density law a class on 1,297, and 300 others with their class."""
    pixels, y = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels / 8 - 1), torch.tensor(y)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, test = order[:1297], order[1297:1597]
    laws = [empirical(x[train][y[train] == c], 0.3**0.5) for c in range(10)]
    return ByLabel(laws, Cosine()), x[test], y[test]
