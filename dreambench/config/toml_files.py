"""TOML files that people write: read whole, and all that is wrong with them said by line."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from dreambench.errors import UserError

Model = TypeVar("Model", bound=BaseModel)
Location = tuple[int | str, ...]

_TABLE = re.compile(r"\s*(\[\[?)\s*([\w.\"-]+)\s*\]\]?")
_KEY = re.compile(r"\s*([\w-]+|\"[^\"]*\")\s*=")


def read_toml(path: Path) -> dict[str, object]:
    """A TOML file as a dict; UserError when it is missing or no TOML."""
    return _parse(path, _read(path))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text", hint="save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", hint="check the path") from error


def _parse(path: Path, text: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: {error}", hint="mend the file and run again") from error


def load_toml(path: Path, model: type[Model], content: dict[str, object] | None = None) -> Model:
    """A TOML file as a pydantic model; `content` stands for the file's own where it was changed.

    Raises UserError with one line for each fault, which names file and line.
    """
    text = _read(path)
    content = _parse(path, text) if content is None else content
    try:
        return model.model_validate(content)
    except ValidationError as error:
        lines = find_lines(text)
        items = error.errors()
        faults = [
            f"{path}:{_nearest(lines, item['loc'])}: {_explain(item, model)}"
            for item in sorted(items, key=lambda item: _nearest(lines, item["loc"]))
            # A list of which no item is valid is "too short" as well.
            if item["type"] != "too_short" or not _has_inner(items, item["loc"])
        ]
        raise UserError.listed(faults, hint="mend the file and run again") from error


def _has_inner(items: Sequence[Any], location: Location) -> bool:
    return any(item["loc"][: len(location)] == location != item["loc"] for item in items)


def name_line(path: Path, location: Location) -> str:
    """`FILE:LINE` of a key of a TOML file."""
    return f"{path}:{_nearest(find_lines(_read(path)), location)}"


def find_lines(text: str) -> dict[Location, int]:
    """Line numbers, from 1, of the tables and keys of a TOML text, by their path.

    The n-th [[table]] has the path ("table", n), n from 0. Keys inside inline tables and arrays
    have none; they stand on the line of what holds them.
    """
    lines: dict[Location, int] = {}
    table: Location = ()
    counts: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if found := _TABLE.match(line):
            name = found[2].replace('"', "")
            table = tuple(name.split("."))
            if found[1] == "[[":
                counts[name] = counts.get(name, -1) + 1
                table = (*table, counts[name])
            lines.setdefault(table, number)
        elif found := _KEY.match(line):
            lines.setdefault((*table, found[1].strip('"')), number)
    return lines


def _nearest(lines: dict[Location, int], location: Location) -> int:
    """The line of a path, or of the nearest thing around it."""
    for length in range(len(location), 0, -1):
        if location[:length] in lines:
            return lines[location[:length]]
    return 1


def _explain(item: Any, model: type[BaseModel]) -> str:
    """One pydantic error in words."""
    where = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        key = str(item["loc"][-1])
        known = _keys(model)
        close = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean '{close[0]}'?" if close else "there is no such key"
        return f"unknown key '{key}'; {hint}"
    if item["type"] == "missing":
        return f"the key '{where}' is missing"
    message = item["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def _keys(model: type[BaseModel]) -> list[str]:
    """Names of all keys of a model and of the models inside it."""
    names = []
    for name, field in model.model_fields.items():
        names.append(name)
        inner = [field.annotation, *getattr(field.annotation, "__args__", ())]
        for part in inner:
            if isinstance(part, type) and issubclass(part, BaseModel):
                names += _keys(part)
    return names
