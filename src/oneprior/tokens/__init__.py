"""Discrete diffusion: a corruption, a denoiser that declares its convention, samplers with float64 draws."""

from oneprior.tokens.corruptions import Absorbing, Corruption, Hybrid, Marginal, MaskReplace, Uniform
from oneprior.tokens.denoiser import TokenDenoiser
from oneprior.tokens.draw import Coins, categorical
from oneprior.tokens.keep import Amplitude, Cosine, Keep, Linear, Power
from oneprior.tokens.objective import bound, cross_entropy, dynamic, finite_bound, masked_bound, prior_term
from oneprior.tokens.samplers import Ancestral, Confidence, FirstHitting, Remask, TauLeap, TokenSampler, even

__all__ = [
    "Absorbing",
    "Amplitude",
    "Ancestral",
    "Coins",
    "Confidence",
    "Corruption",
    "Cosine",
    "FirstHitting",
    "Hybrid",
    "Keep",
    "Linear",
    "Marginal",
    "MaskReplace",
    "Power",
    "Remask",
    "TauLeap",
    "TokenDenoiser",
    "TokenSampler",
    "Uniform",
    "bound",
    "categorical",
    "cross_entropy",
    "dynamic",
    "even",
    "finite_bound",
    "masked_bound",
    "prior_term",
]
