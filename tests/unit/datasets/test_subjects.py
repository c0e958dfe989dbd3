"""Index files: what they pin, and the faults that are named in one line."""

import re
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_photos import PHOTOS, write_index

import dreambench
from dreambench.datasets.index import Dataset, check_file, check_files, find_dataset, read_index
from dreambench.datasets.subjects import digest_subjects, list_subjects, load_subjects
from dreambench.errors import UserError


@pytest.fixture
def dataset(tmp_path):
    """A dataset of four photos, all of them here."""
    written = write_index(tmp_path)
    for name, content in PHOTOS.items():
        path = written.photos_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return written


def edit(dataset, file, old, new):
    path = dataset.index_dir / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_subjects_come_in_the_index_order_with_their_photos(dataset):
    first, second = load_subjects(dataset)
    assert (first.name, first.class_name, first.kind) == ("a", "dog", "live")
    assert (second.name, second.class_name, second.kind) == ("b", "toy", "object")
    assert [path.read_bytes() for path in first.photos] == [PHOTOS["a/00.jpg"], PHOTOS["a/01.jpg"]]
    assert [s.name for s in load_subjects(dataset, names=["b", "a"])] == ["a", "b"]
    assert first.masks == ()


def test_changed_and_missing_photos_are_named(dataset):
    path = dataset.photos_dir / "b" / "01.jpg"
    n_bytes = len(PHOTOS["b/01.jpg"])
    path.write_bytes(b"half")
    assert check_files(dataset, read_index(dataset).files) == [
        f"b/01.jpg has 4 bytes, not {n_bytes}"
    ]
    path.write_bytes(b"x" * n_bytes)
    (dataset.photos_dir / "a" / "00.jpg").unlink()
    faults = check_files(dataset, read_index(dataset).files)
    assert [fault.split()[0] for fault in faults] == ["a/00.jpg", "b/01.jpg"]
    with pytest.raises(UserError) as caught:
        load_subjects(dataset)
    assert caught.value.code == "changed-data"
    assert all(fault in caught.value.problem for fault in faults)
    assert [s.name for s in list_subjects(dataset)] == ["a", "b"]


@pytest.mark.parametrize(
    ("file", "old", "new", "code", "fact"),
    [
        ("images.csv", "a/00.jpg", "../../secret.jpg", "unsafe-path", "../../secret.jpg"),
        ("images.csv", "a/00.jpg", "/etc/passwd", "unsafe-path", "/etc/passwd"),
        ("images.csv", "a/00.jpg", "C:\\a\\00.jpg", "unsafe-path", "line 2: 'C:"),
        (
            "images.csv",
            "a,a/00.jpg",
            "c,a/00.jpg",
            "invalid-table",
            "n_images is 2, but a has 1 photo",
        ),
        ("images.csv", "a/01.jpg", "a/00.jpg", "invalid-table", "line 3: a/00.jpg is listed more"),
        ("images.csv", "sha256", "md5", "invalid-table", "sha256"),
        ("subjects.csv", "dog,live,2", "dog,live,3", "invalid-table", "line 2: n_images is 3"),
        ("subjects.csv", "dog,live", "dog,alive", "invalid-table", "line 2: the kind of a is"),
        ("subjects.csv", "dog,live,2", "dog,live,²", "invalid-table", "whole number, not '²'"),
        ("subjects.csv", "dog,live,2", f"dog,live,{'9' * 5000}", "invalid-table", "line 2"),
        ("subjects.csv", "dog,live", " ,live", "invalid-table", "class_name of a is empty"),
        ("subjects.csv", "dog,live", "{dog},live", "invalid-table", "brace"),
        ("subjects.csv", "b,toy", "a,toy", "invalid-table", "more than once"),
        ("subjects.csv", "dog,live,2", "dog,live", "invalid-table", "line 2"),
    ],
)
def test_faults_of_an_index_are_named(dataset, file, old, new, code, fact):
    edit(dataset, file, old, new)
    for function in (read_index, list_subjects, load_subjects):
        with pytest.raises(UserError) as caught:
            function(dataset)
        assert caught.value.code == code
        assert fact in caught.value.problem


@pytest.mark.parametrize("n_bytes", ["12x", "1e5", "-1", "²", "٣"])
def test_sizes_that_are_not_numbers_are_named(dataset, n_bytes):
    edit(dataset, "images.csv", f",{len(PHOTOS['a/00.jpg'])}\n", f",{n_bytes}\n")
    with pytest.raises(UserError) as caught:
        read_index(dataset)
    assert caught.value.code == "invalid-table"
    assert repr(n_bytes) in caught.value.problem


def test_a_mask_without_its_pin_is_named(dataset):
    path = dataset.index_dir / "images.csv"
    head, *rows = path.read_text().splitlines()
    path.write_text("\n".join([f"{head},mask", *(f"{row},m.png" for row in rows)]) + "\n")
    with pytest.raises(UserError) as caught:
        read_index(dataset)
    assert caught.value.code == "invalid-table"
    assert "mask_sha256" in caught.value.problem


cells = st.text(st.sampled_from('ab/.\\0123²,"\n \0é'), max_size=5)
good_rows = st.sampled_from(["a,dog,live,1", "b,toy,object,2", "a,a/0.jpg,ff,1", "b,x,00,"])
texts = st.lists(good_rows | st.lists(cells, min_size=1, max_size=5).map(",".join), max_size=4)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts.map("\n".join), texts.map("\n".join))
def test_any_index_is_read_or_refused_in_one_line(tmp_path, subjects, images):
    (tmp_path / "subjects.csv").write_text("subject,class_name,kind,n_images\n" + subjects)
    (tmp_path / "images.csv").write_text("subject,file,sha256,bytes\n" + images)
    odd = Dataset("odd", tmp_path, tmp_path)
    try:
        index = read_index(odd)
    except UserError as error:
        assert error.code in {"invalid-table", "unsafe-path"}
        assert "\n" not in str(error)
        return
    for file in index.files:
        (odd.photos_dir / file.file).resolve().relative_to(tmp_path.resolve())
    assert [subject.name for subject in list_subjects(odd)] == [
        row["subject"] for row in index.subjects
    ]


def test_a_file_name_that_no_disk_takes_is_a_fault_and_not_a_traceback(dataset):
    edit(dataset, "images.csv", "a/00.jpg", "a/" + "x" * 300)
    faults = [check_file(dataset, file) for file in read_index(dataset).files]
    assert [fault is None for fault in faults] == [False, True, True, True]


def test_datasets_and_subjects_that_are_not_there_are_refused_with_a_suggestion(tmp_path):
    for name, wanted in (("minni", "'mini'"), (str(tmp_path), "dreambooth")):
        with pytest.raises(UserError) as caught:
            find_dataset(name)
        assert caught.value.code == "unknown-name"
        assert wanted in caught.value.hint
    with pytest.raises(UserError) as caught:
        load_subjects(find_dataset("mini"), names=["mugg"])
    assert caught.value.code == "unknown-name"
    assert "'mug'" in caught.value.hint


def test_subjects_load_in_python(tmp_path):
    assert [s.name for s in dreambench.load_subjects("mini", names=["mug"])] == ["mug"]
    with pytest.raises(UserError) as caught:
        dreambench.load_subjects(data_dir=tmp_path)
    assert caught.value.code == "changed-data"
    assert "dreambench data fetch" in caught.value.hint


def test_a_subject_is_shown_by_the_one_photo_that_the_list_names(dataset):
    (dataset.index_dir / "single-references.csv").write_text("subject,file\na,a/01.jpg\n")
    first, *others = load_subjects(dataset)
    assert (first.single, [other.single for other in others]) == (1, [0] * len(others))
    shown = first.show("single")
    assert (shown.photos, shown.sha256) == (first.photos[1:2], first.sha256[1:2])
    assert first.show("all") is first
    assert shown.show("single") == shown
    # Which photo it is counts where it matters, and nowhere else.
    plain = [replace(subject, single=0) for subject in (first, *others)]
    assert digest_subjects([first, *others]) == digest_subjects(plain)
    assert digest_subjects([first, *others], "single") != digest_subjects(plain, "single")


def test_a_list_that_names_no_photo_of_the_subject_is_refused(dataset):
    (dataset.index_dir / "single-references.csv").write_text("subject,file\na,/etc/passwd\n")
    with pytest.raises(UserError) as caught:
        read_index(dataset)
    assert caught.value.code == "unsafe-path"
    assert "/etc/passwd" in caught.value.problem
    (dataset.index_dir / "single-references.csv").write_text("subject,file\n\na,b/00.jpg\n")
    with pytest.raises(UserError, match=r"line 3: 'b/00.jpg' is not a photo of a") as caught:
        read_index(dataset)
    assert caught.value.code == "invalid-table"


SPREADSHEETS = {
    "byte-order mark": lambda text: text.encode("utf-8-sig"),
    "UTF-16": lambda text: text.replace(",", "\t").encode("utf-16"),
    "semicolons": lambda text: text.replace(",", ";").encode(),
    "capitals": lambda text: text.replace("file,sha256", "File,SHA256").encode(),
    "empty rows": lambda text: (text + ",,,\n,,,,,,\n\n").encode(),
    "fractions": lambda text: text.replace(",2\n", ",2.0\n").encode(),
    "backslashes": lambda text: text.replace("/", "\\").encode(),
    "SHA-256 in capitals": lambda text: re.sub(
        r"[0-9a-f]{64}", lambda found: found[0].upper(), text
    ).encode(),
}  # fmt: skip


@pytest.mark.parametrize("change", [pytest.param(c, id=name) for name, c in SPREADSHEETS.items()])
def test_an_index_that_a_spreadsheet_has_saved_is_the_same_one(dataset, change):
    wanted = load_subjects(dataset)
    for name in ("subjects.csv", "images.csv"):
        path = dataset.index_dir / name
        path.write_bytes(change(path.read_text()))
    assert load_subjects(dataset) == wanted
    assert digest_subjects(load_subjects(dataset)) == digest_subjects(wanted)


def test_absolute_paths_in_the_photos_folder_are_its_files(dataset):
    wanted = load_subjects(dataset)
    edit(dataset, "images.csv", ",a/00.jpg", f",{dataset.photos_dir.resolve()}/a/00.jpg")
    assert load_subjects(dataset) == wanted


def test_the_papers_single_references_are_the_published_list():
    singles = read_index(find_dataset("dreambooth")).singles
    assert len(singles) == 30
    assert sum(file.endswith("/00.jpg") for file in singles.values()) == 4
    assert singles["cat"] == "cat/04.jpg"
