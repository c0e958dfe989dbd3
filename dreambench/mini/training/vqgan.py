"""Trains the VQGAN of `mini` (Esser et al., CVPR 2021, arXiv 2012.09841): reduction 4, 512 codes.

    python -m dreambench.mini.training.vqgan --data DIR --start BASE/vae --out DIR

Encoder and decoder start as those of mini's autoencoder (`--start`), the codebook as the k-means
centres of its latents. The losses are the paper's: absolute error and a perceptual one, the
codebook's, and from `--adversary-from` on those of a patch discriminator (hinge). The perceptual
loss reads features of mini's segmenter, which no similarity is measured with; the adversarial loss
has a fixed weight, where the paper computes one from gradients.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, VQModel
from scipy.cluster.vq import kmeans2
from torch import Tensor, nn

from dreambench.encoders.registry import SEGMENTERS
from dreambench.encoders.segmentation import Segmenter
from dreambench.mini.training.autoencoder import LATENT_CHANNELS, LAYERS, to_pixels
from dreambench.mini.training.data import WorldSet
from dreambench.mini.training.loop import train
from dreambench.storage.shipped import PACKAGE_DIR

N_CODES = 512
N_IMAGES_FOR_CODES = 300
PERCEPTUAL_WEIGHT = 0.3
ADVERSARIAL_WEIGHT = 0.08


class Trained(nn.Module):
    """What one optimizer trains: the VQGAN, and the discriminator that is left behind."""

    def __init__(self, vqgan: VQModel) -> None:
        super().__init__()
        self.vqgan = vqgan
        self.discriminator = make_discriminator()


def make_discriminator(width: int = 32) -> nn.Sequential:
    """Return a patch discriminator (Isola et al., CVPR 2017): pixels to logits (n, 1, 14, 14).

    Group normalisation, since a batch here is a handful of images.
    """
    layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
    for n_in, n_out, stride in ((width, 2 * width, 2), (2 * width, 4 * width, 1)):
        layers += [
            nn.Conv2d(n_in, n_out, 4, stride, 1), nn.GroupNorm(8, n_out), nn.LeakyReLU(0.2),
        ]  # fmt: skip
    return nn.Sequential(*layers, nn.Conv2d(4 * width, 1, 4, 1, 1))


def make_vqgan() -> VQModel:
    """Return the untrained model; its layers are those of the autoencoder."""
    return VQModel(
        **LAYERS,
        num_vq_embeddings=N_CODES,
        vq_embed_dim=LATENT_CHANNELS,
    )


@torch.no_grad()
def start_from(model: VQModel, folder: Path, data: WorldSet) -> None:
    """Give a VQGAN the autoencoder's layers, and a codebook that fits its latents."""
    autoencoder = AutoencoderKL.from_pretrained(folder).float()
    state = dict(autoencoder.state_dict())
    for name in ("encoder.conv_out", "quant_conv"):
        for part in ("weight", "bias"):
            # The second half of the outputs are log variances.
            state[f"{name}.{part}"] = state[f"{name}.{part}"][:LATENT_CHANNELS]
    # `quant_conv` mixes means and log variances; the encoder's last layer takes it in.
    mix = autoencoder.quant_conv.weight[:LATENT_CHANNELS, :, 0, 0]
    last = autoencoder.encoder.conv_out
    state["encoder.conv_out.weight"] = torch.einsum("oi,ichw->ochw", mix, last.weight)
    state["encoder.conv_out.bias"] = mix @ last.bias + autoencoder.quant_conv.bias[:LATENT_CHANNELS]
    state["quant_conv.weight"] = torch.eye(LATENT_CHANNELS)[:, :, None, None]
    state["quant_conv.bias"] = torch.zeros(LATENT_CHANNELS)
    state["quantize.embedding.weight"] = model.quantize.embedding.weight
    model.load_state_dict(state)
    rows = np.linspace(0, len(data) - 1, N_IMAGES_FOR_CODES).astype(int)
    latents = model.encode(to_pixels(data.images[rows])).latents
    points = latents.permute(0, 2, 3, 1).reshape(-1, LATENT_CHANNELS).numpy()
    centres, _ = kmeans2(points, N_CODES, iter=12, minit="++", seed=7)
    model.quantize.embedding.weight.copy_(torch.from_numpy(centres))


class Perceptual:
    """Distance of two batches of images by the feature maps of mini's segmenter."""

    def __init__(self) -> None:
        network = Segmenter(SEGMENTERS["mini-segmenter"], device="cpu").model
        self.network = network.segformer.float().requires_grad_(False).eval()

    def maps(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Return feature maps of pixels in [-1, 1], channels of unit length."""
        found = self.network(pixels, output_hidden_states=True).hidden_states
        return tuple(F.normalize(one, dim=1) for one in found)

    def __call__(self, found: Tensor, wanted: Tensor) -> Tensor:
        with torch.no_grad():
            targets = self.maps(wanted)
        pairs = zip(self.maps(found), targets, strict=True)
        return torch.stack([(a - b).square().sum(1).mean() for a, b in pairs]).mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--start", type=Path, default=PACKAGE_DIR / "mini/weights/base/vae",
        help="folder of the autoencoder whose layers it starts with",
    )  # fmt: skip
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=4e-4)
    parser.add_argument("--adversary-from", type=int, default=500)
    args = parser.parse_args()
    data = WorldSet(args.data / "train")
    torch.manual_seed(7)
    vqgan = make_vqgan()
    start_from(vqgan, args.start, data)
    model = Trained(vqgan).to(memory_format=torch.channels_last)
    judge: Any = model.discriminator
    perceptual = Perceptual()

    def compute_loss(
        rng: np.random.Generator, noise: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        rows = np.sort(rng.choice(len(data), args.batch_size, replace=False))
        pixels = to_pixels(data.images[rows]).to(memory_format=torch.channels_last)
        mask = torch.from_numpy(np.asarray(data.masks[rows])).float()[:, None]
        if rng.uniform() < 0.5:
            pixels, mask = pixels.flip(-1), mask.flip(-1)
        answer = vqgan(pixels)
        found = answer.sample
        error = (found - pixels).abs()
        likeness = perceptual(found, pixels)
        loss = (error * (1 + 2 * mask)).mean() + PERCEPTUAL_WEIGHT * likeness + answer.commit_loss
        parts = {
            "error": float(error.mean().detach()),
            "subject_error": float(((error * mask).sum() / (3 * mask.sum() + 1e-6)).detach()),
            "perceptual": float(likeness.detach()),
            "codes": float(answer.commit_loss.detach()),
        }
        # The discriminator learns from the images alone, the VQGAN from a frozen discriminator.
        of_real, of_made = judge(pixels), judge(found.detach())
        loss = loss + (F.relu(1 - of_real) + F.relu(1 + of_made)).mean()
        frozen = {name: value.detach() for name, value in judge.named_parameters()}
        fooled = -torch.func.functional_call(judge, frozen, (found,)).mean()
        ramp = min(1.0, max(0.0, (noise.initial_seed() % 10**7 - args.adversary_from) / 400))
        loss = loss + ramp * ADVERSARIAL_WEIGHT * fooled
        return loss, parts | {
            "told_apart": float(((of_real > 0).float().mean() + (of_made < 0).float().mean()) / 2)
        }

    train(
        model, compute_loss, out_dir=args.out, seed=7, n_steps=args.steps,
        learning_rate=args.learning_rate, betas=(0.5, 0.9), ema_decay=0.998, checkpoint_every=250,
    )  # fmt: skip
    vqgan.half().save_pretrained(args.out / "vqgan")


if __name__ == "__main__":
    main()
