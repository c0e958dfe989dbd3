"""Grids of photos and generated images: which image goes where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from dreambench.artifacts.image_set import ImageSet, is_class_image
from dreambench.artifacts.plan import ImageUnit
from dreambench.config.slots import fill_slot
from dreambench.report.figures import plot_grid

N_GRID_REFERENCES = 3
N_GRID_COLUMNS = 10


def write_side_by_side(shown: Sequence[tuple[str, ImageSet]], path: Path) -> Path:
    """Draw a row a method, a column a subject with its own prompt; photos in the first row."""
    first = shown[0][1]
    columns = _choose_columns(first)
    subjects = first.subjects[:N_GRID_COLUMNS]
    units = [
        next(
            column[subject.name]
            for column in columns[index % len(columns) :] + columns
            if subject.name in column
        )
        for index, subject in enumerate(subjects)
    ]
    rows: list[tuple[str, Sequence[Path], Sequence[Path]]] = [
        ("a photo", (), [subject.photos[0] for subject in subjects])
    ]
    rows += [(label, (), [entry.find_image(u) or Path() for u in units]) for label, entry in shown]
    return plot_grid(rows, [unit.clip_text for unit in units], path, n_references=0)


def write_grid(run: ImageSet, path: Path) -> Path:
    """Draw a row a subject, a column a prompt: its first image."""
    columns = _choose_columns(run)
    rows = []
    for subject in run.subjects:
        units = [column.get(subject.name) for column in columns]
        files = [(unit and run.find_image(unit)) or Path() for unit in units]
        rows.append((subject.name, subject.photos, files))
    titles = [
        "\n".join(dict.fromkeys(fill_slot(u.prompt, "[V]") for u in column.values()))
        for column in columns
    ]
    return plot_grid(rows, titles, path, n_references=N_GRID_REFERENCES)


def _choose_columns(run: ImageSet) -> list[dict[str, ImageUnit]]:
    """Return up to N_GRID_COLUMNS columns, subject -> image, from all categories in turn.

    A prompt that only one kind of subject gets shares its column with one that the other gets.
    """
    first = [u for u in run.plan.images if u.k == 0 and not is_class_image(u)]
    n_users = Counter(unit.prompt_id for unit in first)
    shared: dict[str, dict[str, ImageUnit]] = {}
    paired: dict[int, dict[str, ImageUnit]] = {}
    for subject in run.subjects:
        own = 0
        for unit in (unit for unit in first if unit.subject == subject.name):
            if n_users[unit.prompt_id] == len(run.subjects):
                shared.setdefault(unit.prompt_id, {})[subject.name] = unit
            else:
                paired.setdefault(own, {})[subject.name] = unit
                own += 1
    columns = [*shared.values(), *paired.values()]
    by_family: dict[tuple[str, ...], list[int]] = {}
    for index, column in enumerate(columns):
        families = tuple(sorted({unit.family for unit in column.values()}))
        by_family.setdefault(families, []).append(index)
    turns = [index for turn in zip_longest(*by_family.values()) for index in turn]
    chosen = [index for index in turns if index is not None][:N_GRID_COLUMNS]
    return [columns[index] for index in sorted(chosen)]
