"""Trains a judge of views and accessories, by which mini-flow's images are counted.

    python -m dreambench.mini.training.judge --out DIR

Mini's CLIP finds the view in half of all real renders and the accessory in three of four, which is
too few to count others' images by. This is a small convolutional network that is told the class and
chooses among all views and none, and among all accessories and none. It is part of no metric.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dreambench.mini.training.autoencoder import to_pixels
from dreambench.mini.training.data import make_identity
from dreambench.mini.training.loop import train
from dreambench.mini.world.accessories import ACCESSORIES
from dreambench.mini.world.bodies import CLASSES, LIVE
from dreambench.mini.world.renderer import VIEWS, Shot, render
from dreambench.mini.world.scenes import SCENES

LABELS: dict[str, tuple[str | None, ...]] = {
    "view": (None, *VIEWS),
    "accessory": (None, *ACCESSORIES),
}
WIDTH = 32
P_SCENE = 0.8


class Judge(nn.Module):
    """Four convolutions, a grid of 2 x 2 averages, and a head for each kind of label."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (3, WIDTH, 2 * WIDTH, 3 * WIDTH, 3 * WIDTH)
        layers: list[nn.Module] = []
        for place, (n_in, n_out) in enumerate(pairwise(sizes)):
            stride = 1 if place == 3 else 2
            layers += [nn.Conv2d(n_in, n_out, 3, stride, 1), nn.GroupNorm(8, n_out), nn.SiLU()]
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.hidden = nn.Linear(4 * sizes[-1] + len(CLASSES), 128)
        self.heads = nn.ModuleDict({kind: nn.Linear(128, len(LABELS[kind])) for kind in LABELS})

    def forward(self, pixels: Tensor, classes: Tensor, kind: str) -> Tensor:
        """Scores of the labels of a kind (n, k); pixels (n, 3, 64, 64), numbers of classes (n,)."""
        told = F.one_hot(classes, len(CLASSES)).float()
        hidden = F.silu(self.hidden(torch.cat([self.body(pixels), told], dim=1)))
        scores: Tensor = self.heads[kind](hidden)
        return scores

    @torch.inference_mode()
    def share_found(self, images: Sequence[Image.Image], shots: Sequence[Shot], kind: str) -> float:
        """How often the view or the accessory of a shot is found among all, and none."""
        pixels = to_pixels(np.stack([np.asarray(image) for image in images]))
        found = self(pixels, number_classes(shots), kind).argmax(1)
        return float((found == number_labels(shots, kind)).float().mean())


def number_classes(shots: Sequence[Shot]) -> Tensor:
    """Places of shots' classes among all (n,)."""
    return torch.tensor([list(CLASSES).index(shot.identity.class_name) for shot in shots])


def number_labels(shots: Sequence[Shot], kind: str) -> Tensor:
    """Places of shots' labels among those of a kind (n,)."""
    return torch.tensor([LABELS[kind].index(getattr(shot, kind)) for shot in shots])


def load_judge(folder: Path) -> Judge:
    """A trained judge."""
    judge = Judge()
    judge.load_state_dict(load_file(folder / "model.safetensors"))
    return judge.eval()


def draw_shots(
    kind: str, n: int, rng: np.random.Generator, *, split: str, n_identities: int
) -> list[Shot]:
    """Shots in which each label of a kind is as likely as any other."""
    found = []
    for _ in range(n):
        identity = make_identity(split, int(rng.integers(n_identities)))
        while kind == "accessory" and identity.class_name not in LIVE:
            identity = make_identity(split, int(rng.integers(n_identities)))
        scene = str(rng.choice(list(SCENES))) if rng.uniform() < P_SCENE else None
        label = LABELS[kind][rng.integers(len(LABELS[kind]))]
        found.append(Shot(identity, int(rng.integers(2**31)), scene, **{kind: label}))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch-size", type=int, default=16, help="of each kind of label")
    args = parser.parse_args()
    torch.manual_seed(0)
    judge = Judge()

    def compute_loss(
        rng: np.random.Generator, noise: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        losses = {}
        for kind in LABELS:
            shots = draw_shots(kind, args.batch_size, rng, split="train", n_identities=9996)
            pixels = to_pixels(np.stack([np.asarray(render(shot).image) for shot in shots]))
            scores = judge(pixels, number_classes(shots), kind)
            losses[kind] = F.cross_entropy(scores, number_labels(shots, kind))
        parts = {kind: float(it.detach()) for kind, it in losses.items()}
        return torch.stack(list(losses.values())).sum(), parts

    train(
        judge, compute_loss, out_dir=args.out, seed=13, n_steps=args.steps, learning_rate=2e-3,
        n_warmup_steps=50, ema_decay=0.99, checkpoint_every=100, log_every=50,
    )  # fmt: skip
    (args.out / "judge").mkdir(exist_ok=True)
    save_file(judge.state_dict(), args.out / "judge" / "model.safetensors")
    for kind in LABELS:
        shots = draw_shots(kind, 200, np.random.default_rng(14), split="heldout", n_identities=420)
        share = judge.share_found([render(shot).image for shot in shots], shots, kind)
        print(f"{kind}: found in {share:.3f} of {len(shots)} held-out renders")


if __name__ == "__main__":
    main()
