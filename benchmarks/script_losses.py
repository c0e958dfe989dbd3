"""Losses of base models alongside those of diffusers' own scripts, on the same random draws.

    git clone https://github.com/huggingface/diffusers
    python benchmarks/script_losses.py diffusers/examples/dreambooth

Executes what a training script there does from the images of a batch to its backward pass, as it is
written and with its own defaults, on a small random folder (tests/small_flows.py, for both stages
of DeepFloyd IF tests/small_cascade.py) with prior preservation. Prints both losses, and how far
apart the gradients are. The tests hold the losses to a computation of their own, which needs no
clone.
"""

import argparse
import contextlib
import os
import sys
import tempfile
import textwrap
import types
import warnings
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import training_utils
from PIL import Image
from torch.nn import functional

from dreambench.base_models.registry import find_base_model, load_base_model
from dreambench.config.sampler import FLOW, Sampler
from dreambench.methods.finetuning.training import Batch, compute_losses

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from small_cascade import LARGE_PX, write_cascade_folder
from small_flows import SIDE_PX, WRITERS

CASCADE, UPSCALER = "deepfloyd-if", "deepfloyd-if, stage II"
SCRIPTS = {
    "flux2-klein-base": "dreambooth_lora_flux2_klein",
    "flux-dev": "dreambooth_lora_flux",
    "flux-schnell": "dreambooth_lora_flux",
    "flux-kontext": "dreambooth_lora_flux_kontext",
    "sd35-medium": "dreambooth_lora_sd3",
    "qwen-image": "dreambooth_lora_qwen_image",
    CASCADE: "dreambooth",
    UPSCALER: "dreambooth",
}
TEXTS = ["a zbx dog", "a dog"]
PRIOR_WEIGHT, SEED = 0.5, 3
WORDS = [
    "--pretrained_model_name_or_path=x", "--instance_data_dir=x", "--instance_prompt=x",
    "--with_prior_preservation", "--class_data_dir=x", "--class_prompt=x",
    f"--prior_loss_weight={PRIOR_WEIGHT}",
]  # fmt: skip


def make_images(side_px: int) -> list[Image.Image]:
    """One photo and one class image."""
    pixels = np.random.default_rng(1).integers(0, 256, (2, side_px, side_px, 3), np.uint8)
    return [Image.fromarray(one) for one in pixels]


def read_arguments(name: str, source: str) -> Any:
    """The arguments of a script, with its own defaults but for what the READMEs name."""
    start = source.index("def parse_args")
    names: dict[str, Any] = {"argparse": argparse, "os": os, "warnings": warnings}
    exec(source[start : source.index("\nclass ", start)], names)
    more = ["--guidance_scale=1"] if '"--guidance_scale"' in source else []
    if name in (CASCADE, UPSCALER):
        more.append("--pre_compute_text_embeddings")
    if name == UPSCALER:
        more.append("--class_labels_conditioning=timesteps")
    return names["parse_args"]([*WORDS, *more])


def read_step(source: str) -> str:
    """The lines of a training step, from images to the loss."""
    loop = source.index("for epoch in range(")
    # A script for base models with and without an autoencoder has the second above the first.
    marks = ("# Convert images to latent space", 'pixel_values = batch["pixel_values"]')
    place = min(source.index(mark, loop) for mark in marks)
    end = source.index("accelerator.backward(loss)", place)
    return textwrap.dedent(source[source.rindex("\n", 0, place) + 1 : source.rindex("\n", 0, end)])


def find_extra(name: str, pipeline: Any) -> dict[str, Any]:
    """What a script has in hand when a step begins, besides what all have."""
    vae, transformer = pipeline.vae, pipeline.transformer
    if name.startswith("flux2"):
        states, ids = pipeline.encode_prompt(TEXTS)
        spread = torch.sqrt(vae.bn.running_var.view(1, -1, 1, 1) + vae.config.batch_norm_eps)
        return {
            "prompt_embeds": states, "text_ids": ids, "latents_bn_std": spread,
            "latents_bn_mean": vae.bn.running_mean.view(1, -1, 1, 1),
        }  # fmt: skip
    if name == "qwen-image":
        states, mask = pipeline.encode_prompt(TEXTS)
        return {
            "prompt_embeds": states, "prompt_embeds_mask": mask,
            "latents_mean": torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1),
            "latents_std": 1 / torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1),
            "vae_scale_factor": pipeline.vae_scale_factor,
        }  # fmt: skip
    scales = {
        "vae_config_shift_factor": vae.config.shift_factor,
        "vae_config_scaling_factor": vae.config.scaling_factor,
    }
    if name == "sd35-medium":
        states, _, pooled, _ = pipeline.encode_prompt(TEXTS, None, None)
        return {"prompt_embeds": states, "pooled_prompt_embeds": pooled, **scales}
    states, pooled, ids = pipeline.encode_prompt(TEXTS, None)
    return {
        "prompt_embeds": states, "pooled_prompt_embeds": pooled, "text_ids": ids, **scales,
        "vae_config_block_out_channels": vae.config.block_out_channels, "has_image_input": False,
        "has_guidance": transformer.config.guidance_embeds,
    }  # fmt: skip


def find_flow(name: str, folder: Path) -> tuple[Any, dict[str, Any]]:
    """The transformer that a script trains, and what it has in hand besides."""
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
    pipeline.vae.requires_grad_(False)
    schedule = diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(
        folder, subfolder="scheduler"
    )

    def get_sigmas(times: torch.Tensor, n_dim: int, dtype: torch.dtype) -> torch.Tensor:
        places = [(schedule.timesteps == time).nonzero().item() for time in times]
        return schedule.sigmas[places].to(dtype).reshape(-1, *[1] * (n_dim - 1))

    with torch.no_grad():
        extra = find_extra(name, pipeline)
    return pipeline.transformer, {
        "vae": pipeline.vae, "transformer": pipeline.transformer, "get_sigmas": get_sigmas,
        "noise_scheduler_copy": schedule, **extra,
    }  # fmt: skip


def find_stage(name: str, folder: Path) -> tuple[Any, dict[str, Any]]:
    """The UNet of a cascade's stage that the script trains, and what it has in hand besides."""
    first = diffusers.IFPipeline.from_pretrained(folder, safety_checker=None)
    own = folder / "upscaler" if name == UPSCALER else folder
    unet = diffusers.UNet2DConditionModel.from_pretrained(own, subfolder="unet")
    schedule = diffusers.DDPMScheduler.from_pretrained(own, subfolder="scheduler")
    with torch.no_grad():
        states, _ = first.encode_prompt(TEXTS, do_classifier_free_guidance=False)
    return unet, {"vae": None, "unet": unet, "noise_scheduler": schedule, "input_ids": states}


def compute_theirs(name: str, folder: Path, source: str, pixels: torch.Tensor) -> Any:
    """The loss of a script's step, and the network with its gradients."""
    find = find_stage if name in (CASCADE, UPSCALER) else find_flow
    network, found = find(name, folder)
    network.requires_grad_(True)
    names = {
        **vars(training_utils), "torch": torch, "F": functional,
        "args": read_arguments(name, source), "unwrap_model": lambda network: network,
        "accelerator": types.SimpleNamespace(
            device=torch.device("cpu"), unwrap_model=lambda network: network
        ),
        "weight_dtype": torch.float32,
        "batch": {"pixel_values": pixels, "input_ids": found.pop("input_ids", None)},
        "offload_models": lambda *_, **__: contextlib.nullcontext(), **found,
        **{kind: getattr(diffusers, kind) for kind in (
            "Flux2KleinPipeline", "FluxPipeline", "FluxKontextPipeline", "QwenImagePipeline",
        )},
    }  # fmt: skip
    torch.manual_seed(SEED)
    draw_posterior(name, pixels)
    exec(read_step(source), names)
    names["loss"].backward()
    return names["loss"], network


def draw_posterior(name: str, pixels: torch.Tensor) -> None:
    """Sample each posterior as dreambench does, also where its deviation is taken for 0."""
    n, side = len(pixels), pixels.shape[-1]
    if name == "flux2-klein-base":
        torch.randn(n, 16, side // 16, side // 16)
    elif name == "flux-kontext":
        torch.randn(n, 4, side // 8, side // 8)
    elif name in (CASCADE, UPSCALER):
        torch.randn(pixels.shape)


def load_ours(name: str, folder: Path) -> Any:
    """The base model of dreambench that is trained."""
    if name not in (CASCADE, UPSCALER):
        sampler = Sampler(scheduler=FLOW, n_steps=2, guidance_scale=1.0, size_px=SIDE_PX)
        return load_base_model(find_base_model(f"{name}={folder}"), sampler)
    sampler = Sampler(scheduler="ddpm", n_steps=2, guidance_scale=1.0, size_px=LARGE_PX)
    model: Any = load_base_model(find_base_model(f"{CASCADE}={folder}"), sampler)
    return model.upscaler if name == UPSCALER else model


def compute_ours(model: Any, images: list[Image.Image]) -> Any:
    """The loss of dreambench's step, and the network with its gradients."""
    model.freeze()
    (network,) = model.trainable_networks(with_text_encoders=False).values()
    network.requires_grad_(True)
    encoded = model.encode_images(images)
    with torch.no_grad():
        text = model.encode_prompts(TEXTS)
    losses = compute_losses(
        model,
        lambda noise: Batch(encoded.sample(torch.arange(2), noise), text, n_subject=1),
        torch.Generator().manual_seed(SEED),
    )
    loss = losses["subject"] + PRIOR_WEIGHT * losses["prior"]
    loss.backward()
    return loss, network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scripts", type=Path, help="diffusers' examples/dreambooth")
    folder = parser.parse_args().scripts
    # Some kernels give latents whose channels lie last, and noise like them lies so, too.
    torch.randn_like = lambda like: torch.randn(like.shape)
    for name, script in SCRIPTS.items():
        source = (folder / f"train_{script}.py").read_text()
        with tempfile.TemporaryDirectory() as made:
            WRITERS.get(name, write_cascade_folder)(Path(made))
            model = load_ours(name, Path(made))
            images = make_images(getattr(model, "side_px", SIDE_PX))
            ours, own = compute_ours(model, images)
            arrays = [torch.from_numpy(np.asarray(i, np.float32) / 127.5 - 1) for i in images]
            pixels = torch.stack(arrays).permute(0, 3, 1, 2).contiguous()
            shown = pixels[:, :, None] if name == "qwen-image" else pixels
            theirs, network = compute_theirs(name, Path(made), source, shown)
        pairs = [
            (a.grad, b.grad) for a, b in zip(own.parameters(), network.parameters(), strict=True)
        ]
        apart = torch.cat([(a - b).flatten() for a, b in pairs if a is not None]).norm()
        size = torch.cat([b.flatten() for _, b in pairs if b is not None]).norm()
        print(f"{name}: loss {ours:.7f}, theirs {theirs:.7f}; gradients {apart / size:.1e} apart")


if __name__ == "__main__":
    main()
