"""Recipes: what the shipped ones are, what `extends` gives, and which numbers are one number."""

import pytest
from pydantic import BaseModel, ConfigDict

from dreambench.base_models.catalogue import BASE_MODELS
from dreambench.base_models.spec import IN_CONTEXT
from dreambench.config.recipe import PluginRecipe, Recipe, list_recipes, load_recipe
from dreambench.errors import UserError

DREAMBOOTH = load_recipe("dreambooth")
BASE = 'method = "m"\ntitle = "Base"\nsource = "s"\n[all]\na = 1\nb = 2.0\n[x]\nb = 3.0\n[y]\n'


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    a: int
    b: float
    more: tuple[float, ...] = ()
    table: dict[str, float] = {}


def write(folder, name="child", **texts):
    for stem, text in texts.items():
        (folder / f"{stem}.toml").write_text(text)
    return str(folder / f"{name}.toml")


def refused(path):
    with pytest.raises(UserError) as caught:
        load_recipe(path)
    return caught.value


@pytest.mark.parametrize("name", list_recipes())
def test_shipped_recipes_load(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    if recipe.method == "photo-prompting":
        assert {BASE_MODELS[base].family for base in recipe.tables} <= set(IN_CONTEXT)
        return
    # Its authors have it for one base model alone.
    alone = {"ip-adapter-plus": {"sd15"}, "ominicontrol": {"flux-schnell"}}
    assert alone.get(name, {"mini", "sd15"}) <= set(recipe.tables)


def test_an_unknown_recipe_gets_a_suggestion():
    error = refused("dream-booth")
    assert error.code == "unknown-name"
    assert "'dreambooth'" in error.hint


def test_recipe_without_table_for_a_base_model_says_which_it_has():
    with pytest.raises(UserError) as caught:
        load_recipe("dreambooth-no-noun").settings_for("sdxl")
    assert caught.value.code == "missing-table"
    assert "mini, sd15" in caught.value.hint


def test_a_child_replaces_keys_and_keeps_the_rest(tmp_path):
    path = write(tmp_path, child='extends = "dreambooth"\n[all]\nn_steps = 7\n[mini]\nn_photos = 2')
    child = load_recipe(path)
    assert child.name == "child"
    assert (child.method, child.title, child.source) == (
        DREAMBOOTH.method, DREAMBOOTH.title, DREAMBOOTH.source,
    )  # fmt: skip
    assert list(child.tables) == list(DREAMBOOTH.tables)
    assert child.tables["sd15"] == DREAMBOOTH.tables["sd15"] | {"n_steps": 7}
    assert child.tables["mini"] == DREAMBOOTH.tables["mini"] | {"n_steps": 7, "n_photos": 2}


def test_a_child_that_changes_nothing_has_the_digests_of_its_parent(tmp_path):
    child = load_recipe(write(tmp_path, child='extends = "dreambooth"\ntitle = "other"'))
    assert child.title == "other"
    assert all(child.digest(name) == DREAMBOOTH.digest(name) for name in DREAMBOOTH.tables)


def test_three_generations_and_a_choice_of_base_models(tmp_path):
    path = write(
        tmp_path,
        base=BASE,
        middle='extends = "base.toml"\nname = "mid"\n[all]\nb = 4.0\n[x]\na = 5',
        child='extends = "middle.toml"\nbase_models = ["x"]\nmethod = "n"\n[x]\nc = "new"',
    )
    child = load_recipe(path)
    assert (child.name, child.method, child.title) == ("child", "n", "Base")
    assert child.tables == {"x": {"a": 5, "b": 4.0, "c": "new"}}
    assert load_recipe(write(tmp_path, "middle")).tables["y"] == {"a": 1, "b": 4.0}
    assert load_recipe(write(tmp_path, "base")).tables == {
        "x": {"a": 1, "b": 3.0}, "y": {"a": 1, "b": 2.0},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "line", "code", "fact"),
    [
        ('extends = "dreambooht"', 1, "unknown-name", "'dreambooth'"),
        ('title = "t"\nextends = "gone.toml"', 2, "unreadable-file", "gone.toml"),
        ('extends = "../base.toml"', 1, "invalid-value", "../base.toml"),
        ('extends = "sub/base.toml"', 1, "invalid-value", "same folder"),
        ('extends = "child.toml"', 1, "circular-extends", "child.toml -> child.toml"),
        ('extends = ["base.toml"]', 1, "invalid-value", "needs text"),
        ('extends = "base.toml"\n[z]\na = 1', 2, "missing-table", "[z]"),
        ('extends = "base.toml"\nbase_models = ["x", "q"]', 2, "missing-table", "[q]"),
        ('extends = "base.toml"\nbase_models = ["x"]\n[y]', 3, "missing-table", "it has x"),
        ('extends = "base.toml"\nbase_models = []', 2, "invalid-value", "base_models"),
        ('method = "m"\nbase_models = ["x"]\n[x]', 2, "missing-table", "base_models"),
        ('method = "m"\n[all]\na = 1', 2, "missing-table", "[all]"),
        ('extend = "base.toml"', 1, "unknown-key", "did you mean 'extends'?"),
        ('method = "m"\ntitle = "t"\n[x]', 1, "missing-key", "'source'"),
        ("tables = 3", 1, "unknown-key", "'tables'"),
        ('method = "m"\n[x]\na = inf', 3, "invalid-value", "x.a"),
    ],
)
def test_faults_of_a_recipe_are_said_by_line(tmp_path, text, line, code, fact):
    error = refused(write(tmp_path, base=BASE, child=text))
    assert error.code == code
    assert str(error).startswith(f"{tmp_path / 'child.toml'}:{line}: ")
    assert fact in str(error)


def test_a_circle_of_two_is_named_where_it_closes(tmp_path):
    path = write(tmp_path, child='extends = "other.toml"', other='\nextends = "child.toml"')
    error = refused(path)
    assert error.code == "circular-extends"
    assert str(error).startswith(f"{tmp_path / 'other.toml'}:2: ")


def test_a_fault_of_an_extended_file_is_of_that_file(tmp_path):
    path = write(tmp_path, child='extends = "base.toml"', base="title = 3")
    assert str(refused(path)).startswith(f"{tmp_path / 'base.toml'}:1: ")


def test_a_setting_is_located_where_it_counts(tmp_path):
    path = write(
        tmp_path,
        base=BASE,
        child='extends = "base.toml"\n[all]\nb = "2"\nbb = 1\n[y]\nb = 3.0',
    )
    recipe = load_recipe(path)
    child, base = (f"{tmp_path / name}.toml" for name in ("child", "base"))
    assert recipe.locate("x", "b") == f"{child}:3"
    assert recipe.locate("y", "b") == f"{child}:6"
    assert recipe.locate("x", "a") == f"{base}:5"
    assert recipe.locate("x", "gone") == f"{child}:2"
    assert recipe.locate("y", "gone") == f"{child}:5"
    with pytest.raises(UserError) as caught:
        recipe.read_settings("x", Settings)
    first, second = str(caught.value).splitlines()
    assert first.startswith(f'{child}:3: b: needs a number, not "2"')
    assert second.startswith(f"{child}:4: unknown key 'bb'")
    assert "a, b, more, table" in second


def make(**table):
    return Recipe(name="r", method="m", title="t", source="s", tables={"x": table, "y": {}})


def settle(recipe):
    return recipe.with_settings("x", recipe.read_settings("x", Settings))


def test_whole_numbers_and_floats_are_one_number_where_a_fraction_may_stand():
    whole = make(a=1, b=3, more=[1, 2.5], table={"k": 2})
    floats = make(a=1, b=3.0, more=[1.0, 2.5], table={"k": 2.0})
    assert whole.digest("x") != floats.digest("x")
    assert settle(whole).digest("x") == settle(floats).digest("x") == floats.digest("x")
    assert type(settle(whole).tables["x"]["a"]) is int
    assert settle(make(a=1, b=3)).tables == {"x": {"a": 1, "b": 3.0}, "y": {}}


def test_a_recipe_of_no_file_is_located_by_its_name():
    with pytest.raises(UserError) as caught:
        make(a=1.0, b=1).read_settings("x", Settings)
    assert str(caught.value).startswith("recipe 'r', table [x]: a: needs a whole number, not 1.0")


def test_a_recipe_of_a_custom_method_keeps_its_lines(tmp_path):
    class Method:
        tunes = True
        n_references = None

    recipe = load_recipe(write(tmp_path, "base", base=BASE))
    plugin = PluginRecipe.from_recipe(
        recipe, method="own.py:M", code={"sha256": "0"}, method_class=Method,
        reference="own.py:M",
    )  # fmt: skip
    assert plugin.locate("x", "b") == recipe.locate("x", "b")
    assert (plugin.method, plugin.tables) == ("own.py:M", recipe.tables)
    assert plugin.change("x", {"a": 2}).name == "base+a=2"
    assert plugin.digest("x") != recipe.digest("x")
