"""Encoders from outside of the package: `FILE.py:Class`, or an installed package's entry point."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dreambench.encoders.preprocessing import Pixels, Preparation
from dreambench.encoders.spec import OutsideSpec
from dreambench.errors import UserError
from dreambench.plugins import (
    LoadedClass,
    find_code_file,
    find_entry_point,
    is_reference,
    plugin_error,
    to_kebab_case,
)
from dreambench.storage.files import digest

GROUP = "dreambench.encoders"
"""Entry point group of packages that register encoders: name -> class."""
HINT = "docs: how-to/add-an-encoder"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


def load_outside(reference: str, role: str, *, known: tuple[str, ...] = ()) -> OutsideSpec:
    """Import an encoder's class by `FILE.py:Class` or by its entry point, for a role.

    `known` are the names of the package's own encoders of that role, for suggestions.

    Raises:
        UserError: there is no such class, its code fails, or it is not an encoder for the role.
    """
    if is_reference(reference):
        found = find_code_file(reference, option=f"--encoder {role}=")
    else:
        found = find_entry_point(GROUP, reference, kind=f"{role} encoder", known=known)
    return make_outside_spec(found.load(), role)


def make_outside_spec(loaded: LoadedClass, role: str) -> OutsideSpec:
    """Check a class and return what is pinned about it, for a role.

    Raises:
        UserError: it is not a subclass of `Encoder`, misses a part, or is not for that role.
    """
    encoder = _check_class(loaded, role)
    name = encoder.name or to_kebab_case(encoder.__name__)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _invalid(loaded, f"`name` is {name!r}", "use letters, digits and . _ + -")
    if type(encoder.version) is not int or encoder.version < 1:
        raise _invalid(loaded, f"`version` is {encoder.version!r}", "use a whole number from 1")
    # The file's name is in the reference; its content and the class are what rows depend on.
    code = {key: value for key, value in loaded.code.items() if key != "file"}
    return OutsideSpec(
        name=name,
        role=role,
        version=encoder.version,
        encoder=encoder,
        reference=loaded.name,
        where=loaded.where,
        code=digest(code),
        pixels=_find_pixels(loaded),
        weights=_find_weights(loaded),
    )


def _invalid(loaded: LoadedClass, problem: str, hint: str) -> UserError:
    return UserError(f"{loaded.where}: {problem}", hint=hint, code="invalid-value")


def _check_class(loaded: LoadedClass, role: str) -> Any:
    """Return the class; UserError where it is not an encoder for the role."""
    from dreambench.encoders.base import Encoder  # noqa: PLC0415  (imports torch, as its code does)

    value = loaded.value
    if not inspect.isclass(value):
        raise UserError(f"{loaded.where} is not a class", hint=HINT, code="not-a-class")
    if not issubclass(value, Encoder):
        raise UserError(
            f"{loaded.where} is not a subclass of dreambench.Encoder", hint=HINT, code="not-a-class"
        )
    roles = value.roles
    if not isinstance(roles, tuple) or not all(isinstance(one, str) for one in roles):
        raise _invalid(loaded, f"`roles` is {roles!r}", 'use a tuple of words: roles = ("dino",)')
    if role not in roles:
        said = ", ".join(f"'{one}'" for one in roles) or "nothing"
        raise UserError(
            f"{loaded.where} is an encoder for {said} and not for '{role}'",
            hint="add it to the attribute `roles`, or name another role",
            code="wrong-role",
        )
    missing = sorted(getattr(value, "__abstractmethods__", ()))
    if role == "clip" and value.forward_texts is Encoder.forward_texts:
        missing.append("forward_texts")
    if missing:
        raise UserError(
            f"{loaded.where} lacks the method {' and '.join(missing)}",
            hint=HINT,
            code="missing-method",
        )
    return value


def _find_pixels(loaded: LoadedClass) -> Preparation:
    """Return a class's preprocessing; its own code is wrapped, so that its faults are one line."""
    pixels = getattr(loaded.value, "pixels", None)
    if isinstance(pixels, Pixels):
        return pixels
    if pixels is None or not callable(getattr(pixels, "prepare", None)):
        hint = "set it to dreambench.encoders.preprocessing.Pixels(...), or to your own"
        raise _invalid(loaded, "`pixels` has no method prepare", hint)
    try:
        hash(pixels)
    except TypeError as error:
        hint = "make it a frozen dataclass: equal ones have to do the same"
        raise _invalid(loaded, "`pixels` is not hashable", hint) from error
    return _OutsidePreparation(pixels, loaded.where)


def _find_weights(loaded: LoadedClass) -> Path | None:
    """Return the path of a class's weights; a relative one starts at the folder of its file."""
    weights = loaded.value.weights
    if weights is None:
        return None
    if not isinstance(weights, str | Path):
        raise _invalid(loaded, f"`weights` is {weights!r}", "use the path of a file or folder")
    return Path(inspect.getfile(loaded.value)).parent / weights


@dataclass(frozen=True)
class _OutsidePreparation:
    """Preprocessing by code from outside."""

    inner: Preparation
    where: str

    def prepare(self, image: Image.Image) -> NDArray[np.float32]:
        """See `Preparation`."""
        try:
            return np.ascontiguousarray(self.inner.prepare(image), np.float32)
        except Exception as error:
            raise plugin_error(f"pixels.prepare() of {self.where}", error) from error
