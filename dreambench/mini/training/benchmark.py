"""Draws the benchmark subjects of `mini`: photos, masks and the index files that pin them.

    python -m dreambench.mini.training.benchmark --out dreambench/mini/subjects

The files are committed, so that no platform's rounding changes the benchmark. The photos are
taken in places that no prompt of the protocol asks for.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from PIL import Image

from dreambench.mini.training.data import make_identity
from dreambench.mini.world.identities import CLASSES, LIVE
from dreambench.mini.world.renderer import RENDERER_VERSION, SIZE_PX, Shot, render
from dreambench.mini.world.scenes import PHOTO_PLACES
from dreambench.storage.files import sha256_file

SUBJECTS = {
    # Name: class, the how-manieth individual of that class in the benchmark split. Picked by eye
    # for variety before any method was run on them.
    "dog": ("dog", 4),
    "dog2": ("dog", 5),
    "cat": ("cat", 2),
    "plushie": ("plushie", 11),
    "plushie2": ("plushie", 13),
    "car": ("car", 12),
    "mug": ("mug", 5),
    "teapot": ("teapot", 6),
}


def write_benchmark(out_dir: Path) -> None:
    """Writes `<subject>/<n>.png`, `<subject>/<n>-mask.png`, subjects.csv and images.csv."""
    subject_rows, image_rows = [], []
    for name, (class_name, nth) in SUBJECTS.items():
        index = list(CLASSES).index(class_name) + nth * len(CLASSES)
        identity = make_identity("benchmark", index)
        kind = "live" if class_name in LIVE else "object"
        subject_rows.append([name, class_name, kind, len(PHOTO_PLACES)])
        (out_dir / name).mkdir(parents=True, exist_ok=True)
        seeds = np.random.default_rng([7, index]).integers(2**31, size=len(PHOTO_PLACES))
        for number, (place, seed) in enumerate(zip(PHOTO_PLACES, seeds, strict=True)):
            picture = render(Shot(identity, int(seed), place))
            photo, mask = f"{name}/{number:02d}.png", f"{name}/{number:02d}-mask.png"
            picture.image.save(out_dir / photo, optimize=True)
            Image.fromarray(picture.mask).save(out_dir / mask, optimize=True)
            image_rows.append(
                [
                    name, photo, sha256_file(out_dir / photo), (out_dir / photo).stat().st_size,
                    SIZE_PX, SIZE_PX, mask, sha256_file(out_dir / mask),
                    f"dreambench.mini renderer {RENDERER_VERSION}", "dreambench, Apache-2.0",
                ]
            )  # fmt: skip
    tables = {
        "subjects.csv": (["subject", "class_name", "kind", "n_images"], subject_rows),
        "images.csv": (
            [
                "subject", "file", "sha256", "bytes", "width", "height", "mask", "mask_sha256",
                "source", "credit",
            ],
            image_rows,
        ),
    }  # fmt: skip
    for file, (header, rows) in tables.items():
        with (out_dir / file).open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerows([header, *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    write_benchmark(parser.parse_args().out)


if __name__ == "__main__":
    main()
