"""Checkpoints that diffusers saved, loaded through us, against what diffusers itself makes of them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_checkpoints import seeded, text_to_image, unet, vae
from torch import Tensor

import oneprior
from oneprior.guidance import CFG
from oneprior.interop.diffusers import autoencoder
from oneprior.sampling import sample

diffusers = pytest.importorskip("diffusers")

pytestmark = [  # of its numpy calls
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
]
SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "DDIM": ("DDIMScheduler", {"clip_sample": False, "timestep_spacing": "trailing"}),
    "DDIM, as Stable Diffusion": (
        "DDIMScheduler", {**SD, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1},
    ),
    "DDIM of v, zero SNR": (
        "DDIMScheduler",
        {"clip_sample": False, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True,
         "timestep_spacing": "trailing"},
    ),
    "DDIM, cosine, 400 steps": (
        "DDIMScheduler", {"clip_sample": False, "beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 400},
    ),
    "DPM-Solver++": ("DPMSolverMultistepScheduler", {}),
    "DPM-Solver++ of x0 to sigma_min": (
        "DPMSolverMultistepScheduler", {**SD, "prediction_type": "sample", "final_sigmas_type": "sigma_min"},
    ),
    "DPM-Solver++, trailing": ("DPMSolverMultistepScheduler", {**SD, "timestep_spacing": "trailing"}),
    "UniPC": ("UniPCMultistepScheduler", {**SD, "timestep_spacing": "trailing"}),
    "Euler": ("EulerDiscreteScheduler", {**SD, "timestep_spacing": "trailing"}),
    "Heun": ("HeunDiscreteScheduler", {**SD, "timestep_spacing": "trailing"}),
    "trained betas": (
        "DDIMScheduler",
        {"clip_sample": False, "trained_betas": [0.001 + 0.0001 * i for i in range(200)], "num_train_timesteps": 200},
    ),
    "flow": ("FlowMatchEulerDiscreteScheduler", {"shift": 2.0}),
}  # fmt: skip
STEPS = 10


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    diffusers.DDPMPipeline(unet(), diffusers.DDPMScheduler()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    said = {**SD, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
    return text_to_image(tmp_path_factory.mktemp("words"), diffusers.DDIMScheduler(**said))


def with_scheduler(folder: Path, target: Path, kind: str, settings: dict[str, Any]) -> Path:
    """The same checkpoint with another scheduler."""
    shutil.copytree(folder, target)
    getattr(diffusers, kind)(**settings).save_pretrained(target / "scheduler")
    index = json.loads((target / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", kind]
    (target / "model_index.json").write_text(json.dumps(index))
    return target


@pytest.mark.parametrize("name", SCHEDULERS)
def test_sampling_is_that_of_diffusers(name: str, plain: Path, tmp_path: Path) -> None:
    """From the same noise, on the scheduler's own times, to its own last step."""
    kind, settings = SCHEDULERS[name]
    folder = with_scheduler(plain, tmp_path / "p", kind, settings)
    net = diffusers.UNet2DModel.from_pretrained(folder / "unet").eval()
    scheduler = getattr(diffusers, kind).from_pretrained(folder / "scheduler")
    scheduler.set_timesteps(STEPS)
    prior = oneprior.load(folder)
    assert prior.own is not None and prior.shape == (3, 8, 8)
    z = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    x = z * scheduler.init_noise_sigma if hasattr(scheduler, "init_noise_sigma") else z
    start = z
    if kind in ("EulerDiscreteScheduler", "HeunDiscreteScheduler"):  # their x is ours over alpha
        start = x * prior.den.schedule.at(prior.own.path(prior.den, STEPS).matrix[0, 0].item())[0]
    with torch.no_grad():
        for t in scheduler.timesteps:
            fed = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            x = scheduler.step(net(fed, t).sample, t, x, return_dict=False)[0]
    got = sample(prior.den, tuple(z.shape), steps=STEPS, sampler=prior.own, start=start, seeds=range(2))
    a = prior.den.schedule.at(prior.own.path(prior.den, STEPS).matrix[-1, 0].item())[0]
    assert (got - x * (a if kind.startswith(("Euler", "Heun")) else 1)).abs().max() < 1e-4 * max(1, x.abs().max())
    assert prior.sample(1, seeds=[0], sampler="own", steps=STEPS).x.shape == (1, 3, 8, 8)


@pytest.mark.parametrize("kind", ["DDIMScheduler", "DPMSolverMultistepScheduler"])
def test_a_pipeline_with_text(kind: str, words: Path, tmp_path: Path) -> None:
    """The whole of it: tokenizer, text encoder, guidance, scheduler, decoder."""
    said = json.loads((words / "scheduler" / "scheduler_config.json").read_text())
    folder = (
        words if kind in said["_class_name"] else with_scheduler(words, tmp_path / "p", kind, {**SD, "steps_offset": 1})
    )
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    how = {"num_inference_steps": STEPS, "guidance_scale": 3.0, "output_type": "pt", "latents": z}
    want = pipeline(["a b", "c"], **how).images
    prior = oneprior.load(folder)
    assert prior.shape == (3, 16, 16) and list(prior.conditions) == ["text"] and prior.own is not None
    ports: dict[str, Any] = dict(prior.conditions.encode(2, text=["a b", "c"]))
    m = sample(CFG(prior.den, 3.0), tuple(z.shape), steps=STEPS, sampler=prior.own, start=z, seeds=range(2), **ports)
    assert (prior.codec.decode(m, clip=True) - want).abs().max() < 1e-4
    assert (prior.codec.decode(m, clip=True)[0] - want[1]).abs().max() > 1e-2


def transformer() -> Any:
    return seeded(
        lambda: diffusers.DiTTransformer2DModel(
            num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=8,
            patch_size=2, num_embeds_ada_norm=5,
        )
    )  # fmt: skip


def test_a_dit_pipeline_with_its_learned_variance(tmp_path: Path) -> None:
    net, scheduler = transformer(), diffusers.DDIMScheduler()
    names = {str(i): f"class {i}, or so" for i in range(5)}
    diffusers.DiTPipeline(net, vae(), scheduler).save_pretrained(tmp_path / "dit")
    index = tmp_path / "dit" / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "id2label": names}))  # as published ones have it
    prior = oneprior.load(tmp_path / "dit")
    x, label = torch.randn(2, 4, 8, 8), torch.tensor([3, 5])  # five is the null
    with torch.no_grad():
        eps = net(x, timestep=torch.tensor([600, 600]), class_labels=label).sample[:, :4]
        post = prior.den(x, 0.601, label=label)
    torch.testing.assert_close(post.eps, eps, atol=1e-4, rtol=1e-4)
    assert post.var is not None and bool((post.var >= 0).all())
    assert prior.conditions["label"].names[3] == "class 3"  # type: ignore[attr-defined]
    assert prior.sample(2, label="class 3", steps=3, seeds=range(2), guidance=2.0).x.shape == (2, 3, 16, 16)


def test_a_network_with_classes_and_no_null(tmp_path: Path) -> None:
    diffusers.DDPMPipeline(unet(num_class_embeds=3), diffusers.DDPMScheduler()).save_pretrained(tmp_path / "p")
    prior = oneprior.load(tmp_path / "p")
    assert prior.sample(2, label=[0, 2], steps=2, seeds=range(2)).x.shape == (2, 3, 8, 8)
    assert prior.classify(torch.rand(2, 3, 8, 8), calls=2).names == ("0", "1", "2")
    wrong: list[dict[str, Any]] = [{}, {"label": None}, {"label": 1, "guidance": 2.0}]
    for how in wrong:
        with pytest.raises(ValueError, match=r"without a null|no null condition"):
            prior.sample(1, steps=2, **how)


def test_a_network_alone(plain: Path, tmp_path: Path) -> None:
    shutil.copytree(plain / "unet", tmp_path / "unet")
    with pytest.raises(ValueError, match="under which schedule"):
        oneprior.load(tmp_path / "unet")
    shutil.copy(plain / "scheduler" / "scheduler_config.json", tmp_path / "unet")
    x, t = torch.randn(2, 3, 8, 8), 0.4
    both = [oneprior.load(folder).den(x, t).mean for folder in (tmp_path / "unet", plain)]
    torch.testing.assert_close(both[0], both[1])


def test_a_text_network_alone_takes_states(words: Path) -> None:
    prior = oneprior.load(words / "unet")
    states = torch.randn(8, 16)
    assert prior.sample(2, text=states, steps=2, seeds=range(2)).x.shape == (2, 4, 8, 8)
    with pytest.raises(ValueError, match="no text encoder"):
        prior.sample(1, text="a", steps=2)


def vq() -> Any:
    return seeded(
        lambda: diffusers.VQModel(
            block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=3, norm_num_groups=4, num_vq_embeddings=16,
            scaling_factor=0.3,
        )
    )  # fmt: skip


def rae() -> Any:
    return seeded(
        lambda: diffusers.AutoencoderRAE(
            encoder_type="mae", encoder_hidden_size=64, encoder_patch_size=4, encoder_num_hidden_layers=1,
            decoder_hidden_size=16, decoder_num_hidden_layers=1, decoder_num_attention_heads=2,
            decoder_intermediate_size=32, patch_size=4, encoder_input_size=16, image_size=16,
            latents_mean=[[[0.1]]] * 64, latents_std=[[[2.0]]] * 64,
        )
    )  # fmt: skip


CODES = {
    "AutoencoderKL": (
        lambda: vae(shift_factor=0.1),
        lambda net, x: (net.encode(2 * x - 1).latent_dist.mode() - 0.1) * 0.5,
        lambda m: m / 0.5 + 0.1,
    ),
    "VQModel": (vq, lambda net, x: net.encode(2 * x - 1).latents * 0.3, lambda m: m / 0.3),
    "AutoencoderRAE": (rae, lambda net, x: net.encode(x).latent, lambda m: m),
}


@pytest.mark.parametrize("kind", CODES)
def test_autoencoders_are_codecs(kind: str, tmp_path: Path) -> None:
    make, encode, unscaled = CODES[kind]
    net, x = make(), torch.rand(2, 3, 16, 16)
    net.save_pretrained(tmp_path / "vae")
    codec = autoencoder(tmp_path / "vae")
    with torch.no_grad():
        m = encode(net, x)
        back: Tensor = net.decode(unscaled(m)).sample
    torch.testing.assert_close(codec.encode(x), m, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        codec.decode(m), back if kind == "AutoencoderRAE" else (back + 1) / 2, atol=1e-5, rtol=1e-4
    )
    assert codec.inside((3, 16, 16)) == tuple(m.shape[1:])
    with pytest.raises(TypeError, match="no density in pixels"):
        _ = codec.logdet
    with pytest.raises(ValueError, match="takes pictures"):
        codec.encode(torch.rand(2, 1, 16, 16))
    with pytest.raises(ValueError, match="is a codec"):
        oneprior.load(tmp_path / "vae")


def test_the_decoder_stands_between_codes_and_a_measurement(words: Path) -> None:
    """J u and J^T w of operator @ decoder, against differences."""
    from oneprior.operators import Measurement, Pool

    codec = autoencoder(words / "vae").double()
    y = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    seen = Measurement(y, Pool(2), 0.1).to_model(codec)
    x, u = (torch.randn(1, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
    assert seen.operator.domain(tuple(y.shape)) == tuple(x.shape) and not seen.operator.linear
    here, h = seen.operator.at(x), 1e-5
    Ju = (seen.operator(x + h * u) - seen.operator(x - h * u)) / (2 * h)
    torch.testing.assert_close(here.forward(u), Ju, atol=1e-7, rtol=1e-6)
    w = torch.randn_like(y)
    torch.testing.assert_close((here.forward(u) * w).sum(), (here.adjoint(w) * u).sum())
    assert seen.operator.pinv(y).shape == x.shape


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("pickle", "Pickles are never read"),
        ("missing", r"missing: .*conv_in\.bias"),
        ("unexpected", "unexpected: stranger"),
        ("gone", "are missing"),
        ("class", "is not read"),
        ("part", "image_projector"),
        ("betas", "beta_schedule 'strange'"),
        ("json", "is not whole"),
    ],
)
def test_bad_folders(damage: str, message: str, plain: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(plain, tmp_path / "p")
    weights, index = folder / "unet" / "diffusion_pytorch_model.safetensors", folder / "model_index.json"
    if damage in ("pickle", "gone"):
        weights.rename(weights.with_suffix(".bin")) if damage == "pickle" else weights.unlink()
    elif damage in ("missing", "unexpected"):
        tensors = load_file(weights)
        tensors.pop("conv_in.bias") if damage == "missing" else tensors.update(stranger=torch.zeros(1))
        save_file(tensors, weights, metadata={"format": "pt"})
    elif damage == "json":
        index.write_text("{")
    elif damage == "betas":
        path = folder / "scheduler" / "scheduler_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "beta_schedule": "strange"}))
    else:
        said = json.loads(index.read_text())
        said |= {"unet": ["diffusers", "UNet3DModel"]} if damage == "class" else {"image_projector": ["diffusers", "X"]}
        index.write_text(json.dumps(said))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        oneprior.load(folder)
