"""From the settings of a training job to its parts: data, codec, conditions, denoiser, objective. Imports torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from dataclasses import fields as fields_of
from math import prod
from typing import Any

from torch import nn

from oneprior import __version__, anchored, schedules
from oneprior.cli.inputs import open_skipping
from oneprior.cli.job import TrainJob
from oneprior.cli.options import arguments
from oneprior.cli.screen import Screen
from oneprior.codecs import Codec, Pixels, Standardise
from oneprior.conditions import Anchor, Condition, Conditions, Field, Label
from oneprior.data import Degraded, Mirrored, Pairs, Recipe, Rows, Source, image_pairs, in_memory
from oneprior.data.text import TextSource, text
from oneprior.denoiser import Facts, NetworkDenoiser
from oneprior.loading import load
from oneprior.nets import build
from oneprior.nets.config import CONFIGS, ClipConfig, NetConfig
from oneprior.nets.lora import adapt, adopt, config_like
from oneprior.objective import EDMWeight, MinSNR, Objective, Plain, SigmoidWeight, TruncatedSNR
from oneprior.posterior import EDMPrediction
from oneprior.storage import read_codec
from oneprior.times import Known, Ladder, LogitNormal, LogNormal, NonDecreasing, PerElement, Rolling, TimeLaw, Uniform
from oneprior.token_prior import TokenPrior

SCHEDULES = {
    "cosine": schedules.Cosine,
    "rf": schedules.RectifiedFlow,
    "vp": schedules.VP,
    "subvp": schedules.SubVP,
    "ve": schedules.VE,
    "edm": schedules.EDM,
    "laplace": schedules.Laplace,
    "sigmoid": schedules.Sigmoid,
    "resshift": anchored.ResShift,
    "irsde": anchored.MeanReverting,
    "i2sb": anchored.BrownianBridge,
    "goub": anchored.OUBridge,
    "rddm": anchored.Residual,
    "indi": anchored.Straight,
}
ANCHORED = [k for k, kind in SCHEDULES.items() if kind.__module__ == anchored.__name__]
WEIGHTS = {
    "plain": Plain(),
    "min-snr": MinSNR(),
    "truncated-snr": TruncatedSNR(),
    "edm": EDMWeight(),
    "sigmoid": SigmoidWeight(),
}
AUTO = {"rf": ("velocity", "plain", "logit-normal"), **dict.fromkeys(("edm", "ve"), ("edm", "edm", "log-normal"))}
AUTO |= dict.fromkeys(ANCHORED, ("x0", "plain", "uniform"))
MEMORY = 2**30  # data up to this many bytes is read once
COPIES = 64  # of every clean picture, each degraded in its own way
EPSILON = 1e-4  # training keeps this far from t = 0, where weights of some predictions have no limit


@dataclass(frozen=True)
class Parts:
    job: TrainJob
    """as given, with every "auto" resolved"""
    source: Source
    codec: Any
    conditions: Any
    den: Any
    objective: Any
    facts: dict[str, Any] = field(default_factory=dict)
    """for the prior"""
    words: Any = None
    """of tokens, the codec of the prior; `codec` is what the trainer asks, None where the data are tokens already"""


def parts(job: TrainJob, screen: Screen) -> Parts:
    """Read the data and build the rest; says what it found."""
    source, prior = read(job, screen), begun(job)
    shape, classes = source.facts.shape, source.facts.classes
    inner = shape  # of what the network sees
    if prior is not None:
        name = next(k for k, kind in SCHEDULES.items() if type(prior.den.schedule) is kind)
        job = replace(job, schedule=name, net=prior.den.net.config.type, prediction=prior.den.prediction.name)
    if job.codec:
        codec, inner = _of_clips(job, shape)
    elif len(shape) >= 3 and source.facts.unit is None:
        codec: Codec = Pixels(source.facts.levels)
    elif prior is not None:
        codec = prior.codec
    else:
        some = range(0, len(source), max(1, len(source) * prod(shape) // 2**24))  # at most so many numbers
        codec = Standardise.fit(source.batch(some)["x"], source.facts.unit or "")
    known: dict[str, Condition] = {} if classes is None or job.unconditional else {"label": Label(classes)}
    if job.pairs or job.degrade:
        half = 0.5 / (source.facts.levels - 1) if source.facts.levels else 0.0  # as the codec takes x to [-1, 1]
        known["y"] = (Anchor if job.schedule in ANCHORED else Field)(shape[max(0, len(shape) - 3)], -half, 1 + half)
    conditions = Conditions(known)
    prediction, weight, law = AUTO.get(job.schedule, ("v", "plain", "uniform"))
    job = replace(
        job,
        net=("unet" if len(shape) >= 3 else "mlp") if job.net == "auto" else job.net,
        prediction=prediction if job.prediction == "auto" else job.prediction,
        weight=weight if job.weight == "auto" else job.weight,
        law=law if job.law == "auto" else job.law,
    )
    den = denoiser(job, inner, conditions) if prior is None else tuned(job, prior.den, inner, conditions, screen)
    low, high = den.facts.t_range
    laws: dict[str, TimeLaw] = {
        "uniform": Uniform(max(low, EPSILON), high),
        "logit-normal": LogitNormal(),
        "log-normal": LogNormal(den.schedule),
    }
    law = laws[job.law]
    if len(shape) == 4 and source.facts.unit is None:  # clips
        kinds = {"nondecreasing": NonDecreasing, "rolling": Rolling, "ladder": Ladder}
        every = {"scalar": law, "known": Known(None, law), "ptss": PerElement(law, (0,), job.frame_p)} | {
            k: v(law) for k, v in kinds.items()
        }
        law = every[job.frame_law]
    facts = told(job, source, shape)
    facts["data"] |= {"levels": source.facts.levels} | ({"columns": columns(job)} if columns(job) else {})
    return Parts(job, source, codec, conditions, den, Objective(WEIGHTS[job.weight], law), facts)


def _of_clips(job: TrainJob, shape: tuple[int, ...]) -> tuple[Codec, tuple[int, ...]]:
    """The codec of clips that a job names, and the shape of its codes."""
    if wrong := [f"--{k}" for k in ("pack", "pairs", "degrade") if getattr(job, k)]:
        raise ValueError(f"{', '.join(wrong)} and a codec of clips do not go together")
    codec: Any = read_codec(job.codec or "")[0]
    return codec, codec.inside(shape)


def told(job: TrainJob, source: Source, shape: tuple[int, ...]) -> dict[str, Any]:
    """Facts of a prior: where it is from."""
    data = {k: getattr(source.facts, k) for k in ("name", "count", "licence")} | {"split": job.split}
    own = {k: v for k in ("degrade", "init", "private") if (v := getattr(job, k))}
    return {"shape": list(shape), "data": data, "oneprior": __version__, **own}


def held_out(made: Any) -> Source:
    """The held-out part of what a job learns from, treated as the other."""
    if isinstance(made.source, TextSource):
        return text(made.job.data, length=made.job.length, tokens=made.source.text, split="test")
    return read(replace(made.job, split="test", mirror=False), Screen(quiet=True), made.source.facts.shape)


def read(job: TrainJob, screen: Screen, like: tuple[int, ...] = ()) -> Source:
    """The data to train on, in memory where it fits. like: the shape that pictures are brought to."""
    if job.text and not job.codec:
        raise ValueError("--text: captions are learned by priors of codes; give --codec, or leave --text out")
    if not job.data:
        raise ValueError("which data? oneprior train DATA: a folder, a file or a name such as digits")
    if job.pairs and job.degrade:
        raise ValueError(
            "--pairs and --degrade: the degraded pictures are there, or they are made; give one of the two"
        )
    if job.schedule in ANCHORED and not (job.pairs or job.degrade):
        raise ValueError(
            f"--schedule {job.schedule} ends at degraded pictures: give --pairs FOLDER or --degrade RECIPE"
        )
    recipe = Recipe.of(job.degrade) if job.degrade else None
    pictures = bool(job.pairs) or _is_folder(job.data)
    size, channels = (like[-2:], like[-3]) if pictures and len(like) > 2 else (job.size, job.channels)
    how: dict[str, Any] = {"size": size, "channels": channels}
    how |= {k: v for k, v in (("frames", job.frames), ("rate", job.rate)) if v is not None}
    if job.pack:
        if wrong := [f"--{k}" for k in ("pairs", "degrade", "mirror") if getattr(job, k)]:
            raise ValueError(f"{', '.join(wrong)} and --pack do not go together: packed rows are of clips as they are")
        how["pack"] = True
    if job.pairs:
        source: Source = image_pairs(job.data, job.pairs, split=job.split, skip_bad=job.skip_bad, **how)
        screen.note(f"{source.facts.name}: {len(source):,} pairs, {' x '.join(map(str, source.facts.shape))}")
        small = 2 * prod(source.facts.shape) * len(source) <= MEMORY
        if small and isinstance(source, Pairs):
            source = Pairs(in_memory(source.clean), in_memory(source.degraded))
        return Mirrored(source) if job.mirror else source
    if job.unconditional and pictures:
        how["labels"] = False
    source = open_skipping(job.data, screen, job.skip_bad, split=job.split, **how, **columns(job))
    facts = source.facts
    kept = "all" if job.split == "all" else "the training part; the held-out one is left for `evaluate`"
    classes = "no classes" if facts.classes is None else f"{len(facts.classes)} classes"
    screen.note(f"{facts.name}: {len(source):,} samples ({kept}), {' x '.join(map(str, facts.shape))}, {classes}")
    if len(facts.shape) >= 3 and pictures:
        screen.note(
            "pictures: turned as EXIF says, transparent parts on white, cut to the middle and resized to one size"
        )
    size = prod(facts.shape) * len(source) * (1 if facts.levels and facts.levels <= 256 else 4)
    if isinstance(source, Rows):
        return Rows(in_memory(source.source), source.segments) if size <= MEMORY else source
    source = in_memory(source) if size <= MEMORY else source
    source = Mirrored(source) if job.mirror else source
    return source if recipe is None else Degraded(source, recipe, job.train.seed, COPIES)


def begun(job: TrainJob, tokens: bool = False) -> Any:
    """The prior that a job begins from, or None. Raises ValueError for one of another kind."""
    if job.init is None:
        if job.lora is not None:
            raise ValueError("--lora adapts a prior that there is: give --init PRIOR")
        return None
    prior = load(job.init)
    if isinstance(prior, TokenPrior) != tokens:
        raise ValueError(
            f"--init {job.init} is a prior of {'tensors' if tokens else 'tokens'}, and this is to be another"
        )
    return prior


def adopted(job: TrainJob, given: nn.Module, config: NetConfig, screen: Screen) -> Any:
    """A network with the weights of another where they fit; says which do not. With --lora they are frozen."""
    net: Any = build(config, job.train.seed)
    fresh, count = adopt(net, given), len(net.state_dict())
    anew = f"; begun anew: {', '.join(fresh)}" if fresh else ""
    screen.note(f"{job.init}: {count - len(fresh)} of {count} tensors fit; network, schedule and prediction stay{anew}")
    if job.lora is not None:
        adapt(net, job.lora, fresh, job.train.seed)
        trained = sum(p.numel() for p in net.parameters() if p.requires_grad)
        screen.note(f"rank {job.lora}: {trained:,} numbers are trained; prior/ holds them added to the others")
    return net


def tuned(job: TrainJob, given: Any, shape: tuple[int, ...], conditions: Conditions, screen: Screen) -> NetworkDenoiser:
    """A denoiser like another, begun from its weights, for other data and conditions."""
    told: NetConfig = given.net.config
    ports: dict[str, Any] = {"dropout": job.dropout, "time_axes": told.time_axes, **conditions.fields}
    ports |= {"out_channels": 2 * shape[0]} if given.variance else {}
    net = adopted(job, given.net, config_like(told, shape, **ports), screen)
    facts = Facts(t_range=given.facts.t_range, null=conditions.null)
    return NetworkDenoiser(net, given.schedule, given.prediction, facts=facts, variance=given.variance)


def columns(job: TrainJob) -> dict[str, str]:
    """What was said of the table beside the pictures, for `open_source`."""
    return {k: v for k in ("label", "split_by") if (v := getattr(job, k)) is not None}


def denoiser(job: TrainJob, shape: tuple[int, ...], conditions: Conditions) -> NetworkDenoiser:
    """The network, its weights a function of the seed, under its schedule."""
    fields: dict[str, Any] = {**conditions.fields, "dropout": job.dropout}
    if job.variance:
        fields["out_channels"] = 2 * shape[-3 if len(shape) > 2 else 0]
    kind: Any = CONFIGS[job.net]
    one = shape[1:] if len(shape) == 4 else shape  # of a clip, a frame
    if len(one) not in kind.ranks or (one != shape and job.net not in ("unet", "dit")):
        raise ValueError(f"--net {job.net} takes no samples of shape {shape}; leave --net out, or say mlp")
    fields |= arguments("--net-args", kind, job.net_args, [f.name for f in fields_of(NetConfig)])
    config = kind.sized(one, job.net_size, **fields)
    if one != shape:
        config = ClipConfig(shape, frame=config, causal=job.causal)
    net = build(config, job.train.seed)
    form = SCHEDULES[job.schedule]
    schedule = form(**arguments("--schedule-args", form, job.schedule_args, ("color",)))
    a, _, s = schedule.at(
        1.0
    )  # eps says nothing of x_0 where alpha = 0, and at the end of a bridge no view but x0 does
    blind = a == 0.0 and (job.prediction in ("eps", "score") or (s == 0.0 and job.prediction != "x0"))
    axes = int(one != shape and job.frame_law != "scalar")
    facts = Facts(time_axes=axes, t_range=(0.0, 0.999 if blind else 1.0), null=conditions.null)
    prediction = EDMPrediction(0.5 if len(shape) >= 3 else 1.0) if job.prediction == "edm" else job.prediction
    return NetworkDenoiser(net, schedule, prediction, facts=facts, variance=job.variance)


def _is_folder(spec: str) -> bool:
    from oneprior.data.resolve import NAMES, _locate, is_pictures

    return spec not in NAMES and is_pictures(_locate(spec))
