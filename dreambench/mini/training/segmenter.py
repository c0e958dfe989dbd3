"""Trains the segmenter of `mini`: which pixels of a picture are the subject.

    python -m dreambench.mini.training.segmenter --data DIR --out DIR

A small SegFormer (Xie et al., NeurIPS 2021) on rendered pictures and their exact masks, all prompt
families among them; accessories are not the subject. Prints the mean IoU on held-out identities.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from dreambench.encoders.registry import SEGMENTERS
from dreambench.encoders.segmentation import Segmenter
from dreambench.mini.training.autoencoder import to_pixels
from dreambench.mini.training.data import WorldSet
from dreambench.mini.training.encoders import roughen
from dreambench.mini.training.loop import train

CONFIG = {
    "num_encoder_blocks": 3, "depths": [2, 2, 2], "sr_ratios": [4, 2, 1],
    "hidden_sizes": [24, 48, 96], "patch_sizes": [5, 3, 3], "strides": [2, 2, 2],
    "num_attention_heads": [1, 2, 4], "mlp_ratios": [3, 3, 3], "decoder_hidden_size": 64,
    "num_labels": 1,
}  # fmt: skip
N_HELDOUT = 1000


def make_segmenter() -> nn.Module:
    """The untrained network."""
    torch.manual_seed(6)
    return SegformerForSemanticSegmentation(SegformerConfig(**CONFIG))


def train_segmenter(data: WorldSet, out_dir: Path, *, n_steps: int, batch_size: int) -> None:
    """Trains and writes the folder that transformers loads, weights in fp16."""
    model = make_segmenter()

    def compute_loss(
        rng: np.random.Generator, noise: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        rows = np.sort(rng.choice(len(data), batch_size, replace=False))
        masks = torch.from_numpy(np.asarray(data.masks[rows])).float()
        # Mirrored here, picture and mask alike, and roughened as the encoders' pictures are.
        pixels = to_pixels(data.images[rows])
        if rng.uniform() < 0.5:
            pixels, masks = pixels.flip(-1), masks.flip(-1)
        pixels = roughen(pixels, rng)
        logits = model(pixels).logits
        logits = F.interpolate(logits, masks.shape[1:], mode="bilinear")[:, 0]
        loss = F.binary_cross_entropy_with_logits(logits, masks)
        found = logits > 0
        union = (found | masks.bool()).sum().clamp(min=1)
        return loss, {"iou": float((found & masks.bool()).sum() / union)}

    train(
        model, compute_loss, out_dir=out_dir, seed=6, n_steps=n_steps, learning_rate=2e-3,
        checkpoint_every=200, log_every=50,
    )  # fmt: skip
    model.half().save_pretrained(out_dir / "segmenter")  # type: ignore[operator]


def measure_iou(folder: Path, data: WorldSet) -> float:
    """Mean IoU over pictures of a split, by the code that scores use."""
    spec = replace(SEGMENTERS["mini-segmenter"], shipped=str(folder))
    segmenter = Segmenter(spec, device="cpu")
    rows = range(min(N_HELDOUT, len(data)))
    images = [Image.fromarray(data.images[row]) for row in rows]
    found = segmenter.find_subjects(images, "")
    shares = [
        (mask & data.masks[row]).sum() / max(1, (mask | data.masks[row]).sum())
        for row, mask in zip(rows, found, strict=True)
    ]
    return float(np.mean(shares))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch-size", type=int, default=64)
    args = parser.parse_args()
    train_segmenter(
        WorldSet(args.data / "train"), args.out, n_steps=args.steps, batch_size=args.batch_size
    )
    print(
        f"held-out IoU {measure_iou(args.out / 'segmenter', WorldSet(args.data / 'heldout')):.3f}"
    )


if __name__ == "__main__":
    main()
