"""Methods from outside: how they are loaded, recorded in a run, and found again."""

import json
import shutil
import sys

import pytest
from conftest import REPOSITORY, invoke, refused
from own_method import OWN, run_own

from dreambench.base_models.catalogue import BASE_MODELS
from dreambench.benchmark.planning import RunOptions, plan_runs
from dreambench.config.recipe import Recipe, list_recipes, load_recipe
from dreambench.errors import UserError
from dreambench.methods.plugins import (
    ALL,
    attach_code,
    check_recipe,
    find_recipe,
    find_recipes,
)
from dreambench.methods.registry import describe_track, list_shipped
from dreambench.runs.run_folder import read_run
from dreambench.storage.files import read_json


def test_the_examples_method_runs_and_sees_the_subject(tiny, tmp_path, shared_cache):
    path = REPOSITORY / "examples" / "my_method.py"
    assert "dreambench run --method examples/my_method.py:MyMethod" in path.read_text()
    done = invoke(
        "run", "--method", f"{path}:MyMethod", "--protocol", tiny[0],
        "--out", tmp_path / "runs", "--cache", shared_cache, "--alongside", "class-only",
    )  # fmt: skip
    assert "my-method" in done.stdout
    folder = tmp_path / "runs" / "tiny"
    found = {n: read_json(folder / n / "summary.json") for n in ("my-method", "class-only")}
    dino = {name: summary["metrics"]["dino"]["whole"]["mean"] for name, summary in found.items()}
    assert dino["my-method"] > dino["class-only"] + 0.1
    assert found["my-method"]["partial"] is False
    assert found["my-method"]["track"] == "tuning-free, all photos"
    assert found["my-method"]["n_failed"] == 0
    recipe = read_json(folder / "my-method" / "run.json")["recipe"]
    assert recipe["method"] == "my_method.py:MyMethod"
    assert recipe["settings"] == {"strength": 0.8}
    assert recipe["title"].startswith("A photo under noise")
    assert recipe["code"]["file"] == "my_method.py"
    assert (
        "tuning-free, all photos: my-method"
        in (folder / "my-method" / "report" / "report.md").read_text()
    )


def test_manifest_has_the_codes_digest_and_no_path(own, tmp_path):
    run_own(own)
    run_dir = tmp_path / "runs" / "tiny" / "colours"
    for name in ("run.json", "summary.json"):
        text = (run_dir / name).read_text()
        assert str(tmp_path / "code") not in text
    assert len(read_json(run_dir / "run.json")["recipe"]["code"]["sha256"]) == 64
    first = find_recipe(f"{own[0]}:Colours")
    own[0].write_text(OWN + "\n# another remark\n")
    second = find_recipe(f"{own[0]}:Colours")
    assert first.digest("mini") != second.digest("mini")


def test_a_run_with_changed_code_is_not_resumed(own, tmp_path):
    run_own(own)
    run_dir = tmp_path / "runs" / "tiny" / "colours"
    own[0].write_text(OWN.replace("seed % 255", "seed % 254"))
    line = refused("run", "--method", f"{own[0]}:Colours", *own[1], "--alongside", "")
    assert str(run_dir) in line
    assert "recipe.code.sha256: " in line
    (run_dir / "images" / "dog" / "beach" / "0.png").unlink()
    line = refused("generate", run_dir, "--method", f"{own[0]}:Colours")
    assert "own.py:Colours" in line
    with pytest.raises(UserError) as caught:
        attach_code(read_run(run_dir).recipe, f"{own[0]}:Colours")
    assert caught.value.code == "other-code"


def test_numbers_are_read_without_the_code_and_images_made_with_it(own, tmp_path, shared_cache):
    run_own(own, "--alongside", "copy-reference")
    folder = tmp_path / "runs" / "tiny"
    moved = own[0].rename(tmp_path / "own.py")
    cache = ("--cache", shared_cache)
    invoke("score", folder / "colours", *cache)
    invoke("summarise", folder / "colours")
    assert "colours" in invoke("report", folder / "colours", folder / "copy-reference").stdout
    assert "colours" in invoke("compare", *sorted(folder.iterdir())).stdout
    lost = folder / "colours" / "images" / "dog" / "beach" / "0.png"
    before = lost.read_bytes()
    lost.unlink()
    line = refused("generate", folder / "colours", *cache)
    assert "'colours' (own.py:Colours)" in line
    assert "--method path/to/own.py:Colours" in line
    invoke("generate", folder / "colours", *cache, "--method", f"{moved}:Colours")
    assert lost.read_bytes() == before
    shutil.rmtree(folder / "colours" / "train")
    assert "own.py:Colours" in refused("train", folder / "colours", *cache)
    invoke("train", folder / "colours", *cache, "--method", f"{moved}:Colours")


def test_a_recipe_names_the_file_from_where_it_lies(own, tmp_path, monkeypatch):
    own[0].write_text(
        OWN.replace("    tunes = True", "    class Settings(__import__('dreambench').methods."
                    "Settings):\n        depth: int\n    tunes = True")
        .replace("import os, subprocess", "import os, subprocess, dreambench.methods")
    )  # fmt: skip
    line = refused("run", "--method", f"{own[0]}:Colours", *own[1])
    assert "own.py:Colours" in line and "depth" in line and "[mini]" in line
    text = 'method = "code/own.py:Colours"\ntitle = "t"\nsource = "s"\n[mini]\ndepth = 3\n'
    (tmp_path / "deep.toml").write_text(text)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    invoke("run", "--method", tmp_path / "deep.toml", *own[1], "--alongside", "")
    recipe = read_json(tmp_path / "runs" / "tiny" / "deep" / "run.json")["recipe"]
    assert (recipe["method"], recipe["settings"]) == ("own.py:Colours", {"depth": 3})
    (tmp_path / "deep.toml").write_text(text.replace("depth", "dept"))
    before = (tmp_path / "runs" / "tiny" / "deep" / "run.json").read_bytes()
    said = invoke("run", "--method", tmp_path / "deep.toml", *own[1], status=2).stderr
    assert f"{tmp_path / 'deep.toml'}:5: unknown key 'dept'; did you mean 'depth'?" in said
    assert "the method 'own.py:Colours' takes depth" in said
    assert (tmp_path / "runs" / "tiny" / "deep" / "run.json").read_bytes() == before


BASE = "from dreambench.methods import Method\n"


@pytest.mark.parametrize(
    ("content", "name", "code", "facts"),
    [
        (None, "Colours", "unreadable-file", ["No such file"]),
        (OWN, "", "missing-class", ["own.py:Colours"]),
        (OWN, "Colors", "missing-class", ["'Colors'", "'Colours'"]),
        ("x = (", "X", "plugin-fails", ["line 1: SyntaxError"]),
        ("\n1 / 0", "X", "plugin-fails", ["line 2 of own.py: ZeroDivisionError"]),
        ("import beside_it", "X", "plugin-fails", ["'beside_it'"]),
        ("X = 3", "X", "not-a-method", ["own.py:X", "dreambench.methods.Method"]),
        ("class X: pass", "X", "not-a-method", ["load()", "dreambench.methods.Method"]),
        (f"{BASE}class X(Method): pass", "X", "not-a-method", ["load()"]),
        (OWN.replace("tunes = True", "Settings = dict"), "Colours", "not-a-method", ["Settings"]),
        (OWN.replace("tunes = True", "tunes = 'yes'"), "Colours", "not-a-method", ["tunes"]),
        (
            OWN.replace("tunes = True", "tunes = True; most_subjects = 3"), "Colours",
            "not-a-method", ["most_subjects"],
        ),
        (
            OWN.replace("tunes = True", "n_references = -1"), "Colours", "not-a-method",
            ["n_references"],
        ),
        (OWN.replace("tunes = True", "name = 'a/b'"), "Colours", "invalid-name", ["'a/b'"]),
        (OWN.replace("def fit", "def fitt"), "Colours", "not-a-method", ["fit()"]),
        (
            OWN.replace("tunes = True", "count_work = lambda *_: 1 / 0"), "Colours",
            "plugin-fails", ["count_work()", "ZeroDivisionError"],
        ),
        (
            OWN.replace("tunes = True", "count_work = lambda *_: 3"), "Colours", "not-a-method",
            ["count_work()", "Work"],
        ),
    ],
)  # fmt: skip
def test_what_is_not_a_method_is_one_line(own, tmp_path, content, name, code, facts):
    path, words = own
    (path.parent / "beside_it.py").write_text("")
    path.unlink()
    if content is not None:
        path.write_text(content)
    reference = f"{path}:{name}"
    with pytest.raises(UserError) as caught:
        check_recipe(find_recipe(reference), BASE_MODELS["mini"])
    assert caught.value.code == code
    line = refused("run", "--method", reference, *words)
    assert all(fact in line for fact in facts), line
    assert "own.py" in line
    assert not (tmp_path / "runs").exists()


def test_an_entry_point_is_a_method_by_name(own, tmp_path, monkeypatch):
    site = tmp_path / "site"
    about = site / "colourful-1.2.dist-info"
    about.mkdir(parents=True)
    (site / "colourful").mkdir()
    (site / "colourful" / "__init__.py").write_text("")
    (site / "colourful" / "inner.py").write_text(OWN)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: colourful\nVersion: 1.2\n")
    (about / "entry_points.txt").write_text(
        "[dreambench.methods]\nown-colours = colourful.inner:Colours\nbroken = colourful.no:X\n"
    )
    monkeypatch.syspath_prepend(site)
    rows = {row["name"]: row for row in json.loads(invoke("list", "methods", "--json").stdout)}
    assert rows["own-colours"]["track"] == "tuned, all photos"
    assert "colourful 1.2" in rows["own-colours"]["source"]
    assert "ModuleNotFoundError" in rows["broken"]["title"]
    assert "ModuleNotFoundError" in refused("run", "--method", "broken", *own[1])
    line = refused("run", "--method", "own-colors", *own[1])
    assert "'own-colors'" in line and "'own-colours'" in line
    words = ("run", "--method", "own-colours", *own[1], "--alongside", "")
    invoke(*words)
    run_dir = tmp_path / "runs" / "tiny" / "own-colours"
    code = read_json(run_dir / "run.json")["recipe"]["code"]
    assert (code["distribution"], code["version"]) == ("colourful", "1.2")
    (run_dir / "images" / "dog" / "beach" / "0.png").unlink()
    invoke("generate", run_dir)  # It is found again by its name.
    (site / "colourful" / "__init__.py").write_text("# other code\n")
    line = refused(*words)
    assert str(run_dir) in line and "recipe.code.sha256: " in line
    sys.modules.pop("colourful.inner", None)
    sys.modules.pop("colourful", None)


def test_all_stands_for_one_of_each_method_with_dreambooth_first():
    recipes, skipped = find_recipes([ALL, "class-only"], "mini")
    names = [recipe.name for recipe in recipes]
    rows = [name for name in list_shipped() if name in list_recipes()]
    assert names == [name for name in rows if "mini" in load_recipe(name).tables]
    assert (names[0], names[-1]) == ("dreambooth", "real-images")
    assert skipped == ["photo-prompting", "ominicontrol"]
    recipes, skipped = find_recipes([ALL], "sd99")
    assert (recipes, skipped) == ([], rows)
    assert "photo-prompting" in [recipe.name for recipe in find_recipes([ALL], "flux2-klein")[0]]
    # What is named and has no numbers is not left out in silence.
    with pytest.raises(UserError) as caught:
        find_recipes(["dreambooth-no-prior", ALL], "sd99")
    assert "'dreambooth-no-prior'" in str(caught.value) and "'sd99'" in str(caught.value)
    assert caught.value.code == "missing-table"


def test_several_methods_are_rows_of_one_table(own, tmp_path):
    path, words = own
    done = invoke("run", "--method", f"copy-reference,{path}:Colours", *words, "--alongside", "")
    for name in ("copy-reference", "colours"):
        assert name in done.stdout
    assert "method 1 of 2: copy-reference" in done.stderr
    assert "method 2 of 2: colours" in done.stderr
    assert (tmp_path / "runs" / "tiny" / "copy-reference" / "report" / "report.md").is_file()
    done = invoke("plan", "--method", f"all,{path}:Colours", *words[:2], "--json")
    names = [row["method"] for row in json.loads(done.stdout)]
    assert names[0] == "dreambooth"
    assert names[-1] == "colours"


def test_a_mistake_in_the_last_method_shows_before_the_first_is_begun(own, tiny, tmp_path):
    text = tiny[1].read_text()
    tiny[1].write_text(text.replace("n_steps = 6", "n_steps = 0"))
    line = refused("run", "--method", f"copy-reference,{tiny[1]}", *own[1], "--alongside", "")
    assert "n_steps" in line
    own[0].write_text(OWN.replace("Colours", "CopyReference"))
    words = ("--method", f"{own[0]}:CopyReference", *own[1])
    assert "'copy-reference'" in refused("run", *words)
    with pytest.raises(UserError) as caught:
        plan_runs(RunOptions(methods=[f"{own[0]}:CopyReference"], protocol=str(tiny[0])))
    assert caught.value.code == "name-taken"
    assert not (tmp_path / "runs").exists()


def test_list_methods_says_track_and_trained_parameters():
    rows = {row["name"]: row for row in json.loads(invoke("list", "methods", "--json").stdout)}
    assert set(list_recipes()) <= set(rows)
    assert rows["dreambooth"]["trained_parameters"] == 9_310_568
    assert rows["dreambooth"]["track"] == "tuned, all photos"
    assert rows["dreambooth-1-photo"]["track"] == "tuned, 1 photo"
    assert rows["class-only"]["track"] == "no photos"
    assert rows["real-images"]["track"] == "oracle"
    assert rows["copy-reference"]["track"] == "tuning-free, all photos"
    assert "sdxl" in rows["dreambooth"]["base_models"]
    large = json.loads(invoke("list", "methods", "--base-model", "sd15", "--json").stdout)
    assert {row["name"]: row for row in large}["dreambooth"]["trained_parameters"] == 859_520_964
    text = invoke("list", "methods").stdout
    for word in ("dreambooth", "tuned, all photos", "9,310,568", "sdxl"):
        assert word in text


def test_track_counts_the_photos_that_a_recipe_lets_through():
    recipe = Recipe(
        name="x", method="copy-reference", title="t", source="s", tables={"mini": {"n_photos": 2}}
    )
    assert describe_track(recipe, "mini") == "tuning-free, 2 photos"


def test_a_file_is_executed_as_its_digest_says_and_leaves_no_compiled_code(own):
    recipe = find_recipe(f"{own[0]}:Colours")
    own[0].write_text(OWN.replace("One colour each", "Two colours each"))
    assert find_recipe(f"{own[0]}:Colours").title == "Two colours each"
    assert recipe.title == "One colour each"
    assert [path.name for path in own[0].parent.iterdir()] == ["own.py"]
    with pytest.raises(UserError) as caught:
        find_recipe(f"{own[0]}:Nothing")
    assert caught.value.code == "missing-class"
