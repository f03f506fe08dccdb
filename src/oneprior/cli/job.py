"""What a training job is told, and where it goes. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tyro.conf import OmitArgPrefixes, Positional

from oneprior.cli.settings import Common
from oneprior.training.settings import TrainSettings

CODECS = ("vq", "clip-codes")  # networks that are a codec, no prior
ABOUT_THIS_CALL = {"config", "json", "debug", "out", "resume", "force", "dry_run"}  # not part of what makes the run


@dataclass(frozen=True, kw_only=True)
class TrainJob(Common):
    data: Positional[str] = ""
    """folder, file or name"""
    name: str | None = None
    """name of the run (default: that of the data)"""
    out: Path | None = None
    """folder of the run (default: runs/NAME)"""
    resume: bool = False
    """continue a run, with its own settings where no others are given"""
    force: bool = False
    """start anew where a run already is"""
    dry_run: bool = False
    """measure a few steps, say what the run will cost, and write nothing"""
    split: Literal["train", "all"] = "train"
    """train: leave the held-out part (a fixed fifth where the data has no split) for `evaluate`; all: use everything"""
    size: int | None = None
    """side in pixels to bring pictures to; needed where their sizes differ"""
    channels: Literal[1, 3] | None = None
    """1 grey, 3 colour (default: 3 if any picture has colour)"""
    frames: int | None = None
    """frames of a clip, in a folder of clips; of moving-digits and moving-scenes (8)"""
    rate: float | None = None
    """frames a second to bring clips to; needed where theirs differ"""
    frame_law: Literal["ptss", "scalar", "known", "nondecreasing", "rolling", "ladder"] = "ptss"
    """times of the frames of a clip: one for all but with probability --frame-p (ptss), always one (scalar), one but
    for frames known at random (known), ..."""
    frame_p: float = 0.2
    """share of clips whose frames have a time each (ptss)"""
    pack: bool = False
    """clips shorter than --frames, ends of longer ones, and pictures beside them share rows of --frames frames: each
    sees itself alone; classes are left out"""
    causal: bool = False
    """frames of a clip see themselves and those before alone"""
    skip_bad: bool = False
    """leave out pictures that cannot be read"""
    pairs: str | None = None
    """folder of degraded pictures, named as the clean ones: learn to restore them"""
    degrade: str | None = None
    """recipe that makes them from the clean ones: real, or such as blur:1-2,noise:10,jpeg:30-60"""
    unconditional: bool = False
    """make nothing of the classes"""
    label: str | None = None
    """column of metadata.csv or .jsonl beside the pictures that names the class, instead of subfolders"""
    text: str | None = None
    """column of captions, for tokens"""
    split_by: str | None = None
    """column of groups, such as the patient, that are never both trained on and held out"""
    init: str | None = None
    """prior to begin from: its network, schedule and prediction, and its weights where they fit; of codes and text, its
    codec stays as it is"""
    lora: int | None = None
    """train updates of this rank to its matrices, and what did not fit, instead of everything"""
    early_stop: int | None = None
    """stop after so many lines of the log (--log-every) without a new best on held-out data; prior/ is that best"""
    private: bool = False
    """write no pictures, of the data or drawn, into the run's folder, its report or the prior's card"""
    modalities: str | None = None
    """parts of a sample to learn together, such as image,label: each may then be drawn given the other, or both"""
    captions: bool = False
    """learn from the captions that the data has (names of emoji) instead of the classes; for tokens"""
    net: Literal["auto", "unet", "dit", "mlp", "tokens", "codes", "vq", "clip-codes"] = "auto"
    """kind of network (auto: unet for pictures, mlp for vectors, tokens for text); codes: a U-Net over the codes of a
    codec; vq: a codec to tokens, clip-codes: one of clips to smaller ones; these two are no prior"""
    net_size: Literal["tiny", "small", "base"] = "small"
    """its size"""
    net_args: tuple[str, ...] = ()
    """further fields of it, such as channels=32,64,96 blocks=2 (unet), width=96 depth=4 (dit, mlp), factor=4 (vq), r=4
    (clip-codes: frames of a code)"""
    codec: str | None = None
    """run or folder of a codec: learn a prior of the tokens of pictures, or of the codes of clips; levels: of the grey
    levels of pictures"""
    length: int = 256
    """tokens in a window of text"""
    tokens: str = "characters"
    """of text: characters, bytes, or pieces:4096 (byte-pair encoding learned from it)"""
    corruption: Literal["absorbing", "uniform", "hybrid", "mask-replace"] = "absorbing"
    """how tokens are corrupted"""
    corruption_args: tuple[str, ...] = ()
    """its parameters, such as p_uniform=0.1 (hybrid), masked_end=0.9 (mask-replace)"""
    loss: Literal["auto", "masks", "bound", "ce", "dynamic", "finite"] = "auto"
    """what tokens are trained on (auto: masks for absorbing, else the bound)"""
    dropout: float = 0.0
    """in the network"""
    mirror: bool = False
    """learn from the mirror images (left for right) as well"""
    variance: bool = False
    """let the network tell its variance as well"""
    schedule: Literal[
        "cosine", "rf", "vp", "subvp", "ve", "edm", "laplace", "sigmoid",
        "resshift", "irsde", "i2sb", "goub", "rddm", "indi",
    ] = "cosine"  # fmt: skip
    """how data turns into noise (rf: rectified flow); from resshift on: into the degraded picture"""
    schedule_args: tuple[str, ...] = ()
    """its parameters, such as kappa=1 (resshift), beta_max=1 (i2sb), bmin=0.1 bmax=20 (vp)"""
    prediction: Literal["auto", "eps", "x0", "v", "score", "velocity", "edm"] = "auto"
    """what the network predicts (auto: v; velocity under rf; edm under edm and ve; x0 towards degraded pictures)"""
    weight: Literal["auto", "plain", "min-snr", "truncated-snr", "edm", "sigmoid"] = "auto"
    """weight of the loss (auto: plain; edm under edm and ve)"""
    law: Literal["auto", "uniform", "logit-normal", "log-normal"] = "auto"
    """which times are trained how often (auto: uniform; logit-normal under rf; log-normal under edm and ve)"""
    train: OmitArgPrefixes[TrainSettings] = field(default_factory=TrainSettings)


def folder_of(job: TrainJob) -> Path:
    """Where a run goes."""
    name = job.name or Path(job.data.replace(":", "-")).name.removesuffix(".gz").split(".")[0]
    if job.out is None and not name:
        raise ValueError("which data? oneprior train DATA, or --name NAME --resume for a run that was begun")
    return job.out or Path("runs") / name
