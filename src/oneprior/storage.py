"""A prior on disk: config.json, model.safetensors, README.md, samples.png. Written aside and renamed; never a pickle.

config.json holds the format's version, the network, schedule and prediction, the codec with its units, the conditions,
facts about data and training, and the hash of the weights. Frozen dataclasses are stored by their name and fields.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from oneprior import anchored, noise, posterior, schedules
from oneprior.codecs import Codec
from oneprior.codecs import from_dict as codec_from_dict
from oneprior.conditions import Conditions
from oneprior.denoiser import Denoiser, Facts, NetworkDenoiser
from oneprior.nets import build, config_from_dict, to_dict
from oneprior.training.files import atomic_folder, digest, load_tensors, save_tensors, settle, write_json, write_text

FORMAT = 1
SHIPPED = Path(__file__).parent / "shipped"
_KNOWN = {
    c.__name__: c
    for module in (schedules, anchored, noise, posterior)
    for c in vars(module).values()
    if isinstance(c, type) and (is_dataclass(c) or hasattr(c, "_fields"))
}


def pack(value: Any) -> Any:
    """A frozen dataclass (or named tuple) as {"type": name, **fields}, nested ones too."""
    if hasattr(value, "_fields"):
        return {"type": type(value).__name__, **{k: pack(getattr(value, k)) for k in value._fields}}
    if is_dataclass(value):
        return {"type": type(value).__name__, **{f.name: pack(getattr(value, f.name)) for f in fields(value)}}
    return value


def unpack(data: Any) -> Any:
    """What `pack` wrote. Raises ValueError for a type this version does not know."""
    if not isinstance(data, Mapping) or "type" not in data:
        return tuple(data) if isinstance(data, list) else data
    if data["type"] not in _KNOWN:
        raise ValueError(f"'{data['type']}' is not known to this version of oneprior: update it")
    return _KNOWN[data["type"]](**{k: unpack(v) for k, v in data.items() if k != "type"})


class Parts(NamedTuple):
    """What a prior is made of. facts: what JSON can hold."""

    den: Denoiser
    codec: Codec
    conditions: Conditions
    facts: Mapping[str, Any]


def write(
    folder: str | Path,
    parts: Parts,
    samples: Image.Image | None = None,
    *,
    force: bool = False,
    dtype: torch.dtype | None = None,
) -> Path:
    """Write a prior to a folder, whole or not at all.

    dtype: of the stored weights (torch.float16 halves the file); as they are without. force: replace what is there.

    Raises:
        FileExistsError: when the folder holds something and `force` is not given.
        TypeError: for a denoiser that is not a network of ours (save what it wraps).
    """
    folder, den = Path(folder), parts.den
    if not isinstance(den, NetworkDenoiser) or not hasattr(den.net, "config") or den.time is not None:
        raise TypeError(f"only a NetworkDenoiser around one of oneprior.nets is saved; this is {type(den).__name__}")
    if folder.exists() and not force and (folder.is_file() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is not empty: give another folder, or force=True to replace it")
    with atomic_folder(folder) as aside:
        weights = {k: v.to(dtype) if dtype and v.is_floating_point() else v for k, v in den.net.state_dict().items()}
        save_tensors(aside / "model.safetensors", weights)
        config = {
            "format": FORMAT,
            "network": to_dict(den.net.config),  # type: ignore[arg-type]
            "schedule": pack(den.schedule),
            "prediction": pack(den.prediction) if is_dataclass(den.prediction) else den.prediction.name,
            "variance": den.variance,
            "time_axes": den.facts.time_axes,
            "t_range": list(den.facts.t_range),
            "codec": parts.codec.config(),
            "conditions": parts.conditions.to_dict(),
            "facts": dict(parts.facts),
            "sha256": digest(aside / "model.safetensors"),
        }
        write_json(aside / "config.json", config)
        write_text(aside / "README.md", _card(parts))
        if samples is not None:
            samples.save(aside / "samples.png")
    return folder


def read(name: str | Path, *, device: str | torch.device = "cpu") -> Parts:
    """The parts of a prior, from a folder or from a shipped one's name.

    Raises:
        FileNotFoundError: when there is no such folder or name, or a file of it is missing.
        ValueError: when a file is damaged, of another format, or a pickle.
    """
    folder = find(name)
    config = _config(folder)
    weights = folder / "model.safetensors"
    tensors, _ = load_tensors(weights)
    if digest(weights) != config["sha256"]:
        raise ValueError(f"{weights} is not the file that config.json names (its hash differs): copy the folder anew")
    try:
        net = build(config_from_dict(config["network"]))
        net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in tensors.items()})
        conditions = Conditions.from_dict(config["conditions"])
        grids = {int(n): tuple(levels) for n, levels in config["facts"].get("grids", {}).items()}
        facts = Facts(config["time_axes"], tuple(config["t_range"]), null=conditions.null, grids=grids)
        kind = config["prediction"]
        den: Denoiser = NetworkDenoiser(
            net.eval(),
            unpack(config["schedule"]),
            kind if isinstance(kind, str) else unpack(kind),
            facts=facts,
            variance=config["variance"],
        )
        return Parts(den.to(device), codec_from_dict(config["codec"]), conditions, config["facts"])
    except (KeyError, RuntimeError, TypeError) as e:
        raise ValueError(f"{folder} does not hold a whole prior: config.json and the weights disagree ({e})") from e


def find(name: str | Path) -> Path:
    """The folder of a prior's name: a path, a run's folder, or one that ships with the package."""
    path = Path(name)
    if path.is_file():
        raise ValueError(
            f"{path} is a file; a prior is a folder (config.json, model.safetensors). Pickles are never read"
        )
    for folder in (path, path / "prior"):
        if settle(folder).is_dir() and (folder / "config.json").exists():
            return folder
    if path.is_dir():
        raise FileNotFoundError(f"{path} holds no prior: config.json is missing")
    if (SHIPPED / str(name) / "config.json").exists():
        return SHIPPED / str(name)
    raise FileNotFoundError(
        f"no folder '{name}', and no shipped prior of that name; shipped are: {', '.join(shipped())}"
    )


def shipped() -> list[str]:
    """The names of the priors that come with the package."""
    return sorted(p.parent.name for p in SHIPPED.glob("*/config.json"))


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise ValueError(f"{path} is not whole ({e}): copy the folder anew") from e
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        found = config.get("format") if isinstance(config, dict) else None
        raise ValueError(f"{path} has format {found}; this version of oneprior reads format {FORMAT}")
    for name in ("model.safetensors",):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} is not a whole prior: {name} is missing")
    return config


def _card(parts: Parts) -> str:
    facts, data = parts.facts, parts.facts.get("data") or {}
    shape = "x".join(map(str, facts["shape"]))
    return f"""---
library_name: oneprior
tags: [diffusion, prior, oneprior]
---
# {data.get("name", "prior")}

A diffusion prior of {data.get("name", "data")} ({shape}), made with oneprior {facts.get("oneprior", "")}.

```python
import oneprior

prior = oneprior.load("{data.get("name", "path/to/this/folder")}")
prior.sample(16).grid()
```

- data: {data.get("count", "?")} samples; licence: {data.get("licence", "not stated")}
- conditions: {", ".join(parts.conditions) or "none"}
- training: {json.dumps(facts.get("training", {}))}
"""
