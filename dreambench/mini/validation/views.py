"""How near images of a view are to the true picture, which the small world's program can render.

    python -m dreambench.mini.validation.views RUN... --out reports/mini/reconstruction

Metrics that compare with photos cannot say whether a new view is right: the photos do not show it.
Here the subject of an image (as the segmenter finds it) is compared with that of true pictures of
the same prompt (whose masks are known), cut out, enlarged and centred alike.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from dreambench.analysis.stats import estimate_mean
from dreambench.artifacts.image_set import ImageSet, read_image_set
from dreambench.artifacts.plan import ImageUnit, derive_seed
from dreambench.artifacts.results import write_table
from dreambench.datasets.subjects import Subject
from dreambench.encoders.base import Encoder
from dreambench.encoders.parts import known_pixels
from dreambench.encoders.regions import enlarge
from dreambench.encoders.registry import find_encoder, find_segmenter, load_encoder
from dreambench.encoders.segmentation import Segmenter, load_segmenter
from dreambench.mini.real_images import find_identity, read_prompt
from dreambench.mini.validation.blocks import describe_origin
from dreambench.mini.world.renderer import SIZE_PX, Picture, render
from dreambench.report.formatting import format_interval
from dreambench.report.markdown import render_markdown
from dreambench.report.model import Block, Cell, Document, Figure, Heading, Paragraph, Table
from dreambench.report.pictures import plot_rows
from dreambench.storage.files import make_dir, write_bytes
from dreambench.storage.images import load_image, load_mask
from dreambench.types import Mask

Floats = NDArray[np.float32]
N_TRUE = 4
"""True pictures of each prompt; the words leave the exact angle and the light open."""
TRUE, PHOTOS = "true pictures", "photos"
NEARNESS = {
    "dino": "DINO, subject cut out",
    "clip": "CLIP, subject cut out",
    "outline": "Outline (shared area)",
    "colour": "Colour (1 - mean difference)",
}


class _Eye:
    """Compares subjects that were cut out."""

    def __init__(self) -> None:
        self.encoders: dict[str, Encoder] = {
            "dino": load_encoder("mini-vit", "dino"), "clip": load_encoder("mini-clip", "clip"),
        }  # fmt: skip
        self.segmenter: Segmenter = load_segmenter("mini-segmenter")

    def look(self, images: Sequence[Image.Image], masks: Sequence[Mask]) -> dict[str, np.ndarray]:
        """Return rows of what masks show: by each encoder, the outline and the colours."""
        # What shows nothing is compared as a whole.
        seen = [mask if mask.any() else np.ones_like(mask) for mask in masks]
        pixels: list[Floats] = [
            np.asarray(image, np.float32).transpose(2, 0, 1) / np.float32(255) for image in images
        ]
        found = {
            name: encoder.encode_pixels(np.stack([
                enlarge(_normalise(row, encoder), mask, known_pixels(encoder).crop_px)
                for row, mask in zip(pixels, seen, strict=True)
            ]))
            for name, encoder in self.encoders.items()
        }  # fmt: skip
        pairs = list(zip(pixels, seen, strict=True))
        found["outline"] = np.stack(
            [enlarge(mask[None].astype(np.float32), mask, SIZE_PX)[0] > 0.5 for _, mask in pairs]
        )
        found["colour"] = np.stack([enlarge(row, mask, SIZE_PX) for row, mask in pairs])
        return found


def _normalise(pixels: Floats, encoder: Encoder) -> Floats:
    target = known_pixels(encoder)
    mean, std = (np.array(part, np.float32)[:, None, None] for part in (target.mean, target.std))
    found: Floats = (pixels - mean) / std
    return found


def compare(
    one: dict[str, np.ndarray], row: int, other: dict[str, np.ndarray], at: int
) -> dict[str, float]:
    """Return how near two subjects are: up to 1 in each number of NEARNESS."""
    near = {
        name: float(
            one[name][row] @ other[name][at]
            / np.linalg.norm(one[name][row]) / np.linalg.norm(other[name][at])
        )
        for name in ("dino", "clip")
    }  # fmt: skip
    first, second = one["outline"][row], other["outline"][at]
    either = first | second
    near["outline"] = float((first & second).sum() / max(1, either.sum()))
    gap = np.abs(one["colour"][row] - other["colour"][at]).mean(0)
    near["colour"] = 1 - float(gap[either].mean()) if either.any() else 1.0
    return near


def measure(sets: Sequence[ImageSet], *, family: str = "viewpoint") -> pd.DataFrame:
    """Return one row an image of a prompt category: method, subject, prompt_id, k and NEARNESS.

    Rows of TRUE compare each true picture with the others, which is what a right answer has; those
    of PHOTOS the photos, cut out by the dataset's masks: the most that pasting one can have.
    """
    eye = _Eye()
    rows = []
    for subject in sets[0].subjects:
        units = [_choose(one, subject, family) for one in sets]
        photos = eye.look(
            [load_image(path) for path in subject.photos],
            [load_mask(path, side_px=SIZE_PX) for path in subject.masks],
        )
        for prompt_id in dict.fromkeys(unit.prompt_id for unit in units[0]):
            truth = _take_true(next(u for u in units[0] if u.prompt_id == prompt_id), subject)
            true = eye.look([picture.image for picture in truth], [p.mask for p in truth])
            for at in range(N_TRUE):
                others = [compare(true, at, true, other) for other in range(N_TRUE) if other != at]
                rows.append(_row(TRUE, subject, prompt_id, at, others))
            for k in range(len(subject.photos)):
                near = [compare(photos, k, true, at) for at in range(N_TRUE)]
                rows.append(_row(PHOTOS, subject, prompt_id, k, near))
            for images, chosen in zip(sets, units, strict=True):
                asked = [unit for unit in chosen if unit.prompt_id == prompt_id]
                drawn = [_load(images, unit) for unit in asked]
                masks = eye.segmenter.find_subjects(drawn, subject.class_name)
                seen = eye.look(drawn, masks)
                for k in range(len(asked)):
                    near = [compare(seen, k, true, at) for at in range(N_TRUE)]
                    rows.append(_row(images.name, subject, prompt_id, k, near))
    return pd.DataFrame(rows)


def _choose(images: ImageSet, subject: Subject, family: str) -> list[ImageUnit]:
    wanted = {prompt.id for prompt in images.protocol.prompts if prompt.family == family}
    return [
        unit for unit in images.plan.images
        if unit.subject == subject.name and unit.prompt_id in wanted
    ]  # fmt: skip


def _load(images: ImageSet, unit: ImageUnit) -> Image.Image:
    path = images.find_image(unit)
    if path is None:
        raise FileNotFoundError(f"{images.folder} lacks an image of {unit}")
    return load_image(path)


def _take_true(unit: ImageUnit, subject: Subject) -> list[Picture]:
    identity = find_identity(subject)
    seeds = [derive_seed("true view", subject.name, unit.prompt_id, n) for n in range(N_TRUE)]
    return [render(read_prompt(unit.prompt, identity, seed=seed)) for seed in seeds]


def _row(
    method: str, subject: Subject, prompt_id: str, k: int, near: Sequence[dict[str, float]]
) -> dict[str, str | int | float]:
    means = {name: float(np.mean([one[name] for one in near])) for name in NEARNESS}
    return {"method": method, "subject": subject.name, "prompt_id": prompt_id, "k": k, **means}


def estimate_differences(frame: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """Return how much nearer a method is than another, paired by subject: all, and each prompt."""
    parts: dict[str, pd.DataFrame] = {"all": frame}
    parts |= {str(name): part for name, part in frame.groupby("prompt_id", sort=False)}
    rows = []
    for name, part in parts.items():
        means = part.groupby(["method", "subject"], sort=False)[list(NEARNESS)].mean()
        gaps = means.loc[first] - means.loc[second].reindex(means.loc[first].index)
        for number in NEARNESS:
            found = estimate_mean(gaps[number].to_numpy())
            rows.append({"prompt_id": name, "number": number, **vars(found)})
    return pd.DataFrame(rows)


def plot_views(
    sets: Sequence[ImageSet], frame: pd.DataFrame, path: Path, *, n_subjects: int
) -> Path:
    """Show subjects, from the one that the first set comes nearest with to the farthest.

    A row each: two photos; then for each prompt a true picture, and (1), (2), ... an image of each.
    """
    own = frame[frame["method"] == sets[0].name].groupby("subject")["dino"].mean()
    order = own.sort_values(ascending=False).index
    picked = [str(order[i]) for i in np.linspace(0, len(order) - 1, n_subjects).round().astype(int)]
    pictures: dict[str, Image.Image] = {}
    n_columns = 0
    for name in dict.fromkeys(picked):
        subject = next(one for one in sets[0].subjects if one.name == name)
        row = {f"{name} {k + 1}": load_image(p) for k, p in enumerate(subject.photos[:2])}
        firsts = [
            {unit.prompt_id: unit for unit in reversed(_choose(one, subject, "viewpoint"))}
            for one in sets
        ]
        for prompt_id in sorted(firsts[0]):
            unit = firsts[0][prompt_id]
            row[f"{name} {prompt_id}"] = _take_true(unit, subject)[0].image
            for number, (images, units) in enumerate(zip(sets, firsts, strict=True), start=1):
                row[f"{name} {prompt_id} ({number})"] = _load(images, units[prompt_id])
        n_columns = len(row)
        pictures |= row
    return plot_rows(pictures, path, n_columns=n_columns)


def make_document(frame: pd.DataFrame, sets: Sequence[ImageSet], command: str) -> Document:
    """Return the page: how near each is, and how much nearer the first is than the others."""
    means = frame.groupby(["method", "subject"], sort=False)[list(NEARNESS)].mean()
    order = [TRUE, *(one.name for one in sets), PHOTOS]
    rows: list[dict[str, Cell]] = []
    for method in order:
        cells: dict[str, Cell] = {"method": method}
        for number, title in NEARNESS.items():
            found = estimate_mean(means.loc[method][number].to_numpy())
            cells[title] = format_interval(found.mean, found.low, found.high)
        rows.append(cells)
    first = sets[0].name
    n_subjects = len(sets[0].subjects)
    blocks: list[Block] = [
        Heading("How near are new views to the true picture?", 1),
        Paragraph(
            f"`{command}`: {n_subjects} subjects, every prompt of the category viewpoint. The "
            "subject of an image, as the segmenter finds it, is compared with that of "
            f"{N_TRUE} true pictures of the same prompt, by the program that took the photos; cut "
            "out, enlarged and centred alike. Up to 1; means over subjects, with 95 % intervals. "
            f"`{TRUE}`: these with each other. `{PHOTOS}`: the photos, by the dataset's masks, "
            "whatever the prompt."
        ),
        Table.from_rows("nearness", rows),
    ]
    for second in [one.name for one in sets[1:]] + [PHOTOS]:
        found = estimate_differences(frame, first, second)
        table: list[dict[str, Cell]] = []
        for prompt_id, part in found.groupby("prompt_id", sort=False):
            line: dict[str, Cell] = {"prompts": str(prompt_id)}
            for row in part.to_dict("records"):
                interval = format_interval(row["mean"], row["low"], row["high"])
                line[NEARNESS[row["number"]]] = interval
            table.append(line)
        blocks += [
            Heading(f"{first} less {second}, paired by subject"),
            Table.from_rows(f"less-{second}", table),
        ]
    numbered = ", ".join(f"({n}) {one.name}" for n, one in enumerate(sets, start=1))
    blocks += [
        Paragraph(
            "Two photos of a subject, then for each prompt a true picture and the first image of "
            f"{numbered}. The subjects are taken evenly from the nearest to the farthest."
        ),
        Figure("views.png", f"Photos, true pictures, {numbered}"),
    ]
    networks = [
        find_encoder("mini-vit", "dino").identity(), find_encoder("mini-clip", "clip").identity(),
        find_segmenter("mini-segmenter").identity(),
    ]  # fmt: skip
    return Document([*blocks, *describe_origin(networks)])


def main() -> None:
    """Write the page, the numbers of each image, and the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    sets = [read_image_set(folder) for folder in args.runs]
    frame = measure(sets)
    make_dir(args.out)
    write_table(args.out / "nearness.csv", frame, float_format="%.4f")
    plot_views(sets, frame, args.out / "views.png", n_subjects=6)
    command = f"python -m dreambench.mini.validation.views {' '.join(map(str, args.runs))}"
    write_bytes(
        args.out / "nearness.md", render_markdown(make_document(frame, sets, command)).encode()
    )


if __name__ == "__main__":
    main()
