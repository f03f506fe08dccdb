"""Restoration methods beside exact posterior draws: a Gaussian prior fitted to digits, half of the pixels hidden.

    python benchmarks/restore.py [--images 32] [--json docs/results/restore.json]
    python benchmarks/restore.py --speed          # time a call beside the bare network, methods without backprop
    python benchmarks/restore.py --trained fashion --docs      # a run that was broken off goes on from its last row

The denoiser is exact, so whatever differs from the row of exact draws is the method's own doing. Every method runs with
its default settings at 100 network calls (particles: 100 each), 16 draws an image. A PSNR of one draw above that of an
exact draw is a lean to the mean, below it is error; the mean of 16 is compared with the mean of 16 exact draws. The
covariance of draws about the exact mean is |C' - C| / |C| (Frobenius), pooled over images, which share one mask.

With --trained the prior is a network and the posterior unknown: half of the pixels hidden, averages of 4 x 4, and blur,
at three noise levels, the last of them told wrong. Peers run at the best of three weights, chosen on other pictures.
PROTOCOLS says how many draws, calls and pictures, and which peers.
Per method: PSNR of the mean of draws, and the energy distance 2 E|x - g| - E|g - g'| of a picture's draws g to the
picture, a proper score: the least in expectation are draws of the posterior.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))

import peer_posteriors
from peer_posteriors import Problem, drawn
from peers import between, versions

import oneprior
from oneprior.conditions import Conditions, Label
from oneprior.data import digits, open_source
from oneprior.denoiser import Denoiser, Facts, NetworkDenoiser
from oneprior.exact import Gaussian
from oneprior.nets import UNetConfig, build
from oneprior.noise import Seeded, antithetic
from oneprior.operators import Blur, Mask, Measurement, Operator, Pool
from oneprior.schedules import VP, Cosine, Schedule
from oneprior.storage import find
from oneprior.uses.restore import METHODS, restore
from oneprior.uses.restore.run import choose
from oneprior.uses.restore.settings import DAPSSettings, RepaintSettings

DRAWS, CALLS, NOISE = 16, 100, 0.1
OWN: dict[str, Any] = {name: replace(m.settings, steps=CALLS) for name, m in METHODS.items()}
OWN["repaint"] = RepaintSettings(steps=25)  # 105 calls
OWN["daps, isotropic"] = DAPSSettings(inner="isotropic")
OWN["daps, langevin"] = DAPSSettings(inner="langevin")
del OWN["score_distillation"]  # has no measurement
WITHOUT = ("diffpir", "ddrm", "ddnm", "repaint", "red_diff", "daps, isotropic", "daps, langevin")  # backprop
BAR = 1.3
BESIDE = ("mmps", "ddrm")  # own methods that are shown on trained priors: auto's, and the best that needs no gradient
LEVELS = ((0.02, 0.02), (0.1, 0.1), (0.1, 0.05))  # noise in [0, 1], and what methods are told
TASKS: dict[str, Callable[[tuple[int, ...]], Operator]] = {
    "inpaint": lambda shape: Mask.random(shape, 0.5), "x4": lambda _: Pool(4), "blur": lambda _: Blur.gaussian(1.5)
}  # fmt: skip
FIGURES = {"mean": 1, "energy distance": -1}  # more is better, less is
DOCS = Path(__file__).parents[1] / "docs"


def law_of_digits() -> Gaussian:
    """In model range, [-1, 1], with the variance of rounding to 17 levels on the diagonal."""
    x = digits("train")
    x = x.batch(range(len(x)))["x"].double() * 2 - 1
    cov = x.flatten(1).mT.cov() + torch.eye(64).double() / (12 * 8**2)
    return Gaussian(x.mean(0), cov)


class Protocol(NamedTuple):
    """data: a name; draws, calls: of every method; aside: the pictures on which peers' weights are chosen, by `tried`
    draws each; restored: those that are restored; peers: which are run, all where none is named."""

    data: str = "fashion-mnist"
    draws: int = 8
    calls: int = 25
    aside: range = range(8)
    tried: int = 4
    restored: range = range(8, 40)
    peers: tuple[str, ...] = ()


# The network of emoji32 costs four times that of fashion: fewer draws and calls, for all alike. Its pictures lie at
# equal distances: neighbours are variants of one another. Its peers are those that have the best figure of a peer in
# some case on fashion, and the rest of deepinv's that comes within 3 dB of one.
STRONG = ("azula MMPS, DDPM", "deepinv DDRM", "deepinv DiffPIR", "azula MMPS, DDIM")
PROTOCOLS = {
    "fashion": Protocol(),
    "emoji32": Protocol("emoji-google-32", 4, 10, range(4, 292, 72), 2, range(0, 288, 9), STRONG),
}


class Task:
    """Truths of the prior, one mask, and the exact posteriors."""

    def __init__(self, images: int, schedule: Schedule) -> None:
        self.law = law_of_digits()
        self.den = self.law.denoiser(schedule)
        self.mask = Mask.random((1, 8, 8), 0.5)
        self.truth = self.law.sample(images, seeds=range(images))
        noise = Seeded(range(images))(0, self.truth, "measurement")
        self.seen = Measurement(self.mask(self.truth + NOISE * noise), self.mask, NOISE)
        self.posts = [self.law.condition(self.mask, y[None], NOISE) for y in self.seen.y]
        self.mean = torch.stack([p.mean for p in self.posts])
        self.cov = self.posts[0].cov

    def exact(self) -> Tensor:
        return torch.stack(
            [p.sample(DRAWS, seeds=range(k * DRAWS, k * DRAWS + DRAWS)) for k, p in enumerate(self.posts)]
        )

    def row(self, name: str, x: Tensor, calls: float, seconds: float) -> dict[str, Any]:
        x = x.double()
        off = (x - self.mean[:, None]).flatten(0, 1).flatten(1)
        cov = off.mT @ off / len(off)
        return {
            "method": name, "calls": calls, "one draw": self.psnr(x),
            "mean of 16": self.psnr(x.mean(1, keepdim=True)),
            "covariance": float((cov - self.cov).norm() / self.cov.norm()),
            "CPU ms a call": 1e3 * seconds / max(calls, 1),
        }  # fmt: skip

    def psnr(self, x: Tensor) -> float:
        """Of the mean square over images and draws, peak 2."""
        return float(10 * torch.log10(4 / (x - self.truth[:, None]).square().mean()))


def rows(task: Task, only: list[str]) -> Iterator[dict[str, Any]]:
    yield task.row("exact draws", task.exact(), 0, 0)
    yield task.row("exact mean", task.mean[:, None].expand(-1, DRAWS, *task.mean.shape[1:]), 0, 0)
    made: dict[str, Callable[[], tuple[Tensor, float]]] = {k: _own(task, s) for k, s in OWN.items()} | _peers(task)
    for name, make in made.items():
        if only and name not in only:
            continue
        began = time.process_time()
        x, calls = make()
        yield task.row(name, x, calls, time.process_time() - began)


def _own(task: Task, settings: Any) -> Callable[[], tuple[Tensor, float]]:
    def make() -> tuple[Tensor, float]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # RED-diff says that it does not use the noise
            out = restore(task.den, task.seen, method=settings, draws=DRAWS, seeds=range(DRAWS * len(task.truth)))
        return out.draws, out.nfe

    return make


def _peers(task: Task) -> dict[str, Callable[[], tuple[Tensor, float]]]:
    """Peers' samplers on the same exact denoiser, at their own defaults."""
    C, mean, eye = task.law.cov, task.law.mean.flatten(), torch.eye(64).double()
    asked = [0]

    def ask(x: Tensor, a: float, s: float) -> Tensor:
        asked[0] += len(x)
        gain = torch.linalg.solve(a**2 * C + (s**2 + 1e-9) * eye, a * C)
        flat = x.double().flatten(1)
        return (mean + (flat - a * mean) @ gain).reshape(x.shape).to(x)

    problem = Problem(ask, task.seen.repeat(DRAWS), (DRAWS * len(task.truth), 1, 8, 8), DRAWS, CALLS)

    def made(method: peer_posteriors.Method) -> Callable[[], tuple[Tensor, float]]:
        def make() -> tuple[Tensor, float]:
            asked[0] = 0
            x = drawn(method, problem, method.default)
            return x.reshape(len(task.truth), DRAWS, 1, 8, 8), asked[0] / len(x)

        return make

    return {name: made(method) for name, method in peer_posteriors.methods().items()}


def speed(batch: int = 32, repeats: int = 5) -> list[dict[str, Any]]:
    """CPU time a call of methods that do not differentiate, over that of the bare network on the same batch: medians
    of ratios within rounds. A new network of the size of a prior of 28 x 28: the time does not depend on weights."""
    label = Label(tuple("0123456789"))
    net = build(UNetConfig.sized((1, 28, 28), "tiny", classes=10), 0).eval()
    den = NetworkDenoiser(net, Cosine(), "v", facts=Facts(null=Conditions({"label": label}).null))
    mask = Mask.random((1, 28, 28), 0.5)
    seen = Measurement(mask(torch.randn(batch, 1, 28, 28)), mask, NOISE)
    cond, x, t = nulls(den, batch), torch.randn(batch, 1, 28, 28), torch.full((batch,), 0.5)
    ratios: dict[str, list[float]] = {name: [] for name in WITHOUT}

    def bare() -> None:
        with torch.no_grad():
            for _ in range(10):
                net(x, t, **cond)

    bare()
    for _ in range(repeats):
        for name in WITHOUT:
            base = _seconds(bare) / 10
            calls = [0]

            def method(name: str = name, calls: list[int] = calls) -> None:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)
                    steps = 5 if name == "repaint" else 20
                    out = restore(den, seen, method=replace(OWN[name], steps=steps), seeds=range(batch), **cond)
                calls[0] = out.nfe

            spent = _seconds(method)
            ratios[name].append(spent / calls[0] / base)
    return [
        {"method": name, "ratio": (m := statistics.median(r)), "bar": BAR, "holds": m <= BAR, "least": min(r)}
        for name, r in ratios.items()
    ]


def _seconds(do: Callable[[], None]) -> float:
    began = time.process_time()
    do()
    return time.process_time() - began


def nulls(den: Denoiser, batch: int) -> dict[str, Any]:
    """No condition, for a batch."""
    return {k: torch.as_tensor(v).reshape(1).expand(batch) for k, v in den.facts.null.items()}


class Trained:
    """A prior, pictures that it has not been trained on, and one task at one noise level.

    Pictures and figures are in [0, 1]; methods work in model range, which peers take to be [-1, 1].
    """

    def __init__(self, prior: oneprior.Prior, x: Tensor, operator: Operator, noise: float, told: float) -> None:
        self.den, self.codec, self.truth = prior.den, prior.codec, x
        n = Seeded(range(len(x)))(0, operator(x), "measurement")
        y = operator(x) + noise * n
        if isinstance(operator, Mask):
            y = operator(y)
        self.seen = Measurement(y, operator, told).to_model(prior.codec)

    def own(self, settings: Any, draws: int) -> tuple[Tensor, float]:
        B = len(self.truth)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            out = restore(
                self.den, self.seen, method=settings, draws=draws, seeds=antithetic(range(B * draws), draws),
                **nulls(self.den, B),
            )  # fmt: skip
        return out.draws, out.nfe

    def peer(self, method: peer_posteriors.Method, weight: float, draws: int, calls: int) -> tuple[Tensor, float]:
        asked = [0]
        schedule, (first, last) = self.den.schedule, self.den.facts.t_range

        def ask(x: Tensor, a: float, s: float) -> Tensor:
            asked[0] += len(x)
            t = min(max(float(schedule.time(math.log(a / s))) if s > 0 else first, first), last)
            alpha, _, sigma = schedule.at(t)
            gain = math.hypot(alpha, sigma) / math.hypot(a, s)
            return self.den((gain * x).float(), t, **nulls(self.den, len(x))).mean.to(x)

        shape = (draws * len(self.truth), *self.truth.shape[1:])
        x = drawn(method, Problem(ask, self.seen.repeat(draws), shape, draws, calls), weight)
        return x.reshape(len(self.truth), draws, *shape[1:]), asked[0] / len(x)

    def figures(self, x: Tensor, calls: float, pairs: bool = False) -> dict[str, float]:
        """pairs: draws 2 i and 2 i + 1 are antithetic; a distance of draws is one of independent draws."""
        g, n = self.codec.decode(x.float()).clamp(0, 1).double().nan_to_num(0.5), x.shape[1]
        off = (g.mean(1) - self.truth).square().mean()
        flat, truth = g.flatten(2), self.truth.double().flatten(1)
        each = torch.arange(n)
        independent = (each // 2)[:, None] != (each // 2) if pairs else ~torch.eye(n, dtype=torch.bool)
        apart = (flat[:, :, None] - flat[:, None]).norm(dim=3)[:, independent].mean(1)
        score = 2 * (flat - truth[:, None]).norm(dim=2).mean(1) - apart
        return {
            "calls": calls, "mean": float(-10 * off.log10()), "energy distance": float(score.mean()),
        }  # fmt: skip


def trained(
    prior: oneprior.Prior, given: argparse.Namespace, found: list[dict[str, Any]], keep: Callable[[], None]
) -> None:
    """Adds to `found` the rows by task, noise and method that it does not have yet, and calls `keep` after each."""
    source = open_source(given.protocol.data, split=given.split)
    choose_on, restored = (source.batch(at)["x"] for at in (given.protocol.aside, given.protocol.restored))
    for task in given.tasks or TASKS:
        operator = TASKS[task](prior.shape)
        for noise, told in LEVELS:
            where = {"task": task, "noise": noise, "told": told}
            done = {r["method"] for r in found if where.items() <= r.items()}
            both = [Trained(prior, part, operator, noise, told) for part in (choose_on, restored)]
            for rows in _case(both[0], both[1], given, done):
                found += [where | row for row in rows]
                keep()
                for row in rows:
                    _show(where | row)


def _case(aside: Trained, now: Trained, given: argparse.Namespace, done: set[str]) -> Iterator[list[dict[str, Any]]]:
    """The rows of each method that is not done."""
    draws, calls, tries = given.protocol.draws, given.protocol.calls, given.protocol.tried
    auto = choose(now.den, now.seen, **nulls(now.den, len(now.truth)))
    names: list[str] = [auto, *BESIDE, *(["twisted"] if given.particles else [])]
    for name in dict.fromkeys(names):
        if _left_out(name, given) or name in done:
            continue
        x, asked = now.own(replace(OWN[name], steps=calls), draws)
        row = {"peer": False, "weight": "", **now.figures(x, asked, pairs=draws > 2)}
        yield [{"method": name} | row, *([{"method": "auto"} | row | {"weight": name}] if name == auto else [])]
    every = peer_posteriors.methods()
    for name in given.protocol.peers or every:
        if (method := every.get(name)) is None or name in done or _left_out(name, given):
            continue
        if method.particles and not given.particles:
            continue
        tried = {w: aside.figures(*aside.peer(method, w, tries, calls)) for w in method.weights}
        best = max(tried, key=lambda w: tried[w]["mean"]), min(tried, key=lambda w: tried[w]["energy distance"])
        rows = []
        for w in dict.fromkeys(best):  # a weight for either figure, where they differ
            x, asked = now.peer(method, w, draws, calls)
            row = {"peer": True, "weight": f"{method.name} {w:g}", **now.figures(x, asked)}
            rows.append({"method": name} | row)
        yield rows


def _left_out(name: str, given: argparse.Namespace) -> bool:
    return bool(given.only) and name not in given.only


def verdicts(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`auto` beside the best peer of each figure, by task and noise."""
    out = []
    for key in dict.fromkeys((r["task"], r["noise"], r["told"]) for r in found):
        here = [r for r in found if (r["task"], r["noise"], r["told"]) == key]
        mine = next((r for r in here if r["method"] == "auto"), None)
        theirs = [r for r in here if r["peer"]]
        if mine is None or not theirs:
            continue
        for figure, sign in FIGURES.items():
            best = max(theirs, key=lambda r: sign * r[figure])
            out.append(
                {
                    "task": key[0], "noise": key[1], "told": key[2], "figure": figure, "auto": mine[figure],
                    "best": best[figure], "of": best["method"], "holds": sign * mine[figure] >= sign * best[figure],
                }
            )  # fmt: skip
    return out


def table(report: dict[str, Any]) -> str:
    lines = [
        "| task | noise | method | weight | calls | PSNR of the mean | energy distance |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in report["rows"]:
        name = r["method"] if r["peer"] else f"`{r['method']}`"
        noise = f"{r['noise']:g}" + (f", told {r['told']:g}" if r["told"] != r["noise"] else "")
        lines.append(
            f"| {r['task']} | {noise} | {name} | {r['weight']} | {r['calls']:.0f} | {r['mean']:.2f} | "
            f"{r['energy distance']:.3f} |"
        )
    held = sum(v["holds"] for v in report["verdicts"])
    used = ", ".join(f"{k} {v}" for k, v in report["versions"].items())
    return "\n".join([*lines, "", f"`auto` is best in {held} of {len(report['verdicts'])} figures; {used}."])


def written(page: str, report: dict[str, Any]) -> str:
    """The page with the table of this prior replaced, or with a section for it at its end."""
    command = f"benchmarks/restore.py --trained {report['prior']} --docs"
    if command not in page:
        page += (
            f"\n## On the trained prior `{report['prior']}`\n\n{report['images']} pictures of {report['data']}, split "
            f"{report['split']}, {report['draws']} draws each, {report['calls']} network calls a draw; half of the "
            "pixels hidden, averages of 4 x 4, Gaussian blur of 1.5 pixels; noise in [0, 1]. PSNR in dB of the mean of "
            "draws; energy distance of a picture's draws to the picture (a proper score: lower is better). Our draws "
            "come in antithetic pairs, the default; their energy distance is taken over independent ones. Other "
            "libraries at the best of three weights, chosen on other pictures for either figure. A call is one "
            "evaluation of the network; the backward passes of `mmps` (up to 6 a call), "
            "`pigdm` and `dps` (1), of azula's MMPS (its iterations + 1), PGDM and DPS and of deepinv's DPS (1) come "
            f"on top.\n\n<!-- table: begin ({command}) -->\n<!-- table: end -->\n"
        )
    return between(page, command, table(report))


def _show(row: dict[str, Any]) -> None:
    print("  ".join(f"{v:8.3f}" if isinstance(v, float) else f"{v!s:16s}" for v in row.values()), flush=True)


def _trained_main(given: argparse.Namespace) -> None:
    prior = oneprior.load(given.trained)
    name = Path(given.trained).name if given.name is None else given.name
    p = PROTOCOLS.get(name, Protocol(name))
    given.protocol = p = p._replace(
        data=given.data or p.data, draws=given.draws or p.draws, calls=given.calls or p.calls,
        restored=p.restored[: given.images],
    )  # fmt: skip
    if given.docs and (given.split != "test" or given.tasks or given.only or p != PROTOCOLS.get(name, p)):
        raise SystemExit("--docs publishes the whole protocol, on held-out pictures: without flags that change it")
    for w in prior.den.parameters():
        if w.ndim == 4:
            w.data = w.data.contiguous(memory_format=torch.channels_last)  # a fifth faster, for all alike
    began, seconds = time.perf_counter(), 0.0
    head = {
        "name": "restore_trained", "prior": name, "sha256": _checksum(given.trained), "data": p.data,
        "split": given.split, "images": len(p.restored), "draws": p.draws, "calls": p.calls,
        "chosen on": len(p.aside), "pictures": str(p.restored),
        "settings": repr([OWN[name] for name in BESIDE]), "versions": versions(["torch", "azula", "deepinv"]),
    }  # fmt: skip
    path = DOCS / "results" / f"restore_{name}.json" if given.docs else Path(given.json) if given.json else None
    report: dict[str, Any] = head | {"rows": []}
    if path is not None and path.is_file():
        before = json.loads(path.read_text())
        if head.items() <= before.items():
            report, seconds = before, before["seconds"]

    def keep() -> None:
        report["rows"].sort(key=_place)
        report["verdicts"], report["load"] = verdicts(report["rows"]), os.getloadavg()[0]
        report["seconds"] = seconds + time.perf_counter() - began
        if path is not None:
            path.write_text(json.dumps(report, indent=1) + "\n")
        if given.docs:
            (DOCS / "restore.md").write_text(written((DOCS / "restore.md").read_text(), report))

    trained(prior, given, report["rows"], keep)
    keep()
    print(table(report))


def _place(row: dict[str, Any]) -> tuple[int, int, bool]:
    """In the table: by task, noise, and ours before theirs."""
    return [*TASKS].index(row["task"]), LEVELS.index((row["noise"], row["told"])), row["peer"]


def _checksum(prior: str) -> str:
    return json.loads((find(prior) / "config.json").read_text())["sha256"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--json")
    parser.add_argument("--only", nargs="*", default=[], help="these methods alone")
    parser.add_argument("--speed", action="store_true", help="time a call beside the bare network instead")
    parser.add_argument("--trained", help="a prior: its folder, or the name of a shipped one")
    parser.add_argument("--name", help="of that prior in reports; default: the folder's")
    parser.add_argument("--data", help="what its pictures are, a name or folder; default: by the prior's name")
    parser.add_argument("--split", default="test", help="train for development on pictures that the prior saw")
    parser.add_argument("--draws", type=int, help="a picture (--trained); default: the protocol's")
    parser.add_argument("--calls", type=int, help="network calls a draw (--trained); default: the protocol's")
    parser.add_argument("--tasks", nargs="*", choices=[*TASKS], help="these alone (--trained)")
    parser.add_argument("--particles", action="store_true", help="twisted SMC too, at 16 times the calls (--trained)")
    parser.add_argument("--docs", action="store_true", help="write results and page in docs (--trained, --speed)")
    given = parser.parse_args()
    if given.trained:
        return _trained_main(given)
    report: dict[str, Any] = {"versions": versions(["torch", "azula", "deepinv"])}
    if given.speed:
        torch.set_num_threads(1)
        report = {"name": "restore_speed", "load": os.getloadavg()[0], "rows": speed()} | report
        for row in report["rows"]:
            _show(row)
        if given.docs:
            (DOCS / "results" / "restore_speed.json").write_text(json.dumps(report, indent=1) + "\n")
    else:
        found = []
        for row in rows(Task(given.images, VP()), given.only):
            found.append(row)
            _show(row)
        report = {"images": given.images, "draws": DRAWS, "noise": NOISE, "rows": found} | report
    if given.json:
        Path(given.json).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
