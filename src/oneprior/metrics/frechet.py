r"""Frechet distance of the Gaussians fitted to two sets of features (FID, sFID, FD-DINOv2, FVD by choice of features).

    FD = |mu_r - mu_g|^2 + tr S_r + tr S_g - 2 tr (S_r S_g)^{1/2}

GANs trained by a two time-scale update rule (Heusel et al., 2017), https://arxiv.org/abs/1706.08500

The last term by a symmetric eigenvalue problem, sum sqrt(eig(A S_g A)) with A = S_r^{1/2}: real by construction and
valid for singular covariances. With fewer samples than features, from the centred features themselves,
tr (S_r S_g)^{1/2} = || X_r X_g^T ||_* / sqrt((N-1)(M-1)), and no D x D matrix is formed.

The distance of two samples of one isotropic Gaussian s^2 I is not 0 but near
s^2 (1/N + 1/M) (D + D (D+1)/4): compare models at equal N only, beside `null`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from oneprior.metrics.features import Array, features, float64, pair


@dataclass(frozen=True)
class Moments:
    """Count, mean and scatter of features: all that the Frechet distance needs, in float64.

    They add up, whatever batches or processes they came from (Chan et al., 1979; centred, so that a large common offset
    cancels nothing):

        >>> stats = Moments.of(first) + Moments.of(second)

    count n; mean (D,); scatter (D, D), sum_i (f_i - mean)(f_i - mean)^T.
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, x: Array) -> "Moments":
        """The moments of a batch of features (n, D), n >= 1."""
        f = features(x, least=1)
        mean = f.mean(0)
        centred = f - mean
        return cls(len(f), mean, centred.T @ centred)

    def __add__(self, other: "Moments") -> "Moments":
        if self.mean.shape != other.mean.shape:
            raise ValueError(f"moments of {len(self.mean)} and of {len(other.mean)} features cannot be added")
        n = self.count + other.count
        gap = other.mean - self.mean
        scatter = self.scatter + other.scatter + torch.outer(gap, gap) * (self.count * other.count / n)
        return Moments(n, self.mean + gap * (other.count / n), scatter)

    @property
    def cov(self) -> Tensor:
        """The unbiased covariance, with shape (D, D)."""
        if self.count < 2:
            raise ValueError("one sample has no covariance; at least 2 are needed")
        return self.scatter / (self.count - 1)


def frechet_gaussians(mean_r: Array, cov_r: Array, mean_g: Array, cov_g: Array) -> float:
    """Squared 2-Wasserstein distance of two Gaussians, means (D,) and covariances (D, D), singular ones included."""
    m_r, s_r, m_g, s_g = (float64(a) for a in (mean_r, cov_r, mean_g, cov_g))
    if not (m_r.shape == m_g.shape and s_r.shape == s_g.shape == (*m_r.shape, *m_r.shape)):
        shapes = ", ".join(str(tuple(a.shape)) for a in (m_r, s_r, m_g, s_g))
        raise ValueError(f"expected shapes (D,), (D, D), (D,), (D, D); got {shapes}")
    values, vectors = torch.linalg.eigh(s_r)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ s_g @ root).clamp(min=0).sqrt().sum()
    return max(0.0, ((m_r - m_g).square().sum() + s_r.trace() + s_g.trace() - 2 * cross).item())


def frechet_eigh(real: Array | Moments, generated: Array | Moments) -> float:
    """Frechet distance of features (N, D), (M, D) or their `Moments`, from the two covariances, in O(N D^2 + D^3)."""
    r, g = (m if isinstance(m, Moments) else Moments.of(m) for m in (real, generated))
    return frechet_gaussians(r.mean, r.cov, g.mean, g.cov)


def frechet_nuclear(real: Array, generated: Array) -> float:
    """Frechet distance from the features (N, D) and (M, D) directly, in O(N M (D + min(N, M)))."""
    r, g = pair(real, generated)
    mean_r, mean_g = r.mean(0), g.mean(0)
    x, y = (r - mean_r) / (len(r) - 1) ** 0.5, (g - mean_g) / (len(g) - 1) ** 0.5
    cross = torch.linalg.svdvals(x @ y.T).sum()
    return max(0.0, ((mean_r - mean_g).square().sum() + x.square().sum() + y.square().sum() - 2 * cross).item())


def frechet_distance(real: Array | Moments, generated: Array | Moments) -> float:
    """Frechet distance of features (N, D), (M, D) or their `Moments`, by the cheaper of the two equal ways.

        >>> frechet_distance(flatten(real_images), flatten(samples))

    Raises:
        ValueError: features not two-dimensional, not finite, of different D, or fewer than two samples.
    """
    if isinstance(real, Moments) or isinstance(generated, Moments):
        return frechet_eigh(real, generated)
    r, g = pair(real, generated)
    return frechet_nuclear(r, g) if min(len(r), len(g)) < r.shape[1] else frechet_eigh(r, g)
