"""Archives of unknown origin: their bytes, or one line that says what is wrong with them."""

import gzip
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


def make_tar(photos=PHOTOS, *, mode="w:gz", **about):
    """Return a tar of files; the last has other fields (`about`)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for index, (name, content) in enumerate(photos.items()):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if index == len(photos) - 1:
                for key, value in about.items():
                    setattr(info, key, value)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def make_boasting_tar():
    """Return a tar whose extended header says that it has 200 MB, and is as long when unpacked."""
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 200_000_000
    return gzip.compress(info.tobuf(tarfile.USTAR_FORMAT) + b"\0" * 200_000_000, 1)


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


REFUSED_TARS = {
    "dots": (make_tar({**PHOTOS, "../a.jpg": b"x"}), "unsafe-archive", "../a.jpg"),
    "absolute": (make_tar({**PHOTOS, "/etc/x": b"x"}), "unsafe-archive", "/etc/x"),
    "backslashes": (make_tar({**PHOTOS, "..\\x": b"x"}), "unsafe-archive", "x"),
    "device name": (make_tar({**PHOTOS, "a/nul": b"x"}), "unsafe-archive", "a/nul"),
    "link": (
        make_tar({**PHOTOS, "l": b""}, type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        "unsafe-archive", "'l'",
    ),
    "hard link": (
        make_tar({**PHOTOS, "l": b""}, type=tarfile.LNKTYPE, linkname=next(iter(PHOTOS))),
        "unsafe-archive", "'l'",
    ),
    "device": (make_tar({**PHOTOS, "d": b""}, type=tarfile.CHRTYPE), "unsafe-archive", "'d'"),
    "twice": (make_tar({**PHOTOS, "A/x": b"1", "a/X": b"2"}), "unsafe-archive", "twice"),
    "large": (
        make_tar({**PHOTOS, "zeros": b"\0" * 30_000_000}), "unsafe-archive", "0.02 GB"
    ),
    "many": (make_tar({str(i): b"" for i in range(60)}), "unsafe-archive", "50"),
    "cut off": (make_tar(mode="w")[:2000], "unreadable-archive", "archive"),
    "cut off and packed": (make_tar()[:-300], "unreadable-archive", "archive"),
    "boasting": (make_boasting_tar(), "unreadable-archive", "archive"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_TARS)
def test_nothing_of_a_hostile_tar_is_written(tmp_path, monkeypatch, name):
    content, code, fact = REFUSED_TARS[name]
    monkeypatch.setattr(archives, "MAX_MEMBERS", 50)
    path, folder = tmp_path / "archive", tmp_path / "folder"
    path.write_bytes(content)
    folder.mkdir()
    with pytest.raises(UserError) as caught:
        archives.unpack(path, folder, max_bytes=20_000_000)
    assert caught.value.code == code and fact in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not any(folder.iterdir()) or name.startswith("cut off")


@pytest.mark.parametrize(
    "content", [make_tar(mode=f"w:{kind}") for kind in ("", "gz", "bz2", "xz")] + [make_zip(PHOTOS)]
)
def test_an_archive_is_unpacked_as_it_is(tmp_path, content):
    path, folder = tmp_path / "archive", tmp_path / "folder"
    path.write_bytes(content)
    folder.mkdir()
    archives.unpack(path, folder, max_bytes=20_000_000)
    found = {
        one.relative_to(folder).as_posix(): one.read_bytes()
        for one in folder.rglob("*")
        if one.is_file()
    }
    assert found == PHOTOS


@pytest.mark.parametrize("name", ["dots", "absolute", "link", "encrypted", "bomb", "many", "short"])
def test_nothing_of_a_hostile_zip_is_written(tmp_path, monkeypatch, name):
    monkeypatch.setattr(archives, "MAX_MEMBERS", 50)
    path, folder = tmp_path / "archive", tmp_path / "folder"
    path.write_bytes(REFUSED[name][0])
    folder.mkdir()
    with pytest.raises(UserError) as caught:
        archives.unpack(path, folder, max_bytes=20_000_000)
    assert caught.value.code == "unsafe-archive"
    assert not any(folder.iterdir())
