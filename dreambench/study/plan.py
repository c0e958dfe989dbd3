"""Which comparisons a study has, and who is asked what: derived from seeds, balanced, blind.

Every order is that of a hash of a thing's name with the study's seed, so that the same runs and
numbers give the same study on any machine.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from dreambench.analysis.comparison import Scored, check_comparable, load_comparable
from dreambench.artifacts.image_set import ImageSet
from dreambench.artifacts.plan import derive_seed
from dreambench.artifacts.results import MetricInfo, has_summary
from dreambench.artifacts.study import (
    Asks,
    Check,
    Comparison,
    Question,
    Questionnaire,
    Study,
    StudyMethod,
    StudySubject,
)
from dreambench.config.slots import fill_slot
from dreambench.datasets.subjects import Subject
from dreambench.errors import UserError
from dreambench.machine.environment import describe_code
from dreambench.study.drawing import IMAGE_PX, PHOTO_PX, Drawing, Pictures, shuffle

ASKS: tuple[Asks, ...] = ("subject", "prompt")
N_CHECKS = 3
"""Checks among the questions of each kind in a questionnaire."""
MAX_COMPARISONS, MAX_CONTACT = 20_000, 500

logger = logging.getLogger(__name__)


def make_study(
    sets: Sequence[ImageSet],
    *,
    n_comparisons: int = 600,
    n_raters: int = 72,
    n_questions: int = 25,
    seed: int = 0,
    contact: str = "",
) -> tuple[Study, Pictures]:
    """Return the plan of a study of two or more image sets, and where its pictures come from.

    Each comparison is asked about twice, once for the subject and once for the prompt; a
    questionnaire has `n_questions` comparisons, and `n_raters` people share the questionnaires
    out evenly among them.

    Raises:
        UserError: the image sets are not of one protocol, have no images or too few, or the
            numbers do not divide.
    """
    n_sheets = _count_sheets(n_comparisons, n_raters, n_questions)
    if len(contact) > MAX_CONTACT:
        raise UserError(
            f"--contact has {len(contact)} letters, over {MAX_CONTACT}",
            hint="give a name and an address",
            code="invalid-value",
        )
    names, scored = _load(sets)
    pictures = Pictures(seed)
    drawing = Drawing(sets, names, _read_values(scored), pictures, seed)
    comparisons = drawing.draw(n_comparisons)
    used = {comparison.subject for comparison in comparisons}
    by_name = {subject.name: subject for images in sets for subject in images.subjects}
    shown = [by_name[name] for name in sorted(used)]
    checks = _make_checks(shown, sets[0], n_sheets, pictures, seed)
    study = Study(
        protocol=f"{sets[0].protocol.name} v{sets[0].protocol.version}",
        protocol_digest=sets[0].manifest.digests.protocol,
        seed=seed,
        n_raters=n_raters,
        contact=contact,
        methods=[
            StudyMethod(name=name, digests=images.manifest.digests)
            for name, images in zip(names, sets, strict=True)
        ],
        metrics=_list_metrics(scored),
        subjects=[_show(subject, pictures) for subject in shown],
        comparisons=comparisons,
        checks=[check for sheet in checks for check in sheet],
        questionnaires=make_sheets(comparisons, checks, seed),
        code=describe_code(),
    )  # fmt: skip
    return study, pictures


def _show(subject: Subject, pictures: Pictures) -> StudySubject:
    """Return a subject with all its photos."""
    photos = [
        pictures.add_photo(path, sha256, side_px=PHOTO_PX)
        for path, sha256 in zip(subject.photos, subject.sha256, strict=True)
    ]
    return StudySubject(name=subject.name, class_name=subject.class_name, photos=photos)


def _count_sheets(n_comparisons: int, n_raters: int, n_questions: int) -> int:
    """Return the number of questionnaires; UserError where the numbers do not divide."""
    n_sheets, rest = divmod(n_comparisons, n_questions)
    if rest or not n_sheets:
        fewer = n_sheets * n_questions
        near = [str(n) for n in (fewer, fewer + n_questions) if n]
        raise UserError(
            f"{n_comparisons} comparisons do not make whole questionnaires of {n_questions}",
            hint=f"choose --comparisons {' or '.join(near)}, or another number of --questions",
            code="invalid-value",
        )
    if n_raters % n_sheets or not n_raters:
        fewer = n_raters // n_sheets * n_sheets
        near = [str(n) for n in (fewer, fewer + n_sheets) if n]
        raise UserError(
            f"{n_raters} raters cannot be shared out evenly among {n_sheets} questionnaires",
            hint=f"choose --raters {' or '.join(near)}",
            code="invalid-value",
        )
    return n_sheets


def _load(sets: Sequence[ImageSet]) -> tuple[list[str], list[Scored]]:
    """Return a name for each image set, and their scores where all of them have any.

    Raises:
        UserError: they cannot be compared, show two subjects, or one has no images.
    """
    if len(sets) < 2:
        raise UserError(
            "a study compares two methods or more",
            hint="name the folders of two runs",
            code="too-few-methods",
        )
    check_comparable(sets)
    if sets[0].protocol.pairs:
        raise UserError(
            f"a study asks about one item, and {sets[0].protocol.name} has two in an image",
            hint="name runs with one subject an image: the paper has no question for two",
            code="unsupported-protocol",
        )
    for images in sets:
        if not images.has_images():
            raise UserError(
                f"{images.folder} has no images",
                hint="name run folders that hold their images; where external images lie is not "
                "known from their scores",
                code="no-images",
            )
    if all(has_summary(images) for images in sets):
        scored = load_comparable(sets)
        return [run.name for run in scored], scored
    logger.warning(
        "Not all of these runs have scores: the study will not say which metric follows people. "
        "Score and summarise them first to have that."
    )
    names: list[str] = []
    for images in sets:
        n_before = sum(other.name == images.name for other in sets[: len(names)])
        names.append(f"{images.name} #{n_before + 1}" if n_before else images.name)
    return names, []


def _list_metrics(scored: Sequence[Scored]) -> list[MetricInfo]:
    """Return the metrics that all runs were measured in."""
    if not scored:
        return []
    others = [run.signatures for run in scored]
    return [
        info
        for name, info in scored[0].infos.items()
        if info.signature and all(one.get(name) == info.signature for one in others)
    ]


def _read_values(scored: Sequence[Scored]) -> list[dict[tuple[str, str, int], dict[str, float]]]:
    """Return by run what each image got, by subject, prompt and number, in each metric."""
    known = {info.name for info in _list_metrics(scored)}
    found = []
    for run in scored:
        frame = run.scores.frame
        frame = frame[frame["metric"].isin(list(known)) & (frame["k"] >= 0)]
        values: dict[tuple[str, str, int], dict[str, float]] = {}
        columns = (frame[name] for name in ("subject", "prompt_id", "k", "metric", "value"))
        for subject, prompt_id, k, metric, value in zip(*columns, strict=True):
            if not math.isnan(value):  # There the metric is not defined.
                values.setdefault((subject, prompt_id, int(k)), {})[metric] = float(value)
        found.append(values)
    return found


def _make_checks(
    subjects: Sequence[Subject], images: ImageSet, n_sheets: int, pictures: Pictures, seed: int
) -> list[list[Check]]:
    """Return the checks of each questionnaire: a photo of a subject, and one of another class.

    Both are real photos, so that what is right depends on no method. Where all subjects are of one
    class there are none, since not everybody would tell them apart.
    """
    pairs = [
        (one, other) for one in subjects for other in subjects if one.class_name != other.class_name
    ]
    if not pairs:
        logger.warning(
            "All subjects are of one class: this study has no checks of whether raters look."
        )
        return [[] for _ in range(n_sheets)]
    by_name = {subject.name: subject for subject in subjects}
    names = [(one.name, other.name) for one, other in pairs]
    sheets: list[list[Check]] = []
    for number in range(1, n_sheets + 1):
        sheet = []
        for asks in ASKS:
            drawn = shuffle(names, "check", asks, number, seed)
            for turn in range(N_CHECKS):
                one, other = (by_name[name] for name in drawn[turn % len(drawn)])
                shown = []
                for subject in (one, other):
                    key = ("check photo", asks, number, turn, subject.name, seed)
                    place = derive_seed("study", *key) % len(subject.photos)
                    shown.append(
                        pictures.add_photo(
                            subject.photos[place], subject.sha256[place], side_px=IMAGE_PX
                        )
                    )
                sheet.append(
                    Check(
                        id=f"k{number:03}{asks[0]}{turn + 1}", asks=asks, subject=one.name,
                        text=fill_slot(images.protocol.prior.text, one.class_name, "class"),
                        first_image=shown[0], second_image=shown[1],
                    )
                )  # fmt: skip
        sheets.append(sheet)
    return sheets


def make_sheets(
    comparisons: Sequence[Comparison], checks: Sequence[Sequence[Check]], seed: int
) -> list[Questionnaire]:
    """Deal comparisons out to questionnaires, with the checks of each.

    Each pair of methods is dealt evenly, and its first method stands on the left as often as on
    the right, in each questionnaire and in all (to within one). The one half of the questionnaires
    begins with the questions about the subject, the other with those about the prompt.
    """
    by_pair: dict[tuple[str, str], list[str]] = {}
    pair_of = {one.id: (one.first, one.second) for one in comparisons}
    for one in comparisons:
        by_pair.setdefault(pair_of[one.id], []).append(one.id)
    # Without a shuffle a questionnaire would have a few subjects again and again.
    dealt = [name for pair, ids in by_pair.items() for name in shuffle(ids, "deal", *pair, seed)]
    n_sheets = len(checks)
    seen: dict[tuple[Asks, tuple[str, str]], int] = {}
    sheets = []
    for number in range(1, n_sheets + 1):
        own = dealt[number - 1 :: n_sheets]
        questions: list[Question] = []
        for asks in ASKS if number % 2 else ASKS[::-1]:
            sides = {}
            for name in shuffle(own, "side", asks, number, seed):
                key = (asks, pair_of[name])
                start = derive_seed("study", "left", *key, seed) % 2
                seen[key] = seen.get(key, start) + 1
                sides[name] = seen[key] % 2 == 0
            of_sheet = [check.id for check in checks[number - 1] if check.asks == asks]
            start = derive_seed("study", "left", "check", asks, number, seed) % 2
            sides |= {name: (start + turn) % 2 == 0 for turn, name in enumerate(of_sheet)}
            questions += [
                Question(id=f"{asks[0]}{place:02}", asks=asks, of=name, first_is_left=sides[name])
                for place, name in enumerate(shuffle(sides, "order", asks, number, seed), start=1)
            ]
        sheets.append(Questionnaire(number=number, questions=questions))
    return sheets
