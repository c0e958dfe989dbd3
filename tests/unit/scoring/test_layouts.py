"""Folders of external images: which layout they have, and what is never read."""

import os
import shutil

import pytest
from external_images import (
    EVERY_LAYOUT,
    KEYS,
    draw_images,
    index_rows,
    kinds,
    problems_of,
    read_folder,
    to_dreambench_plus,
    write_index,
)
from PIL import Image

from dreambench.errors import UserError
from dreambench.scoring import walking
from dreambench.scoring.problems import ImageSetError


@pytest.fixture
def folder(tmp_path):
    """The tiny protocol's images as <subject>/<prompt>/<k>.png."""
    return draw_images(tmp_path / "mine")


@pytest.fixture
def read(tiny, tmp_path):
    """Reads a folder by the tiny protocol."""

    def call(folder, **options):
        return read_folder(folder, protocol=tiny[0], out=tmp_path / "out", **options)

    return call


@pytest.mark.parametrize(("lay_out", "layout"), EVERY_LAYOUT)
def test_every_layout_gives_each_image_its_own_file(folder, read, tmp_path, lay_out, layout):
    found = read(lay_out(folder, tmp_path / "theirs"))
    assert found.manifest.images.layout == layout
    assert [(u.subject, u.prompt_id, u.k) for u in found.plan.images] == KEYS
    assert len(found.files) == len(KEYS)
    for unit, path in found.files.items():
        source = folder / unit.subject / unit.prompt_id / f"{unit.k}.png"
        assert path.read_bytes() == source.read_bytes()
    assert found.manifest.problems == []
    assert found.manifest.partial is False


@pytest.mark.parametrize(("lay_out", "layout"), EVERY_LAYOUT)
def test_the_digest_of_the_images_does_not_depend_on_the_layout(
    folder, read, tmp_path, lay_out, layout
):
    wanted = read(folder).manifest.digests
    assert read(lay_out(folder, tmp_path / "theirs")).manifest.digests == wanted
    path = folder / "dog" / "beach" / "0.png"
    Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    changed = read(folder).manifest.digests
    assert changed.images != wanted.images
    assert (changed.protocol, changed.data) == (wanted.protocol, wanted.data)


def test_ten_thousand_stray_files_are_counted(read, folder):
    for index in range(10_000):
        (folder / ("dog" if index % 2 else ".") / f"stray-{index}.log").write_bytes(b"")
    for index in range(300):
        (folder / f"run-{index}").mkdir()
    manifest = read(folder).manifest
    assert manifest.problems == []
    assert any("10000 " in note for note in manifest.images.notes)
    assert len(manifest.model_dump_json()) < 20_000


def test_more_files_than_any_set_has_are_refused(read, folder, monkeypatch):
    monkeypatch.setattr(walking, "MAX_ENTRIES", 10)
    with pytest.raises(UserError) as caught:
        read(folder)
    assert caught.value.code == "too-many-files"
    assert str(folder) in str(caught.value) and " 10 " in str(caught.value)


def test_a_folder_that_is_not_there_is_refused(read, tmp_path):
    with pytest.raises(UserError) as caught:
        read(tmp_path / "nowhere")
    assert caught.value.code == "not-a-folder"
    assert str(tmp_path / "nowhere") in str(caught.value)


def test_links_out_of_the_folder_are_not_followed(read, folder, tmp_path):
    secret = tmp_path / "secret"
    shutil.copytree(folder / "mug", secret)
    (folder / "dog" / "beach" / "0.png").unlink()
    (folder / "dog" / "beach" / "0.png").symlink_to(secret / "beach" / "0.png")
    shutil.rmtree(folder / "mug")
    (folder / "mug").symlink_to(secret, target_is_directory=True)
    found = kinds(problems_of(read, folder))
    assert found == {"missing": ["dog/beach", "mug"], "outside": ["dog/beach/0.png", "mug"]}
    # A link that stays inside is a file like others.
    (folder / "mug").unlink()
    shutil.copytree(secret, folder / "mug")
    (folder / "dog" / "beach" / "0.png").unlink()
    (folder / "dog" / "beach" / "0.png").symlink_to(folder / "mug" / "beach" / "0.png")
    (problem,) = read(folder).manifest.problems
    assert (problem.kind, problem.name, problem.n_images) == ("duplicated", "mug/beach/0.png", 1)


def test_loops_and_pipes_do_not_hang(read, folder):
    (folder / "dog" / "beach" / "again").symlink_to(folder / "dog", target_is_directory=True)
    (folder / "round").symlink_to(folder / "round")
    os.mkfifo(folder / "dog" / "red" / "3.png")
    found = read(folder)
    assert found.manifest.partial is False
    assert len(found.files) == 12


def test_names_that_a_terminal_would_obey_are_shown_harmless(read, folder):
    (folder / "dog" / "red" / "\x1b[2J.png").write_bytes(b"x")
    strange = folder / os.fsdecode(b"caf\xe9") / "red"
    strange.mkdir(parents=True)
    shutil.copy(folder / "dog" / "red" / "0.png", strange / "0.png")
    with pytest.raises(ImageSetError) as caught:
        read(folder)
    assert "\x1b" not in str(caught.value)
    assert r"dog/red/\x1b[2J.png" in str(caught.value)
    manifest = read(folder, partial=True).manifest
    assert manifest.partial is True
    names = [problem.name for problem in manifest.problems]
    assert r"dog/red/\x1b[2J.png" in names
    assert any(name.startswith(r"caf\xe9") for name in names)
    manifest.model_dump_json().encode()  # It can be written as UTF-8.


# The index


@pytest.mark.parametrize(
    "file",
    ["../secret.png", "/etc/passwd", "dog/../../secret.png", "..\\secret.png", "C:\\secret.png"],
)
def test_paths_out_of_the_indexs_folder_are_not_read(read, folder, file):
    Image.new("RGB", (64, 64), "red").save(folder.parent / "secret.png")
    rows = index_rows(folder)
    rows[0][0] = file
    write_index(folder / "index.csv", rows)
    found = kinds(problems_of(read, folder / "index.csv"))
    assert found["missing"] == ["dog/beach"]
    assert len(found["outside"]) == 1
    assert found["outside"][0].startswith("line 2, ")


def test_a_link_out_of_the_indexs_folder_is_not_read(read, folder):
    (folder / "dog" / "beach" / "0.png").rename(folder.parent / "secret.png")
    (folder / "dog" / "beach" / "0.png").symlink_to(folder.parent / "secret.png")
    write_index(folder / "index.csv", index_rows(folder))
    found = kinds(problems_of(read, folder / "index.csv"))
    assert found == {"missing": ["dog/beach"], "outside": ["dog/beach/0.png"]}


def test_rows_that_say_nothing_right_are_named(read, folder):
    rows = index_rows(folder)
    rows[0][0] = "dog/beach/7.png"
    rows[1][1] = "cat9"
    rows[2][2] = "a red"
    rows[3][2] = ""
    write_index(folder / "index.csv", rows)
    found = kinds(problems_of(read, folder / "index.csv"))
    assert found["unreadable"] == ["dog/beach/7.png"]
    assert found["unknown"] == ["line 5, dog/red/1.png", "dog/a red", "cat9"]
    assert found["missing"] == ["dog/beach", "dog/red"]


@pytest.mark.parametrize(
    ("content", "facts"),
    [
        (b"file,subject,prompt\n", ["column index"]),
        (b"# mine\nfile,subject,prompt,index\n", ["line 1", "file, subject, prompt, index"]),
        (b"file,subject,prompt,index\nx.png,dog,a dog, on the beach,0\n", ["line 2 has 5 cells"]),
        (b"", ["file, subject, prompt, index"]),
        (b"file,subject,prompt,index\n\xff\xfe", ["UTF-8"]),
        (b'file,subject,prompt,index\n"a"b,dog,red,0\n', ["CSV"]),
    ],
)
def test_what_is_not_an_index_is_one_line(read, folder, content, facts):
    index = folder / "index.csv"
    index.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read(index)
    assert caught.value.code in ("invalid-table", "unreadable-file")
    assert all(fact in str(caught.value) for fact in [str(index), *facts])
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("way", ["backslashes", "absolute", "spreadsheet"])
def test_an_index_written_on_another_system_is_the_same(read, folder, way):
    rows = index_rows(folder)
    wanted = read(folder).files
    for row in rows:
        if way == "backslashes":
            row[0] = row[0].replace("/", "\\")
        if way == "absolute":
            row[0] = f"{folder.resolve()}/{row[0]}"
    write_index(folder / "index.csv", rows)
    if way == "spreadsheet":
        text = (folder / "index.csv").read_text().replace("file,subject", "File,Subject")
        content = f"sep=;\r\n{text}".replace(",", ";").encode("utf-16")
        (folder / "index.csv").write_bytes(content)
    found = read(folder / "index.csv")
    assert found.manifest.problems == []
    assert found.files == wanted


def test_numbers_of_any_length_are_an_order(read, folder):
    rows = index_rows(folder)
    for row in rows:
        row[3] = "9" * 6_000 + str(row[3])
    write_index(folder / "index.csv", rows)
    assert read(folder / "index.csv").files == read(folder).files


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_texts_beside_images_in_other_encodings(read, folder, tmp_path, encoding):
    theirs = to_dreambench_plus(folder, tmp_path / "theirs")
    for path in theirs.glob("text/*/*.txt"):
        last = "\xe9" if encoding == "latin-1" else ""
        path.write_bytes((path.read_text() + last).encode(encoding))
    if encoding != "latin-1":
        assert read(theirs).manifest.problems == []
        return
    found = [problem for problem in problems_of(read, theirs) if problem.kind == "unknown"]
    assert found and all("line 2 is not UTF-8" in str(problem) for problem in found)


def test_an_index_is_named_once_and_is_there(read, folder):
    with pytest.raises(UserError) as caught:
        read(folder, index=folder / "none.csv")
    assert caught.value.code == "missing-file"
    assert str(folder / "none.csv") in str(caught.value)
    write_index(folder / "index.csv", index_rows(folder))
    with pytest.raises(UserError) as caught:
        read(folder / "index.csv", index=folder / "index.csv")
    assert caught.value.code == "two-indexes"


def test_images_that_the_index_does_not_name_are_counted(read, folder):
    shutil.copy(folder / "dog" / "red" / "0.png", folder / "unlisted.png")
    write_index(folder / "index.csv", index_rows(folder))
    found = read(folder, index=folder / "index.csv")
    (note,) = found.manifest.images.notes
    assert note.startswith("1 ")
    assert len(found.files) == 12
