"""Restoration methods beside exact posterior draws: a Gaussian prior fitted to digits, half of the pixels hidden.

    python benchmarks/restore.py [--images 32] [--json docs/results/restore.json]

The denoiser is exact, so whatever differs from the row of exact draws is the method's own doing. Every method runs with
its default settings at 100 network calls (particles: 100 each), 16 draws an image. A PSNR of one draw above that of an
exact draw is a lean to the mean, below it is error; the mean of 16 is compared with the mean of 16 exact draws. The
covariance of draws about the exact mean is |C' - C| / |C| (Frobenius), pooled over images, which share one mask.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))

from peers import peer, versions

from oneprior.data import digits
from oneprior.exact import Gaussian
from oneprior.noise import Seeded
from oneprior.operators import Mask, Measurement
from oneprior.schedules import VP, Schedule
from oneprior.uses.restore import METHODS, restore
from oneprior.uses.restore.settings import DAPSSettings, RepaintSettings

DRAWS, CALLS, NOISE = 16, 100, 0.1
OWN: dict[str, Any] = {name: replace(m.settings, steps=CALLS) for name, m in METHODS.items()}
OWN["repaint"] = RepaintSettings(steps=25)  # 105 calls
OWN["daps, isotropic"] = DAPSSettings(inner="isotropic")
OWN["daps, langevin"] = DAPSSettings(inner="langevin")
del OWN["score_distillation"]  # has no measurement


def law_of_digits() -> Gaussian:
    """In model range, [-1, 1], with the variance of rounding to 17 levels on the diagonal."""
    x = digits("train")
    x = x.batch(range(len(x)))["x"].double() * 2 - 1
    cov = x.flatten(1).mT.cov() + torch.eye(64).double() / (12 * 8**2)
    return Gaussian(x.mean(0), cov)


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
    made: dict[str, Callable[[], tuple[Tensor, float]]] = {k: _own(task, s) for k, s in OWN.items()} | azula(task)
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


def azula(task: Task) -> dict[str, Callable[[], tuple[Tensor, float]]]:
    """azula's samplers on the same exact denoiser, their own settings where they have defaults."""
    if (m := peer("azula")) is None:
        return {}
    den, guidance, sample = m["denoise"], m["guidance"], m["sample"]
    shape = (DRAWS * len(task.truth), 64)
    schedule = m["noise"].VPSchedule()
    y = task.seen.repeat(DRAWS).y.flatten(1)
    mask = task.mask.mask.flatten().double()

    class Exact(den.Denoiser):
        def __init__(self) -> None:
            super().__init__()
            self.schedule = schedule

        def forward(self, x_t: Tensor, t: Tensor, **_: Any) -> Any:
            a, s = (v.double() for v in schedule(t))
            C, mean = task.law.cov, task.law.mean.flatten()
            K = torch.linalg.solve(a**2 * C + s**2 * torch.eye(64).double(), a * C)
            return den.DiracPosterior(mean=mean + (x_t - a * mean) @ K)

    def A(x: Tensor) -> Tensor:
        return x * mask

    def run(make: Callable[[], Any]) -> Callable[[], tuple[Tensor, float]]:
        def go() -> tuple[Tensor, float]:
            sampler = make()
            start = Seeded(range(shape[0]))(0, torch.empty(shape, dtype=torch.float64)) * float(
                schedule(torch.ones(()))[1]
            )
            with torch.random.fork_rng():
                torch.default_generator.manual_seed(0)
                x = sampler(start)
            return x.reshape(len(task.truth), DRAWS, 1, 8, 8), CALLS

        return go

    var = torch.tensor(NOISE**2).double()
    covariance = __import__("azula.linalg.covariance", fromlist=["IsotropicCovariance"])
    noise = covariance.IsotropicCovariance(var)
    return {
        "azula DPS": run(lambda: guidance.DPSSampler(Exact(), y=y, A=A, steps=CALLS)),
        "azula MMPS, DDPM": run(
            lambda: sample.DDPMSampler(guidance.MMPSDenoiser(Exact(), y=y, A=A, cov_y=noise), steps=CALLS)
        ),
        "azula MMPS, DDIM": run(
            lambda: sample.DDIMSampler(guidance.MMPSDenoiser(Exact(), y=y, A=A, cov_y=noise), steps=CALLS)
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--json")
    parser.add_argument("--only", nargs="*", default=[])
    given = parser.parse_args()
    found = []
    for row in rows(Task(given.images, VP()), given.only):
        found.append(row)
        print("  ".join(f"{v:8.3f}" if isinstance(v, float) else f"{v!s:20s}" for v in row.values()), flush=True)
    if given.json:
        record = {
            "images": given.images,
            "draws": DRAWS,
            "noise": NOISE,
            "rows": found,
            "versions": versions(["torch", "azula"]),
        }
        Path(given.json).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
