"""Writes the golden values of mini and mini-full: what their photos score, to six decimals.

`golden.csv` is of the photos enlarged, which shows a wrong resize; `reference-bounds.csv` of the
photos as they are, which every score of mini has.

python -m dreambench.mini.training.golden
"""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image

from dreambench.datasets.index import EMBEDDED, find_dataset
from dreambench.datasets.subjects import load_subjects
from dreambench.encoders.registry import ENCODERS
from dreambench.scoring.reference_values import GOLDEN_COLUMNS, enlarge, make_bounds
from dreambench.storage.files import write_bytes


def main() -> None:
    for dataset in EMBEDDED:
        _write(dataset, "golden.csv", enlarge)
        _write(dataset, "reference-bounds.csv", lambda image: image)


def _write(dataset: str, file: str, prepare: Callable[[Image.Image], Image.Image]) -> None:
    subjects = load_subjects(find_dataset(dataset))
    frames = [make_bounds(ENCODERS[name], subjects, prepare) for name in ("mini-vit", "mini-clip")]
    lines = [",".join(["subject", "n_images", *GOLDEN_COLUMNS.values()])]
    for subject in subjects:
        cells = [subject.name, str(len(subject.photos))]
        for metric, pairs in GOLDEN_COLUMNS:
            for frame in frames:
                chosen = frame[(frame["metric"] == metric) & (frame["subject"] == subject.name)]
                cells += [f"{value:.6f}" for value in chosen[pairs]]
        lines.append(",".join(cells))
    write_bytes(EMBEDDED[dataset] / file, ("\n".join(lines) + "\n").encode())


if __name__ == "__main__":
    main()
