"""Somebody's own method as a recipe: `FILE.py:Class`, or a package's entry point."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from pydantic import ValidationError

from dreambench.base_models.registry import BASE_MODELS, BaseModel
from dreambench.config.recipe import PluginRecipe, Recipe, list_recipes, load_recipe
from dreambench.errors import UserError, suggest, unknown_name
from dreambench.methods.base import (
    METHODS,
    Method,
    Settings,
    Work,
    describe_track,
    find_class,
    read_settings,
)
from dreambench.storage.files import digest_folder, sha256_file
from dreambench.storage.shipped import PACKAGE_DIR

GROUP = "dreambench.methods"
"""ImageSet point group of packages that bring methods: name -> class."""
ALL = "all"

_REFERENCE = re.compile(r"(?P<file>.+\.py):(?P<attribute>[^:/\\]*)")
_ROW_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def find_recipe(name: str) -> Recipe:
    """A recipe by what `--method` takes, with the code of somebody's own method loaded.

    That is a shipped recipe's name, the path of a TOML file, `FILE.py:Class`, or the name of an
    entry point in the group `dreambench.methods`. The code of the latter two is executed.

    Raises UserError for what is not there or is no method.
    """
    if _REFERENCE.fullmatch(name) or name.endswith(".py"):
        return _make_recipe(*_load_reference(name, Path()))
    if name in list_recipes() or name.endswith(".toml"):
        recipe = load_recipe(name)
        if recipe.method in METHODS:
            return recipe
        if _REFERENCE.fullmatch(recipe.method) or recipe.method.endswith(".py"):
            found = _load_reference(recipe.method, Path(name).parent)
        else:
            found = _load_entry_point(recipe.method)
        return _make_recipe(*found, recipe=recipe)
    if name in list_entry_points():
        return _make_recipe(*_load_entry_point(name))
    raise unknown_name("method", name, [*list_recipes(), *list_entry_points(), ALL])


def find_recipes(
    names: Sequence[str],
    base_model: str,
    *,
    alongside: Sequence[str] = (),
    optional: Sequence[str] = (),
    changes: Mapping[str, Any] | None = None,
) -> tuple[list[Recipe], list[str]]:
    """Return recipes in the order of their names, each once, with settings that were read.

    "all" stands for one of each shipped method. Those of `names` get `changes` (`--set`), those
    `alongside` do not. The second list names what of "all" and of `optional`, which come last, is
    left out because it has no numbers for the base model.

    Raises:
        UserError: for a name that does not exist, and settings that a method does not take.
    """
    skipped: list[str] = []
    recipes: dict[str, Recipe] = {}
    _add_named(recipes, names, base_model, skipped)
    rows: list[Recipe] = []
    if changes:
        rows = [recipe.change(base_model, changes) for recipe in recipes.values()]
        recipes = {}
    _add_named(recipes, alongside, base_model, skipped)
    _add_defined(recipes, optional, base_model, skipped)
    rows += recipes.values()
    return [row.with_settings(base_model, read_settings(row, base_model)) for row in rows], skipped


def _add_named(
    recipes: dict[str, Recipe], names: Sequence[str], base_model: str, skipped: list[str]
) -> None:
    for name in names:
        if name != ALL:
            recipes.setdefault(name, find_recipe(name))
            continue
        shipped = [method for method in METHODS if method in list_recipes()]
        _add_defined(recipes, shipped, base_model, skipped)


def _add_defined(
    recipes: dict[str, Recipe], names: Sequence[str], base_model: str, skipped: list[str]
) -> None:
    for name in names:
        recipe = find_recipe(name)
        if base_model in recipe.tables:
            recipes.setdefault(name, recipe)
        elif name not in recipes:
            skipped.append(name)


def check_recipe(recipe: Recipe, base_model: BaseModel) -> Work:
    """What a recipe will do; UserError for numbers that its method does not take.

    Loads no network.
    """
    settings = read_settings(recipe, base_model.name)
    method = find_class(recipe)
    if not isinstance(recipe, PluginRecipe):
        return method.count_work(settings, base_model)
    try:
        work = method.count_work(settings, base_model)
    except Exception as error:
        raise _broken(f"count_work() of {recipe.method}", error) from error
    if not isinstance(work, Work):
        raise UserError(
            f"count_work() of {recipe.method} gives no Work", hint="return dreambench.methods.Work"
        )
    return work


def attach_code(recipe: Recipe, reference: str | None) -> Recipe:
    """A recipe that was read from a run folder, with its code found again.

    `reference` is what `--method` says; a package's method is found without it. Raises UserError
    when the code is not that of the run.
    """
    if not isinstance(recipe, PluginRecipe):
        if reference is not None and find_recipe(reference).method != recipe.method:
            raise UserError(
                f"the run is of '{recipe.method}' and not of {reference}", hint="leave --method out"
            )
        return recipe
    if reference is None and "distribution" in recipe.code:
        reference = recipe.method
    if reference is None:
        return recipe
    found = find_recipe(reference)
    if not isinstance(found, PluginRecipe) or found.code != recipe.code:
        raise UserError(
            f"{reference} is not the code that this run was begun with ({recipe.method})",
            hint="bring that code back, or begin another run with --out",
        )
    return recipe.model_copy(update={"method_class": found.method_class})


def list_entry_points() -> dict[str, importlib.metadata.EntryPoint]:
    """The methods that installed packages bring, by name; nothing of them is imported."""
    points = importlib.metadata.entry_points(group=GROUP)
    return {point.name: point for point in sorted(points, key=lambda point: point.name)}


def list_methods(base_model: BaseModel) -> list[dict[str, Any]]:
    """Every shipped recipe and every method of an installed package, as a row.

    `trained_parameters` is None where there are no numbers for the base model, as is `track`'s
    number of photos then the method's own. A package that cannot be loaded says so as its title.
    """
    names = [name for name in METHODS if name in list_recipes()]
    names += [name for name in list_recipes() if name not in names]
    rows = []
    for name in [*names, *(name for name in list_entry_points() if name not in names)]:
        row: dict[str, Any] = {"name": name, "title": "", "track": "", "trained_parameters": None,
                               "base_models": [], "source": ""}  # fmt: skip
        rows.append(row)
        try:
            recipe = find_recipe(name)
            row |= {"title": recipe.title, "base_models": list(recipe.tables)}
            row["source"] = recipe.source
            if isinstance(recipe, PluginRecipe):
                package = " ".join([recipe.code["distribution"], recipe.code["version"]])
                row["source"] += f" (installed: {package})"
            has_table = base_model.name in recipe.tables
            row["track"] = describe_track(
                recipe, base_model.name if has_table else row["base_models"][0]
            )
            if has_table:
                row["trained_parameters"] = check_recipe(recipe, base_model).trained_parameters
        except UserError as error:
            row["title"] = f"cannot be loaded: {error.problem}"
    return rows


def _load_reference(reference: str, folder: Path) -> tuple[type[Method], str, dict[str, str]]:
    """The class of `FILE.py:Class`, what the recipe calls it, and which code it is."""
    found = _REFERENCE.fullmatch(reference)
    path = folder / (found["file"] if found else reference)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}", hint="name a file as FILE.py:Class"
        ) from error
    classes = re.findall(rb"^class (\w+)", content, flags=re.MULTILINE)
    known = [name.decode() for name in classes]
    if found is None or not found["attribute"]:
        raise UserError(
            f"{reference} names no class",
            hint=f"e.g. --method {path}:{known[-1] if known else 'MyMethod'}",
        )
    attribute = found["attribute"]
    module = _run_file(path.resolve(), content)
    method_class = getattr(module, attribute, None)
    if method_class is None:
        hint = suggest(attribute, known) or f"its classes: {', '.join(known) or 'none'}"
        raise UserError(f"{path} has no class '{attribute}'", hint=hint)
    method = f"{path.name}:{attribute}"
    code = {
        "file": path.name,
        "class": attribute,
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    return _check_class(method_class, f"{path}:{attribute}"), method, code


@functools.lru_cache
def _run_file(path: Path, content: bytes) -> ModuleType:
    """Executes these very bytes, which the digest is of, and no file of compiled code."""
    name = f"dreambench_plugin_{path.stem}_{hashlib.sha256(bytes(path) + content).hexdigest()[:8]}"
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    try:
        exec(compile(content, str(path), "exec"), module.__dict__)
    except Exception as error:
        del sys.modules[name]
        missing = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
        top = str(missing).partition(".")[0]
        if missing and ((path.parent / f"{top}.py").is_file() or (path.parent / top).is_dir()):
            raise UserError(
                f"{path} imports '{top}', which lies beside it: a method in one file is one file",
                hint="make a package of several, with an entry point (README, Your own method)",
            ) from error
        raise _broken(str(path), error) from error
    return module


def _broken(what: str, error: Exception) -> UserError:
    """One line for an exception of somebody's code, with the line that it comes from."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not Path(f.filename).is_relative_to(PACKAGE_DIR)] or frames
    line = f", line {own[-1].lineno} of {Path(own[-1].filename).name}"
    if isinstance(error, SyntaxError):
        line = f", line {error.lineno}"
    return UserError(
        f"{what} does not work{line}: {type(error).__name__}: {error}", hint="mend it and run again"
    )


def _load_entry_point(name: str) -> tuple[type[Method], str, dict[str, str]]:
    points = list_entry_points()
    if name not in points:
        raise unknown_name("method", name, [*METHODS, *points])
    if sum(p.name == name for p in importlib.metadata.entry_points(group=GROUP)) > 1:
        raise UserError(
            f"several installed packages bring a method '{name}'", hint="uninstall all but one"
        )
    point = points[name]
    try:
        method_class = point.load()
    except Exception as error:
        raise _broken(f"the method '{name}' ({point.value})", error) from error
    code = {
        "distribution": point.dist.name if point.dist else "",
        "version": point.dist.version if point.dist else "",
        "class": point.value,
        "sha256": _digest_package(point.module),
    }
    return _check_class(method_class, f"the method '{name}' ({point.value})"), name, code


def _digest_package(module: str) -> str:
    """Digest of all modules of the top-level package, or of its one file."""
    spec = importlib.util.find_spec(module.partition(".")[0])
    folders = list(spec.submodule_search_locations or []) if spec else []
    if folders:
        return digest_folder(Path(folders[0]), suffixes=[".py"])
    return sha256_file(Path(str(spec.origin))) if spec else ""


def _check_class(found: Any, where: str) -> type[Method]:
    """UserError unless it is a method's class."""
    hint = "inherit from dreambench.methods.Method (README, Your own method)"
    if not inspect.isclass(found):
        raise UserError(f"{where} is no class", hint=hint)
    for name in ("load", "fit", "count_work"):
        one = getattr(found, name, None)
        if not callable(one) or getattr(one, "__isabstractmethod__", False):
            raise UserError(f"{where} has no {name}()", hint=hint)
    settings = getattr(found, "Settings", None)
    if not (inspect.isclass(settings) and issubclass(settings, Settings)):
        raise UserError(
            f"the Settings of {where} are no dreambench.methods.Settings", hint="inherit from it"
        )
    if not isinstance(getattr(found, "tunes", None), bool):
        raise UserError(f"{where} does not say whether it tunes", hint="tunes = True or False")
    n_references = getattr(found, "n_references", 0.5)
    is_number = isinstance(n_references, int) and not isinstance(n_references, bool)
    if not (n_references is None or (is_number and n_references >= 0)):
        raise UserError(
            f"n_references of {where} is no number of photos", hint="None for all, or a number"
        )
    method_class = cast(type[Method], found)
    if method_class.tunes and method_class.fit is Method.fit:
        raise UserError(
            f"{where} says that it tunes and has no fit()", hint="write it, or tunes = False"
        )
    return method_class


def _make_recipe(
    method_class: type[Method], method: str, code: dict[str, str], *, recipe: Recipe | None = None
) -> PluginRecipe:
    """A recipe for a class; without a file of its own it has the defaults of the class's Settings.

    The row's name, title and source are the class's attributes, else come from its name and
    docstring.
    """
    if recipe is None:
        title = (method_class.__doc__ or method_class.__name__).strip().splitlines()[0]
        name = method if "distribution" in code else _to_kebab_case(method_class.__name__)
        head = {
            "name": getattr(method_class, "name", None) or name,
            "title": getattr(method_class, "title", None) or title.rstrip("."),
            "source": getattr(method_class, "source", None) or method,
        }
        if not _ROW_NAME.fullmatch(str(head["name"])):
            raise UserError(
                f"{method} cannot be called '{head['name']}'",
                hint='give the class an attribute: name = "my-method"',
            )
        tables = dict.fromkeys(BASE_MODELS, _read_defaults(method_class, method))
        recipe = Recipe(
            **{key: str(value) for key, value in head.items()}, method=method, tables=tables
        )
    return PluginRecipe.from_recipe(recipe, method=method, code=code, method_class=method_class)


def _read_defaults(method_class: type[Method], method: str) -> dict[str, Any]:
    fields = method_class.Settings.model_fields
    missing = [name for name, field in fields.items() if field.is_required()]
    if missing:
        raise UserError(
            f"the Settings of {method} have no default for {', '.join(missing)}",
            hint=f'give one, or write a recipe: method = "{method}", title, source, and a table '
            "[mini] with the numbers in a file my-recipe.toml, then --method my-recipe.toml",
        )
    try:
        return method_class.Settings().model_dump(mode="json")
    except ValidationError as error:
        raise _broken(f"the defaults of {method}", error) from error


def _to_kebab_case(name: str) -> str:
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name)
    return words.replace("_", "-").strip("-").lower()
