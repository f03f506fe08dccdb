"""Training a prior of several parts (`--modalities image,label`): what differs from that of one. Imports torch."""

from __future__ import annotations

from dataclasses import fields as fields_of
from dataclasses import replace
from typing import Any

from oneprior.cli import build
from oneprior.cli.job import TrainJob
from oneprior.cli.options import arguments
from oneprior.cli.screen import Screen
from oneprior.conditions import Conditions
from oneprior.data import Packed
from oneprior.denoiser import Facts
from oneprior.joint import Independent, JointDenoiser, JointObjective
from oneprior.nets import JointConfig
from oneprior.nets import build as network
from oneprior.nets.config import CONFIGS, NetConfig
from oneprior.tokens import Absorbing

LABEL = "label"


def parts(job: TrainJob, screen: Screen) -> build.Parts:
    """As `build.parts`: pixels (or vectors) under the schedule, the label under an absorbing corruption.

    Raises:
        ValueError: for parts that the data has not, or settings that go with one part only.
    """
    names = [v.strip() for v in (job.modalities or "").split(",")]
    if wrong := [f"--{k}" for k in ("pairs", "degrade", "variance", "unconditional") if getattr(job, k)]:
        raise ValueError(f"{', '.join(wrong)} and --modalities do not go together")
    made = build.parts(job, screen)
    classes, shape = made.source.facts.classes, made.source.facts.shape
    if len(names) != 2 or names[1] != LABEL or names[0] in ("", LABEL) or classes is None:
        has = f"NAME,{LABEL} (a name for the samples, such as image)" if classes else "no classes, so one part only"
        raise ValueError(f"--modalities {job.modalities}: {made.source.facts.name} has {has}")
    kind = CONFIGS[made.job.net]
    own = {"dropout": job.dropout} | arguments("--net-args", kind, job.net_args, [f.name for f in fields_of(NetConfig)])
    shapes, vocab = {names[0]: shape, LABEL: (1,)}, {LABEL: len(classes) + 1}
    net: Any = network(JointConfig(shapes, vocab, made.job.net, job.net_size, own), job.train.seed)
    schedules = {names[0]: made.den.schedule, LABEL: Absorbing(len(classes) + 1)}
    facts = Facts(t_range=made.den.facts.t_range)
    den = JointDenoiser(net, shapes, schedules, {names[0]: made.den.prediction}, facts=facts)
    objective = JointObjective(Independent(2, made.objective.law), each=made.objective)
    data = Packed(made.source, {names[0]: "x", LABEL: LABEL}, made.codec)
    return replace(made, source=data, codec=data, conditions=Conditions(), den=den, objective=objective)
