"""Schedules: alpha, anchor and sigma of any time; base class, continuous ones and the discrete tables."""

from oneprior.schedules.base import Eta, Kappa, Own, Schedule, Share, Shifted, Stochasticity
from oneprior.schedules.named import EDM, VE, VP, Cosine, Laplace, RectifiedFlow, Sigmoid, SubVP
from oneprior.schedules.table import Betas, CosineBetas, LinearBetas, ScaledLinearBetas, Table

__all__ = [
    "EDM", "VE", "VP", "Betas", "Cosine", "CosineBetas", "Eta", "Kappa", "Laplace", "LinearBetas", "Own",
    "RectifiedFlow", "ScaledLinearBetas", "Schedule", "Share", "Shifted", "Sigmoid", "Stochasticity", "SubVP", "Table",
]  # fmt: skip
