"""How near the end of the ODE a budget of network calls comes: `sample(den, shape, steps=n)` and nothing else chosen,
beside every peer in its users' configurations.

The data are 16-dimensional mixtures of Gaussians drawn from one law (`mixture(seed)`), whose denoiser is exact and
whose end points are known: fourth-order Runge-Kutta in lam with a thousand calls. Every method starts from the same
normal numbers, its calls are counted, and its error is taken to the exact end point of its own first question, so that
a library that begins at sigma 80 is not charged for it. Three figures a method: root of the mean square over starts
and axes, median over starts, share of starts that end in another component. The table is the mixture of seed 0 with
three sets of starts; ranks are over the mixtures of seeds 0 to 4. The rule of `auto` was found on seeds from 100 on.

    python benchmarks/nfe_quality.py --json nfe_quality.json --figure nfe_quality.png    # or --docs, and --keep
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
from pathlib import Path
from typing import Any

import quality_peers
import torch
from peers import PEERS, between, versions
from torch import Tensor

import oneprior
from oneprior.data.digits import digits as held_out
from oneprior.denoiser import Denoiser, Facts
from oneprior.exact import Mixture
from oneprior.metrics import energy_distance
from oneprior.posterior import Posterior
from oneprior.sampling import sample
from oneprior.schedules import EDM, VP, Cosine, RectifiedFlow, Schedule

CASES: dict[str, Schedule] = {"VP": VP(), "cosine": Cosine(), "flow": RectifiedFlow(), "EDM": EDM()}
BUDGETS = (6, 10, 20, 40)
D, STARTS, SETS, MIXTURES = 16, 256, 3, 5
OURS, FIGURES = "oneprior auto", ("rmse", "median")
NAMES, COLUMNS = ("mixture", "case", "n", "what"), ("rmse", "median", "away")
COMMAND = "benchmarks/nfe_quality.py --docs"
DOCS = Path(__file__).parents[1] / "docs"


class Problem:
    """One mixture of the law: 4 to 12 components; a scale S log-uniform in [0.5, 1]; means normal with deviation
    0.9 S; standard deviations inside S times log-uniform [0.03, 0.4], of a component (even seeds) or of each of its
    axes (odd seeds); weights proportional to uniform [0.5, 1.5]."""

    def __init__(self, seed: int) -> None:
        g = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=g, dtype=torch.float64)

        count = int(torch.randint(4, 13, (1,), generator=g))
        scale = 0.5 * 2 ** float(draw(1))
        sd = scale * torch.exp(math.log(0.03) + math.log(0.4 / 0.03) * draw(count, D if seed % 2 else 1))
        self.means = 0.9 * scale * torch.randn(count, D, generator=g, dtype=torch.float64)
        self.var, w = (sd**2).expand(count, D).contiguous(), 0.5 + draw(count)
        self.law = Mixture(w, self.means, self.var)
        self.logw, self.ends = (w / w.sum()).log(), {}

    def mean(self, x: Tensor, a: float, s: float) -> Tensor:
        """E[x_0 | x]: what `self.law` says, by products of matrices instead of (B, K, d) arrays (checked in `main`)."""
        n = 1 / (a * a * self.var + s * s)
        fit = -0.5 * (x.square() @ n.mT - 2 * a * x @ (self.means * n).mT + (a * a * self.means.square() * n).sum(1))
        w = (self.logw + fit + 0.5 * n.log().sum(1)).softmax(1)
        return a * x * (w @ (self.var * n)) + s * s * (w @ (self.means * n))

    def component(self, x: Tensor) -> Tensor:
        fit = x.square() @ (1 / self.var).mT - 2 * x @ (self.means / self.var).mT + (self.means**2 / self.var).sum(1)
        return (self.logw - 0.5 * (fit + self.var.log().sum(1))).argmax(1)

    def end(self, x: Tensor, a: float, s: float, steps: int = 250) -> Tensor:
        """The ODE's end point of the starts x at (a, s), kept by level."""
        key = "noise alone" if a < 1e-7 * s else round(math.log(s / a), 5)
        if key not in self.ends:
            self.ends[key] = self._end(x, a, s, steps)
        return self.ends[key]

    def _end(self, x: Tensor, a: float, s: float, steps: int) -> Tensor:
        # u = x / sqrt(a^2 + s^2) = c x_0 + n eps with c = cos, n = sin of the angle: du/dlam = c (D - c u)
        lam, last = max(math.log(a / s) if a > 0 else -math.inf, -9.0), 9.5
        u = x / math.hypot(a, s)
        if a == 0 or math.log(a / s) < lam:  # so far out one exact first-order step leaves nothing
            c, n = _circle(lam)
            d = self.mean(u, a / math.hypot(a, s), s / math.hypot(a, s))
            u = c * d + n * (u - a / math.hypot(a, s) * d) / (s / math.hypot(a, s))
        h = (last - lam) / steps

        def slope(at: float, u: Tensor) -> Tensor:
            c, n = _circle(at)
            return c * (self.mean(u, c, n) - c * u)

        for i in range(steps):
            at = lam + i * h
            k1 = slope(at, u)
            k2 = slope(at + h / 2, u + h / 2 * k1)
            k3 = slope(at + h / 2, u + h / 2 * k2)
            k4 = slope(at + h, u + h * k3)
            u = u + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return self.mean(u, *_circle(last))


def _circle(lam: float) -> tuple[float, float]:
    r = math.hypot(1.0, math.exp(-lam))
    return 1 / r, math.exp(-lam) / r


class Asked:
    """The exact denoiser as a peer calls it: counts, and keeps the first question."""

    def __init__(self, problem: Problem) -> None:
        self.problem, self.calls, self.first = problem, 0, None

    def __call__(self, x: Tensor, a: Any, s: Any) -> Tensor:
        a, s = float(a), float(s)
        if self.first is None:
            self.first = (x.double().clone(), a, s)
        self.calls += 1
        return self.problem.mean(x.double(), a, s).to(x.dtype)


class Exact(Denoiser):
    """The same for ours."""

    def __init__(self, asked: Asked, schedule: Schedule) -> None:
        super().__init__()
        self.asked, self.schedule, self.facts = asked, schedule, Facts()

    def posterior(self, x: Tensor, t: Any, **cond: Any) -> Posterior:
        a, _, s = self.schedule.at(t)
        return Posterior(self.asked(x, a, s), x, self.schedule, t)


def ours(schedule: Schedule) -> quality_peers.Run:
    def run(ask: Any, eps: Tensor, n: int) -> Tensor:
        start = eps * schedule.at(1.0)[2]
        return sample(Exact(ask, schedule), eps.shape, steps=n, start=start, seeds=range(len(eps)))

    return run


def measure(problem: Problem, run: quality_peers.Run, eps: Tensor, n: int) -> dict[str, float] | None:
    """The figures of one method, or None where a peer refuses these settings, breaks its budget or is not finite."""
    ask = Asked(problem)
    try:
        x = run(ask, eps, n).double()
    except Exception as e:  # whatever a stranger raises: the others are still measured
        print(f"  refused at {n} calls: {type(e).__name__}: {str(e)[:80]}", file=sys.stderr)
        return None
    if ask.calls > n or ask.first is None or not bool(torch.isfinite(x).all()):
        return None
    end = problem.end(*ask.first)
    each = (x - end).square().mean(1).sqrt().reshape(SETS, -1)
    away = (problem.component(x) != problem.component(end)).double().mean()
    rmse = each.square().mean(1).sqrt()
    return {
        "rmse": rmse.mean().item(), "median": each.median(1).values.mean().item(), "away": away.item(),
        "spread": rmse.std().item(), "calls": float(ask.calls),
    }  # fmt: skip


def methods(case: str, others: bool = True) -> dict[str, quality_peers.Run]:
    schedule = CASES[case]
    peers = quality_peers.entries(case, schedule) if others else {}
    return {OURS: ours(schedule)} | {f"{lib} {name}": run for lib, each in peers.items() for name, run in each.items()}


def kept(path: Path, used: dict[str, str]) -> list[dict[str, Any]]:
    """The peers' rows of a record: they are deterministic, and measured anew only where a version has changed."""
    record = json.loads(path.read_text())
    if record["versions"] != used:
        raise SystemExit(f"{path} is of {record['versions']}, here are {used}: measure all (without --keep)")
    every = [dict(zip(record["columns"], row, strict=True)) for row in record["curves"]]
    return [r for r in every if r["what"] != OURS]


def measured(seed: int, others: bool = True) -> list[dict[str, Any]]:
    """Every method on one mixture, by case and budget; without `others` ours alone."""
    problem, rows = Problem(seed), []
    _agrees(problem)
    eps = torch.cat(
        [
            torch.randn(STARTS, D, generator=torch.Generator().manual_seed(1000 + i), dtype=torch.float64)
            for i in range(SETS)
        ]
    )
    for case in CASES:
        for name, run in methods(case, others).items():
            for n in BUDGETS:
                if (got := measure(problem, run, eps, n)) is not None:
                    rows.append({"mixture": seed, "case": case, "n": n, "what": name, **got})
    return rows


def _agrees(problem: Problem) -> None:
    x, t = torch.randn(4, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64), 0.3
    a, _, s = Cosine().at(t)
    torch.testing.assert_close(problem.mean(x, a, s), problem.law.denoiser(Cosine())(x, t).mean)


def cells(rows: list[dict[str, Any]]) -> dict[tuple[str, int], list[dict[str, Any]]]:
    out: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        out.setdefault((row["case"], row["n"]), []).append(row)
    return out


def beside(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One mixture: ours beside the best peer, by case, budget and figure."""
    out = []
    for (case, n), here in cells(rows).items():
        mine, others = here[0], here[1:]
        for figure in FIGURES if others else ():
            best = min(others, key=lambda r: r[figure])
            ratio = mine[figure] / best[figure]
            out.append(
                {
                    "what": f"{case}, {n} calls, {figure}", "value": mine[figure], "floor": best[figure],
                    "best": best["what"], "ratio": ratio, "bar": 1.0, "holds": ratio <= 1.0, "of": len(here),
                    "away": mine["away"], "best away": best["away"],
                }
            )  # fmt: skip
    return out


def overall(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Geometric means over the mixtures: ours, and the peer that is best on each of them; reported, not judged."""
    out = []
    for (case, n), here in cells(rows).items():
        for figure in FIGURES:
            pairs = []
            for seed in range(MIXTURES):
                each = {r["what"]: r[figure] for r in here if r["mixture"] == seed}
                mine = each.pop(OURS)
                if each:
                    pairs.append((mine, min(each.values()), min(each, key=lambda k: each[k])))
            if not pairs:
                continue
            value, floor = (statistics.geometric_mean(p[i] for p in pairs) for i in (0, 1))
            out.append(
                {
                    "what": f"five mixtures, {case}, {n} calls, {figure}", "value": value, "floor": floor,
                    "best": f"of each (most often {statistics.mode(p[2] for p in pairs)})", "ratio": value / floor,
                    "bar": 1.0, "holds": value <= floor, "wins": sum(p[0] <= p[1] for p in pairs),
                }
            )  # fmt: skip
    return out


def ranks(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every method's rank by case, budget and figure, and its median over the mixtures, ours beside the best peer's."""
    out = []
    for (case, n), here in cells(rows).items():
        for figure in FIGURES:
            places: dict[str, list[int]] = {}
            for seed in range(MIXTURES):
                order = sorted((r[figure], r["what"]) for r in here if r["mixture"] == seed)
                for place, (_, name) in enumerate(order, 1):
                    places.setdefault(name, []).append(place)
            medians = {k: statistics.median(v) for k, v in places.items() if len(v) == MIXTURES}
            if len(medians) < 2:
                continue
            mine, best = medians[OURS], min((v, k) for k, v in medians.items() if k != OURS)
            out.append(
                {
                    "what": f"median rank, {case}, {n} calls, {figure}", "value": mine, "floor": best[0],
                    "best": best[1], "ratio": mine / best[0], "bar": 1.0, "holds": mine <= best[0],
                    "of": len(medians), "worst": max(places[OURS]),
                }
            )  # fmt: skip
    return out


@torch.no_grad()
def digits(count: int = 360) -> list[dict[str, Any]]:
    """The shipped prior: 8 calls of auto beside 16 of DDIM, by the error to the end point of 200 steps from the same
    noise, and by the energy distance to held-out digits."""
    prior = oneprior.load("digits")
    real = held_out("test").batch(range(count))["x"]
    real = prior.codec.encode(real.float() / 255 if real.dtype is torch.uint8 else real)
    shape = (len(real), *prior.shape)

    def draw(steps: int, name: str, first: int) -> Tensor:
        return sample(prior.den, shape, steps=steps, sampler=name, seeds=range(first, first + len(real)))

    error: dict[str, list[float]] = {"auto": [], "ddim": []}
    two: dict[str, list[float]] = {"auto": [], "ddim": []}
    for i in range(SETS):
        end = draw(200, "2m", 1000 * i)
        for name, steps in (("auto", 8), ("ddim", 16)):
            x = draw(steps, name, 1000 * i)
            error[name].append(float((x - end).square().mean().sqrt()))
            two[name].append(energy_distance(real.flatten(1).double(), x.flatten(1).double()))
    return [
        _row("digits, 8 calls of auto beside 16 of DDIM, rmse to 200 steps", error["auto"], error["ddim"], 0.65),
        _row("digits, 8 calls of auto beside 16 of DDIM, energy distance", two["auto"], two["ddim"], 1.0),
    ]


def _row(what: str, ours: list[float], theirs: list[float], bar: float) -> dict[str, Any]:
    """`holds` by the difference: an unbiased distance of samples that cannot be told from the data may be negative."""
    value, floor = statistics.fmean(ours), statistics.fmean(theirs)
    return {
        "what": what, "value": value, "floor": floor, "best": "oneprior ddim", "ratio": value / floor, "bar": bar,
        "holds": value <= floor - (1 - bar) * abs(floor),
    }  # fmt: skip


def table(report: dict[str, Any]) -> str:
    lines = [
        "| | oneprior auto | best peer | ratio | | elsewhere, ours | its |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in report["rows"]:
        away = f"{r['away']:.2%} | {r['best away']:.2%}" if "away" in r else " | "
        lines.append(f"| {r['what']} | {r['value']:.4g} | {r['floor']:.4g} | {r['ratio']:.2f} | {r['best']} | {away} |")
    used = ", ".join(f"{k} {v}" for k, v in report["versions"].items())
    return "\n".join([*lines, "", f"{report['seconds']:.0f} s, load {report['load']:.1f}; {used}."])


def figure(rows: list[dict[str, Any]], path: Path) -> None:
    """Curves of mixture 0: ours, and the best of each library at each budget."""
    from matplotlib.figure import Figure

    page = Figure(figsize=(11, 3.2), layout="constrained")
    axes = page.subplots(1, len(CASES), sharey=True)
    for axis, case in zip(axes, CASES, strict=True):
        for place, name in enumerate((OURS, *PEERS)):
            best: dict[int, float] = {}
            for r in rows:
                if r["case"] == case and (r["what"] == name or r["what"].startswith(f"{name} ")):
                    best[r["n"]] = min(best.get(r["n"], math.inf), r["rmse"])
            if best:
                mine = name == OURS
                style = {"color": "black", "linewidth": 2.2} if mine else {"linewidth": 1.0, "color": f"C{place}"}
                axis.loglog(list(best), list(best.values()), "o-", markersize=3, label=name, **style)
        axis.set_title(case)
        axis.set_xticks(BUDGETS, [str(n) for n in BUDGETS])
        axis.minorticks_off()
        axis.set_xlabel("network calls")
    axes[0].set_ylabel("rmse to the exact end point")
    lines = {line.get_label(): line for axis in axes for line in axis.get_lines()}  # flow_matching has no VP
    axes[-1].legend(lines.values(), lines.keys(), fontsize=7, loc="lower left")
    page.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description="Error to the ODE's end point at a budget of calls, beside peers.")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--docs", action="store_true", help="write the results, figure and page in docs")
    parser.add_argument("--keep", action="store_true", help="take the peers' rows from the record in docs")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of peers: what they say of their settings is theirs
    used, record = versions(["torch", *PEERS]), DOCS / "results" / "nfe_quality.json"
    old = kept(record, used) if args.keep else []
    began, load, rows = time.perf_counter(), os.getloadavg()[0], []
    for seed in range(MIXTURES):
        rows += measured(seed, not args.keep)
        print(f"mixture {seed}: {len(rows)} rows, {time.perf_counter() - began:.0f} s", file=sys.stderr)
    rows += old
    first = [r for r in rows if r["mixture"] == 0]
    report = {
        "name": "nfe_quality", "versions": used, "load": load,
        "rows": [*beside(first), *overall(rows), *ranks(rows), *digits()], "seconds": time.perf_counter() - began,
        "curves": [[*(r[k] for k in NAMES), *(float(f"{r[k]:.5g}") for k in COLUMNS)] for r in rows],
    }  # fmt: skip
    print(table(report))
    curves = ",\n  ".join(json.dumps(row) for row in report.pop("curves"))  # a method a line
    text = json.dumps(report, indent=1)[:-2] + f',\n "columns": {json.dumps([*NAMES, *COLUMNS])},\n'
    text += f' "curves": [\n  {curves}\n ]\n}}\n'
    if args.json:
        args.json.write_text(text)
    if args.figure:
        figure(first, args.figure)
    if args.docs:
        record.write_text(text)
        page = DOCS / "quality.md"
        page.write_text(between(page.read_text(), COMMAND, table(report)))
        figure(first, DOCS / "nfe_quality.png")
    raise SystemExit(not passes(report["rows"]))


def passes(rows: list[dict[str, Any]]) -> bool:
    """At or below the best peer at every budget, by both figures, on three of the cases; never above twice the best;
    the best median ranks on as many; the digits' two bars."""
    plain = [r for r in rows if r["what"].split(",")[0] in CASES]
    ranked = [r for r in rows if r["what"].startswith("median rank")]
    whole = [case for case in CASES if all(r["holds"] for r in plain if r["what"].startswith(f"{case},"))]
    best = [case for case in CASES if all(r["holds"] for r in ranked if f", {case}," in r["what"])]
    rest = all(r["holds"] for r in rows if r["what"].startswith("digits"))
    return min(len(whole), len(best)) >= len(CASES) - 1 and all(r["ratio"] <= 2.0 for r in plain) and rest


if __name__ == "__main__":
    main()
