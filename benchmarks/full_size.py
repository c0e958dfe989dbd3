"""What the paper's benchmark takes at its real size, measured without its weights.

    python benchmarks/full_size.py [--out reports/benchmarks/full-size]

Makes Stable Diffusion 1.5's architecture with random weights as a snapshot folder (5 GB of
temporary disk) and runs dreambench's own methods on it at 512 px on the CPU, each part in a process
of its own: full fine-tuning and LoRA (two steps each; the second is timed), and a generation of
two denoising steps. Prints peak memory and seconds, and from them and the step counts what
`dreambench plan --method dreambooth --protocol dreambench` expects. Random weights take the time
and the memory of real ones.

    python benchmarks/full_size.py --fake [--out reports/benchmarks/full-size-memory]

Runs the methods on tensors without content, which take no memory: what a step of training and an
image hold on each base model, beside the estimate, and what ten methods leave behind.

    python benchmarks/full_size.py --count

Counts, on tensors without content, the parameters and the activations of a training step for each
base model: the figures of `dreambench/base_models/registry.py`, which `dreambench doctor` uses.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import flow_sizes
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    StableUnCLIPImg2ImgPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import (
    StableUnCLIPImageNormalizer,
)
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from dreambench.base_models import deepfloyd_if
from dreambench.base_models.catalogue import BASE_MODELS
from dreambench.base_models.registry import find_family
from dreambench.base_models.spec import BaseModel
from dreambench.base_models.stable_diffusion import UNET_LAYERS
from dreambench.config.protocol import load_protocol
from dreambench.config.recipe import load_recipe
from dreambench.datasets.index import find_dataset
from dreambench.datasets.subjects import list_subjects, load_subjects
from dreambench.methods.base import Context
from dreambench.methods.registry import find_method, read_settings
from dreambench.preflight.cost_estimate import make_estimate
from dreambench.storage.files import write_bytes, write_json

# From the config files of the models on the hub.
UNETS = {
    "mini": UNet2DConditionModel.load_config(BASE_MODELS["mini"].location, subfolder="unet"),
    "sd15": {"sample_size": 64, "cross_attention_dim": 768},
    "sd21": {
        "sample_size": 96, "cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
    },
    "sd21-unclip": {
        "sample_size": 96, "cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True, "class_embed_type": "projection",
        "projection_class_embeddings_input_dim": 2048,
    },
    "sdxl": {
        "sample_size": 128, "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": [1, 2, 10], "attention_head_dim": [5, 10, 20],
        "cross_attention_dim": 2048, "use_linear_projection": True,
        "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    # Stage I of a cascade on pixels.
    "deepfloyd-if": {
        "sample_size": 64, "in_channels": 3, "out_channels": 6, "layers_per_block": 3,
        "block_out_channels": [704, 1408, 2112, 2816], "attention_head_dim": 64,
        "down_block_types": ["ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * 3],
        "up_block_types": [*["SimpleCrossAttnUpBlock2D"] * 3, "ResnetUpsampleBlock2D"],
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn", "cross_attention_dim": 2816,
        "encoder_hid_dim": 4096, "addition_embed_type": "text", "act_fn": "gelu",
        "addition_embed_type_num_heads": 64, "cross_attention_norm": "group_norm",
        "resnet_time_scale_shift": "scale_shift",
    },
}  # fmt: skip
TEXT_S = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12,
}  # fmt: skip
TEXT_L = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23,
    "num_attention_heads": 16,
}  # fmt: skip
# CLIP ViT-H/14's half for images, which tells a model of the unCLIP kind of an image.
IMAGE_H = {
    "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32,
    "num_attention_heads": 16, "patch_size": 14, "projection_dim": 1024,
}  # fmt: skip
TEXTS = {
    "sd15": [TEXT_S],
    "sd21": [TEXT_L],
    "sd21-unclip": [TEXT_L],
    "sdxl": [
        TEXT_S,
        {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32,
         "num_attention_heads": 20, "projection_dim": 1280},
    ],
}  # fmt: skip
VAE = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
PARTS = {
    "full fine-tuning step, 1 + 1 images": "dreambooth",
    "LoRA step, 1 + 1 images": "dreambooth-lora",
    "generation, 2 denoising steps, 1 image": "class-only",
}
LIMIT_GB = 20


def make_networks(name: str) -> dict[str, torch.nn.Module]:
    """A base model's networks with random weights, by the names of a pipeline's parts."""
    networks: dict[str, torch.nn.Module] = {
        "unet": UNet2DConditionModel.from_config(UNETS[name]),
        "vae": AutoencoderKL(**VAE, scaling_factor=0.13025 if name == "sdxl" else 0.18215),
    }
    for suffix, config in zip(("", "_2"), TEXTS[name], strict=False):
        kind = CLIPTextModelWithProjection if "projection_dim" in config else CLIPTextModel
        networks[f"text_encoder{suffix}"] = kind(CLIPTextConfig(**config))
    if UNETS[name].get("class_embed_type"):
        networks["image_encoder"] = CLIPVisionModelWithProjection(CLIPVisionConfig(**IMAGE_H))
        networks["image_normalizer"] = StableUnCLIPImageNormalizer(IMAGE_H["projection_dim"])
    return networks


def make_pipeline(name: str, networks: dict[str, torch.nn.Module]) -> Any:
    """A pipeline of networks, with mini's tokenizer."""
    tokenizer = CLIPTokenizer.from_pretrained(
        BASE_MODELS["mini"].location, subfolder="tokenizer", model_max_length=77
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1,
        clip_sample=False, set_alpha_to_one=False,
    )  # fmt: skip
    parts: dict[str, Any] = {"tokenizer": tokenizer, "scheduler": scheduler}
    if "image_encoder" in networks:
        return StableUnCLIPImg2ImgPipeline(
            **networks, **parts, feature_extractor=CLIPImageProcessor(),
            image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        )  # fmt: skip
    if "text_encoder_2" in networks:
        return StableDiffusionXLPipeline(
            **networks, **parts, tokenizer_2=tokenizer, add_watermarker=False
        )
    return StableDiffusionPipeline(
        **networks, **parts, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip


def make_snapshot(folder: Path, name: str = "sd15", *, device: str = "cpu") -> None:
    """A base model with random weights in the hub's layout; they are sampled on `device`."""
    torch.manual_seed(0)
    with torch.device(device):
        networks = make_networks(name)
    # In one file a network, as the hub has them.
    make_pipeline(name, networks).save_pretrained(folder, max_shard_size="20GB")


def run_part(recipe_name: str, base: BaseModel, work_dir: Path) -> dict[str, float]:
    """One part, in this process: seconds of a step or of one network call, and peak memory."""
    told: list[tuple[str, float]] = []
    sampler = base.choose_sampler(load_protocol("dreambench").sampler)
    sampler = sampler.model_copy(update={"n_steps": 2})
    recipe = load_recipe(recipe_name)
    settings = read_settings(recipe, "sd15")
    method_class = find_method(recipe.method)
    tunes = method_class.tunes
    if tunes:
        changes = {"n_steps": 2, "n_class_images": 1, "gradient_checkpointing": True}
        settings = settings.model_copy(update=changes)
    context = Context(
        base_model=base, sampler=sampler, device="cpu", precision="fp32", batch_size=1,
        cache_dir=work_dir / "cache",
        progress=lambda what, done, total: told.append((what, time.monotonic())),
    )  # fmt: skip
    method = method_class(settings, context)
    (subject,) = load_subjects(find_dataset("mini"), names=["dog"])
    (work_dir / recipe_name).mkdir()
    started = time.monotonic()
    method.fit(subject, work_dir / recipe_name, seed=0)
    steps = [moment for what, moment in told if what.startswith("training")]
    if tunes:
        seconds = steps[1] - steps[0]
    else:
        generator = method.load(subject, work_dir / recipe_name)
        started = time.monotonic()
        (image,) = generator.generate(["a photo of a {subject}"], [0])
        assert image.size == (sampler.size_px, sampler.size_px)
        seconds = time.monotonic() - started
    peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": round(seconds, 1), "peak_memory_gb": round(peak_kb * 1024 / 1e9, 2)}


def measure(out: Path) -> None:
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        base_dir = Path(folder) / "sd15"
        make_snapshot_process = [sys.executable, __file__, "--part", "snapshot", "--base", base_dir]
        subprocess.run(make_snapshot_process, check=True)
        for title, recipe_name in PARTS.items():
            words = ["--part", recipe_name, "--base", base_dir]
            done = subprocess.run(
                [sys.executable, __file__, *words], check=True, stdout=subprocess.PIPE, text=True
            )
            found[title] = json.loads(done.stdout.splitlines()[-1])
            print(f"{title}: {found[title]}", flush=True)
    text = make_page(found)
    print(text)
    write_json(out.with_suffix(".json"), {"parts": found, "cores": os.cpu_count()})
    write_bytes(out.with_suffix(".md"), text.encode())


def make_page(found: dict[str, dict[str, float]]) -> str:
    rows = ["| part | seconds | peak memory, GB |", "|:--|--:|--:|"]
    rows += [
        f"| {title} | {part['seconds']:.1f} | {part['peak_memory_gb']:.1f} |"
        for title, part in found.items()
    ]
    worst = max(part["peak_memory_gb"] for part in found.values())
    full, lora, drawing = found.values()
    protocol = load_protocol("dreambench")
    subjects = list_subjects(find_dataset("dreambooth"))
    plans = []
    for recipe_name, step in (("dreambooth", full), ("dreambooth-lora", lora)):
        recipe = load_recipe(recipe_name)
        plan = make_estimate(protocol, recipe, BASE_MODELS["sd15"], subjects)
        # Two denoising steps with guidance are four calls; decoding the image is counted with them.
        hours = plan.n_network_calls * drawing["seconds"] / 4 / 3600
        tuning = plan.n_optimizer_steps * step["seconds"] / 3600
        plans.append(
            f"| {recipe_name} | {plan.n_images:,} + {plan.n_prior_images:,} "
            f"| {plan.n_class_images:,} | {plan.n_optimizer_steps:,} | {plan.n_network_calls:,} "
            f"| {plan.n_bytes / 1e9:.1f} GB | {BASE_MODELS['sd15'].n_download_bytes / 1e9:.1f} GB "
            f"| {tuning:,.0f} h | {hours:,.0f} h |"
        )
    heads = ["baseline", "images + those for PRES", "class images", "optimizer steps",
             "network calls", "disk", "download", "training here", "generating here"]  # fmt: skip
    return "\n".join(
        [
            "# Full size on this machine",
            "",
            "Made by `python benchmarks/full_size.py --out reports/benchmarks/full-size` on "
            f"{os.cpu_count()} CPU cores, without a GPU: Stable Diffusion 1.5's architecture with "
            "random weights, 512 px, fp32, gradient checkpointing, the photo and the class image "
            "of a DreamBooth step.",
            "",
            *rows,
            "",
            f"All parts stay {'inside' if worst < LIMIT_GB else 'OUTSIDE'} {LIMIT_GB} GB.",
            "",
            "With these speeds the paper's protocol (`dreambench plan --method ... --protocol "
            "dreambench`) would take here, which is why it wants a GPU:",
            "",
            "| " + " | ".join(heads) + " |",
            "|:--" + "|--:" * (len(heads) - 1) + "|",
            *plans,
            "",
        ]
    )


def count(name: str) -> dict[str, Any]:
    """Parameters, and bytes of activations of one image in a training step in fp32."""
    with FakeTensorMode():
        if name in TEXTS:
            networks = make_networks(name)
        else:
            networks = {"unet": UNet2DConditionModel.from_config(UNETS[name])}
    unet = networks.pop("unet")
    layers = deepfloyd_if.UNET_LAYERS if name == "deepfloyd-if" else UNET_LAYERS
    networks.pop("image_normalizer", None)
    offloaded = find_family(BASE_MODELS[name].family).offloaded_networks
    n_offloaded = sum(p.numel() for part in offloaded for p in networks[part].parameters())
    texts = [network for part, network in networks.items() if part.startswith("text_encoder")]
    others = list(networks.values())
    keys_and_values = [
        module.weight
        for key, module in unet.named_modules()
        if key.endswith(("attn2.to_k", "attn2.to_v"))
    ]
    return {
        "n_download_bytes": BASE_MODELS[name].n_download_bytes,
        "n_denoiser_parameters": sum(p.numel() for p in unet.parameters()),
        "n_other_parameters": sum(p.numel() for part in others for p in part.parameters()),
        "n_text_parameters": sum(p.numel() for part in texts for p in part.parameters()),
        "n_offloaded_parameters": n_offloaded,
        **flow_sizes.count_adapted(unet, layers),
        "n_cross_attention_parameters": sum(weight.numel() for weight in keys_and_values),
        "activation_bytes": _trace_step(name, checkpointing=False),
        "checkpointed_bytes": _trace_step(name, checkpointing=True),
    }


def _trace_step(name: str, *, checkpointing: bool) -> int:
    """Peak of all that is neither weight nor gradient of a weight."""
    from fake_networks import Held  # noqa: PLC0415  (imports this file)

    config = UNETS[name]
    held = Held()
    with FakeTensorMode(), held:
        unet = UNet2DConditionModel.from_config(config)
        if checkpointing:
            unet.enable_gradient_checkpointing()
        unet.train()
        for weight in unet.parameters():
            weight.register_post_accumulate_grad_hook(lambda it: setattr(it, "grad", None))
        side = config["sample_size"]
        width = config.get("encoder_hid_dim", config["cross_attention_dim"])
        extra = {}
        if config.get("addition_embed_type") == "text_time":
            conditions = {"text_embeds": torch.randn(1, 1280), "time_ids": torch.randn(1, 6)}
            extra = {"added_cond_kwargs": conditions}
        if config.get("class_embed_type"):
            n_numbers = config["projection_class_embeddings_input_dim"]
            extra = {"class_labels": torch.randn(1, n_numbers)}
        before = held.now["cpu"]
        held.reset_peak()
        words = torch.randn(1, 77, width)
        latents = torch.randn(1, config.get("in_channels", 4), side, side)
        times = torch.zeros(1, dtype=torch.long)
        loss = unet(latents, times, encoder_hidden_states=words, **extra).sample.pow(2).mean()
        # Without checkpointing the forward pass is the peak; with it a block that is made anew.
        if checkpointing:
            loss.backward()
        return held.peak["cpu"] - before


FAKES = [
    *((base, recipe, precision) for base in ("sd15", "sd21", "sdxl")
      for recipe in ("dreambooth", "dreambooth-lora") for precision in ("fp32", "bf16")),
    *(("sd21-unclip", "image-variation", precision) for precision in ("fp32", "bf16")),
]  # fmt: skip
FAKE_HEADS = (
    "base model, method, precision", "loaded, GB", "peak of a step, GB",
    "its forward pass on a GPU, GB", "peak of an image, GB", "on a GPU, GB",
    "`dreambench plan` says, GB",
)  # fmt: skip
FAKE_PAGE = """# What full size holds, counted without it

Made by `python benchmarks/full_size.py --fake --out reports/benchmarks/full-size-memory` on tensors
without content (torch's FakeTensorMode): dreambench's own methods with their recipes, a subject's
training and an image of the base model's size. A step on a GPU ends before its backward pass, which
asks for a real GPU; none has run it. dtypes of weights are in
[full-size-memory.json](full-size-memory.json).

{rows}

Ten methods one after another in a worker of a run, with the networks of Stable Diffusion 1.5 at
mini's 64 px:

| method | peak, GB | held afterwards, GB |
|:--|--:|--:|
{ten}
"""


def measure_fakes(out: Path) -> None:
    """Bytes on tensors without content."""
    import fake_networks  # noqa: PLC0415  (imports this file)

    found = {}
    for base, recipe, precision in FAKES:
        found[f"{base}, {recipe}, {precision}"] = one = {
            device: fake_networks.measure_method(base, recipe, precision=precision, device=device)
            for device in ("cpu", "cuda")
        }
        print(base, recipe, precision, one, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        held = fake_networks.hold_ten(Path(folder))
    ten = dict(zip(fake_networks.TEN, held, strict=True))
    write_json(out.with_suffix(".json"), {"methods": found, "ten": ten})
    write_bytes(out.with_suffix(".md"), make_fake_page(found, ten).encode())


def make_fake_page(
    found: dict[str, dict[str, dict[str, Any]]], ten: dict[str, dict[str, int]]
) -> str:
    """The bytes as tables."""
    rows = [f"| {' | '.join(FAKE_HEADS)} |", "|:--|--:|--:|--:|--:|--:|--:|"]
    for name, one in found.items():
        values = [
            one["cpu"]["held_bytes"], one["cpu"].get("step_bytes"),
            one["cuda"].get("forward_bytes"), one["cpu"]["draw_bytes"], one["cuda"]["draw_bytes"],
            one["cpu"]["estimated_bytes"],
        ]  # fmt: skip
        cells = ["-" if value is None else f"{value / 1e9:.1f}" for value in values]
        rows.append(f"| {' | '.join([name, *cells])} |")
    lines = [
        f"| {name} | {row['peak_bytes'] / 1e9:.1f} | {row['held_bytes'] / 1e9:.1f} |"
        for name, row in ten.items()
    ]
    return FAKE_PAGE.format(rows="\n".join(rows), ten="\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--count", action="store_true")
    parser.add_argument("--fake", action="store_true")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--base", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--device", default="cpu", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.count:
        for name in UNETS:
            print(name, json.dumps(count(name)), flush=True)
        for name in flow_sizes.MAKERS:
            print(name, json.dumps(flow_sizes.count(name)), flush=True)
    elif args.fake:
        measure_fakes(args.out or Path("reports/benchmarks/full-size-memory"))
    elif args.part == "snapshot":
        make_snapshot(args.base, args.base.name, device=args.device)
    elif args.part:
        base = BaseModel("sd15", str(args.base))
        print(json.dumps(run_part(args.part, base, args.base.parent)))
    else:
        measure(args.out or Path("reports/benchmarks/full-size"))


if __name__ == "__main__":
    main()
