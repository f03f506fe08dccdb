"""Metrics as functions of arrays: features (N, D), tensors or numpy, computed in float64.

    >>> frechet_distance(real, generated)                     # a number
    >>> null(frechet_distance, real, n=len(generated))        # what a perfect model would score

Every number needs its null at equal sizes; `null` gives it for any of them.
"""

from oneprior.metrics.features import Array, Estimate, flatten, null
from oneprior.metrics.frechet import Moments, frechet_distance, frechet_eigh, frechet_gaussians, frechet_nuclear
from oneprior.metrics.image import psnr, ssim
from oneprior.metrics.mmd import KID, energy_distance, gaussian_mmd, kernel_mmd, kid, kid_subsets, sliced_wasserstein
from oneprior.metrics.neighbours import (
    PRDC,
    authenticity,
    coverage_null,
    nearest,
    prdc,
    train_share,
    two_sample_accuracy,
)
from oneprior.metrics.text import NGrams, TextScore, ngram_perplexity
from oneprior.metrics.video import VideoScore, frechet_video

__all__ = [
    "KID", "PRDC", "Array", "Estimate", "Moments", "NGrams", "TextScore", "VideoScore", "authenticity", "coverage_null",
    "energy_distance", "flatten", "frechet_distance", "frechet_eigh", "frechet_gaussians", "frechet_nuclear",
    "frechet_video", "gaussian_mmd", "kernel_mmd", "kid", "kid_subsets", "nearest", "ngram_perplexity", "null", "prdc",
    "psnr", "sliced_wasserstein", "ssim", "train_share", "two_sample_accuracy",
]  # fmt: skip
