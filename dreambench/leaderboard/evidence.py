"""The cells of a record held against its protocol, and its numbers against its cells."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import pandas as pd

from dreambench.analysis.checking import (
    FAILED,
    FLAGGED,
    NOT_CHECKED,
    Verified,
    find_value_faults,
    judge,
    list_differences,
)
from dreambench.analysis.summary import INTERVAL, summarise_metrics
from dreambench.artifacts.manifest import flatten
from dreambench.artifacts.plan import ImageUnit
from dreambench.artifacts.record import MAX_MISSING, Record
from dreambench.artifacts.results import WHOLE_PROMPT, ScoreTable
from dreambench.base_models.catalogue import BASE_MODELS
from dreambench.config.protocol import PRIOR_PROMPT_ID, Protocol
from dreambench.config.track import is_tuned
from dreambench.datasets.index import Kind, find_noun_problem
from dreambench.datasets.subjects import AND, PairKind, Subject, make_pair
from dreambench.errors import UserError, name_some
from dreambench.leaderboard.known import (
    find_metric,
    find_namesake,
    is_known_protocol,
    lay_out,
    list_known_subjects,
)
from dreambench.leaderboard.numbers import compute_metrics
from dreambench.leaderboard.records import PLACE, Opened
from dreambench.metrics.base import Metric, count_subject
from dreambench.storage.paths import find_name_fault

_FIELDS = {
    "whole": "intervals", "property": "intervals", "by_category": "categories",
    "by_subject": "subjects", "n_scored": "counts", "n_expected": "counts",
}  # fmt: skip


class _Layout:
    """Which subjects and images a record should have, by its protocol.

    `n_photos` of each subject are unknown, and so missing, where the protocol is.

    Raises:
        UserError: the protocol cannot be laid out for this record.
    """

    def __init__(self, opened: Opened, named: Protocol | None) -> None:
        record = opened.record
        self.is_known = is_known_protocol(record, named)
        known = find_namesake(record, named) if self.is_known else None
        every = list_known_subjects(known) if known is not None else _read_subjects(opened)
        missing = set(record.subjects) - {subject.name for subject in every}
        if missing or len(set(record.subjects)) < len(record.subjects):
            raise UserError(
                f"it has subjects that are not its protocol's, or one twice: "
                f"{name_some(sorted(missing))}",
                code="invalid-record",
            )
        self.subjects = tuple(one for one in every if one.name in record.subjects)
        self.n_photos = {one.name: len(one.photos) for one in every if one.photos}
        # One record of a known protocol may have fewer subjects or prompts; of another, who knows.
        self.is_narrowed = len(self.subjects) < len(every) or len(record.prompts) < len(
            record.protocol.prompts
        )
        protocol = record.protocol.narrow(record.prompts)
        units, self.digest = lay_out(protocol, self.subjects, record.batch_size or 1)
        if record.origin == "external" and _lacks_class_images(record):
            units = tuple(unit for unit in units if unit.prompt_id != PRIOR_PROMPT_ID)
        self.units = units


def _lacks_class_images(record: Record) -> bool:
    pres = record.metrics.get("pres")
    return pres is not None and bool(pres.info.not_measured)


def _read_subjects(opened: Opened) -> tuple[Subject, ...]:
    """Return the subjects of a protocol that is not known, as the cells have them."""
    rows = opened.cells.drop_duplicates("subject")
    found = {row.subject: row for row in rows.itertuples()}
    for row in found.values():
        fault = find_name_fault(row.subject) or find_noun_problem(row.class_name)
        kinds = get_args(PairKind if opened.record.protocol.pairs else Kind)
        if fault or row.kind not in kinds:
            raise UserError(f"its cells have no sound subject {row.subject}", code="invalid-record")
    read = _read_pair if opened.record.protocol.pairs else _read_subject
    return tuple(read(found[name]) for name in opened.record.subjects if name in found)


def _read_subject(row: Any) -> Subject:
    return Subject(row.subject, row.class_name, row.kind, (), ())


def _read_pair(row: Any) -> Subject:
    """Return the pair that a cell names by its subjects, their nouns and kinds."""
    parts = (row.subject.split(AND), row.class_name.split(f" {AND} "), row.kind.split("-"))
    if any(len(one) != 2 for one in parts):
        raise UserError(f"its cells have no sound pair {row.subject}", code="invalid-record")
    return make_pair([Subject(*one, (), ()) for one in zip(*parts, strict=True)])


def check_plan(opened: Opened, named: Protocol | None) -> Iterator[Verified]:
    """Hold cells against the images that the protocol asks for."""
    record = opened.record
    try:
        layout = _Layout(opened, named)
    except UserError as error:
        yield Verified("plan", FAILED, [error.problem])
        return
    digests = record.digests
    faults = []
    if record.origin == "run" and layout.digest != digests.plan:
        faults.append(f"its plan has the digest {layout.digest}, and it says {digests.plan}")
    base = None if record.method.base_model is None else record.method.base_model.name
    if record.origin == "run" and base in BASE_MODELS:
        try:
            found = BASE_MODELS[base].choose_sampler(record.protocol.sampler).digest()
        except UserError as error:
            faults.append(error.problem)
        else:
            if found != digests.sampler:
                faults.append(f"its sampler has the digest {found}, and it says {digests.sampler}")
    yield judge("plan", faults, f"{len(layout.units)} images ({digests.plan or 'external'})")
    yield judge("cells", _find_cell_faults(opened, layout), f"{len(opened.cells)} cells")
    yield _check_missing(record, opened.cells, layout)
    yield from _check_values(opened, layout)
    yield _check_counts(opened, layout)


def _find_cell_faults(opened: Opened, layout: _Layout) -> list[str]:
    """Return how the cells of each replicate differ from the planned images."""
    record, cells = opened.record, opened.cells
    kinds = {subject.name: (subject.class_name, subject.kind) for subject in layout.subjects}
    planned = {
        (unit.subject, unit.prompt_id, unit.k): (*kinds[unit.subject], unit.family, unit.seed)
        for unit in layout.units
    }
    prompts = {(s, p, WHOLE_PROMPT): (*rest[:3], None) for (s, p, _), rest in planned.items()}
    wanted = {1, *(part.replicate for part in record.replicates)}
    faults = []
    if odd := wanted ^ set(cells["replicate"].astype(int)):
        faults.append(f"replicates in the record or the cells alone: {sorted(odd)}")
    for replicate, rows in cells.groupby("replicate"):
        own = rows.astype({"seed": object})
        found = {
            (row.subject, row.prompt, row.place): (
                row.class_name, row.kind, row.category, None if pd.isna(row.seed) else row.seed
            )
            for row in own.rename(columns={"index": "place"}).itertuples()
        }  # fmt: skip
        which = "" if len(wanted) == 1 else f"replicate {replicate}: "
        faults += _name_places(which, "not there", planned.keys() - found.keys())
        strange = found.keys() - planned.keys() - prompts.keys()
        faults += _name_places(which, "not of its protocol", strange)
        both = {**prompts, **planned}
        seeds = {p for p in found.keys() & planned.keys() if found[p][3] != planned[p][3]}
        faults += _name_places(which, "with another seed than the plan's", seeds)
        others = {p for p in found.keys() & both.keys() if found[p][:3] != both[p][:3]}
        faults += _name_places(which, "with another class or category", others)
    empty = cells["sha256"].isna() & (cells["index"] != WHOLE_PROMPT)
    values = cells[list(record.metrics)].notna().any(axis=1)
    for words, mask in {
        "with numbers and no image": empty & values,
        "that are of a prompt, and have an image": cells["sha256"].notna()
        & (cells["index"] == WHOLE_PROMPT),
    }.items():
        faults += _name_places("", words, set(cells.loc[mask, PLACE].itertuples(index=False)))
    return faults


def _name_places(which: str, words: str, places: set[Any]) -> list[str]:
    names = [f"{subject}/{prompt}/{index}" for subject, prompt, index in sorted(places)]
    return [f"{which}{len(names)} {words}: {name_some(names)}"] if names else []


def _check_missing(record: Record, cells: pd.DataFrame, layout: _Layout) -> Verified:
    """Look whether what is missing is counted and named, and the record says that it is partial."""
    own = cells[(cells["replicate"] == 1) & cells["sha256"].notna()]
    made = set(own[PLACE].itertuples(index=False, name=None))
    missing = [
        unit.relative_path
        for unit in layout.units
        if (unit.subject, unit.prompt_id, unit.k) not in made
    ]
    expected = {
        "n_images": len(layout.units) - len(missing),
        "n_images_expected": len(layout.units),
        "missing": missing[:MAX_MISSING],
        "n_failed": sum(one.n_images for group in record.failures.values() for one in group),
    }
    faults = [
        f"{key} is {name_some([str(getattr(record, key))])[:200]}, and should be {str(value)[:200]}"
        for key, value in expected.items()
        if getattr(record, key) != value
    ]
    if (missing or layout.is_narrowed) and not record.partial:
        faults.append("it is less than its protocol, and does not say that it is partial")
    if faults or not record.partial:
        return judge("missing", faults, "nothing is")
    named = f": {name_some(missing)}" if missing else ""
    line = f"it is partial, with {len(missing)} images missing{named}; it is never ranked"
    return Verified("missing", FLAGGED, [line])


def _check_values(opened: Opened, layout: _Layout) -> Iterator[Verified]:
    """Look at what metrics say that they are, and whether numbers are within their ranges."""
    record = opened.record
    infos, faults, strange = [], [], []
    for name, entry in record.metrics.items():
        info = entry.info
        metric = find_metric(name, info.version, is_outside=bool(info.code))
        if metric is None:
            infos.append(info)
            strange.append(f"{name} v{info.version} is not a metric of this dreambench")
            continue
        own = metric.describe(record.encoders, code={})
        own_to_it = {key: getattr(info, key) for key in ("listed", "n_expected", "not_measured")}
        infos.append(own.model_copy(update=own_to_it))
        faults += [
            f"{name}: {line}"
            for line in list_differences(
                flatten(info.model_dump(mode="json")), flatten(infos[-1].model_dump(mode="json"))
            )
        ]
        if name in record.protocol.metrics and not info.listed:
            faults.append(f"{name} is listed by the protocol")
    faults += [
        f"{name}, which the protocol lists, is missing"
        for name in record.protocol.metrics
        if name not in record.metrics
    ]
    if faults:
        yield Verified("metrics", FAILED, faults)
    else:
        about = f"{len(record.metrics)} with the signatures that follow from its encoders"
        yield judge("metrics", strange, about, worst=FLAGGED)
    outside = []
    for replicate in sorted(set(opened.cells["replicate"].astype(int))):
        table = opened.read_replicate(replicate)
        outside += find_value_faults(layout.units, ScoreTable(table.frame, tuple(infos), {}))
    yield judge("values", list(dict.fromkeys(outside)), "all in the ranges of their metrics")


def _check_counts(opened: Opened, layout: _Layout) -> Verified:
    """Look whether each number is a mean of as many pairs as its metric makes of an image."""
    record, faults = opened.record, []
    if len(layout.n_photos) < len(layout.subjects):
        return Verified("counts", NOT_CHECKED, ["how many photos a subject has is not known"])
    units: dict[str, list[ImageUnit]] = {}
    for unit in layout.units:
        units.setdefault(unit.subject, []).append(unit)
    for name, entry in record.metrics.items():
        metric = find_metric(name, entry.info.version, is_outside=bool(entry.info.code))
        if metric is None:
            continue
        expected = sum(
            metric.n_expected(count_subject(units.get(subject, []), n_photos=n_photos))
            for subject, n_photos in layout.n_photos.items()
        )
        if entry.n_expected != expected or entry.info.n_expected != expected:
            faults.append(f"{name}: n_expected is {entry.n_expected}, and should be {expected}")
        counted = _count_pairs(metric, opened.cells, layout.n_photos)
        is_off = opened.cells[name].notna() & (opened.cells[f"{name}:n_pairs"] != counted)
        places = set(opened.cells.loc[is_off, PLACE].itertuples(index=False, name=None))
        faults += _name_places("", f"of {name} do not count as its images do", places)
    return judge("counts", faults, "each number counts as often as its metric says")


def _count_pairs(metric: Metric, cells: pd.DataFrame, n_photos: Mapping[str, int]) -> list[int]:
    """Return how many pairs each cell is a mean of: of one image, or of those that a prompt has."""
    keys = list(cells[["replicate", "subject", "prompt"]].itertuples(index=False, name=None))
    n_made = Counter(
        key for key, is_made in zip(keys, cells["sha256"].notna(), strict=True) if is_made
    )

    prompt = PRIOR_PROMPT_ID if metric.unit == "class-image" else ""

    @functools.cache
    def count(subject: str, n: int) -> int:
        alone = [ImageUnit(subject, prompt, "", k, "", "", 0, 0) for k in range(n)]
        return metric.n_expected(count_subject(alone, n_photos=n_photos.get(subject, 0)))

    is_whole = metric.unit == "prompt"
    return [count(key[1], n_made[key] if is_whole else 1) for key in keys]


def check_numbers(opened: Opened, _: Protocol | None) -> Iterator[Verified]:
    """Compute all that the record says of its cells again."""
    record = opened.record
    infos = [entry.info for entry in record.metrics.values()]
    expected = compute_metrics(opened.table.frame, infos)
    faults: dict[str, list[str]] = {
        name: [] for name in ("means", "intervals", "categories", "subjects", "n_scored")
    }
    stored, made = (
        flatten({name: one.model_dump(mode="json", exclude={"info"}) for name, one in part.items()})
        for part in (record.metrics, expected)
    )
    for line in list_differences(stored, made):
        field = line.partition(" is ")[0].split(".", 2)
        kind = _FIELDS.get(field[1], "means") if len(field) > 1 else "means"
        if kind == "intervals" and field[-1] == "mean":
            kind = "means"
        faults["n_scored" if kind == "counts" else kind].append(line)
    if record.interval != INTERVAL:
        faults["intervals"].append(f"they are said to be {record.interval}")
    for name, lines in faults.items():
        yield judge(name, lines, f"of {len(infos)} metrics follow from the cells")
    yield _check_replicates(opened)


def _check_replicates(opened: Opened) -> Verified:
    record, cells = opened.record, opened.cells
    if not record.replicates:
        return Verified("replicates", NOT_CHECKED, ["there is one"])
    numbers = [part.replicate for part in record.replicates]
    faults = ["a replicate is there twice"] if len(set(numbers)) < len(numbers) else []
    first = cells[cells["replicate"] == 1].set_index(PLACE)["sha256"].dropna()
    if record.origin == "external" or not is_tuned(record.method.track):
        faults.append("what does not train has no replicates")
    for part in record.replicates:
        entries = summarise_metrics(opened.read_replicate(part.replicate))
        made = {name: entry.whole.mean for name, entry in entries.items()}
        faults += [
            f"replicate {part.replicate}: {line}" for line in list_differences(part.means, made)
        ]
        own = cells[cells["replicate"] == part.replicate].set_index(PLACE)["sha256"].dropna()
        if part.n_images != len(own):
            faults.append(f"replicate {part.replicate} says {part.n_images} images, has {len(own)}")
        same = int((own.reindex(first.index) == first).sum())
        if same:
            faults.append(f"replicate {part.replicate} has {same} images of the first")
    return judge("replicates", faults, f"{len(numbers)} more, whose means follow from the cells")
