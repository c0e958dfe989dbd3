"""Custom subjects: photos checked, advised on, written and pinned."""

import itertools
import string

import numpy as np
import pytest
from conftest import REAL_PHOTOS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dreambench.datasets.custom_subjects import (
    add_subject,
    find_kind,
    load_class_nouns,
    load_photos,
    review_photos,
)
from dreambench.datasets.index import find_dataset, read_index
from dreambench.datasets.subjects import load_subjects
from dreambench.errors import UserError
from dreambench.text import make_printable

RED = Image.new("RGB", (8, 8), "red")


def make_photo(seed, *, size=(520, 520)):
    """Return a smooth picture, so that perceptual hashes mean something."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def add(folder, name, n_photos=1, **options):
    return add_subject(
        folder, name, photos=[RED] * n_photos, names=[f"{k}.jpg" for k in range(n_photos)],
        class_name="dog", kind="live", **options,
    )  # fmt: skip


def test_advice_names_what_is_small_not_square_and_twice_there():
    photos = [make_photo(1), make_photo(2), make_photo(3, size=(600, 540)), make_photo(1)]
    assert review_photos("abcd", photos) == [
        "c is not square: methods and encoders see its centre",
        "a and d are nearly the same picture",
    ]
    notes = review_photos(["x"], [make_photo(1, size=(300, 300))])
    assert [note.split(";")[0].split(":")[0] for note in notes] == ["1 photo", "x is below 512 px"]


def test_every_photo_that_cannot_be_used_is_named(tmp_path):
    make_photo(1, size=(90, 400)).save(tmp_path / "small.jpg")
    make_photo(1).save(tmp_path / "good.jpg")
    (tmp_path / "text.jpg").write_text("not an image")
    names = ("small.jpg", "text.jpg", "good.jpg", "gone.jpg")
    with pytest.raises(UserError) as caught:
        load_photos([tmp_path / name for name in names], min_side_px=256)
    assert caught.value.code == "unusable-image"
    assert [name in caught.value.problem for name in names] == [True, True, False, True]
    assert "90 x 400" in caught.value.problem
    assert len(load_photos([tmp_path / "small.jpg"], min_side_px=90)) == 1


def test_subjects_join_a_folder_and_its_other_columns_stay(tmp_path):
    assert add(tmp_path, "a", n_photos=2, credit="me, too").files == [
        tmp_path / "a" / "00.png", tmp_path / "a" / "01.png",
    ]  # fmt: skip
    path = tmp_path / "subjects.csv"
    head, row = path.read_text().splitlines()
    path.write_text(f"{head},note\n{row},mine\n")
    add(tmp_path, "b")
    assert path.read_text() == (
        "subject,class_name,kind,n_images,note\na,dog,live,2,mine\nb,dog,live,1,\n"
    )
    first, second = load_subjects(find_dataset(str(tmp_path)))
    assert (first.name, len(first.photos), second.name) == ("a", 2, "b")
    images = read_index(find_dataset(str(tmp_path))).images
    assert [(row["source"], row["credit"]) for row in images] == [
        ("0.jpg", "me, too"), ("1.jpg", "me, too"), ("0.jpg", ""),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["", "../x", "a/b", "A", ".a", "-a", "a b", "a\n", "é"])
def test_names_that_are_not_valid_are_refused(tmp_path, name):
    with pytest.raises(UserError) as caught:
        add(tmp_path / "x", name)
    assert caught.value.code == "invalid-value"
    assert list(tmp_path.iterdir()) == []


def test_a_taken_name_is_refused_and_nothing_changes(tmp_path):
    add(tmp_path, "a")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError) as caught:
        add(tmp_path, "a", n_photos=2)
    assert caught.value.code == "name-taken"
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


NOT_READ = {
    "another length": lambda text: text.replace("a,", "a,x,", 1),
    "another code page": lambda text: (text + "b,caf\xe9\n").encode("latin-1"),
    "no header": lambda text: text.split("\n", 1)[1],
    "the same row twice": lambda text: text + text.split("\n", 1)[1],
}


@pytest.mark.parametrize("file", ["subjects.csv", "images.csv"])
@pytest.mark.parametrize("change", [pytest.param(c, id=name) for name, c in NOT_READ.items()])
def test_a_table_that_cannot_be_read_is_never_rewritten(tmp_path, file, change):
    add(tmp_path, "a")
    path = tmp_path / file
    content = change(path.read_text())
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = {path: path.read_bytes() for path in tmp_path.glob("*.csv")}
    with pytest.raises(UserError) as caught:
        add(tmp_path, "b")
    assert caught.value.code in ("invalid-table", "unreadable-file")
    assert str(tmp_path) in caught.value.problem and file in caught.value.problem
    assert {path: path.read_bytes() for path in tmp_path.glob("*.csv")} == before
    assert not (tmp_path / "b").exists()


def test_a_table_that_a_spreadsheet_has_saved_gets_its_row_and_loses_nothing(tmp_path):
    add(tmp_path, "a", credit="me")
    path = tmp_path / "images.csv"
    head, row = path.read_text().splitlines()
    text = f"sep=;\r\n{head.replace('credit', 'Credit')},My note\r\n{row},x\r\n,,,,,,,,\r\n"
    path.write_bytes(text.replace(",", ";").encode("utf-16"))
    add(tmp_path, "b")
    first, second = read_index(find_dataset(str(tmp_path))).images
    assert (first["credit"], first["My note"], second["subject"]) == ("me", "x", "b")
    assert len(load_subjects(find_dataset(str(tmp_path)))) == 2


@pytest.mark.parametrize(
    ("noun", "fact"),
    [
        ("", "empty"), ("  ", "empty"), ("{dog}", "brace"),
        ("a dog", "--class 'dog'"), ("An Apple", "--class 'Apple'"), ("x" * 101, "101 letters"),
    ],
)  # fmt: skip
def test_nouns_that_prompts_cannot_be_filled_with_are_refused(tmp_path, noun, fact):
    with pytest.raises(UserError) as caught:
        add_subject(
            tmp_path / "x", "a", photos=[RED], names=["0.jpg"], class_name=noun, kind="live"
        )
    assert caught.value.code == "invalid-value"
    assert fact in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_adding_resumes_after_a_kill_between_the_two_index_files(tmp_path):
    add(tmp_path, "a")
    # As if killed before the subject's row was written.
    (tmp_path / "subjects.csv").write_text("subject,class_name,kind,n_images\n")
    add(tmp_path, "a", n_photos=2)
    (only,) = load_subjects(find_dataset(str(tmp_path)))
    assert len(only.photos) == 2


counter = itertools.count()
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
texts = texts.map(make_printable)
nouns = texts.map(lambda text: "x" + text.replace("{", "(").replace("}", ")"))
subjects = st.dictionaries(
    st.from_regex(r"[a-z0-9][a-z0-9_-]{0,4}", fullmatch=True, alphabet=string.printable),
    st.tuples(nouns, st.sampled_from(["live", "object"]), texts, texts),
    max_size=3,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(subjects)
def test_whatever_people_call_things_is_read_as_it_was_added(tmp_path, wanted):
    folder = tmp_path / str(next(counter))
    for name, (class_name, kind, source, credit) in wanted.items():
        add_subject(
            folder, name, photos=[RED], names=[source], class_name=class_name, kind=kind,
            credit=credit,
        )  # fmt: skip
    if wanted:
        dataset = find_dataset(str(folder))
        found = load_subjects(dataset)
        rows = read_index(dataset).images
        stripped = {
            name: (" ".join(noun.split()), kind, source.strip(), credit.strip())
            for name, (noun, kind, source, credit) in wanted.items()
        }
        assert stripped == {
            subject.name: (subject.class_name, subject.kind, row["source"], row["credit"])
            for subject, row in zip(found, rows, strict=True)
        }


def test_the_vocabulary_has_the_classes_of_the_benchmarks():
    for name in ("dreambooth", "mini", "mini-full"):
        for row in read_index(find_dataset(name)).subjects:
            assert load_class_nouns()[row["class_name"]] == row["kind"]
    with pytest.raises(UserError) as caught:
        find_kind("gizmo")
    assert caught.value.code == "unknown-name"
    assert "--kind" in caught.value.hint


@pytest.mark.skipif(not REAL_PHOTOS.is_dir(), reason="needs the real photos")
def test_no_two_real_photos_are_called_duplicates():
    for subject in load_subjects(find_dataset("dreambooth", photos_dir=REAL_PHOTOS))[:6]:
        photos = [Image.open(path).convert("RGB") for path in subject.photos]
        notes = review_photos([path.name for path in subject.photos], photos)
        assert notes == []


@pytest.mark.parametrize("name", ["con", "a" * 201, "../a", "/a", "a/b", "", "nul", "."])
def test_a_name_that_no_folder_can_have_is_refused(tmp_path, name):
    with pytest.raises(UserError) as caught:
        add(tmp_path / "subjects", name)
    assert caught.value.code == "invalid-value"
    assert list(tmp_path.iterdir()) == []


def test_photos_are_not_written_through_a_link(tmp_path):
    add(tmp_path / "subjects", "one")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "subjects" / "two").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError) as caught:
        add(tmp_path / "subjects", "two")
    assert caught.value.code == "unsafe-path"
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert [s.name for s in load_subjects(find_dataset(str(tmp_path / "subjects")))] == ["one"]
