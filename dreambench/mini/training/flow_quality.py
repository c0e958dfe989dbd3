r"""Measures a mini-flow on captions and identities held out of training.

    python -m dreambench.mini.training.flow_quality --model FOLDER --judge FOLDER --out DIR

Writes flow-quality.json and flow-quality.md with each figure beside what was asked of it, and the
sheet flow.png. Scene and class are found by mini's CLIP, view and accessory by the judge of
`judge.py`, identity by mini's ViT among renders of other individuals of the class. What each finds
in real renders stands beside, since no image can be found to show what is not seen there.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dreambench.base_models.flux2 import MiniFlow
from dreambench.base_models.registry import find_base_model, load_base_model
from dreambench.config.protocol import load_protocol
from dreambench.encoders.registry import load_encoder
from dreambench.metrics.identification import compute_retrieval
from dreambench.mini.training.data import make_identity
from dreambench.mini.training.figures import Figure, write_figures
from dreambench.mini.training.judge import load_judge
from dreambench.mini.training.quality import N_IMAGES_PER_PAIR, SHEET_SCENES, accuracy, save_sheet
from dreambench.mini.world.accessories import ACCESSORIES
from dreambench.mini.world.bodies import CLASSES, LIVE
from dreambench.mini.world.renderer import VIEWS, Shot, make_caption, render
from dreambench.mini.world.scenes import SCENES

N_IDENTITIES_PER_CLASS = 8
N_SHOTS = 2
"""Of each pair of class and view, or class and accessory."""
BATCH_SIZE = 24


def load(folder: Path) -> MiniFlow:
    """A mini-flow from its folder, as `--base-model mini-flow=FOLDER` loads it."""
    model = find_base_model(f"mini-flow={folder}")
    found = load_base_model(model, model.choose_sampler(load_protocol("mini").sampler))
    assert isinstance(found, MiniFlow)
    return found


def draw(model: MiniFlow, shots: Sequence[Shot], *, first_seed: int = 0) -> list[Image.Image]:
    """Images of these shots' captions."""
    images: list[Image.Image] = []
    for start in range(0, len(shots), BATCH_SIZE):
        chunk = shots[start : start + BATCH_SIZE]
        seeds = [first_seed + start + place for place in range(len(chunk))]
        images += model.sample([make_caption(shot) for shot in chunk], seeds)
    return images


def take_photos(index: int) -> list[Image.Image]:
    """Two photos of a held-out individual, in places that `SHEET_SCENES` does not have."""
    identity = make_identity("heldout", index)
    places = ("on top of a wooden floor", "with a wheat field in the background")
    return [
        render(Shot(identity, 1000 * index + seed, place)).image
        for seed, place in enumerate(places)
    ]


def draw_in_context(
    model: MiniFlow, index: int, *, n_photos: int, scenes: Sequence[str] = SHEET_SCENES
) -> list[Image.Image]:
    """One image a scene of a held-out individual, of which the model is shown photos."""
    identity = make_identity("heldout", index)
    texts = [make_caption(Shot(identity, 0, scene)) for scene in scenes]
    photos = take_photos(index)[:n_photos]
    return model.sample_in_context(texts, list(range(len(texts))), photos=photos)


def draw_sheet(folder: Path, path: Path) -> None:
    """A sheet of what a mini-flow makes: from text, and from two photos (the left two columns)."""
    model = load(folder)
    shots = [
        Shot(make_identity("heldout", row), 0, scene)
        for row in range(0, len(CLASSES), 5)
        for scene in [None, "floating on top of water", *SHEET_SCENES]
    ]
    width = len(SHEET_SCENES) + 2
    images = draw(model, shots)
    rows = [images[start : start + width] for start in range(0, len(images), width)]
    for index in (0, 7, 12):
        rows.append([*take_photos(index), *draw_in_context(model, index, n_photos=2)])
    save_sheet(rows, path)


def make_shots(field: str) -> list[Shot]:
    """Shots of held-out individuals with each view, or of live ones with each accessory."""
    names = VIEWS if field == "view" else ACCESSORIES
    found = []
    for nth in range(N_SHOTS):
        for place, class_name in enumerate(CLASSES):
            if field == "accessory" and class_name not in LIVE:
                continue
            identity = make_identity("heldout", place + nth * len(CLASSES))
            found += [Shot(identity, 77 + nth, **{field: name}) for name in names]
    return found


def rank_identities(model: MiniFlow, *, n_photos: int) -> tuple[float, float]:
    """How often an image in context is nearest to its own individual's photos in ViT's eyes.

    And the same of real renders in the same scenes. Photos that the model is shown are not among
    those that are compared.
    """
    vit = load_encoder("mini-vit", "dino")
    indices = range(N_IDENTITIES_PER_CLASS * len(CLASSES))
    rng = np.random.default_rng(3)
    compared, made, real = [], [], []
    for index in indices:
        identity = make_identity("heldout", index)
        scenes = [str(name) for name in rng.choice(list(SCENES), 3, replace=False)]
        compared.append(
            vit.encode_images(
                [
                    render(Shot(identity, 5000 + place, name)).image
                    for place, name in enumerate(scenes)
                ]
            )
        )
        shown = SHEET_SCENES[index // len(CLASSES) % 2 :: 2]
        made.append(
            vit.encode_images(draw_in_context(model, index, n_photos=n_photos, scenes=shown))
        )
        real.append(
            vit.encode_images(
                [render(Shot(identity, 9000 + place, name)).image
                 for place, name in enumerate(shown)]
            )
        )  # fmt: skip
    hits: tuple[list[float], list[float]] = ([], [])
    for index in indices:
        others = [
            compared[other] for other in indices
            if other != index and (other - index) % len(CLASSES) == 0
        ]  # fmt: skip
        for images, found in zip((made[index], real[index]), hits, strict=True):
            found += list(compute_retrieval(images, compared[index], np.concatenate(others))[0])
    return float(np.mean(hits[0])), float(np.mean(hits[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--judge", type=Path, required=True)
    args = parser.parse_args()
    model, clip = load(args.model), load_encoder("mini-clip", "clip")
    judge = load_judge(args.judge)
    pairs = [
        Shot(make_identity("heldout", place), seed, scene)
        for place in range(len(CLASSES))
        for scene in SCENES
        for seed in range(N_IMAGES_PER_PAIR)
    ]
    classes = [shot.identity.class_name for shot in pairs]
    scenes = [str(shot.scene) for shot in pairs]
    figures: list[Figure] = []
    for made, limit in zip(
        accuracy(clip.encode_images(draw(model, pairs)), clip.encode_texts, classes, scenes),
        accuracy(
            clip.encode_images([render(shot).image for shot in pairs]), clip.encode_texts,
            classes, scenes,
        ),
        strict=True,
    ):  # fmt: skip
        what, asked = (("scene", 0.98), ("class", 0.95))[len(figures)]
        figures.append(Figure(f"CLIP finds the {what}", made, asked, limit))
    for field in ("view", "accessory"):
        shots = make_shots(field)
        limit = judge.share_found([render(shot).image for shot in shots], shots, field)
        found = judge.share_found(draw(model, shots, first_seed=10**6), shots, field)
        figures.append(Figure(f"The judge finds the {field}", found, 0.8, limit))
    for n_photos in (1, 2):
        found, limit = rank_identities(model, n_photos=n_photos)
        figures.append(Figure(f"Identity rank-1, shown {n_photos}", found, 0.9, limit))
    page = write_figures(
        figures, args.out, "flow-quality", title="Quality of mini-flow on held-out identities",
        command="python -m dreambench.mini.training.flow_quality --model FOLDER "
        "--judge FOLDER --out DIR",
        model=model.model.identity(),
    )  # fmt: skip
    draw_sheet(args.model, args.out / "flow.png")
    print(page)


if __name__ == "__main__":
    main()
