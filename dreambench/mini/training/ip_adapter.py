"""Trains mini's image adapter: how a photo of a subject steers the frozen base model.

    python -m dreambench.mini.training.ip_adapter --data DIR --latents FILE --out DIR

IP-Adapter (Ye et al., 2023, arXiv 2308.06721) with the projection of its "full" variant, in the
authors' file layout. It is shown another photo of the subject than the one that it learns to
generate, so that it carries over what the two have in common. Photo and caption are left out now
and then, for guidance and for generating from the photo alone. The benchmark's identities are not
in the data.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from dreambench.base_models.catalogue import BASE_MODELS
from dreambench.base_models.stable_diffusion import StableDiffusion
from dreambench.methods.image_prompting.adapters import CellEncoder, make_mini_encoder
from dreambench.mini.training.autoencoder import to_pixels
from dreambench.mini.training.base_model import draw_times, load_latents, weigh_subject
from dreambench.mini.training.data import SHOTS_PER_IDENTITY, WorldSet, find_photos
from dreambench.mini.training.loop import train

P_NO_CAPTION = 0.15
P_NO_PHOTO = 0.05
P_NEITHER = 0.05
# The photo's embedding alone, without its cells: for image variations.
P_NO_CELLS = 0.25
FEATURE_WIDTH = 192


def make_untrained(unet: Any) -> dict[str, dict[str, Tensor]]:
    """An adapter in the authors' layout that begins as the text's keys and values."""
    modules = dict(unet.named_modules())
    attentions = [
        modules[name.removesuffix(".processor")]
        for name in unet.attn_processors
        if name.endswith("attn2.processor")
    ]
    weights = {}
    for index, layer in enumerate(attentions):
        for kind in ("k", "v"):
            start = getattr(layer, f"to_{kind}").weight.detach().clone()
            weights[f"{2 * index + 1}.to_{kind}_ip.weight"] = start
    text_width = attentions[0].to_k.weight.shape[1]
    generator = torch.Generator().manual_seed(8)

    def draw(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=generator) * columns**-0.5

    projection = {
        "proj.0.weight": draw(FEATURE_WIDTH, FEATURE_WIDTH),
        "proj.0.bias": torch.zeros(FEATURE_WIDTH),
        "proj.2.weight": draw(text_width, FEATURE_WIDTH),
        "proj.2.bias": torch.zeros(text_width),
        "proj.3.weight": torch.ones(text_width),
        "proj.3.bias": torch.zeros(text_width),
    }
    return {"image_proj": projection, "ip_adapter": weights}


def read_trained(unet: Any) -> dict[str, Tensor]:
    """The adapter of a UNet as one flat file in the authors' layout, fp16."""
    (layer,) = unet.encoder_hid_proj.image_projection_layers
    names = {"ff.net.0.proj": "proj.0", "ff.net.2": "proj.2", "norm": "proj.3"}
    found = {}
    for key, value in layer.state_dict().items():
        module, _, kind = key.rpartition(".")
        found[f"image_proj.{names[module]}.{kind}"] = value
    processors = unet.attn_processors.items()
    chosen = [processor for name, processor in processors if name.endswith("attn2.processor")]
    for index, processor in enumerate(chosen):
        for key, value in processor.state_dict().items():
            found[f"ip_adapter.{2 * index + 1}.{key.replace('_ip.0', '_ip')}"] = value
    return {key: value.detach().half().contiguous() for key, value in found.items()}


@torch.inference_mode()
def load_tokens(data: WorldSet, encoder: CellEncoder, path: Path) -> NDArray[np.float16]:
    """Tokens of every image (n, tokens, d), made once and kept at `path`."""
    if not path.exists():
        rows = np.array_split(np.arange(len(data)), len(data) // 64)
        found = [
            encoder(to_pixels(data.images[chunk])).hidden_states[0].half().numpy() for chunk in rows
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path.with_suffix(".part.npy"), np.concatenate(found))
        path.with_suffix(".part.npy").replace(path)
    return np.load(path, mmap_mode="r")


def attach_untrained(unet: Any) -> nn.ModuleList:
    """Put an adapter that begins as the text's keys and values on a UNet; its parts, to train."""
    unet._load_ip_adapter_weights(make_untrained(unet), low_cpu_mem_usage=False)
    unet.to(memory_format=torch.channels_last)
    trained = nn.ModuleList(
        [
            unet.encoder_hid_proj,
            *(p for name, p in unet.attn_processors.items() if name.endswith("attn2.processor")),
        ]
    )
    trained.requires_grad_(True)
    return trained


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--latents", type=Path, required=True, help="of the base model's training")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    data = WorldSet(args.data / "train")
    pipeline = StableDiffusion.load_pipeline(BASE_MODELS["mini"], torch.device("cpu"))
    latents = load_latents(data, pipeline.vae, args.latents)
    encoder, _ = make_mini_encoder("cpu")
    tokens = load_tokens(data, encoder, args.out / "tokens.npy")
    with torch.inference_mode():
        grey = torch.zeros(1, *to_pixels(data.images[:1]).shape[1:])
        no_photo = encoder(grey).hidden_states[0].clone()
    photos = find_photos(data)
    own = [photos[row // SHOTS_PER_IDENTITY] for row in range(len(data))]
    targets = np.array([row for row in range(len(data)) if np.any(own[row] != row)])
    unet = pipeline.unet
    for part in (unet, pipeline.text_encoder):
        part.requires_grad_(False)
    trained = attach_untrained(unet)
    schedule = DDPMScheduler.from_config(pipeline.scheduler.config)
    tokenizer = pipeline.tokenizer

    def compute_loss(
        rng: np.random.Generator, noise: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        rows = np.sort(rng.choice(targets, args.batch_size, replace=False))
        texts, shown = [], []
        for row in rows:
            choice = rng.uniform()
            no_text = choice < P_NO_CAPTION + P_NEITHER
            hidden = P_NO_CAPTION <= choice < P_NO_CAPTION + P_NEITHER + P_NO_PHOTO
            texts.append("" if no_text else data.caption(row, rng))
            reference = rng.choice(own[row][own[row] != row])
            found = no_photo[0] if hidden else torch.from_numpy(tokens[reference]).float()
            if rng.uniform() < P_NO_CELLS:
                found = found[:1].expand_as(found)
            shown.append(found)
        ids = tokenizer(
            texts, padding="max_length", max_length=tokenizer.model_max_length,
            truncation=True, return_tensors="pt",
        ).input_ids  # fmt: skip
        clean = torch.from_numpy(latents[rows].astype(np.float32))
        eps = torch.randn(clean.shape, generator=noise)
        times = draw_times(len(clean), noise)
        noisy = schedule.add_noise(clean, eps, times).to(memory_format=torch.channels_last)
        with torch.no_grad():
            text = pipeline.text_encoder(ids)[0]
        found = unet(
            noisy, times, encoder_hidden_states=text,
            added_cond_kwargs={"image_embeds": [torch.stack(shown)[:, None]]},
        ).sample  # fmt: skip
        error = (found - schedule.get_velocity(clean, eps, times)).square().mean(1, keepdim=True)
        return weigh_subject(error, data.masks[rows])

    train(
        trained, compute_loss, out_dir=args.out, seed=8, n_steps=args.steps,
        learning_rate=args.learning_rate, checkpoint_every=200, log_every=50,
    )  # fmt: skip
    folder = args.out / "ip-adapter"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(read_trained(unet), folder / "ip_adapter.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
