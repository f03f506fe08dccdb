"""VQ codecs: pictures to a small grid of tokens and back. Train with `Trainer`, keep with `VQ.of`.

>>> model = Autoencoder(VQConfig.sized((3, 32, 32), codes=512))
>>> for state in Trainer(model, Reconstruction(), source, settings=settings, run="runs/codec").fit(): ...
>>> codec = VQ.of(model, batches)
"""

from oneprior.codecs.vq.codec import VQ, touched
from oneprior.codecs.vq.config import VQConfig
from oneprior.codecs.vq.networks import Autoencoder, Reconstruction
from oneprior.codecs.vq.quantise import FSQ, Codebook, perplexity, usage
from oneprior.codecs.vq.refit import features, refit

__all__ = [
    "FSQ", "VQ", "Autoencoder", "Codebook", "Reconstruction", "VQConfig", "features", "perplexity", "refit", "touched",
    "usage",
]  # fmt: skip
