"""Runs with rendered images and known scores, for tests and benchmarks of a report's page."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from scored_runs import info_of, make_scored

from dreambench.artifacts.image_set import ImageSet
from dreambench.artifacts.manifest import RecipeRecord, RunManifest
from dreambench.artifacts.plan import make_plan
from dreambench.artifacts.results import COLUMNS, ScoreTable
from dreambench.config.protocol import load_protocol
from dreambench.datasets.subjects import Subject

METRICS = ("dino", "clip-i", "clip-t", "copy")


def draw(path: Path, *key: object, size_px: int = 32) -> Path:
    """Write a picture of smooth colours that no other key has."""
    seed = int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big")
    grid = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(grid).resize((size_px, size_px), Image.Resampling.BICUBIC)
    image.save(path, compress_level=1)
    return path


def make_subjects(folder: Path, names: dict[str, str], *, n_photos: int = 3) -> list[Subject]:
    """Subjects by name with their class nouns, live and object in turn."""
    return [
        Subject(
            name, noun, ("live", "object")[number % 2],
            tuple(draw(folder / str(number) / f"{n}.png", name, n) for n in range(n_photos)),
            ("0" * 64,) * n_photos,
        )
        for number, (name, noun) in enumerate(names.items())
    ]  # fmt: skip


def make_run(folder: Path, protocol_path: Path, subjects, *, quality=0.5, missing=(), **changes):
    """A run of a method called as its folder: (its scores and summary, its images).

    `missing` are cells (subject, prompt, k) without image and score; `changes` are fields of its
    summary, `size_px` the side of its images.
    """
    size_px = changes.pop("size_px", 32)
    protocol = load_protocol(str(protocol_path))
    protocol = protocol.model_copy(update={"subjects": tuple(s.name for s in subjects)})
    manifest = RunManifest.model_construct(
        kind="run", recipe=RecipeRecord.model_construct(name=folder.name), replicate=1
    )
    plan = make_plan(protocol, subjects, batch_size=1)
    images = ImageSet(
        folder=folder, protocol=protocol, subjects=subjects, plan=plan, manifest=manifest
    )
    infos = [info_of(name, listed=name != "copy") for name in METRICS]
    sums, nearest, rows = {}, {}, []
    by_name = {subject.name: subject for subject in subjects}
    for unit in plan.images:
        key = (unit.subject, unit.prompt_id, unit.k)
        if key in missing:
            continue
        path = draw(folder / unit.relative_path, folder.name, *key, size_px=size_px)
        sums[unit.relative_path] = hashlib.sha256(path.read_bytes()).hexdigest()
        subject = by_name[unit.subject]
        nearest[unit.relative_path] = subject.photos[unit.k % len(subject.photos)].name
        head = [subject.name, subject.class_name, subject.kind, unit.family, *key[1:]]
        rows += [[*head, name, value, 1] for name, value in score(quality, *key)]
    frame = np.array(rows, dtype=object)
    import pandas as pd  # noqa: PLC0415

    table = pd.DataFrame(frame, columns=COLUMNS).astype({"k": int, "value": float, "n_pairs": int})
    scored = make_scored(folder.name, table, infos=infos, **changes)
    scores = ScoreTable(table, scored.scores.metrics, {"dino": "E"}, sums, nearest=nearest)
    return type(scored)(scored.name, scores, scored.summary), images


def score(quality: float, *key: object) -> Iterator[tuple[str, float]]:
    """Values of an image: about `quality`, and different for each key."""
    for name in METRICS:
        digest = hashlib.sha256(repr((name, *key)).encode()).digest()
        yield name, round(min(1.0, quality + digest[0] / 1024 + digest[1] / 2**20), 6)
