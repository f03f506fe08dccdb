"""Checkpoints of other libraries as priors, by what their folder says of itself. Weights are safetensors.

model_index.json                        a pipeline of diffusers                  `interop.diffusers`
config.json with _class_name            one model of diffusers, its scheduler beside it
config.json with architectures          a masked language model of transformers  `interop.masked_lm`
config.json with format: dit, sit, adm, edm2   a state dict under the original's names
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from oneprior import storage
from oneprior.codecs import Codec, Pixels, Standardise
from oneprior.hub import WAY_OUT
from oneprior.sampling import Sampler
from oneprior.training.files import load_tensors

FORMATS = {"dit": "dit:read", "sit": "dit:read", "adm": "adm:read", "edm2": "edm2:read"}
PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}


class Foreign(NamedTuple):
    """What a reader gives: the parts of a prior, and the sampler the checkpoint came with, where it has a twin here."""

    parts: storage.Parts
    own: Sampler | None = None


def settings(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """A JSON file of a checkpoint; {} where there is none. Raises ValueError where it is not whole."""
    path = folder / name
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise ValueError(f"{path} is not whole ({e}): copy the folder anew") from e
    return found if isinstance(found, dict) else {}


def reader(folder: Path) -> str | None:
    """Which reader a folder is for, "module:function"; None for one of our own format.

    Raises:
        ValueError: for a format that is not known, saying what was found.
    """
    if (folder / "model_index.json").is_file():
        return "diffusers:pipeline"
    config = settings(folder)
    if "_class_name" in config:
        return "diffusers:model"
    if "architectures" in config:
        return "masked_lm:read"
    if isinstance(config.get("format"), int):
        return None
    if config.get("format") in FORMATS:
        return FORMATS[config["format"]]
    names = ", ".join(sorted(p.name for p in folder.iterdir())[:12])
    if pickles := [p.name for p in sorted(folder.iterdir()) if p.suffix in PICKLES]:
        raise ValueError(f"{folder} holds {', '.join(pickles)}: {WAY_OUT}")
    raise ValueError(
        f"{folder} is of no format that is read: it holds {names}. Known are priors of oneprior, pipelines and models "
        f"of diffusers, masked language models of transformers, and config.json with 'format': {' or '.join(FORMATS)}"
    )


def read(folder: Path) -> Foreign | None:
    """The prior of a foreign folder, None for one of our own.

    Raises:
        ValueError: for a format, a part of it or a pickle that is not read; missing and unexpected weights are listed.
        ImportError: where the library that reads it is not installed.
    """
    found = reader(folder)
    if found is None:
        return None
    module, function = found.split(":")
    return getattr(import_module(f"oneprior.interop.{module}"), function)(folder)


def weights(folder: Path, name: str = "model.safetensors") -> dict[str, Tensor]:
    """The tensors of a folder, in one file or in several with an index, as float32. Pickles are refused."""
    index = settings(folder, f"{name}.index.json").get("weight_map")
    files = sorted(set(index.values())) if index else [name]
    held(folder, files[0])
    found = {k: v for file in files for k, v in load_tensors(folder / file)[0].items()}
    return {k: v.float() if v.is_floating_point() else v for k, v in found.items()}


def held(folder: Path, wanted: str = "") -> list[str]:
    """The names of the files with weights. Raises ValueError for pickles alone, FileNotFoundError for none at all."""
    names = sorted(p.name for p in folder.iterdir())
    found = [n for n in names if n.endswith((".safetensors", ".safetensors.index.json"))]
    if not found and (pickles := [n for n in names if Path(n).suffix in PICKLES]):
        raise ValueError(f"{folder} holds {', '.join(pickles)} and no safetensors: {WAY_OUT}")
    if not found or wanted not in ("", *found):
        raise FileNotFoundError(f"{folder} is not whole: its weights, {wanted or '.safetensors'}, are missing")
    return found


def fill(net: nn.Module, tensors: Mapping[str, Tensor], where: Path) -> nn.Module:
    """Load weights into a network, all of them. Raises ValueError naming the missing, unexpected and misshapen ones."""
    own = net.state_dict()
    both = [(k, tuple(v.shape), tuple(own[k].shape)) for k, v in tensors.items() if k in own]
    wrong = {"missing": own.keys() - tensors.keys(), "unexpected": tensors.keys() - own.keys()}
    refuse(where, **wrong, misshapen=[f"{k} {a} for {b}" for k, a, b in both if a != b])
    net.load_state_dict(dict(tensors))
    return net.eval().requires_grad_(False)


def refuse(where: Path, **wrong: Iterable[str]) -> None:
    """Raises ValueError with the names of weights that are wrong, if any are."""
    said = {kind: sorted(map(str, keys)) for kind, keys in wrong.items()}
    if any(said.values()):
        each = (f"{kind}: {', '.join(v[:8])}{' ...' if len(v) > 8 else ''}" for kind, v in said.items() if v)
        raise ValueError(f"{where} does not fit the network that its config describes. {'; '.join(each)}")


def checked(config: Mapping[str, Any], known: tuple[str, ...], folder: Path) -> dict[str, Any]:
    """A config of known fields. Raises ValueError for others."""
    if strange := [k for k in config if k not in known]:
        raise ValueError(f"{folder / 'config.json'}: {', '.join(strange)} is not known; fields are {', '.join(known)}")
    return dict(config)


def codes(folder: Path, inner: tuple[int, ...], statistics: Any = None) -> tuple[Codec, tuple[int, ...]]:
    """The autoencoder in `vae` of a folder and the shape of its pictures; without one, what the network itself sees."""
    if not (folder / "vae").is_dir():
        return (Pixels(None) if inner[0] == 3 else Standardise()), inner
    from oneprior.interop.diffusers import autoencoder, outer

    codec = autoencoder(folder / "vae", statistics)
    return codec, outer(codec, inner)


def classes(names: Any, count: int) -> tuple[str, ...]:
    """Names of `count` classes: a mapping from index to name (the first of several), or the indices."""
    table = {int(k): str(v).split(",")[0].strip() for k, v in dict(names or {}).items()}
    out = tuple(table.get(i, str(i)) for i in range(count))
    return out if len(set(out)) == count else tuple(f"{name} ({i})" for i, name in enumerate(out))
