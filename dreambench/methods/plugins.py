"""Recipes of methods from anywhere: shipped ones, `FILE.py:Class`, or a package's entry point."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from dreambench.base_models.catalogue import BASE_MODELS
from dreambench.base_models.spec import BaseModel
from dreambench.config.recipe import PluginRecipe, Recipe, list_recipes, load_recipe
from dreambench.errors import UserError, unknown_name
from dreambench.methods.base import Method, Settings, Work
from dreambench.methods.registry import (
    GROUP,
    MISSING,
    describe_track,
    find_class,
    list_shipped,
    read_settings,
)
from dreambench.plugins import (
    FoundCode,
    LoadedClass,
    file_of,
    find_code_file,
    find_entry_point,
    is_reference,
    list_entry_points,
    plugin_error,
    to_kebab_case,
)
from dreambench.storage.paths import check_inside, find_name_fault
from dreambench.storage.snapshots import Snapshot

ALL = "all"
"""Stands for one recipe of each shipped method."""

_ROW_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def find_recipe(name: str) -> Recipe:
    """Return a recipe by what `--method` takes, with the code of a method from outside loaded.

    That is a shipped recipe's name, the path of a TOML file, `FILE.py:Class`, or the name of an
    entry point in the group `dreambench.methods`. The code of the latter two is executed.

    Raises:
        UserError: there is no such recipe or method, or its code fails or is not a method.
    """
    recipe, found = _find(name)
    if found is not None:
        return _make_recipe(found.load(), recipe=recipe)
    assert recipe is not None
    return recipe


def _find(name: str) -> tuple[Recipe | None, FoundCode | None]:
    """Return the recipe of a TOML file and the code from outside that `--method` means, if any.

    Nothing is executed.
    """
    if is_reference(name):
        return None, find_code_file(name, option="--method")
    if name in list_recipes() or name.endswith(".toml"):
        recipe = load_recipe(name)
        if recipe.method in list_shipped():
            return recipe, None
        if is_reference(recipe.method):
            return recipe, _find_beside(recipe, Path(name).parent)
        return recipe, _find_installed(recipe.method)
    if name in list_entry_points(GROUP):
        return None, _find_installed(name)
    if name in MISSING:
        raise UserError(
            f"the method '{name}' is not here: {MISSING[name]}",
            hint="see those that are: dreambench list methods",
            code="unknown-name",
        )
    raise unknown_name("method", name, [*list_recipes(), *list_entry_points(GROUP), ALL])


def _find_installed(method: str) -> FoundCode:
    return find_entry_point(GROUP, method, kind="method", known=tuple(list_shipped()))


def _find_beside(recipe: Recipe, folder: Path) -> FoundCode:
    """Find the code of a recipe that names a file; UserError for one out of its own folder."""
    try:
        check_inside(folder / file_of(recipe.method), folder)
    except UserError as error:
        raise UserError(
            f"{recipe.locate_head('method')}: '{recipe.method}' is not in the folder of the recipe",
            hint="put a copy of the code beside the recipe, or pass --method FILE.py:Class",
            code="unsafe-path",
        ) from error
    return find_code_file(recipe.method, option="--method", folder=folder)


def find_recipes(
    names: Sequence[str],
    base_model: str,
    *,
    alongside: Sequence[str] = (),
    optional: Sequence[str] = (),
    changes: Mapping[str, Any] | None = None,
) -> tuple[list[Recipe], list[str]]:
    """Return recipes in the order of their names, each once, with settings that were read.

    Those of `names` get `changes` (`--set`), those `alongside` do not; see `ALL` for either. The
    second list names what of "all" and of `optional`, which come last, is left out because it has
    no numbers for the base model.

    Raises:
        UserError: a name does not exist, or a method does not take its settings.
    """
    skipped: list[str] = []
    recipes: dict[str, Recipe] = {}
    rows: list[Recipe] = []
    _add_named(recipes, names, base_model, skipped)
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
        shipped = [method for method in list_shipped() if method in list_recipes()]
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
    """Return what a recipe will do, without loading a network.

    Raises:
        UserError: its method does not take its numbers, or `count_work` fails.
    """
    settings = read_settings(recipe, base_model.name)
    method = find_class(recipe)
    if not isinstance(recipe, PluginRecipe):
        return method.count_work(settings, base_model)
    try:
        work = method.count_work(settings, base_model)
    except (Exception, SystemExit) as error:
        raise plugin_error(f"count_work() of {recipe.method}", error) from error
    if not isinstance(work, Work):
        raise UserError(
            f"count_work() of {recipe.method} does not return a Work",
            hint="return dreambench.methods.Work",
            code="not-a-method",
        )
    if not all(isinstance(one, Snapshot) for one in work.weights):
        raise UserError(
            f"count_work() of {recipe.method} has weights that are not Snapshots",
            hint="name them as dreambench.methods.Snapshot",
            code="not-a-method",
        )
    return work


def identify_weights(recipe: Recipe, base_model: BaseModel) -> dict[str, str]:
    """Return the identities of the weights that a method loads besides the base model's, by name.

    Raises:
        UserError: as `check_recipe` does.
    """
    weights = check_recipe(recipe, base_model).weights
    return {one.name: one.identity() for one in weights}


def attach_code(recipe: Recipe, reference: str | None) -> Recipe:
    """Return a recipe that was read from a run folder, with its code found again.

    `reference` is what `--method` says; a package's method is found without it, by the name of its
    entry point. The code is compared before it is executed, and no file is that only the run names.

    Raises:
        UserError: the code is not that of the run.
    """
    named, found = (None, None) if reference is None else _find(reference)
    if not isinstance(recipe, PluginRecipe):
        if found is not None or (named is not None and named.method != recipe.method):
            raise UserError(
                f"the run is of '{recipe.method}' and not of {reference}",
                hint="leave --method out",
                code="other-code",
            )
        return recipe
    if reference is None:
        if "distribution" not in recipe.code:
            return recipe
        found = _find_installed(recipe.method)
    if found is None or found.code != recipe.code:
        raise UserError(
            f"{reference or recipe.method} is not the code that this run was started with "
            f"({recipe.method})",
            hint="restore that code, or start another run with --out",
            code="other-code",
        )
    loaded = found.load()
    return recipe.model_copy(
        update={"method_class": _check_class(loaded), "reference": loaded.reference}
    )


def list_methods(base_model: BaseModel) -> list[dict[str, Any]]:
    """Return every shipped recipe and every method of an installed package, as a row.

    `trained_parameters` is None where there are no numbers for the base model; the number of photos
    in `track` is then the method's own. A package that cannot be loaded says so as its title.
    """
    recipes, points = list_recipes(), list_entry_points(GROUP)
    names = [name for name in list_shipped() if name in recipes]
    return [_describe(name, base_model) for name in dict.fromkeys([*names, *recipes, *points])]


def _describe(name: str, base_model: BaseModel) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": name, "title": "", "track": "", "trained_parameters": None, "base_models": [],
        "source": "", "most_subjects": 1,
    }  # fmt: skip
    try:
        recipe = find_recipe(name)
        row |= {"title": recipe.title, "base_models": list(recipe.tables)}
        row["source"] = recipe.source
        if isinstance(recipe, PluginRecipe):
            package = " ".join([recipe.code["distribution"], recipe.code["version"]])
            row["source"] += f" (installed: {package})"
        row["most_subjects"] = getattr(find_class(recipe), "most_subjects", 1)
        has_table = base_model.name in recipe.tables
        row["track"] = describe_track(
            recipe, base_model.name if has_table else row["base_models"][0]
        )
        if has_table:
            row["trained_parameters"] = check_recipe(recipe, base_model).trained_parameters
    except UserError as error:
        row["title"] = f"cannot be loaded: {error.problem}"
    return row


def _check_class(loaded: LoadedClass) -> type[Method]:
    """Return a class that has all that a method needs.

    Raises:
        UserError: it has not.
    """
    found, where = loaded.value, loaded.where
    if not inspect.isclass(found):
        raise _not_a_method(f"{where} is not a class")
    for name in ("load", "fit", "count_work"):
        one = getattr(found, name, None)
        if not callable(one) or getattr(one, "__isabstractmethod__", False):
            raise _not_a_method(f"{where} has no {name}()")
    settings = getattr(found, "Settings", None)
    if not (inspect.isclass(settings) and issubclass(settings, Settings)):
        raise _not_a_method(
            f"the Settings of {where} are not a dreambench.methods.Settings", "inherit from it"
        )
    _check_attributes(found, where)
    return cast(type[Method], found)


def _check_attributes(found: Any, where: str) -> None:
    """Raise UserError unless a class says what its track is."""
    if not isinstance(getattr(found, "tunes", None), bool):
        raise _not_a_method(f"{where} does not say whether it tunes", "tunes = True or False")
    n_references = getattr(found, "n_references", 0.5)
    is_number = isinstance(n_references, int) and not isinstance(n_references, bool)
    if not (n_references is None or (is_number and n_references >= 0)):
        raise _not_a_method(
            f"n_references of {where} is not a number of photos", "None for all, or a number"
        )
    if getattr(found, "most_subjects", 1) not in (1, 2):
        raise _not_a_method(f"most_subjects of {where} is not 1 or 2", "2 for a method of pairs")
    if found.tunes and found.fit is Method.fit:
        raise _not_a_method(
            f"{where} says that it tunes but has no fit()", "write it, or tunes = False"
        )


def _not_a_method(problem: str, hint: str = "") -> UserError:
    hint = hint or "inherit from dreambench.methods.Method (docs: how-to/add-a-method)"
    return UserError(problem, hint=hint, code="not-a-method")


def _make_recipe(loaded: LoadedClass, *, recipe: Recipe | None = None) -> PluginRecipe:
    """Return a recipe for a class, with the numbers of `recipe`, else with its own defaults."""
    method_class = _check_class(loaded)
    if recipe is None:
        tables = dict.fromkeys(BASE_MODELS, _read_defaults(method_class, loaded.name))
        recipe = Recipe(**_describe_class(method_class, loaded), method=loaded.name, tables=tables)
    return PluginRecipe.from_recipe(
        recipe, method=loaded.name, code=loaded.code, method_class=method_class,
        reference=loaded.reference,
    )  # fmt: skip


def _describe_class(method_class: type[Method], loaded: LoadedClass) -> dict[str, str]:
    """Return a row's name, title and source: attributes, else from the name and docstring."""
    title = (method_class.__doc__ or method_class.__name__).strip().splitlines()[0]
    is_file = "file" in loaded.code
    name = to_kebab_case(method_class.__name__) if is_file else loaded.name
    head = {
        "name": getattr(method_class, "name", None) or name,
        "title": getattr(method_class, "title", None) or title.rstrip("."),
        "source": getattr(method_class, "source", None) or loaded.name,
    }
    if not _ROW_NAME.fullmatch(str(head["name"])) or find_name_fault(str(head["name"])):
        raise UserError(
            f"{loaded.name} cannot be called '{head['name']}'",
            hint='give the class an attribute: name = "my-method"',
            code="invalid-name",
        )
    return {key: str(value) for key, value in head.items()}


def _read_defaults(method_class: type[Method], method: str) -> dict[str, Any]:
    """Return the defaults of a class's Settings; UserError where one is missing or invalid."""
    fields = method_class.Settings.model_fields
    missing = [name for name, field in fields.items() if field.is_required()]
    if missing:
        raise UserError(
            f"the Settings of {method} have no default for {', '.join(missing)}",
            hint=f'give one, or write a recipe: method = "{method}", title, source, and a table '
            "[mini] with the numbers in a file my-recipe.toml, then --method my-recipe.toml",
            code="missing-value",
        )
    try:
        return method_class.Settings().model_dump(mode="json")
    except ValidationError as error:
        raise plugin_error(f"the defaults of {method}", error) from error
