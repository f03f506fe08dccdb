"""Train a prior. DATA is a folder of pictures (subfolders become classes) or scans, a .zip, .npy, .npz, idx or NIfTI
file, zarr, text (docs/files.md), or a name: digits, fashion-mnist, emoji-google-32, kjv, points:moons,
moving-digits.

oneprior train photos/ --name photos --dry-run      what it will cost
oneprior train photos/ --name photos --minutes 60   Ctrl-C leaves a good checkpoint
oneprior train --name photos --resume               goes on exactly where it was
oneprior train clean/ --pairs rainy/ --schedule resshift   a restorer, for `oneprior restore`
oneprior train photos/ --net vq   a codec of pictures to tokens and back, in runs/photos/codec
oneprior train clips/ --frames 16   a prior of clips (GIFs, video files, folders of pictures), for `oneprior animate`
oneprior train mine/ --init fashion --lora 4 --early-stop 5   fine-tuning
oneprior train digits --modalities image,label   one model of both, for `oneprior sample --given label=7`
oneprior train book.txt             a prior of text; also a folder of .txt files

Everything goes to runs/NAME: config.yaml (give it to --config to repeat the run), log.jsonl, samples/, checkpoints/,
report.html, and prior/, which every other command takes at any moment.
"""

from __future__ import annotations

from pathlib import Path

from oneprior.cli.job import TrainJob, folder_of

SETTINGS = TrainJob


def base(job: TrainJob) -> Path | None:
    """What a run is resumed with: its own settings."""
    path = folder_of(job) / "config.yaml" if job.resume else None
    return path if path and path.is_file() else None


def run(job: TrainJob, command: list[str]) -> int:
    from oneprior.cli.training import train

    return train(job, command)
