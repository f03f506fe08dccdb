"""Every verb of a prior on every kind of checkpoint: it answers, or says why it cannot."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_checkpoints import text_to_image, unet
from test_state_dicts import SMALL, adm_weights, dit_weights, edm2_weights, put

import oneprior
from oneprior.operators import JPEG, Mask, Measurement
from oneprior.prior import Prior

diffusers = pytest.importorskip("diffusers")

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
]


def pipeline(folder: Path, **more: Any) -> Path:
    diffusers.DDPMPipeline(unet(**more), diffusers.DDPMScheduler()).save_pretrained(folder / "p")
    return folder / "p"


def prompts(folder: Path) -> Path:
    said = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}
    return text_to_image(folder, diffusers.DDIMScheduler(**said, set_alpha_to_one=False, steps_offset=1))


def sit(folder: Path) -> Path:
    return put(folder / "p", {"format": "sit", "num_heads": 3}, dit_weights())


def adm(folder: Path) -> Path:
    return put(folder / "p", {"format": "adm", **SMALL}, adm_weights(SMALL))


def edm2(folder: Path) -> Path:
    config = {"format": "edm2", "img_resolution": 8, "channels_per_head": 4}
    return put(folder / "p", config, {f"unet.{k}": v for k, v in edm2_weights().items()})


# kind: a checkpoint, what is said of a sample, and of another one
KINDS: dict[str, tuple[Callable[[Path], Path], dict[str, Any], dict[str, Any]]] = {
    "unet": (pipeline, {}, {}),
    "unet with classes": (lambda folder: pipeline(folder, num_class_embeds=3), {"label": 1}, {"label": 2}),
    "text to image": (prompts, {"text": "a b"}, {"text": "c"}),
    "sit": (sit, {"label": 1}, {"label": 2}),
    "adm": (adm, {"label": 1}, {"label": 2}),
    "edm2": (edm2, {"label": 1}, {"label": 2}),
}
GUIDED = ("text to image", "sit")  # those that know a null


def pictures(prior: Prior) -> torch.Tensor:
    return torch.rand(2, *prior.shape, generator=torch.Generator().manual_seed(0))


def restored(prior: Prior, cond: dict[str, Any], A: Any, **how: Any) -> Any:
    y = A(pictures(prior))
    return prior.restore(
        Measurement(y, A, 0.0 if how.get("method") == "red_diff" else 0.1), seeds=range(2), **how, **cond
    )


def layer(prior: Prior, cond: dict[str, Any]) -> str:
    """A layer past the middle whose output is a grid."""
    return prior.features(pictures(prior), **cond).settings["layer"]


VERBS: dict[str, Callable[[Prior, dict[str, Any], dict[str, Any]], Any]] = {
    "sample": lambda p, c, _: p.sample(2, steps=2, seeds=range(2), **c),
    "sample, ours": lambda p, c, _: p.sample(2, steps=2, seeds=range(2), sampler="heun", **c),
    "sample, its own": lambda p, c, _: p.sample(2, steps=2, seeds=range(2), sampler="own", **c),
    "sample, guided": lambda p, c, _: p.sample(2, steps=2, seeds=range(2), guidance=2.0, **c),
    "sample, optimal": lambda p, c, _: p.sample(2, steps=2, seeds=range(2), sampler="ancestral-optimal", **c),
    "restore": lambda p, c, _: restored(p, c, Mask.half(p.shape), steps=2),
    "restore, red_diff": lambda p, c, _: restored(p, c, Mask.half(p.shape), method="red_diff", steps=2),
    "restore, ddrm": lambda p, c, _: restored(p, c, Mask.half(p.shape), method="ddrm", steps=2),
    "restore, JPEG": lambda p, c, _: restored(p, c, JPEG(30), method="dps", steps=2),
    "classify": lambda p, c, d: p.classify(pictures(p), classes=[*c.values(), *d.values()] or None, calls=2),
    "edit": lambda p, c, d: p.edit(pictures(p), source=c or None, target=d or None, steps=3, seeds=range(2)),
    "likelihood": lambda p, c, _: p.likelihood(pictures(p), steps=2, probes=1, **c),
    "features": lambda p, c, _: p.features(pictures(p), **c),
    "match": lambda p, c, _: p.match(pictures(p), pictures(p), layers=[layer(p, c)], noises=1, **c),
    "dimension": lambda p, c, _: p.dimension(pictures(p), t0=(0.2, 0.4), count=1, **c),
    "save": lambda p, _, __: p.save("nowhere"),
    "push": lambda p, _, __: p.push("ann/foreign"),
}
DENSE = r"no density in pixels"
REFUSED: dict[tuple[str, str], str] = {
    ("unet", "classify"): "knows no classes",
    ("text to image", "likelihood"): DENSE,
    ("text to image", "restore, ddrm"): "is for linear operators",
    ("sit", "sample, its own"): "came with no sampler",
    ("adm", "sample, its own"): "came with no sampler",
    ("edm2", "sample, its own"): "came with no sampler",
    **{(k, "sample, guided"): "no null condition" for k in KINDS if k not in GUIDED},
    **{(k, "sample, optimal"): "does not tell" for k in KINDS if k != "adm"},
    **{(k, "save"): "keep what it was read from" for k in KINDS},
    **{(k, "push"): "keep what it was read from" for k in KINDS},
}


@pytest.fixture(scope="module")
def priors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Prior]:
    return {kind: oneprior.load(make(tmp_path_factory.mktemp("kind"))) for kind, (make, *_) in KINDS.items()}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_verb(
    kind: str, verb: str, priors: dict[str, Prior], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prior, (_, one, other) = priors[kind], KINDS[kind]
    if (kind, verb) in REFUSED:
        with pytest.raises((ValueError, TypeError), match=REFUSED[kind, verb]):
            VERBS[verb](prior, one, other)
        assert not list(tmp_path.iterdir())
        return
    out = VERBS[verb](prior, one, other)
    if verb in ("classify", "likelihood", "dimension", "features", "match"):
        assert len(out.x) == 2 and out.x.ndim == {"features": 2, "match": 3}.get(verb, 1)
        assert bool(torch.isfinite(out.x.double()).all())
    else:
        assert tuple(out.x.shape) == (2, *prior.shape) and bool(torch.isfinite(out.x).all())
        json.dumps(out.record())


def test_grids_are_searched(priors: dict[str, Prior]) -> None:
    assert 1 in priors["sit"].tune(1, warm=1).den.facts.grids
