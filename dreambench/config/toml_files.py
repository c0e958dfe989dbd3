"""TOML files that people write: read whole, and all that is wrong with them said by line.

TOML has types, and they count: a number in quotes is text, `true` is not 1, and 3.0 is not a whole
number. Only 3 where 3.0 is asked for is the same number. So every value has one spelling in a
digest.
"""

from __future__ import annotations

import datetime
import difflib
import json
import math
import re
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from dreambench.errors import UserError
from dreambench.storage.text_files import read_text

Model = TypeVar("Model", bound=BaseModel)
Location = tuple[int | str, ...]
"""Path of a value in a TOML file: keys of tables, and numbers of items from 0."""

HINT = "fix the file and run again"
MAX_BYTES = 1_000_000
MAX_DEPTH = 20
"""Of tables and lists in each other; ours have 3."""
_MAX_INTEGER = 2**63
_MAX_LINE_SEARCH = 4_000_000
_LONG = re.compile(r"[0-9][0-9_]{4000}")
_WORDS = {
    "int_type": "needs a whole number",
    "float_type": "needs a number",
    "bool_type": "needs true or false",
    "string_type": "needs text in quotes",
    "tuple_type": "needs a list in brackets",
    "list_type": "needs a list in brackets",
    "dict_type": "needs a table",
    "model_type": "needs a table",
    "finite_number": "needs a finite number",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "literal_error": "must be {expected}",
    "string_pattern_mismatch": "must match {pattern}",
    "string_too_short": "must not be shorter than {min_length}",
    "too_short": "needs at least {min_length} item(s)",
}
"""What a kind of pydantic error asks for, in our words."""
_CODES = {"extra_forbidden": "unknown-key", "missing": "missing-key"}


@dataclass(frozen=True)
class TomlFile:
    """A TOML file as it was read."""

    path: Path
    text: str
    content: dict[str, Any]

    @cached_property
    def _lines(self) -> dict[Location, int]:
        return find_lines(self.text)

    def find(self, *keys: int | str) -> str | None:
        """Return `FILE:LINE` of a key or table, None where the file does not have it."""
        return f"{self.path}:{self._lines[keys]}" if keys in self._lines else None

    def locate(self, *keys: int | str) -> str:
        """Return `FILE:LINE` of a key or table, or of the nearest thing around it."""
        around = (self.find(*keys[:length]) for length in range(len(keys), 0, -1))
        return next((found for found in around if found), f"{self.path}:1")


@dataclass(frozen=True)
class Origin:
    """Where a model was read: the nearest file first, and the keys that `--set` changed.

    Any two are equal, since where something was read is not part of what it is.
    """

    files: tuple[TomlFile, ...] = field(default=(), compare=False)
    changed: tuple[str, ...] = field(default=(), compare=False)


def read_toml(path: Path) -> TomlFile:
    """Read a TOML file; a byte-order mark before it is skipped.

    Raises:
        UserError: it cannot be read, is not valid TOML, or holds a value that no digest can stand
            for: infinity, NaN, a whole number of more than 64 bits, a date or a time.
    """
    text = read_text(path, max_bytes=MAX_BYTES)
    try:
        file = TomlFile(path, text, parse_toml(text))
    except ValueError as error:
        raise UserError(
            _explain_syntax(path, text, error), hint=HINT, code="invalid-toml"
        ) from error
    faults = [
        f"{file.locate(*location)}: {_join(location)}: {problem}"
        for location, problem in find_problems(file.content)
    ]
    if faults:
        raise UserError.listed(faults, hint=HINT, code="invalid-value")
    return file


def parse_toml(text: str) -> dict[str, Any]:
    """Return what a TOML text says.

    Raises:
        ValueError: it is not valid TOML, or nested deeper or with longer numbers than can be read.
    """
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("brackets are nested too deeply") from error
    except tomllib.TOMLDecodeError:
        raise
    except ValueError as error:
        # Python reads no decimal number of more digits than this.
        line = next((n for n, line in enumerate(text.split("\n"), 1) if _LONG.search(line)), 1)
        raise ValueError(f"a number has too many digits (at line {line}, column 1)") from error


def _explain_syntax(path: Path, text: str, error: ValueError) -> str:
    found = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", str(error))
    if found is None:
        return f"{path}: not valid TOML: {error}"
    if found[2] is None:
        return f"{path}:{text.count(chr(10)) + 1}: not valid TOML: {found[1]} at the file's end"
    return f"{path}:{found[2]}: not valid TOML: {found[1]} (column {found[3]})"


def find_problems(value: object, location: Location = ()) -> Iterator[tuple[Location, str]]:
    """Yield what of a parsed TOML value no digest can stand for, with its location."""
    if isinstance(value, dict | list) and len(location) >= MAX_DEPTH:
        yield location, f"is nested over {MAX_DEPTH} deep"
    elif isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from find_problems(inner, (*location, key))
    elif isinstance(value, float) and not math.isfinite(value):
        yield location, f"needs a finite number, not {value}"
    elif isinstance(value, int) and not -_MAX_INTEGER <= value < _MAX_INTEGER:
        yield location, "needs a number of at most 64 bits"
    elif isinstance(value, datetime.date | datetime.time):
        yield location, f"dates and times are not used, so put {value} in quotes"
    elif not isinstance(value, str | int | float):
        yield (
            location,
            f"needs a TOML value, not one of the type {type(value).__name__}",
        )


def load_toml(file: TomlFile, model: type[Model], content: dict[str, Any] | None = None) -> Model:
    """Return a TOML file as a pydantic model; `content` stands for the file's own where given.

    Raises:
        UserError: with one line for each fault, which names file and line.
    """
    content = file.content if content is None else content
    return validate(content, model, locate=file.locate, hint=HINT)


def validate(
    content: dict[str, Any],
    model: type[Model],
    *,
    locate: Callable[..., str],
    hint: str,
    keys_hint: str = "",
) -> Model:
    """Return values as a pydantic model, by the types of TOML (see above).

    `locate` says where the value at the given keys was written; `keys_hint` stands for `hint` where
    a key is unknown or missing.

    Raises:
        UserError: with one line for each fault; its code is `unknown-key` or `missing-key` where
            that is all that is wrong, else `invalid-value`.
    """
    try:
        # From JSON, since only there a list is a tuple while text is still not a number.
        return model.model_validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        found = error.errors()
        # A list of which no item is valid is "too short" as well.
        items = [i for i in found if i["type"] != "too_short" or not _has_inner(found, i["loc"])]
        faults = [(locate(*item["loc"]), _explain(item, model)) for item in items]
        kinds = {_CODES.get(item["type"], "invalid-value") for item in items}
        raise UserError.listed(
            [f"{where}: {words}" for where, words in sorted(faults, key=_by_line)],
            hint=(keys_hint if kinds & {*_CODES.values()} else "") or hint,
            code=kinds.pop() if len(kinds) == 1 else "invalid-value",
        ) from error


def _by_line(fault: tuple[str, str]) -> tuple[str, int]:
    path, _, line = fault[0].rpartition(":")
    return path, int(line) if line.isdecimal() else 0


def _has_inner(items: Sequence[Any], location: Location) -> bool:
    return any(item["loc"][: len(location)] == location != item["loc"] for item in items)


def find_lines(text: str) -> dict[Location, int]:
    """Return the line numbers, from 1, of the tables and keys of a valid TOML text, by their path.

    They are those up to where a text's values go on over too many lines.
    The n-th [[table]] has the path ("table", n), n from 0. Items of lists and keys of inline tables
    with several have none; they stand on the line of what holds them.
    """
    lines: dict[Location, int] = {}
    counts: dict[Location, int] = {}
    table: Location = ()
    n_searched = 0
    numbered = enumerate(text.split("\n"), start=1)
    for number, line in numbered:
        start = line.strip()
        if not start or start.startswith("#"):
            continue
        keys = _read_keys(start)
        while keys is None:  # A value that continues on the next line.
            _, more = next(numbered, (0, None))
            if more is None:
                return lines
            start += f"\n{more}"
            n_searched += len(start)
            if n_searched > _MAX_LINE_SEARCH:  # No file that a person wrote.
                return lines
            keys = _read_keys(start)
        if start.startswith("[["):
            table = _resolve(keys[:-1], counts) + keys[-1:]
            counts[table] = counts.get(table, -1) + 1
            table = location = (*table, counts[table])
        elif start.startswith("["):
            table = location = _resolve(keys, counts)
        else:
            location = table + keys
        for length in range(len(table) + 1, len(location) + 1):
            lines.setdefault(location[:length], number)
        lines.setdefault(location, number)
    return lines


def _read_keys(statement: str) -> tuple[str, ...] | None:
    """Return the dotted key of a `[table]`, `[[table]]` or `key = value`; None if it is cut off."""
    try:
        content: Any = parse_toml(statement)
    except ValueError:
        return None
    keys: tuple[str, ...] = ()
    while isinstance(content, dict) and len(content) == 1:
        ((key, content),) = content.items()
        keys = (*keys, key)
    return keys


def _resolve(keys: Location, counts: dict[Location, int]) -> Location:
    """Return the path of a table, with the number of the item where it lies in a [[table]]."""
    location: Location = ()
    for key in keys:
        location = (*location, key)
        if location in counts:
            location = (*location, counts[location])
    return location


def _join(location: Location) -> str:
    return ".".join(str(part) for part in location)


def _explain(item: Any, model: type[BaseModel]) -> str:
    """Return one pydantic error in our words."""
    where = _join(item["loc"])
    if item["type"] == "extra_forbidden":
        meant = _guess_key(model, item["loc"])
        return f"unknown key '{item['loc'][-1]}'" + (f"; did you mean '{meant}'?" if meant else "")
    if item["type"] == "missing":
        return f"the key '{where}' is missing"
    if item["type"] in _WORDS:
        words = _WORDS[item["type"]].format_map(item.get("ctx", {}))
        message = f"{words}, not {_show(item['input'])}"
    else:
        message = item["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def _show(value: object) -> str:
    """Return a value as TOML writes it, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _guess_key(model: type[BaseModel], location: Location) -> str | None:
    """Return the nearest key that there is: of the same table, else of any."""
    table: type[BaseModel] | None = model
    for part in location[:-1]:
        if table is not None and isinstance(part, str):
            info = table.model_fields.get(part)
            table = next(iter(_inner_models(info)), None) if info else None
    key = str(location[-1])
    near = difflib.get_close_matches(key, table.model_fields if table else (), n=1)
    near += difflib.get_close_matches(key, _keys(model), n=1)
    return near[0] if near else None


def _inner_models(info: FieldInfo) -> list[type[BaseModel]]:
    found = [info.annotation, *getattr(info.annotation, "__args__", ())]
    return [part for part in found if isinstance(part, type) and issubclass(part, BaseModel)]


def _keys(model: type[BaseModel]) -> list[str]:
    """Return the names of all keys of a model and of the models inside it."""
    names = list(model.model_fields)
    for info in model.model_fields.values():
        for inner in _inner_models(info):
            names += _keys(inner)
    return names
