"""Diffusion Classifiers Understand Compositionality, but Conditions Apply (Jeong et al. 2025), on drawn scenes.

Of scenes every p(x | caption) is a finite mixture, so the classifier is first held against an exact model: in its own
domain it knows all factors, and a model of the words without their order knows no binding. Then the drawing is changed
under it (the domain gap). Self-Bench with trained networks: two of them, one a style, each classifies what each has
generated, as far as the parser calls it right; its diagonal is the own domain.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor

from oneprior.codecs import Pixels
from oneprior.conditions import Conditions, Vector
from oneprior.data.scenes import (
    COLOURS,
    COUNTS,
    FACTORS,
    RELATIONS,
    SHAPES,
    Style,
    meant,
    parse,
    questions,
    render,
    scenes,
)  # fmt: skip
from oneprior.denoiser import Denoiser
from oneprior.exact import Mixture
from oneprior.nets import UNetConfig
from oneprior.noise import Seeded
from oneprior.reproductions import Check, Scale
from oneprior.reproductions._learn import learn
from oneprior.schedules import Cosine
from oneprior.uses.errors import Errors, Plan, errors
from oneprior.uses.weighting import fit

PAPER = "Diffusion Classifiers Understand Compositionality, but Conditions Apply (2025)"
CLAIM = (
    "An exact model reads colour, shape, binding, position and count of its own drawings at 0.98, and a bag of words "
    "no binding; a pixel of jitter costs the exact model its binding; trained networks read the binding of their own "
    "pictures better than of each other's by 0.1."
)
SEEDS: dict[Scale, tuple[int, ...]] = {"quick": (0,), "desk": (0,)}
COUNT: dict[Scale, int] = {"quick": 24, "desk": 120}
PLAN, SPREAD = Plan(30, lam=(-3.0, 3.0)), 0.15**0.5  # noise of the exact law, in model range
GAPS = {
    "one pixel of jitter": Style(jitter=1),
    "background 0.3": Style(background=0.3),
    "texture 0.5": Style(texture=0.5),
    "gain 0.4": Style(gain=0.4),
}
STYLES = (Style(), Style(background=0.6, gain=0.6, texture=0.05))


class Asked(NamedTuple):
    """An error table over each question's own options, and which column is the true caption's, (B,)."""

    table: Errors
    y: Tensor

    def right(self, w: Tensor | None = None, rows: slice = slice(None)) -> float:
        """Share of questions whose true caption has the least error; of a tie, its part."""
        e = self.table._replace(x=self.table.x[:, rows]).total(w)
        best = e <= e.amin(1, keepdim=True)
        return float((best.gather(1, self.y[rows, None])[:, 0] / best.sum(1)).mean())


def run(scale: Scale, device: str = "cpu") -> Iterator[Check]:
    """The figures, in the order of the claim."""
    n = COUNT[scale]
    for factor in FACTORS:
        own = exact(factor, n)
        got = own.right()
        yield Check(f"exact model, {factor}{said(got, n)}", got, ">= 0.98", 1 / own.table.x.shape[2], got >= 0.98)
    bag = exact("binding", n, bag=True).right()
    yield Check("exact model of words without order, binding", bag, "= 0.5", 0.5, bag == 0.5, "control")
    for name, style in GAPS.items():
        a = exact("binding", n, style)
        got, kind, half = a.right(), "check" if "jitter" in name else "uncalibrated", n // 2
        yield Check(f"exact model, binding, {name}{said(got, n)}", got, "< 0.9", 1.0, got < 0.9, kind)
        steps = torch.eye(len(a.table.lam)).double()[a.table.lam.argsort()] / a.table.weight
        noisy, clean = (fmean(a.right(w) for w in part) for part in (steps[:10], steps[-10:]))
        what = f"binding, {name}, single times: the noisiest third"
        yield Check(what, noisy, "shown; baseline: the cleanest third", clean, True, "uncalibrated")
        weight = fit(a.table._replace(x=a.table.x[:, :half]), a.y[:half])(a.table.nodes)
        fitted, plain = (a.right(w, slice(half, None)) for w in (weight, None))
        what = f"binding, {name}, weights fitted on half"
        yield Check(what, fitted, ">= equal weights - 0.05", plain, fitted >= plain - 0.05, "uncalibrated")
    if scale == "desk":
        yield from trained(device)


def ask(den: Denoiser, conds: Any, options: Sequence[Sequence[int]], x: Tensor, plan: Plan) -> Asked:
    """options: for each picture rows of conds, the true one first; columns are dealt out by the picture's number."""
    order = torch.stack(
        [torch.randperm(len(o), generator=torch.Generator().manual_seed(i)) for i, o in enumerate(options)]
    )
    pick = torch.tensor(options).gather(1, order)
    return Asked(errors(den, x, conds, plan, pick=pick, max_batch=2048), (order == 0).long().argmax(1))


def exact(factor: str, n: int, style: Style | None = None, bag: bool = False) -> Asked:
    """Questions put to the exact model of the plain style, drawn in another; bag: it hears the words in any order."""
    asked = questions(factor, n)
    names = {o: " ".join(sorted(o.split())) if bag else o for q in asked for o in q.options}
    place = {name: i for i, name in enumerate(dict.fromkeys(names.values()))}
    drawn = [(place[names[o]], scene) for o in names for scene in meant(o)]
    means = torch.stack([torch.from_numpy(render(scene)) for _, scene in drawn]) * 2 - 1
    law = Mixture(torch.ones(len(drawn)), means, SPREAD**2, [k for k, _ in drawn])
    x = torch.stack([torch.from_numpy(render(q.scene, style, seed=i)) for i, q in enumerate(asked)]) * 2 - 1
    x = x + SPREAD * Seeded(range(n), "scenes")(0, x)
    options = [[place[names[o]] for o in q.options] for q in asked]
    return ask(law.denoiser(Cosine()), {"label": torch.arange(len(place))}, options, x, PLAN)


def said(share: float, n: int) -> str:
    """Of a share of n its 95 % interval (Wilson 1927)."""
    z, mid = 1.96, share + 1.96**2 / (2 * n)
    half = z * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    low, high = ((mid + d) / (1 + z * z / n) for d in (-half, half))
    return f" (n = {n}, 95 %: {low:.2f} to {high:.2f})"


def told(captions: Sequence[str], bag: bool = False) -> Tensor:
    """Captions as 22 numbers: colour and shape of the first thing and of the second (bag: of both together), the
    relation, the count."""
    out, words = torch.zeros(len(captions), 2, 7), (*COLOURS, *SHAPES)
    tail = torch.zeros(len(captions), 8)
    for k, caption in enumerate(captions):
        for i, pair in enumerate(re.findall(rf"({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})", caption)):
            for word in pair:
                out[k, 0 if bag else i, words.index(word)] += 1
        tail[k, [i for i, how in enumerate(RELATIONS) if how in caption]] = 1
        tail[k, 4 + next(i for i, n in enumerate(COUNTS) if caption.startswith(f"{n} "))] = 1
    return torch.cat((out.flatten(1), tail), 1)


class Told:
    """Scenes of a style as a source for training."""

    def __init__(self, count: int, style: Style, bag: bool = False) -> None:
        self.source = scenes(count, style, seed=7, factors=("binding", "colour"))
        self.said = told(self.source.captions, bag)

    def __len__(self) -> int:
        return len(self.source)

    def batch(self, indices: Sequence[int], /) -> dict[str, Tensor]:
        return {"x": self.source.batch(indices)["x"], "said": self.said[list(indices)]}


def trained(device: str, samples: int = 60_032, count: int = 8_000, n: int = 120) -> Iterator[Check]:
    """Self-Bench: pictures of each network, as far as right, read by each; and by a network of words in any order."""
    config = UNetConfig((3, 16, 16), vector=23, channels=(16, 32, 32))
    made = {k: (STYLES[k % 2], k == 2) for k in range(3)}
    conditions = Conditions({"said": Vector(22)})
    priors = {
        k: learn(config, Told(count, style, bag), Pixels(None), conditions, samples, device=device, batch=32)
        for k, (style, bag) in made.items()
    }
    matrix, asked = torch.zeros(3, 2), questions("binding", n, seed=11)
    captions = list(dict.fromkeys(o for q in asked for o in q.options))
    for g in range(2):
        x = priors[g].sample(seeds=range(n), said=told([q.options[0] for q in asked]), guidance=2.0).x
        good = [i for i, v in enumerate(x.cpu().numpy()) if parse(v, STYLES[g]) in meant(asked[i].options[0])]
        yield Check(f"own pictures of network {g} that the parser calls right", len(good) / n, "shown", None, True,
                    "uncalibrated")  # fmt: skip
        options = [[captions.index(o) for o in asked[i].options] for i in good]
        for m, prior in priors.items():
            conds = prior.conditions.encode(len(captions), said=told(captions, made[m][1]))
            got = ask(prior.den, conds, options, prior.codec.encode(x[good]), PLAN).right() if good else 0.0
            matrix[m, g] = got
            what = f"binding, pictures of {g} read by {m}{said(got, max(len(good), 1))}"
            yield Check(what, got, "shown", 0.5, True, "uncalibrated")
    own, other = float(matrix[:2].diagonal().mean()), float(matrix[:2].flip(1).diagonal().mean())
    yield Check("binding, own pictures", own, ">= 0.75", 0.5, own >= 0.75)
    yield Check("binding, own pictures", own, ">= each other's + 0.1", other, own >= other + 0.1)
    yield Check(
        "binding, words in any order", float(matrix[2, 0]), "<= 0.6", own, float(matrix[2, 0]) <= 0.6, "control"
    )
