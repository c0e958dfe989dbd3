"""Stage: embeddings to the measures that stand beside the paper's metrics, one row an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from dreambench.analysis.stats import estimate_table
from dreambench.artifacts.image_set import ImageSet
from dreambench.artifacts.plan import ImageUnit
from dreambench.config.protocol import PRIOR_PROMPT_ID, PROPERTY
from dreambench.datasets.subjects import Subject
from dreambench.encoders.base import Encoder
from dreambench.encoders.extraction import Rows
from dreambench.encoders.parts import HashExtractor, PartsExtractor
from dreambench.encoders.registry import find_segmenter
from dreambench.encoders.segmentation import Segmenter, load_segmenter
from dreambench.encoders.spec import has_own_pixels
from dreambench.metrics.measures import MEASURES, measure_subject
from dreambench.scoring.scores import COLUMNS, Extracted, list_texts
from dreambench.storage.images import load_image
from dreambench.types import Features, Mask


def find_distractors(subject: Subject, subjects: Sequence[Subject]) -> list[Subject]:
    """The other subjects of its class; where there are none, of its kind; else all others."""
    others = [other for other in subjects if other.name != subject.name]
    same_class = [other for other in others if other.class_name == subject.class_name]
    return same_class or [other for other in others if other.kind == subject.kind] or others


def open_segmenter(
    name: str | None, *, device: str, encoders: Mapping[str, str]
) -> tuple[Segmenter | None, str]:
    """Return the protocol's segmenter, or None and the reason why no part can be cut out.

    `encoders` are the identities by role.
    """
    for role in ("dino", "clip"):
        if has_own_pixels(encoders.get(role, "")):
            return None, f"the encoder for '{role}' prepares images by its own code"
    if name is None:
        return None, "the protocol names no segmenter"
    spec = find_segmenter(name)
    if spec.find_local() is None:
        why = f"segmenter '{name}' is not on this machine and could not be downloaded"
        return None, f"{why}; {spec.how_to_get}"
    return load_segmenter(name, device=device), ""


def ask_for_measures(
    entry: ImageSet, encoders: Mapping[str, Encoder], segmenter: Segmenter | None
) -> dict[str, Rows]:
    """What the measures need beside the rows of the scores: "hash", and "parts" by class noun.

    Nothing where the protocol has no metric of DINO or of CLIP. Parts of photos whose masks the
    dataset has are not asked for.
    """
    if not {"dino", "clip"} <= set(encoders):
        return {}
    hashed: list[Path] = []
    parts: dict[str, list[Path]] = {}
    for subject in entry.subjects:
        images = [path for _, path in _find_images(entry, subject)]
        hashed += [*subject.photos, *images]
        photos = () if subject.masks else subject.photos
        parts.setdefault(subject.class_name, []).extend([*photos, *images])
    asked = {"hash": Rows(HashExtractor(), hashed)}
    if segmenter is not None:
        for noun, paths in parts.items():
            reader = PartsExtractor(encoders["dino"], encoders["clip"], segmenter, class_name=noun)
            asked[f"parts:{noun}"] = Rows(reader, paths)
    return asked


def compute_measures(
    entry: ImageSet,
    found: Extracted,
    encoders: Mapping[str, Encoder],
    segmenter: Segmenter | None,
) -> pd.DataFrame:
    """Every measure of every image but those of the plain class; the columns of scoring.COLUMNS.

    `found` has what `ask_for_measures` says, and CLIP's rows of the protocol's texts. The
    distractors are photos of the entry's other subjects. NaN where a measure is not defined.
    """
    if not {"dino", "clip"} <= set(encoders):
        return pd.DataFrame(columns=COLUMNS)
    photos = {
        subject.name: _read_photos(subject, found.rows, encoders, segmenter)
        for subject in entry.subjects
    }
    frames = []
    for subject in entry.subjects:
        images = _find_images(entry, subject)
        if not images:
            continue
        rows = _name_rows(found.rows, [path for _, path in images], subject)
        others = [photos[other.name] for other in find_distractors(subject, entry.subjects)]
        own = photos[subject.name]
        beside = {
            kind: np.concatenate([other[kind] for other in others] or [own[kind][:0]])
            for kind in own
        }
        texts = list_texts(entry.protocol, subject)
        values = measure_subject(
            rows, own, beside, np.stack([found.texts["clip"][text] for text in texts]),
            [texts.index(unit.clip_text) for unit, _ in images],
        )  # fmt: skip
        head = [
            [subject.name, subject.class_name, subject.kind, unit.family, unit.prompt_id, unit.k]
            for unit, _ in images
        ]
        heads = pd.DataFrame(head, columns=COLUMNS[:6])
        frames += [heads.assign(metric=name, value=v, n_pairs=1) for name, v in values.items()]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=COLUMNS)


def _find_images(entry: ImageSet, subject: Subject) -> list[tuple[ImageUnit, Path]]:
    """A subject's images but those of the plain class."""
    images = entry.made_images(subject.name)
    return [(unit, path) for unit, path in images if unit.prompt_id != PRIOR_PROMPT_ID]


def _name_rows(
    vectors: Mapping[str, Mapping[Path, Features]], paths: Sequence[Path], subject: Subject
) -> dict[str, Features]:
    """Rows by kind: of whole images, their hashes and, where there is a segmenter, their parts."""
    rows = {
        kind: np.stack([vectors[kind][path] for path in paths]) for kind in ("dino", "clip", "hash")
    }
    parts = vectors.get(f"parts:{subject.class_name}", {})
    if all(path in parts for path in paths):
        joined = np.stack([parts[path] for path in paths])
        rows |= PartsExtractor.split(joined, rows["dino"].shape[1])
    return rows


def _read_photos(
    subject: Subject,
    vectors: Mapping[str, Mapping[Path, Features]],
    encoders: Mapping[str, Encoder],
    segmenter: Segmenter | None,
) -> dict[str, Features]:
    """Rows by kind of a subject's photos; masks are the dataset's where it has them."""
    rows = _name_rows(vectors, subject.photos, subject)
    if subject.masks and segmenter is not None:
        noun = subject.class_name
        reader = PartsExtractor(encoders["dino"], encoders["clip"], segmenter, class_name=noun)
        images = [load_image(path) for path in subject.photos]
        masks = [_read_mask(path) for path in subject.masks]
        rows |= PartsExtractor.split(reader.encode_masked(images, masks), rows["dino"].shape[1])
    return rows


def _read_mask(path: Path) -> Mask:
    with Image.open(path, formats=("PNG",)) as image:
        return np.asarray(image.convert("L")) > 0


def summarise_measures(
    table: pd.DataFrame, identities: Mapping[str, str], *, n_expected: int, why_no_mask: str
) -> dict[str, dict[str, Any]]:
    """Means with intervals of each measure, property prompts apart; with what they depend on.

    `identities` of encoders, segmenter and hash by input (see `measures.Measure`).
    """
    found = {}
    for name, measure in MEASURES.items():
        known = set(measure.inputs) <= set(identities)
        rows = table[(table["metric"] == name) & table["value"].notna()]
        summary: dict[str, Any] = {
            "higher_is_better": measure.higher_is_better,
            "n_scored": len(rows),
            "n_expected": n_expected,
            "signature": measure.signature(identities) if known else None,
        }
        if not known:
            summary["not_measured"] = why_no_mask
        for key, chosen in (
            ("other prompts", rows[rows["family"] != PROPERTY]),
            ("property prompts", rows[rows["family"] == PROPERTY]),
        ):
            summary[key] = None
            if len(chosen):
                one = estimate_table(chosen).iloc[0]
                summary[key] = {
                    part: None if np.isnan(one[part]) else float(one[part])
                    for part in ("mean", "low", "high")
                } | {"n_subjects": int(one["n_subjects"])}
        found[name] = summary
    return found
