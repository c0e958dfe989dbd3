"""Stage: embeddings to the measures that stand beside the paper's metrics, one row an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from PIL import Image

from dreambench.embed import Reader
from dreambench.encoders import Embeddings, Encoder
from dreambench.entry import Entry
from dreambench.files import load_image
from dreambench.measures import MEASURES, measure_subject
from dreambench.protocol import PRIOR_PROMPT_ID
from dreambench.readers import HashReader, PartsReader
from dreambench.scoring import COLUMNS, list_texts
from dreambench.segment import Mask, Segmenter, find_segmenter, load_segmenter
from dreambench.stats import estimate_table
from dreambench.subjects import Subject

PROPERTY = "property"
"""The family in which a right picture must lose likeness, and which so stands apart."""


class Embed(Protocol):
    """Embeds files through the cache: for each reader one array with a row a path."""

    def __call__(self, paths: Sequence[Path], readers: Sequence[Reader]) -> list[Embeddings]:
        """See `embed.embed_files`."""
        ...


def find_distractors(subject: Subject, subjects: Sequence[Subject]) -> list[Subject]:
    """The other subjects of its class; where there are none, of its kind; else all others."""
    others = [other for other in subjects if other.name != subject.name]
    same_class = [other for other in others if other.class_name == subject.class_name]
    return same_class or [other for other in others if other.kind == subject.kind] or others


def open_segmenter(name: str | None, *, device: str) -> tuple[Segmenter | None, str]:
    """The protocol's segmenter, or None and the reason why there is none."""
    if name is None:
        return None, "the protocol names no segmenter"
    spec = find_segmenter(name)
    if spec.find_local() is None:
        return None, f"segmenter '{name}' is not on this machine; {spec.how_to_bring}"
    return load_segmenter(name, device=device), ""


def compute_measures(
    entry: Entry,
    vectors: Mapping[str, Mapping[Path, Embeddings]],
    texts: Mapping[str, Embeddings],
    encoders: Mapping[str, Encoder],
    segmenter: Segmenter | None,
    embed: Embed,
) -> pd.DataFrame:
    """Every measure of every image but those of the plain class; the columns of scoring.COLUMNS.

    `vectors` by role and path, and CLIP's rows of `texts`, are those of the scores; what else is
    needed is embedded here. The distractors are photos of the entry's other subjects. NaN where a
    measure is not defined.
    """
    if not {"dino", "clip"} <= set(encoders):
        return pd.DataFrame(columns=COLUMNS)
    photos = {
        subject.name: _read_photos(subject, vectors, encoders, segmenter, embed)
        for subject in entry.subjects
    }
    frames = []
    for subject in entry.subjects:
        images = [
            (u, p) for u, p in entry.made_images(subject.name) if u.prompt_id != PRIOR_PROMPT_ID
        ]
        if not images:
            continue
        paths = [path for _, path in images]
        rows = {r: np.stack([vectors[r][path] for path in paths]) for r in ("dino", "clip")}
        readers = _make_readers(subject, encoders, segmenter)
        rows = _name_rows(rows, embed(paths, readers))
        others = [photos[other.name] for other in find_distractors(subject, entry.subjects)]
        own = photos[subject.name]
        beside = {
            kind: np.concatenate([other[kind] for other in others] or [own[kind][:0]])
            for kind in own
        }
        wanted = list_texts(entry.protocol, subject)
        found = measure_subject(
            rows, own, beside, np.stack([texts[text] for text in wanted]),
            [wanted.index(unit.clip_text) for unit, _ in images],
        )  # fmt: skip
        head = [
            [subject.name, subject.class_name, subject.kind, unit.family, unit.prompt_id, unit.k]
            for unit, _ in images
        ]
        heads = pd.DataFrame(head, columns=COLUMNS[:6])
        frames += [
            heads.assign(metric=name, value=values, n_pairs=1) for name, values in found.items()
        ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=COLUMNS)


def _make_readers(
    subject: Subject, encoders: Mapping[str, Encoder], segmenter: Segmenter | None
) -> list[Reader]:
    if segmenter is None:
        return [HashReader()]
    noun = subject.class_name
    parts = PartsReader(encoders["dino"], encoders["clip"], segmenter, class_name=noun)
    return [HashReader(), parts]


def _name_rows(whole: dict[str, Embeddings], found: Sequence[Embeddings]) -> dict[str, Embeddings]:
    """Rows by kind: of the whole images, their hashes and, where there is a segmenter, parts."""
    rows = {**whole, "hash": found[0]}
    return rows | PartsReader.split(found[1], whole["dino"].shape[1]) if found[1:] else rows


def _read_photos(
    subject: Subject,
    vectors: Mapping[str, Mapping[Path, Embeddings]],
    encoders: Mapping[str, Encoder],
    segmenter: Segmenter | None,
    embed: Embed,
) -> dict[str, Embeddings]:
    """Rows by kind of a subject's photos; masks are the dataset's where it has them."""
    whole = {r: np.stack([vectors[r][path] for path in subject.photos]) for r in ("dino", "clip")}
    readers = _make_readers(subject, encoders, segmenter)
    if not subject.masks:
        return _name_rows(whole, embed(subject.photos, readers))
    found = embed(subject.photos, readers[:1])
    for reader in readers:
        if isinstance(reader, PartsReader):
            images = [load_image(path) for path in subject.photos]
            found.append(reader.embed_masked(images, [_read_mask(path) for path in subject.masks]))
    return _name_rows(whole, found)


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
