"""Recipes: a method with every number frozen, in one table for each base model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from dreambench.config.toml_files import load_toml, read_toml
from dreambench.errors import UserError, unknown_name
from dreambench.storage.files import digest
from dreambench.storage.shipped import shipped_path


class Recipe(BaseModel):
    """A baseline: one row of a leaderboard. `tables` maps a base model's name to settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    method: str
    title: str
    source: str
    tables: dict[str, dict[str, Any]] = {}

    def settings_for(self, base_model: str) -> dict[str, Any]:
        """The numbers for a base model; UserError where the recipe has no table for it."""
        if base_model not in self.tables:
            raise UserError(
                f"baseline '{self.name}' has no table for the base model '{base_model}'",
                hint=f"it has {', '.join(sorted(self.tables)) or 'none'}; add [{base_model}]",
            )
        return self.tables[base_model]

    def digest(self, base_model: str) -> str:
        """Digest of the method and the one table that a run uses."""
        return digest([self.method, self.settings_for(base_model)])


class PluginRecipe(Recipe):
    """A recipe of somebody's own method.

    `code` says which code it is, without a path of this machine: for a file its name and SHA-256,
    for a package its distribution, version and the digest of its modules. `tunes` and
    `n_references` are the class's, for when the class itself (`method_class`) is not at hand.
    """

    code: dict[str, str]
    tunes: bool
    n_references: int | None
    method_class: Any = Field(default=None, exclude=True, repr=False)

    def digest(self, base_model: str) -> str:
        """Digest of the method, its code and the one table that a run uses."""
        return digest([self.method, self.settings_for(base_model), self.code])


def list_recipes() -> list[str]:
    """Names of the shipped recipes."""
    return sorted(path.stem for path in shipped_path("baselines").glob("*.toml"))


def load_recipe(name_or_path: str) -> Recipe:
    """A shipped recipe by name, or one's own by the path of a TOML file."""
    if name_or_path.endswith(".toml"):
        path = Path(name_or_path)
    elif name_or_path in list_recipes():
        path = shipped_path("baselines", f"{name_or_path}.toml")
    else:
        raise unknown_name("method", name_or_path, list_recipes())
    content = read_toml(path)
    head = {key: value for key, value in content.items() if not isinstance(value, dict)}
    tables = {key: value for key, value in content.items() if isinstance(value, dict)}
    return load_toml(path, Recipe, {"name": path.stem, **head, "tables": tables})
