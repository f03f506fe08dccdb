"""Operators: what a measurement does to a sample. `Measurement(y, operator, noise)` is what every restoration takes."""

from oneprior.operators.base import Compose, Decoded, Measurement, Operator, Scale, check_noise
from oneprior.operators.blur import Blur
from oneprior.operators.colour import Colourise, Demosaic
from oneprior.operators.convolve import Convolve
from oneprior.operators.counting import Poisson
from oneprior.operators.foreign import from_deepinv, to_deepinv
from oneprior.operators.fourier import MRI, PhaseRetrieval
from oneprior.operators.frames import EachFrame
from oneprior.operators.jpeg import JPEG
from oneprior.operators.masks import Mask
from oneprior.operators.pool import Bicubic, Pool
from oneprior.operators.radon import Radon
from oneprior.operators.sensing import Hadamard, Projections
from oneprior.operators.solve import cg, gmres
from oneprior.operators.svd import Svd
from oneprior.operators.tones import Clip, GammaBlur, Haze, LowLight

__all__ = [
    "JPEG", "MRI", "Bicubic", "Blur", "Clip", "Colourise", "Compose", "Convolve", "Decoded", "Demosaic", "EachFrame",
    "GammaBlur", "Hadamard", "Haze", "LowLight", "Mask", "Measurement", "Operator", "PhaseRetrieval", "Poisson", "Pool",
    "Projections", "Radon", "Scale", "Svd", "cg", "check_noise", "from_deepinv", "gmres", "to_deepinv",
]  # fmt: skip
