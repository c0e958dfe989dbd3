"""Stage: embeddings to tidy scores, one row for each thing that was scored."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from dreambench.embed import BATCH_SIZE, Reader, embed_files
from dreambench.encoders import Embeddings, Encoder, EncoderSpec, Role, find_encoder
from dreambench.entry import Entry
from dreambench.metrics import (
    METRICS,
    compute_diversity,
    compute_reference_similarity,
    compute_text_similarity,
)
from dreambench.plan import ImageUnit
from dreambench.progress import Progress, no_progress
from dreambench.protocol import PRIOR_PROMPT_ID, Protocol
from dreambench.segment import find_segmenter
from dreambench.subjects import Subject

COLUMNS = [
    "subject",
    "class_name",
    "kind",
    "family",
    "prompt_id",
    "k",
    "metric",
    "value",
    "n_pairs",
]
WHOLE_PROMPT = -1
"""The `k` of a row that belongs to all images of a prompt together."""


def encoder_specs(protocol: Protocol) -> dict[Role, EncoderSpec]:
    """The encoder of each role that the protocol's metrics need."""
    needed = {METRICS[name].role for name in protocol.metrics}
    roles: tuple[Role, ...] = ("dino", "clip", "perceptual")
    return {
        role: find_encoder(getattr(protocol.encoders, role), role)
        for role in roles
        if role in needed
    }


def smallest_side_px(protocol: Protocol) -> int:
    """The shorter side below which an encoder of the protocol would enlarge an image."""
    pixels = [spec.pixels for spec in encoder_specs(protocol).values()]
    return max(p.resize_px if p.fit == "crop" else p.crop_px for p in pixels)


def encoder_identities(protocol: Protocol, *, progress: Progress = no_progress) -> dict[str, str]:
    """Identity of each of these encoders, without loading the networks.

    UserError also where the protocol names a segmenter that there is none of.
    """
    if protocol.encoders.segmenter is not None:
        find_segmenter(protocol.encoders.segmenter)
    return {role: spec.identity(progress) for role, spec in encoder_specs(protocol).items()}


def embed_entry(
    entry: Entry,
    readers: Mapping[str, Reader],
    *,
    only_images: Collection[str] = ("perceptual",),
    cache_dir: Path,
    progress: Progress,
    batch_size: int = BATCH_SIZE,
) -> dict[str, dict[Path, Embeddings]]:
    """Embeddings by name of reader and path, of the photos and of the images.

    Readers named in `only_images` do not see the photos. Images that are missing are left out
    here; `expected_counts` says how many there should be.
    """
    images = [path for unit in entry.plan.images if (path := entry.find_image(unit)) is not None]
    photos = [path for subject in entry.subjects for path in subject.photos]
    found: dict[str, dict[Path, Embeddings]] = {name: {} for name in readers}
    both = [name for name in readers if name not in only_images]
    for paths, names in ((photos, both), (images, list(readers))):
        if not paths or not names:
            continue
        arrays = embed_files(
            paths, [readers[name] for name in names], cache_dir=cache_dir, progress=progress,
            batch_size=batch_size,
        )  # fmt: skip
        for name, rows in zip(names, arrays, strict=True):
            found[name] |= dict(zip(paths, rows, strict=True))
    return found


def compute_scores(
    entry: Entry,
    vectors: Mapping[str, Mapping[Path, Embeddings]],
    text_encoder: Encoder | None,
) -> pd.DataFrame:
    """The protocol's metrics as a tidy frame with the columns of COLUMNS.

    `text_encoder` is None where the protocol has no metric of the role clip.
    """
    text_rows: dict[str, Embeddings] = {}
    if text_encoder is not None:
        texts = sorted({unit.clip_text for unit in entry.plan.images})
        text_rows = dict(zip(texts, text_encoder.embed_texts(texts), strict=True))
    rows = []
    for subject in entry.subjects:
        images = entry.made_images(subject.name)
        rows += _score_images(subject, images, vectors, text_rows)
        if "perceptual" in vectors:
            rows += _score_prompts(subject, images, vectors["perceptual"])
    frame = pd.DataFrame(rows, columns=COLUMNS)
    frame = frame[frame["metric"].isin(entry.protocol.metrics)]
    rank = {name: index for index, name in enumerate(METRICS)}
    # Tables have their columns in the order in which metrics come here.
    return frame.sort_values(
        "metric", key=lambda names: names.map(rank), kind="stable", ignore_index=True
    )


def _row(
    subject: Subject,
    unit: ImageUnit,
    metric: str,
    value: float,
    n_pairs: int,
    *,
    k: int | None = None,
) -> list[object]:
    k = unit.k if k is None else k
    head = [subject.name, subject.class_name, subject.kind, unit.family, unit.prompt_id, k]
    return [*head, metric, value, n_pairs]


def _score_images(
    subject: Subject,
    images: list[tuple[ImageUnit, Path]],
    vectors: Mapping[str, Mapping[Path, Embeddings]],
    text_rows: Mapping[str, Embeddings],
) -> list[list[object]]:
    if not images:
        return []
    units, paths = [unit for unit, _ in images], [path for _, path in images]
    rows: list[list[object]] = []
    n_photos = len(subject.photos)
    is_prior = [unit.prompt_id == PRIOR_PROMPT_ID for unit in units]
    for role, similarity in (("dino", "dino"), ("clip", "clip-i")):
        if role not in vectors:
            continue
        made = np.stack([vectors[role][path] for path in paths])
        photos = np.stack([vectors[role][path] for path in subject.photos])
        values = compute_reference_similarity(made, photos)
        for unit, value, prior in zip(units, values, is_prior, strict=True):
            if not prior:
                rows.append(_row(subject, unit, similarity, value, n_photos))
            elif role == "dino":
                rows.append(_row(subject, unit, "pres", value, n_photos))
        if role == "clip":
            wanted = np.stack([text_rows[unit.clip_text] for unit in units])
            values = compute_text_similarity(made, wanted)
            for unit, value, prior in zip(units, values, is_prior, strict=True):
                if not prior:
                    rows.append(_row(subject, unit, "clip-t", value, 1))
    return rows


def _score_prompts(
    subject: Subject, images: list[tuple[ImageUnit, Path]], features: Mapping[Path, Embeddings]
) -> list[list[object]]:
    rows = []
    for prompt_id in dict.fromkeys(unit.prompt_id for unit, _ in images):
        if prompt_id == PRIOR_PROMPT_ID:
            continue
        members = [(unit, path) for unit, path in images if unit.prompt_id == prompt_id]
        value, n_pairs = compute_diversity(np.stack([features[path] for _, path in members]))
        if n_pairs:
            rows.append(_row(subject, members[0][0], "div", value, n_pairs, k=WHOLE_PROMPT))
    return rows


def expected_counts(entry: Entry) -> dict[str, int]:
    """How many pairs each metric has when no image is missing."""
    n_photos = {subject.name: len(subject.photos) for subject in entry.subjects}
    counts = dict.fromkeys(METRICS, 0)
    groups: dict[tuple[str, str], int] = {}
    for unit in entry.plan.images:
        if unit.prompt_id == PRIOR_PROMPT_ID:
            counts["pres"] += n_photos[unit.subject]
            continue
        counts["dino"] += n_photos[unit.subject]
        counts["clip-i"] += n_photos[unit.subject]
        counts["clip-t"] += 1
        key = (unit.subject, unit.prompt_id)
        groups[key] = groups.get(key, 0) + 1
    counts["div"] = sum(math.comb(size, 2) for size in groups.values())
    return {name: counts[name] for name in METRICS if name in entry.protocol.metrics}
