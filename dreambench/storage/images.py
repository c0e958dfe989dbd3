"""Images in and out: untrusted files read as RGB pixels, generated images as PNG bytes."""

from __future__ import annotations

import io
import json
import os
import struct
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image, ImageOps, ImageStat, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from dreambench.errors import UserError, explain_os_error
from dreambench.storage.formats import HEAD_BYTES, advise, explain_absence, recognise
from dreambench.storage.image_damage import find_damage
from dreambench.types import Mask

MAX_IMAGE_PIXELS = 64_000_000
MAX_IMAGE_BYTES = 100_000_000
FORMATS = ("PNG", "JPEG", "WEBP")
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
            ImageOps.exif_transpose(image, in_place=True)
            return _to_rgb(image)
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
    raw_mode = _raw_mode(image)  # Which a loaded image says no more.
    if reason := find_damage(content, image):
        raise ImageError(path, f"is damaged: {reason}", hint="copy or download it again")
    if "transparency" in image.info and raw_mode == "RGB;16B":
        # PIL keeps 8 bits of each colour and so cannot tell which pixels are meant.
        raise ImageError(path, "has a transparent 16-bit colour", hint="save it as RGBA")


def _too_large(path: Path, what: str) -> ImageError:
    return ImageError(path, f"{what}, the most that is read", hint="use a smaller version of it")


def _not_an_image(path: Path, head: bytes) -> ImageError:
    """Return the error for bytes that are not an image of ours, which says what they are."""
    what, hint = "it is not a PNG, JPEG or WebP file", "copy or download it again"
    if (found := recognise(head)) is not None:
        what = f"it is damaged {found.name}"
        if found.name not in ("PNG", "JPEG", "WebP"):
            what, hint = f"it is {found.name}, not PNG, JPEG or WebP", advise(found)
    return ImageError(path, f"cannot be read as an image ({what})", hint=hint)


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
