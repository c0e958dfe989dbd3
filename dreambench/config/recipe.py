"""Recipes: a method with every number frozen, in one table for each base model.

A recipe is a TOML file of at most four keys, and of a table for each base model on which it is
defined. It may name a recipe that it extends, and then holds only what differs:

    extends = "dreambooth"          # a shipped recipe, or "base.toml" in the same folder
    title = "DreamBooth from 1 photo"
    base_models = ["mini", "sd15"]  # of the tables there, these alone; all without this key

    [all]                           # in every table
    n_photos = 1

    [sd15]                          # in this table alone
    n_steps = 800

A table is what the extended recipe has, then `[all]`, then the table itself; the later value of a
key counts. `[all]` may stand in a recipe that extends nothing, too: what its tables share. The
method, title and source are those of the extended recipe where none is named; the name is the
file's. A table that the extended recipe lacks is refused, since it would most likely be a misspelt
one. The digest is that of the method and the table that a run uses, wherever they were written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from dreambench.config.changes import check_changes, describe_settings, name_changes
from dreambench.config.toml_files import (
    HINT,
    Model,
    Origin,
    TomlFile,
    load_toml,
    read_toml,
    validate,
)
from dreambench.errors import UserError, suggest, unknown_name
from dreambench.storage.files import digest
from dreambench.storage.paths import FileName
from dreambench.storage.shipped import shipped_path

ALL_TABLES = "all"
"""The table whose keys stand in every base model's table."""
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.+=-]*$"
"""Names of rows, which are names of folders; `+` and `=` are for what `--set` changed."""


class Recipe(BaseModel):
    """A baseline: one row of a leaderboard. `tables` maps a base model's name to settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: FileName = Field(pattern=NAME_PATTERN)
    method: str
    title: str
    source: str
    tables: dict[str, dict[str, Any]] = {}
    _origin: Origin = PrivateAttr(default=Origin())

    def settings_for(self, base_model: str) -> dict[str, Any]:
        """Return the numbers for a base model.

        Raises:
            UserError: the recipe has no table for it.
        """
        if base_model not in self.tables:
            raise UserError(
                f"recipe '{self.name}' has no table for the base model '{base_model}'",
                hint=f"it has {', '.join(sorted(self.tables)) or 'none'}; add [{base_model}]",
                code="missing-table",
            )
        return self.tables[base_model]

    def locate(self, base_model: str, *keys: int | str) -> str:
        """Return where a key of a table was written: `FILE:LINE`, or the `--set` of it.

        A key that stands nowhere is missing from the nearest file. Without keys it is the table as
        a whole: what does not go together there, a `--set` brought in where there is one.
        """
        changed = self._origin.changed
        if changed and not keys:
            return f"--set {', '.join(changed)}"
        if keys and keys[0] in changed:
            return "--set"
        for length in range(len(keys), 0, -1):
            for file in self._origin.files:
                for table in (base_model, ALL_TABLES):
                    if found := file.find(table, *keys[:length]):
                        return found
        for file in self._origin.files:
            return file.find(base_model) or file.find(ALL_TABLES) or file.locate("extends")
        return f"recipe '{self.name}', table [{base_model}]"

    def locate_head(self, key: str) -> str:
        """Return where a key above the tables was written: `FILE:LINE`."""
        found = (file.find(key) for file in self._origin.files)
        return next((where for where in found if where), f"recipe '{self.name}'")

    def read_settings(self, base_model: str, model: type[Model]) -> Model:
        """Return the numbers for a base model as the settings of the recipe's method.

        Raises:
            UserError: the recipe has no table for it, or the method does not take what is in it;
                one line for each fault, by file and line.
        """
        known = ", ".join(model.model_fields) or "no settings"
        return validate(
            self.settings_for(base_model),
            model,
            locate=lambda *keys: self.locate(base_model, *keys),
            hint="fix it and run again",
            keys_hint=f"the method '{self.method}' takes {known}",
        )

    def with_settings(self, base_model: str, settings: BaseModel) -> Self:
        """Return the recipe with the numbers that its method read from the table.

        So 1 for a number that may have a fraction is 1.0 in the digest, as 1.0 is. Nothing else is
        changed, and no default is added.
        """
        read = settings.model_dump(by_alias=True)
        table = {
            key: _unify(value, read.get(key))
            for key, value in self.settings_for(base_model).items()
        }
        return self.model_copy(update={"tables": {**self.tables, base_model: table}})

    def change(self, base_model: str, changes: Mapping[str, Any]) -> Self:
        """Return the row of `--set`: other values for one base model, under a name of its own.

        Raises:
            UserError: there is no such table, or a value is none that a recipe can hold.
        """
        check_changes(changes)
        table = {**self.settings_for(base_model), **changes}
        changed = self.model_copy(
            update={
                "name": name_changes(self.name, changes),
                "title": f"{self.title}, {describe_settings(changes)}",
                "tables": {base_model: table},
            }
        )
        changed._origin = replace(self._origin, changed=tuple(changes))
        return changed

    def digest(self, base_model: str) -> str:
        """Return the digest of the method and the one table that a run uses."""
        return digest([self.method, self.settings_for(base_model)])


class PluginRecipe(Recipe):
    """A recipe of a custom method.

    `code` says which code it is, without a path of this machine: for a file its name and SHA-256,
    for a package its distribution, version and the digest of its modules. `tunes` and
    `n_references` are the class's, for when the class itself (`method_class`) is not at hand.
    `reference` is where a file's code was found on this machine (FILE.py:Class).
    """

    code: dict[str, str]
    tunes: bool
    n_references: int | None
    method_class: Any = Field(default=None, exclude=True, repr=False)
    reference: str | None = Field(default=None, exclude=True)

    @classmethod
    def from_recipe(
        cls,
        recipe: Recipe,
        *,
        method: str,
        code: dict[str, str],
        method_class: Any,
        reference: str | None,
    ) -> PluginRecipe:
        """Return a recipe with the class of its method, which results call `method`."""
        made = cls(
            name=recipe.name, method=method, title=recipe.title, source=recipe.source,
            tables=recipe.tables, code=code, tunes=method_class.tunes,
            n_references=method_class.n_references, method_class=method_class,
            reference=reference,
        )  # fmt: skip
        made._origin = recipe._origin
        return made

    def digest(self, base_model: str) -> str:
        """Return the digest of the method, its code and the one table that a run uses."""
        return digest([self.method, self.settings_for(base_model), self.code])


def _unify(written: Any, read: Any) -> Any:
    """Return a value as it was written, with whole numbers as floats where they were so read."""
    if isinstance(written, list) and isinstance(read, list | tuple) and len(written) == len(read):
        return [_unify(*pair) for pair in zip(written, read, strict=True)]
    if isinstance(written, dict) and isinstance(read, dict):
        return {key: _unify(value, read.get(key)) for key, value in written.items()}
    return float(written) if type(written) is int and isinstance(read, float) else written


class _Head(BaseModel):
    """What stands above the tables of a recipe's file."""

    model_config = ConfigDict(extra="forbid")

    extends: str | None = None
    base_models: tuple[str, ...] | None = Field(default=None, min_length=1)
    name: str | None = None
    method: str | None = None
    title: str | None = None
    source: str | None = None


def list_recipes() -> list[str]:
    """Return the names of the shipped recipes."""
    return sorted(path.stem for path in shipped_path("baselines").glob("*.toml"))


def load_recipe(name_or_path: str) -> Recipe:
    """Load a shipped recipe by name, or a custom one by the path of a TOML file.

    Raises:
        UserError: it is not there or not valid, or what it extends is not.
    """
    if name_or_path.endswith(".toml"):
        path = Path(name_or_path)
    elif name_or_path in list_recipes():
        path = _shipped(name_or_path)
    else:
        raise unknown_name("method", name_or_path, list_recipes())
    files = [read_toml(path)]
    heads = [_read_head(files[0])]
    while (extends := heads[-1].extends) is not None:
        parent = _find_parent(files, extends)
        files.append(read_toml(parent))
        heads.append(_read_head(files[-1]))
    content: dict[str, Any] = {}
    tables: dict[str, dict[str, Any]] = {}
    for file, head in zip(reversed(files), reversed(heads), strict=True):
        tables = _merge_tables(file, head, tables)
        own = head.model_dump(exclude={"extends", "base_models"}, exclude_none=True)
        content = {**content, "name": file.path.stem, **own}
    recipe = load_toml(files[0], Recipe, {**content, "tables": tables})
    recipe._origin = Origin(tuple(files))
    return recipe


def _shipped(name: str) -> Path:
    return shipped_path("baselines", f"{name}.toml")


def _read_head(file: TomlFile) -> _Head:
    content = {key: value for key, value in file.content.items() if not isinstance(value, dict)}
    return load_toml(file, _Head, content)


def _find_parent(files: Sequence[TomlFile], extends: str) -> Path:
    """Return the file that the last of these files extends; UserError where it cannot."""
    file = files[-1]
    where = file.locate("extends")
    if not extends.endswith(".toml"):
        if extends not in list_recipes():
            error = unknown_name("recipe", extends, list_recipes())
            raise UserError(f"{where}: {error.problem}", hint=error.hint, code=error.code)
        path = _shipped(extends)
    elif Path(extends).name != extends or "\\" in extends:
        raise UserError(
            f"{where}: '{extends}' is not a file's name",
            hint="extend a shipped recipe, or a .toml file in the same folder",
            code="invalid-value",
        )
    else:
        path = file.path.with_name(extends)
        if not path.is_file():
            raise UserError(
                f"{where}: {path} does not exist",
                hint="extend a shipped recipe, or a .toml file in the same folder",
                code="unreadable-file",
            )
    chain = [*(one.path for one in files), path]
    if path.resolve() in [one.resolve() for one in chain[:-1]]:
        raise UserError(
            f"{where}: recipes extend each other in a circle",
            hint=" -> ".join(one.name for one in chain),
            code="circular-extends",
        )
    return path


def _merge_tables(
    file: TomlFile, head: _Head, parent: Mapping[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Return the tables of a recipe's file over those of the recipe that it extends."""
    own: dict[str, dict[str, Any]] = {
        key: value for key, value in file.content.items() if isinstance(value, dict)
    }
    shared = own.pop(ALL_TABLES, {})
    names: list[str] = list(own)
    faults = []
    if head.extends is not None:
        names = [name for name in parent if name in (head.base_models or parent)]
        named = [(("base_models",), name, list(parent)) for name in head.base_models or ()]
        named += [((name,), name, names) for name in own]
        faults = [
            f"{file.locate(*keys)}: '{head.extends}' has no table [{name}] to extend; "
            + (suggest(name, known) or f"it has {', '.join(known) or 'none'}")
            for keys, name, known in named
            if name not in known
        ]
    elif head.base_models is not None:
        faults = [f"{file.locate('base_models')}: base_models is for a recipe that extends another"]
    elif shared and not own:
        faults = [f"{file.locate(ALL_TABLES)}: [all] is for several tables, and there are none"]
    if faults:
        raise UserError.listed(faults, hint=HINT, code="missing-table")
    return {name: {**parent.get(name, {}), **shared, **own.get(name, {})} for name in names}
