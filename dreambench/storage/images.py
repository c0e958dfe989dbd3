"""Images in and out: untrusted files read as RGB pixels, generated images as PNG bytes."""

from __future__ import annotations

import io
import itertools
import json
import os
import struct
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, ImageStat, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from dreambench.errors import UserError, explain_os_error
from dreambench.storage.formats import HEAD_BYTES, advise, explain_absence, recognise
from dreambench.types import Mask

MAX_IMAGE_PIXELS = 64_000_000
MAX_IMAGE_BYTES = 100_000_000
FORMATS = ("PNG", "JPEG", "WEBP")
MAX_ZEROS = 32
"""More zeros than these end the coded pixels of a JPEG or WebP only where these are all alike."""
PIXELS_PER_ZERO = {b"VP8 ": 20, b"VP8L": 2}
"""An encoder writes no more zeros than one for so many pixels (libwebp at its fastest: 49 lossy,
3.5 lossless)."""
SAME_LEVELS = 16
INFLATED_BYTES = 1_000_000
MAX_PNG_PARTS = 100_000
"""Far more than the pixels of the largest image take in the smallest pieces that encoders write."""
PNG_HEADER_BYTES = 13
PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
ADAM7 = (
    (0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2),
    (0, 1, 1, 2),
)  # fmt: skip
NOT_WRITTEN = "its pixels end in zeros, as those of a file that was not written to its end"
JPEG_FILLER = b"\x55\xaa\x33" * 700
# What PIL raises on damaged files, besides UnidentifiedImageError; found by damaging files.
_DAMAGE = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, struct.error, zlib.error,
)  # fmt: skip


class ImageError(UserError):
    """The image file `path` cannot be used; `reason` says why without saying where it is."""

    def __init__(self, path: Path, reason: str, *, hint: str = "replace the file") -> None:
        super().__init__(f"{path} {reason}", hint=hint, code="unusable-image")
        self.path = path
        self.reason = " ".join(reason.split())


def load_image(path: Path) -> Image.Image:
    """Load an image of unknown origin as 8-bit RGB, upright.

    PNG, JPEG and WebP, detected by content. Transparency is composited on white; of 16 bits a
    channel the high 8 stay; CMYK is converted by the plain formula, since no colour profile is
    applied to any image. A JPEG that holds several pictures (MPO) gives its first.

    Raises:
        ImageError: for a file that is missing, not an image, damaged, animated or too large.
    """
    try:
        if not path.is_file():
            reason, hint = explain_absence(path)
            raise ImageError(path, reason, hint=hint)
        if path.stat().st_size > MAX_IMAGE_BYTES:
            raise _too_large(path, f"is a file of over {MAX_IMAGE_BYTES // 1_000_000} MB")
        content = path.read_bytes()
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _check_image(path, image, content)
            return _to_rgb(ImageOps.exif_transpose(image))
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise _not_an_image(path, content[:HEAD_BYTES]) from error
    except Image.DecompressionBombError as error:
        raise _too_large(path, f"has over {MAX_IMAGE_PIXELS // 1_000_000} megapixels") from error
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            hint = explain_os_error(error, reads=True).hint
            raise ImageError(path, f"cannot be read ({error.strerror})", hint=hint) from error
        raise ImageError(path, f"cannot be read as an image ({error})") from error


class PixelBudget:
    """Lets threads decode images at the same time as long as these have MAX_IMAGE_PIXELS together.

    So one image of the largest size has all the memory that decoding may take, about 1 GB, and of
    ordinary ones as many are decoded at once as there are threads.
    """

    def __init__(self) -> None:
        self._left = MAX_IMAGE_PIXELS
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, path: Path) -> Iterator[None]:
        """Wait until an image may be decoded, and keep its share while the context is open."""
        n_pixels = min(_count_pixels(path), MAX_IMAGE_PIXELS)
        with self._changed:
            self._changed.wait_for(lambda: self._left >= n_pixels)
            self._left -= n_pixels
        try:
            yield
        finally:
            with self._changed:
                self._left += n_pixels
                self._changed.notify_all()


def _count_pixels(path: Path) -> int:
    """Return width times height by the head of an image file; 0 for what `load_image` refuses."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.width * image.height
    except (*_DAMAGE, Image.DecompressionBombError):
        return 0


def _check_image(path: Path, image: Image.Image, content: bytes) -> None:
    """Raise ImageError for an opened image that is too large, animated or damaged."""
    if image.width * image.height > MAX_IMAGE_PIXELS:
        size = f"{image.width} x {image.height} pixels"
        raise _too_large(path, f"has {size}, over {MAX_IMAGE_PIXELS // 1_000_000} megapixels")
    n_frames = getattr(image, "n_frames", 1)
    if n_frames > 1 and image.format != "MPO":
        one = "save the frame that you mean as a file of its own"
        raise ImageError(path, f"is animated ({n_frames} frames)", hint=one)
    if reason := _find_damage(content, image):
        raise ImageError(path, f"is damaged: {reason}", hint="copy or download it again")
    if "transparency" in image.info and _raw_mode(image) == "RGB;16B":
        # PIL keeps 8 bits of each colour and so cannot tell which pixels are meant.
        raise ImageError(path, "has a transparent 16-bit colour", hint="save it as RGBA")


def _too_large(path: Path, what: str) -> ImageError:
    return ImageError(path, f"{what}, the most that is read", hint="use a smaller version of it")


def _not_an_image(path: Path, head: bytes) -> ImageError:
    """Return the error for bytes that are no image of ours, which says what they are instead."""
    what, hint = "it is not a PNG, JPEG or WebP file", "copy or download it again"
    if (found := recognise(head)) is not None:
        what = f"it is damaged {found.name}"
        if found.name not in ("PNG", "JPEG", "WebP"):
            what, hint = f"it is {found.name}, not PNG, JPEG or WebP", advise(found)
    return ImageError(path, f"cannot be read as an image ({what})", hint=hint)


def _find_damage(content: bytes, image: Image.Image) -> str:
    """Return what shows that the bytes of an image are not those that were written; "" for nothing.

    A decoder fills what it cannot read with black or grey, which a score would take for a picture.
    PNG has a checksum in each chunk, and says how many bytes its pixels are. A JPEG has an end, and
    pixels up to there. A WebP has the lengths of its parts.
    """
    if image.format == "PNG":
        return _find_png_damage(content)
    if image.format == "WEBP":
        return _find_webp_damage(content, image)
    end = _find_jpeg_end(content)
    return "it has no end" if end is None else _find_jpeg_damage(content[:end])


def _count_png_bytes(header: bytes) -> int:
    """Return how many bytes the filtered rows of a PNG are (W3C PNG, sections 7.2 and 8)."""
    width, height, depth, kind, _, _, is_interlaced = struct.unpack(">IIBBBBB", header[:13])
    bits = depth * PNG_CHANNELS[kind]
    # Adam7: the start and the step of columns and rows of each pass.
    passes = ADAM7 if is_interlaced else ((0, 1, 0, 1),)
    total = 0
    for left, across, top, down in passes:
        columns, rows = -((left - width) // across), -((top - height) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * bits + 7) // 8)
    return total


def _find_png_damage(content: bytes) -> str:
    """Look for wrong checksums, wrong order, and fewer bytes of pixels than the image's size asks.

    The order is that of W3C PNG, section 5.6: one header, which comes first, and pixels in chunks
    that nothing stands between.
    """
    parts, damage = _split_png(content)
    if damage:
        return damage
    kinds = [kind for kind, _ in parts]
    header = parts[0][1]
    if kinds[0] != b"IHDR" or kinds.count(b"IHDR") > 1:
        return "its header is not its first part, and its only one"
    if len(header) != PNG_HEADER_BYTES:
        return f"its header has {len(header)} bytes"
    if [kind for kind, _ in itertools.groupby(kinds)].count(b"IDAT") > 1:
        return "something stands between its pixels"
    pixels = (data for kind, data in parts if kind == b"IDAT")
    is_whole = _has_png_bytes(pixels, _count_png_bytes(header))
    return "" if is_whole else "it has fewer pixels than it says"


def _split_png(content: bytes) -> tuple[list[tuple[bytes, bytes]], str]:
    """Return the name and the data of each part of a PNG, and what is wrong with them."""
    parts: list[tuple[bytes, bytes]] = []
    start = len(b"\x89PNG\r\n\x1a\n")
    while not parts or parts[-1][0] != b"IEND":
        end = start + 8 + int.from_bytes(content[start : start + 4], "big")
        if end + 4 > len(content):
            return parts, "it has no end"
        if zlib.crc32(content[start + 4 : end]) != int.from_bytes(content[end : end + 4], "big"):
            return parts, f"a checksum is wrong at byte {start}"
        if len(parts) == MAX_PNG_PARTS:
            return parts, f"it has more than {MAX_PNG_PARTS:,} parts"
        parts.append((content[start + 4 : start + 8], content[start + 8 : end]))
        start = end + 4
    return parts, ""


def _has_png_bytes(pixels: Iterable[bytes], n_bytes: int) -> bool:
    """Return whether packed pixels are so many bytes; in pieces, so that a bomb takes no memory."""
    packed, n_found = zlib.decompressobj(), 0
    for data in pixels:
        rest = data
        while rest and n_found < n_bytes:
            n_found += len(packed.decompress(rest, INFLATED_BYTES))
            rest = packed.unconsumed_tail
    return n_found >= n_bytes or n_found + len(packed.flush()) >= n_bytes


def _find_webp_damage(content: bytes, image: Image.Image) -> str:
    """See `_find_damage`; the parts are those of RIFF (RFC 9649, section 2.3)."""
    end = 8 + int.from_bytes(content[4:8], "little")
    if end > len(content):
        return "it has no end"
    start, pixels, kind_of_pixels = 12, b"", b""
    while start + 8 <= end:
        kind = content[start : start + 4]
        length = int.from_bytes(content[start + 4 : start + 8], "little")
        if start + 8 + length > end or not kind.decode("latin-1").isprintable():
            return f"its parts do not fit together at byte {start}"
        if kind in (b"VP8 ", b"VP8L"):
            pixels, kind_of_pixels = content[start + 8 : start + 8 + length], kind
        start += 8 + length + length % 2
    n_zeros = len(pixels) - len(pixels.rstrip(b"\0"))
    if n_zeros > MAX_ZEROS:
        # They are right where they stand for rows that are all alike.
        n_rows = min(image.height, -(-n_zeros * PIXELS_PER_ZERO[kind_of_pixels] // image.width))
        box = (0, image.height - n_rows, image.width, image.height)
        rows = np.asarray(image.crop(box).convert("RGB"))
        if np.ptp(rows, axis=0).max() > SAME_LEVELS:
            return NOT_WRITTEN
    return ""


def _find_jpeg_damage(whole: bytes) -> str:
    """Look whether the last scan of a JPEG has its pixels; `whole` ends with the end marker.

    A decoder takes what is put before that marker for pixels where it lacks some, and leaves it
    alone where it has them all. Bytes of zeros that it has no use for were not written by an
    encoder.
    """
    scan = whole[:-2]
    shown = _read_jpeg(scan)
    if not np.array_equal(shown, _read_jpeg(scan + JPEG_FILLER)):
        return "its pixels end before it does"
    if scan.endswith(bytes(MAX_ZEROS)):
        n_bytes = MAX_ZEROS // 2
        if np.array_equal(shown, _read_jpeg(scan[:-n_bytes] + JPEG_FILLER[:n_bytes])):
            return NOT_WRITTEN
    return ""


def _read_jpeg(unended: bytes) -> NDArray[np.uint8]:
    """Return the pixels of a JPEG without its end, as small as show what its last scan holds."""
    with Image.open(io.BytesIO(unended + b"\xff\xd9"), formats=["JPEG"]) as image:
        if "progressive" not in image.info:  # Its last scan has the finest details alone.
            image.draft(image.mode, (1, 1))
        return np.asarray(image)


def _find_jpeg_end(content: bytes) -> int | None:
    """Return where the first picture of a JPEG ends, behind its marker; None where it does not."""
    start = 2
    while start + 4 <= len(content):
        if content[start] != 0xFF:
            return None
        kind = content[start + 1]
        if kind == 0xFF:  # Padding before a marker.
            start += 1
            continue
        if kind == 0xD9:
            return start + 2
        if kind == 0x01 or 0xD0 <= kind <= 0xD8:  # Markers that hold nothing.
            start += 2
            continue
        start += 2 + int.from_bytes(content[start + 2 : start + 4], "big")
        if kind == 0xDA:
            # Coded pixels run up to a marker that is neither a stuffed zero nor a restart.
            while (start := content.find(b"\xff", start)) >= 0:
                following = content[start + 1 : start + 2]
                if following and following != b"\x00" and not 0xD0 <= following[0] <= 0xD7:
                    break
                start += 2
            if start < 0:
                return None
    return start + 2 if content[start : start + 2] == b"\xff\xd9" else None


def place_side_by_side(images: Sequence[Image.Image], *, side_px: int | None = None) -> Image.Image:
    """Return images side by side in a square, each whole in a strip of its own.

    Each is resized to fill the strip's width or height, and its own mean colour fills the rest. The
    square has the side of the largest image, twice over, unless `side_px` says another.
    """
    side = side_px or 2 * max(max(image.size) for image in images)
    canvas = Image.new("RGB", (side, side))
    for place, image in enumerate(images):
        left, right = (round(side * n / len(images)) for n in (place, place + 1))
        rim: Any = tuple(round(value) for value in ImageStat.Stat(image).mean)
        size = (right - left, side)
        strip = ImageOps.pad(image, size, Image.Resampling.BICUBIC, color=rim)
        canvas.paste(strip, (left, 0))
    return canvas


def load_mask(path: Path, *, side_px: int | None = None) -> Mask:
    """Load a mask: bool (height, width), true where its grey is above the middle.

    `side_px` cuts it square and resizes it first, as `methods.photos.load_photo` does its photo.

    Raises:
        ImageError: as `load_image` does.
    """
    image = load_image(path).convert("L")
    if side_px is not None:
        image = ImageOps.fit(image, (side_px, side_px))
    return np.asarray(image) > 127


def _raw_mode(image: Image.Image) -> str:
    """Return how the file stores its pixels, in PIL's names, before they are read."""
    tiles = getattr(image, "tile", [])
    arguments = tiles[0][3] if tiles else ""
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16 bits of grey, which PIL would cut off at 255.
        import numpy as np  # noqa: PLC0415  (slow import, and rarely needed)

        values = np.asarray(image)
        grey = (values >> 8).astype(np.uint8)
        grey[values == image.info.get("transparency", -1)] = 255
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        # An opaque image keeps its bits: it is converted as if it had no alpha.
        if layer.getchannel("A").getextrema() != (255, 255):
            white = Image.new("RGBA", image.size, "white")
            return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def is_lossy(path: Path) -> bool:
    """Return whether an image that `load_image` takes is lossy: JPEG, and most WebP."""
    with path.open("rb") as stream:
        head = stream.read(12)
        if not (head.startswith(b"RIFF") and head.endswith(b"WEBP")):
            return head.startswith(b"\xff\xd8")
        while len(chunk := stream.read(8)) == 8:
            if chunk[:4] in (b"VP8 ", b"VP8L"):
                return chunk[:4] == b"VP8 "
            n_bytes = int.from_bytes(chunk[4:], "little")
            stream.seek(n_bytes + n_bytes % 2, os.SEEK_CUR)
    return True


_WEBP_CHUNKS = (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"XMP ")
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    'xmlns:dreambench="https://github.com/dreambench/dreambench/" Iptc4xmpExt:DigitalSourceType='
    '"http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia" '
    'dreambench:note="{about}"/></rdf:RDF></x:xmpmeta>'
)


def encode_generated(image: Image.Image, note: Mapping[str, Any]) -> bytes:
    """Return PNG bytes with a note in them that says that, and from what, it was generated.

    The note must hold no path and no name of a machine or a person.
    """
    info = PngInfo()
    info.add_text("Comment", "Generated image; not a photograph")
    info.add_text("dreambench", json.dumps({"generated": True, **note}, sort_keys=True))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def encode_generated_webp(image: Image.Image, note: Mapping[str, Any], *, quality: int) -> bytes:
    """Return WebP bytes that say, in XMP, that and from what the image was generated.

    The kind of source is IPTC's "trained algorithmic media"; the note is as for
    `encode_generated`.
    """
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=4, xmp=make_generated_note(note))
    return buffer.getvalue()


def make_generated_note(note: Mapping[str, Any]) -> bytes:
    """Return the XMP that `encode_generated_webp` writes."""
    about = escape(json.dumps({"generated": True, **note}, sort_keys=True), {'"': "&quot;"})
    return XMP.format(about=about).encode()


def find_webp_excess(content: bytes) -> str:
    """Return what WebP bytes carry besides a picture and XMP; "" for nothing."""
    if len(content) < 12 or content[:4] != b"RIFF" or content[8:12] != b"WEBP":
        return "it is not a WebP file"
    if int.from_bytes(content[4:8], "little") + 8 != len(content):
        return "it does not end where it says"
    place, left = 12, set(_WEBP_CHUNKS)
    while place + 8 <= len(content):
        kind = content[place : place + 4]
        if kind not in left:
            return f"it carries a part too much, of the kind {kind!r}"
        left.remove(kind)
        n_bytes = int.from_bytes(content[place + 4 : place + 8], "little")
        place += 8 + n_bytes + n_bytes % 2
    return "" if place == len(content) else "a part of it is cut off"
