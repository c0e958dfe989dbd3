"""Zip archives of unknown origin: their bytes, or one line that says what is wrong with them."""

import io
import tarfile
import zipfile

import pytest
from small_photos import GOOD_ZIP, PHOTOS, make_zip

from dreambench.errors import UserError
from dreambench.storage import archives


def make_encrypted():
    content = bytearray(GOOD_ZIP)
    for mark, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        content[content.find(mark) + offset] |= 1
    return bytes(content)


def make_lying_zip():
    """Return a zip whose stated sizes are larger than its content."""
    content = bytearray(make_zip({"x": b"1234567"}))
    for mark, offset in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        content[content.find(mark) + offset] = 99
    return bytes(content)


def make_damaged():
    content = bytearray(GOOD_ZIP)
    content[200] ^= 0xFF
    return bytes(content)


def make_tar():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in PHOTOS.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def make_link():
    info = zipfile.ZipInfo("x/link")
    info.external_attr = 0o120777 << 16
    return make_zip({info: "/etc/passwd", **PHOTOS})


# Name -> (archive, code, what the line names).
REFUSED = {
    "truncated": (GOOD_ZIP[: len(GOOD_ZIP) // 2], "unreadable-archive", "zip"),
    "html": (b"<html>busy</html>" * 100, "unreadable-archive", "zip"),
    "empty": (b"", "unreadable-archive", "zip"),
    "tar": (make_tar(), "unreadable-archive", "unpack"),
    "damaged": (make_damaged(), "unreadable-archive", "CRC"),
    "short": (make_lying_zip(), "unsafe-archive", "'x'"),
    "dots": (make_zip({"../a.jpg": b"x", **PHOTOS}), "unsafe-archive", "../a.jpg"),
    "absolute": (make_zip({"/etc/x": b"x", **PHOTOS}), "unsafe-archive", "/etc/x"),
    "drive": (make_zip({"C:\\x": b"x", **PHOTOS}), "unsafe-archive", "C:"),
    "backslashes": (make_zip({"..\\..\\x": b"x", **PHOTOS}), "unsafe-archive", "x"),
    "link": (make_link(), "unsafe-archive", "x/link"),
    "encrypted": (make_encrypted(), "unsafe-archive", "encrypted"),
    "bomb": (
        make_zip({**PHOTOS, "zeros": b"\0" * 30_000_000}, zipfile.ZIP_DEFLATED), "unsafe-archive",
        "0.02 GB",
    ),
    "many": (make_zip({str(i): b"" for i in range(60)}), "unsafe-archive", "50"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_hostile_archive_gets_one_line_with_a_code(tmp_path, monkeypatch, name):
    content, code, fact = REFUSED[name]
    monkeypatch.setattr(archives, "MAX_UNPACKED_BYTES", 20_000_000)
    monkeypatch.setattr(archives, "MAX_MEMBERS", 50)
    path = tmp_path / "archive"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        list(archives.read_members(path, lambda size: True))
    assert caught.value.code == code
    assert str(path) in str(caught.value)
    assert fact in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert [entry.name for entry in tmp_path.iterdir()] == ["archive"]


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_are_given_with_their_bytes_and_only_the_wanted_sizes(tmp_path, compression):
    path = tmp_path / "a.zip"
    path.write_bytes(make_zip({"folder/": b"", **PHOTOS, "note.txt": b"x"}, compression))
    assert dict(archives.read_members(path, lambda size: size > 1)) == PHOTOS
    assert dict(archives.read_members(path, lambda size: size == 1)) == {"note.txt": b"x"}


def test_members_that_are_not_wanted_are_checked_too(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(REFUSED["dots"][0])
    with pytest.raises(UserError) as caught:
        list(archives.read_members(path, lambda size: False))
    assert caught.value.code == "unsafe-archive"
