"""Operators: what a measurement does to a sample. `Measurement(y, operator, noise)` is what every restoration takes."""

from oneprior.operators.base import Compose, Decoded, Measurement, Operator, Scale, check_noise
from oneprior.operators.blur import Blur
from oneprior.operators.masks import Mask
from oneprior.operators.pool import Pool
from oneprior.operators.solve import cg

__all__ = ["Blur", "Compose", "Decoded", "Mask", "Measurement", "Operator", "Pool", "Scale", "cg", "check_noise"]
