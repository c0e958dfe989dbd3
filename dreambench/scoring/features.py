"""From an image set to what metrics see: features of photos, images and texts, by subject."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from dreambench.artifacts.image_set import ImageSet, is_class_image
from dreambench.artifacts.plan import ImageUnit
from dreambench.config.protocol import Protocol
from dreambench.config.slots import fill_subjects
from dreambench.datasets.subjects import Subject
from dreambench.encoders.base import Encoder
from dreambench.encoders.extraction import Distances, Rows, extract, extract_shard, extract_texts
from dreambench.encoders.feature_cache import KEPT_SHARE, FeatureCache, read_max_bytes
from dreambench.encoders.pace import AUTO, Pace, Shard
from dreambench.encoders.parts import (
    HashExtractor,
    LookExtractor,
    MaskExtractor,
    PartsExtractor,
    ThumbnailExtractor,
)
from dreambench.encoders.regions import RegionsExtractor
from dreambench.metrics.base import HASH, MASK, REGIONS, THUMBNAIL, Member, SubjectFeatures
from dreambench.progress import Progress
from dreambench.scoring.rows_by_class import (
    is_by_class,
    make_masks_extractor,
    make_parts_extractor,
    make_regions_extractor,
    name_masks,
    name_parts,
    name_regions,
)
from dreambench.scoring.tools import Tools
from dreambench.storage.images import load_image, load_mask
from dreambench.types import Features

PERCEPTUAL = "perceptual"
LOOK = "look"
NO_TEXTS: Features = np.empty((0, 0), np.float32)
Images = Sequence[tuple[ImageUnit, Path]]


@dataclass(frozen=True)
class Extracted:
    """What scores are computed from.

    `rows` by extractor's name and path; `distances` by two images of one subject and prompt, in the
    plan's order; `texts` by name and text. `looks` say which images of a run are none
    (`encoders.parts.LookExtractor`).
    """

    rows: Mapping[str, Mapping[Path, Features]]
    distances: Mapping[tuple[Path, Path], float]
    texts: Mapping[str, Mapping[str, Features]]
    looks: Mapping[Path, Features] = field(default_factory=dict)


def extract_features(
    images: ImageSet, tools: Tools, *, cache_dir: Path, pace: Pace = AUTO, progress: Progress
) -> Extracted:
    """Extract what the metrics of an image set need, as far as the cache lacks it."""
    asked = _ask_for_images(images, tools)
    clip = tools.encoders.get("clip")
    found = extract_asked(
        asked,
        groups=_group_paths(images),
        perceptual=tools.encoders.get(PERCEPTUAL),
        texts={"clip": (clip, list_all_texts(images))} if clip else {},
        cache_dir=cache_dir,
        pace=pace,
        progress=progress,
    )
    rows = dict(found.rows)
    return replace(found, looks=rows.pop(LOOK, {}), rows=rows)


def extract_features_of_shard(
    images: ImageSet, tools: Tools, shard: Shard, *, cache_dir: Path, pace: Pace, progress: Progress
) -> None:
    """Extract the features of a shard of the images and photos, for the cache alone."""
    extract_asked_of_shard(
        _ask_for_images(images, tools).values(), shard, groups=_group_paths(images),
        perceptual=tools.encoders.get(PERCEPTUAL), cache_dir=cache_dir, pace=pace,
        progress=progress,
    )  # fmt: skip


def extract_asked_of_shard(
    asked: Collection[Rows],
    shard: Shard,
    *,
    groups: Sequence[Sequence[Path]] = (),
    perceptual: Encoder | None = None,
    cache_dir: Path,
    pace: Pace,
    progress: Progress,
) -> None:
    """Extract what is asked of a shard of the files, for the cache alone; see `extract_asked`."""
    pairs = [Distances(perceptual, groups)] if perceptual is not None else []
    with FeatureCache(cache_dir) as cache:
        extract_shard(list(asked), pairs, shard, cache=cache, pace=pace, progress=progress)


def extract_asked(
    asked: Mapping[str, Rows],
    *,
    groups: Sequence[Sequence[Path]] = (),
    perceptual: Encoder | None = None,
    texts: Mapping[str, tuple[Encoder, Collection[str]]],
    cache_dir: Path,
    pace: Pace = AUTO,
    progress: Progress,
) -> Extracted:
    """Extract rows of files, distances within groups of files, and rows of texts.

    Each file is decoded once for all of them. Keeps the cache within its bound.
    """
    max_bytes = read_max_bytes()
    pairs = [Distances(perceptual, groups)] if perceptual is not None else []
    with FeatureCache(cache_dir) as cache:
        made, gaps = extract(list(asked.values()), pairs, cache=cache, pace=pace, progress=progress)
        text_rows = {
            name: extract_texts(wanted, encoder, cache=cache)
            for name, (encoder, wanted) in texts.items()
        }
        cache.prune(max_bytes, share=KEPT_SHARE)
    return Extracted(dict(zip(asked, made, strict=True)), gaps[0] if gaps else {}, text_rows)


def _ask_for_images(images: ImageSet, tools: Tools) -> dict[str, Rows]:
    """Name the files that each extractor has to see, by the name of its input.

    Whole images go through all encoders, class images too. Parts of photos whose masks the dataset
    has are not asked for.
    """
    needed = {name for one in tools.measured() for name in one.metric.inputs}
    photos = [path for subject in images.subjects for path in subject.photos]
    every = [path for s in images.subjects for _, path in images.made_images(s.name)]
    asked = {
        role: Rows(encoder, [*photos, *every])
        for role, encoder in tools.encoders.items()
        if role != PERCEPTUAL
    }
    shown = {s.name: [path for _, path in subject_images(images, s)] for s in images.subjects}
    for name, extractor in ((HASH, HashExtractor()), (THUMBNAIL, ThumbnailExtractor())):
        if name in needed:
            files = [path for s in images.subjects for path in (*s.photos, *shown[s.name])]
            asked[name] = Rows(extractor, files)
    if MASK in needed:
        parts: dict[str, list[Path]] = {}
        unmasked: dict[str, list[Path]] = {}
        for subject in images.subjects:
            own = () if subject.masks else subject.photos
            parts.setdefault(subject.class_name, []).extend([*own, *shown[subject.name]])
            if own:
                unmasked.setdefault(subject.class_name, []).extend(own)
        for noun, files in parts.items():
            asked[name_parts(noun)] = Rows(make_parts_extractor(tools, noun), files)
        for noun, files in unmasked.items():
            asked[name_masks(noun)] = Rows(make_masks_extractor(tools, noun), files)
    if REGIONS in needed:
        asked |= _ask_for_regions(images, tools, shown)
    if images.files is None:  # A folder of external images was looked at before.
        asked[LOOK] = Rows(LookExtractor(), every)
    return asked


def _ask_for_regions(
    images: ImageSet, tools: Tools, shown: Mapping[str, Sequence[Path]]
) -> dict[str, Rows]:
    """Name the images of pairs, by their nouns, and the photos whose masks nobody knows."""
    files: dict[tuple[str, ...], list[Path]] = {}
    for subject in images.subjects:
        files.setdefault(subject.nouns, []).extend(shown[subject.name])
        for member in subject.each:
            if not member.masks:
                files.setdefault(member.nouns, []).extend(member.photos)
    return {
        name_regions(nouns): Rows(make_regions_extractor(tools, nouns), list(dict.fromkeys(paths)))
        for nouns, paths in files.items()
    }


def _group_paths(images: ImageSet) -> list[list[Path]]:
    """Return the images of each subject and prompt."""
    groups: dict[tuple[str, str], list[Path]] = {}
    for unit in images.plan.images:
        path = images.find_image(unit)
        if path is not None and not is_class_image(unit):
            groups.setdefault((unit.subject, unit.prompt_id), []).append(path)
    return list(groups.values())


def list_all_texts(images: ImageSet) -> list[str]:
    """Return what images are compared with: their own prompts, and all others of the protocol.

    Regions of a pair's images are compared with the class nouns.
    """
    texts = {unit.clip_text for unit in images.plan.images}
    texts |= {_name_class(noun) for s in images.subjects if s.members for noun in s.nouns}
    return sorted(texts | {t for s in images.subjects for t in list_texts(images.protocol, s)})


def _name_class(noun: str) -> str:
    return f"a {noun}"


def list_texts(protocol: Protocol, subject: Subject) -> list[str]:
    """Return the protocol's prompts for a subject, with its class noun."""
    prompts = protocol.prompts_for(subject.kind)
    return [fill_subjects(prompt.text, subject.nouns) for prompt in prompts]


def subject_images(images: ImageSet, subject: Subject) -> list[tuple[ImageUnit, Path]]:
    """Return a subject's images that are there, class images apart."""
    return [(u, path) for u, path in images.made_images(subject.name) if not is_class_image(u)]


def find_distractors(subject: Subject, subjects: Sequence[Subject]) -> list[Subject]:
    """Return the other subjects of its class; else those of its kind; else all others."""
    others = [other for other in subjects if other.name != subject.name]
    same_class = [other for other in others if other.class_name == subject.class_name]
    return same_class or [other for other in others if other.kind == subject.kind] or others


def arrange_features(
    images: ImageSet, found: Extracted, tools: Tools
) -> dict[str, SubjectFeatures]:
    """Return what metrics see, by subject; subjects without an image are left out.

    The distractors are photos of the image set's other subjects.
    """
    every = [one for subject in images.subjects for one in (subject, *subject.members)]
    photos = {one.name: _photo_features(one, found, tools) for one in every}
    arranged = {}
    for subject in images.subjects:
        shown = subject_images(images, subject)
        of_class = [(u, p) for u, p in images.made_images(subject.name) if is_class_image(u)]
        if not shown and not of_class:
            continue
        # Another pair may have one of the same two.
        strangers = [] if subject.members else find_distractors(subject, images.subjects)
        others = [photos[other.name] for other in strangers]
        own = photos[subject.name]
        texts = list_texts(images.protocol, subject)
        text_rows = found.texts.get("clip", {})
        arranged[subject.name] = SubjectFeatures(
            images=_rows_by_input(found, shown, subject, own)
            | _find_regions(found, shown, subject),
            photos=own,
            distractors={
                kind: np.concatenate([other[kind] for other in others] or [rows[:0]])
                for kind, rows in own.items()
            },
            class_images={
                kind: _stack([found.rows[kind][path] for _, path in of_class], rows)
                for kind, rows in own.items()
                if kind in tools.encoders
            },
            texts=np.stack([text_rows[text] for text in texts]) if text_rows else NO_TEXTS,
            own_text=[texts.index(unit.clip_text) for unit, _ in shown],
            prompt_ids=[unit.prompt_id for unit, _ in shown],
            distances=_distances_by_prompt(shown, found),
            held_out=[
                subject.photos.index(path) for path in subject.held_out(images.protocol.references)
            ],
            members=[
                Member(
                    photos[one.name] | _cut_photos(one, found, tools),
                    text_rows[_name_class(one.class_name)] if text_rows else NO_TEXTS,
                )
                for one in subject.members
            ],
            shares_noun=subject.shares_noun,
        )
    return arranged


def _find_regions(found: Extracted, files: Images, subject: Subject) -> dict[str, Features]:
    """Return the regions of a pair's images; none where they are not looked for."""
    rows = found.rows.get(name_regions(subject.nouns))
    if rows is None or not subject.members:
        return {}
    n_dino = len(next(iter(found.rows["dino"].values())))
    return RegionsExtractor.split(np.stack([rows[path] for _, path in files]), n_dino)


def _cut_photos(member: Subject, found: Extracted, tools: Tools) -> dict[str, Features]:
    """Return rows of the subject cut out of its photos, by the dataset's masks where there are."""
    if not any(name.startswith(name_regions(())) for name in found.rows):
        return {}
    if member.masks:
        photos = [load_image(path) for path in member.photos]
        masks = [[load_mask(path)] for path in member.masks]
        made = make_regions_extractor(tools, member.nouns).encode_masked(photos, masks)
    else:
        rows = found.rows[name_regions(member.nouns)]
        made = np.stack([rows[path] for path in member.photos])
    n_dino = len(next(iter(found.rows["dino"].values())))
    regions = RegionsExtractor.split(made, n_dino)
    return {kind: regions[kind][:, 0] for kind in ("region-dino", "region-clip")}


def _stack(rows: Sequence[Features], like: Features) -> Features:
    """Return rows as one array; for none, an empty one as wide as `like`."""
    return np.stack(rows) if rows else like[:0]


def _rows_by_input(
    found: Extracted, files: Images, subject: Subject, like: Mapping[str, Features]
) -> dict[str, Features]:
    """Return rows of whole images, their hashes and, where there are any, their parts."""
    paths = [path for _, path in files]
    rows = {
        kind: _stack([of_file[path] for path in paths], like[kind])
        for kind, of_file in found.rows.items()
        if not is_by_class(kind)
    }
    return rows | _split_parts(found, paths, subject, n_dino=_width(like, "dino"), like=like)


def _width(rows: Mapping[str, Features], kind: str) -> int:
    return rows[kind].shape[1] if kind in rows else 0


def _split_parts(
    found: Extracted,
    paths: Sequence[Path],
    subject: Subject,
    *,
    n_dino: int,
    like: Mapping[str, Features] | None = None,
) -> dict[str, Features]:
    parts = found.rows.get(name_parts(subject.class_name))
    if parts is None or not all(path in parts for path in paths):
        return {}
    if not paths:
        return {kind: rows[:0] for kind, rows in (like or {}).items() if kind[-3:] in _PARTS}
    return PartsExtractor.split(np.stack([parts[path] for path in paths]), n_dino)


_PARTS = ("-fg", "-bg")


def _photo_features(subject: Subject, found: Extracted, tools: Tools) -> dict[str, Features]:
    """Return rows of a subject's photos by input; masks are the dataset's where it has them."""
    rows = {
        kind: np.stack([of_file[path] for path in subject.photos])
        for kind, of_file in found.rows.items()
        if not is_by_class(kind)
    }
    has_parts = name_parts(subject.class_name) in found.rows
    n_dino = _width(rows, "dino")
    if subject.masks and has_parts:
        extractor = make_parts_extractor(tools, subject.class_name)
        photos = [load_image(path) for path in subject.photos]
        masks = [load_mask(path) for path in subject.masks]
        parts = PartsExtractor.split(extractor.encode_masked(photos, masks), n_dino)
        return rows | parts | {MASK: MaskExtractor.encode_masks(masks)}
    if has_parts:
        masks_of = found.rows[name_masks(subject.class_name)]
        rows[MASK] = np.stack([masks_of[path] for path in subject.photos])
    return rows | _split_parts(found, subject.photos, subject, n_dino=n_dino)


def _distances_by_prompt(files: Images, found: Extracted) -> dict[str, np.ndarray]:
    """Return the distances between the images of each prompt; none where they are not measured."""
    by_prompt: dict[str, list[Path]] = {}
    for unit, path in files:
        by_prompt.setdefault(unit.prompt_id, []).append(path)
    if not found.distances:
        return {prompt_id: np.empty(0) for prompt_id in by_prompt}
    return {
        prompt_id: np.array([found.distances[pair] for pair in combinations(paths, 2)])
        for prompt_id, paths in by_prompt.items()
    }
