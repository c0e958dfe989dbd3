"""What the image browser of a report's page shows: every image with its scores, as plain data.

One list of cells (subject, prompt, image) for all methods, and for each method lists as long as
that: thumbnails, nearest photos, what became of an image, and the scores of each metric.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dreambench.analysis.comparison import Scored
from dreambench.artifacts.failures import FailureGroup
from dreambench.artifacts.image_set import ImageSet
from dreambench.artifacts.manifest import RunManifest
from dreambench.artifacts.plan import ImageUnit
from dreambench.artifacts.results import WHOLE_PROMPT
from dreambench.config.protocol import PRIOR_PROMPT_ID
from dreambench.report.thumbnails import Thumbnail, Thumbnails

THERE, MISSING, DAMAGED, CHANGED, ELSEWHERE, NOT_PLANNED = range(6)
"""What became of an image of a method; `browser.js` has the words."""
DIGITS = 4
CLASS_IMAGES = "class images"
Key = tuple[str, str, int]


def make_browser_data(
    shown: Sequence[tuple[Scored, ImageSet]], thumbnails: Thumbnails
) -> dict[str, Any]:
    """Return the data of the browser; make the thumbnails that it needs."""
    units: dict[Key, ImageUnit] = {}
    for _, images in shown:
        units = {_key(unit): unit for unit in images.plan.images} | units
    subjects = {s.name: s for _, images in reversed(shown) for s in images.subjects}
    photos = [photo for subject in subjects.values() for photo in subject.photos]
    files = {
        id(images): {u: path for s in images.subjects for u, path in images.made_images(s.name)}
        for _, images in shown
    }
    made = thumbnails.make(photos, [path for found in files.values() for path in found.values()])
    texts = _number(unit.clip_text for unit in units.values())
    names, prompts = _number(subjects), _number(key[1] for key in units)
    families = {unit.prompt_id: unit.family for unit in units.values()}
    first = shown[0][1].folder
    return {
        "subjects": [
            {
                "name": one.name, "noun": one.class_name,
                "photos": [{"name": p.name, "thumbnail": made[p].name} for p in one.photos],
            }
            for one in subjects.values()
        ],
        "prompts": [{"id": name, "family": _name_family(families[name])} for name in prompts],
        "texts": list(texts),
        "cells": {
            "subject": [names[key[0]] for key in units],
            "prompt": [prompts[key[1]] for key in units],
            "k": [key[2] for key in units],
            "seed": [unit.seed for unit in units.values()],
            "text": [texts[unit.clip_text] for unit in units.values()],
        },
        "metrics": _list_metrics([run for run, _ in shown]),
        "methods": [
            _make_method(run, images, units, first=first, made={
                _key(unit): made[path] for unit, path in files[id(images)].items()
            }, thumbnails=thumbnails)
            for run, images in shown
        ],
    }  # fmt: skip


def _number(texts: Iterable[str]) -> dict[str, int]:
    """Return the place of each text among all that differ."""
    return {text: place for place, text in enumerate(dict.fromkeys(texts))}


def _key(unit: ImageUnit) -> Key:
    return unit.subject, unit.prompt_id, unit.k


def _name_family(family: str) -> str:
    return CLASS_IMAGES if family == PRIOR_PROMPT_ID else family


def _list_metrics(runs: Sequence[Scored]) -> list[dict[str, Any]]:
    infos = {name: info for run in runs for name, info in run.infos.items()}
    used = {name for run in runs for name in run.scores.frame["metric"].unique()}
    return [
        {
            "name": name, "title": info.title, "up": info.higher_is_better, "listed": info.listed,
        }
        for name, info in infos.items()
        if name in used
    ]  # fmt: skip


def _make_method(
    run: Scored,
    images: ImageSet,
    units: Mapping[Key, ImageUnit],
    *,
    first: Path,
    made: Mapping[Key, Thumbnail],
    thumbnails: Thumbnails,
) -> dict[str, Any]:
    places = {key: place for place, key in enumerate(units)}
    planned = {_key(unit) for unit in images.plan.images}
    photos = {s.name: {p.name: n for n, p in enumerate(s.photos)} for s in images.subjects}
    found, states, nearest = [], [], []
    for key, unit in units.items():
        known, path = made.get(key), unit.relative_path
        scored = run.scores.images.get(path)
        name = known.name if known else None
        if known is None and scored is not None:
            name = thumbnails.find(scored)
        found.append(name)
        states.append(_judge(known, scored, is_planned=key in planned))
        nearest.append(photos.get(key[0], {}).get(run.scores.nearest.get(path, "")))
    return {
        "name": run.label,
        "folder": _find_folder(images, first),
        "thumbnails": found,
        "states": states,
        "nearest": nearest,
        "scores": _arrange_scores(run, places),
        "reasons": _list_reasons(run.summary.failures),
    }


def _judge(known: Thumbnail | None, scored: str | None, *, is_planned: bool) -> int:
    if known is None:
        if not is_planned:
            return NOT_PLANNED
        return MISSING if scored is None else ELSEWHERE
    if known.name is None:
        return DAMAGED
    return CHANGED if scored not in (None, known.sha256) else THERE


def _find_folder(images: ImageSet, first: Path) -> str | None:
    """Return where a run's folder lies from the first one's report; None unless beside it."""
    if not isinstance(images.manifest, RunManifest):
        return None
    own, root = images.folder.resolve(), first.resolve()
    if own == root:
        return "../"
    return f"../../{quote(own.name)}/" if own.parent == root.parent else None


def _arrange_scores(run: Scored, places: Mapping[Key, int]) -> dict[str, list[float | None]]:
    """Return a list a metric; what belongs to a whole prompt stands at each of its images."""
    of_prompt: dict[tuple[str, str], list[int]] = {}
    for (subject, prompt, _), place in places.items():
        of_prompt.setdefault((subject, prompt), []).append(place)
    scores: dict[str, list[float | None]] = {}
    rows = run.scores.frame[["subject", "prompt_id", "k", "metric", "value"]]
    for subject, prompt, k, metric, value in rows.itertuples(index=False, name=None):
        values = scores.setdefault(metric, [None] * len(places))
        alone = [places[one] for one in [(subject, prompt, k)] if one in places]
        for place in of_prompt.get((subject, prompt), []) if k == WHOLE_PROMPT else alone:
            values[place] = round(float(value), DIGITS)
    return scores


def _list_reasons(failures: Mapping[str, Sequence[FailureGroup]]) -> dict[str, str]:
    """Return why images are missing, by subject; "" is for those of all subjects."""
    reasons: dict[str, str] = {}
    for stage, groups in failures.items():
        for group in groups:
            for subject in group.subjects or [""]:
                reasons.setdefault(subject, f"{stage} failed: {group.reason}")
    return reasons
