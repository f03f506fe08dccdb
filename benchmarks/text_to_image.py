"""Text to image, judged by a stranger: names that were never seen, drawn by a prior of one vendor's emoji.

The scorer, a small convolutional net beside a bag of words, is trained by contrast (Radford et al. 2021) on training
pictures of the *other* vendor. A picture is ranked against 300 names; the figure is how often its own is in the top
tenth. The same is asked of the real held-out picture, of the training picture with the nearest name (a cheat that
draws nothing), and of pictures under other names. Frechet distances are to the held-out pictures, as many each.

    python benchmarks/text_to_image.py emoji-text [--ar runs/emoji-text-ar] [--paired 2000] [--json FILE | --docs]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from peer_causal import causal_twin
from peers import between, versions
from torch import Tensor, nn

import oneprior
from oneprior.codecs.vq import perplexity, usage
from oneprior.conditions import Caption, words
from oneprior.data import open_source
from oneprior.metrics import frechet_distance, psnr
from oneprior.metrics.neighbours import nearest
from oneprior.token_prior import TokenPrior
from oneprior.tokens import Ancestral, autoregress, next_token
from oneprior.uses.tokens import nats

CANDIDATES, TOP, NEAR = 300, 0.1, 0.10
DOCS = Path(__file__).parents[1] / "docs"
COMMAND = "benchmarks/text_to_image.py --docs"
Row = dict[str, Any]


@dataclass(frozen=True)
class Data:
    """Pictures (N, 3, H, W) in [0, 1] and their names: of the prior's vendor, train and test, and the other's."""

    train: Tensor
    train_names: tuple[str, ...]
    test: Tensor
    names: tuple[str, ...]
    other: Tensor
    other_names: tuple[str, ...]

    @classmethod
    def of(cls, vendor: str = "google", other: str = "twitter", size: int = 32) -> Data:
        parts = []
        for who, split in ((vendor, "train"), (vendor, "test"), (other, "train")):
            source: Any = open_source(f"emoji-{who}-{size}-untoned", split=split)
            parts += [source.batch(range(len(source)))["x"], source.captions]
        return cls(*parts)

    @cached_property
    def candidates(self) -> tuple[str, ...]:
        """The held-out names, each once, and training names in the order of a hash until there are enough."""
        own = sorted(set(self.names))
        more = sorted(set(self.train_names) - set(own), key=lambda n: (zlib.crc32(n.encode()), n))
        return tuple((own + more)[: max(CANDIDATES, len(own))])

    @cached_property
    def axes(self) -> Tensor:
        """The first 32 principal components of the training pictures, (D, 32)."""
        x = self.train.double().flatten(1)
        return torch.linalg.svd(x - x.mean(0), full_matrices=False).Vh[:32].T


class Scorer(nn.Module):
    """How well a picture and a name go together: the inner product of their directions."""

    def __init__(self, names: Sequence[str], width: int = 64) -> None:
        super().__init__()
        self.caption = Caption.of(names, length=32)
        chain: list[nn.Module] = []
        for a, b, stride in ((3, 32, 2), (32, 64, 2), (64, 96, 2), (96, 128, 1)):
            chain += [nn.Conv2d(a, b, 3, stride, 1), nn.GroupNorm(8, b), nn.SiLU()]
        self.see = nn.Sequential(*chain, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.2), nn.Linear(512, width))
        self.embed = nn.Embedding(len(self.caption.vocabulary) + 2, 2 * width, padding_idx=0)
        self.say = nn.Sequential(nn.SiLU(), nn.Dropout(0.2), nn.Linear(2 * width, width))
        self.scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def features(self, x: Tensor) -> Tensor:
        return self.see(2 * x - 1)

    def read(self, ids: Tensor) -> Tensor:
        seen = (ids > 0).unsqueeze(-1)
        return self.say((self.embed(ids) * seen).sum(1) / seen.sum(1).clamp(min=1).sqrt())

    def ids(self, names: Sequence[str]) -> Tensor:
        return self.caption.encode(list(names), len(names))["words"]

    @torch.no_grad()
    def score(self, x: Tensor, names: Sequence[str]) -> Tensor:
        """(B, names), each in [-1, 1]."""
        self.eval()
        seen = torch.cat([self.features(p) for p in x.split(256)])
        return F.normalize(seen, dim=1) @ F.normalize(self.read(self.ids(names)), dim=1).T


def scorer(x: Tensor, names: Sequence[str], steps: int = 1000, batch: int = 128, seed: int = 0) -> Scorer:
    """A scorer trained on pictures and their names; mirrored, shifted, in other colours, and with words left out."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = Scorer(names)
        ids = model.ids(names)
        same = torch.tensor([[a == b for b in names] for a in names])
        best = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
        plan = torch.optim.lr_scheduler.OneCycleLR(best, 2e-3, total_steps=steps)
        for _ in range(steps):
            i = torch.randperm(len(x))[:batch]
            drop = (torch.rand(ids[i].shape) < 0.1) & (ids[i] > 0)  # so that it knows words it does not know
            seen, said = model.features(_varied(x[i])), model.read(ids[i].masked_fill(drop, 1))
            logits = model.scale.exp() * F.normalize(seen, dim=1) @ F.normalize(said, dim=1).T
            twins = same[i][:, i] & ~torch.eye(len(i), dtype=torch.bool)
            logits, target = logits.masked_fill(twins, -1e4), torch.arange(len(i))
            loss = F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)
            best.zero_grad()
            loss.backward()
            best.step()
            plan.step()
    return model.eval()


def _varied(x: Tensor) -> Tensor:
    n, _, h, w = x.shape
    x = torch.where(torch.rand(n, 1, 1, 1) < 0.5, x, x.flip(-1))
    colours = torch.eye(3) + 0.15 * torch.randn(n, 3, 3)
    x = (1 - torch.einsum("nij,njhw->nihw", colours, 1 - x)).clamp(0, 1)  # on white, which stays
    dy, dx = torch.randint(0, 5, (2,)).tolist()
    return F.pad(x, (2, 2, 2, 2), value=1.0)[:, :, dy : dy + h, dx : dx + w]


def ranked(model: Scorer, x: Tensor, names: Sequence[str], candidates: Sequence[str]) -> Tensor:
    """Whether a picture's own name is in the top tenth of the candidates, (B,), 0 or 1; a tie counts half a place."""
    scores = model.score(x, candidates)
    own = scores.gather(1, torch.tensor([candidates.index(n) for n in names])[:, None])
    rank = 0.5 + (scores > own).sum(1) + 0.5 * (scores == own).sum(1)
    return (rank <= TOP * len(candidates)).double()


def nearest_name(names: Sequence[str], train: Sequence[str]) -> list[int]:
    """For each name the training name that shares most: overlap of words, each by how rare it is; ties by a hash."""
    count: dict[str, int] = {}
    for n in train:
        for w in set(words(n)):
            count[w] = count.get(w, 0) + 1
    rare = {w: math.log(1 + len(train) / c) for w, c in count.items()}
    sets, out = [set(words(n)) for n in train], []
    for n in names:
        a = set(words(n))

        def share(i: int, a: set[str] = a) -> tuple[float, int]:
            both, either = (math.fsum(rare.get(w, 1.0) for w in s) for s in (a & sets[i], a | sets[i]))
            return both / max(either, 1e-9), -zlib.crc32(train[i].encode())

        out.append(max(range(len(train)), key=share))
    return out


def draw(prior: TokenPrior, names: Sequence[str], seeds: Sequence[int], **how: Any) -> tuple[Tensor, float, int]:
    """Pictures of names, seconds, and calls of the last batch."""
    most = prior.conditions["text"].length  # type: ignore[attr-defined]
    text = [" ".join(words(n)[:most]) for n in names]
    began, made, calls = time.perf_counter(), [], 0
    for i in range(0, len(text), 64):
        part = prior.sample(seeds=seeds[i : i + 64], text=text[i : i + 64], **how)
        made.append(part.x)
        calls = part.nfe
    return torch.cat(made), time.perf_counter() - began, calls


def row(
    what: str, value: float, floor: float | None = None, bar: str = "", holds: bool | None = None, **more: Any
) -> Row:
    """A row as every benchmark writes it; no bar: a figure that is shown."""
    ratio = value / floor if floor else None
    return {"what": what, "value": value, "floor": floor, "ratio": ratio, "bar": bar or None, "holds": holds, **more}


def quality(prior: TokenPrior, data: Data, model: Scorer, made: dict[str, Tensor], real: str = "held-out") -> list[Row]:
    """Ranks and distances of `made`, pictures by what drew them, beside the real ones, both cheats and the null."""
    near = nearest_name(data.names, data.train_names)
    with torch.no_grad():
        a, b = (F.normalize(model.read(model.ids(n)), dim=1) for n in (data.names, data.train_names))
    cheats = {"nearest name by words": data.train[near], "nearest name by the scorer": data.train[(a @ b.T).argmax(1)]}
    first = next(iter(made))
    all_of = {**made, real: data.test, **cheats, "pictures of other names": made[first].roll(len(data.names) // 2, 0)}
    top = {k: ranked(model, x, data.names, data.candidates) for k, x in all_of.items()}
    share = {k: float(v.mean()) for k, v in top.items()}
    rows = []
    for name, v in top.items():
        told = name in made
        error = float(v.std() / math.sqrt(len(v)))
        rows.append(
            row(
                f"own name in the top tenth of {len(data.candidates)}: {name}",
                share[name],
                share[real] if told else TOP,
                ">= 0.85 of the real pictures" if name == first else "",
                share[name] >= 0.85 * share[real] if name == first else None,
                error=error,
            )
        )
    mean = data.train.double().flatten(1).mean(0)
    spaces: dict[str, Callable[[Tensor], Tensor]] = {
        "features of the scorer": lambda x: model.features(x),
        "32 principal components": lambda x: (x.double().flatten(1) - mean) @ data.axes,
    }
    order = sorted(range(len(data.train)), key=lambda i: zlib.crc32(f"{i} {data.train_names[i]}".encode()))
    null = data.train[order[: len(data.test)]]
    for space, f in spaces.items():
        with torch.no_grad():
            to = f(data.test)
            far = {
                k: frechet_distance(to, f(x)) for k, x in {**made, **cheats, "other training pictures": null}.items()
            }
        cheat = min(far[k] for k in cheats)
        for name, value in far.items():
            bar = "< the nearer cheat" if name == first else ""
            rows.append(row(f"Frechet distance, {space}: {name}", value, cheat, bar, value < cheat if bar else None))
    for name, x in {**made, real: data.test}.items():
        gap = nearest(x.double().flatten(1), data.train.double().flatten(1))[0][:, 0] / math.sqrt(x[0].numel())
        rows.append(
            row(f"share within RMS {NEAR:.2f} of a training picture: {name}", float((gap < NEAR).double().mean()))
        )
    return rows


def codec_rows(prior: TokenPrior, x: Tensor) -> list[Row]:
    """What the codec keeps of held-out pictures."""
    tokens = prior.codec.encode(x)
    y = prior.codec.decode(tokens)
    each = float(psnr(x, y, data_range=1.0).mean())
    mean = -10 * math.log10(float((x - y).square().mean()))
    used = usage(tokens, prior.codec.symbols)
    return [
        row("codec, PSNR of held-out pictures, dB", each, None, ">= 24", each >= 24, of_mean_error=mean),
        row("codec, share of its codes in use", used, None, ">= 0.95", used >= 0.95, perplexity=perplexity(tokens)),
    ]


def strides(prior: TokenPrior, data: Data, model: Scorer, count: int, few: int = 25, many: int = 100) -> list[Row]:
    """Samples of few steps against samples of many, of the same seeds and names, in the features of the scorer.

    The null is the distance of two halves of the many; its excess swaps one half for that of few steps. Intervals are
    95 % of 200 resamples of pairs.
    """
    names = [data.train_names[i % len(data.train_names)] for i in range(count)]
    sides, seconds = {}, {}
    for steps in (few, many):
        x, seconds[steps], _ = draw(prior, names, range(count), sampler=Ancestral(steps))
        with torch.no_grad():
            sides[steps] = torch.cat([model.features(p) for p in x.split(256)]).double()

    def excess(first: np.ndarray, second: np.ndarray) -> float:
        a, b = torch.from_numpy(first), torch.from_numpy(second)
        null = frechet_distance(sides[many][a], sides[many][b])
        swapped = frechet_distance(sides[few][a], sides[many][b]) + frechet_distance(sides[many][a], sides[few][b])
        return swapped / 2 / null - 1

    halves = np.split(np.arange(2 * (count // 2)), 2)
    value, again = excess(*halves), []
    for i in range(200):
        g = np.random.default_rng(i)
        again.append(excess(*(g.choice(h, len(h)) for h in halves)))
    low, high = np.quantile(again, [0.025, 0.975])
    what = f"excess Frechet distance of {few} steps over the null of {many}, {count} samples a side"
    interval = [float(low), float(high)]
    slow = seconds[many] / seconds[few]
    return [
        row(what, value, None, "<= 0.1", value <= 0.1, interval=interval),
        row(f"seconds of {many} steps over those of {few}", slow),
    ]


class Named:
    """Tokens of the training pictures and of their mirror images, with their names."""

    def __init__(self, prior: TokenPrior, data: Data) -> None:
        self.x = torch.cat([prior.codec.encode(v) for v in (data.train, data.train.flip(-1))])
        self.names = data.train_names * 2

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, indices: Sequence[int], /) -> dict[str, Any]:
        return {"x": self.x[list(indices)], "text": [self.names[i] for i in indices]}


def beside(prior: TokenPrior, data: Data, net: nn.Module, steps: int, batch: int = 16) -> tuple[Tensor, list[Row]]:
    """Pictures of the causal baseline, and rows: time a picture in batches, and nats of the held-out pictures."""
    text = [" ".join(words(n)[: prior.conditions["text"].length]) for n in data.names]  # type: ignore[attr-defined]
    ports = prior.conditions.encode(len(text), text=text)
    L, parts = prior.shape[0], [slice(i, i + batch) for i in range(0, len(text), batch)]
    began = time.perf_counter()
    drawn = [autoregress(net, (len(text[s]), L), seeds=range(len(text))[s], words=ports["words"][s]) for s in parts]
    causal = (time.perf_counter() - began) / len(text)
    began = time.perf_counter()
    for s in parts:
        prior.sample(seeds=range(len(text))[s], text=text[s], steps=steps)
    ours = (time.perf_counter() - began) / len(text)
    tokens = prior.codec.encode(data.test)
    with torch.no_grad():
        exact = float(next_token(net, tokens, words=ports["words"]).mean()) / math.log(2)
    bound = float(nats(prior.den, tokens, 8, range(len(tokens)), **ports).mean()) / L / math.log(2)
    size = sum(p.numel() for p in net.parameters()) / sum(p.numel() for p in prior.den.net.parameters())
    return prior.codec.decode(torch.cat(drawn)), [
        row(
            f"oneprior, seconds a picture, {steps} calls; beside it the causal baseline", ours, causal, parameters=size
        ),
        row("bits a token of held-out pictures, a bound; beside it the causal net, exact", bound, exact),
    ]


def table(rows: Sequence[Row]) -> str:
    lines = ["| figure | value | beside | bar | holds |", "| --- | --- | --- | --- | --- |"]
    for r in rows:
        about = f" ({r['interval'][0]:.3f} to {r['interval'][1]:.3f})" if "interval" in r else ""
        about = f" ± {r['error']:.3f}" if "error" in r else about
        held = {None: "", True: "yes", False: "no"}[r["holds"]]
        floor = "" if r["floor"] is None else f"{r['floor']:.3g}"
        lines.append(f"| {r['what']} | {r['value']:.3g}{about} | {floor} | {r['bar'] or ''} | {held} |")
    return "\n".join(lines)


def figures(prior: TokenPrior, data: Data, given: argparse.Namespace) -> list[Row]:
    """All rows."""
    model = scorer(data.other, data.other_names, given.scorer_steps)
    how = {"guidance": given.guidance, "top_p": given.top_p, "steps": given.steps}
    made = {"generated": draw(prior, data.names, range(len(data.names)), **how)[0]}
    rows = codec_rows(prior, data.test)
    if given.guidance != 1 or given.top_p != 1:
        made["generated, no guidance"] = draw(prior, data.names, range(len(data.names)), steps=given.steps)[0]
    extra: list[Row] = []
    if given.ar:
        other = {"samples": given.ar_samples} if given.ar_samples else {}
        net = causal_twin(prior, Named(prior, data), given.ar, given.recipe, **other)
        made["causal baseline"], extra = beside(prior, data, net, given.steps or 25)
    rows += quality(prior, data, model, made) + extra
    return rows + (strides(prior, data, model, given.paired) if given.paired else [])


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Text to image, judged by a stranger.")
    parser.add_argument("prior", nargs="?", default="emoji-text", help="folder, or the name of a shipped one")
    parser.add_argument("--vendor", default="google", help="of the pictures it was trained on")
    parser.add_argument("--other", default="twitter", help="on whose pictures the scorer is trained")
    parser.add_argument("--steps", type=int, help="calls a picture (none: one a token)")
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--scorer-steps", type=int, default=1000)
    parser.add_argument("--ar", type=Path, help="folder of the causal baseline's training; begun if not there")
    parser.add_argument("--ar-samples", type=int, help="that it sees (none: as many as the prior)")
    parser.add_argument("--recipe", type=Path, default=Path("recipes/emoji-text.yaml"), help="by which it is trained")
    parser.add_argument("--paired", type=int, default=2000, help="samples a side of 25 against 100 steps; 0: none")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--docs", action="store_true", help="write the results and the page in docs")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, data: Data | None = None) -> bool:
    given = arguments(argv)
    began, prior = time.perf_counter(), oneprior.load(given.prior)
    if not isinstance(prior, TokenPrior) or "text" not in prior.conditions:
        raise SystemExit(
            f"{given.prior} draws no pictures of text: a prior of codes with the condition text was expected"
        )
    rows = figures(prior, data or Data.of(given.vendor, given.other), given)
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(given).items() if k not in ("json", "docs")}
    report = {
        "name": "text_to_image", "settings": settings, "versions": versions(["torch"]), "load": os.getloadavg()[0],
        "seconds": round(time.perf_counter() - began, 1), "rows": rows,
    }  # fmt: skip
    print(table(rows))
    for file in (given.json, DOCS / "results" / "text_to_image.json" if given.docs else None):
        if file is not None:
            file.write_text(json.dumps(report, indent=1) + "\n")
    if given.docs:
        page = DOCS / "text-to-image.md"
        page.write_text(between(page.read_text(), COMMAND, table(rows)))
    return all(r["holds"] is not False for r in rows)


if __name__ == "__main__":
    raise SystemExit(not main())
