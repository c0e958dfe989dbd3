"""The strip of thumbnails of a record: generated images, small enough to travel with it."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from dreambench.artifacts.image_set import ImageSet, is_class_image
from dreambench.artifacts.record import MAX_BYTES, THUMBNAILS_NAME, Record
from dreambench.storage.images import (
    encode_generated_webp,
    find_webp_excess,
    load_image,
    make_generated_note,
)

MAX_SIDE_PX, GAP_PX = 128, 4
N_ROWS, N_COLUMNS = 6, 8
QUALITIES = (85, 70, 50, 30, 10)


def make_thumbnails(images: ImageSet, *, method: str, record: str) -> bytes:
    """Return a WebP strip: a row a subject, an image a prompt, as many as there is room for.

    The method and the digest of the record are written into it, with the fact that the images were
    generated; see `encode_generated_webp`. Empty where no image is there.
    """
    rows = _choose_rows(images)
    if not rows:
        return b""
    pictures = [[load_image(path) for path in row] for row in rows]
    for picture in (picture for row in pictures for picture in row):
        picture.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX))
    side = max(max(picture.size) for row in pictures for picture in row) + GAP_PX
    size = (side * max(map(len, rows)) - GAP_PX, side * len(rows) - GAP_PX)
    strip = Image.new("RGB", size, "white")
    for y, row in enumerate(pictures):
        for x, picture in enumerate(row):
            strip.paste(picture, (x * side, y * side))
    note = _make_note(method, images.protocol.name, record)
    encoded = (encode_generated_webp(strip, note, quality=quality) for quality in QUALITIES)
    return next((one for one in encoded if len(one) <= MAX_BYTES[THUMBNAILS_NAME]), b"")


def describe_thumbnails(record: Record) -> dict[str, Any]:
    """Return the note that is written into the thumbnails of a record."""
    return _make_note(record.method.name, record.protocol.name, record.digest)


def _make_note(method: str, protocol: str, record: str) -> dict[str, Any]:
    return {"method": method, "protocol": protocol, "record": record}


def find_thumbnail_faults(content: bytes, note: Mapping[str, Any]) -> list[str]:
    """Return why bytes are not the thumbnails of the record that `note` describes."""
    faults = []
    if excess := find_webp_excess(content):
        faults.append(excess)
    most = (N_COLUMNS * (MAX_SIDE_PX + GAP_PX) - GAP_PX, N_ROWS * (MAX_SIDE_PX + GAP_PX) - GAP_PX)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(content), formats=["WEBP"])
            if picture.width > most[0] or picture.height > most[1]:
                size = f"{picture.width} x {picture.height}"
                return [*faults, f"it has {size} pixels, over {most[0]} x {most[1]}"]
            if getattr(picture, "n_frames", 1) > 1:
                faults.append("it moves")
            if picture.info.get("xmp", b"") != make_generated_note(note):
                faults.append("it does not say that it was generated, and of which record it is")
            picture.load()
    except (OSError, ValueError, SyntaxError, Warning, Image.DecompressionBombError):
        faults.append("it cannot be read as WebP")
    return faults


def _choose_rows(images: ImageSet) -> list[list[Path]]:
    """Return the files to show: subjects and prompts from all over the protocol."""
    rows = []
    for subject in _spread([subject.name for subject in images.subjects], N_ROWS):
        first: dict[str, Path] = {}
        for unit, path in images.made_images(subject):
            if not is_class_image(unit):
                first.setdefault(unit.prompt_id, path)
        if first:
            rows.append([first[name] for name in _spread(list(first), N_COLUMNS)])
    return rows


def _spread(names: Sequence[str], n: int) -> list[str]:
    """Return at most `n` of some names, evenly from first to last."""
    if len(names) <= n:
        return list(names)
    return [names[index * (len(names) - 1) // (n - 1)] for index in range(n)]
