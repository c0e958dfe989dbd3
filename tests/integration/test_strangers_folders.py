"""Folders that a stranger made: datasets, runs and recipes that try to reach out of themselves."""

import json
import shutil

import pytest
from conftest import TINY_PROTOCOL, invoke, refused, refused_at_once, tree
from own_method import OWN, run_own

from dreambench.artifacts.manifest import read_manifest
from dreambench.datasets.index import find_dataset, read_index
from dreambench.errors import UserError
from dreambench.methods.plugins import attach_code, find_recipe

MARK = "\nimport pathlib; pathlib.Path({path!r}).write_text('executed')\n"


@pytest.fixture
def elsewhere(tmp_path):
    """A folder of the user's that no command names; whatever happens, it is as it was."""
    folder = tmp_path / "home"
    (folder / "dog.part").mkdir(parents=True)
    (folder / "dog.part" / "thesis.txt").write_text("precious")
    (folder / "report.md").write_text("precious")
    before = tree(folder)
    yield folder
    assert tree(folder) == before


@pytest.fixture
def own_run(own, tmp_path):
    """The folder of a run of a method in a file, and the words of the command."""
    run_own(own)
    return tmp_path / "runs" / "tiny" / "colours", own


def edit_manifest(folder, change):
    content = json.loads((folder / "run.json").read_text())
    change(content)
    (folder / "run.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    "name", ["ELSEWHERE/dog", "../../home/dog", "..", "", "a\\b", "dog.part", ".staging", "NUL",
             "x" * 250],
)  # fmt: skip
def test_a_subject_is_no_path(tiny, tmp_path, elsewhere, name):
    name = name.replace("ELSEWHERE", str(elsewhere))
    photos = shutil.copytree(find_dataset("mini").photos_dir, tmp_path / "photos")
    for table in ("subjects.csv", "images.csv"):
        text = (photos / table).read_text()
        (photos / table).write_text(
            "\n".join(
                f'"{name}",{line.removeprefix("dog,")}' if line.startswith("dog,") else line
                for line in text.splitlines()
            )
        )
    with pytest.raises(UserError) as caught:
        read_index(find_dataset(str(photos)))
    assert caught.value.code == "unsafe-path"
    assert str(photos / "subjects.csv") in caught.value.problem
    protocol = TINY_PROTOCOL.replace('dataset = "mini"', f'dataset = "{photos}"')
    tiny[0].write_text(protocol.replace('subjects = ["dog", "mug"]', ""))
    line = refused_at_once(
        "run", "--method", "copy-reference", "--protocol", tiny[0], "--out", tmp_path / "runs"
    )
    assert "subjects.csv" in line
    assert not (tmp_path / "runs").exists()


def test_subjects_that_share_a_folder_on_some_systems_are_refused(tmp_path):
    photos = shutil.copytree(find_dataset("mini").photos_dir, tmp_path / "photos")
    for table in ("subjects.csv", "images.csv"):
        text = (photos / table).read_text()
        (photos / table).write_text(text.replace("mug,", "Dog,"))
    with pytest.raises(UserError) as caught:
        read_index(find_dataset(str(photos)))
    assert caught.value.code == "unsafe-path"
    assert "'Dog'" in caught.value.problem and "'dog'" in caught.value.problem


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('id = "beach"', 'id = "con"'),
        ('id = "beach"', f'id = "{"b" * 300}"'),
        ('title = "two', 'name = "nul"\ntitle = "two'),
    ],
)
def test_names_in_a_protocol_are_those_of_folders(tiny, tmp_path, old, new):
    tiny[0].write_text(TINY_PROTOCOL.replace(old, new))
    words = ("--protocol", tiny[0], "--out", tmp_path / "runs")
    assert f"{tiny[0]}:" in refused_at_once("run", "--method", "copy-reference", *words)
    assert not (tmp_path / "runs").exists()


def test_code_that_only_a_run_names_is_not_executed(own_run, tmp_path):
    folder, (path, _) = own_run
    mark = tmp_path / "executed"
    evil = tmp_path / "evil.py"
    evil.write_text(OWN + MARK.format(path=str(mark)))
    before = read_manifest(folder).recipe.code
    for code in (before, {"distribution": "x", "version": "1", "class": "y", "sha256": "z"}):
        for method in (f"{evil}:Colours", str(evil), "evil.py:Colours"):
            edit_manifest(
                folder, lambda run, m=method, c=code: run["recipe"].update(method=m, code=c)
            )
            edit_manifest(folder, with_digest)
            shutil.rmtree(folder / "train", ignore_errors=True)
            for command in ("train", "generate"):
                refused(command, folder, "--cache", tmp_path / "cache")
    # Code that is passed is compared before it is executed.
    run = read_manifest(folder)
    assert run.recipe.method == "evil.py:Colours"
    assert "evil.py:Colours" in refused("generate", folder, "--method", f"{evil}:Colours")
    assert not mark.exists()
    with pytest.raises(UserError) as caught:
        attach_code(find_recipe(f"{path}:Colours"), f"{evil}:Colours")
    assert caught.value.code == "other-code"
    assert not mark.exists()
    # Of a method that is the package's own, too.
    with pytest.raises(UserError) as caught:
        attach_code(find_recipe("copy-reference"), f"{evil}:Colours")
    assert caught.value.code == "other-code"
    assert not mark.exists()


def with_digest(run):
    """Makes the digest of a recipe that was edited fit, as a stranger would."""
    from dreambench.artifacts.image_set import digest_recipe  # noqa: PLC0415
    from dreambench.artifacts.manifest import RunManifest  # noqa: PLC0415

    run["digests"]["recipe"] = digest_recipe(RunManifest.model_validate(run).recipe)


@pytest.mark.parametrize("kind", ["..", "absolute", "link", "link to folder"])
def test_a_recipe_names_no_code_out_of_its_folder(own, tmp_path, kind):
    path, words = own
    mark = tmp_path / "executed"
    path.write_text(OWN + MARK.format(path=str(mark)))
    recipe = tmp_path / "recipes" / "mine.toml"
    recipe.parent.mkdir()
    if kind == "link":
        (recipe.parent / "own.py").symlink_to(path)
    if kind == "link to folder":
        (recipe.parent / "code").symlink_to(path.parent)
    method = {"..": "../code/own.py", "absolute": path, "link": "own.py"}.get(kind, "code/own.py")
    recipe.write_text(f'title = "t"\nmethod = "{method}:Colours"\nsource = "s"\n[mini]\n')
    line = refused_at_once("run", "--method", recipe, *words, "--alongside", "")
    assert f"{recipe}:2: " in line
    assert not mark.exists()
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("place", ["report", "failures", "images/dog", "train", ".staging"])
def test_links_in_a_run_are_refused_by_every_command(own_run, elsewhere, tmp_path, place):
    folder, (path, _) = own_run
    shutil.rmtree(folder / place, ignore_errors=True)
    (folder / place).symlink_to(elsewhere)
    cache = ("--cache", tmp_path / "cache")
    code = ("--method", f"{path}:Colours", *cache)
    for words in (
        ("score", folder, *cache), ("report", folder), ("summarise", folder), ("status", folder),
        ("compare", folder, folder), ("train", folder, *code), ("generate", folder, *code),
    ):  # fmt: skip
        assert f"{folder / place} is a link" in refused(*words)


def test_a_run_that_is_reached_through_the_users_link_works(own_run, tmp_path):
    folder, (path, _) = own_run
    link = tmp_path / "latest"
    link.symlink_to(folder)
    (folder / "images" / "dog" / "beach" / "0.png").unlink()
    cache = ("--cache", tmp_path / "cache")
    invoke("generate", link, "--method", f"{path}:Colours", *cache)
    assert (folder / "images" / "dog" / "beach" / "0.png").is_file()
    invoke("report", link)


def test_what_a_stranger_staged_is_moved_nowhere(own_run, elsewhere, tmp_path):
    folder, (path, _) = own_run
    (folder / "images" / "dog" / "beach" / "0.png").unlink()
    ready = folder / ".staging" / "0.ready"
    ready.mkdir(parents=True)
    (ready / "0").write_text("hostile")
    (ready / "targets.json").write_text(json.dumps({"0": str(elsewhere / "report.md")}))
    line = refused("generate", folder, "--method", f"{path}:Colours", "--cache", tmp_path / "c")
    assert str(ready) in line and str(elsewhere / "report.md") in line


@pytest.mark.parametrize("name", ["../../home/report", "ELSEWHERE/report", "a/b", ""])
def test_a_row_name_of_a_manifest_is_no_path(own_run, elsewhere, tmp_path, name):
    folder, _ = own_run
    other = shutil.copytree(folder, tmp_path / "other")
    name = name.replace("ELSEWHERE", str(elsewhere))
    edit_manifest(other, lambda run: run["recipe"].update(name=name))
    for words in (("report", folder, other), ("compare", folder, other), ("score", other)):
        line = refused(*words)
        assert str(other / "run.json") in line and "recipe.name" in line


def test_a_method_that_leaves_links_is_a_failure_of_its_own(own, elsewhere, tmp_path):
    path, _ = own
    text = OWN.replace(
        '(out_dir / "colour.txt")',
        f'(out_dir / "link").symlink_to({str(elsewhere)!r})\n        (out_dir / "colour.txt")',
        1,
    )
    path.write_text(text)
    done = run_own(own, status=1)
    assert "fit failed" in done.stderr and "is a link" in done.stderr
    train = tmp_path / "runs" / "tiny" / "colours" / "train"
    assert list(train.iterdir()) == []
