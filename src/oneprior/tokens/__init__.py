"""Discrete diffusion: a corruption, a denoiser that declares its convention, samplers with float64 draws."""

from oneprior.tokens.autoregress import NextToken, autoregress, next_token
from oneprior.tokens.chain import Corruption
from oneprior.tokens.corruptions import Absorbing, Hybrid, Marginal, MaskReplace, Shares, Uniform
from oneprior.tokens.denoiser import TokenDenoiser, TokenModel, TokenWrapper
from oneprior.tokens.draw import Coins, categorical
from oneprior.tokens.guidance import CFG, Temperature, TopK, TopP
from oneprior.tokens.keep import Amplitude, Cosine, Keep, Linear, Power
from oneprior.tokens.losses import LOSSES, TokenObjective
from oneprior.tokens.matrix import MatrixCorruption, discretised_gaussian
from oneprior.tokens.objective import bound, cross_entropy, dynamic, finite_bound, masked_bound, prior_term
from oneprior.tokens.prefix import BlockMasks, Prefixed, block_mask
from oneprior.tokens.samplers import (
    Ancestral,
    Blocks,
    Confidence,
    FirstHitting,
    Flow,
    Loop,
    Remask,
    SelfCorrection,
    TauLeap,
    TokenSampler,
    even,
)

__all__ = [
    "CFG",
    "LOSSES",
    "Absorbing",
    "Amplitude",
    "Ancestral",
    "BlockMasks",
    "Blocks",
    "Coins",
    "Confidence",
    "Corruption",
    "Cosine",
    "FirstHitting",
    "Flow",
    "Hybrid",
    "Keep",
    "Linear",
    "Loop",
    "Marginal",
    "MaskReplace",
    "MatrixCorruption",
    "NextToken",
    "Power",
    "Prefixed",
    "Remask",
    "SelfCorrection",
    "Shares",
    "TauLeap",
    "Temperature",
    "TokenDenoiser",
    "TokenModel",
    "TokenObjective",
    "TokenSampler",
    "TokenWrapper",
    "TopK",
    "TopP",
    "Uniform",
    "autoregress",
    "block_mask",
    "bound",
    "categorical",
    "cross_entropy",
    "discretised_gaussian",
    "dynamic",
    "even",
    "finite_bound",
    "masked_bound",
    "next_token",
    "prior_term",
]
