"""Trains the AutoencoderKL of `mini` (reduction 4, 8 latent channels).

    python -m dreambench.mini.training.autoencoder --data DIR --out DIR

Absolute error with the subject's pixels weighted up, an edge term, and a small KL term. Batches
are small because many small steps beat few large ones on a CPU. `--start FOLDER` continues from the
weights of an earlier autoencoder.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from dreambench.mini.training.data import WorldSet
from dreambench.mini.training.loop import train

LATENT_CHANNELS = 8
LAYERS: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "block_out_channels": (24, 48, 96),
    "layers_per_block": 1,
    "latent_channels": LATENT_CHANNELS,
    "norm_num_groups": 8,
    "sample_size": 64,
    "mid_block_add_attention": False,
}


def make_autoencoder() -> AutoencoderKL:
    """The untrained model."""
    return AutoencoderKL(**LAYERS)


def to_pixels(images: np.ndarray) -> Tensor:
    """uint8 (n, h, w, 3) to float (n, 3, h, w) in [-1, 1]."""
    pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()
    return pixels / 127.5 - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=14000)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--kl-weight", type=float, default=3e-4)
    parser.add_argument("--start", type=Path, help="folder of an autoencoder to go on from")
    args = parser.parse_args()
    data = WorldSet(args.data / "train")
    torch.manual_seed(0)
    model = AutoencoderKL.from_pretrained(args.start) if args.start else make_autoencoder()
    model = model.float().to(memory_format=torch.channels_last)

    def compute_loss(
        rng: np.random.Generator, noise: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        rows = np.sort(rng.choice(len(data), args.batch_size, replace=False))
        pixels = to_pixels(data.images[rows]).to(memory_format=torch.channels_last)
        mask = torch.from_numpy(data.masks[rows]).float()[:, None]
        if rng.uniform() < 0.5:
            pixels, mask = pixels.flip(-1), mask.flip(-1)
        posterior = model.encode(pixels).latent_dist
        found = model.decode(posterior.sample(noise)).sample
        weight = 1 + 2 * mask
        error = (found - pixels).abs()
        edges = sum(
            ((found - pixels).diff(dim=dim).abs() * weight.narrow(dim, 0, 63)).mean()
            for dim in (2, 3)
        )
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        loss = (error * weight).mean() + 0.4 * edges + args.kl_weight * kl
        subject = (error * mask).sum() / (3 * mask.sum() + 1e-6)
        return loss, {
            "error": float(error.mean().detach()),
            "subject_error": float(subject.detach()),
            "kl": float(kl.detach()),
        }

    train(
        model,
        compute_loss,
        out_dir=args.out,
        seed=1,
        n_steps=args.steps,
        learning_rate=args.learning_rate,
    )
    with torch.no_grad():
        rows = np.arange(0, len(data), len(data) // 2000)
        latents = torch.cat(
            [
                model.encode(to_pixels(data.images[chunk])).latent_dist.mean
                for chunk in np.array_split(rows, 40)
            ]
        )
    model.register_to_config(scaling_factor=float(1 / latents.std()))
    model.save_pretrained(args.out / "vae")


if __name__ == "__main__":
    main()
