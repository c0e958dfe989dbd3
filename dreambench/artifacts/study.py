"""User studies as files: the plan (`study.json`), the answers of a person, and the results.

A study's digest is that of its whole plan. Answers name it, so that those of another study are
refused, and so do results. Of a person there is a code, and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import ConfigDict, Field, StringConstraints, ValidationError

from dreambench.artifacts.manifest import CodeState, Digests, StoredPart, check_format
from dreambench.artifacts.results import MetricInfo
from dreambench.errors import UserError, disk_errors, name_some
from dreambench.storage.files import digest, read_json, write_json
from dreambench.storage.paths import FileName

FILE_NAME, RESULTS_NAME = "study.json", "study-results.json"
FORMAT = 1
MAX_STUDY_BYTES, MAX_ANSWERS_BYTES = 200_000_000, 200_000
"""Of files that are read; 50 answers take 2 KB."""

Asks = Literal["subject", "prompt"]
"""What a question is about: the subject's identity, or the prompt's text."""
Choice = Literal["left", "right", "neither"]
Code = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
"""What stands for a person."""
QuestionId = Annotated[str, StringConstraints(pattern=r"^[ps][0-9]{1,4}$")]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class _Strict(StoredPart):
    """A part in which nothing is taken for what it is not: 1 is not text, and "1" not a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class Picture(StoredPart):
    """A picture as people see it: the SHA-256 of its source, and the name of its copy."""

    sha256: Sha256
    file: FileName


class StudyImage(Picture):
    """A generated image: its path in the run folder, and what each metric gave it."""

    path: str
    scores: dict[str, float] = Field(default_factory=dict)


class StudySubject(StoredPart):
    """A subject with the photos that questions show."""

    name: FileName
    class_name: str
    photos: list[Picture]


class StudyMethod(StoredPart):
    """A method with all that its images depend on."""

    name: str
    digests: Digests


class Comparison(StoredPart):
    """An image of each of two methods, of one subject and prompt."""

    id: str
    subject: FileName
    prompt_id: FileName
    family: str
    text: str
    first: str
    second: str
    first_image: StudyImage
    second_image: StudyImage


class Check(StoredPart):
    """A question whose answer is known: the subject's photo is the first, another's the second."""

    id: str
    asks: Asks
    subject: FileName
    text: str
    first_image: Picture
    second_image: Picture


class Question(StoredPart):
    """One question: `of` is the id of a comparison or of a check."""

    id: QuestionId
    asks: Asks
    of: str
    first_is_left: bool


class Questionnaire(StoredPart):
    """What one person answers, in this order."""

    number: int
    questions: list[Question]


class Study(StoredPart):
    """The plan of a study: every comparison, and who is asked what."""

    format: Literal[1] = 1
    kind: Literal["study"] = "study"
    protocol: str
    protocol_digest: str
    seed: int
    n_raters: int
    contact: str
    methods: list[StudyMethod]
    metrics: list[MetricInfo]
    subjects: list[StudySubject]
    comparisons: list[Comparison]
    checks: list[Check]
    questionnaires: list[Questionnaire]
    code: CodeState

    @property
    def raters_each(self) -> int:
        """How many people answer each questionnaire."""
        return self.n_raters // len(self.questionnaires)

    def list_shown(self) -> dict[str, Comparison | Check]:
        """Return what questions are about, by id."""
        comparisons: dict[str, Comparison | Check] = {one.id: one for one in self.comparisons}
        return comparisons | {check.id: check for check in self.checks}

    def digest(self) -> str:
        """Digest of the whole plan."""
        return digest(self.model_dump(mode="json"))


class Answers(_Strict):
    """What one person answered, by question; `simulated` where a program did."""

    format: Literal[1] = 1
    kind: Literal["answers"] = "answers"
    study: Digest
    questionnaire: Annotated[int, Field(ge=1, le=1_000_000)]
    rater: Code
    simulated: bool = False
    answers: Annotated[dict[QuestionId, Choice], Field(max_length=10_000)]


class Share(StoredPart):
    """A number with its 95 % interval, None where there is none, of `n` observations."""

    mean: float | None
    low: float | None
    high: float | None
    n: int


class PairRow(StoredPart):
    """Which of two methods people prefer: shares of comparisons, or of single answers."""

    asks: Asks
    of: Literal["majority", "answers"]
    first: str
    second: str
    prefers_first: Share
    prefers_second: Share
    undecided: Share


class StrengthRow(StoredPart):
    """The strength of a method: natural logarithm, the mean over methods is 0."""

    asks: Asks
    method: str
    strength: Share


class AgreementRow(StoredPart):
    """How far people agree: Krippendorff's alpha (nominal) over questions."""

    asks: Asks
    alpha: Share


class SideRow(StoredPart):
    """Whether people prefer a side: the share of answers for the left one, and a sign test.

    `n_left` and `n_right` are raters who chose that side more often.
    """

    asks: Asks
    left: Share
    n_left: int
    n_right: int
    p: float | None


class FollowRow(StoredPart):
    """How often a metric prefers the image that the majority prefers.

    `metric` None is one rater, held against the majority of the others. `family` None is all
    prompt categories together.
    """

    asks: Asks
    metric: str | None
    family: str | None
    agrees: Share


class Findings(StoredPart):
    """All that is said of the answers of some raters."""

    n_raters: int
    n_answers: int
    pairs: list[PairRow]
    strengths: list[StrengthRow]
    agreement: list[AgreementRow]
    sides: list[SideRow]
    follows: list[FollowRow]


class RaterRow(StoredPart):
    """One person's checks."""

    rater: Code
    questionnaire: int
    n_answers: int
    n_checks: int
    n_wrong: int
    passed: bool


class StudyResults(StoredPart):
    """What came out of a study, with all that it depends on.

    `passed` are the findings without those who failed the checks; None where nobody did. All of it
    is of `simulated` raters, or of people.
    """

    format: Literal[1] = 1
    kind: Literal["study-results"] = "study-results"
    study: Digest
    simulated: bool
    protocol: str
    protocol_digest: str
    methods: list[StudyMethod]
    metrics: list[MetricInfo]
    n_questionnaires: int
    n_expected: int
    n_comparisons: int
    resampled: str
    answers: Digest
    raters: list[RaterRow]
    everyone: Findings
    passed: Findings | None
    seed: int
    packages: dict[str, str]
    code: CodeState


_File = TypeVar("_File", Study, StudyResults)


def read_study(folder: Path) -> Study:
    """Read the plan of a study from its folder.

    Raises:
        UserError: there is none (`not-a-study`), or it is damaged or of another version.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise UserError(
            f"{folder} holds no {FILE_NAME}",
            hint="make a study with: dreambench study make RUN RUN --out DIR",
            code="not-a-study",
        )
    study = _read(path, Study)
    _check_references(study, path)
    return study


def _check_references(study: Study, path: Path) -> None:
    """Refuse a plan that names what it does not have."""
    subjects = {subject.name for subject in study.subjects}
    methods = {method.name for method in study.methods}
    shown = study.list_shown()
    faults = [
        *(c.id for c in study.comparisons if not {c.first, c.second} <= methods),
        *(name for name, one in shown.items() if one.subject not in subjects),
        *(
            f"questionnaire {sheet.number}"
            for number, sheet in enumerate(study.questionnaires, start=1)
            if sheet.number != number
            or len({q.id for q in sheet.questions}) < len(sheet.questions)
            or any(q.of not in shown for q in sheet.questions)
        ),
    ]
    if len(methods) < len(study.methods) or len(shown) < len(study.comparisons + study.checks):
        faults.append("two things of one name")
    if faults or not study.questionnaires:
        raise _damaged(path, faults or ["questionnaires"])


def write_study(folder: Path, study: Study) -> None:
    """Write the plan of a study into its folder."""
    write_json(folder / FILE_NAME, study.model_dump(mode="json"))


def read_study_results(path: Path) -> StudyResults:
    """Read the results of a study.

    Raises:
        UserError: the file is missing, damaged or of another version.
    """
    return _read(path, StudyResults)


def _read(path: Path, model: type[_File]) -> _File:
    with disk_errors(path, reads=True):
        size = path.stat().st_size
    if size > MAX_STUDY_BYTES:
        raise UserError(
            f"{path} has {size:,} bytes, over {MAX_STUDY_BYTES:,}",
            hint="name a file that dreambench wrote",
            code="too-large",
        )
    content = read_json(path)
    check_format(path, content, FORMAT)
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise _damaged(path, list_keys(error)) from error


def _damaged(path: Path, keys: list[str]) -> UserError:
    return UserError(
        f"{path} is damaged: {name_some(keys)}",
        hint="restore it from a copy, or make it again",
        code="damaged-file",
    )


def list_keys(error: ValidationError) -> list[str]:
    """Return where a file is not as its model has it."""
    return [".".join(map(str, item["loc"])) or "its content" for item in error.errors()]


def make_share(mean: float, low: float, high: float, n: int) -> Share:
    """Return a share from numbers, of which NaN is none."""
    known: Mapping[str, float | None] = {
        name: None if math.isnan(value) else float(value)
        for name, value in (("mean", mean), ("low", low), ("high", high))
    }
    return Share(mean=known["mean"], low=known["low"], high=known["high"], n=n)
