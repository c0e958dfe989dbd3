"""Files: where shipped data lies, writes that are whole or not there, hashes, untrusted images."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import platformdirs
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from dreambench.errors import UserError, disk_errors

PACKAGE_DIR = Path(__file__).resolve().parents[1]
MAX_IMAGE_PIXELS = 64_000_000
MAX_IMAGE_BYTES = 100_000_000
# What PIL raises on damaged files, besides UnidentifiedImageError; found by damaging files.
_DAMAGE = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, struct.error, zlib.error,
    Image.DecompressionBombError,
)  # fmt: skip


def shipped_path(*parts: str) -> Path:
    """A file of the top-level data folders: inside an installed wheel, or in the checkout."""
    inside = PACKAGE_DIR / "_data"
    root = inside if inside.is_dir() else PACKAGE_DIR.parent
    return root.joinpath(*parts)


def cache_dir() -> Path:
    """Folder for what can be made again: `DREAMBENCH_CACHE`, or the user's cache folder."""
    named = os.environ.get("DREAMBENCH_CACHE")
    return Path(named) if named else Path(platformdirs.user_cache_dir("dreambench"))


def make_dir(path: Path) -> Path:
    """Creates a folder with its parents; UserError if that is not possible."""
    with disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file so that a reader sees the old one or the whole new one, even after a kill."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with disk_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(path)
        except OSError:
            part.unlink(missing_ok=True)
            raise


def write_json(path: Path, content: Any) -> None:
    """`write_bytes` of indented JSON; NaN is refused, since JSON has none."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    write_bytes(path, text.encode() + b"\n")


def read_json(path: Path) -> Any:
    """Parsed JSON; UserError when the file is not there or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is not there", hint="is this a run folder?") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not JSON ({error})", hint="restore or delete it") from error


def write_together(staging_dir: Path, name: str, files: Mapping[Path, bytes]) -> None:
    """Writes several files of one disk as one step: after a kill there are all or none of them.

    They are made in `staging_dir/name.part`, which becomes `name.ready` when whole; then each is
    moved to its place. `finish_together` completes what a kill interrupted.
    """
    with disk_errors(staging_dir):
        staging_dir.mkdir(parents=True, exist_ok=True)
        part, ready = staging_dir / f"{name}.part", staging_dir / f"{name}.ready"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        try:
            targets = {}
            for index, (target, content) in enumerate(files.items()):
                write_bytes(part / str(index), content)
                targets[str(index)] = os.path.relpath(target, staging_dir)
            write_json(part / "targets.json", targets)
        except (OSError, UserError):
            shutil.rmtree(part, ignore_errors=True)
            raise
        part.replace(ready)
        _move_ready(staging_dir, ready)


def _move_ready(staging_dir: Path, ready: Path) -> None:
    for index, relative in read_json(ready / "targets.json").items():
        target = Path(os.path.normpath(staging_dir / relative))
        if (ready / index).exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            (ready / index).replace(target)
    shutil.rmtree(ready)


def finish_together(staging_dir: Path) -> None:
    """Moves what `write_together` had ready before a kill, and drops what it had not."""
    if not staging_dir.is_dir():
        return
    with disk_errors(staging_dir):
        for folder in sorted(staging_dir.iterdir()):
            if folder.suffix == ".ready":
                if (folder / "targets.json").exists():
                    _move_ready(staging_dir, folder)
                else:  # All files were moved and the removal itself was interrupted.
                    shutil.rmtree(folder)
            elif folder.suffix == ".part":
                shutil.rmtree(folder)


def encode_generated(image: Image.Image, note: Mapping[str, Any]) -> bytes:
    """PNG bytes with a note that travels with the picture: it was generated, and from what.

    The note must hold no path and no name of a machine or a person.
    """
    info = PngInfo()
    info.add_text("Comment", "Generated image; not a photograph")
    info.add_text("dreambench", json.dumps({"generated": True, **note}, sort_keys=True))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest(content: Any) -> str:
    """First 16 hex digits of the SHA-256 of canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest_folder(folder: Path, *, suffixes: Sequence[str]) -> str:
    """Digest over relative names and contents of a folder's files with the given suffixes."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in suffixes)
    return digest({path.relative_to(folder).as_posix(): sha256_file(path) for path in files})


class ImageError(UserError):
    """The image file `path` cannot be used; `reason` says why without saying where it is."""

    def __init__(self, path: Path, reason: str, *, hint: str = "replace the file") -> None:
        super().__init__(f"{path} {reason}", hint=hint, code="image")
        self.path = path
        self.reason = " ".join(reason.split())


def load_image(path: Path) -> Image.Image:
    """Opens an image of unknown origin as 8-bit RGB, upright.

    PNG, JPEG and WebP, told by content. What is see-through lies on white; of 16 bits a channel the
    high 8 stay; CMYK goes by the plain formula, since no colour profile is applied to any image. A
    JPEG that holds several pictures (MPO) gives its first. Raises ImageError for a file that is
    missing, no image, damaged, animated or too large.
    """
    smaller = "use a smaller file"
    try:
        if not path.is_file():
            raise ImageError(path, "is not there", hint="restore it or name another")
        if path.stat().st_size > MAX_IMAGE_BYTES:
            raise ImageError(path, f"is over {MAX_IMAGE_BYTES} bytes", hint=smaller)
        with Image.open(path, formats=("PNG", "JPEG", "WEBP")) as image:
            if image.width * image.height > MAX_IMAGE_PIXELS:
                size = f"{image.width} x {image.height}"
                raise ImageError(path, f"has {size} pixels", hint=smaller)
            n_frames = getattr(image, "n_frames", 1)
            if n_frames > 1 and image.format != "MPO":
                one = "save the frame that is meant as a file of its own"
                raise ImageError(path, f"is animated ({n_frames} frames)", hint=one)
            if "transparency" in image.info and _raw_mode(image) == "RGB;16B":
                # PIL keeps 8 bits of each colour and so cannot tell which pixels are meant.
                raise ImageError(path, "has a see-through 16-bit colour", hint="save it as RGBA")
            return _to_rgb(ImageOps.exif_transpose(image))
    except UserError:
        raise
    except UnidentifiedImageError as error:
        reason = "cannot be read as an image (it is no PNG, JPEG or WebP)"
        raise ImageError(path, reason) from error
    except _DAMAGE as error:
        # An error of the system's holds the path; its text alone does not.
        text = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ImageError(path, f"cannot be read as an image ({text})") from error


def _raw_mode(image: Image.Image) -> str:
    """How the file stores its pixels, in PIL's names, before they are read."""
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
    """Whether an image that `load_image` takes was compressed with loss: JPEG, and most WebP."""
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
