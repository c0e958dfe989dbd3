"""A dataset of four small photos, and archives that hold them, for tests of fetching."""

import hashlib
import io
import zipfile

import numpy as np
from PIL import Image

from dreambench.datasets.index import Dataset


def make_jpeg(seed):
    """Return a small photo with its own bytes."""
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def make_zip(files, compression=zipfile.ZIP_STORED):
    """Return the bytes of a zip archive of name -> content; a name may be a ZipInfo."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


PHOTOS = {f"{name}/{k:02d}.jpg": make_jpeg(k + 10 * ord(name)) for name in "ab" for k in range(2)}
GOOD_ZIP = make_zip({f"dreambooth-4f887/dataset/{k}": v for k, v in PHOTOS.items()})


def write_index(folder):
    """Write the index of PHOTOS and return the dataset, none of whose photos is there yet."""
    index = folder / "index"
    index.mkdir()
    (index / "subjects.csv").write_text(
        "subject,class_name,kind,n_images\na,dog,live,2\nb,toy,object,2\n"
    )
    lines = [
        f"{file[0]},{file},{hashlib.sha256(content).hexdigest()},{len(content)}"
        for file, content in PHOTOS.items()
    ]
    (index / "images.csv").write_text("\n".join(["subject,file,sha256,bytes", *lines]) + "\n")
    return Dataset("small", index, folder / "photos")


def read_folder(folder):
    """Return all files below a folder with their bytes, hidden ones too."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def quiet(what, done, total):
    """Show no progress."""
