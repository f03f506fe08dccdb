"""Moving a model off a spurious attribute of its data (InvDiff: Hou et al. 2024; EIIL: Creager et al. 2021).

Groups: the loss of a sample under the biased model, averaged over many (t, eps) that all samples share (`uses.errors`),
is larger for what is rare, most clearly at high noise. "quantile" takes the top share of each class; "eiil" looks for
the soft assignment q whose groups disagree most, max std_g(m_g), m_g = sum_i q_ig l_i / sum_i q_ig, by gradient from a
random start.
Training: mean_g m_g, with masses M_g = sum_i q_ig of the whole data set, is importance weighting,
    w_i = N / G sum_g q_ig / M_g,      and its optimum is the denoiser of (1/G) sum_g p(x | g, y):
equal shares of the groups, whatever they were. Here samples are drawn with these weights, so any objective serves; a
light module beside the frozen base learns the difference. Rare is not the same as hard: look at the groups first.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from oneprior.data.source import Source, Subset, subset
from oneprior.denoiser import NetworkDenoiser


def infer_groups(
    loss: Tensor,
    y: Tensor | None = None,
    *,
    method: str = "quantile",
    share: float = 0.05,
    groups: int = 2,
    steps: int = 500,
    seed: int = 0,
) -> Tensor:
    """Soft groups (N, G), rows that sum to 1, from a loss a sample (N,), found within each class y (N,).

    method: "quantile", two groups, the last the top `share` of the loss: a guess of the minority's size; or "eiil",
    `groups` soft ones, none of which can gain from being smaller than `share` of its class.

    Raises:
        ValueError: for losses that are not finite or all alike, an unknown method, or a share outside (0, 1 / groups].
    """
    groups = 2 if method == "quantile" else groups
    if method not in ("quantile", "eiil") or not 0 < share <= 1 / groups or groups < 2:
        raise ValueError(
            f"method '{method}', share {share}, {groups} groups: 'quantile' or 'eiil', two groups or more and a share "
            "in (0, 1 / groups] were expected"
        )
    loss = loss.detach().double().cpu()
    y = torch.zeros(len(loss), dtype=torch.long) if y is None else y.cpu()
    q = torch.zeros(len(loss), groups, dtype=torch.float64)
    for c in y.unique().tolist():
        own = (y == c).nonzero()[:, 0]
        each = loss[own]
        if not bool(each.isfinite().all()) or float(each.std(unbiased=False)) == 0:
            raise ValueError(f"the {len(own)} losses of class {c} do not tell samples apart: unlike ones expected")
        q[own] = _quantile(each, share) if method == "quantile" else _eiil(each, groups, share, steps, seed)
    return q


def _quantile(loss: Tensor, share: float) -> Tensor:
    rank = loss.argsort().argsort()
    high = rank >= len(loss) - max(1, round(share * len(loss)))
    return torch.stack([~high, high], 1).double()


def _eiil(loss: Tensor, groups: int, share: float, steps: int, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    q = torch.rand(len(loss), groups, generator=g, dtype=torch.float64)
    q = (q / q.sum(1, keepdim=True)).requires_grad_()
    z, optimiser = (loss - loss.mean()) / loss.std(unbiased=False), torch.optim.Adam([q], lr=0.01)
    with torch.enable_grad():
        for _ in range(steps):
            mass = q.sum(0).clamp(min=share * len(loss))  # a single extreme sample must not make a group
            optimiser.zero_grad()
            (-(z @ q / mass).std()).backward()
            optimiser.step()
            with torch.no_grad():
                q.clamp_(min=0).div_(q.sum(1, keepdim=True).clamp(min=1e-12))
    return q.detach()


def weights(q: Tensor) -> Tensor:
    """w (N,) with mean 1 of groups q (N, G): every group gets the same total.

    Raises:
        ValueError: where a group is empty: with one group only there is nothing to balance.
    """
    mass = q.sum(0)
    if q.ndim != 2 or q.shape[1] < 2 or not bool((mass > 0).all()):
        raise ValueError(f"two groups or more, none of them empty, were expected; their masses are {mass.tolist()}")
    return (q / mass).sum(1) * (len(q) / q.shape[1])


def balanced(source: Source, q: Tensor, count: int | None = None) -> Subset:
    """`source` as it would be with groups of equal size: `count` samples (as many as there are), each taken round about
    w_i count / N times (to within one)."""
    if len(q) != len(source):
        raise ValueError(f"groups of {len(q)} samples for a source of {len(source)}")
    count = len(source) if count is None else count
    edges = weights(q).cumsum(0) * (count / len(q))
    at = torch.arange(count, dtype=torch.float64) + 0.5
    return subset(source, torch.searchsorted(edges, at).clamp(max=len(q) - 1).tolist())


def group_risk(loss: Tensor, q: Tensor, mass: Tensor, total: int, lam: float = 0.0) -> Tensor:
    """mean_g m_g + lam var_g m_g (V-REx, Krueger et al. 2021) from a batch, for training loops of one's own.

    loss (B,), q (B, G): of the batch; mass (G,), total: masses and size of the whole data set. Unbiased without lam.
    """
    m = (loss[:, None] * q).mean(0) * (total / mass)
    return m.mean() + lam * m.var(unbiased=False)


class _Beside(nn.Module):
    def __init__(self, base: nn.Module, light: nn.Module) -> None:
        super().__init__()
        self.base, self.light = base.requires_grad_(False), light

    def train(self, mode: bool = True) -> _Beside:
        super().train(mode)
        self.base.eval()
        return self

    def forward(self, x: Tensor, t: Tensor, **ports: Any) -> Tensor:
        with torch.no_grad():
            fixed = self.base(x, t, **ports)
        return fixed + self.light(x, t, **ports)


def beside(den: NetworkDenoiser, light: nn.Module) -> NetworkDenoiser:
    """`den` with a module of the same ports added to what its network predicts; only the module is trained.

    The last layer of `light` ought to be zero at first, as in all networks of `nets`: the model then starts as it is.
    """
    net = _Beside(deepcopy(den.net), light)
    return NetworkDenoiser(
        net, den.schedule, den.prediction, facts=den.facts, variance=den.variance, time=den.time
    ).train(den.training)


class Share(NamedTuple):
    """x: a share in [0, 1]; low, high: its Wilson interval."""

    x: float
    low: float
    high: float


def share(hits: Tensor, z: float = 1.96) -> Share:
    """How many of bool (N,), with Wilson's interval of z standard errors (95 % by default)."""
    n, p = len(hits), float(hits.double().mean())
    if not n:
        raise ValueError("a share of no samples: at least one was expected")
    mid, half = p + z * z / (2 * n), z * (p * (1 - p) / n + (z / (2 * n)) ** 2) ** 0.5
    return Share(p, (mid - half) / (1 + z * z / n), (mid + half) / (1 + z * z / n))


def bias_score(counts: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Mean and standard deviation over prompts of sum_{i<j} |n_i - n_j| / sum n / (K (K - 1) / 2), at most 2 / K.

    counts: of K classes for each prompt; one prompt has standard deviation 0.
    """
    n = torch.tensor(counts, dtype=torch.float64)
    if n.ndim != 2 or n.shape[1] < 2 or not bool((n.sum(1) > 0).all()):
        raise ValueError(f"counts {tuple(n.shape)}: (prompts, classes), two classes or more and samples were expected")
    gaps = (n[:, :, None] - n[:, None]).abs().sum((1, 2)) / 2
    each = gaps / n.sum(1) / (n.shape[1] * (n.shape[1] - 1) / 2)
    return float(each.mean()), float(each.std(unbiased=False))
