"""A prior on disk: config.json, model.safetensors, README.md, samples.png. Written aside and renamed; never a pickle.

config.json holds the format's version, the network, schedule and prediction, the codec with its units, the conditions,
facts about data and training, and the hash of the weights. Frozen dataclasses are stored by their name and fields.
A codec with weights brings codec.safetensors; a folder may also hold a codec alone (config.json and that file).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from oneprior import anchored, hub, noise, posterior, schedules, tokens
from oneprior.codecs import Codec, Text
from oneprior.codecs import from_dict as codec_from_dict
from oneprior.conditions import Conditions
from oneprior.denoiser import Facts, NetworkDenoiser
from oneprior.joint import JointDenoiser
from oneprior.nets import build, config_from_dict, to_dict
from oneprior.tokens import TokenDenoiser
from oneprior.training.files import atomic_folder, digest, load_tensors, save_tensors, settle, write_json, write_text

FORMAT = 1
CODEC = "codec.safetensors"
SHIPPED = Path(__file__).parent / "shipped"
_KNOWN = {  # keep probabilities of tokens are named as schedules are
    ("tokens." if module is tokens else "") + c.__name__: c
    for module in (schedules, anchored, noise, posterior, tokens)
    for c in vars(module).values()
    if isinstance(c, type) and (is_dataclass(c) or hasattr(c, "_fields"))
}


def pack(value: Any) -> Any:
    """A frozen dataclass (or named tuple) as {"type": name, **fields}, nested ones too."""
    if hasattr(value, "_fields"):
        return {"type": _name(value), **{k: pack(getattr(value, k)) for k in value._fields}}
    if is_dataclass(value):
        return {"type": _name(value), **{f.name: pack(getattr(value, f.name)) for f in fields(value)}}
    return value


def _name(value: Any) -> str:
    kind = type(value)
    return ("tokens." if kind.__module__.startswith(tokens.__name__) else "") + kind.__name__


def unpack(data: Any) -> Any:
    """What `pack` wrote. Raises ValueError for a type this version does not know."""
    if not isinstance(data, Mapping) or "type" not in data:
        return tuple(data) if isinstance(data, list) else data
    if data["type"] not in _KNOWN:
        raise ValueError(f"'{data['type']}' is not known to this version of oneprior: update it")
    return _KNOWN[data["type"]](**{k: unpack(v) for k, v in data.items() if k != "type"})


class Parts(NamedTuple):
    """What a prior is made of. facts: what JSON can hold."""

    den: Any
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
    den = parts.den
    model, folder = _model(den), _free(folder, force)
    with atomic_folder(folder) as aside:
        save_tensors(aside / "model.safetensors", _cast(den.net.state_dict(), dtype))
        config = {
            "format": FORMAT,
            **model,
            "time_axes": den.facts.time_axes,
            "t_range": list(den.facts.t_range),
            **_save_codec(aside, parts.codec, dtype),
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
    tensors = _hashed(folder / "model.safetensors", config["sha256"])
    try:
        net = build(config_from_dict(config["network"]))
        net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in tensors.items()})
        conditions = Conditions.from_dict(config["conditions"])
        grids = {int(n): tuple(levels) for n, levels in config["facts"].get("grids", {}).items()}
        facts = Facts(config["time_axes"], tuple(config["t_range"]), null=conditions.null, grids=grids)
        den, codec = _denoiser(net.eval(), config, facts), _load_codec(folder, config)
        if isinstance(den, TokenDenoiser):
            matched(den, codec)
        return Parts(den.to(device), codec, conditions, config["facts"])
    except (KeyError, RuntimeError, TypeError) as e:
        raise ValueError(f"{folder} does not hold a whole prior: config.json and the weights disagree ({e})") from e


def matched(den: TokenDenoiser, codec: Codec) -> None:
    """Raises ValueError where the codec's symbols are not those the denoiser was trained on."""
    corruption, symbols = den.corruption, getattr(codec, "symbols", None)
    own = corruption.vocab - (corruption.mask is not None)
    if symbols != own:
        fix = "give the codec that it was trained with"
        raise ValueError(f"a codec of {symbols} symbols came; the token denoiser was trained on {own}: {fix}")


def _model(den: Any) -> dict[str, Any]:
    """Network, and what makes a denoiser of it, as JSON holds it."""
    net = getattr(den, "net", None)
    if isinstance(den, TokenDenoiser) and hasattr(net, "config"):
        said = {"corruption": pack(den.corruption), "convention": den.convention, "timed": den.timed}
    elif isinstance(den, JointDenoiser) and hasattr(net, "config"):
        said = {"parts": {k: _head(head) for k, head in den.heads.items()}, "tied": den.tied}
    elif isinstance(den, NetworkDenoiser) and hasattr(net, "config") and den.time is None:
        said = {**_head(den), "variance": den.variance}
    else:
        raise TypeError(
            "only a NetworkDenoiser, TokenDenoiser or JointDenoiser around one of oneprior.nets is saved, no "
            f"{type(den).__name__} of a {type(net).__name__}: keep what it was read from, or the code that wraps it"
        )
    return {"network": to_dict(net.config), **said}  # type: ignore[union-attr]


def _head(den: Any) -> dict[str, Any]:
    if isinstance(den, TokenDenoiser):
        return {"corruption": pack(den.corruption)}
    kind = pack(den.prediction) if is_dataclass(den.prediction) else den.prediction.name
    return {"schedule": pack(den.schedule), "prediction": kind}


def _joint(net: Any, config: Mapping[str, Any], facts: Facts) -> JointDenoiser:
    heads: dict[str, Any] = config["parts"]
    schedules = {k: unpack(h["corruption"] if "corruption" in h else h["schedule"]) for k, h in heads.items()}
    said = {k: unpack(h["prediction"]) for k, h in heads.items() if "prediction" in h}
    return JointDenoiser(net, net.config.shapes, schedules, said, tied=config["tied"], facts=facts)


def _denoiser(net: nn.Module, config: Mapping[str, Any], facts: Facts) -> Any:
    if "parts" in config:
        return _joint(net, config, facts)
    if "corruption" in config:
        return TokenDenoiser(
            net, unpack(config["corruption"]), config["convention"], timed=config["timed"], facts=facts
        )
    kind = config["prediction"]
    return NetworkDenoiser(net, unpack(config["schedule"]), unpack(kind), facts=facts, variance=config["variance"])


def write_codec(
    folder: str | Path,
    codec: Codec,
    facts: Mapping[str, Any],
    samples: Image.Image | None = None,
    *,
    force: bool = False,
    dtype: torch.dtype | None = None,
) -> Path:
    """Write a codec alone to a folder, whole or not at all; arguments and errors as of `write`."""
    folder = _free(folder, force)
    with atomic_folder(folder) as aside:
        write_json(aside / "config.json", {"format": FORMAT, **_save_codec(aside, codec, dtype), "facts": dict(facts)})
        if samples is not None:
            samples.save(aside / "samples.png")
    return folder


def read_codec(name: str | Path) -> tuple[Codec, dict[str, Any]]:
    """The codec in a folder of `write_codec`, in that of a run that trained one, or in a prior's, and its facts.

    Raises:
        FileNotFoundError: when there is none, or a file of it is missing.
        ValueError: when a file is damaged, of another format, or a pickle.
    """
    folder, config = _of_codec(name)
    return _load_codec(folder, config), config["facts"]


def codec_type(name: str | Path) -> str:
    """The type of the codec that `read_codec` would read, such as "vq"; errors as there."""
    return _of_codec(name)[1]["codec"]["type"]


def _of_codec(name: str | Path) -> tuple[Path, dict[str, Any]]:
    path = Path(name) / "codec"
    folder = path if settle(path).is_dir() else find(name)
    config = _config(folder, ())
    if "codec" not in config:
        raise ValueError(f"{folder} is no codec of oneprior's; oneprior.interop.diffusers.autoencoder reads diffusers'")
    return folder, config


def _free(folder: str | Path, force: bool) -> Path:
    folder = Path(folder)
    if folder.exists() and not force and (folder.is_file() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is not empty: give another folder, or force=True to replace it")
    return folder


def _cast(tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    return {k: v.to(dtype) if dtype and v.is_floating_point() else v for k, v in tensors.items()}


def _save_codec(folder: Path, codec: Codec, dtype: torch.dtype | None) -> dict[str, Any]:
    if not isinstance(codec, nn.Module):
        return {"codec": codec.config()}
    save_tensors(folder / CODEC, _cast(codec.state_dict(), dtype))
    return {"codec": codec.config(), "codec_sha256": digest(folder / CODEC)}


def _load_codec(folder: Path, config: Mapping[str, Any]) -> Codec:
    return codec_from_dict(
        config["codec"], _hashed(folder / CODEC, sha) if (sha := config.get("codec_sha256")) else None
    )


def _hashed(path: Path, sha: str) -> dict[str, Tensor]:
    tensors, _ = load_tensors(path)
    if digest(path) != sha:
        raise ValueError(f"{path} is not the file that config.json names (its hash differs): copy the folder anew")
    return tensors


def find(name: str | Path) -> Path:
    """The folder of a prior's name: a path, a run's folder, one that ships, or a name on the Hub."""
    path = Path(name)
    if path.is_file():
        raise ValueError(f"{path} is a file; a prior is a folder (config.json, model.safetensors). {hub.WAY_OUT}")
    for folder in (path, path / "prior"):
        if settle(folder).is_dir() and any((folder / mark).exists() for mark in ("config.json", "model_index.json")):
            return folder
    if path.is_dir():
        held = ", ".join(sorted(p.name for p in path.iterdir())[:12]) or "nothing"
        raise FileNotFoundError(f"{path} holds no prior: config.json is missing; it has {held}. {hub.WAY_OUT}")
    if (SHIPPED / str(name) / "config.json").exists():
        return SHIPPED / str(name)
    if isinstance(name, str) and hub.named(name):
        return hub.fetch(name)
    raise FileNotFoundError(
        f"no folder '{name}', and no shipped prior of that name; shipped are: {', '.join(shipped())}"
    )


def identity(name: str | Path) -> str:
    """16 digits that stand for the weights of a prior: of their hash, or of the files of a foreign folder."""
    folder = find(name)
    if sha := _config(folder, ()).get("sha256"):
        return sha[:16]
    files = sorted(p for p in folder.rglob("*.safetensors"))
    seen = [(str(p.relative_to(folder)), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    return hashlib.sha256(repr(seen).encode()).hexdigest()[:16]


def shipped() -> list[str]:
    """The names of the priors that come with the package."""
    return sorted(p.parent.name for p in SHIPPED.glob("*/config.json"))


def _config(folder: Path, files: tuple[str, ...] = ("model.safetensors",)) -> dict[str, Any]:
    path = folder / "config.json"
    if not files and not path.is_file():
        return {}  # a pipeline of another library
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise ValueError(f"{path} is not whole ({e}): copy the folder anew") from e
    if not files and isinstance(config, dict) and not isinstance(config.get("format"), int):
        return {}
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        found = config.get("format") if isinstance(config, dict) else None
        raise ValueError(f"{path} has format {found}; this version of oneprior reads format {FORMAT}")
    for name in (*files, *([CODEC] if "codec_sha256" in config else [])):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} is not a whole prior: {name} is missing")
    return config


def _card(parts: Parts) -> str:
    facts, data = parts.facts, parts.facts.get("data") or {}
    shape, name = "x".join(map(str, facts["shape"])), facts.get("name", data.get("name", "prior"))
    return (
        f"""---
library_name: oneprior
{hub.head(facts)}tags: [diffusion, prior, oneprior]
---
# {name}

A diffusion prior of {data.get("name", "data")} ({shape}), made with oneprior {facts.get("oneprior", "")}.

```python
import oneprior

prior = oneprior.load("{facts.get("hub", facts.get("name", data.get("name", "path/to/this/folder")))}")
{"print(prior.sample(4))" if isinstance(parts.codec, Text) else "prior.sample(16).grid()"}
```

- data: {data.get("name", "?")}, {data.get("count", "?")} samples; licence: {data.get("licence", "not stated")}
- conditions: {", ".join(parts.conditions) or "none"}
- training: {json.dumps(facts.get("training", {}))}
{f"- made by `{facts['recipe']}`; weights stored in {facts['weights']}" if "recipe" in facts else ""}
""".rstrip()
        + "\n"
    )
