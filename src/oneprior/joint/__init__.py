"""Several parts in one sample (image and label, image and image, image and features), each with a time of its own."""

from oneprior.joint.aggregate import Aggregated, Chain, chain
from oneprior.joint.denoiser import Categorical, JointDenoiser
from oneprior.joint.objective import Alone, Independent, JointObjective, Together, pack, unpack
from oneprior.joint.views import Inside, Marginals, Noisy, Single, given

__all__ = [
    "Aggregated", "Alone", "Categorical", "Chain", "Independent", "Inside", "JointDenoiser", "JointObjective",
    "Marginals", "Noisy", "Single", "Together", "chain", "given", "pack", "unpack",
]  # fmt: skip
