"""Settings that commands share. Frozen dataclasses; every field is a flag and a key of --config FILE. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional, UseAppendAction


@dataclass(frozen=True, kw_only=True)
class Common:
    """What every command takes."""

    config: Path | None = None
    """settings in YAML, under the names of the flags; flags come on top"""
    json: bool = False
    """print the result as JSON, and nothing else, on the standard output"""
    debug: bool = False
    """show the traceback of an error"""


@dataclass(frozen=True, kw_only=True)
class Using(Common):
    """What every command takes that uses a prior."""

    prior: Positional[str]
    """a prior's folder, a run's folder, or the name of a shipped one"""
    seed: int = 0
    """of all noise; picture i takes seed + i"""
    batch: int = 64
    """samples at a time"""
    device: str = "auto"
    """auto, cpu, cuda, mps ..."""


@dataclass(frozen=True, kw_only=True)
class OnPictures(Using):
    """What every command takes that works on pictures."""

    files: Positional[tuple[str, ...]] = ()
    """pictures, folders of them, or a data set"""
    n: int | None = None
    """at most this many of them"""
    split: Literal["train", "test", "all"] = "all"
    """part of a data set"""
    skip_bad: bool = False
    """leave out pictures that cannot be read"""


@dataclass(frozen=True, kw_only=True)
class Writing:
    """What every command takes that writes files."""

    out: Path | None = None
    """folder to write to (default: runs/COMMAND, or the next free name)"""
    force: bool = False
    """write over what is there"""


@dataclass(frozen=True, kw_only=True)
class Told:
    """What every command takes that tells the prior something of a sample."""

    label: str | None = None
    """class name or number; several ("0,1,2", or "all") are dealt out in turn"""
    cond: UseAppendAction[tuple[str, ...]] = ()
    """NAME=VALUE of any condition"""


@dataclass(frozen=True, kw_only=True)
class SampleSettings(Told, Writing, Using):
    """Of `sample`."""

    n: int | None = None
    """how many: seeds --seed, --seed + 1, ... (16 without --seeds)"""
    seeds: str | None = None
    """such as 0-63 or 1,5,9"""
    given: UseAppendAction[tuple[str, ...]] = ()
    """PART=VALUE of a prior of several parts: a label, or the file of a picture; the other parts are drawn"""
    steps: int | None = None
    """steps of the sampler (20; of tokens: as many as exactness takes)"""
    sampler: str = "auto"
    """auto, ddim, 2m, heun, ..., own (what a foreign checkpoint came with); of tokens auto, first-hitting, confidence,
    ...; another name lists them all"""
    prompt: str | None = None
    """text in which [32] stands for 32 tokens to be drawn; without any, what follows is"""
    length: int | None = None
    """of a text, in tokens"""
    text: str | None = None
    """caption to draw, of priors that know captions"""
    top_p: float | None = None
    """of each token, keep the likeliest symbols up to this mass"""
    kappa: float | None = None
    """its stochasticity, where it takes one: 0 the ODE, 1 the reverse SDE"""
    eta: float | None = None
    """the same in DDIM's measure, in [0, 1]"""
    grid: str | None = None
    """times of its steps, instead of the sampler's own; another name lists them all"""
    temperature: float | None = None
    """of the noise of its steps, or of the law of each token; 1 is plain"""
    guidance: float = 1.0
    """scale of guidance; 1 is none"""
    guide: str = "cfg"
    """kind of guidance: cfg, cfg++, apg or cfg-zero"""
    interval: str | None = None
    """LO,HI in sigma/alpha where guidance applies, such as 0.3,5"""
    rescale: float | None = None
    """bring the guided spread back to the plain one, 0 to 1 (cfg)"""
    negative: UseAppendAction[tuple[str, ...]] = ()
    """NAME=VALUE to be guided away from, instead of from no condition"""
    threshold: float | None = None
    """dynamic thresholding: the share of pixels in range, such as 0.995"""
    frames: int | None = None
    """frames of each clip, of a prior of clips (default: as many as in training)"""
    trajectory: Path | None = None
    """write the walk as well, x_t beside its mean: .gif, or .png for a strip"""


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(Writing, Using):
    """Of `evaluate`."""

    data: Positional[str]
    """what it was trained on: a folder, file or name, with a held-out part"""
    n: int | None = None
    """samples in each comparison (default: as many as are held out, at most 500)"""
    repeats: int = 3
    """comparisons with fresh samples, for the standard error"""
    steps: int = 20
    """steps of the sampler"""
    sampler: str = "auto"
    """auto, ddim, ancestral, 2m, heun, ...; another name lists them all"""
    classify: int = 200
    """held-out pictures to classify, where there are classes; 0 for none"""
    calls: int = 16
    """network calls for each of them and each class"""
    likelihood: int = 64
    """held-out samples whose likelihood is taken; 0 for none"""
    skip_bad: bool = False
    """leave out pictures that cannot be read"""
    private: bool = False
    """no pictures in the report, of the data or drawn"""
