"""Code from outside of the package: a class by `FILE.py:Class` or by a package's entry point.

Methods, metrics and encoders are found the same way. Code is only ever executed because someone
named it on the command line or in Python, or installed a package; never because a file names it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import re
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from dreambench.errors import UserError, name_error, read_message, suggest, unknown_name

DISTRIBUTION = "dreambench"
PACKAGE_DIR = Path(__file__).resolve().parent

_REFERENCE = re.compile(r"(?P<file>.+\.py):(?P<attribute>[^:/\\]*)")


@dataclass(frozen=True)
class LoadedClass:
    """A class from outside and which code it is.

    `name` is what results call it: `file.py:Class`, or the entry point's name. `where` names it in
    errors. `code` holds no path of this machine: for a file its name, class and SHA-256; for a
    package its distribution, version, class and the digest of its modules. It is empty for the
    package's own entry points, whose code a run records as its commit and version.
    """

    value: Any
    name: str
    where: str
    code: dict[str, str] = field(default_factory=dict)

    @property
    def reference(self) -> str | None:
        """What finds a file's class again, `FILE.py:Class`; None for a package's."""
        return self.where if "file" in self.code else None


def is_reference(name: str) -> bool:
    """Return whether a name has the form `FILE.py:Class`, or forgets the class."""
    return _REFERENCE.fullmatch(name) is not None or name.endswith(".py")


def file_of(reference: str) -> str:
    """Return the file of `FILE.py:Class`, also without the class."""
    found = _REFERENCE.fullmatch(reference)
    return found["file"] if found else reference


def to_kebab_case(name: str) -> str:
    """Return a class name in the form of a row's name: `MyMethod` gives `my-method`."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name)
    return words.replace("_", "-").strip("-").lower()


def list_entry_points(group: str) -> dict[str, importlib.metadata.EntryPoint]:
    """Return what installed packages register under a group, by name; nothing is imported."""
    points = importlib.metadata.entry_points(group=group)
    return {point.name: point for point in sorted(points, key=lambda point: point.name)}


@dataclass(frozen=True)
class FoundCode:
    """A class from outside that was found and not executed: see `LoadedClass`, and `load`."""

    name: str
    where: str
    code: dict[str, str]
    execute: Callable[[], Any] = field(repr=False)

    def load(self) -> LoadedClass:
        """Execute the code and return its class.

        Raises:
            UserError: the class is not there, or the code fails.
        """
        return LoadedClass(self.execute(), self.name, self.where, self.code)


def find_code_file(reference: str, *, option: str, folder: Path = Path()) -> FoundCode:
    """Find the class of `FILE.py:Class`; nothing is executed.

    `option` is the command-line option that names it, for hints; a relative file lies in `folder`.

    Raises:
        UserError: the file is not there, or no class is named.
    """
    found = _REFERENCE.fullmatch(reference)
    path = folder / file_of(reference)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}",
            hint="name a file as FILE.py:Class",
            code="unreadable-file",
        ) from error
    classes = re.findall(rb"^class (\w+)", content, flags=re.MULTILINE)
    known = [name.decode() for name in classes]
    if found is None or not found["attribute"]:
        start = option if option.endswith("=") else f"{option} "
        raise UserError(
            f"{reference} names no class",
            hint=f"e.g. {start}{path}:{known[-1] if known else 'MyClass'}",
            code="missing-class",
        )
    attribute = found["attribute"]

    def execute() -> Any:
        value = getattr(_run_file(path.resolve(), content), attribute, None)
        if value is None:
            hint = suggest(attribute, known) or f"its classes: {', '.join(known) or 'none'}"
            raise UserError(f"{path} has no class '{attribute}'", hint=hint, code="missing-class")
        return value

    code = {
        "file": path.name,
        "class": attribute,
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    return FoundCode(f"{path.name}:{attribute}", f"{path}:{attribute}", code, execute)


@functools.lru_cache
def _run_file(path: Path, content: bytes) -> ModuleType:
    """Execute these very bytes, which the digest is of, and no file of compiled code."""
    name = f"dreambench_plugin_{path.stem}_{hashlib.sha256(bytes(path) + content).hexdigest()[:8]}"
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    try:
        exec(compile(content, str(path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:  # A script without a guard ends with sys.exit().
        del sys.modules[name]
        missing = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
        top = str(missing).partition(".")[0]
        if missing and ((path.parent / f"{top}.py").is_file() or (path.parent / top).is_dir()):
            raise UserError(
                f"{path} imports '{top}' next to it: a one-file plug-in cannot import other files",
                hint="make several files a package with an entry point (docs: how-to/add-a-method)",
                code="plugin-fails",
            ) from error
        raise plugin_error(str(path), error) from error
    return module


def plugin_error(what: str, error: BaseException) -> UserError:
    """Return one line for an exception of code from outside, with the line that it comes from."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not Path(f.filename).is_relative_to(PACKAGE_DIR)] or frames
    line = f", line {own[-1].lineno} of {Path(own[-1].filename).name}" if own else ""
    if isinstance(error, SyntaxError):
        line = f", line {error.lineno}"
    return UserError(
        f"{what} does not work{line}: {name_error(error)}: {read_message(error)}",
        hint="fix it and run again",
        code="plugin-fails",
    )


def find_entry_point(group: str, name: str, *, kind: str, known: tuple[str, ...] = ()) -> FoundCode:
    """Find what an installed package registers under a name of a group; nothing is imported.

    `kind` is what such a thing is called in errors ("method"); `known` are names other than
    the entry points', for suggestions.

    Raises:
        UserError: the name is unknown or taken twice.
    """
    points = list_entry_points(group)
    if name not in points:
        raise unknown_name(kind, name, [*known, *points])
    if sum(p.name == name for p in importlib.metadata.entry_points(group=group)) > 1:
        raise UserError(
            f"several installed packages register a {kind} '{name}'",
            hint="uninstall all but one",
            code="name-taken",
        )
    point = points[name]
    where = f"the {kind} '{name}' ({point.value})"

    def execute() -> Any:
        try:
            return point.load()
        except (Exception, SystemExit) as error:
            raise plugin_error(where, error) from error

    if point.dist is not None and point.dist.name == DISTRIBUTION:
        return FoundCode(name, where, {}, execute)
    code = {
        "distribution": point.dist.name if point.dist else "",
        "version": point.dist.version if point.dist else "",
        "class": point.value,
        "sha256": _digest_package(point.module),
    }
    return FoundCode(name, where, code, execute)


def _digest_package(module: str) -> str:
    """Return the digest of all modules of the top-level package, or of its one file."""
    spec = importlib.util.find_spec(module.partition(".")[0])
    folders = list(spec.submodule_search_locations or []) if spec else []
    if folders:
        root = Path(folders[0])
        files = sorted(root.rglob("*.py"))
        names = {p.relative_to(root).as_posix(): _sha256(p) for p in files}
        text = json.dumps(names, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
    return _sha256(Path(str(spec.origin))) if spec else ""


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
