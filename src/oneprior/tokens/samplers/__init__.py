"""Samplers of tokens: chains on a grid, masks lifted in an order, and samplers made of these.

Exact: FirstHitting(1), and any order with one drawn token a call. Exact as steps grow: Ancestral (with or without
Remask), TauLeap, Flow. Confidence orders with more a call, greedy ones and SelfCorrection seek the mode.
"""

from oneprior.tokens.samplers.blocks import Blocks, SelfCorrection
from oneprior.tokens.samplers.grid import Ancestral, Flow, Loop, Remask, TauLeap
from oneprior.tokens.samplers.order import SCORES, Confidence, FirstHitting
from oneprior.tokens.samplers.run import GRIDS, Run, TokenSampler, cosine, even, times

__all__ = [
    "GRIDS",
    "SCORES",
    "Ancestral",
    "Blocks",
    "Confidence",
    "FirstHitting",
    "Flow",
    "Loop",
    "Remask",
    "Run",
    "SelfCorrection",
    "TauLeap",
    "TokenSampler",
    "cosine",
    "even",
    "times",
]
