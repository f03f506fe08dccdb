"""Pipelines and models of diffusers: network, autoencoder, text encoder and scheduler as the parts of a prior.

Which classes are read, and what of their configs, is in the tables below; what a checkpoint asks for beyond them is
refused by name. Weights load whole or not at all, in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from oneprior import denoiser
from oneprior.codecs import Codec, Latent, Pixels
from oneprior.conditions import Condition, Conditions, Label
from oneprior.interop import Foreign, classes, held, refuse, scheduler, settings
from oneprior.interop.ports import Named, Prompt
from oneprior.storage import Parts

NETWORKS = ("UNet2DModel", "UNet2DConditionModel", "DiTTransformer2DModel")
AUTOENCODERS = ("AutoencoderKL", "VQModel", "AutoencoderRAE")
ENCODERS = ("CLIPTextModel",)
PORTS = {"label": "class_labels", "tokens": "encoder_hidden_states"}
IGNORED = ("safety_checker", "feature_extractor")
KNOWN = ("unet", "transformer", "vae", "vqvae", "text_encoder", "tokenizer", "scheduler", *IGNORED)


class Network(nn.Module):
    """A network of diffusers under our names of ports; what is not said is its null."""

    def __init__(self, model: nn.Module, null: Mapping[str, Tensor], ports: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.null, self.ports = model, dict(null), ports

    def forward(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        for port in self.ports:
            if cond.get(port) is None:
                if port not in self.null:
                    raise ValueError(f"this network was trained without a null: say which {port}")
                null = self.null[port].to(x.device)
                cond[port] = null.expand(len(x), *null.shape[1:])
        return self.model(x, t, **{PORTS[k]: v for k, v in cond.items()}, return_dict=False)[0]


def pipeline(folder: Path) -> Foreign:
    """A folder with model_index.json: UNet or DiT, with or without autoencoder and CLIP text encoder."""
    index = settings(folder, "model_index.json")
    kind = {k: v[1] for k, v in index.items() if isinstance(v, list) and len(v) == 2 and v[1]}
    if strange := [f"{k} ({v})" for k, v in kind.items() if k not in KNOWN]:
        raise ValueError(f"{folder}: a {index.get('_class_name')} has parts that are not read: {', '.join(strange)}")

    def part(name: str) -> Path:
        return folder / name if (folder / name).is_dir() else folder  # the first pipelines lie flat

    name = "unet" if "unet" in kind else "transformer"
    if name not in kind or "scheduler" not in kind:
        raise ValueError(f"{folder}: a network (unet, transformer) and a scheduler were expected; it has {list(kind)}")
    net = loaded(part(name), kind[name], NETWORKS)
    said = settings(part("scheduler"), "scheduler_config.json")
    codec = next((autoencoder(part(k)) for k in ("vae", "vqvae") if k in kind), None)
    text = None
    if "text_encoder" in kind:
        import transformers

        encoder = loaded(part("text_encoder"), kind["text_encoder"], ENCODERS, transformers)
        tokenizer = getattr(transformers, kind.get("tokenizer", "CLIPTokenizer")).from_pretrained(
            part("tokenizer"), local_files_only=True
        )
        text = Prompt(tokenizer, encoder, encoder.config.hidden_size)
    return _prior(folder, net, {"_class_name": kind["scheduler"], **said}, codec, text, index.get("id2label"))


def model(folder: Path) -> Foreign:
    """A network alone, with scheduler_config.json in its folder, or in `scheduler` beside or within it."""
    kind = settings(folder)["_class_name"]
    if kind in AUTOENCODERS:
        raise ValueError(
            f"{folder} holds an autoencoder, {kind}, which is a codec: oneprior.interop.diffusers.autoencoder"
        )
    net = loaded(folder, kind, NETWORKS)
    places = (folder, folder / "scheduler", folder.parent / "scheduler")
    said = next(filter(None, (settings(p, "scheduler_config.json") for p in places)), None)
    if said is None:
        raise ValueError(
            f"{folder} does not say under which schedule its {kind} was trained: put the scheduler_config.json of its "
            "pipeline beside it, or wrap the module, oneprior.wrap(net, schedule, prediction)"
        )
    return _prior(folder, net, said, None, None, None)


def autoencoder(folder: str | Path, statistics: tuple[Any, Any] | None = None) -> Latent:
    """An autoencoder as a codec: pictures to codes in the unit that its networks were trained in, and back.

    Of AutoencoderKL the mean of the code; VQModel's codes are quantised on their way back; AutoencoderRAE takes
    pictures in [0, 1] and has its own statistics. statistics: (shift, scale) of codes instead of the config's.
    """
    folder = Path(folder)
    net = loaded(folder, settings(folder).get("_class_name", ""), AUTOENCODERS)
    config, kind = net.config, type(net).__name__
    read = {
        "AutoencoderKL": lambda x: net.encode(x).latent_dist.mode(),
        "VQModel": lambda x: net.encode(x).latents,
        "AutoencoderRAE": lambda x: net.encode(x).latent,
    }[kind]
    scale, shift = config.get("scaling_factor") or 1.0, config.get("shift_factor") or 0.0
    if kind == "AutoencoderRAE":
        return Latent(net, read, lambda z: net.decode(z).sample, channels=config["num_channels"], range=(0.0, 1.0))
    if config.get("latents_mean") is not None and config.get("latents_std") is not None:
        shift, scale = torch.tensor(config["latents_mean"]), scale / torch.tensor(config["latents_std"])
    shift, scale = statistics or (shift, scale)
    channels = config["in_channels"]
    return Latent(net, read, lambda z: net.decode(z).sample, channels=channels, scale=scale, shift=shift)


def _prior(
    folder: Path, net: Any, said: dict[str, Any], codec: Latent | None, text: Prompt | None, names: Any
) -> Foreign:
    config, conditions = net.config, dict[str, Condition]()
    count = config.get("num_class_embeds") or (config.get("num_embeds_ada_norm") if _dit(net) else 0) or 0
    extra = [k for k in ("addition_embed_type", "class_embed_type", "encoder_hid_dim") if config.get(k)]
    if extra:
        raise ValueError(f"{folder}: {type(net).__name__} with {', '.join(extra)} is not read")
    if count:
        conditions["label"] = (Label if _dit(net) else Named)(classes(names, count))
    if "UNet2DCondition" in type(net).__name__:
        conditions["text"] = text or Prompt(None, None, config["cross_attention_dim"])
    channels, size = config["in_channels"], config.get("sample_size")
    if size is None:
        raise ValueError(f"{folder}: the network's config names no sample_size")
    inner = (channels, *((size, size) if isinstance(size, int) else size))
    out = config.get("out_channels") or channels
    if out not in (channels, 2 * channels):
        raise ValueError(f"{folder}: a network of {channels} channels in and {out} out is none of single pictures")
    known = Conditions(conditions)
    den = denoiser.wrap(
        Network(net, known.null, tuple("tokens" if k == "text" else k for k in known)),
        scheduler.schedule(said),
        scheduler.prediction(said),
        time=scheduler.clock(said),
        null=known.null,
        channels="all" if out == channels else "eps+var",
    )
    shape = inner if codec is None else outer(codec, inner)
    facts = {"shape": list(shape), "data": {"name": folder.name}, "format": f"diffusers {type(net).__name__}"}
    pictures: Codec = Pixels(None) if codec is None else codec
    return Foreign(Parts(den, pictures, known, facts), scheduler.sampler(said))


def outer(codec: Latent, inner: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the pictures whose codes have the shape `inner`."""
    with torch.no_grad():
        shape = tuple(codec.decode(torch.zeros(1, *inner)).shape[1:])
    if codec.inside(shape) != inner:
        raise ValueError(f"the autoencoder makes codes {codec.inside(shape)}; the network takes {inner}")
    return shape


def _dit(net: nn.Module) -> bool:
    return type(net).__name__ == "DiTTransformer2DModel"


def loaded(folder: Path, kind: str, known: tuple[str, ...], library: Any = None) -> Any:
    """A model with its weights, all of them."""
    if kind not in known:
        raise ValueError(f"{folder}: {kind or 'a model without _class_name'} is not read; {', '.join(known)} are")
    if library is None:
        import diffusers as library
    half = {"variant": "fp16"} if all(".fp16." in f for f in held(folder)) else {}
    how: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True, **half}
    try:
        net, info = getattr(library, kind).from_pretrained(folder, torch_dtype=torch.float32, **how)
    except (OSError, RuntimeError, ValueError) as e:
        raise ValueError(f"{folder} could not be read as a {kind}: {e}") from e
    refuse(folder, **{k: info.get(f"{k}_keys", ()) for k in ("missing", "unexpected", "mismatched")})
    return net.eval().requires_grad_(False)
