"""Guidance: denoisers that hold a denoiser and change its mean. One method a file."""

from oneprior.guidance.apg import APG
from oneprior.guidance.autoguidance import AutoGuidance
from oneprior.guidance.cfg import CFG
from oneprior.guidance.cfgpp import CFGpp
from oneprior.guidance.classifier import ClassifierGuidance
from oneprior.guidance.contrast import sigma, time
from oneprior.guidance.distill import Distill, Distilled, Scales
from oneprior.guidance.frames import History
from oneprior.guidance.mmps import MMPS, TMPD, PiGDM
from oneprior.guidance.particles import corrected, twisted
from oneprior.guidance.perturb import PAG, SkipLayer
from oneprior.guidance.reward import PerStep, RewardGuidance
from oneprior.guidance.several import Several
from oneprior.guidance.threshold import Threshold
from oneprior.guidance.tiles import Tiled
from oneprior.guidance.zerostar import CFGZero

__all__ = [
    "APG", "CFG", "MMPS", "PAG", "TMPD", "AutoGuidance", "CFGZero", "CFGpp", "ClassifierGuidance", "Distill",
    "Distilled", "History", "PerStep", "PiGDM", "RewardGuidance", "Scales", "Several", "SkipLayer", "Threshold",
    "Tiled", "corrected", "sigma", "time", "twisted",
]  # fmt: skip
