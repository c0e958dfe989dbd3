"""The metrics on pictures whose truth is known: how each answers to each cause."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from PIL import Image
from scipy.stats import kendalltau, somersd

from dreambench.analysis.stats import estimate_mean
from dreambench.base_models.catalogue import BASE_MODELS
from dreambench.base_models.registry import load_base_model
from dreambench.config.protocol import load_protocol
from dreambench.encoders.base import Encoder
from dreambench.encoders.parts import (
    HashExtractor,
    MaskExtractor,
    PartsExtractor,
    ThumbnailExtractor,
)
from dreambench.encoders.registry import find_encoder, find_segmenter, load_encoder
from dreambench.encoders.segmentation import Segmenter, load_segmenter
from dreambench.encoders.spec import REGIONS_IDENTITY
from dreambench.metrics.base import HASH, HELD_OUT, MASK, REGIONS, THUMBNAIL, SubjectFeatures
from dreambench.metrics.registry import load_own_metrics
from dreambench.mini.validation.truth import (
    DAMAGES,
    PASTES,
    Draw,
    TrueSubject,
)
from dreambench.mini.world.renderer import SIZE_PX
from dreambench.progress import Progress
from dreambench.types import Features, Mask

TRIVIAL = ("copy-reference", "class only", "wrong individual", "photo on scene", *PASTES)
TRUTH = "truth"
CAUSES = (
    "identity", "stranger", "colour", "scene", "view", "accessory", "colour asked", "background",
    "copy", "paste", *DAMAGES,
)  # fmt: skip
LEAST = {cause: f"right {cause}" for cause in ("view", "accessory", "colour asked")}
"""The set in which a cause is not at work, where that is not the faithful picture in a scene."""


def load_draw() -> Draw:
    """Return what generates images by mini's base model, as the method `class-only` does."""
    model = load_base_model(
        BASE_MODELS["mini"], load_protocol("mini").sampler.at_size(SIZE_PX), device="cpu",
        precision="fp32",
    )  # fmt: skip
    return lambda texts, seeds: model.sample(list(texts), list(seeds))


def run_trial(subjects: Sequence[TrueSubject], *, progress: Progress) -> pd.DataFrame:
    """Every metric of every case of subjects; one row each.

    Columns: subject, cause, set_name, level, truth (see `Case`), metric, value. DIV and PRES are
    not among them, since they belong to sets of images and not to one, nor what needs photos that a
    method was not shown.
    """
    dino, clip = load_encoder("mini-vit", "dino"), load_encoder("mini-clip", "clip")
    segmenter = load_segmenter("mini-segmenter")
    frames = []
    for index, subject in enumerate(subjects):
        progress("subjects with a known truth", index, len(subjects))
        frames.append(_score(subject, dino, clip, segmenter))
    progress("subjects with a known truth", len(subjects), len(subjects))
    return pd.concat(frames, ignore_index=True)


def _score(
    subject: TrueSubject, dino: Encoder, clip: Encoder, segmenter: Segmenter
) -> pd.DataFrame:
    parts = PartsExtractor(dino, clip, segmenter, class_name=subject.class_name)
    hashes, thumbnails = HashExtractor(), ThumbnailExtractor()

    def extract(images: list[Image.Image], masks: list[Mask] | None = None) -> dict[str, Features]:
        """Rows by kind; photos' masks are known and need no segmenter."""
        whole = dino.encode_images(images)
        cut = parts.encode_images(images) if masks is None else parts.encode_masked(images, masks)
        known = {} if masks is None else {MASK: MaskExtractor.encode_masks(masks)}
        return {
            "dino": whole,
            "clip": clip.encode_images(images),
            HASH: hashes.encode_images(images),
            THUMBNAIL: thumbnails.encode_images(images),
            **parts.split(cut, whole.shape[1]),
            **known,
        }

    features = extract([case.image for case in subject.cases])
    photos, others = (
        extract([picture.image for picture in seen], [picture.mask for picture in seen])
        for seen in (subject.photos, subject.distractors)
    )
    seen = SubjectFeatures(
        images=features, photos=photos, distractors=others, class_images={},
        texts=clip.encode_texts(subject.texts),
        own_text=[subject.texts.index(case.text) for case in subject.cases],
        prompt_ids=[case.text for case in subject.cases], distances={},
    )  # fmt: skip
    found = {
        name: metric.compute(seen)
        for name, metric in load_own_metrics().items()
        if metric.unit == "image" and metric.takes != "two" and HELD_OUT not in metric.inputs
    }
    heads = pd.DataFrame(
        [
            [subject.name, case.cause, case.set_name, case.level, case.truth]
            for case in subject.cases
        ],
        columns=["subject", "cause", "set_name", "level", "truth"],
    )
    return pd.concat(
        [heads.assign(metric=name, value=values) for name, values in found.items()],
        ignore_index=True,
    )


def mean_by_set(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean over a subject's pictures of one set."""
    keys = ["subject", "cause", "set_name", "level", "metric"]
    return frame.groupby(keys, sort=False)[["truth", "value"]].mean().reset_index()


def title_of(name: str) -> str:
    """Return the title of a metric."""
    return load_own_metrics()[name].title


def sign_of(name: str) -> int:
    """What makes higher better."""
    return 1 if load_own_metrics()[name].higher_is_better else -1


def compute_correlations(frame: pd.DataFrame) -> pd.DataFrame:
    """How a metric agrees with the truth and with the levels of each cause.

    Columns: metric, cause (TRUTH or one of CAUSES), agreement, tau, low, high, n_subjects.
    `agreement` is Kendall's count over the pairs of sets that the truth orders (Somers' D):
    pairs in the same order less pairs in the other, over all of them, with a 95 % interval over
    subjects; `tau` is tau-b, which counts the pairs that the truth does not order against a
    metric that does. Both are means over subjects, taken over the means of a subject's pictures of
    one set; positive where a better value goes with more truth, or with less of the cause.
    """
    means = mean_by_set(frame)
    means["value"] *= means["metric"].map(sign_of)
    rows = []
    for name, group in means.groupby("metric", sort=False):
        for cause in (TRUTH, *CAUSES):
            found = [
                _compare(*_choose(one, cause)) for _, one in group.groupby("subject", sort=False)
            ]
            known = np.array([pair for pair in found if pair is not None]).reshape(-1, 2)
            taus = known[:, 1][~np.isnan(known[:, 1])]
            mean = estimate_mean(known[:, 0], bounds=(-1.0, 1.0))
            tau = taus.mean() if len(taus) else np.nan
            rows.append([name, cause, mean.mean, tau, mean.low, mean.high, mean.n_subjects])
    columns = ["metric", "cause", "agreement", "tau", "low", "high", "n_subjects"]
    return pd.DataFrame(rows, columns=columns)


def compute_highest_tau(frame: pd.DataFrame) -> float:
    """Return the greatest tau-b with the truth of a metric without ties; mean over subjects."""
    means = mean_by_set(frame[frame["metric"] == frame["metric"].iloc[0]])
    found = []
    for _, one in means.groupby("subject", sort=False):
        truth = one["truth"].dropna()
        found.append(kendalltau(truth.rank(method="first"), truth).statistic)
    return float(np.mean(found))


def _choose(one: pd.DataFrame, cause: str) -> tuple[pd.Series, pd.Series]:
    """Return a subject's values of one metric, and the order that is right for a cause."""
    if cause == TRUTH:
        chosen = one[one["truth"].notna()]
        return chosen["value"], chosen["truth"]
    chosen = one[(one["cause"] == cause) | (one["set_name"] == LEAST.get(cause, "faithful"))]
    return chosen["value"], -chosen["level"]


def _compare(values: pd.Series, order: pd.Series) -> tuple[float, float] | None:
    """Return Somers' D and tau-b; None where nothing is to be ordered."""
    known = values.notna()
    values, order = values[known], order[known]
    if order.nunique() < 2:
        return None
    if values.nunique() < 2:
        return 0.0, float("nan")
    return somersd(order, values).statistic, kendalltau(values, order).statistic


def compute_responses(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean of each metric (rows) on each set of pictures (columns), over subjects."""
    table = mean_by_set(frame).groupby(["metric", "set_name"], sort=False)["value"].mean().unstack()
    order = list(dict.fromkeys(frame["set_name"]))
    return table.loc[list(dict.fromkeys(frame["metric"])), order]


def compute_dominance(frame: pd.DataFrame) -> pd.DataFrame:
    """For each metric and trivial baseline the share of subjects on which it is above faithful.

    Ties count half. Columns: metric, then the sets of TRIVIAL.
    """
    wide = mean_by_set(frame).pivot(index=["metric", "subject"], columns="set_name", values="value")
    rows = []
    for name in dict.fromkeys(frame["metric"]):
        one = wide.loc[name] * sign_of(name)
        shares = [
            ((one[kind] > one["faithful"]) + 0.5 * (one[kind] == one["faithful"])).mean()
            for kind in TRIVIAL
        ]
        rows.append([name, *shares])
    return pd.DataFrame(rows, columns=["metric", *TRIVIAL])


def sign_metrics(names: Iterable[str]) -> dict[str, str]:
    """The signature of each with the encoders, segmenter and hash of `run_trial`."""
    identities = {
        "dino": find_encoder("mini-vit", "dino").identity(),
        "clip": find_encoder("mini-clip", "clip").identity(),
        MASK: find_segmenter("mini-segmenter").identity(),
        HASH: HashExtractor.identity,
        THUMBNAIL: ThumbnailExtractor.identity,
    }
    identities[REGIONS] = f"{REGIONS_IDENTITY}|{identities[MASK]}"
    return {name: load_own_metrics()[name].signature(identities) for name in names}
