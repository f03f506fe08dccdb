"""Takes the prior of a finished run into the package: python tools/ship.py runs/NAME NAME

The weights are stored in bfloat16, or in float16 where that leaves the denoiser closer to itself. Refused are a run
that was not made by recipes/NAME.yaml or is not finished, data without a licence, and more bytes than BUDGETS has for
its name, or BUDGET for all that have no budget of their own.
"""

import sys
import tempfile
from pathlib import Path
from shutil import copytree

import torch

from oneprior.cli.job import ABOUT_THIS_CALL, TrainJob
from oneprior.cli.options import flat, from_file
from oneprior.loading import load
from oneprior.prior import Prior
from oneprior.storage import SHIPPED
from oneprior.token_prior import TokenPrior
from oneprior.training.files import atomic_folder
from oneprior.training.settings import FREE

ROOT = Path(__file__).resolve().parent.parent
BUDGET = 6_000_000  # bytes of all shipped priors together
BUDGETS = {"kjv": 6_000_000, "emoji-text": 8_000_000}  # of these alone
HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def ship(run: Path, name: str, *, recipes: Path = ROOT / "recipes", shipped: Path = SHIPPED) -> Path:
    """The folder of the shipped prior. Raises ValueError for what may not be shipped."""
    recipe = recipes / f"{name}.yaml"
    job = from_file(TrainJob, recipe)
    made = from_file(TrainJob, run / "config.yaml")
    wanted, found = flat(job), flat(made)
    other = [k for k in wanted if k not in FREE | ABOUT_THIS_CALL and wanted[k] not in ("auto", found[k])]
    if other:
        told = ", ".join(f"{k}: {wanted[k]!r}, not {found[k]!r}" for k in other)
        raise ValueError(f"{run} was not made by {recipe.name}, which says {told}")
    prior = load(run / "prior")
    facts, seen = prior.facts, prior.facts.get("training", {}).get("samples", 0)
    if seen < (job.train.samples or 0):
        raise ValueError(f"{run} is not finished: {seen:,} of {job.train.samples:,} samples; resume it")
    licence = facts.get("data", {}).get("licence", "unknown")
    if licence == "unknown":
        raise ValueError(f"{run} was trained on data whose licence is not stated: it may not be shipped")
    errors = {kind: deviation(prior, run / "prior", dtype) for kind, dtype in HALVES.items()}
    kind = min(errors, key=lambda k: errors[k])
    facts |= {"name": name, "recipe": f"make {name}", "weights": kind, "weights_rms": round(errors[kind], 6)}
    with tempfile.TemporaryDirectory() as scratch:
        folder = prior.save(Path(scratch) / name, dtype=HALVES[kind])
        rest, allowed = (0, BUDGETS[name]) if name in BUDGETS else (together(shipped, name), BUDGET)
        if rest + size(folder) > allowed:
            raise ValueError(f"{name} takes {size(folder):,} bytes and the others {rest:,}; all may take {allowed:,}")
        with atomic_folder(shipped / name) as aside:
            copytree(folder, aside, dirs_exist_ok=True)
    return shipped / name


def deviation(prior: Prior, folder: Path, dtype: torch.dtype) -> float:
    """Root mean square of what storing the weights in `dtype` does to the denoised mean, over times and noise; of
    tokens, to the probabilities of their symbols."""
    stored = load(folder).den
    with torch.no_grad():
        for p in stored.parameters():
            p.copy_(p.to(dtype))
        g, t = torch.Generator().manual_seed(0), torch.linspace(0.05, 0.95, 32)
        if isinstance(prior, TokenPrior):
            x0 = torch.randint(prior.codec.symbols, (len(t), *prior.shape), generator=g)
            z = prior.den.corruption.corrupt(x0, t, torch.rand(x0.shape, generator=g, dtype=torch.float64))
            return (stored(z, t).exp() - prior.den(z, t).exp()).square().mean().sqrt().item()
        x = torch.randn(len(t), *prior.shape, generator=g)
        return (stored(x, t).mean - prior.den(x, t).mean).square().mean().sqrt().item()


def together(shipped: Path, but: str = "") -> int:
    """Bytes of the priors there that share the one budget, but for one of them."""
    every = shipped.iterdir() if shipped.is_dir() else ()
    return sum(size(f) for f in every if f.name != but and f.name not in BUDGETS)


def size(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    try:
        made = ship(Path(sys.argv[1]), sys.argv[2])
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"not shipped: {error}") from error
    print(f"{made}: {size(made):,} bytes (at most {BUDGETS.get(made.name, BUDGET):,})")
