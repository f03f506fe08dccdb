"""Heads on frozen features: linear, a small MLP, and attention over the places of a layer (Mukhopadhyay et al. 2023).

fit(features, y).score(features, y), as in scikit-learn. Linear: standardised, then logistic regression. Attention:
every place a token, layer norm, projection, a class token in front, two transformer blocks, read at the class token.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oneprior.nets.dit import positions


class Head(ABC):
    """Abstract: declares `fit` and `predict`; features (N, ...), labels y (N,) of two classes or more."""

    @abstractmethod
    def fit(self, features: Tensor, y: Tensor) -> Self: ...

    @abstractmethod
    def predict(self, features: Tensor) -> Tensor: ...

    def score(self, features: Tensor, y: Tensor) -> float:
        """The share of samples that are predicted right."""
        return float((self.predict(features).cpu() == y.cpu()).double().mean())


def check_classes(features: Tensor, y: Tensor) -> None:
    """Refuses labels that nothing can be learned from."""
    if len(features) != len(y) or len(y.unique()) < 2:
        raise ValueError(
            f"{len(features)} features and {len(y)} labels of {len(y.unique())} class came: a head needs one label a "
            "sample, and two classes or more"
        )


def train(
    net: nn.Module,
    logits: Callable[[Tensor, int], Tensor],
    target: Tensor,
    epochs: int,
    batch: int,
    lr: float,
    seed: int,
) -> None:
    """AdamW on the cross-entropy of logits(indices, epoch) and target (N,), its rate falling to 0 by a cosine."""
    optimiser = torch.optim.AdamW(net.parameters(), lr, weight_decay=0.05)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * -(-len(target) // batch))
    order = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        for i in torch.randperm(len(target), generator=order).split(batch):
            i = i.to(target.device)
            optimiser.zero_grad()
            F.cross_entropy(logits(i, epoch), target[i]).backward()
            optimiser.step()
            fall.step()


class Pipeline(Head):
    """A scikit-learn classifier on standardised, flattened features."""

    def __init__(self, model: Any) -> None:
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        self.model = make_pipeline(StandardScaler(), model)

    def fit(self, features: Tensor, y: Tensor) -> Self:
        check_classes(features, y)
        self.model.fit(features.flatten(1).cpu().numpy(), y.cpu().numpy())
        return self

    def predict(self, features: Tensor) -> Tensor:
        return torch.from_numpy(self.model.predict(features.flatten(1).cpu().numpy()))


def linear(C: float = 0.1) -> Pipeline:
    """Logistic regression; C is the inverse of its ridge."""
    from sklearn.linear_model import LogisticRegression

    return Pipeline(LogisticRegression(C=C, max_iter=2000))


def mlp(hidden: int = 128, seed: int = 0) -> Pipeline:
    """One hidden layer with ReLU."""
    from sklearn.neural_network import MLPClassifier

    return Pipeline(MLPClassifier((hidden,), alpha=1e-2, max_iter=200, tol=1e-3, random_state=seed))


class Attention(Head):
    """Attention over places: features (N, C, H, W), as `extract(..., read=spatial)` gives them.

    side: grids are pooled to at most this. width, heads, depth: of the transformer. epochs, batch, lr: of AdamW, its
    rate falling to 0. The same seed gives the same head.
    """

    def __init__(
        self, width: int = 64, heads: int = 4, depth: int = 2, *, side: int = 16, epochs: int = 20, batch: int = 64,
        lr: float = 1e-3, seed: int = 0,
    ) -> None:  # fmt: skip
        self.width, self.heads, self.depth, self.side = width, heads, depth, side
        self.epochs, self.batch, self.lr, self.seed = epochs, batch, lr, seed

    def fit(self, features: Tensor, y: Tensor) -> Self:
        check_classes(features, y)
        if features.ndim != 4:
            raise ValueError(
                f"attention reads places, (N, C, H, W); got {tuple(features.shape)}: extract(read=spatial)"
            )
        self.classes, target = y.unique(return_inverse=True)
        x, grid = self.tokens(features)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            self.net = AttentionNet(x.shape[2], self.width, self.heads, self.depth, len(self.classes)).to(x.device)
        train(self.net, lambda i, _: self.net(x[i], grid), target, self.epochs, self.batch, self.lr, self.seed)
        return self

    @torch.no_grad()
    def predict(self, features: Tensor) -> Tensor:
        x, grid = self.tokens(features)
        return self.classes[torch.cat([self.net(part, grid).argmax(1) for part in x.split(self.batch)])]

    def tokens(self, h: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Places of h (B, C, H, W) as tokens (B, N, C), and their grid."""
        grid = (min(self.side, h.shape[2]), min(self.side, h.shape[3]))
        return F.adaptive_avg_pool2d(h.float(), grid).flatten(2).transpose(1, 2), grid


class AttentionNet(nn.Module):
    """Logits (B, classes) of tokens (B, N, channels) on a grid, read at a class token."""

    def __init__(self, channels: int, width: int, heads: int, depth: int, classes: int) -> None:
        super().__init__()
        self.inp = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, width))
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.out = nn.Linear(width, classes)

    def forward(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        h = self.inp(x) + positions(grid, self.token.shape[-1]).to(x)
        return self.out(self.blocks(torch.cat((self.token.expand(len(x), -1, -1), h), 1))[:, 0])


HEADS = {"linear": linear, "mlp": mlp, "attention": Attention}
