"""What shows that the bytes of an image are not those that were written."""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

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


def find_damage(content: bytes, image: Image.Image) -> str:
    """Return what shows that the bytes of an image are not those that were written; "" for nothing.

    A decoder fills what it cannot read with black or grey, which a score would take for a picture.
    PNG has a checksum in each chunk, and says how many bytes its pixels are. A JPEG has an end, and
    pixels up to there. A WebP has the lengths of its parts.
    """
    if image.format == "PNG":
        return _find_png_damage(content, image)
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


def _find_png_damage(content: bytes, image: Image.Image) -> str:
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
    if _shows_last_row(image):
        return ""
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


def _shows_last_row(image: Image.Image) -> bool:
    """Return whether the last row of a PNG has pixels that are not 0, as those are that it lacks.

    Rows are decoded whole and from the top, so that none is missing then, and pixels need not be
    unpacked a second time to count them. Where it says no, they may yet all be there.
    """
    if "interlace" in image.info:
        return False
    try:
        last = image.crop((0, image.height - 1, image.width, image.height))
    except (OSError, SyntaxError, ValueError):
        return False
    return last.getbbox(alpha_only=False) is not None


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
