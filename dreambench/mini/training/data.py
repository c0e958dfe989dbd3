"""Renders the training and the held-out set of the small world to disk, once.

    python -m dreambench.mini.training.data --out DIR

One folder a split: images.npy (n, 64, 64, 3) uint8, masks.npy (n, 64, 64) bool, shots.jsonl.
Identities are drawn from the seed sequence (WORLD_SEED, split, index), so the splits share none
and a set can be grown without changing what it had.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreambench.mini.world.bodies import CLASSES
from dreambench.mini.world.identities import Identity, sample_identity
from dreambench.mini.world.renderer import SIZE_PX, Shot, make_caption, render, sample_shot

WORLD_SEED = 20221
SPLITS = {"train": 0, "heldout": 1, "benchmark": 2}
SHOTS_PER_IDENTITY = 5


def make_identity(split: str, index: int) -> Identity:
    """The index-th individual of a split; classes take turns."""
    rng = np.random.default_rng([WORLD_SEED, SPLITS[split], index])
    return sample_identity(rng, list(CLASSES)[index % len(CLASSES)])


def make_shots(split: str, index: int) -> list[Shot]:
    """All shots of one individual."""
    rng = np.random.default_rng([WORLD_SEED, SPLITS[split], index, 1])
    identity = make_identity(split, index)
    return [sample_shot(rng, identity) for _ in range(SHOTS_PER_IDENTITY)]


def _render_identity(
    job: tuple[str, int],
) -> tuple[NDArray[np.uint8], NDArray[np.bool_], list[Shot]]:
    shots = make_shots(*job)
    pictures = [render(shot) for shot in shots]
    return (
        np.stack([np.asarray(picture.image) for picture in pictures]),
        np.stack([picture.mask for picture in pictures]),
        shots,
    )


def write_split(out_dir: Path, split: str, *, n_identities: int, n_workers: int) -> None:
    """Renders a split into `out_dir/split`."""
    folder = out_dir / split
    folder.mkdir(parents=True, exist_ok=True)
    n = n_identities * SHOTS_PER_IDENTITY
    images = np.lib.format.open_memmap(
        folder / "images.npy", "w+", np.uint8, (n, SIZE_PX, SIZE_PX, 3)
    )
    masks = np.lib.format.open_memmap(folder / "masks.npy", "w+", np.bool_, (n, SIZE_PX, SIZE_PX))
    jobs = [(split, index) for index in range(n_identities)]
    with (
        ProcessPoolExecutor(n_workers) as pool,
        (folder / "shots.jsonl").open("w") as lines,
    ):
        for index, (pixels, subject, shots) in enumerate(
            pool.map(_render_identity, jobs, chunksize=16)
        ):
            rows = slice(index * SHOTS_PER_IDENTITY, (index + 1) * SHOTS_PER_IDENTITY)
            images[rows], masks[rows] = pixels, subject
            for shot in shots:
                lines.write(json.dumps({"identity_index": index, **asdict(shot)}) + "\n")
    images.flush()
    masks.flush()


class WorldSet:
    """A rendered split: `images`, `masks` (memory-mapped), `shots` and `identity_index`."""

    def __init__(self, folder: Path) -> None:
        self.images = np.load(folder / "images.npy", mmap_mode="r")
        self.masks = np.load(folder / "masks.npy", mmap_mode="r")
        self.shots: list[Shot] = []
        identity_index = []
        for line in (folder / "shots.jsonl").read_text().splitlines():
            row = json.loads(line)
            identity_index.append(row.pop("identity_index"))
            fields: dict[str, Any] = {k: _tupled(v) for k, v in row.pop("identity").items()}
            identity = Identity(**fields)
            self.shots.append(Shot(identity, **row))
        self.identity_index = np.asarray(identity_index)

    def __len__(self) -> int:
        return len(self.shots)

    def caption(self, index: int, rng: np.random.Generator, *, identifier: str = "") -> str:
        """A caption as a web page might give it: sometimes with colours, rarely without place."""
        shot = self.shots[index]
        recolored = shot.property_name in ("red", "purple", "golden") or shot.style == "marble"
        return make_caption(
            shot,
            identifier=identifier,
            described=not recolored and rng.uniform() < 0.35,
            name_scene=rng.uniform() < 0.94,
        )


def find_photos(data: WorldSet) -> list[NDArray[np.int64]]:
    """By identity: the rows that are plain photos, as reference photos are."""
    plain = np.array([shot.property_name is None and shot.style is None for shot in data.shots])
    by_identity = []
    for start in range(0, len(data), SHOTS_PER_IDENTITY):
        rows = np.arange(start, start + SHOTS_PER_IDENTITY)
        by_identity.append(rows[plain[rows]])
    return by_identity


def _tupled(value: object) -> object:
    return tuple(_tupled(v) for v in value) if isinstance(value, list) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--identities", type=int, default=9996)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    write_split(args.out, "heldout", n_identities=420, n_workers=args.workers)
    write_split(args.out, "train", n_identities=args.identities, n_workers=args.workers)


if __name__ == "__main__":
    main()
