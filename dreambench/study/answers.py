"""Answers of people: files and a database from anybody, checked against the plan before use.

Nothing in them is run or shown but codes and choices of known forms. What is not of this study, is
no answer to one of its questions, or says two things of one person is refused, with its place.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from pydantic import ValidationError

from dreambench.artifacts.study import MAX_ANSWERS_BYTES, Answers, Study, list_keys
from dreambench.errors import UserError, disk_errors, name_some

DATABASE = "answers.sqlite"
DATABASE_SUFFIXES = (".sqlite", ".db")
MAX_SHEETS = 100_000
"""Files or rows that are read."""
_TABLE = (
    "CREATE TABLE IF NOT EXISTS answers (questionnaire INTEGER NOT NULL, rater TEXT NOT NULL, "
    "content TEXT NOT NULL, UNIQUE (questionnaire, rater))"
)


def parse_answers(content: bytes, study: Study, *, digest: str, where: str) -> Answers:
    """Return the answers that a file or message holds; `digest` is that of the study.

    Raises:
        UserError: `invalid-answers` for what is none, `other-study` for those of another study.
    """
    try:
        if len(content) > MAX_ANSWERS_BYTES:
            raise ValueError(f"{len(content):,} bytes, over {MAX_ANSWERS_BYTES:,}")
        answers = Answers.model_validate_json(content)
    except ValidationError as error:
        raise _invalid(where, f"wrong in {name_some(list_keys(error))}") from error
    except (ValueError, RecursionError) as error:
        raise _invalid(where, str(error)[:200]) from error
    if answers.study != digest:
        raise UserError(
            f"{where} is for study {answers.study}, not for this one ({digest})",
            hint="leave it out, or name the folder of its own study",
            code="other-study",
        )
    if answers.questionnaire > len(study.questionnaires):
        raise _invalid(where, f"there is no questionnaire {answers.questionnaire}")
    known = {question.id for question in study.questionnaires[answers.questionnaire - 1].questions}
    if unknown := sorted(set(answers.answers) - known):
        raise _invalid(
            where, f"questionnaire {answers.questionnaire} has no question {name_some(unknown)}"
        )
    return answers


def _invalid(where: str, why: str) -> UserError:
    return UserError(
        f"{where} holds no answers of this study: {why}",
        hint="ask for the file again as the questionnaire saved it, or leave it out",
        code="invalid-answers",
    )


def load_answers(paths: Sequence[Path], study: Study) -> list[Answers]:
    """Read answers from JSON files, folders of them, and databases of `study serve`.

    The same answers count once. They are sorted, so that no order of files reaches a number.

    Raises:
        UserError: there are none, or some cannot be used; each is named.
    """
    digest = study.digest()
    found: dict[tuple[int, str], Answers] = {}
    problems: list[UserError] = []
    for where, content in _list_contents(paths):
        try:
            answers = parse_answers(content, study, digest=digest, where=where)
        except UserError as error:
            problems.append(error)
            continue
        key = (answers.questionnaire, answers.rater)
        if found.setdefault(key, answers) != answers:
            problems.append(_invalid(where, f"{answers.rater} has given other answers elsewhere"))
        if len(found) > MAX_SHEETS:
            raise UserError(
                f"more than {MAX_SHEETS:,} people have answered",
                hint="name fewer files",
                code="too-large",
            )
    if problems:
        codes = {error.code for error in problems}
        raise UserError.listed(
            [error.problem for error in problems],
            hint=problems[-1].hint,
            code="other-study" if codes == {"other-study"} else "invalid-answers",
        )
    if not found:
        raise UserError(
            "there are no answers",
            hint="name the JSON files that people saved, a folder of them, or answers.sqlite",
            code="no-answers",
        )
    if len({answers.simulated for answers in found.values()}) > 1:
        raise UserError(
            "some of these answers are simulated and others are people's",
            hint="analyse them apart",
            code="invalid-answers",
        )
    return [found[key] for key in sorted(found)]


def _list_contents(paths: Iterable[Path]) -> Iterator[tuple[str, bytes]]:
    """Yield the bytes of each sheet of answers with where it is from; none longer than allowed."""
    for path in paths:
        if path.is_dir():
            with disk_errors(path, reads=True):
                inside = sorted(one for one in path.iterdir() if one.suffix == ".json")
            yield from ((str(one), _read_file(one)) for one in inside)
        elif path.suffix in DATABASE_SUFFIXES:
            yield from _read_database(path)
        else:
            yield str(path), _read_file(path)


def _read_file(path: Path) -> bytes:
    with disk_errors(path, reads=True):
        if not path.is_file():
            # A pipe or a device would never end.
            raise UserError(
                f"{path} is not a file",
                hint="name the JSON files that people saved",
                code="missing-file",
            )
        with path.open("rb") as stream:
            return stream.read(MAX_ANSWERS_BYTES + 1)


def _read_database(path: Path) -> list[tuple[str, bytes]]:
    """Return all sheets of a database, which may be anybody's: read-only, and no code of its own.

    Raises:
        UserError: it is missing, or not a database of answers.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing", hint="check the path", code="missing-file")
    query = "SELECT questionnaire, rater, substr(CAST(content AS BLOB), 1, ?) FROM answers LIMIT ?"
    try:
        address = f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(address, uri=True)) as connection:
            # A view could take the table's place, and call what it likes.
            connection.execute("PRAGMA trusted_schema = OFF")
            rows = connection.execute(query, (MAX_ANSWERS_BYTES + 1, MAX_SHEETS + 1)).fetchall()
    except sqlite3.Error as error:
        raise UserError(
            f"{path} is not a database of answers ({error})",
            hint="name the one that dreambench study serve wrote",
            code="unreadable-file",
        ) from error
    return [
        (f"{path}, row {number}", content if isinstance(content, bytes) else b"")
        for number, (_, _, content) in enumerate(rows, start=1)
    ]


class AnswerStore:
    """The answers that were sent to a study's server, in a database in the study's folder.

    Each call opens the database anew, so that several threads may call.
    """

    def __init__(self, folder: Path, study: Study) -> None:
        """Open the database, or make it.

        Raises:
            UserError: it cannot be used.
        """
        self.path, self.study, self.digest = folder / DATABASE, study, study.digest()
        with self._opened() as connection:
            connection.execute(_TABLE)

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=30)) as connection, connection:
                yield connection
        except sqlite3.IntegrityError:
            raise
        except sqlite3.Error as error:
            raise UserError(
                f"{self.path} cannot be used ({error})",
                hint="move it away, or make room on the disk",
                code="disk",
            ) from error

    def add(self, content: bytes) -> Answers:
        """Keep the answers that someone sent; the same again change nothing.

        Raises:
            UserError: they are none of this study (`parse_answers`), or `already-answered`.
        """
        answers = parse_answers(content, self.study, digest=self.digest, where="the message")
        if answers.simulated:
            raise _invalid("the message", "they are simulated")
        kept = json.dumps(answers.model_dump(mode="json"), sort_keys=True)
        key = (answers.questionnaire, answers.rater)
        try:
            with self._opened() as connection:
                connection.execute("INSERT INTO answers VALUES (?, ?, ?)", (*key, kept))
        except sqlite3.IntegrityError as error:
            query = "SELECT content FROM answers WHERE questionnaire = ? AND rater = ?"
            with self._opened() as connection:
                (before,) = connection.execute(query, key).fetchone()
            if before != kept:
                raise UserError(
                    f"{answers.rater} has answered questionnaire {answers.questionnaire} already",
                    hint="start again with another code",
                    code="already-answered",
                ) from error
        return answers

    def count(self) -> dict[int, int]:
        """Return how many people have answered each questionnaire."""
        query = "SELECT questionnaire, COUNT(*) FROM answers GROUP BY questionnaire"
        with self._opened() as connection:
            found = dict(connection.execute(query).fetchall())
        return {sheet.number: found.get(sheet.number, 0) for sheet in self.study.questionnaires}
