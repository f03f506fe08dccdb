"""Exact laws: Gaussians, mixtures (of low rank), data sets, short token sequences, with every answer known.

Every algorithm of the library is held against these. For a law of yours:
    >>> den = Gaussian(mean, cov).denoiser(VP())        # mean, variance, score, eps, velocity at any time
    >>> exact = Gaussian(mean, cov).condition(A, y, 0.1)  # the posterior a restoration ought to sample
"""

from oneprior.exact.covariance import Covariance
from oneprior.exact.laws import Gaussian, empirical, low_rank_mixture
from oneprior.exact.mixture import ExactDenoiser, Mixture
from oneprior.exact.tokens import TokenLaw

__all__ = ["Covariance", "ExactDenoiser", "Gaussian", "Mixture", "TokenLaw", "empirical", "low_rank_mixture"]
