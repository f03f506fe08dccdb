"""Small networks on tensors, for the reproductions that look inside: trained in seconds, averaged weights."""

from __future__ import annotations

from torch import Tensor

from oneprior.conditions import Conditions, Label
from oneprior.data import DataFacts, Source
from oneprior.data.source import ArraySource
from oneprior.denoiser import NetworkDenoiser
from oneprior.objective import Objective
from oneprior.reproductions._learn import trained
from oneprior.times import Uniform


def held(x: Tensor, label: Tensor | None = None) -> ArraySource:
    """Samples (N, *) in model range, with labels (N,), as a source."""
    names = None if label is None else tuple(map(str, range(int(label.max()) + 1)))
    facts = DataFacts(tuple(x.shape[1:]), names, None, "drawn", "no rights", len(x))
    return ArraySource(facts, x.float().numpy(), None if label is None else label.numpy())


def learn(
    den: NetworkDenoiser, source: Source, steps: int, *, batch: int = 256, lr: float = 2e-3, seed: int = 0
) -> NetworkDenoiser:
    """`den` after `steps` steps of plain denoising, conditioned on the labels of the source where it has some."""
    names = source.facts.classes
    conditions = Conditions({} if names is None else {"label": Label(names)})
    return trained(
        None, den, Objective(law=Uniform(1e-3, 1.0)), source, None, conditions, samples=steps * batch, batch=batch,
        lr=lr, warmup=20 * batch, betas=(0.9, 0.999), seed=seed, drop=0.0, averages=(0.05,), device="cpu",
        log_every=steps * batch,
    )  # fmt: skip
