"""The files of a folder are opened once, and what cannot be scored is sorted out."""

import struct
import zlib

import pytest
from external_images import draw_images, kinds, problems_of, read_folder
from PIL import Image

from dreambench.scoring import checking


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


def apng(path):
    frames = [Image.new("RGB", (64, 64), color) for color in ("red", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def animated_webp(path):
    frames = [Image.new("RGB", (64, 64), color) for color in ("red", "blue")]
    frames[0].save(path.with_suffix(".webp"), save_all=True, append_images=frames[1:])
    path.unlink()


def png_chunk(kind, content):
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def bomb(path):
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", b""), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks))


def other_format(path):
    Image.new("RGB", (64, 64)).save(path.with_suffix(".bmp"))
    path.unlink()


def cut(path):
    path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize(
    ("spoil", "name", "fact"),
    [
        (apng, "dog/red/1.png", "2 frames"),
        (animated_webp, "dog/red/1.webp", "2 frames"),
        (bomb, "dog/red/1.png", "64 megapixels"),
        (other_format, "dog/red/1.bmp", "PNG, JPEG or WebP"),
        (cut, "dog/red/1.png", "no end"),
    ],
)
def test_files_that_hold_no_one_image_are_named(read, folder, spoil, name, fact):
    spoil(folder / "dog" / "red" / "1.png")
    (problem,) = problems_of(read, folder)
    assert (problem.kind, problem.name, problem.n_images) == ("unreadable", name, 1)
    assert fact in problem.detail
    assert "/" not in problem.detail


def test_images_that_an_encoder_would_enlarge_are_too_small(read, folder):
    Image.linear_gradient("L").resize((200, 63)).save(folder / "mug" / "red" / "1.png")
    Image.linear_gradient("L").resize((200, 64)).save(folder / "mug" / "red" / "0.png")
    (problem,) = problems_of(read, folder)
    assert (problem.kind, problem.name) == ("too small", "mug/red/1.png")
    assert "200 x 63" in problem.detail and "64" in problem.detail
    assert read(folder, partial=True).manifest.images.min_side_px == 64


def test_black_and_doubled_images_stay_and_are_listed(read, folder):
    for path in (folder / "dog" / "red").iterdir():
        Image.new("RGB", (64, 64)).save(path)
    Image.open(folder / "mug" / "red" / "0.png").save(
        folder / "mug" / "red" / "1.png", optimize=True
    )
    same = (folder / "mug" / "prior" / "0.png").read_bytes()
    (folder / "mug" / "prior" / "1.png").write_bytes(same)
    found = read(folder)
    problems = found.manifest.problems
    assert kinds(problems) == {
        "black": ["dog/red/0.png", "dog/red/1.png"],
        "duplicated": ["dog/red/1.png", "mug/red/1.png", "mug/prior/1.png"],
    }
    details = {p.name: p.detail for p in problems if p.kind == "duplicated"}
    assert "pixels" in details["mug/red/1.png"] and "mug/red/0.png" in details["mug/red/1.png"]
    assert "bytes" in details["mug/prior/1.png"] and "mug/prior/0.png" in details["mug/prior/1.png"]
    assert found.manifest.partial is False
    assert len(found.files) == 12
    groups = found.manifest.images.problems
    assert {kind: group.n_images for kind, group in groups.items()} == {"black": 2, "duplicated": 3}


def test_lossy_files_are_counted_and_lossless_webp_is_not(read, folder):
    for name in ("dog/red/0", "dog/red/1"):
        image = Image.open(folder / f"{name}.png")
        image.load()
        (folder / f"{name}.png").unlink()
        image.save(folder / f"{name}.webp", lossless=True)
    assert read(folder).manifest.images.n_lossy == 0
    image.save(folder / "dog" / "red" / "1.webp", quality=90)
    for name in ("mug/red/0", "mug/red/1"):
        Image.open(folder / f"{name}.png").save(folder / f"{name}.jpg")
        (folder / f"{name}.png").unlink()
    assert read(folder).manifest.images.n_lossy == 3


def test_files_that_were_seen_before_are_not_opened_again(read, folder, monkeypatch):
    first = read(folder)
    opened = []
    monkeypatch.setattr(checking, "load_image", opened.append)
    again = read(folder)
    assert opened == []
    assert again.manifest == first.manifest
    monkeypatch.undo()
    Image.new("RGB", (64, 64)).save(folder / "dog" / "red" / "0.png")
    assert kinds(read(folder).manifest.problems) == {"black": ["dog/red/0.png"]}
