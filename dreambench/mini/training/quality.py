"""Measures mini's models on identities and captions held out of training.

    python -m dreambench.mini.training.quality --out reports/mini

Writes quality.json and quality.md with each figure beside what was asked of it, and the pictures
autoencoder.png (originals above reconstructions), base-model.png and mini-pixel.png (every class in
every scene).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import rankdata

from dreambench.base_models.catalogue import BASE_MODELS
from dreambench.base_models.registry import load_base_model
from dreambench.base_models.stable_diffusion import StableDiffusion
from dreambench.config.protocol import load_protocol
from dreambench.encoders.registry import load_encoder
from dreambench.mini.training.autoencoder import to_pixels
from dreambench.mini.training.data import make_identity
from dreambench.mini.training.figures import Figure, write_figures
from dreambench.mini.world.bodies import CLASSES
from dreambench.mini.world.renderer import SIZE_PX, Shot, render
from dreambench.mini.world.scenes import SCENES
from dreambench.storage.files import make_dir
from dreambench.types import Features

N_IDENTITIES_PER_CLASS = 20
N_PHOTOS = 4
N_IMAGES_PER_PAIR = 2
SHEET_SCENES = ("in the jungle", "in the snow", "on the beach", "with a city in the background")
"""What sheets of samples show."""
SAMPLER = load_protocol("mini").sampler.at_size(SIZE_PX)


def compute_auc(positive: NDArray[np.float64], negative: NDArray[np.float64]) -> float:
    """Chance that a positive value is above a negative one; ties count half."""
    ranks = rankdata(np.concatenate([positive, negative]))
    n = len(positive)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * len(negative)))


def make_photos() -> tuple[list[Image.Image], list[str], list[int], list[str]]:
    """Fresh front-view photos of held-out identities: images, classes, identities, scenes."""
    images, classes, identities, scenes = [], [], [], []
    names = list(SCENES)
    for index in range(N_IDENTITIES_PER_CLASS * len(CLASSES)):
        identity = make_identity("heldout", index)
        rng = np.random.default_rng([11, index])
        for scene in rng.choice(names, N_PHOTOS, replace=False):
            images.append(render(Shot(identity, int(rng.integers(2**31)), str(scene))).image)
            classes.append(identity.class_name)
            identities.append(index)
            scenes.append(str(scene))
    return images, classes, identities, scenes


def identity_auc(
    first: Features, second: Features, classes: list[str], identities: list[int]
) -> float:
    """Pairs (i, j), i != j, of one class: is the same identity nearer than another one?"""
    similarity = first @ second.T
    of_class = np.asarray(classes)[:, None] == np.asarray(classes)[None]
    same = np.asarray(identities)[:, None] == np.asarray(identities)[None]
    off = ~np.eye(len(first), dtype=bool)
    return compute_auc(similarity[of_class & same & off], similarity[of_class & ~same])


def accuracy(
    images: Features,
    extract_texts: Callable[[list[str]], Features],
    classes: list[str],
    scenes: list[str],
) -> tuple[float, float]:
    """How often the right scene is nearest among all scenes, and the right class among all."""
    names, places = list(CLASSES), list(SCENES)
    texts = extract_texts([f"a {name} {place}" for name in names for place in places])
    grid = texts.reshape(len(names), len(places), -1)
    scene_hits, class_hits = [], []
    for row, name, place in zip(images, classes, scenes, strict=True):
        c, s = names.index(name), places.index(place)
        scene_hits.append(int((grid[c] @ row).argmax()) == s)
        class_hits.append(int((grid[:, s] @ row).argmax()) == c)
    return float(np.mean(scene_hits)), float(np.mean(class_hits))


@torch.inference_mode()
def reconstruct(images: list[Image.Image]) -> list[Image.Image]:
    """Through the autoencoder and back."""
    vae = StableDiffusion.load_pipeline(BASE_MODELS["mini"], torch.device("cpu")).vae
    found = []
    for start in range(0, len(images), 32):
        pixels = to_pixels(np.stack([np.asarray(image) for image in images[start : start + 32]]))
        back = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
        values = ((back.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
        found += [Image.fromarray(value) for value in values]
    return found


def draw_base_model(base_model: str) -> tuple[list[Image.Image], list[str], list[str]]:
    """Images of "a [class] [scene]" over all pairs, with their classes and scenes."""
    model = load_base_model(BASE_MODELS[base_model], SAMPLER)
    pairs = [
        (name, place) for name in CLASSES for place in SCENES for _ in range(N_IMAGES_PER_PAIR)
    ]
    images: list[Image.Image] = []
    for start in range(0, len(pairs), 24):
        prompts = [f"a {name} {place}" for name, place in pairs[start : start + 24]]
        images += model.sample(prompts, range(start, start + len(prompts)))
    return images, [name for name, _ in pairs], [place for _, place in pairs]


def save_sheet(rows: list[list[Image.Image]], path: Path, *, scale: int = 2) -> None:
    """A contact sheet, enlarged without smoothing."""
    sheet = np.concatenate([np.concatenate([np.asarray(i) for i in row], axis=1) for row in rows])
    image = Image.fromarray(sheet)
    size = (image.width * scale, image.height * scale)
    make_dir(path.parent)
    image.resize(size, Image.Resampling.NEAREST).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    vit, clip = load_encoder("mini-vit", "dino"), load_encoder("mini-clip", "clip")
    photos, classes, identities, scenes = make_photos()
    plain = vit.encode_images(photos)
    auc = identity_auc(plain, plain, classes, identities)
    scene, class_ = accuracy(clip.encode_images(photos), clip.encode_texts, classes, scenes)
    back = reconstruct(photos)
    auc_back = identity_auc(vit.encode_images(back), plain, classes, identities)
    gaps = [
        np.abs(np.asarray(a, float) - np.asarray(b, float))
        for a, b in zip(photos, back, strict=True)
    ]
    drawn = {name: draw_base_model(name) for name in ("mini", "mini-pixel")}
    found = {
        name: accuracy(clip.encode_images(images), clip.encode_texts, *labels)
        for name, (images, *labels) in drawn.items()
    }
    figures = [
        Figure("ViT: same subject or another of its class, AUC", auc, 0.95),
        Figure("CLIP: right scene among all", scene, 0.95),
        Figure("CLIP: right class among all", class_, 0.9),
        Figure(
            "Autoencoder: that AUC from reconstructions, over the AUC without", auc_back / auc, 0.95
        ),
        Figure("Base model: CLIP finds the scene", found["mini"][0], 0.9),
        Figure("Base model: CLIP finds the class", found["mini"][1], 0.8),
    ]
    error = float(np.mean([gap.mean() for gap in gaps])) / 127.5
    page = write_figures(
        figures, args.out, "quality", title="Quality of mini's models on held-out identities",
        command="python -m dreambench.mini.training.quality --out reports/mini",
        notes=[
            f"Mean absolute error of the autoencoder on photos, on [-1, 1]: {error:.4f}.",
            f"{len(photos)} photos of {len(set(identities))} identities; "
            f"{len(drawn['mini'][0])} images by the base model (14 DDIM steps, guidance 4).",
            "In as many by mini-pixel, of which no figure was asked, CLIP finds the scene in "
            f"{found['mini-pixel'][0]:.3f} and the class in {found['mini-pixel'][1]:.3f}.",
        ],
        autoencoder_mean_absolute_error=error,
        encoders={"vit": vit.identity, "clip": clip.identity},
        base_models={name: BASE_MODELS[name].identity() for name in drawn},
        mini_pixel=dict(zip(("scene", "class"), found["mini-pixel"], strict=True)),
        n_photos=len(photos),
        n_drawn=len(drawn["mini"][0]),
    )  # fmt: skip
    shown = list(range(0, len(photos), len(photos) // 24))[:24]
    save_sheet(
        [[photos[i] for i in shown[:12]], [back[i] for i in shown[:12]],
         [photos[i] for i in shown[12:]], [back[i] for i in shown[12:]]],
        args.out / "autoencoder.png",
    )  # fmt: skip
    n = len(SCENES)
    for name, (images, *_) in drawn.items():
        first = images[::N_IMAGES_PER_PAIR]
        sheet = args.out / ("base-model.png" if name == "mini" else f"{name}.png")
        save_sheet([first[i : i + n] for i in range(0, len(first), n)], sheet)
    print(page)


if __name__ == "__main__":
    main()
