"""Guidance: denoisers that hold a denoiser and change its mean. One method a file."""

from oneprior.guidance.cfg import CFG, sigma, time
from oneprior.guidance.mmps import MMPS

__all__ = ["CFG", "MMPS", "sigma", "time"]
