"""Paths in tables: those of any system that lie in the folder, and why the others do not."""

import pytest

from dreambench.storage.listed_paths import read_listed_path


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("im/dog/0.png", "im/dog/0.png"),
        ("im\\dog\\0.png", "im/dog/0.png"),
        (".\\im/dog\\0.png", "im/dog/0.png"),
        ("./im//dog/0.png", "im/dog/0.png"),
        ("im/../im/dog/0.png", "im/dog/0.png"),
        ("{folder}/im/dog/0.png", "im/dog/0.png"),
        ("{folder}/other/../im/dog/0.png", "im/dog/0.png"),
        ("{link}/im/dog/0.png", "im/dog/0.png"),
        ("a:b.png", "a:b.png"),
    ],
)
def test_a_path_in_the_folder_is_read_however_it_is_written(tmp_path, text, wanted):
    folder, link = tmp_path / "set", tmp_path / "link"
    folder.mkdir()
    link.symlink_to(folder)
    text = text.format(folder=folder, link=link)
    assert read_listed_path(text, link) == wanted
    if "link" not in text:
        assert read_listed_path(text, folder) == wanted


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("../0.png", "leads out"),
        ("im/../../0.png", "leads out"),
        ("..\\0.png", "leads out"),
        ("/etc/passwd", "leads out"),
        ("{folder}-2/0.png", "leads out"),
        ("{folder}/../0.png", "leads out"),
        ("{folder}", "leads out"),
        (".", "leads out"),
        ("C:\\me\\0.png", "Windows"),
        ("c:/me/0.png", "Windows"),
        ("\\\\server\\me\\0.png", "Windows"),
        ("", "not the path"),
        ("a\0.png", "not the path"),
    ],
)
def test_why_a_path_is_not_in_the_folder(tmp_path, text, fact):
    with pytest.raises(ValueError, match=fact):
        read_listed_path(text.format(folder=tmp_path), tmp_path)
