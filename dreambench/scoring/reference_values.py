"""The scorer proves itself: reference bounds of the real photos against values known before.

For the paper's photos these are of an independent implementation (`dataset/golden.csv`); for mini,
of this one when it was released. A scorer that is off in pixels, pooling, precision or photos
misses them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from dreambench.datasets.index import EMBEDDED
from dreambench.datasets.subjects import Subject
from dreambench.encoders.preprocessing import HALF, IMAGENET, Fit, Interpolation
from dreambench.encoders.registry import make_encoder
from dreambench.encoders.spec import EncoderSpec, Pooling
from dreambench.errors import UserError
from dreambench.metrics.reference_bounds import METRIC_OF_ROLE, compute_reference_bounds
from dreambench.storage.images import load_image
from dreambench.storage.shipped import shipped_path
from dreambench.types import Features

# Column of golden.csv by metric and kind of pairs.
GOLDEN_COLUMNS = {
    ("dino", "copy_bound"): "dino_with_self",
    ("dino", "faithful_bound"): "dino_without_self",
    ("clip-i", "copy_bound"): "clip_i_with_self",
    ("clip-i", "faithful_bound"): "clip_i_without_self",
}


@dataclass(frozen=True)
class Golden:
    """Known values, one row a subject, and by metric how far off is still right.

    `prepare` is what is done to a photo before any encoder sees it.
    """

    table: pd.DataFrame
    tolerance: Mapping[str, float]
    source: str
    prepare: Callable[[Image.Image], Image.Image]


@dataclass(frozen=True)
class Check:
    """Outcome for one encoder; `gaps` has a row a subject with found, known and gap."""

    encoder: str
    metric: str
    mean_found: float
    mean_known: float
    gaps: pd.DataFrame
    cause: str

    @property
    def passed(self) -> bool:
        """Whether all subjects are within tolerance."""
        return not bool(self.gaps["off"].any())


def enlarge(image: Image.Image) -> Image.Image:
    """Return an image three times as large, and a quarter wider, by copying pixels.

    mini's photos have the very size that its encoders take; so changed, they show whether an
    encoder resizes and crops as it should.
    """
    pixels = np.asarray(image).repeat(3, axis=0).repeat(3, axis=1)
    border = image.width * 3 // 8
    return Image.fromarray(np.pad(pixels, ((0, 0), (border, border), (0, 0)), mode="reflect"))


def load_golden(dataset: str) -> Golden:
    """Load the known values of a dataset.

    Raises:
        UserError: the dataset has none.
    """
    if dataset in EMBEDDED:
        path = EMBEDDED[dataset] / "golden.csv"
        tolerance = {"dino": 2e-5, "clip-i": 2e-5}
        return Golden(pd.read_csv(path), tolerance, "dreambench, fp32 on a CPU", enlarge)
    if dataset == "dreambooth":
        path = shipped_path("dataset", "golden.csv")
        # The source ran CLIP in fp16.
        tolerance = {"dino": 1e-3, "clip-i": 2e-3}
        source = "AIshutin/subject-driven-gen-eval at 834eeb8, realimages-all-eval.json"
        return Golden(pd.read_csv(path), tolerance, source, lambda image: image)
    raise UserError(
        f"there are no golden values for '{dataset}'",
        hint=f"known: dreambooth, {', '.join(EMBEDDED)}",
        code="unknown-name",
    )


def load_known_bounds(dataset: str) -> Golden:
    """Load the known reference bounds of a dataset's photos as they are.

    Tolerances are those between machines and between two implementations.

    Raises:
        UserError: there are none for it.
    """
    known = load_golden(dataset)
    if dataset not in EMBEDDED:
        return known
    table = pd.read_csv(EMBEDDED[dataset] / "reference-bounds.csv")
    tolerance = load_golden("dreambooth").tolerance
    return Golden(table, tolerance, known.source, lambda image: image)


def check_golden(spec: EncoderSpec, subjects: Sequence[Subject], golden: Golden) -> Check:
    """Compare the reference bounds by an encoder with the known ones, and look for the cause."""
    gaps = _compare(spec, subjects, golden)
    metric = METRIC_OF_ROLE[spec.role]
    cause = _find_cause(spec, subjects, golden, gaps) if gaps["off"].any() else ""
    chosen = gaps[gaps["pairs"] == "copy_bound"]
    return Check(
        spec.name, metric, float(chosen["found"].mean()), float(chosen["known"].mean()), gaps, cause
    )


def make_bounds(
    spec: EncoderSpec, subjects: Sequence[Subject], prepare: Callable[[Image.Image], Image.Image]
) -> pd.DataFrame:
    """Compute the reference bounds by one encoder; columns of `reference_bounds.COLUMNS`."""
    encoder = make_encoder(spec)
    vectors: dict[Path, Features] = {}
    for subject in subjects:
        images = [prepare(load_image(path)) for path in subject.photos]
        vectors |= dict(zip(subject.photos, encoder.encode_images(images), strict=True))
    return compute_reference_bounds(list(subjects), {spec.role: vectors})


def _compare(spec: EncoderSpec, subjects: Sequence[Subject], golden: Golden) -> pd.DataFrame:
    bounds = make_bounds(spec, subjects, golden.prepare)
    known = golden.table.set_index("subject")
    metric = METRIC_OF_ROLE[spec.role]
    rows = []
    for row in bounds.itertuples():
        for pairs in ("copy_bound", "faithful_bound"):
            found = getattr(row, pairs)
            wanted = known.loc[row.subject, GOLDEN_COLUMNS[metric, pairs]]
            rows.append([row.subject, pairs, found, wanted, found - wanted])
    frame = pd.DataFrame(rows, columns=["subject", "pairs", "found", "known", "gap"])
    frame["off"] = ~(frame["gap"].abs() <= golden.tolerance[metric])
    return frame


def _variants(spec: EncoderSpec) -> dict[str, EncoderSpec]:
    """Return the encoder with one setting changed, by what is then said to be the cause."""
    pixels = spec.pixels
    other: Interpolation = "bicubic" if pixels.interpolation == "bilinear" else "bilinear"
    fit: Fit = "crop" if pixels.fit == "squash" else "squash"
    found = {
        f"images are resized {pixels.interpolation} where {other} is right": replace(
            spec, pixels=replace(pixels, interpolation=other)
        ),
        f"images are fitted by {pixels.fit} where {fit} is right": replace(
            spec, pixels=replace(pixels, fit=fit)
        ),
    }
    for name, (mean, std) in {
        "ImageNet's": IMAGENET, "0.5": (HALF, HALF), "none": ((0.0,) * 3, (1.0,) * 3),
    }.items():  # fmt: skip
        found[f"mean and deviation of the pixels are wrong where {name} are right"] = replace(
            spec, pixels=replace(pixels, mean=mean, std=std)
        )
    if spec.role == "dino":
        pooling: Pooling = "cls" if spec.pooling == "mean-patches" else "mean-patches"
        found[f"the pooling is {spec.pooling} where {pooling} is right"] = replace(
            spec, pooling=pooling
        )
    if spec.precision != "fp32":
        found["the precision is fp16 where fp32 is right"] = replace(spec, precision="fp32")
    if spec.role == "dino":
        found["the pixels are those of the Hugging Face preprocessor (squash, bilinear, 0.5)"] = (
            replace(
                spec,
                pixels=replace(
                    pixels, resize_px=256, fit="crop", interpolation="bicubic", mean=IMAGENET[0],
                    std=IMAGENET[1],
                ),
            )
        )  # fmt: skip
    return found


def _find_cause(
    spec: EncoderSpec, subjects: Sequence[Subject], golden: Golden, gaps: pd.DataFrame
) -> str:
    """Return the one change that gives agreement; else what the pattern of the gaps says."""
    off = sorted(set(gaps.loc[gaps["off"], "subject"]))
    if len(off) <= max(2, len(subjects) // 5):
        return f"the photos of {', '.join(off)} are not the known ones, or those of another subject"
    for cause, variant in _variants(spec).items():
        if not _compare(variant, subjects, golden)["off"].any():
            return cause
    return (
        "no one setting explains it: the weights may be others "
        f"(here {spec.identity().split('|')[0]}), or the device may compute in lower precision"
    )
