"""What is not a photo, archive or file is said to be what it is, with the next step."""

import io
import os

import numpy as np
import pytest
from conftest import invoke, refused_at_once
from PIL import Image
from small_photos import PHOTOS, make_zip, quiet, write_index

from dreambench.datasets import fetch
from dreambench.datasets.custom_subjects import load_photos
from dreambench.errors import UserError
from dreambench.storage import archives
from dreambench.storage.formats import explain_absence, recognise
from dreambench.storage.images import ImageError, load_image

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n"


def picture(kind, **options):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


# Content -> (what it is, fact of the next step).
OTHERS = {
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC", "save it as PNG or JPEG"),
    "heif": (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC", "save it as PNG or JPEG"),
    "avif": (b"\0\0\0\x1cftypavif\0\0\0\0", "AVIF", "save it as PNG or JPEG"),
    "tiff": (picture("TIFF"), "TIFF", "save it as PNG or JPEG"),
    "tiff, big end": (b"MM\0*\0\0\0\x08", "TIFF", "save it as PNG or JPEG"),
    "gif": (picture("GIF"), "GIF", "save it as PNG or JPEG"),
    "bmp": (picture("BMP"), "BMP", "save it as PNG or JPEG"),
    "ico": (picture("ICO"), "ICO", "save it as PNG or JPEG"),
    "jpeg 2000": (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000", "save it as PNG or JPEG"),
    "jpeg xl": (b"\xff\x0a\xfa", "JPEG XL", "save it as PNG or JPEG"),
    "psd": (b"8BPS\0\x01", "Photoshop", "save it as PNG or JPEG"),
    "svg": (b"<?xml version='1.0'?>\n<svg xmlns=''>", "SVG", "save it as PNG or JPEG"),
    "lfs": (LFS, "git-lfs pointer", "git lfs pull"),
    "html": (b"\n<!DOCTYPE html><html>log in</html>", "web page", "login"),
    "empty": (b"", "empty", "again"),
    "zeros": (b"\0" * 4000, "zero bytes", "again"),
    "zip": (make_zip(PHOTOS), "zip archive", "unpack"),
    "pdf": (b"%PDF-1.7", "PDF", "another"),
    "video": (b"\0\0\0\x18ftypisom", "video", "another"),
    "text": (b"a dog", "not a PNG, JPEG or WebP", "again"),
    "half a head": (b"\x89PNG\r\n", "PNG", "again"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_photo_is_named_with_the_next_step(tmp_path, name):
    content, fact, step = OTHERS[name]
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError) as caught:
        load_image(path)
    assert fact in caught.value.reason and step in caught.value.hint
    assert str(tmp_path) not in caught.value.reason


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_what_is_read_is_recognised_too(kind):
    found = recognise(picture(kind)[:512])
    assert found.name.upper() == kind and found.kind == "picture"


def make_obstacles(folder):
    """Path -> (what the line says of it, fact of the next step)."""
    (folder / "photos").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "dangling").symlink_to("gone.jpg")
    (folder / "loop").symlink_to("loop")
    (folder / "through").symlink_to(folder / "photos")
    return {
        folder / "photos": ("is a folder", "photos/*"),
        folder / "through": ("is a folder", "through/*"),
        folder / "pipe": ("is a pipe", "file"),
        folder / "dangling": ("is a link to a file that is not there", "gone.jpg"),
        folder / "loop": ("leads back to itself", "remove"),
        folder / "nothere" / "*.jpg": ("no file matches it", "folder"),
        folder / "gone.jpg": ("is not there", "restore"),
        folder / ("x" * 300): ("too long", "shorter"),
    }


def test_what_is_in_the_way_of_a_photo_is_said(tmp_path):
    for path, (fact, step) in make_obstacles(tmp_path).items():
        with pytest.raises(ImageError) as caught:
            load_image(path)
        assert fact in caught.value.reason.replace("name too long", "too long").lower()
        assert step in caught.value.hint, path
        words = ("data", "add", "d", path, "--class", "dog", "--to", tmp_path / "subs")
        line = refused_at_once(*words)
        assert str(path) in line and step in line
        assert "px" not in line  # The size of photos is not what is wrong.


def test_a_device_and_quoted_paths_are_said(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    from pathlib import Path  # noqa: PLC0415

    assert explain_absence(Path("/dev/null"))[0] == "is a device and not a file"
    assert "quotes" in " ".join(explain_absence(Path("~/a.jpg")))
    assert "blank" in " ".join(explain_absence(Path("a.jpg ")))


def test_a_photo_that_may_not_be_read_says_so(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(picture("PNG"))

    def forbid(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(type(path), "read_bytes", forbid)
    with pytest.raises(ImageError, match="Permission denied") as caught:
        load_image(path)
    assert "permissions" in caught.value.hint


@pytest.mark.parametrize(("width", "height"), [(9_000, 8_000), (12_000, 9_000), (20_000, 20_000)])
def test_the_limit_of_megapixels_is_stated(tmp_path, width, height):
    path = tmp_path / "a.png"
    image = Image.new("1", (width, height))
    image.save(path)
    with pytest.raises(ImageError, match="64 megapixels"):
        load_image(path)


def test_all_that_is_wrong_with_photos_is_named_at_once(tmp_path):
    paths = [tmp_path / name for name in ("a.heic", "small.png", "gone.png", "black.png")]
    paths[0].write_bytes(OTHERS["heic"][0])
    Image.new("RGB", (20, 20)).save(paths[1])
    Image.new("RGB", (300, 300)).save(paths[3])
    with pytest.raises(UserError) as caught:
        load_photos(paths, min_side_px=256)
    text = str(caught.value)
    for fact in (*map(str, paths), "HEIC", "20 x 20", "is not there", "one colour, black", "256"):
        assert fact in text


@pytest.mark.parametrize(
    ("mode", "colour", "fact"),
    [
        ("RGB", "black", "black"), ("RGB", "white", "white"), ("RGB", (9, 9, 200), "(9, 9, 200)"),
        ("L", 128, "one colour"), ("RGBA", (200, 30, 30, 0), "transparent"),
    ],
)  # fmt: skip
def test_a_photo_of_one_colour_is_refused(tmp_path, mode, colour, fact):
    path = tmp_path / "a.png"
    Image.new(mode, (300, 300), colour).save(path)
    with pytest.raises(UserError, match="one colour") as caught:
        load_photos([path], min_side_px=256)
    assert fact in caught.value.problem and caught.value.code == "unusable-image"


def test_a_dark_photo_is_a_photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 12, (300, 300, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "night.png")
    assert len(load_photos([tmp_path / "night.png"], min_side_px=256)) == 1


def test_photos_have_a_limit_together(tmp_path, monkeypatch):
    from dreambench.datasets import custom_subjects  # noqa: PLC0415

    monkeypatch.setattr(custom_subjects, "MAX_PIXELS", 1_000_000)
    (tmp_path / "a.png").write_bytes(picture("PNG"))
    with pytest.raises(UserError, match="megapixels") as caught:
        load_photos([tmp_path / "a.png"] * 20, min_side_px=256)
    assert caught.value.code == "too-large"


def test_a_name_that_is_too_long_is_refused_before_a_photo_is_read(tmp_path):
    words = ("data", "add", "a" * 300, tmp_path / "gone.jpg", "--class", "dog", "--to", tmp_path)
    line = refused_at_once(*words)
    assert "300 characters" in line and "gone" not in line


ARCHIVES = {
    "rar": (b"Rar!\x1a\x07\x01\0" + b"x" * 99, "rar archive", "unpack"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + b"x" * 99, "7z archive", "unpack"),
    "gz": (b"\x1f\x8b\x08" + b"x" * 99, "gzip", "unpack"),
    "lfs": (LFS, "git-lfs pointer", "git lfs pull"),
    "page": (b"<html>log in</html>", "web page", "login"),
    "photo": (picture("JPEG"), "JPEG", "folder"),
    "empty": (b"", "empty", "again"),
    "cut zip": (make_zip(PHOTOS)[:500], "complete zip", "again"),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_what_is_no_zip_archive_is_named_with_the_next_step(tmp_path, name):
    content, fact, step = ARCHIVES[name]
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(UserError) as caught:
        list(archives.read_members(tmp_path / "a.zip", lambda size: True))
    assert fact in caught.value.problem and step in caught.value.hint
    assert caught.value.code == "unreadable-archive"


@pytest.mark.parametrize(
    ("content", "fact"),
    [(make_zip(PHOTOS), "1 x a zip archive"), (LFS, "1 x a git-lfs pointer")],
)
@pytest.mark.parametrize("unpacked", [False, True])
def test_what_a_source_holds_in_place_of_photos_is_said(
    tmp_path, monkeypatch, content, fact, unpacked
):
    monkeypatch.setenv("DREAMBENCH_CACHE", str(tmp_path / "cache"))
    source = tmp_path / "source"
    if unpacked:
        source.mkdir()
        (source / "file").write_bytes(content)
    else:
        source.write_bytes(make_zip({"file": content}))
    with pytest.raises(UserError, match="lacks 4 of 4") as caught:
        fetch.fetch_photos(write_index(tmp_path), source=str(source), progress=quiet)
    assert fact in caught.value.problem


def test_damaged_archives_are_one_line(tmp_path):
    """Bytes changed at random: whatever zipfile makes of them, no traceback."""
    names = {"caf\xe9/00.jpg": b"x" * 300, **PHOTOS}
    sources = [make_zip(names, kind) for kind in (0, 8, 12, 14)]
    random = np.random.default_rng(0)
    path = tmp_path / "a.zip"
    n_refused = 0
    for trial in range(1200):
        content = bytearray(sources[trial % 4])
        head = len(content) - 700 if trial % 3 else 0  # Mostly the directory, at its end.
        for _ in range(random.integers(1, 6)):
            content[random.integers(head, len(content))] = random.integers(0, 256)
        path.write_bytes(content)
        try:
            list(archives.read_members(path, lambda size, odd=trial % 2: odd))
        except UserError as error:
            n_refused += 1
            assert "\n" not in str(error) and len(str(error)) < 600
    assert n_refused > 300


def test_an_export_without_its_packages_leaves_nothing(tmp_path, monkeypatch):
    import importlib.util  # noqa: PLC0415

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *w: None if name == "mlcroissant" else find(name)
    )
    line = refused_at_once("data", "export", "--dataset", "mini", "--to", tmp_path / "new")
    assert "dreambench[export]" in line and not (tmp_path / "new").exists()


def test_an_export_that_fails_leaves_nothing_in_the_way(tmp_path, monkeypatch):
    from dreambench.datasets import export  # noqa: PLC0415

    def fail(*words):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(export, "_write_croissant", fail)
        line = refused_at_once("data", "export", "--dataset", "mini", "--to", tmp_path / "new")
    assert "No space left" in line and not list((tmp_path / "new").iterdir())
    invoke("data", "export", "--dataset", "mini", "--to", tmp_path / "new")
