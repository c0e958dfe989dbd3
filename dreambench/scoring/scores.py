"""Stage: embeddings to tidy scores, one row for each thing that was scored."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd

from dreambench.artifacts.image_set import ImageSet
from dreambench.artifacts.plan import ImageUnit
from dreambench.config.protocol import PRIOR_PROMPT_ID, Protocol
from dreambench.datasets.subjects import Subject
from dreambench.encoders.base import Encoder, Extractor
from dreambench.encoders.extraction import (
    AUTO,
    Distances,
    Pace,
    Rows,
    extract,
    extract_texts,
)
from dreambench.encoders.feature_cache import KEPT_SHARE, FeatureCache, read_max_bytes
from dreambench.encoders.preprocessing import Pixels
from dreambench.encoders.registry import ROLES, choose_encoders, find_segmenter
from dreambench.encoders.spec import AnyEncoderSpec
from dreambench.errors import UserError
from dreambench.metrics.metrics import (
    METRICS,
    compute_diversity,
    compute_reference_similarity,
    compute_text_similarity,
)
from dreambench.progress import Progress, no_progress
from dreambench.types import Features

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


def encoder_specs(
    protocol: Protocol, overrides: Mapping[str, str] | None = None
) -> dict[str, AnyEncoderSpec]:
    """Return the encoder of each input that the protocol's metrics read.

    `overrides` are what `--encoder` names in their place, see `choose_encoders`.
    """
    named = {role: getattr(protocol.encoders, role) for role in ROLES}
    inputs = {METRICS[name].role for name in protocol.metrics}
    return choose_encoders(named, overrides, inputs=inputs)


def smallest_side_px(protocol: Protocol, overrides: Mapping[str, str] | None = None) -> int:
    """Return the shorter side below which an encoder of the protocol would enlarge an image."""
    pixels = [spec.pixels for spec in encoder_specs(protocol, overrides).values()]
    return max((p.smallest_side_px for p in pixels if isinstance(p, Pixels)), default=1)


def ensure_weights(
    protocol: Protocol,
    overrides: Mapping[str, str] | None = None,
    *,
    progress: Progress = no_progress,
) -> None:
    """Download the weights that are not on this machine, the segmenter's as far as that works.

    Metrics that need the segmenter are otherwise said to be not computed.

    Raises:
        UserError: an encoder cannot be had, or there is no segmenter of that name.
    """
    if protocol.encoders.segmenter is not None:
        segmenter = find_segmenter(protocol.encoders.segmenter)
        with contextlib.suppress(UserError):
            segmenter.ensure_weights()
    for spec in encoder_specs(protocol, overrides).values():
        spec.ensure_weights(progress)


def encoder_identities(
    protocol: Protocol, overrides: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the identity of each of `encoder_specs`, without loading the networks.

    Raises:
        UserError: weights are not on this machine, see `ensure_weights`.
    """
    return {role: spec.identity() for role, spec in encoder_specs(protocol, overrides).items()}


@dataclass(frozen=True)
class Extracted:
    """What scores are computed from.

    `rows` by reader's name and path; `distances` by two images of one subject and prompt, in the
    plan's order; `texts` by name and text.
    """

    rows: Mapping[str, Mapping[Path, Features]]
    distances: Mapping[tuple[Path, Path], float]
    texts: Mapping[str, Mapping[str, Features]]


def extract_image_set(
    entry: ImageSet,
    readers: Mapping[str, Extractor],
    *,
    perceptual: Extractor | None = None,
    texts: Mapping[str, tuple[Encoder, Collection[str]]],
    only_images: Collection[str] = (),
    beside: Mapping[str, Rows] = MappingProxyType({}),
    cache_dir: Path,
    pace: Pace = AUTO,
    progress: Progress,
) -> Extracted:
    """Embeds the photos, the images and `texts`, as far as the cache lacks them.

    Readers named in `only_images` do not see the photos; `perceptual` gives distances within a
    prompt; `beside` names its files itself. Each file is decoded once for all of them. Images that
    are missing are left out here; `expected_counts` says how many there should be. Keeps the cache
    within its bound.
    """
    max_bytes = read_max_bytes()
    paths = {unit: entry.find_image(unit) for unit in entry.plan.images}
    images = {unit: path for unit, path in paths.items() if path is not None}
    photos = [path for subject in entry.subjects for path in subject.photos]
    rows = {
        name: Rows(reader, [*([] if name in only_images else photos), *images.values()])
        for name, reader in readers.items()
    } | dict(beside)
    groups: dict[tuple[str, str], list[Path]] = {}
    for unit, path in images.items():
        if unit.prompt_id != PRIOR_PROMPT_ID:
            groups.setdefault((unit.subject, unit.prompt_id), []).append(path)
    pairs = [Distances(perceptual, list(groups.values()))] if perceptual is not None else []
    with FeatureCache(cache_dir) as cache:
        made, gaps = extract(list(rows.values()), pairs, cache=cache, pace=pace, progress=progress)
        text_rows = {
            name: extract_texts(wanted, encoder, cache=cache)
            for name, (encoder, wanted) in texts.items()
        }
        cache.prune(max_bytes, share=KEPT_SHARE)
    return Extracted(dict(zip(rows, made, strict=True)), gaps[0] if gaps else {}, text_rows)


def clip_texts(entry: ImageSet) -> list[str]:
    """What images are compared with: their own prompts, and all others of the protocol."""
    texts = {unit.clip_text for unit in entry.plan.images}
    return sorted(texts | {t for s in entry.subjects for t in list_texts(entry.protocol, s)})


def list_texts(protocol: Protocol, subject: Subject) -> list[str]:
    """The protocol's prompts for a subject, with its class noun."""
    prompts = protocol.prompts_for(subject.kind)
    return [prompt.text.format(subject=subject.class_name) for prompt in prompts]


def compute_scores(entry: ImageSet, found: Extracted) -> pd.DataFrame:
    """The protocol's metrics as a tidy frame with the columns of COLUMNS.

    `found` has them by role; roles that the protocol's metrics do not need may lack.
    """
    text_rows = found.texts.get("clip", {})
    rows = []
    for subject in entry.subjects:
        images = entry.made_images(subject.name)
        rows += _score_images(subject, images, found.rows, text_rows)
        if "div" in entry.protocol.metrics:
            rows += _score_prompts(subject, images, found.distances)
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
    vectors: Mapping[str, Mapping[Path, Features]],
    text_rows: Mapping[str, Features],
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
    subject: Subject,
    images: list[tuple[ImageUnit, Path]],
    distances: Mapping[tuple[Path, Path], float],
) -> list[list[object]]:
    rows = []
    for prompt_id in dict.fromkeys(unit.prompt_id for unit, _ in images):
        if prompt_id == PRIOR_PROMPT_ID:
            continue
        members = [(unit, path) for unit, path in images if unit.prompt_id == prompt_id]
        pairs = combinations([path for _, path in members], 2)
        value, n_pairs = compute_diversity(np.array([distances[pair] for pair in pairs]))
        if n_pairs:
            rows.append(_row(subject, members[0][0], "div", value, n_pairs, k=WHOLE_PROMPT))
    return rows


def expected_counts(entry: ImageSet) -> dict[str, int]:
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
