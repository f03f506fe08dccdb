"""Mask and replace (Gu et al. 2022, VQ-Diffusion; Tang et al. 2022, Improved VQ-Diffusion), on digits as tokens.

Two class-conditional networks alike, one under the paper's corruption (at the end 0.9 masked, 0.1 replaced), one under
masks alone. A tenth of the pixels of held-out digits is replaced at random, and the chain is run from t = 0.2: where
tokens can be replaced, wrong ones are found and mended; under masks what is visible is certain, and stays. Guidance
makes the class of samples plainer. The bound is trained with the paper's auxiliary cross-entropy. Text to image is
`benchmarks/text_to_image.py`; laws, strides and the auxiliary loss are tests of `tokens`.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import log

import torch
from torch import Tensor

from oneprior.data import digits
from oneprior.demo.baselines import Digits
from oneprior.reproductions import Check, Scale
from oneprior.reproductions._token_digits import LEVELS, L, learn, tokens
from oneprior.token_prior import TokenPrior
from oneprior.tokens import Absorbing, Coins, MaskReplace, categorical
from oneprior.tokens.losses import Finite, Masks

PAPER = "Vector Quantized Diffusion Model for Text-to-Image Synthesis (2021)"
CLAIM = (
    "A chain that replaces tokens mends a quarter of the wrong pixels of a digit and keeps nine tenths of the right "
    "ones, one that only masks mends none; guidance at 2 makes samples read right 5 points more often than at 1, and "
    "lowers their entropy."
)
SEEDS: dict[Scale, tuple[int, ...]] = {"quick": (0,), "desk": (0,)}
SAMPLES: dict[Scale, int] = {"quick": 256, "desk": 80_000}
TESTED: dict[Scale, int] = {"quick": 20, "desk": 360}
WRONG, START, STEPS = 0.1, 0.2, 20  # of the pixels, of the time; steps of the chain from there


def run(scale: Scale, device: str = "cpu") -> Iterator[Check]:
    """The figures, in the order of the claim."""
    kind, seed, count = "check" if scale == "desk" else "uncalibrated", SEEDS[scale][0], TESTED[scale]
    x, label = (v[:count] for v in tokens("test"))
    paper = MaskReplace(LEVELS + 1, masked_end=0.9)
    replaces = learn(paper, Finite(100, 0.01), SAMPLES[scale], seed, timed=True, label=True, device=device)
    masks = learn(Absorbing(LEVELS + 1), Masks(), SAMPLES[scale], seed, timed=False, label=True, device=device)

    right = {name: mended(p, x, label, seed) for name, p in (("replace", replaces), ("mask", masks))}
    fixed, kept = right["replace"]
    yield Check("wrong pixels mended, mask and replace", fixed, ">= 0.25", right["mask"][0], fixed >= 0.25, kind)
    yield Check("right pixels kept, mask and replace", kept, ">= 0.9", right["mask"][1], kept >= 0.9, kind)
    fixed, kept = right["mask"]
    yield Check("wrong pixels mended, masks alone", fixed, "= 0", 0.0, fixed == 0, "control")
    yield Check("right pixels kept, masks alone", kept, "= 1", 1.0, kept == 1, "control")

    data = Digits.of(digits("train"), digits("test"))
    read: dict[float, tuple[float, float]] = {}
    for w in (0.0, 1.0, 2.0):
        labels = [i % 10 for i in range(count)]
        made = masks.sample(seeds=range(seed * 10**6, seed * 10**6 + count), label=labels, guidance=w, steps=16)
        hit = float((data.read(made.x.cpu()) == torch.tensor(labels)).double().mean())
        read[w] = hit, entropy(masks.codec.encode(made.x), torch.tensor(labels))
    plain, strong = read[1.0][0], read[2.0][0]
    yield Check("samples read right, guidance 2", strong, ">= guidance 1 + 0.05", plain, strong >= plain + 0.05, kind)
    none = read[0.0][0]
    yield Check("samples read right, guidance 2", strong, ">= no condition + 0.5", none, strong >= none + 0.5, kind)
    falls = read[2.0][1] < read[1.0][1]
    what = "entropy of a pixel's levels given the class, nats, guidance 2"
    yield Check(what, read[2.0][1], "< guidance 1", read[1.0][1], falls, kind)


def mended(prior: TokenPrior, x: Tensor, label: Tensor, seed: int) -> tuple[float, float]:
    """Shares of the wrong pixels that the chain from `START` sets right, and of the right ones that it leaves."""
    coins = Coins(range(seed * 10**6, seed * 10**6 + len(x)))
    off = coins(0, "wrong", (L,)) < WRONG
    other = (x + 1 + (coins(0, "level", (L,)) * (LEVELS - 1)).long()) % LEVELS
    given, c = torch.where(off, other, x).to(prior.device), prior.den.corruption
    z = given
    with torch.no_grad():
        for i in range(STEPS):
            t, s = START * (1 - i / STEPS), START * (1 - (i + 1) / STEPS)
            law = prior.den.step(z, t, s, label=label.to(prior.device))
            z = categorical(law, coins(i, "step", (L,)).to(prior.device))
    z = z.cpu()
    assert c.mask is None or not bool((z == c.mask).any())
    return float((z == x)[off].double().mean()), float((z == x)[~off].double().mean())


def entropy(x: Tensor, label: Tensor) -> float:
    """Of the levels of a pixel given the class, mean over pixels and classes, nats."""
    each = []
    for k in label.unique():
        p = torch.nn.functional.one_hot(x[label == k].cpu(), LEVELS).double().mean(0)
        each.append(torch.special.entr(p).sum(-1).mean())
    return min(float(torch.stack(each).mean()), log(LEVELS))
