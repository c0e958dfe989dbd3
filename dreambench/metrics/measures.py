"""Measures that a copier cannot win: pure functions of embeddings, and the table MEASURES.

They stand beside the paper's five metrics. Those reward a picture for being close to a reference
photo, so that pasting the photo back earns most; these leave the nearest photo out, ask how near it
is, look at the subject apart from its background, and count subject and prompt together. Each has a
page in docs/measures/ with formula, source, range, and what it cannot see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dreambench.metrics.metrics import (
    COSINE,
    METRICS,
    SHARE,
    UNBOUNDED,
    Metric,
    compute_reference_similarity,
    compute_text_similarity,
)
from dreambench.types import Bounds, Features, Values


@dataclass(frozen=True)
class Measure:
    """A measure's identity apart from encoders and segmenter.

    `inputs` names what it is computed from: roles of encoders, "mask" for a segmenter, "hash" for
    the perceptual hash. `bounds` are the ends of its range.
    """

    name: str
    title: str
    version: int
    inputs: tuple[str, ...]
    higher_is_better: bool
    choices: str
    formula: str
    bounds: Bounds

    def signature(self, identities: Mapping[str, str]) -> str:
        """One string that names everything the number depends on; `identities` by input."""
        used = [identities[name] for name in self.inputs]
        return "|".join(
            [self.title, f"v{self.version}", *used, self.choices, "mean:images>subject"]
        )


MEASURES = {
    measure.name: measure
    for measure in (
        Measure(
            "dino-lro", "DINO-LRO", 1, ("dino",), True, "refs:all-but-nearest",
            "mean cosine with the photos of the subject, the most similar one left out",
            COSINE,
        ),
        Measure(
            "clip-i-lro", "CLIP-I-LRO", 1, ("clip",), True, "refs:all-but-nearest",
            "mean cosine with the photos of the subject, the most similar one left out",
            COSINE,
        ),
        Measure(
            "dino-norm", "DINO-norm", 1, ("dino",), True,
            "refs:all-but-nearest,floor:other-subjects,ceiling:photos-without-self",
            "DINO-LRO between 0 (photos of another individual) and 1 (new photos of this one)",
            UNBOUNDED,
        ),
        Measure(
            "copy", "Copy index", 1, ("dino",), False, "refs:nearest,zero:half-way",
            "how much nearer to a photo than two photos are to each other; 1 is the photo itself",
            SHARE,
        ),
        Measure(
            "copy-pixels", "Copied pixels", 1, ("hash",), False, "refs:any,mirrored-too,bits<=10",
            "share of images whose perceptual hash is that of a photo",
            SHARE,
        ),
        Measure(
            "rank-1", "Identity rank-1", 1, ("dino",), True, "gallery:photos,distractors:class",
            "share of images whose nearest photo is one of the subject",
            SHARE,
        ),
        Measure(
            "identity-map", "Identity mAP", 1, ("dino",), True, "gallery:photos,distractors:class",
            "average precision of the subject's photos among those of others of its class",
            SHARE,
        ),
        Measure(
            "dino-fg", "DINO-fg", 1, ("dino", "mask"), True, "refs:all,background:mean-colour",
            "DINO of the subject cut out, image and photos alike",
            COSINE,
        ),
        Measure(
            "clip-i-fg", "CLIP-I-fg", 1, ("clip", "mask"), True, "refs:all,background:mean-colour",
            "CLIP-I of the subject cut out, image and photos alike",
            COSINE,
        ),
        Measure(
            "leak", "Background leak", 1, ("dino", "mask"), False,
            "refs:nearest,subject:mean-colour,zero:other-subjects",
            "how near the background comes to that of a photo; 1 is the same background",
            SHARE,
        ),
        Measure(
            "prompt-rank", "Prompt rank", 1, ("clip",), True, "texts:protocol",
            "share of the protocol's other prompts that the image matches less well than its own",
            SHARE,
        ),
        Measure(
            "prompt-lift", "Prompt lift", 1, ("clip",), True, "photos:own-and-distractors",
            "CLIP-T above that of photos with the same text, in their standard deviations",
            UNBOUNDED,
        ),
        Measure(
            "joint", "Joint", 1, ("dino", "clip", "mask"), True,
            "subject:dino-fg-norm+clip-i-fg-norm,prompt:prompt-rank*prompt-lift/3,copy:dino-fg",
            "geometric mean of subject and prompt fidelity, less what was copied",
            SHARE,
        ),
    )
}  # fmt: skip


QUANTITIES: dict[str, Metric | Measure] = {**METRICS, **MEASURES}
"""All that pictures are measured by, the paper's metrics first."""


def compute_left_out_similarity(images: Features, references: Features) -> Values:
    """Mean cosine with all references but the most similar one: (n, d), (m, d) -> (n,).

    A pasted photo earns what a photo earns beside the others of its subject. NaN with one photo.
    """
    if len(references) < 2:
        return np.full(len(images), np.nan)
    cosines = _cosines(images, references)
    return (cosines.sum(1) - cosines.max(1)) / (len(references) - 1)


def compute_anchors(references: Features, others: Features) -> tuple[float, float]:
    """Floor and ceiling of a subject: mean cosine of its photos with others', and with each other.

    (m, d), (k, d) -> in [-1, 1]; NaN where there is nothing to compare with. No photo is compared
    with itself, so the ceiling is what a faithful new photo earns.
    """
    floor = float(_cosines(references, others).mean()) if len(others) else float("nan")
    if len(references) < 2:
        return floor, float("nan")
    return floor, float(compute_left_self_out(references).mean())


def compute_left_self_out(references: Features) -> Values:
    """Mean cosine of each photo with the others of its subject: (m, d) -> (m,), m at least 2."""
    cosines = _cosines(references, references)
    return (cosines.sum(1) - np.diag(cosines)) / (len(references) - 1)


def normalise(values: Values, floor: float, ceiling: float) -> Values:
    """Values between the anchors: 0 at the floor, 1 at the ceiling; NaN where these are one."""
    if not ceiling - floor > 1e-6:
        return np.full(len(values), np.nan)
    return (values - floor) / (ceiling - floor)


def compute_copy_index(images: Features, references: Features) -> Values:
    """How much nearer an image is to some reference than any two references are: in [0, 1].

    (n, d), (m, d) -> (n,). With p the greatest cosine between two references, it is 0 up to
    half-way from p to 1, so that a new photo which happens to be near one is not called a copy,
    and 1 for a reference itself. NaN with one reference, or where two references are the same.
    """
    if len(references) < 2:
        return np.full(len(images), np.nan)
    nearest_pair = float(
        _cosines(references, references)[np.triu_indices(len(references), 1)].max()
    )
    if nearest_pair > 1 - 1e-6:
        return np.full(len(images), np.nan)
    start = (1 + nearest_pair) / 2
    return np.clip((_cosines(images, references).max(1) - start) / (1 - start), 0, 1)


def compute_leak(images: Features, references: Features, others: Features) -> Values:
    """How near an image's background is to that of some reference: in [0, 1].

    (n, d), (m, d), (k, d) of pictures without their subject -> (n,). 0 is what the backgrounds of
    other subjects' photos have in common with these, 1 the same background. NaN without others.
    """
    if not len(others):
        return np.full(len(images), np.nan)
    common = float(_cosines(references, others).mean())
    return np.clip((_cosines(images, references).max(1) - common) / (1 - common), 0, 1)


def compute_retrieval(
    images: Features, references: Features, distractors: Features
) -> tuple[Values, Values]:
    """Rank-1 (0 or 1) and average precision of the references in a gallery with distractors.

    (n, d), (m, d), (k, d) -> (n,), (n,) in [0, 1]; NaN without distractors. A tie counts against
    the subject.
    """
    if not len(distractors):
        missing = np.full(len(images), np.nan)
        return missing, missing.copy()
    own, foreign = _cosines(images, references), _cosines(images, distractors)
    own = -np.sort(-own, axis=1)
    before = (foreign[:, None, :] >= own[:, :, None]).sum(2)
    hits = np.arange(1, own.shape[1] + 1)
    return (before[:, 0] == 0).astype(np.float64), (hits / (hits + before)).mean(1)


def compute_prompt_rank(images: Features, texts: Features, own: Sequence[int]) -> Values:
    """Share of the other texts that each image matches less well than its own one: in [0, 1].

    (n, d), (t, d) and for each image the row of its text -> (n,). Half is chance; ties count half.
    NaN with one text. It needs no scale of CLIP's cosines, which differs from encoder to encoder.
    """
    if len(texts) < 2:
        return np.full(len(images), np.nan)
    cosines = _cosines(images, texts)
    mine = cosines[np.arange(len(images)), list(own)][:, None]
    less = (cosines < mine).sum(1) + 0.5 * ((cosines == mine).sum(1) - 1)
    return less / (len(texts) - 1)


def compute_prompt_lift(
    images: Features, photos: Features, texts: Features, own: Sequence[int]
) -> Values:
    """CLIP-T above what photos score with the same text, in standard deviations of theirs.

    (n, d), (k, d), (t, d) and for each image the row of its text -> (n,). Photos were taken for no
    prompt; a picture that is no nearer to the text than they are has not followed it.
    """
    cosines = _cosines(photos, texts)
    mean, deviation = cosines.mean(0)[list(own)], cosines.std(0, ddof=1)[list(own)]
    return (compute_text_similarity(images, texts[list(own)]) - mean) / deviation


def compute_joint(
    subject: Values, prompt_rank: Values, prompt_lift: Values, copied: Values
) -> Values:
    """sqrt(subject x prompt) x (1 - copied), in [0, 1]; low if either is low, 0 for a copy.

    `subject` lies in [0, 1]. The prompt counts in full where it ranks first of all and CLIP-T is
    FULL_LIFT deviations above the photos', and not at all where its rank is chance or it has no
    lift.
    """
    prompt = np.clip(2 * prompt_rank - 1, 0, 1) * np.clip(prompt_lift / FULL_LIFT, 0, 1)
    return np.sqrt(subject * prompt) * (1 - copied)


def measure_subject(
    vectors: Mapping[str, Features],
    photos: Mapping[str, Features],
    others: Mapping[str, Features],
    texts: Features,
    own_text: Sequence[int],
) -> dict[str, Values]:
    """Every measure that the vectors allow, by name, for the images of one subject.

    `vectors`, `photos` and `others` (photos of its distractors) hold rows by kind: dino, clip, and
    with masks dino-fg, clip-fg, dino-bg; `hash` holds those of `HashExtractor`. `texts`
    are CLIP's of the protocol's prompts for this class; `own_text` the row of each image's own.
    """
    found: dict[str, Values] = {}
    dino, clip = vectors["dino"], vectors["clip"]
    found["dino-lro"] = compute_left_out_similarity(dino, photos["dino"])
    found["clip-i-lro"] = compute_left_out_similarity(clip, photos["clip"])
    anchors = compute_anchors(photos["dino"], others["dino"])
    found["dino-norm"] = normalise(found["dino-lro"], *anchors)
    found["copy"] = compute_copy_index(dino, photos["dino"])
    if "hash" in vectors:
        found["copy-pixels"] = compute_copied_pixels(vectors["hash"], photos["hash"])
    found["rank-1"], found["identity-map"] = compute_retrieval(dino, photos["dino"], others["dino"])
    found["prompt-rank"] = compute_prompt_rank(clip, texts, own_text)
    gallery = np.concatenate([photos["clip"], others["clip"]])
    found["prompt-lift"] = compute_prompt_lift(clip, gallery, texts, own_text)
    if "dino-fg" in vectors:
        cut, references = vectors["dino-fg"], photos["dino-fg"]
        found["dino-fg"] = compute_reference_similarity(cut, references)
        found["clip-i-fg"] = compute_reference_similarity(vectors["clip-fg"], photos["clip-fg"])
        found["leak"] = compute_leak(vectors["dino-bg"], photos["dino-bg"], others["dino-bg"])
        likeness = [
            normalise(
                compute_left_out_similarity(vectors[kind], photos[kind]),
                *compute_anchors(photos[kind], others[kind]),
            ).clip(0, 1)
            for kind in ("dino-fg", "clip-fg")
        ]
        found["joint"] = compute_joint(
            (likeness[0] + likeness[1]) / 2,
            found["prompt-rank"],
            found["prompt-lift"],
            compute_copy_index(cut, references),
        )
    return found


def compute_copied_pixels(images: Features, references: Features) -> Values:
    """1 for an image whose hash is within COPY_BITS of a reference's, else 0: (n, 2 b), (m, 2 b).

    A row has the bits of a picture's hash and then those of its mirror image's, as 0 and 1.
    """
    n_bits = images.shape[1] // 2
    either = references.reshape(len(references), 2, n_bits)
    bits = (images[:, None, None, :n_bits] != either[None]).sum(-1)
    return (bits.min((1, 2)) <= COPY_BITS).astype(np.float64)


FULL_LIFT = 3.0
"""Standard deviations above the photos' that count as having followed the prompt."""
COPY_BITS = 10
"""Of 64; the bound within which perceptual hashes of near-duplicates fall (Buchner, imagehash)."""


def _cosines(first: Features, second: Features) -> Values:
    """Sums run in float64, so that no order of work shows in the result."""
    return first.astype(np.float64) @ second.astype(np.float64).T
