"""What the Jacobian of a denoiser tells: curl, dimension, subspaces, directions of local edits; and a gauge."""

from oneprior.uses.geometry.dimension import METHODS, TIMES, Dimension, dimension
from oneprior.uses.geometry.gauge import FORMS, Gauge, Potential
from oneprior.uses.geometry.jacobian import SVD, Jacobian, conservativity, divergence, numerical_rank, top_svd
from oneprior.uses.geometry.local import directions, loco
from oneprior.uses.geometry.subspaces import LowRank, assign, k_subspaces, matched, projector_distance

__all__ = [
    "FORMS", "METHODS", "SVD", "TIMES", "Dimension", "Gauge", "Jacobian", "LowRank", "Potential", "assign",
    "conservativity", "dimension", "directions", "divergence", "k_subspaces", "loco", "matched", "numerical_rank",
    "projector_distance", "top_svd",
]  # fmt: skip
