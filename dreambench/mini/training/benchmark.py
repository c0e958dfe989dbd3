"""Renders the subjects of `mini` and `mini-full`: photos, masks and the index files that pin them.

    python -m dreambench.mini.training.benchmark --out dreambench/mini

`subjects/` has all photos and the index of `mini`, `full/` the index of `mini-full`. The files are
committed, so that no platform's rounding changes the benchmarks. The photos are taken in places
that no prompt of the protocols asks for.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Collection
from pathlib import Path

import numpy as np
from PIL import Image

from dreambench.mini.training.data import make_identity
from dreambench.mini.world.bodies import CLASSES, LIVE
from dreambench.mini.world.identities import Identity
from dreambench.mini.world.renderer import RENDERER_VERSION, SIZE_PX, Shot, render
from dreambench.mini.world.scenes import PHOTO_PLACES
from dreambench.storage.files import sha256_file

Row = list[str | int]

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
FULL_SUBJECTS = {
    **SUBJECTS,
    "dog3": ("dog", 10),
    "cat2": ("cat", 8),
    "cat3": ("cat", 12),
    "bird": ("bird", 3),
    "bird2": ("bird", 12),
    "robot": ("robot", 5),
    "robot2": ("robot", 7),
    "car2": ("car", 8),
    "mug2": ("mug", 9),
    "vase": ("vase", 7),
    "vase2": ("vase", 12),
    "teapot2": ("teapot", 1),
    "ball": ("ball", 3),
    "ball2": ("ball", 8),
    "lamp": ("lamp", 0),
    "lamp2": ("lamp", 7),
    "backpack": ("backpack", 7),
    "backpack2": ("backpack", 9),
    "rocket": ("rocket", 13),
    "rocket2": ("rocket", 4),
    "boat": ("boat", 5),
    "boat2": ("boat", 9),
}


def make_benchmark_identity(name: str) -> Identity:
    """The individual of a subject's name."""
    class_name, nth = FULL_SUBJECTS[name]
    return make_identity("benchmark", _index(class_name, nth))


def _index(class_name: str, nth: int) -> int:
    return list(CLASSES).index(class_name) + nth * len(CLASSES)


def write_benchmark(out_dir: Path) -> None:
    """Writes `subjects/<subject>/<n>.png`, `<n>-mask.png` beside it, and each dataset's index."""
    photos_dir = out_dir / "subjects"
    subject_rows: list[Row] = []
    image_rows: list[Row] = []
    for name, (class_name, nth) in FULL_SUBJECTS.items():
        index = _index(class_name, nth)
        identity = make_benchmark_identity(name)
        kind = "live" if class_name in LIVE else "object"
        subject_rows.append([name, class_name, kind, len(PHOTO_PLACES)])
        (photos_dir / name).mkdir(parents=True, exist_ok=True)
        seeds = np.random.default_rng([7, index]).integers(2**31, size=len(PHOTO_PLACES))
        for number, (place, seed) in enumerate(zip(PHOTO_PLACES, seeds, strict=True)):
            picture = render(Shot(identity, int(seed), place))
            photo, mask = f"{name}/{number:02d}.png", f"{name}/{number:02d}-mask.png"
            picture.image.save(photos_dir / photo, optimize=True)
            Image.fromarray(picture.mask).save(photos_dir / mask, optimize=True)
            image_rows.append(
                [
                    name, photo, sha256_file(photos_dir / photo),
                    (photos_dir / photo).stat().st_size, SIZE_PX, SIZE_PX,
                    mask, sha256_file(photos_dir / mask),
                    f"dreambench.mini renderer {RENDERER_VERSION}", "dreambench, Apache-2.0",
                ]
            )  # fmt: skip
    _write_index(photos_dir, SUBJECTS, subject_rows, image_rows)
    _write_index(out_dir / "full", FULL_SUBJECTS, subject_rows, image_rows)


def _write_index(
    folder: Path, names: Collection[str], subject_rows: list[Row], image_rows: list[Row]
) -> None:
    """Writes subjects.csv and images.csv of the subjects in `names`."""
    folder.mkdir(exist_ok=True)
    for file, header, rows in (
        ("subjects.csv", ["subject", "class_name", "kind", "n_images"], subject_rows),
        (
            "images.csv",
            [
                "subject", "file", "sha256", "bytes", "width", "height", "mask", "mask_sha256",
                "source", "credit",
            ],
            image_rows,
        ),
    ):  # fmt: skip
        with (folder / file).open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerows([header, *(row for row in rows if row[0] in names)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    write_benchmark(parser.parse_args().out)


if __name__ == "__main__":
    main()
