"""Grids of photos and generated images: which image goes where."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from dreambench.artifacts.image_set import ImageSet, is_class_image
from dreambench.artifacts.plan import ImageUnit
from dreambench.config.slots import fill_subjects
from dreambench.report.pictures import GridBlock, plot_grid

N_GRID_REFERENCES = 3
N_GRID_COLUMNS = 10


def write_side_by_side(shown: Sequence[tuple[str, ImageSet]], path: Path) -> Path:
    """Draw a row a method, a column a subject with its own prompt; photos in the first row."""
    first = shown[0][1]
    subjects = first.subjects[:N_GRID_COLUMNS]
    units = []
    for index, subject in enumerate(subjects):
        chosen = _choose_units(_first_images(first, subject.name), len(subjects))
        units.append(chosen[index % len(chosen)])
    rows: list[tuple[str, Sequence[Path], Sequence[Path]]] = [
        ("a photo", (), [subject.photos[0] for subject in subjects])
    ]
    rows += [(label, (), [entry.find_image(u) or Path() for u in units]) for label, entry in shown]
    return plot_grid([GridBlock([u.clip_text for u in units], rows)], path, n_references=0)


def write_grid(run: ImageSet, path: Path) -> Path:
    """Draw a row a subject, a column a prompt: its first image."""
    return plot_grid(make_blocks(run), path, n_references=N_GRID_REFERENCES)


def make_blocks(run: ImageSet) -> list[GridBlock]:
    """Return the rows of a run's grid, in blocks of subjects that get the same prompts."""
    names: dict[tuple[str, ...], list[str]] = {}
    marks = ("[V]", "[W]")[: len(run.subjects[0].each)]
    for subject in run.subjects:
        prompt_ids = tuple(unit.prompt_id for unit in _first_images(run, subject.name))
        names.setdefault(prompt_ids, []).append(subject.name)
    blocks = []
    for members in names.values():
        chosen = {name: _choose_units(_first_images(run, name), N_GRID_COLUMNS) for name in members}
        rows = [
            (s.name, s.photos, [run.find_image(unit) or Path() for unit in chosen[s.name]])
            for s in run.subjects
            if s.name in chosen
        ]
        titles = [fill_subjects(unit.prompt, marks) for unit in chosen[members[0]]]
        blocks.append(GridBlock(titles, rows))
    return blocks


def _first_images(run: ImageSet, subject: str) -> list[ImageUnit]:
    """Return the first image of each prompt of a subject."""
    return [
        u for u in run.plan.images if u.subject == subject and u.k == 0 and not is_class_image(u)
    ]


def _choose_units(units: Sequence[ImageUnit], n_units: int) -> list[ImageUnit]:
    """Return up to so many of a subject's images, from all categories in turn."""
    by_family: dict[str, list[int]] = {}
    for index, unit in enumerate(units):
        by_family.setdefault(unit.family, []).append(index)
    turns = [index for turn in zip_longest(*by_family.values()) for index in turn]
    chosen = [index for index in turns if index is not None][:n_units]
    return [units[index] for index in sorted(chosen)]
