"""The metrics of two subjects on pictures whose truth is known: missing, twice, merged, swapped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from PIL import Image

from dreambench.encoders.regions import RegionsExtractor
from dreambench.encoders.registry import load_encoder
from dreambench.encoders.segmentation import load_segmenter
from dreambench.metrics.base import Member, SubjectFeatures
from dreambench.metrics.registry import load_own_metrics
from dreambench.mini.validation.trial import sign_of
from dreambench.mini.validation.truth import PROMPT_PLACES, blend
from dreambench.mini.world.bodies import CLASSES
from dreambench.mini.world.identities import Identity, sample_identity
from dreambench.mini.world.renderer import SIZE_PX, Picture, Shot, render, render_together
from dreambench.mini.world.scenes import PHOTO_PLACES
from dreambench.progress import Progress
from dreambench.storage.images import place_side_by_side
from dreambench.types import Features

PAIR_SEED = 43
EVERY_SAME = 4
"""Of so many pairs one has two individuals of one class."""
RIGHT = "both"
FAULTS = (
    "swapped", "first missing", "second missing", "first twice", "second twice", "merged",
    "class only",
)  # fmt: skip
COPIES = ("photos side by side", "first photo alone", "second photo alone")


@dataclass(frozen=True)
class PairCase:
    """One picture; `truth` is the share of the two subjects that it shows as they are.

    None for photos, which show no prompt.
    """

    set_name: str
    truth: float | None
    image: Image.Image
    text: str


@dataclass(frozen=True)
class TruePair:
    """Two individuals with their photos, and pictures that should show both."""

    name: str
    nouns: tuple[str, str]
    photos: tuple[tuple[Picture, ...], ...]
    texts: tuple[str, ...]
    cases: tuple[PairCase, ...]

    @property
    def shares_noun(self) -> bool:
        """Whether both are of one class."""
        return len(set(self.nouns)) == 1


def make_true_pair(index: int) -> TruePair:
    """Return the index-th pair; no individual is one of mini's other sets."""
    rng = np.random.default_rng([PAIR_SEED, index])
    names = list(CLASSES)
    first = names[index % len(names)]
    other = names[(index + 1 + index // len(names)) % len(names)]
    nouns = (first, first if index % EVERY_SAME == EVERY_SAME - 1 else other)
    own = [sample_identity(rng, noun) for noun in nouns]
    strangers = [sample_identity(rng, noun) for noun in nouns]
    photos = tuple(
        tuple(render(Shot(one, int(rng.integers(2**31)), place)) for place in PHOTO_PLACES)
        for one in own
    )
    seeds = [int(rng.integers(2**31)) for _ in PROMPT_PLACES]
    cases = tuple(_make_cases(own, strangers, photos, seeds))
    texts = tuple(dict.fromkeys(case.text for case in cases))
    return TruePair(f"{'+'.join(nouns)}-{index}", nouns, photos, texts, cases)


def _make_cases(
    own: Sequence[Identity],
    strangers: Sequence[Identity],
    photos: Sequence[Sequence[Picture]],
    seeds: Sequence[int],
) -> Iterator[PairCase]:
    first, second = own
    # Each class with the looks of the other's individual.
    swapped = [
        replace(looks, class_name=one.class_name)
        for one, looks in ((first, second), (second, first))
    ]
    merged = blend(first, second, 0.5)
    shown: dict[str, tuple[float, Sequence[Identity]]] = {
        RIGHT: (1.0, own),
        "swapped": (0.0, swapped),
        "first missing": (0.5, [second]),
        "second missing": (0.5, [first]),
        "first twice": (0.5, [first, first]),
        "second twice": (0.5, [second, second]),
        "merged": (0.0, [merged]),
        "class only": (0.0, strangers),
    }
    if first.class_name == second.class_name:
        del shown["swapped"]  # It would be the same picture.
    for number, (place, seed) in enumerate(zip(PROMPT_PLACES, seeds, strict=True)):
        text = f"a {first.class_name} and a {second.class_name} {place}"
        for name, (truth, identities) in shown.items():
            picture = render_together([Shot(one, seed, place) for one in identities])
            yield PairCase(name, truth, picture.image, text)
        both = [own[number % len(own)].image for own in photos]
        given = (place_side_by_side(both, side_px=SIZE_PX), *both)
        for name, image in zip(COPIES, given, strict=True):
            yield PairCase(name, None, image, text)


def run_pair_trial(pairs: Sequence[TruePair], *, progress: Progress) -> pd.DataFrame:
    """Return every metric of two subjects of every case; one row each.

    Columns: subject (the pair), shares_noun, set_name, truth, metric, value.
    """
    frames = []
    for index, pair in enumerate(pairs):
        progress("pairs with a known truth", index, len(pairs))
        seen = _extract(pair)
        heads = pd.DataFrame(
            [[pair.name, pair.shares_noun, case.set_name, case.truth] for case in pair.cases],
            columns=["subject", "shares_noun", "set_name", "truth"],
        )
        frames += [
            heads.assign(metric=name, value=metric.compute(seen))
            for name, metric in load_own_metrics().items()
            if metric.takes != "one"
        ]
    progress("pairs with a known truth", len(pairs), len(pairs))
    return pd.concat(frames, ignore_index=True)


def _extract(pair: TruePair) -> SubjectFeatures:
    dino, clip = load_encoder("mini-vit", "dino"), load_encoder("mini-clip", "clip")
    regions = RegionsExtractor(dino, clip, load_segmenter("mini-segmenter"), nouns=pair.nouns)
    images = [case.image for case in pair.cases]
    whole = {"dino": dino.encode_images(images), "clip": clip.encode_images(images)}
    n_dino = whole["dino"].shape[1]

    def look_at(photos: Sequence[Picture]) -> dict[str, Features]:
        """Return rows of photos, whole and cut out by their known masks."""
        shown = [photo.image for photo in photos]
        rows = regions.encode_masked(shown, [[photo.mask] for photo in photos])
        cut = {kind: values[:, 0] for kind, values in regions.split(rows, n_dino).items()}
        return {"dino": dino.encode_images(shown), "clip": clip.encode_images(shown), **cut}

    nouns = clip.encode_texts([f"a {noun}" for noun in pair.nouns])
    members = [
        Member(look_at(photos), noun) for photos, noun in zip(pair.photos, nouns, strict=True)
    ]
    return SubjectFeatures(
        images=whole | regions.split(regions.encode_images(images), n_dino),
        photos={
            kind: np.concatenate([member.photos[kind] for member in members]) for kind in whole
        },
        distractors={}, class_images={}, texts=clip.encode_texts(pair.texts),
        own_text=[pair.texts.index(case.text) for case in pair.cases],
        prompt_ids=[case.text for case in pair.cases], distances={}, members=members,
        shares_noun=pair.shares_noun,
    )  # fmt: skip


def mean_by_pair_set(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the mean of each metric (rows) on each set (columns), over pairs."""
    sets, metrics = (list(dict.fromkeys(frame[key])) for key in ("set_name", "metric"))
    table = frame.groupby(["metric", "set_name"])["value"].mean().unstack()
    return table.loc[metrics, sets]


def compute_wins(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the share of pairs on which a faulty set is above the right one (columns FAULTS).

    By metric; of means over a pair's pictures, ties count half. 0 is right. NaN where a metric is
    defined for no pair.
    """
    means = frame.groupby(["metric", "subject", "set_name"])["value"].mean().unstack()
    rows = {}
    for name in dict.fromkeys(frame["metric"]):
        one = means.loc[name] * sign_of(name)
        above = one[list(FAULTS)].sub(one[RIGHT], axis=0)
        shares = (above > 0) + 0.5 * (above == 0)
        rows[name] = shares.where(above.notna()).mean()
    return pd.DataFrame(rows).T
