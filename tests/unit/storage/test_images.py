"""Images of strangers: what is read as RGB, and what is refused in one line."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dreambench.storage import images
from dreambench.storage.image_damage import ADAM7


def save(path, image, **options):
    image.save(path, **options)
    return path


def test_images_of_every_mode_become_rgb(tmp_path):
    for mode in ("L", "P", "RGBA", "CMYK", "1"):
        suffix = "jpg" if mode == "CMYK" else "png"
        path = save(tmp_path / f"{mode}.{suffix}", Image.new(mode, (9, 7)))
        assert images.load_image(path).mode == "RGB"


def noise(*shape, dtype=np.uint8):
    """Pixels of every value."""
    high = np.iinfo(dtype).max + 1
    return np.random.default_rng(0).integers(0, high, shape).astype(dtype)


def pixels_of(path):
    return np.asarray(images.load_image(path))


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        ("RGB", "png"), ("L", "png"), ("P", "png"), ("1", "png"), ("RGB", "jpg"), ("L", "jpg"),
        ("RGB", "webp"),
    ],
)  # fmt: skip
def test_ordinary_images_have_pils_own_pixels(tmp_path, mode, suffix):
    image = Image.fromarray(noise(40, 30, 3)).convert(mode)
    path = save(tmp_path / f"x.{suffix}", image)
    with Image.open(path) as plain:
        assert np.array_equal(pixels_of(path), np.asarray(plain.convert("RGB")))
    if suffix == "png":
        assert np.array_equal(pixels_of(path), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_an_opaque_alpha_changes_no_bit(tmp_path, mode):
    image = Image.fromarray(noise(40, 30, 3)).convert("L" if mode == "LA" else "RGB")
    path = save(tmp_path / "x.png", image.convert(mode))
    with Image.open(path) as opened:
        assert opened.has_transparency_data
    assert np.array_equal(pixels_of(path), np.asarray(image.convert("RGB")))


def test_transparency_is_composited_on_white(tmp_path):
    for mode in ("RGBA", "LA"):
        image = Image.fromarray(noise(40, 30, 4)).convert(mode)
        path = save(tmp_path / f"{mode}.png", image)
        values = np.asarray(image.convert("RGBA")).astype(float)
        alpha = values[..., 3:] / 255
        by_hand = values[..., :3] * alpha + 255 * (1 - alpha)
        assert np.abs(pixels_of(path) - by_hand).max() <= 1
    save(tmp_path / "lossless.webp", image.convert("RGBA"), lossless=True, exact=True)
    assert np.array_equal(pixels_of(tmp_path / "lossless.webp"), pixels_of(tmp_path / "LA.png"))


def test_a_transparent_colour_of_a_palette_or_a_key_is_white(tmp_path):
    image = Image.fromarray(noise(40, 30, 3)).quantize(4)
    path = save(tmp_path / "palette.png", image, transparency=2)
    clear = np.asarray(image) == 2
    assert clear.any()
    assert (pixels_of(path)[clear] == 255).all()
    plain = np.asarray(image.convert("RGB"))
    assert np.array_equal(pixels_of(path)[~clear], plain[~clear])
    grey = Image.fromarray(noise(40, 30))
    path = save(tmp_path / "key.png", grey, transparency=7)
    shown, values = pixels_of(path)[..., 0], np.asarray(grey)
    assert (values == 7).any()
    assert np.array_equal(shown, np.where(values == 7, 255, values))


def png_of(pixels, colour_type, *extra):
    """A PNG of 16 bits a channel, which PIL itself does not write in colour."""
    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    body = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(body)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def test_sixteen_bits_are_scaled_and_not_cut_off(tmp_path):
    grey, colour = noise(20, 10, dtype=np.uint16), noise(20, 10, 3, dtype=np.uint16)
    (tmp_path / "grey.png").write_bytes(png_of(grey, 0))
    (tmp_path / "colour.png").write_bytes(png_of(colour, 2))
    assert np.array_equal(pixels_of(tmp_path / "grey.png")[..., 0], grey >> 8)
    assert np.array_equal(pixels_of(tmp_path / "colour.png"), colour >> 8)
    # Eight bits that were made sixteen, by either usual way, are themselves again.
    eight = noise(20, 10).astype(np.uint16)
    for wide in (eight * 257, eight << 8):
        (tmp_path / "wide.png").write_bytes(png_of(wide, 0))
        assert np.array_equal(pixels_of(tmp_path / "wide.png")[..., 0], eight)


def test_sixteen_bits_with_a_transparent_value(tmp_path):
    grey, colour = noise(20, 10, dtype=np.uint16), noise(20, 10, 3, dtype=np.uint16)
    key = (b"tRNS", struct.pack(">H", int(grey[3, 3])))
    (tmp_path / "grey.png").write_bytes(png_of(grey, 0, key))
    shown = pixels_of(tmp_path / "grey.png")[..., 0]
    assert np.array_equal(shown, np.where(grey == grey[3, 3], 255, grey >> 8))
    key = (b"tRNS", struct.pack(">HHH", *map(int, colour[3, 3])))
    (tmp_path / "colour.png").write_bytes(png_of(colour, 2, key))
    with pytest.raises(images.ImageError) as caught:
        images.load_image(tmp_path / "colour.png")
    assert caught.value.code == "unusable-image"
    assert "transparent 16-bit" in caught.value.reason


def test_a_cmyk_jpeg_has_its_colours(tmp_path):
    image = Image.new("RGB", (16, 16), (250, 30, 60)).convert("CMYK")
    path = save(tmp_path / "x.jpg", image, quality=95)
    assert np.abs(pixels_of(path).astype(int) - (250, 30, 60)).max() < 12


def test_animations_are_refused_and_a_phones_jpeg_gives_its_first_picture(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    for name in ("x.png", "x.webp"):
        save(tmp_path / name, frames[0], save_all=True, append_images=frames[1:])
        with pytest.raises(images.ImageError) as caught:
            images.load_image(tmp_path / name)
        assert caught.value.code == "unusable-image"
        assert "3 frames" in caught.value.reason
    path = save(
        tmp_path / "x.jpg", frames[0], format="MPO", save_all=True, append_images=frames[1:]
    )
    assert images.load_image(path).getpixel((4, 4))[0] > 240


def test_lossy_files_are_detected_by_content(tmp_path):
    image = Image.fromarray(noise(16, 16, 4))
    lossy = {
        "a.png": ({}, False), "b.webp": ({"lossless": True}, False), "c.webp": ({}, True),
        "d.webp": ({"lossless": True, "exif": b"Exif\0\0"}, False),
    }  # fmt: skip
    for name, (options, wanted) in lossy.items():
        path = save(tmp_path / name, image, **options)
        assert images.is_lossy(path.rename(path.with_suffix(".png"))) is wanted
    assert images.is_lossy(save(tmp_path / "e.jpg", image.convert("RGB")))


@pytest.mark.filterwarnings("ignore:::PIL")
def test_damaged_files_never_end_in_a_traceback(tmp_path):
    """Bytes changed, cut and put in at random: an image or an ImageError, nothing else."""
    rng = np.random.default_rng(0)
    pixels = Image.fromarray(noise(12, 12, 4))
    exif = Image.Exif()
    exif[0x0112] = 6
    sources = []
    for name, options in (
        ("a.png", {"exif": exif}), ("b.webp", {"exif": exif}), ("c.jpg", {"exif": exif}),
        ("d.png", {"save_all": True, "append_images": [pixels]}),
    ):  # fmt: skip
        image = pixels.convert("RGB") if name == "c.jpg" else pixels
        sources.append(save(tmp_path / name, image, **options).read_bytes())
    n_faults = 0
    for index in range(1500):
        content = bytearray(sources[index % len(sources)])
        for _ in range(int(rng.integers(1, 6))):
            content[int(rng.integers(len(content)))] = int(rng.integers(256))
        if index % 5 == 0:
            del content[int(rng.integers(len(content))) :]
        if content.startswith(b"\x89PNG"):
            content = with_right_checksums(bytes(content))
        (tmp_path / "damaged").write_bytes(content)
        try:
            assert images.load_image(tmp_path / "damaged").mode == "RGB"
        except images.ImageError:
            n_faults += 1
    assert 100 < n_faults < 1500


def with_right_checksums(content):
    """A PNG with right checksums, so that what is wrong gets further than the first check."""
    place, parts = 8, [content[:8]]
    while place + 8 <= len(content):
        n_bytes = int.from_bytes(content[place : place + 4], "big")
        kind, body = content[place + 4 : place + 8], content[place + 8 : place + 8 + n_bytes]
        parts.append(png_chunk(kind, body))
        place += 12 + n_bytes
    return b"".join(parts)


def test_a_text_bomb_is_refused(tmp_path):
    info = PngInfo()
    info.add_text("x", "a" * 200_000_000, zip=True)
    path = save(tmp_path / "x.png", Image.new("RGB", (8, 8)), pnginfo=info)
    assert path.stat().st_size < 1_000_000
    with pytest.raises(images.ImageError) as caught:
        images.load_image(path)
    assert caught.value.code == "unusable-image"


def test_a_fault_says_why_without_saying_where(tmp_path):
    (tmp_path / "x.png").write_bytes(b"no picture")
    for name in ("x.png", "none.png"):
        with pytest.raises(images.ImageError) as caught:
            images.load_image(tmp_path / name)
        assert str(tmp_path / name) in caught.value.problem
        assert str(tmp_path) not in caught.value.reason


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "turned.jpg", Image.new("RGB", (20, 10)), exif=exif)
    assert images.load_image(path).size == (10, 20)


def png_chunk(kind, content):
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def test_bomb_is_refused_without_unpacking(tmp_path):
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    path = tmp_path / "bomb.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", b"")
        + png_chunk(b"IEND", b"")
    )
    with pytest.raises(images.ImageError) as caught:
        images.load_image(path)
    assert caught.value.code == "unusable-image"


@pytest.mark.parametrize("content", [b"", b"hello", b"GIF89a" + b"\0" * 30])
def test_what_is_no_image_is_one_line(tmp_path, content):
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(images.ImageError) as caught:
        images.load_image(path)
    assert caught.value.code == "unusable-image"


def test_cut_image_is_one_line(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    path = save(tmp_path / "cut.png", Image.fromarray(pixels))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(images.ImageError) as caught:
        images.load_image(path)
    assert caught.value.code == "unusable-image"


def test_missing_image_is_one_line(tmp_path):
    with pytest.raises(images.ImageError) as caught:
        images.load_image(tmp_path / "none.png")
    assert caught.value.code == "unusable-image"


@pytest.mark.parametrize("side_px", [None, 4])
def test_a_mask_is_what_is_lighter_than_the_middle(tmp_path, side_px):
    greys = np.array([[0, 1, 127, 128, 200, 255]] * 6, np.uint8)
    Image.fromarray(greys).save(tmp_path / "mask.png")
    found = images.load_mask(tmp_path / "mask.png", side_px=side_px)
    if side_px is None:
        assert np.array_equal(found, greys > 127)
    else:
        # Cut square and resized as its photo is, and then split.
        assert found.shape == (4, 4) and found.dtype == bool
        assert found[:, 3].all() and not found[:, 0].any()


@pytest.mark.parametrize("share", [0.03, 0.1, 0.3, 0.5])
@pytest.mark.parametrize(
    ("suffix", "options"), [("png", {}), ("jpg", {}), ("jpg", {"progressive": True})]
)
@pytest.mark.parametrize("how", ["zeroed", "cut"])
def test_what_is_left_of_a_torn_file_is_no_picture(tmp_path, share, suffix, options, how):
    """A decoder fills the rest with black or grey, which would be scored as if it had been made."""
    path = tmp_path / f"torn.{suffix}"
    pixels = np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)
    images.load_image(path)
    whole = path.read_bytes()
    n_left = int(len(whole) * (1 - share))
    path.write_bytes(whole[:n_left] + (bytes(len(whole) - n_left) if how == "zeroed" else b""))
    with pytest.raises(images.ImageError):
        images.load_image(path)


def test_a_bit_of_a_png_that_flipped_is_found_wherever_it_is(tmp_path):
    path = tmp_path / "flipped.png"
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    whole = path.read_bytes()
    for place in range(8, len(whole), 7):
        changed = bytearray(whole)
        changed[place] ^= 1 << (place % 8)
        path.write_bytes(changed)
        with pytest.raises(images.ImageError):
            images.load_image(path)


def test_what_follows_the_end_of_a_picture_does_no_harm(tmp_path):
    for suffix in ("png", "jpg", "webp"):
        path = tmp_path / f"more.{suffix}"
        Image.new("RGB", (20, 30), "red").save(path)
        before = images.load_image(path).tobytes()
        path.write_bytes(path.read_bytes() + b"trailing\xff\x00bytes")
        assert images.load_image(path).tobytes() == before


@pytest.mark.parametrize("options", [{"quality": 80}, {"lossless": True}])
@pytest.mark.parametrize("how", ["cut", "zeros", "length", "part"])
def test_a_webp_that_is_not_whole_is_refused(tmp_path, options, how):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (96, 96, 3)).astype(np.uint8)).resize((300, 300))
    stream = io.BytesIO()
    image.save(stream, "WEBP", **options)
    content = bytearray(stream.getvalue())
    path = tmp_path / "whole.webp"
    path.write_bytes(content)
    assert images.load_image(path).size == (300, 300)
    if how == "cut":
        del content[-2000:]
    elif how == "zeros":
        n_zeros = len(content) // 3
        content[-n_zeros:] = bytes(n_zeros)
    elif how == "length":
        content[4:8] = (len(content) + 1000).to_bytes(4, "little")
    else:
        content[16:20] = (len(content) + 1000).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(images.ImageError):
        images.load_image(path)


@pytest.mark.parametrize(
    "options", [{"quality": 80}, {"quality": 100, "method": 0}, {"lossless": True, "quality": 0},
                {"lossless": True, "quality": 0, "method": 0}]
)  # fmt: skip
def test_a_webp_whose_last_rows_are_alike_is_whole(tmp_path, options):
    pixels = np.full((256, 256, 3), 255, np.uint8)
    pixels[:64] = np.random.default_rng(0).integers(0, 256, (64, 256, 3))
    for name, shown in {"plain": np.zeros_like(pixels), "noise on top": pixels}.items():
        Image.fromarray(shown).save(tmp_path / f"{name}.webp", **options)
        assert images.load_image(tmp_path / f"{name}.webp").size == (256, 256)


JPEG_KINDS = (
    {}, {"optimize": True}, {"progressive": True}, {"subsampling": 0},
    {"restart_marker_blocks": 3},
)  # fmt: skip


@pytest.mark.parametrize("options", JPEG_KINDS, ids=str)
@pytest.mark.parametrize("quality", [5, 75, 100])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_whole_jpegs_of_every_kind_are_read(tmp_path, options, quality, mode):
    sizes = [(64, 64), (37, 100), (1, 1)]
    for height, width in sizes:
        shapes = [np.full((height, width, 3), level) for level in (0, 77, 255)]
        shapes += [noise(height, width, 3), np.linspace(0, 255, height * width * 3)]
        for shape in shapes:
            pixels = Image.fromarray(shape.astype(np.uint8).reshape(height, width, 3))
            path = save(tmp_path / "a.jpg", pixels.convert(mode), quality=quality, **options)
            assert images.load_image(path).size == (width, height)


@pytest.mark.parametrize("options", JPEG_KINDS, ids=str)
@pytest.mark.parametrize("share", [0.4, 0.7, 0.95])
def test_a_jpeg_whose_pixels_end_before_it_does_is_refused(tmp_path, options, share):
    path = save(tmp_path / "a.jpg", Image.fromarray(noise(80, 120, 3)), **options)
    content = path.read_bytes()
    cut = content[: int(len(content) * share)]
    zeros = bytes(len(content) - len(cut) - 2)
    for spoilt in (cut, cut + zeros):
        path.write_bytes(spoilt + b"\xff\xd9")
        with pytest.raises(images.ImageError) as caught:
            images.load_image(path)
        assert "is damaged: its pixels end" in str(caught.value)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (17, 9), (64, 64)])
def test_a_png_that_says_more_rows_than_it_has_is_refused(tmp_path, mode, size):
    path = save(tmp_path / "a.png", Image.new(mode, size))
    assert images.load_image(path).size == size
    content = bytearray(path.read_bytes())
    content[20:24] = (size[1] + 3).to_bytes(4, "big")
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)
    with pytest.raises(images.ImageError) as caught:
        images.load_image(path)
    assert "fewer pixels than it says" in str(caught.value)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
@pytest.mark.parametrize("n_rows", [0, 1, 8])
def test_a_png_without_its_last_rows_is_refused_whatever_its_pixels_are(tmp_path, mode, n_rows):
    pixels = Image.fromarray(noise(9, 7, 3)).convert(mode)
    whole = save(tmp_path / "whole.png", pixels).read_bytes()
    assert images.load_image(tmp_path / "whole.png").size == pixels.size
    start = whole.index(b"IDAT") + 4
    rows = zlib.decompressobj().decompress(whole[start:])
    data = b"IDAT" + zlib.compress(rows[: len(rows) // 9 * n_rows])
    part = (len(data) - 4).to_bytes(4, "big") + data + zlib.crc32(data).to_bytes(4, "big")
    path = tmp_path / "short.png"
    path.write_bytes(whole[: start - 8] + part + whole[-12:])
    with pytest.raises(images.ImageError) as caught:
        images.load_image(path)
    assert "fewer pixels than it says" in str(caught.value)


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        ((1, 0, 2), "first part"),
        ((0, 0, 1, 2), "only one"),
        ((0, 1, 3, 1, 2), "stands between its pixels"),
    ],
)
def test_a_png_whose_parts_are_out_of_order_is_refused(tmp_path, order, reason):
    path = save(tmp_path / "a.png", Image.new("RGB", (8, 8)))
    content = path.read_bytes()
    header, pixels, end = content[8:33], content[33:-12], content[-12:]
    text = b"\0\0\0\0tEXt" + zlib.crc32(b"tEXt").to_bytes(4, "big")
    parts = (header, pixels, end, text)
    path.write_bytes(content[:8] + b"".join(parts[i] for i in (0, 3, 1, 3, 2)))
    assert images.load_image(path).size == (8, 8)
    path.write_bytes(content[:8] + b"".join(parts[i] for i in order))
    with pytest.raises(images.ImageError) as caught:
        images.load_image(path)
    assert reason in str(caught.value)


@pytest.mark.parametrize("more", [b"\0", b"\0\0", bytes(100)])
def test_a_png_with_a_longer_header_is_refused(tmp_path, more):
    path = save(tmp_path / "a.png", Image.new("RGB", (8, 8)))
    content = path.read_bytes()
    header = content[12:29] + more
    length, check = (n.to_bytes(4, "big") for n in (13 + len(more), zlib.crc32(header)))
    path.write_bytes(content[:8] + length + header + check + content[33:])
    with pytest.raises(images.ImageError) as caught:
        images.load_image(path)
    assert f"header has {13 + len(more)} bytes" in str(caught.value)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (4, 3), (5, 5), (8, 8), (9, 17), (64, 33)])
def test_an_interlaced_png_has_the_bytes_of_seven_passes(tmp_path, width, height):
    """Written here, since PIL only reads them."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    grey = noise(height, width)
    rows = [
        b"\0" + grey[y, x0::dx].tobytes()
        for x0, dx, y0, dy in ADAM7
        for y in range(y0, height, dy)
        if x0 < width
    ]
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 1)
    path = tmp_path / "a.png"
    for lines, is_whole in ((rows, True), (rows[:-1], False)):
        data = zlib.compress(b"".join(lines))
        path.write_bytes(
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", header)
            + chunk(b"IDAT", data)
            + chunk(b"IEND", b"")
        )
        if is_whole:
            assert np.array_equal(np.asarray(images.load_image(path))[..., 0], grey)
        else:
            with pytest.raises(images.ImageError):
                images.load_image(path)
