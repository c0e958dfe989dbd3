"""The manifest of a folder: read as it was written, and refused when it is something else."""

import json
import shutil

import pytest
from conftest import TINY_PROTOCOL, refused
from small_session import SESSION

from dreambench.artifacts.image_set import read_image_set
from dreambench.artifacts.manifest import (
    FORMAT,
    Digests,
    ExternalManifest,
    ImageInfo,
    ProblemGroup,
    ProblemRecord,
    list_changes,
    read_manifest,
    write_manifest,
)
from dreambench.config.protocol import load_protocol
from dreambench.config.recipe import load_recipe
from dreambench.datasets.index import find_dataset
from dreambench.errors import UserError
from dreambench.runs.run_folder import Request, open_run, plan_run, read_run


@pytest.fixture
def run(tiny, tmp_path):
    """A run that was opened and has made nothing yet; its photos are its own copy."""
    photos = shutil.copytree(find_dataset("mini").photos_dir, tmp_path / "photos")
    text = TINY_PROTOCOL.replace('dataset = "mini"', f'dataset = "{photos}"')
    tiny[0].write_text(text)
    request = Request(
        protocol=load_protocol(str(tiny[0])),
        recipe=load_recipe(str(tiny[1])),
        base_model="mini",
        device="cpu",
        precision="fp32",
        batch_size=4,
        encoders={"dino": "an encoder"},
    )
    return open_run(plan_run(tmp_path / "run", request))


@pytest.fixture
def external(run):
    """The manifest of external images with everything that one can have."""
    return ExternalManifest(
        protocol=run.protocol,
        name="mine",
        subjects=["dog"],
        prompts=["beach"],
        partial=True,
        device="cpu",
        precision="fp32",
        encoders={"dino": "an encoder"},
        digests=Digests(protocol="p", data="d", images="i"),
        sessions=[SESSION],
        images=ImageInfo(
            layout="run", n_scored=3, n_expected=4, n_lossy=1, min_side_px=64, notes=["a note"],
            problems={"missing": ProblemGroup(n_images=1, names=["dog/beach: no 1"])},
        ),
        problems=[ProblemRecord(kind="missing", name="dog/beach", n_images=1, detail="no 1")],
        not_measured={"pres": "no class images"},
    )  # fmt: skip


def edit(folder, change):
    """Changes the JSON of a manifest by hand."""
    path = folder / "run.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def refusal_of(read, folder):
    """The one line for which reading a folder is refused."""
    with pytest.raises(UserError) as caught:
        read(folder)
    assert len(str(caught.value).splitlines()) == 1
    return caught.value


def test_a_run_is_read_as_it_was_written(run):
    found = read_manifest(run.folder)
    assert found == run.manifest
    assert (found.kind, found.format, found.row_name) == ("run", FORMAT, "quick")
    assert (found.images, found.not_measured) == (None, {})
    assert found.session == found.sessions[-1]
    content = json.loads((run.folder / "run.json").read_text())
    assert content["format"] == FORMAT
    # What is not there is not written as null.
    assert "code" not in content["recipe"] and "images" not in content["digests"]
    write_manifest(run.folder, found)
    assert json.loads((run.folder / "run.json").read_text()) == content


def test_external_images_are_read_as_they_were_written(external, tmp_path):
    write_manifest(tmp_path, external)
    found = read_manifest(tmp_path)
    assert found == external
    assert (found.kind, found.row_name) == ("external", "mine")


def test_a_folder_without_a_manifest_is_not_a_run(tmp_path):
    error = refusal_of(read_manifest, tmp_path)
    assert error.code == "not-a-run"
    assert str(tmp_path) in str(error)


OLD = {
    "method": "dreambooth", "protocol": {"name": "mini", "version": 1}, "subjects": ["dog"],
    "digests": {"protocol": "0123456789abcdef"}, "sessions": [],
}  # fmt: skip


@pytest.mark.parametrize(
    ("content", "shown"),
    [(OLD, "None"), ({**OLD, "format": 1}, "1"), ({**OLD, "format": 3}, "3"), ([OLD], "None")],
)
def test_a_folder_of_another_format_is_one_line(tmp_path, content, shown):
    (tmp_path / "run.json").write_text(json.dumps(content))
    for read in (read_manifest, read_image_set, read_run):
        error = refusal_of(read, tmp_path)
        assert error.code == "old-format"
        assert str(tmp_path / "run.json") in str(error)
        assert f"format {shown}," in str(error) and f"format {FORMAT}" in str(error)
        assert "--out" in error.hint


def test_every_command_says_so_of_a_folder_of_an_old_format(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(OLD))
    before = (tmp_path / "run.json").read_bytes()
    for words in (
        ("status", tmp_path), ("report", tmp_path), ("compare", tmp_path, tmp_path),
        ("train", tmp_path), ("score", tmp_path), ("summarise", tmp_path),
    ):  # fmt: skip
        line = refused(*words)
        assert str(tmp_path / "run.json") in line and f"format {FORMAT}" in line, words
    assert (tmp_path / "run.json").read_bytes() == before


@pytest.mark.parametrize("text", ["", "{", '{"format": 3', "\xff"])
def test_what_is_not_json_is_unreadable(tmp_path, text):
    (tmp_path / "run.json").write_bytes(text.encode("latin-1"))
    error = refusal_of(read_manifest, tmp_path)
    assert error.code == "unreadable-file"
    assert str(tmp_path / "run.json") in str(error)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda m: m.update(kind="brought"), "kind"),
        (lambda m: m.pop("kind"), "kind"),
        (lambda m: m.pop("subjects"), "subjects"),
        (lambda m: m.update(batch_size="many"), "batch_size"),
        (lambda m: m["digests"].pop("data"), "digests.data"),
        (lambda m: m["sessions"][0].pop("code"), "sessions.0.code"),
        (lambda m: m["recipe"].update(settings=3), "recipe.settings"),
        (lambda m: m["protocol"]["sampler"].update(n_steps="x"), "protocol.sampler.n_steps"),
        (lambda m: m.update(owner="somebody"), "owner"),
        (lambda m: m["recipe"].update(stars=5), "recipe.stars"),
        (lambda m: m.update(name="mine"), "name"),
    ],
)
def test_a_damaged_manifest_names_the_field(run, change, key):
    path = edit(run.folder, change)
    error = refusal_of(read_manifest, run.folder)
    assert error.code == "damaged-file"
    assert str(path) in str(error)
    assert error.problem.removeprefix(str(path)).split(": ")[1].removeprefix("run.") == key


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda m: m["protocol"]["sampler"].update(guidance_scale=9.0), "protocol"),
        (lambda m: m["digests"].update(protocol="0" * 16), "protocol"),
        (lambda m: m["recipe"]["settings"].update(n_steps=9), "recipe"),
        (lambda m: m["digests"].update(recipe="0" * 16), "recipe"),
        (lambda m: m["digests"].update(data="0" * 16), "photos"),
        (lambda m: m.update(subjects=["dog"]), "photos"),
        (lambda m: m["digests"].update(plan="0" * 16), "plan"),
        (lambda m: m.update(prompts=["beach"]), "plan"),
        (lambda m: m.update(batch_size=5), "plan"),
    ],
)
def test_an_edited_manifest_is_not_that_of_its_digests(run, change, name):
    assert read_image_set(run.folder).plan == run.plan
    edit(run.folder, change)
    error = refusal_of(read_image_set, run.folder)
    assert error.code == "changed-data"
    assert str(run.folder) in str(error)
    assert (f"other {name} (" if name == "photos" else f"its {name} (") in str(error)
    assert "run.json" in str(error) and "another folder" not in str(error)
    # It is not resumed either.
    error = refusal_of(read_run, run.folder)
    assert error.code == "changed-data" and "run.json" in error.hint
    assert "another folder" not in str(error)


def test_changed_photos_are_refused(run):
    index = run.folder.parent / "photos" / "subjects.csv"
    index.write_text(index.read_text().replace("dog,dog,", "dog,hound,"))
    error = refusal_of(read_image_set, run.folder)
    assert error.code == "changed-data"
    assert run.manifest.digests.data in str(error)


def test_changes_are_one_line_each_and_sessions_are_none(run):
    old = run.manifest
    assert list_changes(old, old.model_copy(update={"sessions": []})) == []
    sampler = old.protocol.sampler.model_copy(update={"n_steps": 7})
    new = old.model_copy(
        update={
            "subjects": ["dog"],
            "protocol": old.protocol.model_copy(update={"sampler": sampler}),
            "encoders": {"dino": "an encoder", "clip": "another"},
        }
    )
    assert set(list_changes(old, new)) == {
        "subjects.1: 'mug' -> None",
        "protocol.sampler.n_steps: 3 -> 7",
        "encoders.clip: None -> 'another'",
    }
    assert list_changes(old, new, ignored=("subjects", "protocol", "encoders")) == []
