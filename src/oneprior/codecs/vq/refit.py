"""ReFiT: rebuild the codebook, then fine-tune (Hu et al. 2022, VQ-DDM).

Of a codebook with dead codes: k-means with fewer centres on what the encoder makes of the data; the centres are the
new codes; the encoder is frozen, codebook and decoder go on learning with `Trainer` as before.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor

from oneprior.codecs.vq.networks import Autoencoder
from oneprior.codecs.vq.quantise import Codebook, nearest, project
from oneprior.noise import uniform


@torch.no_grad()
def features(model: Autoencoder, pictures: Iterable[Tensor], most: int = 15_000, seed: int = 0) -> Tensor:
    """At most `most` of the encoder's vectors (M, d) for batches of pictures, drawn evenly from all."""
    z = torch.cat([project(model.features(x), model.config).flatten(0, -2) for x in pictures])
    return z[torch.from_numpy(uniform(seed, "features", 0, (len(z),)).argsort()[:most]).to(z.device)]


def refit(model: Autoencoder, z: Tensor, codes: int, seed: int = 0) -> Autoencoder:
    """A copy with a codebook of the k-means centres of vectors z (M, d), and an encoder that no longer learns.

    Example:
        >>> smaller = refit(model, features(model, pictures), codes=64)
        >>> trainer = Trainer(smaller, Reconstruction(), source, settings=settings)

    Raises:
        ValueError: for a model without a codebook (FSQ), or fewer vectors than codes.
    """
    from sklearn.cluster import KMeans

    if model.config.levels:
        raise ValueError("FSQ has no codebook to rebuild: leave out its unused codes with VQ.of(model, pictures)")
    if not 2 <= codes <= len(z):
        raise ValueError(f"codes={codes}: between 2 and the number of vectors, {len(z)}, was expected")
    means = KMeans(codes, n_init="auto", random_state=seed).fit(z.cpu().numpy()).cluster_centers_
    # All its codes live, and a replaced one would be a loss: the decoder knows the others only.
    out = deepcopy(model)
    out.config = replace(model.config, codes=codes, reset=0.0)
    out.quantiser = book = Codebook(out.config).to(z.device)
    with torch.no_grad():
        book.codes.copy_(project(torch.from_numpy(means).to(z), out.config))
        book.total.copy_(torch.bincount(nearest(z, book.codes), minlength=codes))
        book.sums.copy_(book.codes * book.total[:, None])
        book.begun.fill_(True)
    out.encoder.requires_grad_(False)
    return out
