"""What `--set KEY=VALUE` changes in a recipe, and what the changed row is called.

`--set n_steps=200` makes another row of a recipe, `dreambooth+n_steps=200`, with a run folder of
its own. Its keys are in alphabetical order. A value that is long or holds what a folder's name
should not is named by its digest, and so are all values where the name would be too long.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from dreambench.config.toml_files import find_problems, parse_toml
from dreambench.errors import UserError, name_some
from dreambench.storage.files import digest

MAX_NAME_LENGTH = 120


def parse_changes(texts: Sequence[str]) -> dict[str, Any]:
    """Return what `--set KEY=VALUE` says, by key. A value is TOML, and a bare word is text.

    Raises:
        UserError: for a text of another form, a key that is set twice, and a value that no recipe
            can hold.
    """
    changes: dict[str, Any] = {}
    for text in texts:
        key, equals, written = (part.strip() for part in text.partition("="))
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", key) or not written:
            raise UserError(
                f"--set: '{text}' is not of the form KEY=VALUE",
                hint="e.g. --set n_steps=200; empty text is KEY='\"\"'",
                code="invalid-value",
            )
        if key in changes:
            raise UserError(f"--set: {key} is set twice", hint="keep one", code="invalid-value")
        changes[key] = _parse_value(key, written)
    check_changes(changes)
    return changes


def check_changes(changes: Mapping[str, Any]) -> None:
    """Refuse what no recipe can hold: infinity, NaN, huge whole numbers, types that TOML lacks.

    Raises:
        UserError: `invalid-value`, by key.
    """
    faults = [f"--set: {k}: {fault}" for k, v in changes.items() for _, fault in find_problems(v)]
    if faults:
        raise UserError(name_some(faults, separator="; "), hint="fix it", code="invalid-value")


def _parse_value(key: str, text: str) -> Any:
    try:
        content = parse_toml(f"value = {text}")
    except ValueError as error:
        if text[0] in "\"'[{" or not isinstance(error, tomllib.TOMLDecodeError):
            raise UserError(
                f"--set: {key}: {text[:40]} is not a TOML value ({error})",
                hint="mind the quotes, which a shell strips: KEY='\"text\"'",
                code="invalid-value",
            ) from error
        return text
    # A bare word may hold what TOML takes for a comment.
    value = text if "#" in text and text[0] not in "\"'[{" else content["value"]
    if len(content) > 1:
        raise UserError(f"--set: {key}: more than one value", code="invalid-value")
    return value


def name_changes(name: str, changes: Mapping[str, Any]) -> str:
    """Return the name of a changed recipe, which is a safe name of a folder."""
    named = "+".join([name, *(f"{key}={_name_value(changes[key])}" for key in sorted(changes))])
    return named if len(named) <= MAX_NAME_LENGTH else f"{name}+set={digest(dict(changes))}"


def _name_value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    if isinstance(value, float):
        text = text.removesuffix(".0")
    is_safe = re.fullmatch(r"[A-Za-z0-9_.+-]{1,40}", text) is not None
    return text if is_safe else digest(value)


def describe_settings(settings: Mapping[str, Any]) -> str:
    """Return settings for people, in a title or a line of their own."""
    return ", ".join(f"{key} = {json.dumps(settings[key])}" for key in sorted(settings))
