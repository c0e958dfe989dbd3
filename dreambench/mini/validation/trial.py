"""The metrics on pictures whose truth is known: how each answers to each cause."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from PIL import Image
from scipy.stats import kendalltau

from dreambench.analysis.stats import estimate_mean
from dreambench.encoders.base import Encoder
from dreambench.encoders.parts import HashExtractor, PartsExtractor
from dreambench.encoders.registry import find_encoder, find_segmenter, load_encoder
from dreambench.encoders.segmentation import Segmenter, load_segmenter
from dreambench.metrics.base import HASH, MASK, SubjectFeatures
from dreambench.metrics.registry import load_own_metrics
from dreambench.mini.validation.truth import DAMAGES, TrueSubject, make_true_subject
from dreambench.progress import Progress
from dreambench.types import Features, Mask

TRIVIAL = ("copy-reference", "class only", "photo on scene")
TRUTHS = ("truth", "truth+view")
CAUSES = ("identity", "colour", "scene", "view", "background", "copy", *DAMAGES)


def run_trial(n_subjects: int, *, progress: Progress) -> pd.DataFrame:
    """Every metric of every case; one row each.

    Columns: subject, cause, set_name, level, truth (subject x prompt where that is known), metric,
    value. DIV and PRES are not among them, since they belong to sets of images, not to one.
    """
    dino, clip = load_encoder("mini-vit", "dino"), load_encoder("mini-clip", "clip")
    segmenter = load_segmenter("mini-segmenter")
    frames = []
    for index in range(n_subjects):
        progress("subjects with a known truth", index, n_subjects)
        frames.append(_score(make_true_subject(index), dino, clip, segmenter))
    progress("subjects with a known truth", n_subjects, n_subjects)
    return pd.concat(frames, ignore_index=True)


def _score(
    subject: TrueSubject, dino: Encoder, clip: Encoder, segmenter: Segmenter
) -> pd.DataFrame:
    parts = PartsExtractor(dino, clip, segmenter, class_name=subject.class_name)
    hashes = HashExtractor()

    def extract(images: list[Image.Image], masks: list[Mask] | None = None) -> dict[str, Features]:
        """Rows by kind; photos' masks are known and need no segmenter."""
        whole = dino.encode_images(images)
        cut = parts.encode_images(images) if masks is None else parts.encode_masked(images, masks)
        return {
            "dino": whole,
            "clip": clip.encode_images(images),
            HASH: hashes.encode_images(images),
            **parts.split(cut, whole.shape[1]),
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
        if metric.unit == "image"
    }
    heads = pd.DataFrame(
        [
            [subject.name, case.cause, case.set_name, case.level, _truth(case.subject, case.prompt)]
            for case in subject.cases
        ],
        columns=["subject", "cause", "set_name", "level", "truth"],
    )
    return pd.concat(
        [heads.assign(metric=name, value=values) for name, values in found.items()],
        ignore_index=True,
    )


def _truth(subject: float | None, prompt: float | None) -> float:
    """Both have to be right; a wrong prompt makes a picture wrong whatever it shows."""
    if prompt == 0:
        return 0.0
    return float("nan") if subject is None or prompt is None else subject * prompt


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
    """Kendall's tau-b of each metric with the truth and with the levels of each cause.

    Columns: metric, cause ("truth", "truth+view", or one of CAUSES), tau, low, high: mean over
    subjects with a 95 % interval. "truth" leaves out the two sets of views. Taken over the means of
    a subject's pictures of one set; positive where a better value goes with more truth, or with
    less of the cause. NaN where a metric does not change.
    """
    means = mean_by_set(frame)
    means["value"] *= means["metric"].map(sign_of)
    rows = []
    for name, group in means.groupby("metric", sort=False):
        for cause in (*TRUTHS, *CAUSES):
            taus = []
            for _, one in group.groupby("subject", sort=False):
                if cause in TRUTHS:
                    known = one["truth"].notna()
                    chosen = one[known & ((one["cause"] != "view") | (cause == "truth+view"))]
                    order = chosen["truth"]
                else:
                    start = "right view" if cause == "view" else "faithful"
                    chosen = one[(one["cause"] == cause) | (one["set_name"] == start)]
                    order = -chosen["level"]
                if len(chosen) > 1:
                    taus.append(kendalltau(chosen["value"], order).statistic)
            defined = np.array([tau for tau in taus if not np.isnan(tau)])
            found = estimate_mean(defined, bounds=(-1.0, 1.0))
            rows.append([name, cause, found.mean, found.low, found.high, found.n_subjects])
    return pd.DataFrame(rows, columns=["metric", "cause", "tau", "low", "high", "n_subjects"])


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
    }
    return {name: load_own_metrics()[name].signature(identities) for name in names}
