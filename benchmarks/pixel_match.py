"""The pixel match: what it costs, what rounding does to it, and what real photos are to each other.

    python benchmarks/pixel_match.py [--out reports/benchmarks] [--photos FOLDER]

- Seconds an image, on one core, for subjects of five photos of the small world.
- The same images with inputs changed by 1e-14, as another CPU's rounding would: how many numbers
  move, and how far.
- With `--photos`, a folder with a folder of JPEGs for each subject, as the DreamBooth dataset is:
  the match of each photo with the others of its subject, and with those of the next. Photos have no
  masks there; an ellipse in the middle stands for the subject.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from PIL import Image

from dreambench.encoders.parts import MaskExtractor, ThumbnailExtractor
from dreambench.machine.environment import describe_session
from dreambench.metrics.matching import compute_subject_matches
from dreambench.mini.validation.truth import PASTES, PROMPT_PLACES, paste
from dreambench.mini.world.bodies import CLASSES
from dreambench.mini.world.identities import sample_identity
from dreambench.mini.world.renderer import Shot, render
from dreambench.mini.world.scenes import PHOTO_PLACES
from dreambench.storage.files import make_dir, write_bytes
from dreambench.storage.images import load_image
from dreambench.types import Features, Mask

SEED = 7
RELATIVE_NOISE = 1e-14
QUANTILES = (0.1, 0.5, 0.9, 1.0)


def make_subject(class_name: str, rng: np.random.Generator) -> tuple[Features, Features, Features]:
    """Photos, their masks, and images: new pictures and pastes on strangers."""
    own, other = (sample_identity(rng, class_name) for _ in range(2))
    photos = [render(Shot(own, int(rng.integers(2**31)), place)) for place in PHOTO_PLACES[:5]]
    images: list[Image.Image] = []
    for number, place in enumerate(PROMPT_PLACES):
        seed = int(rng.integers(2**31))
        images.append(render(Shot(own, seed, place)).image)
        stranger = render(Shot(other, seed, place)).image
        photo = photos[number % len(photos)]
        images += [paste(photo.image, photo.mask, stranger, how) for how in PASTES.values()]
    thumbnails = ThumbnailExtractor()
    return (
        thumbnails.encode_images([photo.image for photo in photos]),
        MaskExtractor.encode_masks([photo.mask for photo in photos]),
        thumbnails.encode_images(images),
    )


def measure_world() -> list[str]:
    """Cost and rounding."""
    rng = np.random.default_rng(SEED)
    seconds, gaps = 0.0, []
    for class_name in CLASSES:
        photos, masks, images = make_subject(class_name, rng)
        started = time.process_time()
        plain = compute_subject_matches(images, photos, masks)
        seconds += time.process_time() - started
        noise = 1 + RELATIVE_NOISE * rng.normal(size=images.shape)
        moved = compute_subject_matches(images.astype(np.float64) * noise, photos, masks)
        gaps += list(np.abs(moved - plain))
    found = np.array(gaps)
    n_moved = int((found > 1e-4).sum())
    return [
        f"{1000 * seconds / len(found):.0f} ms of one core an image ({len(found)} images, "
        f"{len(CLASSES)} subjects of five photos).",
        f"Inputs changed by {RELATIVE_NOISE:g}: {n_moved} of {len(found)} numbers move "
        f"by more than 1e-4, by {found.max():.4f} at most.",
    ]


def make_ellipse(photo: Image.Image) -> Mask:
    """Pixels in the middle of a photo, a little below it."""
    rows, columns = np.mgrid[: photo.height, : photo.width]
    x, y = columns / photo.width - 0.5, rows / photo.height - 0.55
    mask: Mask = x**2 + y**2 < 0.3**2
    return mask


def measure_photos(folder: Path) -> list[str]:
    """Photos against the others of their subject, and against those of the next."""
    thumbnails = ThumbnailExtractor()
    within: list[float] = []
    between: list[float] = []
    before: Features | None = None
    for subject in sorted({path.parent for path in folder.rglob("*.jpg")}):
        photos = [load_image(path) for path in sorted(subject.glob("*.jpg"))]
        rows = thumbnails.encode_images(photos)
        masks = MaskExtractor.encode_masks([make_ellipse(photo) for photo in photos])
        for number in range(len(rows)):
            rest = [other for other in range(len(rows)) if other != number]
            within += list(compute_subject_matches(rows[[number]], rows[rest], masks[rest]))
        if before is not None:
            between += list(compute_subject_matches(before, rows, masks))
        before = rows

    def describe(values: list[float]) -> str:
        shares = [f"{q:g}: {np.quantile(values, q):.3f}" for q in QUANTILES]
        return f"{len(values)} photos, quantiles {', '.join(shares)}"

    return [
        f"Real photos, ellipse as mask, of one subject: {describe(within)}.",
        f"Real photos, ellipse as mask, of another subject: {describe(between)}.",
    ]


def main() -> None:
    """Print the figures, and write them with --out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--photos", type=Path)
    args = parser.parse_args()
    lines = measure_world() + (measure_photos(args.photos) if args.photos else [])
    session = describe_session("cpu")
    packages = ", ".join(f"{name} {version}" for name, version in session.packages.items())
    text = "\n".join(
        [
            "# The pixel match", "",
            "Made by `python benchmarks/pixel_match.py --out reports/benchmarks"
            + (" --photos FOLDER`, the FOLDER of the DreamBooth dataset." if args.photos else "`."),
            "", *(f"- {line}" for line in lines), "",
            f"{session.code}; Python {session.python}, {packages}.", "",
        ]
    )  # fmt: skip
    print(text)
    if args.out:
        write_bytes(make_dir(args.out) / "pixel-match.md", text.encode())


if __name__ == "__main__":
    main()
